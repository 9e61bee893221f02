"""A database with traps in it, and a wall over it, on every supported line of PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.fix_server import SERVER_SETTINGS, one_at_a_time, temporary_database
from tests.wall.ground import Ground

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
_numbers = count()


@pytest.fixture(scope="session")
def server15_dsn(run_directory: Path) -> Iterator[str]:
    """PostgreSQL 15 as Debian packages it."""
    if not (DEBIAN_15 / "initdb").exists():
        pytest.skip("PostgreSQL 15 is not installed (Debian: postgresql-15)")
    user = "postgres" if os.geteuid() == 0 else None
    worker = os.environ.get("PYTEST_XDIST_WORKER", "0")
    home = run_directory.with_name(run_directory.name + f"-15-{worker}")
    home.mkdir()
    if user is not None:
        shutil.chown(home, user)
    data = home / "data"

    def run(*command: str) -> None:
        subprocess.run(command, check=True, user=user, cwd=home, stdout=subprocess.DEVNULL)

    run(
        str(DEBIAN_15 / "initdb"),
        "-D",
        str(data),
        "-A",
        "trust",
        "-U",
        "postgres",
        "-E",
        "UTF8",
        "--locale=C",
    )
    with (data / "postgresql.conf").open("a") as file:
        file.write(f"{SERVER_SETTINGS}\nlisten_addresses = ''\nunix_socket_directories = '{home}'\n")
    run(str(DEBIAN_15 / "pg_ctl"), "-D", str(data), "-l", str(home / "log"), "-w", "start")
    try:
        yield make_conninfo(host=str(home), user="postgres", dbname="postgres")
    finally:
        run(str(DEBIAN_15 / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(home)


@pytest.fixture(scope="session", params=[18, 16, 15])
def any_server(request: pytest.FixtureRequest) -> str:
    """The DSN of a server, for each line of PostgreSQL in turn."""
    fixture = {18: "server_dsn", 16: "server16_dsn", 15: "server15_dsn"}[request.param]
    dsn: str = request.getfixturevalue(fixture)
    return dsn


def made(server: str, schema: str) -> Iterator[Ground]:
    """A database with this schema, roles of its own, and an owner that is no superuser."""
    stem = f"w{os.getpid()}_{next(_numbers)}"
    with temporary_database(server, "wall") as admin:
        with psycopg.connect(admin, autocommit=True) as conn:
            for role, options in (("owner", "CREATEROLE"), ("app", ""), ("agent", "")):
                conn.execute(
                    sql.SQL("CREATE ROLE {} LOGIN " + options).format(sql.Identifier(f"{stem}_{role}"))
                )
            if conn.info.server_version >= 160000:
                conn.execute(f"GRANT {stem}_agent TO {stem}_owner WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
            name = sql.Identifier(conn.info.dbname)
            conn.execute(
                sql.SQL("ALTER DATABASE {} OWNER TO {}").format(name, sql.Identifier(f"{stem}_owner"))
            )
            conn.execute(f"GRANT ALL ON SCHEMA public TO {stem}_owner")
            conn.execute(f"SET ROLE {stem}_owner")
            conn.execute(schema.replace("{app}", f"{stem}_app").replace("{agent}", f"{stem}_agent"))
        yield Ground(admin, stem)
    with one_at_a_time(server) as conn:
        rows = conn.execute(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE %s", (f"{stem.replace('_', chr(92) + '_')}\\_%",)
        ).fetchall()
        for (role,) in rows:
            conn.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
            conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.fixture
def ground(any_server: str) -> Iterator[Ground]:
    yield from made(any_server, (Path(__file__).parent / "ground.sql").read_text())


@pytest.fixture
def ground18(server_dsn: str) -> Iterator[Ground]:
    """The same on the newest line only, for what does not depend on the version."""
    yield from made(server_dsn, (Path(__file__).parent / "ground.sql").read_text())


@pytest.fixture(scope="module")
def walled_ground18(server_dsn: str) -> Iterator[Ground]:
    """The same with its wall up, for all tests of a file that leave it as they found it."""
    for ground in made(server_dsn, (Path(__file__).parent / "ground.sql").read_text()):
        ground.up()
        yield ground


@pytest.fixture
def empty_ground(server_dsn: str) -> Iterator[Callable[[str], Ground]]:
    """Makes a database with a schema of the test's own."""
    opened: list[Iterator[Ground]] = []

    def make(schema: str) -> Ground:
        opened.append(made(server_dsn, schema))
        return next(opened[-1])

    yield make
    for each in opened:
        for _ in each:
            pass
