"""Several statements in one text: what may not stand together, though each of them may stand alone."""

from __future__ import annotations

from guarddb.decision.case import Case
from guarddb.decision.refusal import Refusal


def transaction_control(cases: tuple[Case, ...]) -> Refusal | None:
    """BEGIN, COMMIT and the like beside other statements: the driver could not keep step with the server."""
    if len({case.statement.kind == "transaction" for case in cases}) < 2:
        return None
    return Refusal(
        "statement_not_allowed",
        "a text that mixes transaction control with other statements is refused",
        "Send BEGIN, COMMIT and the like by themselves.",
    )


def reads_what_it_changed(cases: tuple[Case, ...]) -> Refusal | None:
    """A definition followed by a statement that may read what it made: that one would be judged by a catalog of before."""
    if not cases[0].policy.restricts_data:
        return None
    changed = False
    for case in cases:
        if changed and any(r.mode != "ddl" for r in case.statement.references):
            return Refusal(
                "statement_not_allowed",
                "a text that changes the catalog and then reads is refused: the second part cannot be judged yet",
                "Send the statements one by one.",
            )
        changed = changed or not case.statement.kinds.isdisjoint(("ddl", "other"))
    return None
