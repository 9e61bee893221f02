"""Reading 100,000 rows of 8 columns.

Targets: without masks 1.03 of a plain fetchall; with content_scan_mode 1.10; with two redacted columns 1.05; with one keyed
hash 2.0 (each value is hashed in this process, because a key in the SQL could be read back).

    python benchmarks/fetch.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import psycopg
from common import FULL_PROFILE, cores, interleaved, met, pin, report, server

import guarddb

QUERY = "SELECT id, tenant_id, name, email, phone, city, balance, opened_at FROM accounts"

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
            ("content scan of plain ASCII", {**without_egress(UNMASKED), "content_scan_mode": "block"}, 1.10),
        ):
            with guarddb.connect(dsn, policy=policy, autocommit=True) as guarded:
                pin(guarded.info.backend_pid, available[-1])
                base, cost = interleaved([everything(plain), everything(guarded)], rounds, batch=1, warmup=2)
            figures = f"{base / 1000:.1f} ms", f"{cost / 1000:.1f} ms", f"{cost / base:.3f}"
            rows.append((f"fetchall 100,000 x 8: {title}", *figures, met(cost / base, target)))
    report("Fetching, medians", ("what", "plain", "guarded", "ratio", "target"), rows)


if __name__ == "__main__":
    main()
