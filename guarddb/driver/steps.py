"""The way of every statement, written once. Whatever door of psycopg's it comes in by, it takes these steps in this order.

    judge      the policy's answer about the text      `query.py`: at the end of every conversion
    ---------  `before`: nothing has been sent yet
    score      by the action policy
    count      against the query budgets
    begin      the transaction that psycopg would have begun before it looked at the statement
    ---------  `taking_back.py`: only around what may have to be taken back
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
what it has done before effects. Nothing else has `counting.py` charge a budget, approves a statement for sending or a result for
showing.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, cast

import psycopg as _psycopg
from psycopg import pq

from guarddb import telemetry
from guarddb.driver import counting, shown, undo
from guarddb.driver.faults import row_filter_violation
from guarddb.driver.fixed_snapshot import names_gen
from guarddb.driver.notices import notify
from guarddb.driver.scanning import Scanner
from guarddb.driver.views import Results
from guarddb.driver.waits import ask_in_a_thread_gen
from guarddb.driver.withholding import scans
from guarddb.errors import BudgetExceeded, PolicyUnavailable, PolicyViolation

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGresult

    from guarddb.decision.plan import StatementPlan
    from guarddb.driver.names import Remembered
    from guarddb.driver.plans import JudgedText
    from guarddb.driver.recording import Recorder
    from guarddb.driver.session import Session

logger = logging.getLogger("guarddb")

NO_SPAN = telemetry.NO_SPAN
IDLE = pq.TransactionStatus.IDLE
INERROR = pq.TransactionStatus.INERROR
OK = pq.ConnStatus.OK
#: In a transaction, as far as is known. (A pipeline's is active until its answers have been read.)
_WITHIN = (pq.TransactionStatus.INTRANS, pq.TransactionStatus.ACTIVE)

_PSYCOPGS_PIPELINES = (_psycopg.Pipeline, _psycopg.AsyncPipeline)

#: What a generator that has nothing to do looks like to `yield from`.
NOTHING_TO_WAIT_FOR = cast("PQGen[None]", ())

_NEVER_JUDGED = "a statement reached the connection that was never judged"


# ---------------------------------------------------------------- before: judged, and nothing sent


def before(
    cursor: Any, pgq: Any, *, behind: Literal["", "names", "log", "score", "count"] = ""
) -> PQGen[None] | None:
    """Everything between judging and sending; what of it has to be waited for, if anything.

    A plain function, for it is on the path of every statement. `behind`: a step that has been taken already.
    """
    conn = cursor._conn
    session: Session = conn._guard
    policy = session.in_force
    judged: JudgedText | None = getattr(pgq, "judged", None)
    if judged is None or policy is None:
        raise session.deny("internal_error", _NEVER_JUDGED)
    if session.freshness.fixed and not behind and _names_may_have_moved(session, judged):
        return _names_checked_gen(cursor, judged, partial(before, cursor, pgq, behind="names"))
    if session.recorder is not None and behind in ("", "names"):
        if session.recorder.waits:
            return _logged_elsewhere_gen(cursor, pgq, session.recorder)
        session.recorder.check()
    if session.in_many != "again" and behind != "count":
        if session.scoring is not None and behind in ("", "names", "log") and not judged.empty:
            session.scoring.follow(session)
            if (asking := session.scoring.estimate(session, conn, judged, pgq)) is not None:
                return _estimated_gen(cursor, pgq, judged, asking)
            session.scoring.score(session, conn, judged, cursor._guard_results())
        if policy.counted_elsewhere and (policy.counts or policy.egress):
            return _counted_elsewhere_gen(cursor, pgq, judged)
        if policy.counts:
            try:
                counted = counting.count(session, judged)
            except (BudgetExceeded, PolicyUnavailable) as ex:
                decided(cursor, ex)
                raise
            if not counted:
                counting.uncounted(cursor, judged)
    if judged.plan.warnings:
        for _, warning in judged.plan.warnings:
            notify(conn, warning, "guarddb lint shows the safe form")
    pgq.passed = True
    if judged.effects:
        statements = judged.plan.statements
        if session.outstanding and conn._pipeline is not None and any(map(_ends, statements)):
            asked: PQGen[None] = conn._guard_before_commit_gen()
            return asked
        if session.names.savepoint_open and any(map(_makes_savepoints, statements)):
            release: PQGen[None] = undo.settled_gen(session, conn)
            return release
    if conn._autocommit or conn.pgconn.transaction_status != IDLE:
        return None
    begin: PQGen[None] = cursor._guard_begin_gen()
    return begin


def again(cursor: Any, pgq: Any, *, behind: Literal["", "names"] = "") -> PQGen[None] | None:
    """`before`, for a statement that has been counted."""
    conn = cursor._conn
    session: Session = conn._guard
    if session.freshness.fixed and not behind and _names_may_have_moved(session, pgq.judged):
        return _names_checked_gen(cursor, pgq.judged, partial(again, cursor, pgq, behind="names"))
    pgq.passed = True
    if conn._autocommit or conn.pgconn.transaction_status != IDLE:
        return None
    begin: PQGen[None] = cursor._guard_begin_gen()
    return begin


def one_after_the_other_gen(session: Session, first: PQGen[None], second: PQGen[None]) -> PQGen[None]:
    """What comes before sending, and the sending. In front of BEGIN there may have been a look, which found another catalog."""
    context = session.context
    yield from first
    if session.context is not context:
        session.freshness.told()  # so it is judged again when it has run, see `waited.py`
    yield from second


def _counted_elsewhere_gen(cursor: Any, pgq: Any, judged: JudgedText) -> PQGen[None]:
    """The same, with the budget store asked in a thread, so that the event loop goes on."""
    session: Session = cursor._conn._guard
    policy = session.in_force
    assert policy is not None
    try:
        if policy.counts:
            counted = yield from ask_in_a_thread_gen(partial(counting.count, session, judged))
            if not counted:
                counting.uncounted(cursor, judged)
        if policy.egress:
            yield from counting.settle_gen(session)
    except (BudgetExceeded, PolicyUnavailable) as ex:
        decided(cursor, ex)
        raise
    if (rest := before(cursor, pgq, behind="count")) is not None:
        yield from rest


def _names_may_have_moved(session: Session, judged: JudgedText) -> bool:
    """Whether the server has to be asked what the names in a statement mean, in a transaction of one snapshot."""
    return (
        not judged.empty
        and session.restricts
        and not session.observe
        and judged.sent not in session.freshness.verified
        and session.pgconn.transaction_status in _WITHIN
    )


def _names_checked_gen(
    cursor: Any, judged: JudgedText, rest_of_it: Callable[[], PQGen[None] | None]
) -> PQGen[None]:
    """The rest, when the server has been asked."""
    session: Session = cursor._conn._guard
    try:
        yield from names_gen(session, cursor._conn, judged)
    except PolicyViolation as ex:
        decided(cursor, ex)
        session.tell_refusal(judged, ex, session.begin_span(judged))
        raise
    if (rest := rest_of_it()) is not None:
        yield from rest


def _logged_elsewhere_gen(cursor: Any, pgq: Any, recorder: Recorder) -> PQGen[None]:
    """The same, with the decision log asked in a thread whether it can be written."""
    yield from ask_in_a_thread_gen(recorder.check)
    if (rest := before(cursor, pgq, behind="log")) is not None:
        yield from rest


def _estimated_gen(cursor: Any, pgq: Any, judged: JudgedText, asking: PQGen[None]) -> PQGen[None]:
    """The same, when the planner has to be asked for the number of rows before."""
    session: Session = cursor._conn._guard
    assert session.scoring is not None
    yield from asking
    session.scoring.score(session, cursor._conn, judged, cursor._guard_results())
    if (rest := before(cursor, pgq, behind="score")) is not None:
        yield from rest


def _ends(statement: StatementPlan) -> bool:
    return statement.facts.transaction == "commit"


def _makes_savepoints(statement: StatementPlan) -> bool:
    return statement.facts.transaction in ("savepoint", "release", "rollback_to")


def decided(cursor: Any, error: PolicyViolation | BudgetExceeded) -> None:
    """What refuses a statement after it was judged is the decision about it."""
    if error.decision is not None:
        cursor._guard_results().decision = error.decision


def refused_by_the_server(
    cursor: Any, error: _psycopg.Error, span: telemetry.StatementSpan
) -> PolicyViolation | None:
    """The refusal that an error of the server's stands for: a written row is outside of a row filter. Else None."""
    session: Session = cursor._conn._guard
    if session.observe or (refused := row_filter_violation(session, error)) is None:
        return None
    decided(cursor, refused)
    if session.last is not None:
        session.tell_refusal(session.last, refused, span if span is not NO_SPAN else None)
    return refused


