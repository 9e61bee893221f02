"""The way of every statement, written once. Whatever door of psycopg's it comes in by, it takes these steps in this order.

    judge      the policy's answer about the text      `query.py`: at the end of every conversion
    ---------  `before`: nothing has been sent yet
    score      by the action policy
    count      against the query budgets
    begin      the transaction that psycopg would have begun before it looked at the statement
    ---------  `carried_gen`: only around what may have to be taken back
    hold       a person is asked, see `holding.py`
    savepoint  or a transaction, see `undo.py`
    ---------  `approve`: the tripwire
    send       psycopg's own
    ---------  `after`, or its likes for stream() and named cursors
    caps       how many rows it has touched
    effects    what the statement changed in the session: names, portals
    inspect    the result is shown as the plan wants it
    span       ends

A statement whose rows can be counted is held after it has run and been taken back: so its true count can be shown, and few rows
need nobody. What is asked about is counted against the budgets once, however often it runs.

A step that decides about a statement goes between judge and count, one that surrounds its sending after begin, one that judges
what it has done before effects. Nothing else charges a budget, approves a statement for sending or a result for showing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import psycopg as _psycopg
from psycopg import pq
from psycopg._queries import PostgresClientQuery

from guarddb import telemetry
from guarddb.driver import operator_log, shown, undo
from guarddb.driver.faults import row_filter_violation
from guarddb.driver.holding import Hold, parameters_of, parameters_of_many, refusal
from guarddb.driver.messages import notify
from guarddb.driver.scanning import Scanner
from guarddb.driver.views import Results
from guarddb.driver.waits import Question, ask_somebody_gen
from guarddb.driver.withholding import scans
from guarddb.errors import BudgetExceeded, PolicyUnavailable, PolicyViolation, refusal_message
from guarddb.runtime.budgets import RULES, Overrun

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg.abc import Params, PQGen, Query
    from psycopg.pq.abc import PGresult

    from guarddb.decision.plan import Decision, StatementPlan
    from guarddb.driver.names import Remembered
    from guarddb.driver.plans import JudgedText
    from guarddb.driver.session import Session
    from guarddb.driver.undo import Undo

logger = logging.getLogger("guarddb")

NO_SPAN = telemetry.NO_SPAN
IDLE = pq.TransactionStatus.IDLE
INERROR = pq.TransactionStatus.INERROR
OK = pq.ConnStatus.OK

_NEVER_JUDGED = "a statement reached the connection that was never judged"


# ---------------------------------------------------------------- before: judged, and nothing sent


def before(cursor: Any, pgq: Any) -> PQGen[None] | None:
    """Everything between judging and sending; what of it has to be waited for, if anything.

    A plain function, for it is on the path of every statement.
    """
    conn = cursor._conn
    session: Session = conn._guard
    judged: JudgedText | None = getattr(pgq, "judged", None)
    if judged is None or session.in_force is None:
        raise session.deny("internal_error", _NEVER_JUDGED)
    if session.recorder is not None:
        session.recorder.check()
    if session.scoring is not None and not judged.empty and session.in_many != "again":
        session.scoring.follow(session)
        if (asking := session.scoring.estimate(session, conn, judged, pgq)) is not None:
            return _estimated_gen(cursor, pgq, judged, asking)
        session.scoring.score(session, conn, judged, cursor._guard_results())
    return _scored(cursor, pgq, judged)


def _scored(cursor: Any, pgq: Any, judged: JudgedText) -> PQGen[None] | None:
    """What comes before sending, once a statement has been judged and scored."""
    conn = cursor._conn
    session: Session = conn._guard
    assert session.in_force is not None
    if session.in_many != "again":
        if session.in_force.counted_elsewhere and (session.in_force.counts or session.in_force.egress):
            return _counted_elsewhere_gen(cursor, pgq, judged)
        if session.in_force.counts:
            count(session, judged)
    return _counted(cursor, pgq, judged)


def _counted_elsewhere_gen(cursor: Any, pgq: Any, judged: JudgedText) -> PQGen[None]:
    """The same, with the budget store asked in a thread, so that the event loop goes on."""
    session: Session = cursor._conn._guard
    policy = session.in_force
    assert policy is not None
    if policy.counts:
        yield from in_a_thread_gen(partial(count, session, judged))
    if policy.egress:
        yield from settle_gen(session)
    if (rest := _counted(cursor, pgq, judged)) is not None:
        yield from rest


def settle_gen(session: Session) -> PQGen[None]:
    """Tell the store what was handed out since it was asked last."""
    policy = session.in_force
    if policy is not None and policy.egress and (session.owed or session.allowance is None):
        owed, session.owed = session.owed, 0
        try:
            session.allowance = yield from in_a_thread_gen(partial(policy.budget.settle, owed))
        except Exception as ex:
            error = _no_budget(session, ex, None)
            if error is not None:
                raise error from None


def in_a_thread_gen(call: Callable[[], Any]) -> PQGen[Any]:
    answer = yield from ask_somebody_gen(Question(call, partial(asyncio.to_thread, call)))
    return answer


def _counted(cursor: Any, pgq: Any, judged: JudgedText) -> PQGen[None] | None:
    conn = cursor._conn
    session: Session = conn._guard
    if judged.plan.warnings:
        for _, warning in judged.plan.warnings:
            notify(conn, warning, "guarddb lint shows the safe form")
    pgq.passed = True
    if session.savepoint_open and judged.effects and any(map(_makes_savepoints, judged.plan.statements)):
        release: PQGen[None] = undo.settled_gen(session, conn)
        return release
    if conn._autocommit or conn.pgconn.transaction_status != IDLE:
        return None
    begin: PQGen[None] = cursor._guard_begin_gen()
    return begin


def _estimated_gen(cursor: Any, pgq: Any, judged: JudgedText, asking: PQGen[None]) -> PQGen[None]:
    """The same, when the planner has to be asked for the number of rows before."""
    session: Session = cursor._conn._guard
    assert session.scoring is not None
    yield from asking
    session.scoring.score(session, cursor._conn, judged, cursor._guard_results())
    if (rest := _scored(cursor, pgq, judged)) is not None:
        yield from rest


def _makes_savepoints(statement: StatementPlan) -> bool:
    return statement.facts.transaction in ("savepoint", "release", "rollback_to")


def ahead_gen(cursor: Any, query: Query, params: Params | None = None) -> PQGen[None]:
    """Judge and `before`, for the generators of psycopg's that convert a statement and send it in one go.

    The converted statement is left in the cursor's results, where psycopg's generator then finds it.
    """
    yield from cursor._start_query(query)
    pgq = cursor._convert_query(query, params)
    yield from _told_gen(cursor, pgq.judged, _ready_gen(cursor, pgq))


def _ready_gen(cursor: Any, pgq: Any, *, copies: bool = False) -> PQGen[None]:
    conn = cursor._conn
    session: Session = conn._guard
    judged: JudgedText = pgq.judged
    session.copy_ends = session.copy_ends and copies
    if judged.surrounded and not judged.only_rechecked and copies and not session.copy_ends:
        raise session.deny(
            "statement_not_allowed",
            "this COPY may have to be taken back, and a cursor that was made by psycopg's own class cannot do that",
            "use a cursor of the connection's own cursor()",
        )
    if judged.waits:
        raise refusal(
            session,
            PolicyViolation,
            "approval_unavailable",
            "this statement waits for a person, and stream() and COPY cannot wait",
            "send it with execute()",
        )
    first = False
    if (rest := before(cursor, pgq)) is not None:
        first = conn.pgconn.transaction_status == IDLE
        yield from rest
    results = cursor._guard_results()
    if judged.surrounded and not judged.only_rechecked:
        results.undo = yield from _open_gen(cursor, judged, first=first)
    results.ahead = pgq


def copy_ahead_gen(cursor: Any, statement: Query, params: Params | None) -> PQGen[None]:
    """The same for COPY, whose parameters psycopg merges on the client's side."""
    yield from cursor._start_query()
    if params or not isinstance(statement, str | bytes | _psycopg.sql.Composable):
        merged = PostgresClientQuery(cursor._tx)
        merged.convert(statement, params)
        statement = merged.query
    pgq = cursor._convert_query(statement)
    yield from _told_gen(cursor, pgq.judged, _ready_gen(cursor, pgq, copies=True))


