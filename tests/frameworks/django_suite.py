"""Django's own tests of its backends, queries and transactions, on the checkout's own library."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from tests.fix_server import create_database, drop_database
from tests.frameworks.outcomes import OUTCOMES

WAYS = ("plain", "engine", "install")
BASE: dict[str, str] = {}

TESTS = ("backends", "queries", "transactions")

#: What `django_settings` reads.
DSN, WAY = "GUARDDB_TEST_DSN", "GUARDDB_TEST_WAY"


def prepare(dsn: str) -> str | None:
    """Nothing is missing anywhere."""
    return None


@contextmanager
def _databases(dsn: str) -> Iterator[None]:
    """The two that the suite would make: not every profile lets it."""
    parts = conninfo_to_dict(dsn)
    names = [f"test_{parts['dbname']}_{alias}" for alias in ("default", "other")]
    for name in names:
        create_database(dsn, name)
    try:
        yield
    finally:
        for name in names:
            drop_database(dsn, name)


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
    """Run it one way; the exit code of runtests.py."""
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{checkout}{os.pathsep}{root}",
        OUTCOMES: str(outcomes),
        DSN: dsn,
        WAY: way,
        "GUARDDB_POLICY": str(policy),
    }
    settings = "--settings=tests.frameworks.django_settings"
    command = [sys.executable, "runtests.py", settings, "--parallel=1", "--noinput", "--keepdb"]
    command += more or TESTS
    with _databases(dsn), log.open("w") as out:
        return subprocess.run(
            command, cwd=checkout / "tests", env=environment, stdout=out, stderr=out, check=False
        ).returncode
