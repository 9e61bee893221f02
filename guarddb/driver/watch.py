"""Whether what is known about the session still holds, and when the server is asked.

All that asks is generators over the connection, like psycopg's own, so that sync and async share them. None of it is the
agent's text, so none of it is judged.

DDL of this connection is noticed at once, because its plan says so. DDL of others is noticed by asking: the
snapshot of the session says whether any transaction ended since the last look, and only then is the catalog's
fingerprint taken. How often is asked depends on what asking costs, so that it never takes more than a few
percent of the time. A database may also say itself that its catalog has changed, see `announced.py`.
"""

from __future__ import annotations

import logging
import re
import threading
from time import perf_counter
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache
from psycopg import BaseConnection, errors as e, pq

from guarddb.driver import announced, settings
from guarddb.driver.asking import Row, ask_gen, ask_within_gen
from guarddb.driver.filter_trials import try_filters_gen
from guarddb.driver.plans import UNSETTLING
from guarddb.driver.walled import look_at_roles_gen, wall_gen
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
#: The same in a pipeline that has answers to come.
PIPELINE_AT_LEAST_EVERY = 1.0
#: Seconds between two fingerprints while others write all the time, at the most.
FINGERPRINT_AT_LEAST_EVERY = 0.05
#: The same where the database announces its changes: only what no event trigger fires for is left to find.
ANNOUNCED_FINGERPRINT_EVERY = 1.0
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
#: Statements after which a session may not hear what it listened for.
_ENDS_LISTENING = frozenset({"UNLISTEN", "DISCARD"})
_NO_SNAPSHOT_OPERATIONS = frozenset({"SET", "RESET", "SHOW", "LOCK", "LISTEN", "UNLISTEN", "NOTIFY"})


#: Classes of SQLSTATE: what parse analysis and rights say; schemas; and what the server did not expect (something was dropped).
_OF_NAMES = ("42", "3F", "XX")


def contradicts(error: e.Error) -> bool:
    """Whether an error may mean that the catalog is another than was thought: a name that is not there, or means something else.

    (Every mistake of the agent's in a name does too. It costs a look.)
    """
    state = error.diag.sqlstate or ""
    if state == "0A000":
        return error.diag.source_function == "RevalidateCachedQuery"
    return state.startswith(_OF_NAMES)


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
    "SELECT pg_catalog.current_setting('transaction_isolation'), pg_catalog.pg_current_snapshot()::pg_catalog.text, "
    f"({_without_comments(SESSION_QUERY)})"
).encode()
#: The same where the database announces changes; only between transactions.
_LOOK_AT_STATE = _LOOK + b", " + announced.STATE.encode()
_FINGERPRINT = _without_comments(FINGERPRINT_QUERY).encode()
_SETTINGS = _without_comments(CATALOG_SETTINGS_QUERY).encode()
_NO_HURRY = b"SET LOCAL statement_timeout = 0"
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
#: Seconds after which a catalog that was read in parts is read again.
_READ_REST_AFTER = 0.5
#: A timeout of so many milliseconds does not cut off a fingerprint.
_SHORT_TIMEOUT_MS = 1_000
_CATALOG = _without_comments(CATALOG_QUERY).encode()


