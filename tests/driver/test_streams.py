"""stream(): cut without an end of the connection, writes that stay written, and what comes after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

import guarddb
from tests.driver.conftest import Connect, block, collect, open_policy, run


@pytest.fixture(scope="module", autouse=True)
def orders(dsn: str) -> Iterator[None]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE streamed (id int PRIMARY KEY, n int)")
        conn.execute("INSERT INTO streamed SELECT i, i / 3 FROM generate_series(1, 3000) AS i")
        conn.execute("CREATE TABLE kept (id int, tenant int)")
    yield
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("DROP TABLE streamed, kept")


#: Texts into which no LIMIT can be written.
UNLIMITED = {
    "show": "SHOW ALL",
    "update": "UPDATE streamed SET n = n + 1 WHERE id > 0 RETURNING id",
    "insert": "INSERT INTO streamed SELECT id + 10000, n FROM streamed RETURNING id",
    "delete": "DELETE FROM streamed WHERE id > 1 RETURNING id",
    "ties": "SELECT id FROM streamed ORDER BY n FETCH FIRST 2000 ROWS WITH TIES",
    "values": "SELECT id FROM streamed",
}


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("what", list(UNLIMITED))
async def test_cut_stream_leaves_a_usable_connection(
    connect: Connect, what: str, size: int, autocommit: bool
) -> None:
    if autocommit and what in ("insert", "delete", "update"):
        pytest.skip("would change the table for the others")
    conn = await connect(policy=open_policy(max_rows=3), autocommit=autocommit)
    cur = conn.cursor()
    assert len(await collect(cur.stream(UNLIMITED[what], size=size))) == 3
    assert cur.truncated
    expected = TransactionStatus.IDLE if autocommit else TransactionStatus.INTRANS
    assert conn.info.transaction_status == expected
    assert await run((await run(conn.execute("SELECT 1"))).fetchall()) == [(1,)]
    await run(conn.rollback())


async def test_a_write_whose_rows_are_cut_is_written(connect: Connect) -> None:
    conn = await connect(policy=open_policy(max_rows=3))
    shown = await collect(conn.cursor().stream("UPDATE streamed SET n = -7 WHERE id > 0 RETURNING id"))
    assert len(shown) == 3
    cur = await run(conn.execute("SELECT count(*) FROM streamed WHERE n = -7"))
    assert await run(cur.fetchone()) == (3000,)
    await run(conn.rollback())


async def test_an_error_behind_the_cut_is_an_error(connect: Connect) -> None:
    """The statement fails as a whole; that some of its rows would not have been shown does not save it."""
    conn = await connect(policy=open_policy(max_rows=3))
    text = "UPDATE streamed SET n = 1 WHERE id > 0 RETURNING 1 / (id - 2000)"
    with pytest.raises(psycopg.errors.DivisionByZero):
        await collect(conn.cursor().stream(text))
    assert conn.info.transaction_status == TransactionStatus.INERROR
    await run(conn.rollback())


async def test_rows_of_a_portal_are_counted_over_streams(connect: Connect) -> None:
    conn = await connect(policy=open_policy(max_rows=3))
    await run(conn.execute("DECLARE x CURSOR FOR SELECT id FROM streamed"))
    found = [await collect(conn.cursor().stream("FETCH 2 FROM x")) for _ in range(3)]
    assert [len(rows) for rows in found] == [2, 1, 0]
    await run(conn.rollback())


async def test_rows_of_a_portal_are_counted_over_executemany(connect: Connect) -> None:
    conn = await connect(policy=open_policy(max_rows=3))
    await run(conn.execute("DECLARE x CURSOR FOR SELECT id FROM streamed"))
    cur = conn.cursor()
    await run(cur.executemany("FETCH 2 FROM x", [(), (), ()], returning=True))
    found = [await run(cur.fetchall())]
    while cur.nextset():
        found.append(await run(cur.fetchall()))
    assert [len(rows) for rows in found] == [2, 1, 0]
    await run(conn.rollback())


async def test_rows_without_columns_are_counted(connect: Connect) -> None:
    conn = await connect(policy=open_policy(max_rows=3))
    cur = await run(conn.execute("SELECT FROM streamed"))
    assert cur.truncated
    assert cur.rowcount == 3
    assert await run(cur.fetchall()) == [()] * 3


@pytest.mark.parametrize(
    "text", ["INSERT INTO kept VALUES (1, 1)", "UPDATE kept SET tenant = 1 WHERE id = 1", "VALUES (1)"]
)
async def test_a_write_that_returns_nothing_cannot_be_streamed(connect: Connect, dsn: str, text: str) -> None:
    """As with psycopg, though guarddb adds a RETURNING to check what was written."""

    async def outcome(conn: Any) -> Any:
        cur = conn.cursor()
        try:
            found: Any = await collect(cur.stream(text))
        except psycopg.Error as ex:
            found = f"{type(ex).__name__}: {ex}"
        return found, conn.info.transaction_status, cur.description and cur.description[0].name

    conn = await connect(policy=open_policy(row_filters=[{"table": "kept", "predicate": "tenant = 1"}]))
    with psycopg.connect(dsn) as plain:
        assert await outcome(conn) == await outcome(plain)
        plain.rollback()
    await run(conn.rollback())


def batch(conn: Any) -> Any:
    return conn.cursor().executemany("INSERT INTO kept VALUES (%s, 1)", [(1,), (2,)])


async def pipeline(conn: Any) -> None:
    async with block(conn.pipeline()):
        cur = await run(conn.execute("SELECT 1"))
        await run(conn.execute("SELECT 2"))
        assert await run(cur.fetchone()) == (1,)


@pytest.mark.parametrize("then", [batch, pipeline])
@pytest.mark.parametrize("due", [False, True])
@pytest.mark.parametrize("filtered", [False, True])
async def test_a_batch_or_pipeline_right_behind_a_stream(
    connect: Connect, then: Callable[[Any], Any], due: bool, filtered: bool
) -> None:
    """libpq goes on handing out single rows to the next pipeline's first command, which is not to be the agent's."""
    filters = [{"table": "kept", "predicate": "tenant = 1"}] if filtered else []
    conn = await connect(policy=open_policy(row_filters=filters), autocommit=True)
    for _ in range(3):
        assert len(await collect(conn.cursor().stream("SELECT id FROM streamed WHERE id <= 5"))) == 5
        if due:
            conn._guard.freshness.check_at = 0.0
        await run(then(conn))
    await run(conn.execute("DELETE FROM kept WHERE id > 0"))


async def test_egress_of_every_kind_of_portal(connect: Connect) -> None:
    """What counts is what is handed out: the row beyond a cap is not."""
    conn = await connect(policy=open_policy(max_rows=2, egress_bytes_per_day=8))
    async with block(conn.cursor("x")) as cur:
        await run(cur.execute("SELECT lpad(id::text, 4, '0') FROM streamed ORDER BY id"))
        assert await run(cur.fetchall()) == [("0001",), ("0002",)]
    assert conn.budget.egress_bytes_today == 0
    with pytest.raises(guarddb.BudgetExceeded):
        await run((await run(conn.execute("SELECT 1"))).fetchall())
    await run(conn.rollback())


async def test_egress_of_a_portal_that_a_function_opened(connect: Connect, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute(
            "CREATE OR REPLACE FUNCTION opens() RETURNS refcursor LANGUAGE plpgsql AS "
            "$$ DECLARE r refcursor := 'opened'; BEGIN OPEN r FOR SELECT repeat('x', 50); RETURN r; END $$"
        )
    conn = await connect(
        policy=open_policy(egress_bytes_per_day=40, guarddb={"function_allowlist": ["opens"]})
    )
    await run((await run(conn.execute("SELECT opens()"))).fetchall())
    with pytest.raises(guarddb.BudgetExceeded):
        async with block(conn.cursor("opened")) as cur:
            await run(cur.fetchall())
    await run(conn.rollback())


async def select(cur: Any, way: str) -> None:
    """SELECT 1 by one of the ways that begin a transaction."""
    if way == "stream":
        await collect(cur.stream("SELECT 1"))
    elif way == "copy":
        async with block(cur.copy("COPY (SELECT 1) TO STDOUT")) as copy:
            await collect(copy)
    else:
        await run(cur.execute("SELECT 1"))


WAYS = ["execute", "stream", "copy", "server"]


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_is_begun_for_a_statement_beyond_the_budget(connect: Connect, way: str) -> None:
    conn = await connect(policy=open_policy(budget_queries_per_day=2))
    async with block(conn.cursor("x") if way == "server" else conn.cursor()) as cur:
        for left in (1, 0):  # each of these counts once
            await select(cur, way)
            await run(conn.rollback())
            assert conn.budget.queries_today == left
        with pytest.raises(guarddb.BudgetExceeded):
            await select(cur, way)
        assert conn.info.transaction_status == TransactionStatus.IDLE


@pytest.mark.parametrize("way", WAYS)
async def test_a_closed_cursor_begins_nothing(connect: Connect, way: str) -> None:
    conn = await connect()
    cur = conn.cursor("x") if way == "server" else conn.cursor()
    await run(cur.close())
    with pytest.raises(psycopg.InterfaceError):
        await select(cur, way)
    assert conn.info.transaction_status == TransactionStatus.IDLE


@pytest.mark.parametrize("query", [None, 3, memoryview(b"SELECT 1"), bytearray(b"SELECT 1")])
async def test_what_is_no_text_is_a_type_error(connect: Connect, dsn: str, query: Any) -> None:
    conn = await connect()
    with psycopg.connect(dsn) as plain, pytest.raises(TypeError):
        plain.execute(query)
    with pytest.raises(TypeError):
        await run(conn.execute(query))
    assert conn.info.transaction_status == TransactionStatus.IDLE
    assert await run((await run(conn.execute("SELECT 1"))).fetchall()) == [(1,)]