def count(session: Session, judged: JudgedText) -> None:
    """Count a statement against the query budgets.

    Raises:
        BudgetExceeded: it would be one too many.
        PolicyUnavailable: the store does not answer.
    """
    if judged.empty:
        return
    assert session.in_force is not None
    try:
        session.in_force.budget.charge_query()
    except Exception as ex:
        error = _no_budget(session, ex, judged.plan.decision)
    else:
        return
    if error is not None:
        session.begin_span(judged).end(error=error)
        error._guard_told = True  # type: ignore[union-attr]
        raise error


def count_bytes(session: Session, amount: int) -> None:
    """Count bytes that are about to be handed out. Raises as `count` does."""
    policy = session.in_force
    assert policy is not None
    if policy.counted_elsewhere:
        # Rows are handed out without waiting, so the store is told with the next statement, and what it had left then holds.
        session.owed += amount
        left = session.allowance
        if left is None or session.owed <= left:
            return
    try:
        policy.budget.charge_bytes(amount if not policy.counted_elsewhere else session.owed)
    except Exception as ex:
        error = _no_budget(session, ex, None)
    else:
        return
    if error is not None:
        raise error


def _no_budget(
    session: Session, why: Exception, decision: Decision | None
) -> BudgetExceeded | PolicyUnavailable | None:
    if not isinstance(why, Overrun):
        store = session.in_force.budget.store if session.in_force is not None else None
        operator_log.once_a_minute("the budget store does not answer", why, store)
    if session.observe:
        return None
    name = session.policy_name
    if isinstance(why, Overrun):
        message = refusal_message(name, why.reason)
        return BudgetExceeded(message, decision, rule=RULES[why.counter], resets_at=why.resets_at)
    return PolicyUnavailable(
        refusal_message(name, f"the budget store does not answer ({type(why).__name__})")
    )