class Freshness:
    """May the server be asked now, and must it be? What happens on the connection is told by the verbs."""

    __slots__ = (
        "_announced_at",
        "_cost",
        "_fingerprint_at",
        "_looked_at",
        "_seen",
        "_told_at",
        "_unchanged",
        "announces",
        "behind",
        "check_at",
        "due",
        "fixed",
        "fixed_at_first",
        "hears",
        "isolation_due",
        "listen_due",
        "rest_at",
        "settings_due",
        "stale",
        "streamed",
        "uncommitted",
        "untouched",
        "verified",
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
        #: the transaction sees all through one snapshot, or may; what a transaction is when nobody says; and that has to be asked
        self.fixed = False
        self.fixed_at_first = False
        self.isolation_due = True
        #: the last look was through the snapshot of a transaction
        self.behind = False
        #: texts whose names were found to mean the same in this transaction, see `fixed_snapshot.py`
        self.verified: set[bytes] = set()
        #: the settings that guarddb holds must be set (again)
        self.settings_due = False
        #: a stream() has been, and no pipeline since
        self.streamed = False
        #: the database has the table of `announced.py`; this session hears its notifications; and it has to LISTEN (again)
        self.announces = False
        self.hears = False
        self.listen_due = False
        #: perf_counter() from which on a catalog that was read in parts is read again
        self.rest_at = 0.0
        # the last look: when it was, what was seen, when the fingerprint is asked for again, and how often it was the same
        self._looked_at = 0.0
        self._seen: Row | None = None
        self._fingerprint_at = 0.0
        self._unchanged = 0
        #: seconds that a look takes, by the best of the recent ones
        self._cost = 0.0
        #: perf_counter() until which what the database announces is enough
        self._announced_at = 0.0
        #: when a notification came last
        self._told_at = 0.0

    def sent(self, statement: StatementPlan) -> None:
        """A statement with effects goes to the server. Whether it succeeds does not matter: look again."""
        facts = statement.facts
        if statement.handling.changes_catalog or not facts.kinds.isdisjoint(UNSETTLING):
            self.stale = self.uncommitted = True
            if "set" in facts.kinds or "other" in facts.kinds:
                self.settings_due = True
        if statement.handling.changes_settings:
            self.settings_due = True
        if facts.transaction is not None or "set" in facts.kinds or statement.handling.changes_settings:
            # (What a statement says of the isolation level is not read: it is asked for, and until then the worst is supposed.)
            self.isolation_due = self.fixed = True
            self.verified.clear()
        if facts.transaction == "begin":
            self.untouched = True
        elif facts.transaction is None and facts.operation.partition(" ")[0] not in _NO_SNAPSHOT_OPERATIONS:
            self.untouched = False
        if self.hears and facts.operation.partition(" ")[0] in _ENDS_LISTENING:
            self.listen_due = True
        self.due = True

    def told(self) -> None:
        """A notification says that the catalog has changed."""
        self.check_at = 0.0
        self._told_at = perf_counter()

    def has_table(self, *, announces: bool) -> None:
        """Another catalog is in force, which has the table of `announced.py` or not."""
        if announces and not self.announces:
            self.listen_due = self.due = True
        self.announces = announces
        self.hears = self.hears and announces

    def began(self, command: bytes) -> None:
        """The driver began a transaction."""
        self.untouched = self.due = True
        self.fixed = b"COMMITTED" not in command if b"ISOLATION" in command else self.fixed_at_first
        self.verified.clear()

    def isolation_is(self, level: bytes | None, *, idle: bool) -> None:
        """What the server says of the transaction it is in, or (`idle`) of any that it begins."""
        self.fixed = level not in (b"read committed", b"read uncommitted")
        self.isolation_due = False
        self.behind = self.fixed and not idle
        if idle:
            self.fixed_at_first = self.fixed

    def ended(self) -> None:
        """There is no transaction."""
        self.untouched = False
        if self.behind:
            self.isolation_due, self._fingerprint_at = (
                True,
                0.0,
            )  # what was seen says nothing of the newest catalog

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

    def contradicted(self) -> None:
        """The server found other names than the catalog has: the next statement is not judged before a look."""
        self.due = True
        self.check_at = self._looked_at = 0.0
        self._seen = None

    def quiet(self) -> None:
        """The server is never asked."""
        self.stale = self.due = self.settings_due = False
        self.check_at = float("inf")

    def refreshed(self, *, idle: bool, more: bool) -> None:
        """All that was due has been seen to. In a transaction what it changed itself is looked at again."""
        if idle:
            self.uncommitted = False
        self.stale = self.uncommitted
        self.due = (
            self.stale or self.settings_due or self.listen_due or self.isolation_due or self.behind or more
        )

    # A look: what it saw decides what else is asked. What it saw is noted last, when all that follows from it is done.

    def others_looked(self, when: float) -> bool:
        """Whether another connection's look, which found the same catalog, will do for this one; `when`: when that was."""
        now = perf_counter()
        if when < self._told_at or now - when > LOOK_EVERY or now - self._looked_at > LOOK_AT_LEAST_EVERY:
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
        if seen[:2] == before[:2]:
            return True
        if seen[2] is not None and seen[1:] == before[1:] and started < self._announced_at:
            return True
        announced_something = seen[2] is not None and before[2] is not None and seen[2] != before[2]
        if seen[1] == before[1] and started < self._fingerprint_at and not announced_something:
            # Others commit all the time; whether it was DDL is asked less and less often while it was not.
            return None
        return False

    def overdue(self) -> bool:
        """Whether it is too long since a look, although looking holds up a pipeline."""
        wait = min(PIPELINE_AT_LEAST_EVERY, max(LOOK_AT_LEAST_EVERY, self._cost * _COST_SHARE))
        return perf_counter() - self._looked_at >= wait

    def looked(self, seen: Row | None, started: float, *, same_catalog: bool = True) -> None:
        """A look is at its end, and what followed from it too."""
        self._looked_at = started
        if seen is not None:
            before = self._seen
            if seen[2] is None and before is not None and same_catalog:
                # Not asked in a transaction: what was announced before is all that led to this catalog.
                seen = (*seen[:2], before[2])
            self._seen = seen
        self.check_at = perf_counter() + self._wait()

    def _wait(self) -> float:
        return min(LOOK_AT_LEAST_EVERY, max(LOOK_EVERY, self._cost * _COST_SHARE))

    def fingerprint_is(self, *, the_same: bool, started: float) -> None:
        now = perf_counter()
        self._announced_at = started + ANNOUNCED_FINGERPRINT_EVERY
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
        session.sensitive = session.wrote = False
        freshness.ended()
    if session.in_force is not None and session.in_force.forbids_nothing and query is not None:
        # Nothing is judged by the catalog, and nothing is held: what goes over the wire is what the agent sends.
        freshness.quiet()
        if session.encoding != pgconn._encoding:
            session.renew()
        return
    if pipeline is not None:
        if pgconn.pipeline_status == ABORTED:
            if not (freshness.stale or freshness.settings_due):
                return
            # That is what has been read so far. Behind a Sync that is on its way statements run again, and names may mean others.
            yield from pipeline._communicate_gen()
            yield from pipeline._fetch_gen(flush=True)
            if pgconn.pipeline_status == ABORTED:
                return
            status = pgconn.transaction_status
        if pipeline.command_queue or pipeline.result_queue or status == ACTIVE:
            # A Sync would end the pipeline's implicit transaction, so only what cannot wait does that; and what is asked
            # waits for the answers to all that was sent, so it is asked seldom.
            due = freshness.stale or freshness.settings_due
            if session.catalog is not None and not due:
                if not freshness.overdue() or (freshness.untouched and takes_no_snapshot(query)):
                    return
            if session.catalog is not None and (not due or (conn.autocommit and not freshness.untouched)):
                if (yield from _same_within_gen(session, conn, session.catalog)):
                    if freshness.settings_due:
                        yield from settings.hold_gen(session.kept, conn, within=True)
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
        yield from settings.hold_gen(session.kept, conn)
        freshness.settings_due = status != IDLE
    if session.wall_due:
        yield from wall_gen(session, conn)
    if freshness.listen_due and status == IDLE and pipeline is None:
        yield from _listen_gen(session, conn)
    catalog = session.catalog
    if catalog is not None and catalog.unread and _mentions(query, session, catalog.unread):
        # It would wait for the lock itself, and what it reads there is needed to judge it.
        yield from _look_gen(session, conn, waits=True)
    elif freshness.stale or catalog is None or (catalog.partial and perf_counter() >= freshness.rest_at):
        yield from _look_gen(session, conn)
        catalog = session.catalog
        if catalog is not None and catalog.unread and _mentions(query, session, catalog.unread):
            yield from _look_gen(session, conn, waits=True)
    elif freshness.isolation_due:
        yield from _look_gen(session, conn)
    elif perf_counter() >= freshness.check_at:
        when, version = _LOOKED.get(session.database, (0.0, ""))
        if version != catalog.version or session.wall is not None or not freshness.others_looked(when):
            yield from _look_gen(session, conn)
    if session.wall_due:
        yield from wall_gen(session, conn)
    if session.filters_due and status == IDLE and pipeline is None:
        yield from try_filters_gen(session, conn)
        session.filters_due = False
    # (Of a catalog with gaps it depends on the text what is asked.)
    unread = session.catalog is not None and bool(session.catalog.unread)
    freshness.refreshed(
        idle=status == IDLE, more=bool(session.names.portals) or session.filters_due or unread
    )


def _mentions(query: object, session: Session, names: tuple[str, ...]) -> bool:
    """Whether a text, or a predicate of the policy, may be about a relation of one of these names. When in doubt it is."""
    if query is None:
        return False
    if isinstance(query, bytes):
        query = query.decode("utf-8", "replace")
    if not isinstance(query, str) or not query:
        return True
    texts = [query]
    if session.in_force is not None:
        texts += [each.predicate for each in session.in_force.profile.row_filters]
    folded = "\n".join(texts).lower()
    return any(name.lower() in folded for name in names)


def _look_gen(session: Session, conn: BaseConnection[Any], *, waits: bool = False) -> PQGen[None]:
    freshness = session.freshness
    started = perf_counter()
    seen = yield from _seen_gen(session, conn)
    unchanged = freshness.says_unchanged(seen, started)
    rest = session.catalog is not None and session.catalog.partial and (waits or started >= freshness.rest_at)
    if unchanged is not False and session.catalog is not None and not rest:
        freshness.looked(seen if unchanged else None, started)
        if unchanged and not freshness.uncommitted and not freshness.behind:
            _LOOKED[session.database] = (started, session.catalog.version)
        return
    (row,) = yield from _unhurried_gen(session, conn, _FINGERPRINT)
    fingerprint = (row[0] or b"").decode()
    catalog = session.catalog
    same = catalog is not None and catalog.fingerprint == fingerprint
    yield from look_at_roles_gen(session, conn, catalog_is_same=same)
    if catalog is not None and same and not rest:
        freshness.fingerprint_is(the_same=True, started=started)
    else:
        freshness.fingerprint_is(the_same=False, started=started)
        catalog = CATALOGS.get(session.database, fingerprint)
        if catalog is None:
            catalog = yield from _read_gen(session, conn, waits=waits)
            freshness.rest_at = perf_counter() + _READ_REST_AFTER
    catalog = catalog.with_session_document(seen[1] or b"{}")
    before_it = session.catalog
    if before_it is not None and _same(catalog, before_it):
        catalog = before_it
    if catalog is not session.catalog:
        if before_it is not None and session.profile is not None and session.profile.guarddb.wall is not None:
            session.wall_due = True
        session.catalog = catalog
        freshness.has_table(announces=announced.announces(catalog))
        session.renew()
    elif session.encoding != conn.pgconn._encoding:
        session.renew()
    freshness.looked(seen, started, same_catalog=catalog is before_it)
    if not freshness.uncommitted and not freshness.behind:
        _LOOKED[session.database] = (started, catalog.version)


def _seen_gen(session: Session, conn: BaseConnection[Any]) -> PQGen[Row]:
    """What a look sees: the server's snapshot, what names mean, and what the database has announced (None: not asked)."""
    freshness = session.freshness
    if freshness.announces and conn.pgconn.transaction_status == IDLE:
        try:
            ((level, *row),) = yield from ask_gen(conn, _LOOK_AT_STATE)
        except e.ProgrammingError:
            # The table has been taken away, or closed to this role.
            freshness.has_table(announces=False)
        else:
            freshness.isolation_is(level, idle=True)
            return tuple(row)
    idle = conn.pgconn.transaction_status == IDLE
    ((level, *row),) = yield from ask_gen(conn, _LOOK)
    freshness.isolation_is(level, idle=idle)
    return (*row, None)


def _listen_gen(session: Session, conn: BaseConnection[Any]) -> PQGen[None]:
    freshness = session.freshness
    freshness.listen_due = False
    if not freshness.announces:
        return
    try:
        yield from ask_gen(conn, announced.LISTEN)
    except e.OperationalError:
        raise
    except e.Error:  # (a standby server has no notifications)
        freshness.hears = False
    else:
        freshness.hears = True


def _same_within_gen(session: Session, conn: BaseConnection[Any], catalog: Catalog) -> PQGen[bool]:
    """Whether the catalog and what names mean are the same, asked within the transaction of a pipeline."""
    freshness = session.freshness
    started = perf_counter()
    ((level, *row),) = yield from ask_within_gen(conn, _LOOK)
    freshness.isolation_is(level, idle=False)
    seen: Row = (*row, None)
    unchanged = freshness.says_unchanged(seen, started)
    if unchanged is not False:
        freshness.looked(seen if unchanged else None, started)
        return True
    ((fingerprint, *_),) = yield from ask_within_gen(conn, _FINGERPRINT)
    same = (fingerprint or b"").decode() == catalog.fingerprint
    freshness.fingerprint_is(the_same=same, started=started)
    if not same or not _same(catalog.with_session_document(seen[1] or b"{}"), catalog):
        freshness.stale = True
        return False
    freshness.looked(seen, started)
    return True


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


def _read_gen(session: Session, conn: BaseConnection[Any], *, waits: bool) -> PQGen[Catalog]:
    """Read the catalog. What could not be read without waiting for somebody's lock is left out, unless it `waits`."""
    idle = conn.pgconn.transaction_status == IDLE
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
    idle = conn.pgconn.transaction_status == IDLE
    yield from ask_gen(conn, b"BEGIN READ ONLY" if idle else b"SAVEPOINT guarddb_catalog")
    try:
        yield from ask_gen(conn, _NO_HURRY)
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
        # The settings go with the transaction or savepoint.
        if conn.pgconn.status == pq.ConnStatus.OK:
            if idle:
                yield from ask_gen(conn, b"ROLLBACK")
            else:
                yield from ask_gen(conn, b"ROLLBACK TO SAVEPOINT guarddb_catalog")
                yield from ask_gen(conn, b"RELEASE SAVEPOINT guarddb_catalog")
    return row[0] or b"{}"


def _same(one: Catalog, other: Catalog) -> bool:
    return (
        one.version == other.version
        and one.search_path == other.search_path
        and one.temp_schema == other.temp_schema
    )
