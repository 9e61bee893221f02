"""SQLAlchemy's dialect suite and the tests of its PostgreSQL dialect, on the checkout's own library."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.frameworks.outcomes import OUTCOMES
from tests.frameworks.pytest_plugin import INSTALL

#: The URL's beginning and what stands in its query, by the way that connections are guarded.
WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "plain": ("postgresql+psycopg", {}),
    "dialect": ("postgresql+guarddb", {"guarddb_policy": "{policy}"}),
    "plugin": ("postgresql+psycopg", {"plugin": "guarddb", "guarddb_policy": "{policy}"}),
    "install": ("postgresql+psycopg", {}),
    "plain async": ("postgresql+psycopg_async", {}),
    "plugin async": ("postgresql+psycopg_async", {"plugin": "guarddb", "guarddb_policy": "{policy}"}),
}
#: Which run a guarded one is compared with.
BASE = {"plugin async": "plain async"}

TESTS = ("test/dialect/test_suite.py", "test/dialect/postgresql")

#: What README.unittests.rst of SQLAlchemy asks of the database.
_PREPARED = """
CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2;
CREATE EXTENSION hstore; CREATE EXTENSION citext;
"""


def prepare(dsn: str) -> str | None:
    """Make a database ready for the suite; what is missing there, if anything."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        try:
            conn.execute(_PREPARED)
        except psycopg.Error as ex:
            return f"the suite wants the extensions hstore and citext: give --dsn of a server that has them ({ex})"
    return None


def run(
    checkout: Path,
    dsn: str,
    way: str,
    policy: Path,
    outcomes: Path,
    log: Path,
    more: Sequence[str],
    workers: int,
) -> int:
    """Run it one way; the exit code of pytest."""
    parts = conninfo_to_dict(dsn)
    drivername, query = WAYS[way]
    query = {name: value.format(policy=policy) for name, value in query.items()}
    query |= {name: str(parts[name]) for name in ("host", "port") if name in parts}
    shown = "&".join(f"{name}={value}" for name, value in query.items())
    url = f"{drivername}://{parts['user']}@/{parts['dbname']}?{shown}"
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        OUTCOMES: str(outcomes),
        "GUARDDB_POLICY": str(policy),
    }
    if way == "install":
        environment[INSTALL] = "1"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.frameworks.pytest_plugin",
    ]
    command += ["-W", "ignore::pytest.PytestUnraisableExceptionWarning", "--dburi", url, *(more or TESTS)]
    if workers > 1:
        command += ["-n", str(workers)]
    with log.open("w") as out:
        return subprocess.run(
            command, cwd=checkout, env=environment, stdout=out, stderr=out, check=False
        ).returncode
