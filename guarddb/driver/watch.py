"""Whether what is known about the session still holds, and when the server is asked.

All that asks is generators over the connection, like psycopg's own, so that sync and async share them. None of it is the
agent's text, so none of it is judged.

DDL of this connection is noticed at once, because its plan says so. DDL of others is noticed by asking: the
snapshot of the session says whether any transaction ended since the last look, and only then is the catalog's
fingerprint taken. How often is asked depends on what asking costs, so that it never takes more than a few
percent of the time. A database may also say itself that its catalog has changed, see `announced.py`.
"""

from __future__ import annotations

import re
from time import perf_counter
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache
from psycopg import BaseConnection, errors as e, pq

from guarddb.driver import announced, settings
from guarddb.driver.asking import Row, ask_gen, ask_within_gen
from guarddb.driver.filter_trials import try_filters_gen
from guarddb.driver.reading import CATALOGS, NO_HURRY, read_catalog_gen, without_comments
from guarddb.driver.walled import look_at_roles_gen, wall_gen
from guarddb.sql.catalog import (
    FINGERPRINT_QUERY,
    SESSION_QUERY,
    Catalog,
)

if TYPE_CHECKING:
    from psycopg.abc import PQGen

    from guarddb.driver.session import Session

ACTIVE = pq.TransactionStatus.ACTIVE
IDLE = pq.TransactionStatus.IDLE
INTRANS = pq.TransactionStatus.INTRANS
ABORTED = pq.PipelineStatus.ABORTED

#: Statements for which the server takes no snapshot (PlannedStmtRequiresSnapshot in utility.c). SET TRANSACTION has to come
#: before any snapshot, and after LOCK a serializable transaction wants to see what was committed until then: a question of
#: guarddb's in front of them would take one.
_TAKES_NO_SNAPSHOT = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:SET|RESET|SHOW|LOCK|SAVEPOINT|RELEASE|ROLLBACK|COMMIT|END|ABORT|BEGIN|START"
    r"|LISTEN|UNLISTEN|NOTIFY)\b",
    re.IGNORECASE | re.DOTALL,
)
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
    # (What follows in the same text may read, and is judged with it.)
    return (
        isinstance(query, str)
        and _TAKES_NO_SNAPSHOT.match(query) is not None
        and ";" not in query.rstrip().removesuffix(";")
    )


#: What says cheaply that nothing changed: no transaction ended since, and names mean the same. It is sent
#: often. (A standby's snapshot does not name the transactions that run: there the place in the log says that one may have ended.)
_LOOK = (
    "SELECT pg_catalog.current_setting('transaction_isolation'), "
    "pg_catalog.concat(pg_catalog.pg_current_snapshot(), pg_catalog.pg_last_wal_replay_lsn()), "
    f"({without_comments(SESSION_QUERY)})"
).encode()
#: The same where the database announces changes; only between transactions.
_LOOK_AT_STATE = _LOOK + b", " + announced.STATE.encode()
FINGERPRINT = without_comments(FINGERPRINT_QUERY).encode()
#: Seconds after which a catalog that was read in parts is read again.
_READ_REST_AFTER = 0.5
#: A timeout of so many milliseconds does not cut off a fingerprint.
_SHORT_TIMEOUT_MS = 1_000


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
    if session.neighbours.changing:
        session.neighbours.settle(session)
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
                if (yield from same_within_gen(session, conn, session.catalog)):
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
        yield from try_filters_gen(session.in_force, session.catalog, session.database, conn)
        session.filters_due = False
    # (Of a catalog with gaps it depends on the text what is asked.)
    unread = session.catalog is not None and bool(session.catalog.unread)
    more = bool(session.names.portals) or session.filters_due or unread or session.neighbours.changing
    freshness.refreshed(idle=status == IDLE, more=more)


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
    (row,) = yield from _unhurried_gen(session, conn, FINGERPRINT)
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
            catalog = yield from read_catalog_gen(session, conn, waits=waits)
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


def same_within_gen(session: Session, conn: BaseConnection[Any], catalog: Catalog) -> PQGen[bool]:
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
    ((fingerprint, *_),) = yield from ask_within_gen(conn, FINGERPRINT)
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
        yield from ask_gen(conn, NO_HURRY)
        return (yield from ask_gen(conn, command))
    finally:
        if conn.pgconn.status == pq.ConnStatus.OK:
            yield from ask_gen(conn, b"ROLLBACK")


def _same(one: Catalog, other: Catalog) -> bool:
    return (
        one.version == other.version
        and one.search_path == other.search_path
        and one.temp_schema == other.temp_schema
    )
