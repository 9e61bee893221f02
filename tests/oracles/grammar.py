"""What a generated statement is made of, and the state that its parts share while it is made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tests.oracles.draws import Draws
from tests.oracles.schema import Table

_HOLE = re.compile("\x01(\\d+)\x02")
STRENGTH = ("", "hash", "redact", "null")


@dataclass(slots=True)
class Col:
    """A column in scope or of a result. `mask`: what the agent sees of it; `trap`: how a hidden value of it raises."""

    name: str
    type: str
    trap: str = ""
    mask: str = ""


@dataclass(slots=True)
class Item:
    """A FROM item: what `alias.column` can name. `table` is set when it is a relation with system columns."""

    alias: str
    cols: list[Col]
    key: tuple[str, ...] = ()
    table: Table | None = None
    whole: bool = True


@dataclass(slots=True)
class Scope:
    items: list[Item]
    parent: Scope | None = None

    def levels(self) -> list[Scope]:
        found: list[Scope] = []
        scope: Scope | None = self
        while scope is not None:
            found.append(scope)
            scope = scope.parent
        return found


@dataclass(slots=True)
class Cte:
    name: str
    cols: list[Col]


@dataclass(slots=True)
class Query:
    """A query's text and its columns. `ordered`: its rows come in a total order."""

    sql: str
    cols: list[Col]
    ordered: bool = False


@dataclass(slots=True)
class Generated:
    """One statement.

    Attributes:
        sql: what the agent sends; `expected_sql`: what the copy with overwritten columns is asked instead.
        params: the values of $1, $2 …, as text.
        cols: its result's columns, with the mask that each must show; None when it returns no rows.
        ordered: whether the rows come in a total order.
        writes: whether it changes anything.
        misuses: what it does with masked columns besides selecting them; a refusal is right only when there is some.
        features: the parts of the grammar that were used.
        dirty: it holds expressions that raise on visible rows as well.
    """

    sql: str
    expected_sql: str
    params: list[str | None]
    cols: list[Col] | None
    ordered: bool
    writes: bool
    misuses: list[str]
    features: list[str]
    dirty: bool
    made: list[int]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a generator makes: how often writes, and how often a masked column is misused (percent)."""

    tables: dict[str, Table]
    writes: float = 30
    misuse: float = 0
    dirty: float = 6


class Parts:
    """The state of one statement in the making."""

    def __init__(self, draws: Draws, grammar: Grammar) -> None:
        self.d = draws
        self.g = grammar
        self.tables = grammar.tables
        self.readable = list(grammar.tables.values())
        self.params: list[str | None] = []
        self.misuses: list[str] = []
        self.features: list[str] = []
        self.holes: list[tuple[str, str]] = []
        self.aliases = 0
        self.ctes: list[Cte] = []
        self.modified: set[str] = set()
        self.dirty = False
        self.writes = False
        self.masks = any(c.mask for t in self.readable for c in t.columns)
        self.subqueries = 0
        self.relations = 0

    # What the parts of the grammar ask of each other; each is made in one of the classes below.

    def query(
        self, parent: Scope | None, types: Sequence[str] | None, use: str, *, small: bool = False
    ) -> Query:
        raise NotImplementedError

    def from_clause(self, scope: Scope, *, small: bool = False) -> str:
        raise NotImplementedError

    def bool_(self, here: Scope, depth: int) -> str:
        raise NotImplementedError

    def modifying_cte(self) -> tuple[str, list[Col]] | None:
        raise NotImplementedError

    # ------------------------------------------------------------------ small things

    def used(self, feature: str) -> None:
        self.features.append(feature)

    def alias(self) -> str:
        self.aliases += 1
        return f"a{self.aliases}"

    def misuse(self, what: str) -> bool:
        """Whether to use a masked column where it may only be refused; written down when so."""
        if self.masks and self.d.chance(self.g.misuse):
            self.misuses.append(what)
            return True
        return False

    def two(self, sent: str, expected: str) -> str:
        """A text that differs between what is sent and what the copy is asked."""
        self.holes.append((sent, expected))
        return f"\x01{len(self.holes) - 1}\x02"

    def resolve(self, text: str, side: int) -> str:
        while "\x01" in text:
            text = _HOLE.sub(lambda m: self.holes[int(m[1])][side], text)
        return text

    def ref(self, scope: Scope, item: Item, col: Col) -> str:
        """A column by its name; without the alias now and then, where that means the same."""
        if scope.parent is None and self.d.chance(25):
            if sum(c.name == col.name for i in scope.items for c in i.cols) == 1:
                return col.name
        return f"{item.alias}.{col.name}"


def weights(text: str) -> tuple[tuple[int, str], ...]:
    """`plain 40, trap 10`: how often each form is drawn, the simplest first."""
    return tuple(
        (int(weight), form) for form, _, weight in (each.strip().rpartition(" ") for each in text.split(","))
    )


def strictest(masks: Sequence[str]) -> str:
    """The strictest of several masks; `null!` is NULL because it is no bare column."""
    if "null!" in masks:
        return "null!"
    return max(masks, key=STRENGTH.index)


def mask_sql(column: str, kind: str, type: str) -> str:
    """The mask of a value, as SQL over a value that is not masked."""
    if kind.startswith("null"):
        return f"NULL::{type}"
    if kind == "redact":
        return f"CASE WHEN {column} IS NOT NULL THEN '[redacted]' END" if type == "text" else f"NULL::{type}"
    return f"encode(sha256(convert_to(({column})::text, 'UTF8')), 'hex')"


def qualified(column: str | None, items: Sequence[Item]) -> str | None:
    """A column reference with its alias."""
    if column is None or "." in column or column[0] in "'$0123456789(":
        return column
    for item in items:
        if any(c.name == column for c in item.cols):
            return f"{item.alias}.{column}"
    return column


def qualify_bare(target: str, item: Item) -> str:
    return re.sub(
        r"^(\w+) AS ",
        lambda m: f"{item.alias}.{m[1]} AS " if any(c.name == m[1] for c in item.cols) else m[0],
        target,
    )
