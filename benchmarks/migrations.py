"""How long others wait: migrations and their safe forms, run on a loaded table under readers and writers.

    python -m benchmarks.migrations [--rows N]

For each, the longest time that one SELECT and one UPDATE by primary key had to wait, in milliseconds, and how long the
migration took.
Without a migration, on the same busy machine, is the first line.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter, sleep

import psycopg

from guarddb import Catalog
from guarddb.lint.fix import fix
from guarddb.lint.migrations import walk

sys.path.append(str(Path(__file__).parents[1]))  # run as a script, it is not there
from tests.fix_server import running_server, temporary_database

MIGRATIONS = (
    "CREATE INDEX ON loaded (n)",
    "ALTER TABLE loaded ADD CONSTRAINT n_known CHECK (n > 0)",
    "ALTER TABLE loaded ALTER COLUMN n SET NOT NULL",
    "ALTER TABLE loaded ADD COLUMN u uuid DEFAULT gen_random_uuid()",
    "ALTER TABLE loaded ADD CONSTRAINT by_n UNIQUE (n)",
    "ALTER TABLE loaded ALTER COLUMN n TYPE bigint",
)


class Load:
    """Two sessions that read and write one row at a time until they are told to stop."""

    def __init__(self, dsn: str, rows: int) -> None:
        self.longest = {"read": 0.0, "write": 0.0}
        self._dsn = dsn
        self._rows = rows
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=("read", "SELECT n FROM loaded WHERE id = %s")),
            threading.Thread(target=self._run, args=("write", "UPDATE loaded SET note = 'y' WHERE id = %s")),
        ]

    def _run(self, what: str, statement: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            number = 0
            while not self._stop.is_set():
                number = (number * 7919 + 1) % self._rows
                began = perf_counter()
                with suppress(
                    psycopg.errors.FeatureNotSupported
                ):  # a prepared statement, after the column's type has changed
                    conn.execute(statement, [number])
                self.longest[what] = max(self.longest[what], perf_counter() - began)
                sleep(0.002)  # a client, not a benchmark of its own

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        sleep(0.3)
        self.longest = dict.fromkeys(self.longest, 0.0)
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def under_load(dsn: str, rows: int, migrate: Callable[[], None]) -> str:
    with Load(dsn, rows) as load:
        began = perf_counter()
        migrate()
        took = perf_counter() - began
    # Only now, so that who still waits is counted.
    read, write = load.longest["read"] * 1000, load.longest["write"] * 1000
    return f"read {read:7.0f}  write {write:7.0f}  took {took * 1000:7.0f}"


def statements_of(script: str, catalog: Catalog) -> list[str]:
    """One by one, but for a transaction, which is sent as a whole."""
    found: list[str] = []
    for step in walk(script, catalog):
        if step.in_transaction:
            found[-1] += f"; {step.statement.text}"
        else:
            found.append(step.statement.text)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=500_000)
    rows = parser.parse_args().rows
    directory = Path(tempfile.gettempdir()) / "gdb-benchmark-migrations"
    with running_server(directory / "18", 18) as server:
        for migration in ("", *MIGRATIONS):
            for form in ("as it is", "safe"):
                with temporary_database(server, "load") as dsn, psycopg.connect(dsn, autocommit=True) as conn:
                    conn.execute(
                        "CREATE TABLE loaded (id int PRIMARY KEY, n int, note text) WITH (fillfactor = 70)"
                    )
                    conn.execute(
                        "INSERT INTO loaded SELECT i, i + 1, repeat('x', 100) FROM generate_series(0, %s) AS i",
                        [rows],
                    )
                    conn.execute("VACUUM ANALYZE loaded")
                    catalog = Catalog.from_connection(conn)
                    script = migration if form == "as it is" else fix(migration, catalog).sql
                    statements = statements_of(script, catalog) if migration else ["SELECT pg_sleep(1)"]

                    def migrate(conn: psycopg.Connection = conn, statements: list[str] = statements) -> None:
                        for statement in statements:
                            conn.execute(statement)

                    print(f"{form:9} {under_load(dsn, rows, migrate)}  {migration or 'nothing'}", flush=True)
                if not migration:
                    break


if __name__ == "__main__":
    main()
