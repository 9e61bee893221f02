"""What a statement does to others: the locks it takes and the work it does under them.

A rule of the lint says, in these words, what PostgreSQL does; what that is worth is judged in one place (`judging.py`), so
that the same
lock with the same work gets the same severity in every family. The tests read both from a running server and compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Literal, TypeAlias

from guarddb.lint.finding import Severity
from guarddb.lint.text import shown_name
from guarddb.sql.catalog import Relation


class Lock(IntEnum):
    """PostgreSQL's lock modes of tables, weakest first (PostgreSQL docs, Explicit Locking)."""

    ACCESS_SHARE = 1
    ROW_SHARE = 2
    ROW_EXCLUSIVE = 3
    SHARE_UPDATE_EXCLUSIVE = 4
    SHARE = 5
    SHARE_ROW_EXCLUSIVE = 6
    EXCLUSIVE = 7
    ACCESS_EXCLUSIVE = 8

    @property
    def sql(self) -> str:
        """As LOCK TABLE spells it.

        >>> Lock.SHARE_ROW_EXCLUSIVE.sql
        'SHARE ROW EXCLUSIVE'
        """
        return self.name.replace("_", " ")

    @property
    def blocks_writes(self) -> bool:
        return self >= Lock.SHARE

    @property
    def blocks_reads(self) -> bool:
        return self is Lock.ACCESS_EXCLUSIVE

    @property
    def blocked(self) -> str:
        """Who waits: `reads and writes`, `writes`, or nobody."""
        return "reads and writes" if self.blocks_reads else "writes" if self.blocks_writes else "nobody"


class Work(Enum):
    """Work that grows with the table; the value says what PostgreSQL does meanwhile."""

    REWRITE = "PostgreSQL rewrites the whole table and its indexes"
    SCAN = "PostgreSQL reads the whole table"
    INDEX = "PostgreSQL builds the index"
    FOREIGN_KEY = "PostgreSQL looks up every row's key"


@dataclass(frozen=True, slots=True)
class Target:
    """A relation that a statement names: the schema is `public` when neither the name nor the catalog says otherwise."""

    schema: str
    name: str
    relation: Relation | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.schema, self.name

    @property
    def sql(self) -> str:
        """As SQL names it, quoted where it has to be."""
        return shown_name(self.schema, self.name)


@dataclass(frozen=True, slots=True)
class Act:
    """A lock that a statement takes, and the work it does on the relation while it holds it.

    Attributes:
        rule: the tag of the finding if this is one; empty where another finding of the statement says it already.
        why: what takes the lock, as the subject of the sentence: `adding a column with a volatile default`.
        safe: the safe form as SQL, or None where there is none.
        certain: False where only a catalog could tell whether there is work at all.
        implied: taken because of another act of the statement (a child of the table, the other table of a foreign key): it is
        not reported
            by itself unless it is the one with work.
        momentary: in a transaction of its own that ends before the work (CONCURRENTLY): it does not count for what is held.
    """

    target: Target
    lock: Lock
    work: Work | None = None
    rule: str = "strong_lock"
    why: str = ""
    safe: str | None = None
    certain: bool = True
    implied: bool = False
    momentary: bool = False


@dataclass(frozen=True, slots=True)
class Remark:
    """A finding that is not about a lock with work under it. `target`, when given, excuses it if the script made the relation
    itself.

    Attributes:
        loses: data is destroyed; an empty table excuses that.
        fixes: `hint` does the same as the statement, so that `lint --fix` may put it in its place.
    """

    severity: Severity
    rule: str
    message: str
    hint: str | None = None
    target: Target | None = None
    loses: bool = False
    fixes: bool = False


#: What a rule says of a statement.
Said: TypeAlias = Act | Remark

TransactionVerb: TypeAlias = Literal["begin", "commit", "rollback", "savepoint", "release", "rollback_to"]