def no_method_for_copy() -> _psycopg.Error:
    """What psycopg says of COPY by execute() or stream() when it has been sent: then no more can be sent on that connection, for
    nobody reads or ends it. Said before, it costs nobody anything."""
    return _psycopg.ProgrammingError("COPY cannot be used with this method; use copy() instead")


_COPYING = frozenset(map(int, (pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_BOTH)))


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
    if session.recorder is not None or telemetry.listens():
        span = session.held_span or session.begin_span(judged, getattr(pgq, "types", None) or ())
        if results.risk is not None:
            span.note(results.risk)
        if results.decision is not None:
            span.decided(results.decision)
    if conn._pipeline is not None:
        if results.pending is None:
            results.pending = deque()
        results.pending.append((judged, span))
        if type(conn._pipeline) in _PSYCOPGS_PIPELINES:
            conn._guard_take_in_pipeline()
        if judged.takes:
            session.outstanding.setdefault(judged, session.catalog)
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
            if statement.handling.changes_catalog:
                session.neighbours.changes(session)
    elif session.freshness.untouched:
        session.freshness.untouched = False
    if judged.writes:
        session.wrote = True
    elif session.wrote and conn._pipeline is None and conn.pgconn.transaction_status == IDLE:
        session.wrote = False
    if judged.sensitive:
        session.sensitive = session.sensitive_now = session.met_sensitive = True
    elif session.sensitive:
        # (The answers of a pipeline are of any of its statements, and a COMMIT runs what a cursor WITH HOLD has left.)
        session.sensitive_now = conn._pipeline is not None or judged.effects
        if conn.pgconn.transaction_status == IDLE:
            session.sensitive = False


