"""Reading 100,000 rows of 8 columns, and the point SELECT of the async driver.

Targets: without masks 1.05 of a plain fetchall; with two redacted columns 1.10; with one keyed hash 2.0 (each
value is hashed in this process, because a key in the SQL could be read back). The async point SELECT adds
less than 11 µs.

    python benchmarks/fetch.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import psycopg
from common import FULL_PROFILE, cores, interleaved, met, pin, report, server

import guarddb

QUERY = "SELECT id, tenant_id, name, email, phone, city, balance, opened_at FROM accounts"
POINT = "SELECT id, status, total FROM orders WHERE id = 4711"

UNMASKED = {**FULL_PROFILE, "masking_rules": [], "row_filters": []}
REDACTED = {
    **UNMASKED,
    "masking_rules": [
        {"table": "accounts", "column": "email", "kind": "redact"},
        {"table": "accounts", "column": "phone", "kind": "redact"},
    ],
}
HASHED = {
    **UNMASKED,
    "masking_rules": [{"table": "accounts", "column": "email", "kind": "hash"}],
    "guarddb": {"hash_key_env": "GUARDDB_BENCHMARK_KEY"},
}


def without_egress(policy: dict[str, Any]) -> dict[str, Any]:
    """The profile without the budget that makes the driver ask for the size of each value."""
    return {**policy, "egress_bytes_per_day": 0}


def everything(conn: psycopg.Connection[Any]) -> Callable[[], object]:
    return lambda: len(conn.execute(QUERY).fetchall())


async def point_selects(dsn: str, rounds: int) -> tuple[float, float]:
    """Median microseconds of an async point SELECT, plain and guarded, measured in turns."""
    samples: tuple[list[float], list[float]] = ([], [])
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as plain,
        await guarddb.AsyncConnection.connect(dsn, policy=FULL_PROFILE, autocommit=True) as guarded,
    ):
        cursors = (plain.cursor(), guarded.cursor())
        for number in range(rounds + 5):
            for cur, times in zip(cursors, samples, strict=True):
                for _ in range(20):
                    start = perf_counter_ns()
                    await cur.execute(POINT)
                    await cur.fetchone()
                    if number >= 5:
                        times.append((perf_counter_ns() - start) / 1000)
    return statistics.median(samples[0]), statistics.median(samples[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    os.environ.setdefault("GUARDDB_BENCHMARK_KEY", "a key for the benchmark")
    available = cores()
    rows = []
    with server() as dsn, psycopg.Connection.connect(dsn, autocommit=True) as plain:
        pin(0, available[0])
        pin(plain.info.backend_pid, available[-1])
        for title, policy, target in (
            ("no masks", without_egress(UNMASKED), 1.03),
            ("two redacted columns", without_egress(REDACTED), 1.05),
            ("one keyed hash", without_egress(HASHED), 2.0),
            ("no masks, an egress budget", UNMASKED, 1.03),
        ):
            with guarddb.connect(dsn, policy=policy, autocommit=True) as guarded:
                pin(guarded.info.backend_pid, available[-1])
                base, cost = interleaved([everything(plain), everything(guarded)], rounds, batch=1, warmup=2)
            figures = f"{base / 1000:.1f} ms", f"{cost / 1000:.1f} ms", f"{cost / base:.3f}"
            rows.append((f"fetchall 100,000 x 8: {title}", *figures, met(cost / base, target)))
        base, cost = asyncio.run(point_selects(dsn, rounds * 20))
        figures = f"{base:.1f} µs", f"{cost:.1f} µs", f"{cost / base:.3f}"
        rows.append(("async point SELECT", *figures, f"{cost - base:+.1f} µs, {met(cost - base, 11)} µs"))
    report("Fetching, medians", ("what", "plain", "guarded", "ratio", "target"), rows)


if __name__ == "__main__":
    main()
