"""The same point SELECT again and again: plain psycopg, and a connection with every field of a profile set.

Targets: at most 1.15 times plain psycopg with client and server on separate cores, and in both placements
less added than a pgbouncer hop takes (11 µs).

    python benchmarks/point_select.py [--rounds 300]
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
from common import FULL_PROFILE, cores, interleaved, interleaved_async, met, pin, report, server

import guarddb

RATIO_TARGET = 1.15
ADDED_TARGET = 11.0

ORDERS = "SELECT id, status, total FROM orders WHERE id = 4711"
ACCOUNTS = "SELECT id, name, email FROM accounts WHERE id = 4711"
# What somebody who writes filter and mask by hand would send: the guard's own cost is what is beyond it.
BY_HAND = "SELECT id, name, '[redacted]'::text AS email FROM accounts WHERE id = 4711 AND tenant_id < 10"


Call = Callable[[], Any]


def one(cur: psycopg.Cursor[Any], sql: str, parameters: tuple[int, ...] | None) -> Call:
    text = sql.encode()

    def call() -> object:
        cur.execute(text, parameters)
        return cur.fetchone()

    return call


def one_async(cur: psycopg.AsyncCursor[Any], sql: str, parameters: tuple[int, ...] | None) -> Call:
    text = sql.encode()

    async def call() -> object:
        await cur.execute(text, parameters)
        return await cur.fetchone()

    return call


async def measure(dsn: str, rounds: int) -> list[tuple[str, ...]]:
    available = cores()
    options: dict[str, Any] = {"autocommit": True}
    plain = psycopg.Connection.connect(dsn, **options)
    guarded = guarddb.connect(dsn, policy=FULL_PROFILE, **options)
    # What the driver's hooks cost by themselves: the difference to the others is what the profile's fields cost.
    bare = guarddb.connect(dsn, policy={"name": "nothing set"}, **options)
    plain_async = await psycopg.AsyncConnection.connect(dsn, **options)
    guarded_async = await guarddb.AsyncConnection.connect(dsn, policy=FULL_PROFILE, **options)
    bare_async = await guarddb.AsyncConnection.connect(dsn, policy={"name": "nothing set"}, **options)
    connections = (plain, guarded, bare, plain_async, guarded_async, bare_async)

    placements = [("one core", available[0], available[0])]
    if len(available) > 1:
        placements.insert(0, ("separate cores", available[0], available[1]))
    parameterised = ORDERS.replace("4711", "%s")
    statements = (
        ("profile with a name only", bare, bare_async, ORDERS, ORDERS, None),
        ("no rule touches it", guarded, guarded_async, ORDERS, ORDERS, None),
        ("the same, with a parameter", guarded, guarded_async, parameterised, parameterised, (4711,)),
        ("masked and filtered", guarded, guarded_async, BY_HAND, ACCOUNTS, None),
    )
    rows = []
    for placement, client, backend in placements:
        pinned = all([pin(0, client), *(pin(c.info.backend_pid, backend) for c in connections)])
        where = f"{placement}{'' if pinned else ' (not pinned)'}"
        for title, conn, conn_async, by_hand, sql, parameters in statements:
            calls = [one(plain.cursor(), by_hand, parameters), one(conn.cursor(), sql, parameters)]
            rows.append(row(f"{where}: {title}", placement, *interleaved(calls, rounds)))
            calls = [
                one_async(plain_async.cursor(), by_hand, parameters),
                one_async(conn_async.cursor(), sql, parameters),
            ]
            rows.append(row(f"{where}, async: {title}", placement, *await interleaved_async(calls, rounds)))
    pin(0, available[0])
    for each in (plain, guarded, bare):
        each.close()
    for other in (plain_async, guarded_async, bare_async):
        await other.close()
    return rows


def row(title: str, placement: str, base: float, cost: float) -> tuple[str, ...]:
    added = cost - base
    ratio = met(cost / base, RATIO_TARGET) if placement == "separate cores" else ""
    return (
        title,
        f"{base:.1f}",
        f"{cost:.1f}",
        f"{cost / base:.3f}",
        ratio,
        f"{added:+.1f}",
        met(added, ADDED_TARGET),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    with server() as dsn:
        rows = asyncio.run(measure(dsn, rounds))
    columns = ("point SELECT", "plain µs", "guarded µs", "ratio", "target", "added µs", "target")
    report("Point SELECT, execute and fetchone, medians", columns, rows)


if __name__ == "__main__":
    main()
