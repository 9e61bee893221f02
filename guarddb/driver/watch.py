"""What the guard has to ask the server: the walls of the session, and whether the catalog still holds.

All of it is generators over the connection, like psycopg's own, so that sync and async share them. None of it
is the agent's text, so none of it is judged.

DDL of this connection is noticed at once, because its plan says so. DDL of others is noticed by asking: the
snapshot of the session says whether any transaction ended since the last look, and only then is the catalog's
fingerprint taken. How often is asked depends on what asking costs, so that it never takes more than a few
percent of the time.
"""

from __future__ import annotations

import logging
import threading
from time import perf_counter
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache
from psycopg import BaseConnection, OperationalError, errors as e, pq
from psycopg.generators import fetch_many, send

from guarddb.sql.catalog import (
    CATALOG_QUERY,
    CATALOG_SETTINGS_QUERY,
    FINGERPRINT_QUERY,
    SESSION_QUERY,
    Catalog,
)

if TYPE_CHECKING:
    from psycopg.abc import PQGen

    from guarddb.driver.session import Session

logger = logging.getLogger("guarddb")

ACTIVE = pq.TransactionStatus.ACTIVE
IDLE = pq.TransactionStatus.IDLE
INTRANS = pq.TransactionStatus.INTRANS
FATAL_ERROR = pq.ExecStatus.FATAL_ERROR
#: The second is for single rows, see `refresh_gen`.
_ANSWERS = (
    pq.ExecStatus.TUPLES_OK,
    pq.ExecStatus.SINGLE_TUPLE,
    pq.ExecStatus.COMMAND_OK,
    pq.ExecStatus.TUPLES_CHUNK,
)
ABORTED = pq.PipelineStatus.ABORTED

#: Seconds between two looks at the session, at least; a slow server is asked less often, see `_COST_SHARE`.
LOOK_EVERY = 0.001
#: A look may take one part in this many of the time.
_COST_SHARE = 60
#: Seconds between two fingerprints while others write all the time, at the most.
FINGERPRINT_AT_LEAST_EVERY = 0.05
#: After this many seconds without a look the next one asks for everything.
_FORGET_AFTER = 0.1

Row = tuple[bytes | None, ...]


def _without_comments(query: str) -> str:
    return "\n".join(line for line in query.splitlines() if not line.lstrip().startswith("--"))


#: What says cheaply that nothing changed: no transaction ended since, and names mean the same. It is sent
#: often.
_LOOK = (
    f"SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text, ({_without_comments(SESSION_QUERY)})".encode()
)
_FINGERPRINT = _without_comments(FINGERPRINT_QUERY).encode()
_SETTINGS = _without_comments(CATALOG_SETTINGS_QUERY).encode()
_CATALOG = _without_comments(CATALOG_QUERY).encode()


class Looks:
    """When the catalog of one connection was last looked at, and what was seen."""

    __slots__ = ("at", "fingerprint_at", "seen", "unchanged")

    def __init__(self) -> None:
        self.at = 0.0
        self.fingerprint_at = 0.0
        self.unchanged = 0
        self.seen: Row | None = None


class CatalogCache:
    """The catalogs of the process, by database and fingerprint; the last few used of each database are kept."""

    def __init__(self, per_database: int = 4, databases: int = 64) -> None:
        self._per_database = per_database
        self._databases: LRUCache[tuple[object, ...], LRUCache[str, Catalog]] = LRUCache(databases)
        self._lock = threading.Lock()

    def get(self, database: tuple[object, ...], fingerprint: str) -> Catalog | None:
        with self._lock:
            catalogs = self._databases.get(database)
            return catalogs.get(fingerprint) if catalogs is not None else None

    def put(self, database: tuple[object, ...], fingerprint: str, catalog: Catalog) -> None:
        with self._lock:
            catalogs = self._databases.get(database)
            if catalogs is None:
                catalogs = self._databases[database] = LRUCache(self._per_database)
            catalogs[fingerprint] = catalog


CATALOGS = CatalogCache()


def refresh_gen(session: Session, conn: BaseConnection[Any], looks: Looks) -> PQGen[None]:
    """See to whatever `session.attention` or the clock asks for, before a statement is judged."""
    pgconn = conn.pgconn
    status = pgconn.transaction_status
    pipeline = conn._pipeline
    if pipeline is None:
        session.names.settle()
    elif not (pipeline.command_queue or pipeline.result_queue):
        session.names.begin_pipeline()
    if status == IDLE and not (pipeline and pipeline.result_queue):
        session.names.end_transaction()
        session.sensitive = session.began = False
    if pipeline is not None:
        if pgconn.pipeline_status == ABORTED:
            return
        if pipeline.command_queue or pipeline.result_queue or status == ACTIVE:
            # Asking now would end the pipeline's implicit transaction, so only what cannot wait does that.
            if session.catalog is not None and not session.stale:
                return
            yield from pipeline._sync_gen()
            status = pgconn.transaction_status
    # In a failed transaction the server answers nothing but an end of it; the catalog of before will do for
    # that.
    if status not in (IDLE, INTRANS):
        return
    if session.began and session.catalog is not None and not session.stale:
        # SET TRANSACTION must come before any query, ours included.
        return
    if session.streamed and pipeline is not None:
        # libpq hands out the rows of a pipeline's first command one by one when the last command before it did, and
        # then psycopg fails with a command that returns rows.
        yield from ask_gen(conn, b"SELECT")
    session.streamed = False
    if session.walls_due or _walls_fell(session, conn):
        yield from set_walls_gen(session, conn)
        session.walls_due = status != IDLE
    if session.stale or session.catalog is None or perf_counter() >= session.check_at:
        yield from _look_gen(session, conn, looks)
        session.dirty = session.dirty and status != IDLE
        session.stale = session.dirty
    session.attention = session.stale or session.walls_due or bool(session.names.portals)


