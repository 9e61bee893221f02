"""What the engine answers: `Decision`, the wire shape, and `Plan`, the same answer with what the driver needs to act on it.

What is made for every statement is a msgspec Struct: a frozen dataclass sets its fields one by one, which for these six takes as
long as parsing a short statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from guarddb.vocabulary import Kind, MaskKind, Rule, Verdict


class MaskedColumn(Struct, frozen=True, cache_hash=True):
    """One masked column of a decision: its name and the kind of its mask."""

    column: str
    kind: MaskKind


class Decision(Struct, frozen=True):
    """What would happen to a statement, and why.

    `to_dict()` is the wire shape (PgBeam's `DryEvalResult`). `hint` is set only on a block and says how to rewrite the
    statement so that it passes, `try_sql` is a statement for the same purpose that the engine has found to pass;
    `rewritten_sql` is the text that would be sent; `deciding` is the entry of the profile that decided (`masking_rules[2]`,
    `table_denylist[0]`, `floor`); `notes` say what one statement cannot decide (budgets, a decision made without a catalog).

    `needs_catalog`: it was decided without a catalog, and the database may hold what would make a connection refuse or mask
    more: views, partitions, functions that go by a built-in's name. Such an answer is no permit.

    `policy_name`, `policy_version` and `policy_id` (of a stored profile) say which policy it stands on; they are not on the wire.
    """

    verdict: Verdict
    rule: Rule = "ok"
    reason: str = ""
    hint: str | None = None
    masked_columns: tuple[MaskedColumn, ...] = ()
    row_filter_predicate: str | None = None
    rewritten_sql: str | None = None
    notes: tuple[str, ...] = ()
    policy_name: str | None = None
    policy_version: str | None = None
    deciding: str | None = None
    try_sql: str | None = None
    needs_catalog: bool = False
    policy_id: str | None = None

    @property
    def blocked(self) -> bool:
        """Whether the statement is refused."""
        return self.verdict == "block"

    def to_dict(self) -> dict[str, Any]:
        """The wire shape: the lists are always there, a text that there is none of is left out."""
        wire: dict[str, Any] = {"verdict": self.verdict, "rule": self.rule, "reason": self.reason}
        if self.hint is not None:
            wire["hint"] = self.hint
        wire["masked_columns"] = [{"column": m.column, "kind": m.kind} for m in self.masked_columns]
        for key in ("row_filter_predicate", "rewritten_sql", "deciding", "try_sql"):
            if (value := getattr(self, key)) is not None:
                wire[key] = value
        if self.needs_catalog:
            wire["needs_catalog"] = True
        wire["notes"] = list(self.notes)
        return wire


#: What a transaction statement does to the session's transaction.
TransactionVerb: TypeAlias = Literal[
    "begin", "commit", "rollback", "savepoint", "release", "rollback_to", "set"
]
#: What a statement does with a portal (SQL cursor) or a prepared statement of a given name.
SessionVerb: TypeAlias = Literal["declare", "fetch", "move", "close", "prepare", "execute", "deallocate"]


class Facts(Struct, frozen=True, kw_only=True):
    """What one statement is.

    Attributes:
        kind: the headline kind; `kinds` are all kinds the statement does, through every wrapper.
        operation: the SQL command as telemetry names it (`SELECT`, `INSERT`, `CREATE TABLE` …).
        relations: every relation the statement touches, schema-qualified, as PostgreSQL would resolve them.
        returns_rows: it has a result of rows, or its portal or prepared statement will.
        transaction: what it does to the transaction, for kind `transaction`.
        session_verb, session_name: use of a portal or prepared statement and its name (None with deallocate/close = ALL).
        holds: it declares a cursor WITH HOLD, which outlives its transaction.
        chains: it ends a transaction AND CHAIN, so that another one begins.
    """

    kind: Kind
    kinds: frozenset[Kind]
    operation: str
    relations: tuple[str, ...]
    returns_rows: bool
    transaction: TransactionVerb | None
    session_verb: SessionVerb | None
    session_name: str | None
    holds: bool
    chains: bool


class Handling(Struct, frozen=True, kw_only=True):
    """How one statement is carried out and its result shown. EXECUTE and FETCH take over the handling of what they run, whole.

    Nothing here has a default: whoever builds one says each field, so that a new field is never left open by somebody who does
    not know it.

    Attributes:
        row_cap: rows to hand out at the most (`max_rows`), or None. Where it can, the text already asks for one more.
        hidden_returning: a RETURNING clause was added to check what was written; the agent's own statement returns no
            rows, so the driver shows the result as a plain command result.
        keyed_hashes: indexes of the outputs that arrive as text and are HMAC-hashed in the process.
        output_kinds: output index -> mask kind, for every output of a row-returning statement that carries a mask.
        sensitive: touches a masked or filtered relation, so row data is cut out of the server's errors.
        changes_catalog: may change relations, types or functions: the catalog is read again afterwards.
        changes_settings: a function or trigger may change settings of the session: those that guarddb holds are set again.
        checks_rows: an error of guarddb's own tells that a written row is outside the row filter; the transaction then goes on.
        affected_cap: rows that it may touch (`max_affected_rows`), counted when it has run; None where there is nothing to count.
        waits: it waits for a person (`approval_mode`); countable: the command tag tells how many rows it touched.
        masked, predicates: what the decision says of it.
    """

    row_cap: int | None
    hidden_returning: bool
    keyed_hashes: tuple[int, ...]
    output_kinds: Mapping[int, MaskKind]
    sensitive: bool
    changes_catalog: bool
    changes_settings: bool
    checks_rows: bool
    affected_cap: int | None
    waits: bool
    countable: bool
    masked: tuple[MaskedColumn, ...]
    predicates: tuple[str, ...]


class StatementPlan(Struct, frozen=True):
    """One statement of a text that was not refused: what it is, and how the driver carries it out."""

    facts: Facts
    handling: Handling


class Plan(Struct, frozen=True):
    """A decision and how to carry it out. `sql` is the text to send; it is empty when the statement is refused."""

    decision: Decision
    sql: str = ""
    statements: tuple[StatementPlan, ...] = ()
    #: the answer depends on the session's own prepared statements or portals: not to be cached by text alone
    uses_session: bool = False
    #: what the connection's notice handlers are told before it runs, and the span in one word: (tag, sentence)
    warnings: tuple[tuple[str, str], ...] = ()
    #: where `sql` differs from the agent's text: start and end there, and the length of what stands in its place, in characters
    edits: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class SessionNames:
    """What the session has under a name: prepared statements and portals, each with the plan it was opened with."""

    prepared: Mapping[str, StatementPlan] = field(default_factory=lambda: MappingProxyType({}))
    portals: Mapping[str, StatementPlan] = field(default_factory=lambda: MappingProxyType({}))


NO_NAMES = SessionNames()
