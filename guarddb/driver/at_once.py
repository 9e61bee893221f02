"""A write in autocommit: its transaction is over with its answer, so whether it has met what it was judged by is asked within it.

Behind it, in the same journey to the server, goes a question that fails where the write took long and the catalog is another by
now, and with it the transaction that both are in. Then the write runs once more, in a transaction that is open until its text has
been judged again (`waited.py`). What cannot be sent so is sent in such a transaction at first.
"""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any

from psycopg import capabilities, errors as e, pq
from psycopg._cursor_base import BaseCursor
from psycopg._preparing import Prepare
from psycopg.generators import fetch_many, send

from guarddb.driver import steps, taking_back, undo, waited
from guarddb.driver.watch import FINGERPRINT
from guarddb.sql.names import literal

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGresult

    from guarddb.driver.plans import JudgedText
    from guarddb.driver.session import Session

IDLE = pq.TransactionStatus.IDLE
OK = pq.ConnStatus.OK
FATAL_ERROR = pq.ExecStatus.FATAL_ERROR
TUPLES_OK = pq.ExecStatus.TUPLES_OK
PIPELINE_SYNC = pq.ExecStatus.PIPELINE_SYNC

#: $1: seconds since the transaction began within which nothing is asked; $2: the catalog's fingerprint. (The fingerprint is
#: asked for by query_to_xml, for then PostgreSQL plans that query only when it comes to that.)
_IN_TIME = (
    "SELECT CASE WHEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.<) (pg_catalog.now() OPERATOR(pg_catalog.+) "
    "(pg_catalog.make_interval(secs => $1::pg_catalog.float8))) THEN 1 "
    f"WHEN pg_catalog.strpos(pg_catalog.query_to_xml({literal(FINGERPRINT.decode())}, true, false, '')::pg_catalog.text, "
    "$2::pg_catalog.text) OPERATOR(pg_catalog.>) 0 THEN 2 "
    "ELSE ('the catalog is another: ' OPERATOR(pg_catalog.||) pg_catalog.clock_timestamp()::pg_catalog.text)::pg_catalog.int4 END"
).encode()


def commits(cursor: Any, judged: JudgedText) -> bool:
    """Whether a write that is about to be sent commits by itself."""
    conn = cursor._conn
    return bool(
        judged.takes
        and conn._autocommit
        and conn._pipeline is None
        and conn.pgconn.transaction_status == IDLE
        and not conn._guard.rolls_back
    )


def sent_gen(cursor: Any, pgq: Any, *, prepare: bool | None, binary: bool | None) -> PQGen[None]:
    """What is in the place of psycopg's sending of a statement that takes the steps of a write."""
    conn = cursor._conn
    session: Session = conn._guard
    session.lost_message = None
    if not commits(cursor, pgq.judged):
        yield from cursor._psycopgs_maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
        return
    if _is_sent_with_question(cursor, session, pgq.judged):
        if (yield from _with_question_gen(cursor, session, pgq, prepare=prepare, binary=binary)):
            return
        judged = pgq.judged
        session.freshness.told()
        yield from conn._guard_refresh_gen()
        pgq.judge()
        if waited.is_another(pgq.judged, judged):
            raise session.refuse(judged, session.under_its_policy(waited.MOVED_WRITE))
        if (rest := steps.again(cursor, pgq)) is not None:
            yield from rest
    yield from _in_a_transaction_gen(cursor, session, pgq, prepare=prepare, binary=binary)


def _is_sent_with_question(cursor: Any, session: Session, judged: JudgedText) -> bool:
    return (
        len(judged.statements) == 1
        and not session.freshness.fixed_at_first
        and session.catalog is not None
        and getattr(type(cursor), "_psycopgs_maybe_prepare_gen", None) is BaseCursor._maybe_prepare_gen
        and capabilities.has_pipeline()
    )


def _in_a_transaction_gen(
    cursor: Any, session: Session, pgq: Any, *, prepare: bool | None, binary: bool | None
) -> PQGen[None]:
    conn = cursor._conn
    judged = pgq.judged
    opened = yield from undo.open_gen(session, conn, first=False)
    try:
        yield from cursor._psycopgs_maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
        if session.waited is not None:
            yield from waited.asked_again_gen(session, conn, undone=True)
    except BaseException as ex:
        yield from taking_back.failed_gen(cursor, judged, opened, ex)
        raise
    try:
        yield from undo.end_gen(session, conn)
    except BaseException:
        cursor._reset()
        raise


def _with_question_gen(
    cursor: Any, session: Session, pgq: Any, *, prepare: bool | None, binary: bool | None
) -> PQGen[bool]:
    """The write and the question behind it. False: all of it was undone, for the catalog is another, or the question failed."""
    conn, pgconn = cursor._conn, cursor._pgconn
    prepared = conn._prepared
    prep, name = cursor._get_prepared(pgq, prepare)
    pgconn.enter_pipeline_mode()
    try:
        first = _prepare(session, pgconn) if prepared.prepare_threshold is not None else 0
        if prep is Prepare.NO:
            cursor._execute_send(pgq, force_extended=True, binary=binary)
        else:
            if prep is Prepare.SHOULD:
                cursor._send_prepare(name, pgq)
            cursor._send_query_prepared(name, pgq, binary=binary)
        _ask(session, pgconn, by_name=prepared.prepare_threshold is not None)
        pgconn.pipeline_sync()
        yield from send(pgconn)
        answers = []
        while True:
            results: list[PGresult] = yield from fetch_many(pgconn)
            if results and results[-1].status == PIPELINE_SYNC:
                break
            answers.append(results)
    finally:
        with suppress(e.Error):
            pgconn.exit_pipeline_mode()
        if pgconn.status == OK and pgconn.pipeline_status != pq.PipelineStatus.OFF:
            pgconn.finish()  # nobody has waited for its end
    if first and answers[0][0].status == FATAL_ERROR:
        session.names.in_time = b""
    del answers[:first]
    asked = 2 if prep is Prepare.SHOULD else 1
    for answer in (*answers[:asked], *answers[asked + 1 :]):
        if answer[-1].status == FATAL_ERROR:
            session.lost_message = pgq.judged, answer[-1].error_message
    if prep is Prepare.SHOULD:
        cursor._check_results(answers.pop(0))
    key = prepared.maybe_add_to_cache(pgq, prep, name)
    results, question, *late = answers
    if key is not None:
        prepared.validate(key, prep, name, results)
    cursor._check_results(results)
    if question[-1].status != TUPLES_OK:
        session.names.in_time = b""
        return False
    for each in late:  # what the end of the transaction says
        cursor._check_results(each)
    cursor._set_results(results)
    session.waited = None
    return True


def _prepare(session: Session, pgconn: Any) -> int:
    """Prepare the question, where it is not; how many answers come."""
    if session.names.in_time:
        return 0
    session.names.new_in_time()
    pgconn.send_prepare(session.names.in_time, _IN_TIME)
    return 1


def _ask(session: Session, pgconn: Any, *, by_name: bool) -> None:
    assert session.catalog is not None
    allowed = max(0.0, session.freshness.overdue_at - perf_counter())
    parameters = [str(min(allowed, 60.0)).encode(), session.catalog.fingerprint.encode()]
    if by_name:
        pgconn.send_query_prepared(session.names.in_time, parameters)
    else:  # (Names do not last: there is a pool between here and the server.)
        pgconn.send_query_params(_IN_TIME, parameters)
