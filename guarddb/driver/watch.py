"""Whether what is known about the session still holds, and when the server is asked.

All that asks is generators over the connection, like psycopg's own, so that sync and async share them. None of it is the
agent's text, so none of it is judged.

DDL of this connection is noticed at once, because its plan says so. DDL of others is noticed by asking: the
snapshot of the session says whether any transaction ended since the last look, and only then is the catalog's
fingerprint taken. How often is asked depends on what asking costs, so that it never takes more than a few
percent of the time.
"""

from __future__ import annotations

import logging
import re
import threading
from time import perf_counter
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache
from psycopg import BaseConnection, pq

from guarddb.driver import settings
from guarddb.driver.asking import Row, ask_gen, ask_within_gen
from guarddb.driver.plans import UNSETTLING
from guarddb.driver.walled import wall_gen
from guarddb.sql.catalog import (
    CATALOG_QUERY,
    CATALOG_SETTINGS_QUERY,
    FINGERPRINT_QUERY,
    SESSION_QUERY,
    Catalog,
)

if TYPE_CHECKING:
    from psycopg.abc import PQGen

    from guarddb.decision.plan import StatementPlan
    from guarddb.driver.session import Session

logger = logging.getLogger("guarddb")

ACTIVE = pq.TransactionStatus.ACTIVE
IDLE = pq.TransactionStatus.IDLE
INTRANS = pq.TransactionStatus.INTRANS
ABORTED = pq.PipelineStatus.ABORTED

#: Seconds between two looks at the session, at least; a slow server is asked less often, see `_COST_SHARE`.
LOOK_EVERY = 0.001
#: A look may take one part in this many of the time, but it is never put off for longer than this many seconds.
_COST_SHARE = 60
LOOK_AT_LEAST_EVERY = 0.05
#: Seconds between two fingerprints while others write all the time, at the most.
FINGERPRINT_AT_LEAST_EVERY = 0.05
#: After this many seconds without a look the next one asks for everything.
_FORGET_AFTER = 0.1
#: Statements for which the server takes no snapshot (PlannedStmtRequiresSnapshot in utility.c). SET TRANSACTION has to come
#: before any snapshot, and after LOCK a serializable transaction wants to see what was committed until then: a question of
#: guarddb's in front of them would take one.
_TAKES_NO_SNAPSHOT = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:SET|RESET|SHOW|LOCK|SAVEPOINT|RELEASE|ROLLBACK|COMMIT|END|ABORT|BEGIN|START"
    r"|LISTEN|UNLISTEN|NOTIFY)\b",
    re.IGNORECASE | re.DOTALL,
)
_NO_SNAPSHOT_OPERATIONS = frozenset({"SET", "RESET", "SHOW", "LOCK", "LISTEN", "UNLISTEN", "NOTIFY"})


def takes_no_snapshot(query: object) -> bool:
    """Whether a query of the agent's begins with such a statement, as far as that can be told without converting it."""
    if isinstance(query, bytes):
        query = query.decode("utf-8", "replace")
    return isinstance(query, str) and _TAKES_NO_SNAPSHOT.match(query) is not None


def _without_comments(query: str) -> str:
    return "\n".join(line for line in query.splitlines() if not line.lstrip().startswith("--"))


#: What says cheaply that nothing changed: no transaction ended since, and names mean the same. It is sent
#: often.
_LOOK = (
    f"SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text, ({_without_comments(SESSION_QUERY)})".encode()
)
_FINGERPRINT = _without_comments(FINGERPRINT_QUERY).encode()
_SETTINGS = _without_comments(CATALOG_SETTINGS_QUERY).encode()
_NO_HURRY = b"SET LOCAL statement_timeout = 0"
#: A timeout of so many milliseconds does not cut off a fingerprint.
_SHORT_TIMEOUT_MS = 1_000
_CATALOG = _without_comments(CATALOG_QUERY).encode()


