"""The same point SELECT again and again: plain psycopg, and a connection with every field of a profile set.

Targets: at most 1.15 times plain psycopg with client and server on separate cores, and in both placements
less added than a pgbouncer hop takes (11 µs).

    python benchmarks/point_select.py [--rounds 300]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import psycopg
from common import FULL_PROFILE, cores, interleaved, met, pin, report, server

import guarddb

RATIO_TARGET = 1.15
ADDED_TARGET = 11.0

ORDERS = "SELECT id, status, total FROM orders WHERE id = 4711"
ACCOUNTS = "SELECT id, name, email FROM accounts WHERE id = 4711"
# What somebody who writes filter and mask by hand would send: the guard's own cost is what is beyond it.
BY_HAND = "SELECT id, name, '[redacted]'::text AS email FROM accounts WHERE id = 4711 AND tenant_id < 10"


def one(
    cur: psycopg.Cursor[Any], sql: str, parameters: tuple[int, ...] | None = None
) -> Callable[[], object]:
    def call() -> object:
        cur.execute(sql.encode(), parameters)
        return cur.fetchone()

    return call


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    available = cores()
    rows = []
    with server() as dsn:
        plain = psycopg.Connection.connect(dsn, autocommit=True)
        guarded = guarddb.connect(dsn, policy=FULL_PROFILE, autocommit=True)
        # What the driver's hooks cost by themselves: the difference to the others is what the profile's fields cost.
        bare = guarddb.connect(dsn, policy={"name": "nothing set"}, autocommit=True)
        placements = [("one core", available[0], available[0])]
        if len(available) > 1:
            placements.insert(0, ("separate cores", available[0], available[1]))
        parameterised = ORDERS.replace("4711", "%s")
        statements = (
            ("profile with a name only", bare, ORDERS, ORDERS, None),
            ("no rule touches it", guarded, ORDERS, ORDERS, None),
            ("the same, with a parameter", guarded, parameterised, parameterised, (4711,)),
            ("masked and filtered", guarded, BY_HAND, ACCOUNTS, None),
        )
        for placement, client, backend in placements:
            pinned = all(
                [pin(0, client), *(pin(c.info.backend_pid, backend) for c in (plain, guarded, bare))]
            )
            for title, conn, by_hand, sql, parameters in statements:
                base, cost = interleaved(
                    [one(plain.cursor(), by_hand, parameters), one(conn.cursor(), sql, parameters)], rounds
                )
                ratio = met(cost / base, RATIO_TARGET) if placement == "separate cores" else ""
                rows.append(
                    (
                        f"{placement}{'' if pinned else ' (not pinned)'}: {title}",
                        f"{base:.1f}",
                        f"{cost:.1f}",
                        f"{cost / base:.3f}",
                        ratio,
                        f"{cost - base:+.1f}",
                        met(cost - base, ADDED_TARGET),
                    )
                )
        pin(0, available[0])
        plain.close()
        guarded.close()
        bare.close()
    columns = ("point SELECT", "plain µs", "guarded µs", "ratio", "target", "added µs", "target")
    report("Point SELECT, execute and fetchone, medians", columns, rows)


if __name__ == "__main__":
    main()