def approve_preparing(cursor: Any, pgq: Any) -> None:
    """The tripwire before psycopg prepares a statement that it then sends by name."""
    judged: JudgedText | None = getattr(pgq, "judged", None)
    if judged is None or judged.blocked or not pgq.passed or pgq.query is not judged.sent:
        raise cursor._conn._guard.deny("internal_error", _NEVER_JUDGED)


# ---------------------------------------------------------------- after: the server has answered


def after(
    cursor: Any, results: list[PGresult], released: tuple[JudgedText, telemetry.StatementSpan] | None = None
) -> None:
    """The results of a statement have come: of execute(), of one of executemany()'s, of COPY. `released`: they were put aside."""
    mine = cursor._results
    if type(mine) is not Results:
        mine = cursor._guard_results()
    judged, span = mine.judged, mine.span
    many = cursor._execmany_returning
    session: Session = cursor._conn._guard
    if mine.pending or released is not None:
        if released is None:
            judged, span = mine.pending.popleft()
            if _is_late(session, results, many=many):
                session.deferred.append((cursor, results, judged, span, session.catalog))
                session.waited = ()
                return
        else:
            judged, span = released
        if many is None:
            # Of another statement of this cursor's than the last one it has sent.
            mine.judged, mine.inspect = judged, judged.inspect
            mine.caps = mine.reported = None
    elif judged is not None and perf_counter() >= session.freshness.overdue_at:
        session.waited = (cursor, judged)
    if session.limit is not None:
        session.limit.add(results)
        if judged is not None and judged.rechecked and session.scoring is not None:
            session.scoring.score_again(session, judged, mine, session.limit.touched)
    if judged is not None:
        if many is None:
            mine.statements = judged.statements
        elif many:
            # One statement for each set of parameters, and each may have a plan of its own.
            if type(mine.statements) is not list:
                mine.statements = [*mine.statements]
            mine.statements.extend(judged.statements[:1] * len(results))
            mine.judged = judged
            mine.inspect = mine.inspect or judged.inspect
        else:
            mine.judged = judged
        if judged.effects:
            _effects(cursor, mine, judged, results)
    cursor._psycopgs_set_results(results)  # selects the first of them, and so comes to `inspect`
    if session.limit is not None and judged is not None and judged.rechecked:
        shown.scan_ahead(cursor)
    if span is not NO_SPAN:
        span.measure(results)
        current = cursor.pgresult
        if session.copy_ends and current is not None and current.status in _COPYING:
            return  # its end is told, see `copy_ends_gen`
        rows = min(cursor._rowcount, current.ntuples) if current is not None and current.nfields else None
        span.end(rows=rows if rows is not None and rows >= 0 else None, truncated=mine.truncated)


def _is_late(session: Session, results: list[PGresult], *, many: bool | None) -> bool:
    """Whether an answer in a pipeline is put aside: it came late, or behind one that did. (What has no rows tells nothing.)"""
    if session.deferred:
        return True
    if (
        perf_counter() < session.freshness.overdue_at
        or many is False
        or not session.restricts
        or session.observe
    ):
        return False
    return any(result.nfields for result in results)


def _effects(cursor: Any, mine: Results, judged: JudgedText, answers: list[PGresult]) -> None:
    session: Session = cursor._conn._guard
    session.names.confirm(judged)
    session.neighbours.answered(session)
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
    cursor._conn._guard.neighbours.answered(cursor._conn._guard)
    return span


def inspect(cursor: Any, results: Results, i: int, format: pq.Format | None) -> None:
    """Show result `i`, which has just become the current one, as its plan wants it shown."""
    shown.show_result(cursor, results, i, format, counting.count_bytes)


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
    return shown.show_chunk(cursor, results, result, counting.count_bytes, first=first)


def streamed(results: Results, result: PGresult | None) -> None:
    """A chunk of a stream() is handed out, or there are no more."""
    if result is None:
        results.span.end(rows=results.streamed, truncated=results.truncated)
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
    return shown.FetchedRows(cursor, handling, left, counting.count_bytes)


def fetched(cursor: Any, portal: Remembered | None, rows: shown.FetchedRows, number: int) -> None:
    """So many rows of a portal were handed out."""
    if portal is not None:
        portal.delivered += number
    result = rows.result
    if rows.left is not None and result is not None and result.ntuples > rows.left:
        cap = portal.statement.handling.row_cap if portal is not None else None
        shown.cut(cursor, cursor._guard_results(), result, rows.left, cap, rows.masks)