class Freshness:
    """May the server be asked now, and must it be? What happens on the connection is told by the verbs."""

    __slots__ = (
        "_cost",
        "_fingerprint_at",
        "_looked_at",
        "_seen",
        "_unchanged",
        "check_at",
        "due",
        "settings_due",
        "stale",
        "streamed",
        "uncommitted",
        "untouched",
    )

    def __init__(self) -> None:
        #: something wants to be looked at before the next statement
        self.due = True
        #: perf_counter() from which on the catalog is looked at again
        self.check_at = 0.0
        #: the catalog must be looked at before anything is judged
        self.stale = True
        #: in a transaction that changed the catalog, or may have
        self.uncommitted = False
        #: in a transaction that has no snapshot yet
        self.untouched = False
        #: the settings that guarddb holds must be set (again)
        self.settings_due = False
        #: a stream() has been, and no pipeline since
        self.streamed = False
        # the last look: when it was, what was seen, when the fingerprint is asked for again, and how often it was the same
        self._looked_at = 0.0
        self._seen: Row | None = None
        self._fingerprint_at = 0.0
        self._unchanged = 0
        #: seconds that a look takes, by the best of the recent ones
        self._cost = 0.0

    def sent(self, statement: StatementPlan) -> None:
        """A statement with effects goes to the server. Whether it succeeds does not matter: look again."""
        facts = statement.facts
        if statement.handling.changes_catalog or not facts.kinds.isdisjoint(UNSETTLING):
            self.stale = self.uncommitted = True
            if "set" in facts.kinds or "other" in facts.kinds:
                self.settings_due = True
        if facts.transaction == "begin":
            self.untouched = True
        elif facts.transaction is None and facts.operation.partition(" ")[0] not in _NO_SNAPSHOT_OPERATIONS:
            self.untouched = False
        self.due = True

    def began(self) -> None:
        """The driver began a transaction."""
        self.untouched = self.due = True

    def ended(self) -> None:
        """There is no transaction."""
        self.untouched = False

    def streams(self) -> None:
        """A stream() was sent: libpq keeps its mode of handing out rows for the first command of the next pipeline."""
        self.streamed = self.due = True

    def settings_changed(self) -> None:
        """Other settings are to be held from now on."""
        self.settings_due = self.due = True

    def failed(self) -> None:
        """A question was interrupted or refused: nothing is known for certain."""
        self.stale = self.due = True
        self._seen = None

    def quiet(self) -> None:
        """The server is never asked."""
        self.stale = self.due = self.settings_due = False
        self.check_at = float("inf")

    def refreshed(self, *, idle: bool, portals: bool) -> None:
        """All that was due has been seen to. In a transaction what it changed itself is looked at again."""
        if idle:
            self.uncommitted = False
        self.stale = self.uncommitted
        self.due = self.stale or self.settings_due or portals

    # A look: what it saw decides what else is asked. What it saw is noted last, when all that follows from it is done.

    def others_looked(self, when: float) -> bool:
        """Whether another connection's look, which found the same catalog, will do for this one; `when`: when that was."""
        now = perf_counter()
        if now - when > LOOK_EVERY or now - self._looked_at > LOOK_AT_LEAST_EVERY:
            return False
        self.check_at = when + self._wait()
        return True

    def says_unchanged(self, seen: Row, started: float) -> bool | None:
        """Whether what a look saw is enough to know that the catalog is the same. None: it is, but what was seen is not noted."""
        now = perf_counter()
        if now - self._looked_at > _FORGET_AFTER:
            self._unchanged = 0
        before = self._seen
        cost = now - started
        self._cost = min(cost, self._cost * 1.1 or cost)
        if self.stale or before is None:
            return False
        if seen == before:
            return True
        if seen[1:] == before[1:] and started < self._fingerprint_at:
            # Others commit all the time; whether it was DDL is asked less and less often while it was not.
            return None
        return False

    def looked(self, seen: Row | None, started: float) -> None:
        """A look is at its end, and what followed from it too."""
        self._looked_at = started
        if seen is not None:
            self._seen = seen
        self.check_at = perf_counter() + self._wait()

    def _wait(self) -> float:
        return min(LOOK_AT_LEAST_EVERY, max(LOOK_EVERY, self._cost * _COST_SHARE))

    def fingerprint_is(self, *, the_same: bool, started: float) -> None:
        now = perf_counter()
        if the_same:
            self._unchanged += 1
            wait = min((now - started) * 2.0 ** min(self._unchanged, 20), FINGERPRINT_AT_LEAST_EVERY)
            self._fingerprint_at = now + wait
        else:
            self._unchanged = 0
            self._fingerprint_at = 0.0


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
#: When the catalog of a database was last looked at by any connection of the process, and which it was then.
_LOOKED: LRUCache[tuple[object, ...], tuple[float, str]] = LRUCache(64)


def refresh_gen(session: Session, conn: BaseConnection[Any], query: object = None) -> PQGen[None]:
    """See to whatever is due, before a statement is judged: `query`, as the agent gave it."""
    try:
        yield from _refresh_gen(session, conn, query)
    except BaseException:
        session.freshness.failed()
        raise


