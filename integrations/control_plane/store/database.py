"""Connections and transactions: one writer at a time, and readers that never wait for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    InterfaceError,
    InternalError,
    OperationalError,
    TimeoutError as PoolTimeout,
)
from sqlalchemy.orm import ORMExecuteState, Session

from .tables import Agent, CatalogSnapshot, Key, Policy

#: The lock that writers of one PostgreSQL database take: events and audit entries then have one order, which is
#: the order in which they become visible.
_WRITERS = 0x67_75_61_72_64_64_62
#: The state that the servers of one PostgreSQL database share, and the step to the next one.
STATE = text("SELECT coalesce((SELECT value::bigint FROM server_settings WHERE name = 'state'), 0)")
_NEXT_STATE = text(
    "INSERT INTO server_settings (name, value) VALUES ('state', '1') "
    "ON CONFLICT (name) DO UPDATE SET value = (server_settings.value::bigint + 1)::text"
)
#: A server that hangs while it writes must not make all others hang: they answer 503, and its transaction is ended.
_BEGIN_WRITING = text(
    "SELECT set_config('lock_timeout', :wait, true), "
    "set_config('idle_in_transaction_session_timeout', :idle, true), pg_advisory_xact_lock(:lock)"
)
#: The channel on which the servers of one PostgreSQL database wake each other.
CHANNEL = "guarddb_control_plane"


#: What servers answer from their memory: a change of these is a new state of the database, see `Database.state`.
_REMEMBERED = (Key, Agent, Policy, CatalogSnapshot)
#: An execution option: this statement changes nothing of them that is remembered.
UNREMEMBERED = "guarddb_unremembered"


#: The database is away, busy, full or read-only; or every connection to it is in use.
AWAY: tuple[type[Exception], ...] = (OperationalError, InterfaceError, InternalError, PoolTimeout)


class DatabaseError(ValueError):
    """The database that was named cannot be used; its text says why."""


def database_url(database: str) -> URL:
    """The SQLAlchemy URL of a path of a SQLite file, or of a PostgreSQL URL.

    Raises:
        DatabaseError: it is neither.
    """
    if "://" not in database:
        if not database or database == ":memory:":
            raise DatabaseError("--database is the path of a file or the URL of a PostgreSQL database")
        return URL.create("sqlite", database=str(Path(database).absolute()))
    try:
        url = make_url(database)
    except (ArgumentError, ValueError):
        raise DatabaseError("the URL of the database cannot be read") from None
    if url.drivername in {"postgres", "postgresql", "postgresql+psycopg"}:
        return url.set(drivername="postgresql+psycopg")
    if url.drivername in {"sqlite", "sqlite+pysqlite"} and url.database:
        return url.set(drivername="sqlite")
    raise DatabaseError(
        f"{url.drivername} databases are not supported; name a SQLite file or a postgresql:// URL"
    )


class Database:
    """The engine and its transactions.

    Attributes:
        shared: whether several servers may run on it (PostgreSQL), or one only (SQLite).
        LOCK_SECONDS: how long a writer waits for the one before it, on PostgreSQL.
        IDLE_SECONDS: how long PostgreSQL waits for a writer that has stopped in the middle.
        after_write: called after each commit that wrote; the event streams look for news then.
    """

    LOCK_SECONDS = 10
    IDLE_SECONDS = 30

    def __init__(self, database: str) -> None:
        self.url = database_url(database)
        self.shared = self.url.get_backend_name() == "postgresql"
        self.after_write: Callable[[], None] = lambda: None
        self._writing = threading.Lock()
        self._changes = 0
        self.engine = self._connect()

    def _connect(self) -> Engine:
        if self.shared:
            return create_engine(
                self.url,
                hide_parameters=True,  # an error is logged, and what it was about may be a secret
                pool_size=20,
                max_overflow=30,
                pool_pre_ping=True,
                connect_args={"connect_timeout": 10, "application_name": "guarddb control plane"},
            )
        _make_private(self.url.database or "")
        # As many connections as there are threads to ask for one: a wait here would be a wait of a request.
        engine = create_engine(
            self.url, hide_parameters=True, pool_size=20, max_overflow=60, connect_args={"timeout": 30}
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only looks."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that changes something, alone among writers; committed when the block ends well."""
        if self.shared:
            with _Writing(self.engine, expire_on_commit=False) as session, session.begin():
                limits = {"lock": _WRITERS, "wait": f"{self.LOCK_SECONDS}s", "idle": f"{self.IDLE_SECONDS}s"}
                session.execute(_BEGIN_WRITING, limits)
                yield session
                session.flush()
                if session.changed:
                    session.execute(_NEXT_STATE)
                session.execute(text(f"NOTIFY {CHANNEL}"))
        else:
            writer = self.engine.execution_options(guarddb_writes=True)
            with self._writing, _Writing(writer, expire_on_commit=False) as session:
                with session.begin():
                    yield session
                if session.changed:
                    self._changes += 1
        self.after_write()

    def state(self) -> int:
        """A number that is another one after every change of keys, agents, profiles and catalogs."""
        if not self.shared:
            return self._changes
        with self.engine.connect() as connection:
            state: int = connection.scalar(STATE)
        return state

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def libpq_dsn(self) -> str:
        """The database as psycopg takes it, for LISTEN."""
        return self.url.set(drivername="postgresql").render_as_string(hide_password=False)


class _Writing(Session):
    """A session that knows whether it changes anything that servers remember."""

    changed = False


@event.listens_for(_Writing, "after_flush")
def _flushed(session: _Writing, _: object) -> None:
    if any(isinstance(each, _REMEMBERED) for each in (*session.new, *session.dirty, *session.deleted)):
        session.changed = True


@event.listens_for(_Writing, "do_orm_execute")
def _executed(statement: ORMExecuteState) -> None:
    if (statement.is_update or statement.is_delete) and not statement.execution_options.get(UNREMEMBERED):
        mapper = statement.bind_mapper
        if mapper is None or mapper.class_ in _REMEMBERED:
            statement.session.changed = True  # type: ignore[attr-defined]


def _make_private(path: str) -> None:
    """A new file that only its owner can read: it will hold hashes of keys, and secrets of webhooks."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass
    except OSError as ex:
        raise DatabaseError(f"cannot make {path}: {ex.strerror or ex}") from None


def _prepare_sqlite(connection: Any, record: object) -> None:
    # The module would begin transactions by itself, late and never IMMEDIATE.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("guarddb_writes")
    # IMMEDIATE takes the write lock now: a transaction that reads first and writes later could not get it then.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
