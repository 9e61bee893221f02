"""Reading the catalog, without waiting for what others have locked; and the catalogs that the process keeps."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache
from psycopg import BaseConnection, errors as e, pq

from guarddb.driver.asking import ask_gen, begin_aside_gen, end_aside_gen
from guarddb.sql.catalog import CATALOG_QUERY, CATALOG_SETTINGS_QUERY, Catalog

if TYPE_CHECKING:
    from psycopg.abc import PQGen

    from guarddb.driver.session import Session


def without_comments(query: str) -> str:
    return "\n".join(line for line in query.splitlines() if not line.lstrip().startswith("--"))


_SAVEPOINT = b"guarddb_catalog"
NO_HURRY = b"SET LOCAL statement_timeout = 0"
#: What others have locked so that nobody may open it, or are waiting to: catalog.sql leaves out what it could not read without
#: waiting for them. (A lock that is held already is given again at once. Who may not see the locks waits.)
_BUSY = (
    b"SELECT pg_catalog.set_config('lock_timeout', '200ms', true), pg_catalog.set_config('guarddb.busy', ("
    b"SELECT pg_catalog.array_agg(DISTINCT l.relation)::pg_catalog.text FROM pg_catalog.pg_locks AS l "
    b"WHERE l.locktype OPERATOR(pg_catalog.=) 'relation' AND l.mode OPERATOR(pg_catalog.=) 'AccessExclusiveLock' "
    b"AND l.database OPERATOR(pg_catalog.=) "
    b"(SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()) "
    b"AND l.relation OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid AND NOT EXISTS ("
    b"SELECT FROM pg_catalog.pg_locks AS m WHERE m.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid() "
    b"AND m.relation OPERATOR(pg_catalog.=) l.relation AND m.granted)), true)"
)
_MAY_SEE_LOCKS = b"SELECT pg_catalog.has_table_privilege('pg_catalog.pg_locks', 'SELECT')"
_WAITS = b"SELECT pg_catalog.set_config('guarddb.busy', '', true)"
#: How often a catalog is read again because a lock came between; then the last reading waits.
_ATTEMPTS = 3
_SETTINGS = without_comments(CATALOG_SETTINGS_QUERY).encode()
_CATALOG = without_comments(CATALOG_QUERY).encode()


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
CATALOGS = CatalogCache()


def read_catalog_gen(session: Session, conn: BaseConnection[Any], *, waits: bool) -> PQGen[Catalog]:
    """Read the catalog. What could not be read without waiting for somebody's lock is left out, unless it `waits`."""
    idle = conn.pgconn.transaction_status == pq.TransactionStatus.IDLE
    attempt = _ATTEMPTS if waits else 0
    while True:
        attempt += 1
        try:
            document = yield from _document_gen(session, conn, waits=attempt > _ATTEMPTS)
            break
        except (e.LockNotAvailable, e.InternalError):
            # (The second: something was dropped while it was read.)
            if attempt > _ATTEMPTS:
                raise
    catalog = Catalog.from_document(document)
    if not catalog.partial and (idle or not session.freshness.uncommitted):
        # (What this transaction made of it is nobody else's.)
        # Filed under its own fingerprint, taken in the same statement; the one asked for may be older.
        CATALOGS.put(session.database, catalog.version, catalog)
    return catalog


def _document_gen(session: Session, conn: BaseConnection[Any], *, waits: bool) -> PQGen[bytes]:
    idle = yield from begin_aside_gen(conn, _SAVEPOINT)
    try:
        yield from ask_gen(conn, NO_HURRY)
        yield from ask_gen(conn, _SETTINGS)
        if waits:
            yield from ask_gen(conn, _WAITS)
            patience = session.held.get("statement_timeout")
            if patience is not None and int(patience):
                yield from ask_gen(conn, b"SET LOCAL lock_timeout = %d" % int(patience))
        else:
            ((may,),) = yield from ask_gen(conn, _MAY_SEE_LOCKS)
            yield from ask_gen(conn, _BUSY if may == b"t" else _WAITS)
        (row,) = yield from ask_gen(conn, _CATALOG)
    finally:
        yield from end_aside_gen(conn, _SAVEPOINT, idle=idle)  # (the settings go with it)
    return row[0] or b"{}"
