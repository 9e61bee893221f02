"""Around what may have to be taken back: a write whose rows are counted, a statement that a person is asked about, one that is
judged once more by what it did.

A savepoint or a transaction is put around it (`undo.py`), it runs, and by what came of it it is kept or undone. Everything in
between takes the steps of `steps.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg as _psycopg
from msgspec import structs
from psycopg import pq

from guarddb import telemetry
from guarddb.driver import steps, undo, waited
from guarddb.driver.faults import row_filter_violation
from guarddb.driver.holding import Hold, parameters_of, parameters_of_many, refusal
from guarddb.driver.row_limit import RowLimit, TooManyRows
from guarddb.driver.sampling import estimated_gen, sample_gen
from guarddb.errors import BudgetExceeded, PolicyViolation

if TYPE_CHECKING:
    from psycopg.abc import Params, PQGen

    from guarddb.driver.plans import JudgedText
    from guarddb.driver.session import Session
    from guarddb.driver.undo import Undo

IDLE = pq.TransactionStatus.IDLE
INTRANS = pq.TransactionStatus.INTRANS
OK = pq.ConnStatus.OK


def open_gen(cursor: Any, judged: JudgedText, *, first: bool) -> PQGen[Undo | None]:
    """Make it possible to take the statement back, where it may have to be."""
    conn = cursor._conn
    own = conn.pgconn.transaction_status == IDLE
    always = judged.affected_cap is not None or judged.waits or judged.rechecked
    if judged.ends or (not own and not (always or judged.checks_rows)):
        return None
    if own and not (always or judged.undone):
        return None
    opened: Undo | None = yield from undo.open_gen(conn._guard, conn, first=first)
    return opened


def carried_gen(
    cursor: Any, pgq: Any, run: Callable[[], PQGen[None]], *, sets: Sequence[Params] = ()
) -> PQGen[None]:
    """Carry out a statement that may have to be taken back. `run` sends it and waits for its results.

    `sets`: of executemany(), whose statements are each counted by `run`.
    """
    judged: JudgedText = pgq.judged
    gen = told_gen(cursor, judged, _carried_gen(cursor, pgq, run, sets=sets))
    if judged.waits and cursor._conn._guard.watched:
        gen = _in_one_span_gen(cursor._conn._guard, judged, gen, getattr(pgq, "types", None) or ())
    yield from gen


def _in_one_span_gen(
    session: Session, judged: JudgedText, gen: PQGen[None], types: Sequence[int]
) -> PQGen[None]:
    """A statement that waits for a person, however often it runs, is one span, the waiting in it."""
    session.held_span = session.span = span = telemetry.HeldSpan(session.begin_span(judged, types))
    error: BaseException | None = None
    try:
        yield from gen
    except BaseException as ex:
        error = ex
        raise
    finally:
        session.held_span = None
        span.over(error)


def told_gen(cursor: Any, judged: JudgedText, gen: PQGen[None]) -> PQGen[None]:
    """Whoever watches is told of what is refused on the way."""
    try:
        yield from gen
    except (PolicyViolation, BudgetExceeded) as ex:
        steps.decided(cursor, ex)
        cursor._conn._guard.tell_refusal(judged, ex)
        raise


def _carried_gen(
    cursor: Any, pgq: Any, run: Callable[[], PQGen[None]], *, sets: Sequence[Params] = ()
) -> PQGen[None]:
    conn = cursor._conn
    session: Session = conn._guard
    judged: JudgedText = pgq.judged
    if conn._pipeline is not None:
        yield from conn._pipeline._sync_gen()  # what was sent before has its answers
    if judged.ends:
        yield from undo.check_gen(session, conn)
    if not judged.waits:
        yield from _attempts_gen(cursor, pgq, run, None, sets)
        return
    hold = Hold(session, judged, parameters_of_many(sets) if sets else parameters_of(pgq, session.encoding))
    try:
        yield from _attempts_gen(cursor, pgq, run, hold, sets)
    except GeneratorExit:  # nobody drives this any more
        raise
    except BaseException:
        yield from hold.report_gen("failed")
        raise
    yield from hold.report_gen("executed")


def _attempts_gen(
    cursor: Any, pgq: Any, run: Callable[[], PQGen[None]], hold: Hold | None, sets: Sequence[Params]
) -> PQGen[None]:
    """Run it, as often as it has to be taken back to ask somebody."""
    conn = cursor._conn
    session: Session = conn._guard
    if hold is not None and not hold.judged.countable:
        estimated = yield from estimated_gen(session, conn, pgq)
        yield from hold.ask_gen(conn, None, estimated=estimated)
        yield from judge_again_gen(cursor, pgq, hold)
    counted = bool(sets)
    while True:
        judged = pgq.judged
        first = False
        rest = steps.before(cursor, pgq) if not counted else steps.again(cursor, pgq)
        counted = True
        if rest is not None:
            first = conn.pgconn.transaction_status == IDLE
            yield from rest
        opened = yield from open_gen(cursor, judged, first=first)
        session.limit = limit = RowLimit(judged.affected_cap)
        try:
            yield from run()
            if conn._pipeline is not None:
                yield from conn._pipeline._sync_gen()
            if session.waited is not None:
                yield from waited.asked_again_gen(session, conn, undone=opened is not None)
        except BaseException as ex:
            error = instead_of(cursor, judged, ex)
            yield from failed_gen(cursor, judged, opened, error)
            if error is ex:
                raise
            raise error from None
        finally:
            session.limit = None
        if hold is None or hold.allowed is None or limit.touched <= hold.allowed:
            break
        # Nobody has said yes to so many rows.
        cursor._reset()
        if opened is not None:
            yield from undo.back_gen(session, conn, opened)
        if session.held_span is not None:
            session.held_span.taken_back()
        sample = yield from sample_gen(session, conn, pgq, sets, lifted=hold.lifted)
        # (A trigger may have given the rows other keys, by which the sample does not find them.)
        touched = max(limit.touched, sample.counted or 0)
        yield from hold.ask_gen(conn, touched, sample)
        yield from judge_again_gen(cursor, pgq, hold)
    if opened is None:
        return
    try:
        yield from undo.keep_gen(session, conn, opened)
    except BaseException:
        cursor._reset()
        raise


def judge_again_gen(cursor: Any, pgq: Any, hold: Hold) -> PQGen[None]:
    """While a person was asked, time went by: the policy and catalog of now decide, and what was approved is what runs."""
    conn = cursor._conn
    session: Session = conn._guard
    while True:
        session.follow()
        yield from conn._guard_refresh_gen()
        pgq.judge()
        hold.judged = pgq.judged
        if hold.approved:
            return
        if hold.judged.countable:
            hold.allowed = -1  # it runs, is counted, taken back and asked about again
            return
        yield from hold.ask_gen(conn, None)


def failed_gen(cursor: Any, judged: JudgedText, opened: Undo | None, error: BaseException) -> PQGen[None]:
    """A statement has failed, or touched too much: take back what has to be."""
    conn = cursor._conn
    session: Session = conn._guard
    if conn.pgconn.status != OK:
        return
    if conn._pipeline is not None:
        yield from undo.empty_gen(conn._pipeline)
    if opened is None:
        return
    ours = isinstance(error, PolicyViolation)
    if isinstance(error, PolicyViolation):
        cursor._reset()
        if error.decision is not None:
            plan = structs.replace(judged.plan, decision=error.decision)
            cursor._guard_results().judged = replace(judged, plan=plan)
    # An error of the server's leaves the agent's transaction failed, as it does without guarddb. Where it has not failed, the
    # program itself broke off (a parameter that cannot be sent, a task that was cancelled): the server may have done all of
    # it, and nobody has counted it or said yes to it.
    if ours or opened is undo.OWN or conn.pgconn.transaction_status == INTRANS:
        yield from undo.back_gen(session, conn, opened)


def instead_of(cursor: Any, judged: JudgedText, error: BaseException) -> BaseException:
    """The error that the agent gets."""
    session: Session = cursor._conn._guard
    if isinstance(error, TooManyRows):
        reason = (
            f"the statement touched {error.rows} rows, and this policy lets one write touch "
            f"{judged.affected_cap}; it was undone"
        )
        hint = "narrow its condition down, or do it in parts"
        return refusal(session, PolicyViolation, "max_affected_rows", reason, hint)
    if isinstance(error, _psycopg.Error) and not isinstance(error, PolicyViolation):
        return row_filter_violation(session, error) or error
    return error
