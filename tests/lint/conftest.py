"""Servers of several versions with the lint's world in each; 15 only where Debian's package is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from guarddb import Catalog
from tests.fix_server import roomy_memory, running_server, temporary_database
from tests.lint.oracle import Measured, in_transaction

WORLD = (Path(__file__).parent / "world.sql").read_text()
DEBIAN = Path("/usr/lib/postgresql/15/bin")


class World:
    """A server's database with the world in it, and its catalog."""

    def __init__(self, dsn: str, conn: psycopg.Connection) -> None:
        self.dsn = dsn
        self.conn = conn
        self.catalog = Catalog.from_connection(conn)
        self.major = self.catalog.server_version // 10000
        self._measured: dict[str, Measured] = {}

    def measured(self, statement: str) -> Measured:
        """What it does here: run once, whoever asks."""
        if statement not in self._measured:
            self._measured[statement] = in_transaction(self.conn, statement)
        return self._measured[statement]


@contextmanager
def debian_server() -> Iterator[str]:
    """PostgreSQL 15 from Debian's package, as the user that the package made where we are root."""
    owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    directory = Path(tempfile.mkdtemp(prefix="gdb-15-", dir=roomy_memory()))
    os.chown(directory, owner.pw_uid, owner.pw_gid)
    data = directory / "data"

    def run(*command: str | Path) -> None:
        subprocess.run(
            [str(part) for part in command],
            check=True,
            user=owner.pw_uid,
            cwd=directory,
            stdout=subprocess.DEVNULL,
            env={"PATH": os.defpath, "LC_ALL": "C", "HOME": str(directory)},
        )

    try:
        run(DEBIAN / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -k {directory} -c fsync=off -c autovacuum=off"
        run(DEBIAN / "pg_ctl", "-D", data, "-w", "-o", options, "-l", directory / "log", "start")
        try:
            yield make_conninfo(host=str(directory), user="postgres", dbname="postgres")
        finally:
            run(DEBIAN / "pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def world_template(server_dsn: str) -> Iterator[str]:
    """The name of a database with the world in it, on PostgreSQL 18, to copy from."""
    with temporary_database(server_dsn, "lint_template") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(WORLD)
        yield str(conninfo_to_dict(dsn)["dbname"])


@pytest.fixture(scope="session")
def worlds(server_dsn: str, run_directory: Path) -> Iterator[Callable[[int], World]]:
    """worlds(18) -> the world on that server; made when first asked for."""
    made: dict[int, World] = {}
    with ExitStack() as opened:

        def world(major: int) -> World:
            if major not in made:
                if major == 15:
                    if not (DEBIAN / "initdb").exists():
                        pytest.skip("PostgreSQL 15 (Debian's package postgresql) is not installed")
                    server = opened.enter_context(debian_server())
                elif major == 18:
                    server = server_dsn
                else:
                    server = opened.enter_context(running_server(run_directory / str(major), major))
                dsn = opened.enter_context(temporary_database(server, f"lint{major}"))
                conn = opened.enter_context(psycopg.connect(dsn, autocommit=True))
                conn.execute(WORLD)
                made[major] = World(dsn, conn)
            return made[major]

        yield world


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Other versions are asked by `-m versions` only."""
    if "versions" not in (config.option.markexpr or ""):
        left_out = [item for item in items if item.get_closest_marker("versions")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def world(worlds: Callable[[int], World]) -> World:
    """The world on PostgreSQL 18."""
    return worlds(18)
