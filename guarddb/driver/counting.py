"""The budgets: what a statement and its rows are counted against, and what there is to say when a store has nothing left.

A store may be far away. What waits for it is a generator, or is called in a thread; rows are counted by what the store had left
when it was asked last.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import structs

from guarddb.decision.plan import Decision
from guarddb.driver import operator_log
from guarddb.driver.notices import notify
from guarddb.driver.waits import ask_in_a_thread_gen
from guarddb.errors import BudgetExceeded, PolicyUnavailable, refusal_message
from guarddb.runtime.budgets import FIELDS, RULES, Overrun

if TYPE_CHECKING:
    from psycopg.abc import PQGen

    from guarddb.driver.plans import JudgedText
    from guarddb.driver.session import Session
    from guarddb.driver.views import Results


def count(session: Session, judged: JudgedText) -> bool:
    """Count each statement of a text against the query budgets; false when it passes without.

    Raises:
        BudgetExceeded: it would be one too many.
        PolicyUnavailable: the store does not answer.
    """
    if judged.empty:
        return True
    assert session.in_force is not None
    try:
        session.in_force.budget.charge_query(len(judged.plan.statements) or 1)
    except Exception as ex:
        error = _no_budget(session, ex)
        uncounted = error is None and not session.observe
    else:
        return True
    if error is not None:
        session.tell_refusal(judged, error, session.begin_span(judged))
        raise error
    return not uncounted


def uncounted(cursor: Any, judged: JudgedText) -> None:
    """A statement passes that nobody has counted: said with its decision, and to whoever listens to notices."""
    note = "not counted: the budget store does not answer"
    results = cursor._guard_results()
    decision = results.decision or judged.plan.decision
    results.decision = structs.replace(decision, notes=(*decision.notes, note))
    notify(cursor._conn, note, "statements pass, because the policy says without_budget_store: pass")


def count_bytes(session: Session, results: Results | None, amount: int) -> None:
    """Count bytes of a cursor's results that are about to be handed out. Raises as `count` does."""
    policy = session.in_force
    assert policy is not None
    if policy.counted_elsewhere:
        # Rows are loaded without waiting. What the store had left when it was asked last holds, and it is asked again before much
        # is handed out (`settling.py`) and with the next statement.
        left = session.allowance
        if left is None or session.owed + amount <= left:
            session.owed += amount
            return
    try:
        if policy.counted_elsewhere:
            session.ran_short = True
            raise policy.budget.no_egress_left()
        policy.budget.charge_bytes(amount)
    except Exception as ex:
        error = _no_budget(session, ex)
    else:
        return
    _stop(session, results, error)


def has_room_for(session: Session, amount: int) -> bool:
    """Count bytes of data that reach the application beside rows, in a message of the server's; false where they have no room."""
    policy = session.in_force
    if policy is None or not policy.egress:
        return True
    try:
        count_bytes(session, None, amount)
    except (BudgetExceeded, PolicyUnavailable):
        return False
    return True


def settle_gen(session: Session) -> PQGen[None]:
    """Tell the store what was handed out since it was asked last."""
    policy = session.in_force
    if (
        policy is not None
        and policy.egress
        and (session.owed or session.allowance is None or session.ran_short)
    ):
        owed, session.owed = session.owed, 0
        try:
            session.allowance = yield from ask_in_a_thread_gen(partial(policy.budget.settle, owed))
            session.ran_short = False
        except Exception as ex:
            session.owed += owed
            error = _no_budget(session, ex)
            if error is not None:
                raise error from None


def settle(session: Session, results: Results | None, owed_before: int) -> None:
    """Ask the store whether what is about to be handed out fits; `owed_before`: what was handed out already. It may wait.

    Raises:
        BudgetExceeded: it does not; then it is not counted.
        PolicyUnavailable: the store does not answer.
    """
    policy = session.in_force
    assert policy is not None
    owed, session.owed = session.owed, 0
    try:
        policy.budget.charge_bytes(owed)
        session.allowance = None if session.allowance is None else max(0, session.allowance - owed)
    except Exception as ex:
        session.owed += owed_before
        session.allowance, session.ran_short = session.owed, True
        error = _no_budget(session, ex)
    else:
        return
    _stop(session, results, error)


def _stop(
    session: Session, results: Results | None, error: BudgetExceeded | PolicyUnavailable | None
) -> None:
    """Where there is an error, no more of a result is handed out: that is the decision about its statement, and it is raised."""
    if error is None:
        return
    if results is not None:
        results.decision = error.decision
        if results.judged is not None:
            session.tell_refusal(results.judged, error)
    raise error


def _no_budget(session: Session, why: Exception) -> BudgetExceeded | PolicyUnavailable | None:
    if not isinstance(why, Overrun):
        store = session.in_force.budget.store if session.in_force is not None else None
        operator_log.once_a_minute("the budget store does not answer", why, store)
    if session.observe:
        return None
    name = session.policy_name
    profile = session.profile
    if (
        not isinstance(why, Overrun)
        and profile is not None
        and profile.guarddb.without_budget_store == "pass"
    ):
        return None
    if isinstance(why, Overrun):
        rule = RULES[why.counter]
        error = BudgetExceeded(refusal_message(name, why.reason), rule=rule, resets_at=why.resets_at)
        error.decision = session.under_its_policy(
            Decision("block", rule, why.reason, error.hint, deciding=FIELDS[why.counter])
        )
        return error
    reason = f"the budget store does not answer ({type(why).__name__})"
    unavailable = session.deny("policy_unavailable", reason, "try again later")
    assert isinstance(unavailable, PolicyUnavailable)
    return unavailable
