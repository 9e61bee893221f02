"""Questions of guarddb's own to the server, between the agent's statements. They are not the agent's text, so not judged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from psycopg import BaseConnection, OperationalError, errors as e, pq
from psycopg.generators import execute, fetch_many, send

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn, PGresult

FATAL_ERROR = pq.ExecStatus.FATAL_ERROR
#: Single rows and chunks: see `watch.refresh_gen` about stream().
_ANSWERS = (
    pq.ExecStatus.TUPLES_OK,
    pq.ExecStatus.SINGLE_TUPLE,
    pq.ExecStatus.COMMAND_OK,
    pq.ExecStatus.TUPLES_CHUNK,
)

Row: TypeAlias = tuple[bytes | None, ...]


def ask_gen(conn: BaseConnection[Any], command: bytes) -> PQGen[list[Row]]:
    """Send one command of the guard's own and return its rows as text, in and out of a pipeline."""
    pgconn = conn.pgconn
    if conn._pipeline is None:
        # The base class's, not the guarded connection's: that one would come back here.
        results: list[PGresult | None] = [(yield from BaseConnection._exec_command(conn, command))]
    else:
        guarded: Any = conn
        if guarded._guard.outstanding and pgconn.transaction_status == pq.TransactionStatus.IDLE:
            yield from guarded._guard_before_commit_gen()  # the Sync commits
        # psycopg's _exec_command returns nothing here. The pipeline is empty (see `watch.refresh_gen`), so the
        # next results that arrive are those of this exchange.
        pgconn.send_query_params(command, None)
        pgconn.pipeline_sync()
        yield from send(pgconn)
        results = [*(yield from fetch_many(pgconn))] or [None]
        yield from fetch_many(pgconn)
    return _rows(pgconn, results)


def ask_within_gen(conn: BaseConnection[Any], command: bytes) -> PQGen[list[Row]]:
    """The same in a pipeline, without a Sync: what the pipeline has sent since the last one stays one transaction.

    The answers to what was sent before are taken first, and reach their cursors.
    """
    pipeline, pgconn = conn._pipeline, conn.pgconn
    assert pipeline is not None
    yield from pipeline._communicate_gen()
    yield from pipeline._fetch_gen(flush=True)
    pgconn.send_query_params(command, None)
    pgconn.send_flush_request()
    yield from send(pgconn)
    return _rows(pgconn, [*(yield from fetch_many(pgconn))] or [None])


def begin_aside_gen(conn: BaseConnection[Any], savepoint: bytes) -> PQGen[bool]:
    """Begin what `end_aside_gen` undoes: a transaction of guarddb's own (True), or a savepoint in the agent's."""
    idle = conn.pgconn.transaction_status == pq.TransactionStatus.IDLE
    yield from ask_gen(conn, b"BEGIN READ ONLY" if idle else b"SAVEPOINT " + savepoint)
    return idle


def end_aside_gen(conn: BaseConnection[Any], savepoint: bytes, *, idle: bool) -> PQGen[None]:
    """Undo what was set meanwhile, if the connection lives."""
    if conn.pgconn.status != pq.ConnStatus.OK:
        return
    if idle:
        yield from ask_gen(conn, b"ROLLBACK")
    else:
        yield from ask_gen(conn, b"ROLLBACK TO SAVEPOINT " + savepoint)
        yield from ask_gen(conn, b"RELEASE SAVEPOINT " + savepoint)


def _rows(pgconn: PGconn, results: list[PGresult | None]) -> list[Row]:
    for result in results:
        if result is None or result.status not in _ANSWERS:
            if result is not None and result.status == FATAL_ERROR:
                raise e.error_from_result(result, encoding=pgconn._encoding)
            raise OperationalError("the server did not answer a question of guarddb's")
    return [
        tuple(result.get_value(number, column) for column in range(result.nfields))
        for result in results
        if result is not None
        for number in range(result.ntuples)
    ]


def explain_gen(conn: BaseConnection[Any], query: bytes, pgq: Any, *, generic: bool) -> PQGen[bytes | None]:
    """The plan of a statement that may run, as JSON; it is not run. Outside of a pipeline.

    Args:
        pgq: the converted query, for its parameters.
        generic: plan it for any parameters (PostgreSQL 16).
    """
    pgconn = conn.pgconn
    if not pgq.params:
        ((plan, *_),) = yield from ask_gen(conn, b"EXPLAIN (FORMAT JSON)\n" + query)
        return plan
    if generic:
        ((plan, *_),) = yield from ask_gen(conn, b"EXPLAIN (GENERIC_PLAN, FORMAT JSON)\n" + query)
        return plan
    pgconn.send_query_params(
        b"EXPLAIN (FORMAT JSON)\n" + query,
        pgq.params,
        param_types=pgq.types,
        param_formats=pgq.formats,
    )
    (result,) = yield from execute(pgconn)
    if result.status == FATAL_ERROR:
        raise e.error_from_result(result, encoding=pgconn._encoding)
    if result.status not in _ANSWERS or not result.ntuples:
        raise OperationalError("the server did not answer a question of guarddb's")
    found: bytes | None = result.get_value(0, 0)
    return found
