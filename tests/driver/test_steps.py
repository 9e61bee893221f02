"""`steps.py` is the one place where a statement is counted, approved for sending and its result approved for showing."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types import TypeInfo

from guarddb.driver import counting, shown, steps
from guarddb.runtime.budgets import Budget
from tests.driver.conftest import Connect, block, collect, open_policy, run

SERIES = "SELECT generate_series(1, 5)"


class Calls:
    """How often each step was taken, and in which order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[str] = []
        for owner, name, as_name in (
            (counting, "count", "count"),
            (steps, "approve", "approve"),
            (Budget, "charge_query", "charged"),
            (Budget, "charge_bytes", "bytes"),
            (shown, "show_result", "shown"),
            (shown, "show_chunk", "shown"),
            (shown, "FetchedRows", "shown"),
        ):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name), as_name))

    def _counted(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.taken.append(name)
            return real(*args, **kwargs)

        return call

    @property
    def number(self) -> Counter[str]:
        return Counter(self.taken)


async def by_execute(conn: Any) -> None:
    await run((await run(conn.execute(SERIES))).fetchall())


async def by_execute_with_parameters(conn: Any) -> None:
    await run((await run(conn.execute("SELECT %s::int", (1,)))).fetchall())


async def by_prepared_statement(conn: Any) -> None:
    await run((await run(conn.execute("SELECT %s::int", (1,), prepare=True))).fetchone())


async def by_binary(conn: Any) -> None:
    await collect(await run(conn.cursor(binary=True).execute(SERIES)))


async def by_executemany(conn: Any) -> None:
    await run(conn.cursor().executemany("SELECT %s::int", [(1,), (2,), (3,)]))


async def by_executemany_returning(conn: Any) -> None:
    cur = conn.cursor()
    await run(cur.executemany("SELECT %s::int", [(1,), (2,), (3,)], returning=True))
    await run(cur.fetchall())
    while cur.nextset():
        await run(cur.fetchall())


async def by_pipeline(conn: Any) -> None:
    async with block(conn.pipeline()):
        cursors = [await run(conn.execute(SERIES)) for _ in range(3)]
        for cur in cursors:
            await run(cur.fetchall())


async def by_stream(conn: Any) -> None:
    await collect(conn.cursor().stream(SERIES, size=5))


async def by_copy_out(conn: Any) -> None:
    async with block(conn.cursor().copy(f"COPY ({SERIES}) TO STDOUT")) as copy:
        await collect(copy)


async def by_copy_with_parameters(conn: Any) -> None:
    async with block(conn.cursor().copy("COPY (SELECT %s::int) TO STDOUT", (1,))) as copy:
        await collect(copy)


async def by_named_cursor(conn: Any) -> None:
    async with block(conn.cursor("named")) as cur:
        await run(cur.execute(SERIES))
        await run(cur.fetchall())


async def by_client_cursor(conn: Any) -> None:
    sync = isinstance(conn, psycopg.Connection)
    cur: Any = (psycopg.ClientCursor if sync else psycopg.AsyncClientCursor)(conn)
    await run(cur.execute("SELECT %s::int", (1,)))
    await run(cur.fetchall())


async def by_raw_cursor(conn: Any) -> None:
    sync = isinstance(conn, psycopg.Connection)
    cur: Any = (psycopg.RawCursor if sync else psycopg.AsyncRawCursor)(conn)
    await run(cur.execute("SELECT $1::int", (1,)))
    await run(cur.fetchall())


async def by_foreign_cursor(conn: Any) -> None:
    sync = isinstance(conn, psycopg.Connection)
    cur: Any = (psycopg.Cursor if sync else psycopg.AsyncCursor)(conn)
    await run(cur.execute(SERIES))
    await run(cur.fetchall())


async def by_stream_of_a_foreign_cursor(conn: Any) -> None:
    sync = isinstance(conn, psycopg.Connection)
    cur: Any = (psycopg.Cursor if sync else psycopg.AsyncCursor)(conn)
    await collect(cur.stream(SERIES, size=5))


async def by_copy_of_a_foreign_cursor(conn: Any) -> None:
    sync = isinstance(conn, psycopg.Connection)
    cur: Any = (psycopg.Cursor if sync else psycopg.AsyncCursor)(conn)
    async with block(cur.copy(f"COPY ({SERIES}) TO STDOUT")) as copy:
        await collect(copy)


async def by_type_info(conn: Any) -> None:
    await run(TypeInfo.fetch(conn, "int4"))


#: (way, statements that the agent sends, results that are shown to it)
WAYS: list[tuple[Callable[[Any], Awaitable[None]], int, int]] = [
    (by_execute, 1, 1),
    (by_execute_with_parameters, 1, 1),
    (by_prepared_statement, 1, 1),
    (by_binary, 1, 1),
    (by_executemany, 3, 0),
    (by_executemany_returning, 3, 3),
    (by_pipeline, 3, 3),
    (by_stream, 1, 1),
    (by_copy_out, 1, 1),
    (by_copy_with_parameters, 1, 1),
    (by_named_cursor, 1, 2),  # the description of the portal, and its FETCH
    (by_client_cursor, 1, 1),
    (by_raw_cursor, 1, 1),
    (by_foreign_cursor, 1, 1),
    (by_stream_of_a_foreign_cursor, 1, 1),
    (by_copy_of_a_foreign_cursor, 1, 1),
    (by_type_info, 1, 1),
]


@pytest.mark.parametrize(("way", "sent", "results"), WAYS, ids=[way.__name__ for way, *_ in WAYS])
@pytest.mark.parametrize("autocommit", [False, True])
async def test_every_way_takes_every_step_once(
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[[Any], Awaitable[None]],
    sent: int,
    results: int,
    autocommit: bool,
) -> None:
    policy = open_policy(
        budget_queries_per_day=1000, egress_bytes_per_day=10**9, max_rows=1000, statement_rules={"allow": []}
    )
    conn = await connect(policy=policy, autocommit=autocommit)
    if way is by_named_cursor and autocommit:
        await run(conn.set_autocommit(False))
    await run(conn.execute("SELECT 1"))
    calls = Calls(monkeypatch)
    await way(conn)
    number = calls.number
    assert number["count"] == number["charged"] == sent, calls.taken
    assert number["approve"] == sent, calls.taken
    assert number["shown"] >= results, calls.taken
    assert number["bytes"] or not results, calls.taken
    for one, other in (("count", "approve"), ("approve", "shown"), ("shown", "bytes")):
        if other in calls.taken:
            assert calls.taken.index(one) < calls.taken.index(other), calls.taken


@pytest.mark.parametrize(
    "way", [way for way, *_ in WAYS if way is not by_type_info], ids=lambda way: way.__name__
)
async def test_what_is_not_approved_is_not_sent(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, way: Callable[[Any], Awaitable[None]]
) -> None:
    """With the one place taken out, nothing gets to the server by any way."""
    conn = await connect()

    def refuse(cursor: Any, pgq: Any) -> None:
        raise conn._guard.deny("internal_error", "not today")

    monkeypatch.setattr(steps, "approve", refuse)
    monkeypatch.setattr(steps, "approve_preparing", refuse)
    with pytest.raises(psycopg.Error, match="not today"):
        await way(conn)


def test_nobody_else_charges_approves_or_shows() -> None:
    """In the text of the driver: these names are used in `steps.py` alone, and budgets are charged by `counting.py`."""
    used: dict[str, set[str]] = {}
    for path in Path(steps.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                used.setdefault(node.attr, set()).add(path.name)
            elif isinstance(node, ast.Name):
                used.setdefault(node.id, set()).add(path.name)
    for name in ("charge_query", "charge_bytes"):
        assert used[name] == {"counting.py"}
    assert used["uncounted"] == {"steps.py", "counting.py"}
    for name in ("show_result", "show_chunk", "view_stream"):
        assert used[name] == {"steps.py"}
    assert used["passed"] <= {"steps.py", "query.py"}
