"""The doors by which psycopg converts a statement and sends it in one go: stream(), COPY and the DECLARE of a named cursor.

What comes before sending is done ahead of psycopg's generator, which then finds the statement ready; what may have to be taken
back is decided about when its rows have been handed out.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg as _psycopg
from psycopg import pq
from psycopg._queries import PostgresClientQuery
from psycopg.generators import execute

from guarddb.driver import steps, taking_back, undo
from guarddb.driver.holding import Hold, parameters_of
from guarddb.driver.kept_still import kept_still_gen
from guarddb.driver.row_limit import TooManyRows
from guarddb.errors import PolicyViolation

if TYPE_CHECKING:
    from psycopg.abc import Params, PQGen, Query
    from psycopg.pq.abc import PGresult

    from guarddb.driver.plans import JudgedText
    from guarddb.driver.session import Session
    from guarddb.driver.undo import Undo
    from guarddb.driver.views import Results

IDLE = pq.TransactionStatus.IDLE


def ahead_gen(cursor: Any, query: Query, params: Params | None = None) -> PQGen[None]:
    """Judge and `steps.before`, for the generators of psycopg's that convert a statement and send it in one go.

    The converted statement is left in the cursor's results, where psycopg's generator then finds it.
    """
    yield from cursor._start_query(query)
    pgq = cursor._convert_query(query, params)
    yield from taking_back.told_gen(cursor, pgq.judged, _ready_gen(cursor, pgq))


def stream_ahead_gen(
    cursor: Any, query: Query, params: Params | None, *, binary: bool | None, size: int
) -> PQGen[bool]:
    """The same for stream(). True when the statement has run already.

    A statement that waits for a person runs as a whole: which rows it touches has to be known steps.before any is handed out.
    """
    yield from cursor._start_query(query)
    pgq = cursor._convert_query(query, params)
    if not pgq.judged.waits:
        yield from taking_back.told_gen(cursor, pgq.judged, _ready_gen(cursor, pgq, hands_out=True))
        return False
    if size < 1:
        raise ValueError("size must be >= 1")  # as psycopg does
    if not any(statement.facts.returns_rows for statement in pgq.judged.statements):
        raise _psycopg.ProgrammingError("the operation in stream() didn't produce a result")

    def run() -> PQGen[None]:
        cursor._execute_send(pgq, force_extended=True, binary=binary)
        answers = yield from execute(cursor._pgconn)
        cursor._check_results(answers)
        cursor._set_results(answers)

    yield from taking_back.carried_gen(cursor, pgq, run)
    cursor._guard_results().whole = True
    return True


def _ready_gen(cursor: Any, pgq: Any, *, copies: bool = False, hands_out: bool = False) -> PQGen[None]:
    conn = cursor._conn
    session: Session = conn._guard
    judged: JudgedText = pgq.judged
    results = cursor._guard_results()
    session.copy_ends = session.copy_ends and copies
    if judged.copies and not copies:
        raise steps.no_method_for_copy()
    if judged.surrounded and not judged.only_rechecked and copies and not session.copy_ends:
        raise session.deny(
            "statement_not_allowed",
            "this COPY may have to be taken back, and a cursor that was made by psycopg's own class cannot do that",
            "use a cursor of the connection's own cursor()",
        )
    if judged.waits:
        results.hold = hold = Hold(session, judged, parameters_of(pgq, session.encoding))
        yield from hold.ask_gen(conn, None)
        yield from taking_back.judge_again_gen(cursor, pgq, hold)
        judged = pgq.judged
    first = False
    if (rest := steps.before(cursor, pgq)) is not None:
        first = conn.pgconn.transaction_status == IDLE
        yield from rest
    if judged.surrounded and not judged.only_rechecked:
        results.undo = yield from taking_back.open_gen(cursor, judged, first=first)
    if hands_out:
        try:
            yield from kept_still_gen(cursor, pgq, results, ends=session.copy_ends or not copies)
        except BaseException as ex:
            opened, results.undo = results.undo, None
            yield from taking_back.failed_gen(cursor, judged, opened, ex)
            raise
    results.ahead = pgq


def copy_ahead_gen(cursor: Any, statement: Query, params: Params | None) -> PQGen[None]:
    """The same for COPY, whose parameters psycopg merges on the client's side."""
    yield from cursor._start_query()
    if params or not isinstance(statement, str | bytes | _psycopg.sql.Composable):
        merged = PostgresClientQuery(cursor._tx)
        merged.convert(statement, params)
        statement = merged.query
    pgq = cursor._convert_query(statement)
    yield from taking_back.told_gen(cursor, pgq.judged, _ready_gen(cursor, pgq, copies=True, hands_out=True))


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
        yield from _over_the_cap_gen(cursor, judged, opened, rows)