# ---------------------------------------------------------------- around what may have to be taken back


@dataclass(slots=True)
class RowLimit:
    """How many rows may be touched: `cap` by each statement, and how many have been by all that this is about."""

    cap: int | None
    touched: int = 0

    def add(self, answers: Iterable[PGresult]) -> None:
        """Count what the server says was touched.

        Raises:
            TooManyRows: by one statement.
        """
        for answer in answers:
            if (answer.command_status or b"").partition(b" ")[0] in _COUNTED:
                self.add_rows(answer.command_tuples or 0)

    def add_rows(self, rows: int) -> None:
        self.touched += rows
        if self.cap is not None and rows > self.cap:
            raise TooManyRows(rows)


class TooManyRows(_psycopg.Error):
    """One statement has touched so many rows, and is to be taken back."""

    def __init__(self, rows: int) -> None:
        super().__init__(f"{rows} rows")
        self.rows = rows


_COPYING = frozenset(map(int, (pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_BOTH)))
#: Command tags that count rows which were written. (COPY's is asked about where it ends.)
_COUNTED = (b"INSERT", b"UPDATE", b"DELETE", b"MERGE")


def _open_gen(cursor: Any, judged: JudgedText, *, first: bool) -> PQGen[Undo | None]:
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
    yield from _told_gen(cursor, pgq.judged, _carried_gen(cursor, pgq, run, sets=sets))


