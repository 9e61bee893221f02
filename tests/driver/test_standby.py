"""A standby: its snapshot does not name the transactions that run, so what it says may stay the same when one of them commits."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import guarddb
from tests.driver.conftest import look_is_due, open_policy
from tests.fix_server import roomy_memory, running_server


@pytest.fixture(scope="module")
def standby() -> Iterator[tuple[str, str]]:
    """DSNs of a server and of its standby."""
    with ExitStack() as stack:
        here = Path(tempfile.mkdtemp(prefix="gdb-", dir=roomy_memory()))
        stack.callback(shutil.rmtree, here, ignore_errors=True)
        here.chmod(0o755)
        dsn = stack.enter_context(running_server(here / "primary" / "d", 18))
        with psycopg.connect(dsn, autocommit=True) as conn:
            rows = conn.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'").fetchone()
            data = conn.execute("SHOW data_directory").fetchone()
        assert rows is not None
        assert data is not None
        owner = os.stat(data[0]).st_uid
        copy = here / "standby"
        copy.mkdir(mode=0o700)
        os.chown(copy, owner, -1)
        user = owner if os.geteuid() == 0 else None

        def run(program: str, *arguments: str) -> None:
            subprocess.run(
                (f"{rows[0]}/{program}", *arguments),
                check=True,
                user=user,
                cwd="/",
                stdout=subprocess.DEVNULL,
            )

        run("pg_basebackup", "-D", f"{copy}/d", "-d", dsn, "-R", "-X", "stream", "--checkpoint=fast")
        where = ("-D", f"{copy}/d", "-w", "-t", "120")
        run("pg_ctl", *where, "-l", f"{copy}/log", "-o", f"-k {copy} -h ''", "start")
        stack.callback(run, "pg_ctl", *where, "-m", "immediate", "stop")
        yield dsn, make_conninfo(dsn, host=str(copy))


def _replayed(primary: psycopg.Connection, standby: psycopg.Connection) -> None:
    (written,) = primary.execute("SELECT pg_current_wal_insert_lsn()").fetchone() or ("",)
    patience = time.monotonic() + 60
    while not (
        standby.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (written,)).fetchone() or (0,)
    )[0]:
        assert time.monotonic() < patience
        time.sleep(0.05)


def test_ddl_is_seen_on_a_standby(standby: tuple[str, str]) -> None:
    """Of a transaction between one that began before it and goes on, and one that has ended after it began."""
    function = "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT {}'"
    dsn, copy = standby
    with (
        psycopg.connect(dsn, autocommit=True) as primary,
        psycopg.connect(dsn) as goes_on,
        psycopg.connect(dsn) as defines,
        psycopg.connect(copy, autocommit=True) as plain,
        guarddb.connect(
            copy, policy=open_policy(access_mode="read_only", table_denylist=["x"]), autocommit=True
        ) as conn,
    ):
        primary.execute(function.format(1))
        goes_on.execute("SELECT pg_current_xact_id()")
        defines.execute(function.format(2))
        primary.execute("CREATE TABLE other ()")
        _replayed(primary, plain)
        conn.execute("SELECT 1")
        before = conn._guard.catalog
        assert before is not None
        said = plain.execute("SELECT pg_current_snapshot()::text").fetchone()
        defines.commit()
        _replayed(primary, plain)
        assert plain.execute("SELECT pg_current_snapshot()::text").fetchone() == said
        look_is_due(conn)
        conn.execute("SELECT 1")
        catalog = conn._guard.catalog
        assert catalog is not None
        assert catalog.version != before.version
        goes_on.rollback()
