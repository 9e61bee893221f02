"""The decision log: one record for each statement that was judged, whatever became of it.

A record holds no values: the text is normalised (every literal is `?`), parameters are told by their types, and what a
refusal or an error quotes of the text is left out. Whoever needs the text as it was asks the sink for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from pglast import parser

if TYPE_CHECKING:
    from guarddb.decision.plan import Decision
    from guarddb.risk.scoring import RiskResult

Outcome: TypeAlias = Literal["refused", "done", "failed"]

#: Tokens that are literals (pg_query.proto, Token). NULL, true and false are keywords and stay.
_LITERALS = frozenset(("SCONST", "USCONST", "ICONST", "FCONST", "BCONST", "XCONST"))
_COMMENTS = frozenset(("SQL_COMMENT", "C_COMMENT"))
#: Rules whose reason quotes what the agent wrote.
_QUOTES_THE_TEXT = frozenset(("parse_error", "internal_error"))
#: Rules whose hint may quote the text, or a row filter with the values of its settings.
_HINTS_WITH_VALUES = _QUOTES_THE_TEXT | {"row_filter_violation"}


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """What was decided about one statement, and what became of it.

    Attributes:
        decision: the decision; of a refusal by a budget, a person or the action policy the one that refuses.
        text: the statement as the agent wrote it. Sinks normalise it unless they were asked not to.
        outcome: `refused` (nothing was sent, or it was taken back), `done`, or `failed` (the server's error).
        time: when it was over, UTC.
        duration: seconds from its sending to its result; 0 for what was refused.
        agent, policy, policy_version, database: who, under what, where.
        parameter_types: PostgreSQL's names of the parameters' types; `unknown` where the server decides.
        rows: rows of the result, or rows that were written; None where there are none.
        size: bytes of the result as it came from the server; None where nobody counted them (streams).
        statement_id: its own; transaction_id: the same for all statements of one transaction of this connection.
        sqlstate: of a refusal or failure.
        risk: what the action policy made of it.
    """

    decision: Decision
    text: str
    outcome: Outcome
    time: datetime
    duration: float = 0.0
    agent: str | None = None
    policy: str | None = None
    policy_version: str | None = None
    database: str | None = None
    parameter_types: tuple[str, ...] = ()
    rows: int | None = None
    size: int | None = None
    statement_id: str = ""
    transaction_id: str = ""
    sqlstate: str | None = None
    risk: RiskResult | None = None

    @property
    def normalised(self) -> str | None:
        """The text without its literals and comments; None when it cannot be read."""
        return normalised(self.text)

    def to_dict(self, *, literals: bool = False) -> dict[str, Any]:
        """The record as JSON takes it.

        Args:
            literals: with the text as it was written, the text that was sent and every reason in full. They hold values.
        """
        decision = self.decision.to_dict() if literals else without_values(self.decision)
        record: dict[str, Any] = {
            "time": self.time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "statement_id": self.statement_id,
            "transaction_id": self.transaction_id,
            "agent": self.agent,
            "policy": self.policy,
            "policy_version": self.policy_version,
            "database": self.database,
            "outcome": self.outcome,
            "sqlstate": self.sqlstate,
            "decision": decision,
            "text": self.text if literals else self.normalised,
            "parameter_types": list(self.parameter_types),
            "rows": self.rows,
            "bytes": self.size,
            "duration": round(self.duration, 6),
        }
        if self.risk is not None:
            record["risk"] = {
                "score": self.risk.score,
                "risk_level": self.risk.risk_level,
                "verdict": self.risk.verdict,
                "score_components": [component.to_dict() for component in self.risk.score_components],
            }
        return record


def without_values(decision: Decision) -> dict[str, Any]:
    """The wire shape of a decision without what quotes values: of the text, of the filters' settings.

    >>> from guarddb import evaluate
    >>> mask = {"masking_rules": [{"table": "people", "column": "ssn", "kind": "redact"}]}
    >>> refused = evaluate("SELECT lower(ssn) FROM people WHERE name = 'Ada'", mask)
    >>> refused.hint.partition(" Try: ")[2]
    "SELECT ssn FROM people WHERE name = 'Ada'"
    >>> sorted(without_values(refused)), "Ada" in str(without_values(refused))
    (['deciding', 'hint', 'masked_columns', 'notes', 'reason', 'rule', 'verdict'], False)
    """
    wire = decision.to_dict()
    for key in ("rewritten_sql", "try_sql", "row_filter_predicate"):
        wire.pop(key, None)
    if decision.rule in _QUOTES_THE_TEXT:
        wire.pop("reason", None)
    if "hint" in wire:
        # The proposal at its end is a statement made of the agent's.
        wire["hint"] = decision.hint.partition("Try: ")[0].rstrip() if decision.hint else ""
        if not wire["hint"] or decision.rule in _HINTS_WITH_VALUES:
            del wire["hint"]
    return wire


@runtime_checkable
class DecisionSink(Protocol):
    """Takes records. A plain function of one argument is one as well; it is never asked whether it is ready."""

    def __call__(self, record: DecisionRecord, /) -> object: ...

    def ready(self) -> None:
        """Asked before a statement is sent.

        Raises:
            DecisionLogError: the last record could not be written, and the caller's choice is that nothing runs unlogged.
        """
        ...


class DecisionLogError(RuntimeError):
    """The decision log cannot be written, and so statements are refused."""


def normalised(text: str) -> str | None:
    """`text` with `?` for every literal, without comments; None when it cannot be read.

    >>> normalised("SELECT * FROM t WHERE a = 'secret' AND b = 7 -- note")
    'SELECT * FROM t WHERE a = ? AND b = ?'
    """
    try:
        tokens = parser.scan(text)
    except Exception:  # whatever the scanner says of a text that is none
        return None
    pieces, end = [], 0
    for token in tokens:
        if token.name in _LITERALS:
            pieces += [text[end : token.start], "?"]
        elif token.name in _COMMENTS:
            pieces += [text[end : token.start], " "]
        else:
            continue
        end = token.end + 1
    pieces.append(text[end:])
    return " ".join("".join(pieces).split())