def _told_gen(cursor: Any, judged: JudgedText, gen: PQGen[None]) -> PQGen[None]:
    """Whoever watches is told of what is refused on the way."""
    try:
        yield from gen
    except PolicyViolation as ex:
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
    hold = None
    if judged.waits:
        shown = parameters_of_many(sets) if sets else parameters_of(pgq, session.encoding)
        hold = Hold(session, judged, shown)
        if not judged.countable:
            yield from hold.ask_gen(conn, None)
            yield from _judge_again_gen(cursor, pgq, hold)
    counted = bool(sets)
    while True:
        judged = pgq.judged
        first = False
        rest = before(cursor, pgq) if not counted else _again(cursor, pgq)
        counted = True
        if rest is not None:
            first = conn.pgconn.transaction_status == IDLE
            yield from rest
        opened = yield from _open_gen(cursor, judged, first=first)
        session.limit = limit = RowLimit(judged.affected_cap)
        try:
            yield from run()
            if conn._pipeline is not None:
                yield from conn._pipeline._sync_gen()
        except BaseException as ex:
            error = _instead_of(cursor, judged, ex)
            yield from _failed_gen(cursor, judged, opened, error)
            if hold is not None:
                yield from hold.report_gen("failed")
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
        yield from hold.ask_gen(conn, limit.touched)
        yield from _judge_again_gen(cursor, pgq, hold)
    try:
        if opened is not None:
            yield from undo.keep_gen(session, conn, opened)
    except BaseException:
        cursor._reset()
        if hold is not None:
            yield from hold.report_gen("failed")
        raise
    if hold is not None:
        yield from hold.report_gen("executed")


def _again(cursor: Any, pgq: Any) -> PQGen[None] | None:
    """`before`, for a statement that has been counted."""
    conn = cursor._conn
    pgq.passed = True
    if conn._autocommit or conn.pgconn.transaction_status != IDLE:
        return None
    begin: PQGen[None] = cursor._guard_begin_gen()
    return begin


def _judge_again_gen(cursor: Any, pgq: Any, hold: Hold) -> PQGen[None]:
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


def many(
    cursor: Any,
    gen: Callable[[Query, Iterable[Params], bool], PQGen[None]],
    query: Query,
    params_seq: Iterable[Params],
    returning: bool,
) -> PQGen[None]:
    """executemany(): psycopg's generator, within what is about all of its sets of parameters together."""
    session: Session = cursor._conn._guard
    surrounds = session.in_force is not None and session.in_force.surrounds
    if session.scoring is None and not surrounds:
        plain = gen(query, params_seq, returning)
        return plain if params_seq else _begun_gen(cursor, plain)
    sets = params_seq if isinstance(params_seq, Sequence) else list(params_seq)
    run = partial(gen, query, sets, returning)
    if surrounds and sets:
        run = partial(_many_carried_gen, cursor, query, sets, run)
    if not sets:
        return _begun_gen(cursor, run())
    return run() if session.scoring is None else _many_scored_gen(session, len(sets), run)


def _begun_gen(cursor: Any, run: PQGen[None]) -> PQGen[None]:
    """executemany() of nothing: psycopg begins a transaction all the same."""
    yield from run
    conn = cursor._conn
    if not conn._autocommit and conn.pgconn.transaction_status == IDLE:
        yield from conn._guard_begin_gen()


def _many_scored_gen(session: Session, number: int, run: Callable[[], PQGen[None]]) -> PQGen[None]:
    """The action policy wants to know the number of sets of parameters before the first is sent."""
    assert session.scoring is not None
    session.scoring.begin_many(number)
    try:
        yield from run()
    finally:
        session.scoring.begin_many(None)


def _many_carried_gen(
    cursor: Any, query: Query, sets: Sequence[Params], run: Callable[[], PQGen[None]]
) -> PQGen[None]:
    """All of them are taken back together, when one has to be."""
    conn = cursor._conn
    session: Session = conn._guard
    yield from cursor._start_query(query)
    pgq = cursor._convert_query(query, sets[0])
    if not pgq.judged.surrounded:
        cursor._guard_results().ahead = pgq
        yield from run()
        return
    way: Literal["first", "again"] = "first"

    def run_all() -> PQGen[None]:
        nonlocal way
        yield from cursor._start_query(query)
        cursor._guard_results().ahead = cursor._convert_query(query, sets[0])
        session.in_many, way = way, "again"
        try:
            yield from run()
            if conn._pipeline is not None:
                yield from conn._pipeline._sync_gen()
        finally:
            session.in_many = ""

    yield from carried_gen(cursor, pgq, run_all, sets=sets)


