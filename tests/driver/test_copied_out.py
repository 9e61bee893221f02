"""COPY out: rows that have arrived are handed out without a wait, and all else is as plain psycopg has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest

import guarddb
from tests.driver.conftest import Connect, block, collect, open_policy, run

ROWS = "COPY (SELECT n, repeat('x', n % 300) FROM generate_series(1, 5000) n) TO STDOUT"
NINETY = "COPY (SELECT 'nine char' FROM generate_series(1, 90)) TO STDOUT"
BREAKS = "COPY (SELECT 100 / (3000 - n) FROM generate_series(1, 5000) n) TO STDOUT"


async def everything(conn: Any, text: str) -> Any:
    cur = conn.cursor()
    async with block(cur.copy(text)) as copy:
        rows = [bytes(row) for row in await collect(copy)]
        more = [bytes(await run(copy.read())) for _ in range(2)]
    return rows, more, cur.rowcount, cur.statusmessage


async def as_rows(conn: Any, text: str) -> Any:
    cur = conn.cursor()
    async with block(cur.copy(text)) as copy:
        first = bytes(await run(copy.read()))
        return first, await collect(copy.rows()), bytes(await run(copy.read()))


async def left_early(conn: Any, text: str) -> Any:
    cur = conn.cursor()
    async with block(cur.copy(text)) as copy:
        first = [bytes(await run(copy.read())) for _ in range(10)]
    return first, cur.rowcount, conn.pgconn.transaction_status


async def not_out(conn: Any, text: str) -> Any:
    await run(conn.execute("CREATE TEMP TABLE IF NOT EXISTS copied_in (n int)"))
    async with block(conn.cursor().copy("COPY copied_in FROM STDIN")) as copy:
        await run(copy.read())


WAYS: list[Callable[[Any, str], Awaitable[Any]]] = [everything, as_rows, left_early, not_out]


async def outcome(way: Callable[[Any, str], Awaitable[Any]], conn: Any, text: str) -> Any:
    try:
        return await way(conn, text)
    except psycopg.Error as ex:
        return type(ex), ex.sqlstate, ex.diag.message_primary


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("text", [ROWS, BREAKS, ROWS + " (FORMAT binary)"], ids=["rows", "breaks", "binary"])
@pytest.mark.parametrize("policy", [{}, {"egress_bytes_per_day": 10**9}], ids=["plain", "metered"])
async def test_it_reads_as_plain_psycopg_does(
    connect: Connect, dsn: str, way: Callable[[Any, str], Awaitable[Any]], text: str, policy: dict[str, Any]
) -> None:
    with closing(psycopg.Connection.connect(dsn)) as plain:
        expected = await outcome(way, plain, text)
    assert await outcome(way, await connect(policy=open_policy(**policy)), text) == expected


async def test_each_row_is_counted_before_it_is_handed_out(connect: Connect) -> None:
    conn = await connect(policy=open_policy(egress_bytes_per_day=100))
    rows = []

    async def read() -> None:
        async with block(conn.cursor().copy(NINETY)) as copy:
            while row := bytes(await run(copy.read())):
                rows.append(row)

    with pytest.raises(guarddb.BudgetExceeded):
        await read()
    assert len(rows) == 10
    assert conn.budget.egress_bytes_today == 0