def _refresh_gen(session: Session, conn: BaseConnection[Any], query: object) -> PQGen[None]:
    freshness = session.freshness
    pgconn = conn.pgconn
    status = pgconn.transaction_status
    pipeline = conn._pipeline
    if pipeline is None:
        session.names.settle()
    elif not (pipeline.command_queue or pipeline.result_queue):
        session.names.begin_pipeline()
    if status == IDLE and not (pipeline and pipeline.result_queue):
        session.names.end_transaction()
        session.sensitive = session.savepoint_open = False
        freshness.ended()
    if session.in_force is not None and session.in_force.forbids_nothing and query is not None:
        # Nothing is judged by the catalog, and nothing is held: what goes over the wire is what the agent sends.
        freshness.quiet()
        return
    if pipeline is not None:
        if pgconn.pipeline_status == ABORTED:
            return
        if pipeline.command_queue or pipeline.result_queue or status == ACTIVE:
            # Asking now would end the pipeline's implicit transaction, so only what cannot wait does that.
            if session.catalog is not None and not freshness.stale:
                return
            if conn.autocommit and session.catalog is not None and not freshness.untouched:
                # A Sync would end the transaction that the statements of the pipeline are in.
                if (yield from _same_within_gen(session, conn, session.catalog)):
                    return
            yield from pipeline._sync_gen()
            status = pgconn.transaction_status
    # In a failed transaction the server answers nothing but an end of it; the catalog of before will do for
    # that.
    if status not in (IDLE, INTRANS):
        return
    if freshness.untouched and session.catalog is not None and takes_no_snapshot(query):
        return
    if freshness.streamed and pipeline is not None:
        # libpq hands out the rows of a pipeline's first command one by one when the last command before it did, and
        # then psycopg fails with a command that returns rows.
        yield from ask_gen(conn, b"SELECT")
    freshness.streamed = False
    if freshness.settings_due or settings.fell(session.held, conn):
        yield from settings.hold_gen(session.held, conn)
        freshness.settings_due = status != IDLE
    if session.wall_due:
        yield from wall_gen(session, conn)
    if freshness.stale or session.catalog is None:
        yield from _look_gen(session, conn)
    elif perf_counter() >= freshness.check_at:
        when, version = _LOOKED.get(session.database, (0.0, ""))
        if version != session.catalog.version or not freshness.others_looked(when):
            yield from _look_gen(session, conn)
        if session.wall_due:
            yield from wall_gen(session, conn)
    freshness.refreshed(idle=status == IDLE, portals=bool(session.names.portals))


def _look_gen(session: Session, conn: BaseConnection[Any]) -> PQGen[None]:
    freshness = session.freshness
    started = perf_counter()
    (seen,) = yield from ask_gen(conn, _LOOK)
    unchanged = freshness.says_unchanged(seen, started)
    if unchanged is not False and session.catalog is not None:
        freshness.looked(seen if unchanged else None, started)
        if unchanged and not freshness.uncommitted:
            _LOOKED[session.database] = (started, session.catalog.version)
        return
    (row,) = yield from _unhurried_gen(session, conn, _FINGERPRINT)
    fingerprint = (row[0] or b"").decode()
    catalog = session.catalog
    if catalog is not None and catalog.version == fingerprint:
        freshness.fingerprint_is(the_same=True, started=started)
    else:
        freshness.fingerprint_is(the_same=False, started=started)
        catalog = CATALOGS.get(session.database, fingerprint)
        if catalog is None:
            catalog = yield from _read_gen(session, conn)
    catalog = catalog.with_session_document(seen[1] or b"{}")
    before_it = session.catalog
    if before_it is not None and _same(catalog, before_it):
        catalog = before_it
    if catalog is not session.catalog:
        if before_it is not None and session.profile is not None and session.profile.guarddb.wall is not None:
            session.wall_due = True
        session.catalog = catalog
        session.renew()
    elif session.encoding != conn.pgconn._encoding:
        session.renew()
    freshness.looked(seen, started)
    if not freshness.uncommitted:
        _LOOKED[session.database] = (started, catalog.version)


def _same_within_gen(session: Session, conn: BaseConnection[Any], catalog: Catalog) -> PQGen[bool]:
    """Whether the catalog and what names mean are the same, asked within the implicit transaction of a pipeline."""
    (seen,) = yield from ask_within_gen(conn, _LOOK)
    (row,) = yield from ask_within_gen(conn, _FINGERPRINT)
    if (row[0] or b"").decode() != catalog.version:
        return False
    return _same(catalog.with_session_document(seen[1] or b"{}"), catalog)


def _unhurried_gen(session: Session, conn: BaseConnection[Any], command: bytes) -> PQGen[list[Row]]:
    """Ask something that may take some milliseconds. A short statement_timeout is not meant for guarddb's questions."""
    timeout = session.held.get("statement_timeout")
    if timeout is None or int(timeout) >= _SHORT_TIMEOUT_MS or conn.pgconn.transaction_status != IDLE:
        return (yield from ask_gen(conn, command))
    yield from ask_gen(conn, b"BEGIN READ ONLY")
    try:
        yield from ask_gen(conn, _NO_HURRY)
        return (yield from ask_gen(conn, command))
    finally:
        if conn.pgconn.status == pq.ConnStatus.OK:
            yield from ask_gen(conn, b"ROLLBACK")


def _read_gen(session: Session, conn: BaseConnection[Any]) -> PQGen[Catalog]:
    idle = conn.pgconn.transaction_status == IDLE
    yield from ask_gen(conn, b"BEGIN READ ONLY" if idle else b"SAVEPOINT guarddb_catalog")
    try:
        yield from ask_gen(conn, _NO_HURRY)
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
    if idle or not session.freshness.uncommitted:
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
