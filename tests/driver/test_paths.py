"""Every way by which rows get out, each with a mask, a filter, a cap and a refusal of the real engine's."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.rows import dict_row, namedtuple_row, tuple_row

import guarddb
from tests.driver.conftest import Connect, block, collect, open_policy, run

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


async def foreign(conn: Any, query: str) -> list[Any]:
    """A cursor that is made by psycopg's class and not by the connection."""
    cur = sibling(conn, "Cursor")(conn)
    await run(cur.execute(query))
    return await collect(cur)


async def foreign_server(conn: Any, query: str) -> list[Any]:
    async with block(sibling(conn, "ServerCursor")(conn, "c")) as cur:
        await run(cur.execute(query))
        return await collect(cur)


async def by_cursor_factory(conn: Any, query: str) -> list[Any]:
    conn.cursor_factory = sibling(conn, "RawCursor")
    return await execute(conn, query)


async def of_a_subclass(conn: Any, query: str) -> list[Any]:
    base = sibling(conn, "ClientCursor")
    return await collect(await run(type("Mine", (base,), {})(conn).execute(query)))


async def row_factory_changed(conn: Any, query: str) -> list[Any]:
    cur = await run(conn.execute(query))
    cur.row_factory = dict_row
    first = await run(cur.fetchone())
    cur.row_factory = namedtuple_row
    second = await run(cur.fetchone())
    cur.row_factory = tuple_row
    return [tuple(first.values()), tuple(second), *await run(cur.fetchall())]


async def loader_registered(conn: Any, query: str) -> list[Any]:
    cur = await run(conn.execute(query))
    cur.adapters.register_loader("int4", psycopg.types.numeric.IntLoader)
    rows: list[Any] = await run(cur.fetchall())
    return rows


async def by_results(conn: Any, query: str) -> list[Any]:
    cur = await run(conn.execute(f"SELECT 1; {query}"))
    if not hasattr(cur, "results"):  # new in psycopg 3.3
        return await several_statements(conn, query)
    found = [await run(each.fetchall()) async for each in alternately(cur.results())]
    await run(cur.set_result(-1))
    assert await run(cur.fetchall()) == found[1]
    return list(found[1])


async def alternately(items: Any) -> AsyncIterator[Any]:
    """An iterator as an async one, item by item."""
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def copied_raw(conn: Any, query: str) -> list[Any]:
    async with block(conn.cursor().copy(f"COPY ({query}) TO STDOUT")) as copy:
        text = b""
        while data := await run(copy.read()):
            text += bytes(data)
    return [(int(number), ssn) for number, ssn in (line.split("\t") for line in text.decode().splitlines())]


async def copied_binary(conn: Any, query: str) -> list[Any]:
    async with block(conn.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT binary)")) as copy:
        copy.set_types(["int4", "text"])
        return await collect(copy.rows())


async def many_in_a_pipeline(conn: Any, query: str) -> list[Any]:
    async with block(conn.pipeline()):
        cur = conn.cursor()
        await run(cur.executemany(query, [(), ()], returning=True))
        rows: list[Any] = await run(cur.fetchall())
    return rows


async def in_a_transaction_block(conn: Any, query: str) -> list[Any]:
    async with block(conn.transaction()), block(conn.transaction("inner")):
        return await execute(conn, query)


async def in_a_two_phase_transaction(conn: Any, query: str) -> list[Any]:
    await run(conn.tpc_begin(f"paths-{id(conn)}"))
    try:
        return await execute(conn, query)
    finally:
        await run(conn.tpc_rollback())


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
    foreign,
    foreign_server,
    by_cursor_factory,
    of_a_subclass,
    row_factory_changed,
    loader_registered,
    by_results,
    copied_raw,
    copied_binary,
    many_in_a_pipeline,
    in_a_transaction_block,
    in_a_two_phase_transaction,
]
COPIES = [copied, copied_raw, copied_binary]