def stream_cut_gen(cursor: Any, results: Results, rows: int) -> PQGen[None]:
    """The same of one that was read to its end, because it shows no more: so many rows have come."""
    judged, opened = results.judged, results.undo
    results.undo = None
    assert judged is not None
    assert opened is not None
    if judged.affected_cap is not None and rows > judged.affected_cap:
        yield from _over_the_cap_gen(cursor, judged, opened, rows)
    yield from undo.keep_gen(cursor._conn._guard, cursor._conn, opened)


def _over_the_cap_gen(cursor: Any, judged: JudgedText, opened: Undo, rows: int) -> PQGen[None]:
    """Take back what has touched too many rows, and say so."""
    error = taking_back.instead_of(cursor, judged, TooManyRows(rows))
    yield from taking_back.failed_gen(cursor, judged, opened, error)
    if isinstance(error, PolicyViolation):
        steps.decided(cursor, error)
        cursor._conn._guard.tell_refusal(judged, error)
    raise error


def stream_failed_gen(cursor: Any, results: Results, error: BaseException) -> PQGen[None]:
    """A stream() that may have to be taken back has failed."""
    opened, results.undo = results.undo, None
    if opened is not None and results.judged is not None:
        with suppress(_psycopg.Error):
            yield from cursor._guard_drain_gen()
        yield from _not_begun_gen(cursor, results.judged, opened, error)


def _not_begun_gen(cursor: Any, judged: JudgedText, opened: Undo, error: BaseException) -> PQGen[None]:
    if isinstance(error, _psycopg.ProgrammingError) and error._info is None:
        # It has run, is not one for this method, and nobody has counted its rows.
        yield from undo.back_gen(cursor._conn._guard, cursor._conn, opened)
    else:
        yield from taking_back.failed_gen(
            cursor, judged, opened, taking_back.instead_of(cursor, judged, error)
        )


def copy_not_begun_gen(cursor: Any, results: Results, error: BaseException) -> PQGen[None]:
    """A COPY has failed before its first row."""
    opened, results.undo = results.undo, None
    hold, results.hold = results.hold, None
    cursor._conn._guard.copy_ends = False
    if opened is not None and results.judged is not None:
        yield from _not_begun_gen(cursor, results.judged, opened, error)
    if hold is not None:
        yield from hold.report_gen("failed")


def copy_ends_gen(cursor: Any, results: Results, error: BaseException | None) -> PQGen[None]:
    """A COPY that may have to be taken back, or was approved, is at its end."""
    hold, results.hold = results.hold, None
    try:
        yield from _copy_ends_gen(cursor, results, error)
    except BaseException:
        if hold is not None:
            yield from hold.report_gen("failed")
        raise
    if hold is not None:
        yield from hold.report_gen("executed" if error is None else "failed")


def _copy_ends_gen(cursor: Any, results: Results, error: BaseException | None) -> PQGen[None]:
    opened, results.undo = results.undo, None
    judged = results.judged
    conn = cursor._conn
    conn._guard.copy_ends = False
    rows = max(cursor._rowcount, sum(result.command_tuples or 0 for result in cursor._results))
    results.span.end(rows=rows if error is None else None, error=error)
    if opened is None or judged is None:
        return
    if error is None and judged.affected_cap is not None and rows > judged.affected_cap:
        yield from _over_the_cap_gen(cursor, judged, opened, rows)
    elif error is not None:
        yield from taking_back.failed_gen(cursor, judged, opened, error)
    else:
        yield from undo.keep_gen(conn._guard, conn, opened)
