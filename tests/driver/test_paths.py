"""Every way by which rows get out, each with a mask, a filter, a cap and a refusal of the real engine's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest

import guarddb
from tests.driver.conftest import Connect, block, collect, run

QUERY = "SELECT id, ssn FROM people ORDER BY id"
DENIED = "SELECT * FROM payroll"


@pytest.fixture(scope="module")
def people(dsn: str) -> Iterator[None]:
    """Nine people, of whom the policy shows the even ones, and three rows at the most; nobody's ssn."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE people (id int PRIMARY KEY, ssn text)")
        conn.execute("INSERT INTO people SELECT i, 'ssn-' || i FROM generate_series(1, 9) AS i")
        conn.execute("CREATE TABLE payroll (id int)")
    yield
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("DROP TABLE people, payroll")


POLICY = {
    "name": "paths",
    "access_mode": "read_write",
    "max_rows": 3,
    "table_denylist": ["payroll"],
    "masking_rules": [{"table": "people", "column": "ssn", "kind": "redact"}],
    "row_filters": [{"table": "people", "predicate": "id % 2 = 0"}],
    "statement_rules": {"allow": ["select", "copy", "transaction", "other"]},
}
EXPECTED = [(2, "[redacted]"), (4, "[redacted]"), (6, "[redacted]")]

Path = Callable[[Any, str], Awaitable[list[Any]]]


def sibling(conn: Any, name: str) -> Any:
    """A cursor class of psycopg's own for this connection, sync or async."""
    return getattr(psycopg, ("Async" if isinstance(conn, psycopg.AsyncConnection) else "") + name)


async def execute(conn: Any, query: Any) -> list[Any]:
    rows: list[Any] = await run((await run(conn.execute(query))).fetchall())
    return rows


async def prepared(conn: Any, query: str) -> list[Any]:
    rows: list[Any] = []
    for _ in range(2):
        rows = await run((await run(conn.execute(query, prepare=True))).fetchall())
    return rows


async def binary(conn: Any, query: str) -> list[Any]:
    rows: list[Any] = await run((await run(conn.execute(query, binary=True))).fetchall())
    return rows


async def composed(conn: Any, query: str) -> list[Any]:
    text = psycopg.sql.SQL("SELECT * FROM ({}) AS q").format(psycopg.sql.SQL(query))
    return await execute(conn, text)


async def as_bytes(conn: Any, query: str) -> list[Any]:
    return await execute(conn, query.encode())


async def iterated(conn: Any, query: str) -> list[Any]:
    return await collect(await run(conn.execute(query)))


async def streamed(conn: Any, query: str) -> list[Any]:
    return await collect(conn.cursor().stream(query))


async def streamed_in_chunks(conn: Any, query: str) -> list[Any]:
    return await collect(conn.cursor().stream(query, size=4))


async def server(conn: Any, query: str) -> list[Any]:
    async with block(conn.cursor("c")) as cur:
        await run(cur.execute(query))
        return [await run(cur.fetchone()), *await run(cur.fetchall())]


async def scrolled(conn: Any, query: str) -> list[Any]:
    async with block(conn.cursor("c", scrollable=True, withhold=True)) as cur:
        await run(cur.execute(query))
        await run(cur.scroll(2))
        await run(cur.scroll(0, mode="absolute"))
        return await collect(cur)


async def raw_server(conn: Any, query: str) -> list[Any]:
    async with block(sibling(conn, "RawServerCursor")(conn, "c")) as cur:
        await run(cur.execute(query))
        rows: list[Any] = await run(cur.fetchmany(10))
        return rows


async def client(conn: Any, query: str) -> list[Any]:
    rows: list[Any] = await run((await run(sibling(conn, "ClientCursor")(conn).execute(query))).fetchall())
    return rows


async def raw(conn: Any, query: str) -> list[Any]:
    rows: list[Any] = await run((await run(sibling(conn, "RawCursor")(conn).execute(query))).fetchall())
    return rows


async def many(conn: Any, query: str) -> list[Any]:
    cur = conn.cursor()
    await run(cur.executemany(query, [(), ()], returning=True))
    first = await run(cur.fetchall())
    assert cur.nextset()
    assert await run(cur.fetchall()) == first
    return list(first)


async def client_many(conn: Any, query: str) -> list[Any]:
    cur = sibling(conn, "ClientCursor")(conn)
    await run(cur.executemany(query, [(), ()], returning=True))
    assert cur.nextset()
    rows: list[Any] = await run(cur.fetchall())
    return rows


async def pipelined(conn: Any, query: str) -> list[Any]:
    async with block(conn.pipeline()):
        one, two = [await run(conn.execute(query)) for _ in range(2)]
        assert await run(one.fetchall()) == await run(two.fetchall())
    await run(two.scroll(0, mode="absolute"))
    rows: list[Any] = await run(two.fetchall())
    return rows


async def several_statements(conn: Any, query: str) -> list[Any]:
    cur = await run(conn.execute(f"SELECT 1; {query}"))
    assert cur.nextset()
    rows: list[Any] = await run(cur.fetchall())
    return rows


async def copied(conn: Any, query: str) -> list[Any]:
    async with block(conn.cursor().copy(f"COPY ({query}) TO STDOUT")) as copy:
        copy.set_types(["int4", "text"])
        return await collect(copy.rows())


async def sql_prepared(conn: Any, query: str) -> list[Any]:
    await run(conn.execute(f"PREPARE p AS {query}"))
    try:
        return await execute(conn, "EXECUTE p")
    finally:
        await run(conn.execute("DEALLOCATE p"))


async def sql_declared(conn: Any, query: str) -> list[Any]:
    await run(conn.execute(f"DECLARE d CURSOR FOR {query}"))
    return [*await execute(conn, "FETCH 2 FROM d"), *await execute(conn, "FETCH ALL FROM d")]


async def stolen(conn: Any, query: str) -> list[Any]:
    await run(conn.execute(f"DECLARE d CURSOR FOR {query}"))
    async with block(conn.cursor("d")) as cur:
        return await collect(cur)


PATHS: list[Path] = [
    execute,
    prepared,
    binary,
    composed,
    as_bytes,
    iterated,
    streamed,
    streamed_in_chunks,
    server,
    scrolled,
    raw_server,
    client,
    raw,
    many,
    client_many,
    pipelined,
    several_statements,
    copied,
    sql_prepared,
    sql_declared,
    stolen,
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
async def test_path_masks_filters_and_caps(connect: Connect, people: None, path: Path) -> None:
    conn = await connect(policy=POLICY)
    assert await path(conn, QUERY) == EXPECTED


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
async def test_path_refuses(connect: Connect, people: None, path: Path) -> None:
    conn = await connect(policy=POLICY)
    with pytest.raises(guarddb.PolicyViolation) as caught:
        await path(conn, DENIED)
    assert caught.value.rule == "table_denied"
    await run(conn.rollback())
    assert await execute(conn, QUERY) == EXPECTED


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
async def test_path_is_observed_only(connect: Connect, people: None, path: Path) -> None:
    conn = await connect(policy=POLICY, enforcement="observe")
    rows = await path(conn, QUERY)
    assert rows == [(number, f"ssn-{number}") for number in range(1, 10)]
