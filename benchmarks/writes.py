"""Writes, and rows on their way out by COPY.

Targets: executemany of 5,000 rows at most 1.15 times plain psycopg, and 1.5 times with `max_affected_rows`; COPY of 100,000 rows
out at most 1.03 times; a decision on an INSERT of 2,000 rows of literals at most as long as `pglast.parse_sql` alone.

Python's collector is off while the decision is measured, as `timeit` has it: each side makes tens of thousands of objects, and a
full run over all that the process holds takes longer than either.

    python benchmarks/writes.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pglast
import psycopg
from common import FULL_PROFILE, cores, interleaved, met, pin, report, server

import guarddb
from guarddb import Catalog, PolicyProfile, load_policy

SCHEMA = "CREATE TABLE notes (id int NOT NULL, owner text NOT NULL, body text, stars numeric(6,2))"
INSERT = "INSERT INTO notes (id, owner, body, stars) VALUES (%s, %s, %s, %s)"
SETS = [(n, f"owner {n % 40}", f"the note number {n}", n % 5) for n in range(5_000)]
COPY = "COPY accounts TO STDOUT"

#: Every field of a profile that works for writes, set; the rules are about other tables than the one that is written.
WRITES: dict[str, Any] = {
    **FULL_PROFILE,
    "access_mode": "read_write",
    "statement_rules": {"allow": ["select", "insert", "update", "delete", "copy", "transaction"]},
    "table_allowlist": ["accounts", "orders", "items", "notes"],
}
CAPPED = {**WRITES, "max_affected_rows": 10_000}
#: Nothing of the table is to be masked or filtered, or COPY would be of another text, and its rows are bytes of COPY's own.
COPIED = {**WRITES, "masking_rules": [], "row_filters": [], "max_rows": 0, "egress_bytes_per_day": 0}


def many(conn: psycopg.Connection[Any]) -> Callable[[], object]:
    def call() -> None:
        conn.cursor().executemany(INSERT, SETS)
        conn.rollback()

    return call


def copying(conn: psycopg.Connection[Any]) -> Callable[[], object]:
    def call() -> int:
        with conn.cursor().copy(COPY) as copy:
            return sum(map(len, copy))

    return call


def inserts(rows: int) -> Iterator[str]:
    """Texts of one INSERT with so many rows of literals, each another."""
    for number in count(1):
        values = ", ".join(f"({n}, 'owner {n % 40}', 'note {n} of {number}', {n % 5}.5)" for n in range(rows))
        yield f"INSERT INTO notes (id, owner, body, stars) VALUES {values}"


def parsing(source: Iterator[str]) -> Callable[[], object]:
    return lambda: pglast.parse_sql(next(source))


def deciding(source: Iterator[str], profile: PolicyProfile, catalog: Catalog) -> Callable[[], object]:
    def call() -> None:
        decision = guarddb.evaluate(next(source), profile, catalog)
        assert not decision.blocked, decision

    return call


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    available = cores()
    rows = []
    with server() as dsn:
        pin(0, available[0])
        with psycopg.Connection.connect(dsn, autocommit=True) as conn:
            conn.execute(SCHEMA)
            catalog = Catalog.from_connection(conn)
        for title, make, policy, target in (
            ("executemany of 5,000 INSERTs", many, WRITES, 1.15),
            ("the same under max_affected_rows", many, CAPPED, 1.5),
            ("COPY of 100,000 x 8 out", copying, COPIED, 1.03),
        ):
            with psycopg.Connection.connect(dsn) as plain, guarddb.connect(dsn, policy=policy) as guarded:
                for each in (plain, guarded):
                    pin(each.info.backend_pid, available[-1])
                base, cost = interleaved([make(plain), make(guarded)], rounds, batch=1, warmup=2)
            rows.append(row(title, "plain psycopg", base, cost, target))
    written = load_policy(WRITES)
    gc.disable()
    base, cost = interleaved(
        [parsing(inserts(2_000)), deciding(inserts(2_000), written, catalog)], rounds, batch=1, warmup=2
    )
    rows.append(row("a decision on an INSERT of 2,000 rows of literals", "parse_sql", base, cost, 1.0))
    report("Writes, medians", ("what", "against", "ms", "guarded ms", "ratio", "target"), rows)


def row(title: str, against: str, base: float, cost: float, target: float) -> tuple[str, ...]:
    ratio = cost / base
    return title, against, f"{base / 1000:.1f}", f"{cost / 1000:.1f}", f"{ratio:.3f}", met(ratio, target)


if __name__ == "__main__":
    main()