def test_size() -> None:
    assert len(PATHS) == len(set(PATHS)) == 33


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
async def test_path_masks_filters_and_caps(connect: Connect, people: None, path: Path) -> None:
    conn = await connect(policy=POLICY)
    assert await path(conn, QUERY) == EXPECTED


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
async def test_path_hashes_with_the_key(
    connect: Connect, people: None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one mask that is made in the process; copies do not pass there."""
    monkeypatch.setenv("GUARDDB_TEST_KEY", "key")
    rule = {"table": "people", "column": "ssn", "kind": "hash"}
    policy = {**POLICY, "masking_rules": [rule], "guarddb": {"hash_key_env": "GUARDDB_TEST_KEY"}}
    conn = await connect(policy=policy)
    expected = [(n, hmac.new(b"key", f"ssn-{n}".encode(), "sha256").hexdigest()) for n in (2, 4, 6)]
    if path in COPIES:
        with pytest.raises(guarddb.PolicyViolation, match="keyed hash"):
            await path(conn, QUERY)
    else:
        assert await path(conn, QUERY) == expected


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
async def test_path_is_counted(connect: Connect, people: None, path: Path) -> None:
    """Queries and bytes, and a used-up budget ends each of them."""
    policy = open_policy(**{k: v for k, v in POLICY.items() if k != "name"}, egress_bytes_per_day=12)
    conn = await connect(policy=policy)
    with pytest.raises(guarddb.BudgetExceeded):
        await path(conn, QUERY)
    assert conn.budget.egress_bytes_today <= 12
    await run(conn.rollback())


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


async def connection_of_a_pool(dsn: str, way: str) -> AsyncIterator[Any]:
    if way == "sync":
        with (
            psycopg_pool.ConnectionPool(
                dsn, connection_class=guarddb.Connection, kwargs={"policy": POLICY}, min_size=1, open=True
            ) as pool,
            pool.connection() as conn,
        ):
            yield conn
    else:
        kwargs = {"policy": POLICY}
        async with (
            psycopg_pool.AsyncConnectionPool(
                dsn, connection_class=guarddb.AsyncConnection, kwargs=kwargs, min_size=1, open=False
            ) as pool,
            pool.connection() as conn,
        ):
            yield conn


async def connection_of_an_installed_guard(dsn: str, way: str) -> AsyncIterator[Any]:
    guarddb.install(policy=POLICY)
    try:
        conn = psycopg.connect(dsn) if way == "sync" else await psycopg.AsyncConnection.connect(dsn)
        yield conn
        await run(conn.close())
    finally:
        guarddb.uninstall()


@pytest.mark.parametrize("source", [connection_of_a_pool, connection_of_an_installed_guard])
@pytest.mark.parametrize("way", ["sync", "async"])
async def test_pools_and_an_installed_guard(dsn: str, people: None, source: Any, way: str) -> None:
    async with asynccontextmanager(source)(dsn, way) as conn:
        for path in (execute, server, streamed, copied, pipelined, many):
            assert await path(conn, QUERY) == EXPECTED
            await run(conn.rollback())
            with pytest.raises(guarddb.PolicyViolation):
                await path(conn, DENIED)
            await run(conn.rollback())


SURROUNDED: list[dict[str, Any]] = [
    {"max_affected_rows": 3},
    {"write_mode": "rollback"},
    {"approval_mode": "all"},
]


@pytest.mark.parametrize("policy", SURROUNDED, ids=str)
async def test_a_copy_that_goes_wrong_leaves_the_connection_as_psycopg_does(
    connect: Connect, dsn: str, policy: dict[str, Any]
) -> None:
    """A COPY that may have to be taken back and does not begin, is left, or is none."""
    conn = await connect(policy=open_policy(**policy), autocommit=True, approver=lambda request: True)
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("DROP TABLE IF EXISTS wrong; CREATE TABLE wrong (id int)")
        plain.execute("INSERT INTO wrong SELECT generate_series(1, 9)")

    async def tried(text: str, *, leaves: bool = False) -> None:
        async with block(conn.cursor().copy(text)) as copy:
            if leaves:
                await run(copy.read())

    try:
        with pytest.raises(psycopg.errors.UndefinedColumn):
            await tried("COPY wrong (nope) FROM STDIN")
        assert await collect(await run(conn.execute("SELECT 1"))) == [(1,)]
        with pytest.raises(psycopg.ProgrammingError, match="only with COPY"):
            await tried("UPDATE wrong SET id = 0 WHERE id < 4")
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert await collect(await run(conn.execute("SELECT count(*) FROM wrong WHERE id = 0"))) == [(0,)]
        if "max_affected_rows" not in policy:
            await tried("COPY (DELETE FROM wrong WHERE id > 3 RETURNING id) TO STDOUT", leaves=True)
            left = 9 if "write_mode" in policy else 3
            assert await collect(await run(conn.execute("SELECT count(*) FROM wrong"))) == [(left,)]
    finally:
        await run(conn.close())
        with psycopg.connect(dsn, autocommit=True) as plain:
            plain.execute("DROP TABLE wrong")