def _look_gen(session: Session, conn: BaseConnection[Any], looks: Looks) -> PQGen[None]:
    started = perf_counter()
    if started - looks.at > _FORGET_AFTER:
        looks.unchanged = 0
    must = session.stale or session.catalog is None
    (seen,) = yield from ask_gen(conn, _LOOK)
    cost = perf_counter() - started
    session.check_at = perf_counter() + max(LOOK_EVERY, cost * _COST_SHARE)
    looks.at = started
    before, looks.seen = looks.seen, seen
    if not must and before is not None:
        if seen == before:
            return
        if seen[1:] == before[1:] and started < looks.fingerprint_at:
            # Others commit all the time; whether it was DDL is asked less and less often while it was not.
            looks.seen = before
            return
    (row,) = yield from ask_gen(conn, _FINGERPRINT)
    fingerprint = (row[0] or b"").decode()
    cost = perf_counter() - started
    catalog = session.catalog
    if catalog is not None and catalog.version == fingerprint:
        looks.unchanged += 1
        wait = min(cost * 2.0 ** min(looks.unchanged, 20), FINGERPRINT_AT_LEAST_EVERY)
        looks.fingerprint_at = perf_counter() + wait
    else:
        looks.unchanged = 0
        looks.fingerprint_at = 0.0
        catalog = CATALOGS.get(session.database, fingerprint)
        if catalog is None:
            catalog = yield from _read_gen(session, conn)
    catalog = catalog.with_session_document(seen[1] or b"{}")
    before_it = session.catalog
    if before_it is not None and _same(catalog, before_it):
        catalog = before_it
    if catalog is not session.catalog:
        session.catalog = catalog
        session.renew()
    elif session.encoding != conn.pgconn._encoding:
        session.renew()


def _read_gen(session: Session, conn: BaseConnection[Any]) -> PQGen[Catalog]:
    idle = conn.pgconn.transaction_status == IDLE
    yield from ask_gen(conn, b"BEGIN READ ONLY" if idle else b"SAVEPOINT guarddb_catalog")
    try:
        yield from ask_gen(conn, _SETTINGS)
        (row,) = yield from ask_gen(conn, _CATALOG)
    finally:
        # The settings go with the transaction or savepoint.
        if conn.pgconn.status == pq.ConnStatus.OK:
            if idle:
                yield from ask_gen(conn, b"ROLLBACK")
            else:
                yield from ask_gen(conn, b"ROLLBACK TO SAVEPOINT guarddb_catalog")
                yield from ask_gen(conn, b"RELEASE SAVEPOINT guarddb_catalog")
    catalog = Catalog.from_document(row[0] or b"{}")
    if idle or not session.dirty:
        # (What this transaction made of it is nobody else's.)
        # Filed under its own fingerprint, taken in the same statement; the one asked for may be older.
        CATALOGS.put(session.database, catalog.version, catalog)
    return catalog


def _same(one: Catalog, other: Catalog) -> bool:
    return (
        one.version == other.version
        and one.search_path == other.search_path
        and one.temp_schema == other.temp_schema
    )


def _walls_fell(session: Session, conn: BaseConnection[Any]) -> bool:
    # DISCARD ALL and RESET ALL take all walls down, and the server reports this one by itself: no question asked.
    return (
        session.walls.get("default_transaction_read_only") == "on"
        and conn.pgconn.parameter_status(b"default_transaction_read_only") == b"off"
    )


def set_walls_gen(session: Session, conn: BaseConnection[Any]) -> PQGen[None]:
    calls = [
        f"pg_catalog.set_config({_literal(name)}, {'NULL' if value is None else _literal(value)}, false)"
        for name, value in session.walls.items()
        if not (name in _REPORTED and conn.pgconn.parameter_status(name.encode()) == (value or "").encode())
    ]
    if calls:
        yield from ask_gen(conn, f"SELECT {', '.join(calls)}".encode(conn.pgconn._encoding))


#: Walls that the server reports by itself whenever they change (GUC_REPORT; the second since version 14).
_REPORTED = frozenset({"standard_conforming_strings", "default_transaction_read_only"})


def _literal(value: str) -> str:
    # The E form means the same with standard_conforming_strings on and off.
    doubled = value.replace("\\", "\\\\").replace("'", "''")
    return f"E'{doubled}'"


def ask_gen(conn: BaseConnection[Any], command: bytes) -> PQGen[list[Row]]:
    """Send one command of the guard's own and return its rows as text, in and out of a pipeline."""
    pgconn = conn.pgconn
    if conn._pipeline is None:
        # The base class's, not the guarded connection's: that one would come back here.
        results = [(yield from BaseConnection._exec_command(conn, command))]
    else:
        # psycopg's _exec_command returns nothing here. The pipeline is empty (see `refresh_gen`), so the next
        # results that arrive are those of this exchange.
        pgconn.send_query_params(command, None)
        pgconn.pipeline_sync()
        yield from send(pgconn)
        results = [*(yield from fetch_many(pgconn))] or [None]
        yield from fetch_many(pgconn)
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
