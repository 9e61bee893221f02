"""Several statements in one text: what may not stand together, though each of them may stand alone."""

from __future__ import annotations

from guarddb.decision.case import Case
from guarddb.decision.refusal import Refusal
from guarddb.decision.settings import session_settings
from guarddb.facts.functions import builtin


def transaction_control(cases: tuple[Case, ...]) -> Refusal | None:
    """BEGIN, COMMIT and the like beside other statements: the driver could not keep step with the server.

    >>> import guarddb
    >>> guarddb.evaluate("BEGIN; SELECT 1", {}).rule
    'statement_not_allowed'
    """
    if len({case.statement.kind == "transaction" for case in cases}) < 2:
        return None
    return Refusal(
        "statement_not_allowed",
        "a text that mixes transaction control with other statements is refused",
        "Send BEGIN, COMMIT and the like by themselves.",
    )


def reads_what_it_changed(cases: tuple[Case, ...]) -> Refusal | None:
    """A definition followed by a statement that may read what it made: that one would be judged by a catalog of before."""
    restricts = cases[0].policy.restricts_data
    changed = False
    for case in cases:
        statement = case.statement
        reads = restricts and any(r.mode != "ddl" for r in statement.references)
        if changed and (reads or _calls_something_new(case)):
            return Refusal(
                "statement_not_allowed",
                "a text that changes the catalog and then reads is refused: the second part cannot be judged yet",
                "Send the statements one by one.",
            )
        changed = changed or not statement.kinds.isdisjoint(("ddl", "other")) or _sets_what_is_held(case)
    return None


def _sets_what_is_held(case: Case) -> bool:
    """A setting that a profile lets be changed although filters or hashes may follow it: it is set again before the next text."""
    return "protected_setting" in case.policy.floor_exceptions and any(True for _ in session_settings(case))


def _calls_something_new(case: Case) -> bool:
    """A function that neither PostgreSQL nor the catalog has: the text may have just made it."""
    if case.catalog is None or "function_not_allowed" in case.policy.floor_exceptions:
        return False
    return any(
        call.how == "call" and not builtin(call.name) and not case.catalog.functions_named(call.name)
        for call in case.statement.calls
    )