def _failed_gen(cursor: Any, judged: JudgedText, opened: Undo | None, error: BaseException) -> PQGen[None]:
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
            plan = replace(judged.plan, decision=error.decision)
            cursor._guard_results().judged = replace(judged, plan=plan)
    # An error of the server's leaves the agent's transaction failed, as it does without guarddb.
    if ours or opened is undo.OWN:
        yield from undo.back_gen(session, conn, opened)


def _instead_of(cursor: Any, judged: JudgedText, error: BaseException) -> BaseException:
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


# ---------------------------------------------------------------- approve: the last moment before sending


def approve(cursor: Any, pgq: Any) -> None:
    """The tripwire, and the note of what goes to the server. Nothing is sent that does not pass here.

    Raises:
        PolicyViolation: the text is not one that was judged, let pass and taken through `before`.
    """
    conn = cursor._conn
    session: Session = conn._guard
    judged: JudgedText | None = getattr(pgq, "judged", None)
    if judged is None or judged.blocked or not pgq.passed or pgq.query is not judged.sent:
        raise session.deny("internal_error", _NEVER_JUDGED)
    pgq.passed = False
    results = cursor._results
    if type(results) is not Results:
        results = cursor._guard_results()
    span = NO_SPAN
    if session.watched:
        span = session.begin_span(judged, getattr(pgq, "types", None) or ())
        if results.risk is not None:
            span.note(results.risk)
        if results.decision is not None:
            span.decided(results.decision)
    if conn._pipeline is not None:
        if results.pending is None:
            results.pending = deque()
        results.pending.append((judged, span))
    else:
        results.judged = judged
        if judged.inspect:
            results.inspect = True
        if span is not NO_SPAN or session.span is not NO_SPAN:
            results.span = session.span = span
    if judged.effects:
        failed = session.pgconn.transaction_status == INERROR
        session.names.note_sent(judged, session.context, failed=failed)
        for statement in judged.plan.statements:
            session.freshness.sent(statement)
    elif session.freshness.untouched:
        session.freshness.untouched = False
    if judged.sensitive:
        session.sensitive = session.met_sensitive = True
    elif session.sensitive and conn.pgconn.transaction_status == IDLE:
        session.sensitive = False


def approve_preparing(cursor: Any, pgq: Any) -> None:
    """The tripwire before psycopg prepares a statement that it then sends by name."""
    judged: JudgedText | None = getattr(pgq, "judged", None)
    if judged is None or judged.blocked or not pgq.passed or pgq.query is not judged.sent:
        raise cursor._conn._guard.deny("internal_error", _NEVER_JUDGED)


# ---------------------------------------------------------------- after: the server has answered


def after(cursor: Any, answers: list[PGresult]) -> None:
    """The results of a statement have come: of execute(), of one of executemany()'s, of COPY."""
    mine = cursor._results
    if type(mine) is not Results:
        mine = cursor._guard_results()
    judged, span = mine.judged, mine.span
    many = cursor._execmany_returning
    if mine.pending:
        judged, span = mine.pending.popleft()
        if many is None:
            # Of another statement of this cursor's than the last one it has sent.
            mine.judged, mine.inspect = judged, judged.inspect
            mine.caps = mine.reported = None
    session: Session = cursor._conn._guard
    if session.limit is not None:
        session.limit.add(answers)
        if judged is not None and judged.rechecked and session.scoring is not None:
            session.scoring.score_again(session, judged, mine, session.limit.touched)
    if judged is not None:
        if many is None:
            mine.statements = judged.statements
        elif many:
            # One statement for each set of parameters, and each may have a plan of its own.
            mine.statements += judged.statements[:1] * len(answers)
            mine.judged = judged
            mine.inspect = mine.inspect or judged.inspect
        else:
            mine.judged = judged
        if judged.effects:
            _effects(cursor, mine, judged, answers)
    cursor._psycopgs_set_results(answers)  # selects the first of them, and so comes to `inspect`
    if session.limit is not None and judged is not None and judged.rechecked:
        shown.scan_ahead(cursor)
    if span is not NO_SPAN:
        span.measure(answers)
        current = cursor.pgresult
        if session.copy_ends and current is not None and current.status in _COPYING:
            return  # its end is told, see `copy_ends_gen`
        rows = cursor._rowcount if current is not None and current.nfields else None
        span.end(rows=rows if rows is not None and rows >= 0 else None, truncated=mine.truncated)


def _effects(cursor: Any, mine: Results, judged: JudgedText, answers: list[PGresult]) -> None:
    session: Session = cursor._conn._guard
    session.names.confirm(judged)
    first = len(mine) if cursor._execmany_returning else 0
    for index, statement in enumerate(judged.statements[: len(answers)]):
        portal, left = _portal_of(session, statement)
        if portal is not None and left is not None:
            mine.inspect = True
            mine.caps = mine.caps or {}
            mine.caps[first + index] = left
            portal.delivered += min(left, answers[index].ntuples)


def _portal_of(session: Session, statement: StatementPlan) -> tuple[Remembered | None, int | None]:
    """The portal that a FETCH is about, and how many rows of it may still be handed out."""
    cap = statement.handling.row_cap
    if statement.facts.session_verb != "fetch" or cap is None:
        return None, None
    portal = session.names.portals.get(statement.facts.session_name or "")
    return portal, None if portal is None else max(0, cap - portal.delivered)


def failed(cursor: Any) -> telemetry.StatementSpan:
    """The server refused a statement of a cursor; the span to end with its error."""
    results = cursor._guard_results()
    span: telemetry.StatementSpan = results.pending.popleft()[1] if results.pending else NO_SPAN
    cursor._conn._guard.names.fail(pipeline=cursor._conn._pipeline is not None)
    return span


def inspect(cursor: Any, results: Results, i: int, format: pq.Format | None) -> None:
    """Show result `i`, which has just become the current one, as its plan wants it shown."""
    shown.show_result(cursor, results, i, format, count_bytes)


def inspect_copied(cursor: Any, data: bytes) -> None:
    """What COPY hands out next. Raises PolicyViolation where it holds what the profile blocks."""
    results = cursor._guard_results()
    session: Session = cursor._conn._guard
    if not scans(session):
        return
    if results.scanner is None:
        results.scanner = Scanner(session, cursor._conn, results, cursor.pgresult)
    results.scanner.copied(data, results.streamed)
    results.streamed += 1


# stream(): chunk by chunk


def streams(cursor: Any) -> None:
    """A stream() has been sent."""
    session: Session = cursor._conn._guard
    session.freshness.streams()
    mine = cursor._guard_results()
    if mine.judged is not None and mine.judged.statements:
        mine.statements = mine.judged.statements
        mine.portal, left = _portal_of(session, mine.statements[0])
        mine.caps = {0: left} if left is not None else None


def inspect_for_row_factory(cursor: Any, results: Results, result: PGresult) -> None:
    """The first chunk of a stream(), for the row factory that is about to look at it."""
    shown.view_stream(cursor, results, result)


def inspect_chunk(cursor: Any, results: Results, result: PGresult, *, first: bool) -> PGresult | None:
    """Show a chunk of a stream(); None when none of it is to be shown."""
    return shown.show_chunk(cursor, results, result, count_bytes, first=first)


def stream_checked_gen(cursor: Any, results: Results, result: PGresult | None) -> PQGen[None]:
    """A chunk of a stream() that may have to be taken back has come, or there are no more."""
    conn = cursor._conn
    judged, opened = results.judged, results.undo
    assert judged is not None
    assert opened is not None
    if result is None:
        results.undo = None
        yield from undo.keep_gen(conn._guard, conn, opened)
        return
    if judged.affected_cap is not None and results.streamed + result.ntuples > judged.affected_cap:
        rows = results.streamed + result.ntuples
        rows += yield from cursor._guard_drain_gen()
        results.undo = None
        error = _instead_of(cursor, judged, TooManyRows(rows))
        yield from _failed_gen(cursor, judged, opened, error)
        if isinstance(error, PolicyViolation):
            conn._guard.tell_refusal(judged, error)
        raise error


def stream_failed_gen(cursor: Any, results: Results, error: BaseException) -> PQGen[None]:
    """A stream() that may have to be taken back has failed."""
    opened, results.undo = results.undo, None
    if opened is not None and results.judged is not None:
        with suppress(_psycopg.Error):
            yield from cursor._guard_drain_gen()
        if isinstance(error, _psycopg.ProgrammingError) and error._info is None:
            # It has run and gives no rows, so nobody has counted them.
            yield from undo.back_gen(cursor._conn._guard, cursor._conn, opened)
        else:
            yield from _failed_gen(cursor, results.judged, opened, _instead_of(cursor, results.judged, error))


def copy_ends_gen(cursor: Any, results: Results, error: BaseException | None) -> PQGen[None]:
    """A COPY that may have to be taken back is at its end."""
    opened, results.undo = results.undo, None
    judged = results.judged
    conn = cursor._conn
    conn._guard.copy_ends = False
    rows = max(cursor._rowcount, sum(result.command_tuples or 0 for result in cursor._results))
    results.span.end(rows=rows if error is None else None, error=error)
    if opened is None or judged is None:
        return
    if error is None and judged.affected_cap is not None and rows > judged.affected_cap:
        error = _instead_of(cursor, judged, TooManyRows(rows))
        yield from _failed_gen(cursor, judged, opened, error)
        if isinstance(error, PolicyViolation):
            conn._guard.tell_refusal(judged, error)
        raise error
    if error is not None:
        yield from _failed_gen(cursor, judged, opened, error)
    else:
        yield from undo.keep_gen(conn._guard, conn, opened)


def streamed(results: Results, result: PGresult | None) -> None:
    """A chunk of a stream() is handed out, or there are no more."""
    if result is None:
        results.span.end(truncated=results.truncated)
    else:
        results.streamed += result.ntuples
        if results.portal is not None:
            results.portal.delivered += result.ntuples


def done_all_the_same(cursor: Any, error: _psycopg.ProgrammingError) -> None:
    """psycopg finds that a statement is not one for stream() or copy() when the server has done it."""
    results = cursor._results
    if error._info is None and type(results) is Results and results.judged is not None:
        cursor._conn._guard.names.confirm(results.judged)


# Named cursors: DECLARE, then a FETCH at a time


def declared(cursor: Any, before: Results, portal: Remembered | None, description: Any) -> Results:
    """A portal was described: what psycopg got of it, with what is known of the statement behind it."""
    session: Session = cursor._conn._guard
    mine = Results(description)
    before.span.end()
    mine.portal = portal
    judged = before.judged or (portal.judged if portal is not None else None)
    if judged is not None:
        mine.judged, mine.statements, mine.inspect = judged, judged.statements, judged.inspect
        session.names.confirm(judged)
    return mine


def inspect_fetch(cursor: Any, portal: Remembered | None, left: int | None) -> shown.FetchedRows:
    """What takes the place of a named cursor's transformer for one FETCH; `left`: rows that may be handed out."""
    handling = portal.statement.handling if portal is not None else None
    return shown.FetchedRows(cursor, handling, left, count_bytes)


def fetched(cursor: Any, portal: Remembered | None, rows: shown.FetchedRows, number: int) -> None:
    """So many rows of a portal were handed out."""
    if portal is not None:
        portal.delivered += number
    result = rows.result
    if rows.left is not None and result is not None and result.ntuples > rows.left:
        cap = portal.statement.handling.row_cap if portal is not None else None
        shown.cut(cursor, cursor._guard_results(), result, rows.left, cap, rows.masks)
