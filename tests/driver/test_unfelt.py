"""The catalog that decides is the one in force, and guarddb's own questions to the server are not felt."""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import pq

import guarddb
from guarddb.driver import freshness, reading, watch
from guarddb.vocabulary import FLOOR_RULES, KINDS
from tests.driver.conftest import Connect, Engine, block, look_is_due, open_policy, run
from tests.driver.test_freshness import Looking

NOTHING_FORBIDDEN: dict[str, Any] = {
    "name": "nothing forbidden",
    "access_mode": "read_write",
    "statement_rules": {"allow": list(KINDS)},
    "guarddb": {"floor_exceptions": list(FLOOR_RULES)},
}
EVERY_KIND: dict[str, Any] = {"statement_rules": {"allow": list(KINDS)}}


@pytest.fixture
def look(answers: Engine) -> Looking:
    return Looking(answers, "SELECT 'look'")


async def test_a_look_that_was_interrupted_does_not_count(
    connect: Connect, look: Looking, fresh_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = await connect(fresh_dsn, autocommit=True)
    await run(conn.execute("SELECT 'look'"))
    with psycopg.connect(fresh_dsn, autocommit=True) as other:
        other.execute("CREATE TABLE seen_late (id int)")
    look_is_due(conn)
    with monkeypatch.context() as patch:
        patch.setattr(watch, "FINGERPRINT", b"SELECT (1/0)::text")
        with pytest.raises(psycopg.errors.DivisionByZero):
            await run(conn.execute("SELECT 'look'"))
    await run(conn.execute("SELECT 'look'"))
    assert "seen_late" in look.tables


@pytest.mark.parametrize("first", [None, "SET TRANSACTION READ ONLY", "SET LOCAL work_mem = '5MB'"])
async def test_the_first_statement_after_begin_is_judged_by_the_catalog_of_now(
    connect: Connect, look: Looking, fresh_dsn: str, first: str | None
) -> None:
    conn = await connect(fresh_dsn, policy=open_policy(**EVERY_KIND), autocommit=True)
    await run(conn.execute("SELECT 'look'"))
    async with block(conn.transaction()):
        with psycopg.connect(fresh_dsn, autocommit=True) as other:
            other.execute("DROP TABLE IF EXISTS seen_in_transaction")
            other.execute("CREATE TABLE seen_in_transaction (id int)")
        time.sleep(freshness.LOOK_AT_LEAST_EVERY)
        if first is not None:
            await run(conn.execute(first))
        conn._guard.plans.clear()
        await run(conn.execute("SELECT 'look'"))
        assert "seen_in_transaction" in look.tables


def test_no_statement_is_judged_by_a_catalog_older_than_the_bound(fresh_dsn: str) -> None:
    """100 connections in four threads that send all the time, somebody who writes all the time, and DDL beside it.

    A statement that was sent later than the bound after a commit was judged by a catalog that has it. What a look itself takes
    is not in the bound, and on a busy machine it may be long; it is part of a statement, so twice the longest statement is
    allowed for it.
    """
    policy = open_policy()
    connections = [guarddb.connect(fresh_dsn, policy=policy, autocommit=True) for _ in range(100)]
    bound = freshness.LOOK_AT_LEAST_EVERY + freshness.FINGERPRINT_AT_LEAST_EVERY
    sent: list[list[tuple[float, float, Any]]] = [[] for _ in connections]
    stop = threading.Event()
    failures: list[BaseException] = []

    def send(numbers: range) -> None:
        try:
            while not stop.is_set():
                for number in numbers:
                    conn = connections[number]
                    before = time.perf_counter()
                    conn.execute("SELECT 1")
                    sent[number].append((before, time.perf_counter(), conn._guard.catalog))
        except BaseException as ex:
            failures.append(ex)

    def longest() -> float:
        return max(end - before for statements in sent for before, end, _ in tuple(statements))

    threads = [threading.Thread(target=send, args=(range(n, 100, 4),)) for n in range(4)]
    for thread in threads:
        thread.start()
    committed = []
    try:
        with psycopg.connect(fresh_dsn, autocommit=True) as other:
            other.execute("CREATE TABLE busy (id int)")
            while not all(sent) and not failures:
                other.execute("INSERT INTO busy VALUES (1)")
            for number in range(5):
                other.execute(f"CREATE TABLE bounded_{number} (id int)")
                committed.append(time.perf_counter())
                while not failures:
                    other.execute("INSERT INTO busy VALUES (1)")
                    from_here = committed[-1] + bound + 2 * longest()
                    if all(statements[-1][0] > from_here for statements in sent):
                        break
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for conn in connections:
            conn.close()
    assert not failures
    allowed = bound + 2 * longest()
    tables: dict[int, set[str]] = {}
    checked = 0
    for before, _, catalog in (each for statements in sent for each in statements):
        if id(catalog) not in tables:
            tables[id(catalog)] = {relation.name for relation in catalog.relations.values()}
        for number, when in enumerate(committed):
            if before > when + allowed:
                assert f"bounded_{number}" in tables[id(catalog)]
                checked += 1
    assert checked >= 100


async def test_no_snapshot_is_taken_before_the_agents_own(connect: Connect, fresh_dsn: str) -> None:
    """LOCK, then SELECT, in a serializable transaction: it sees what was committed until it had the lock."""
    with psycopg.connect(fresh_dsn, autocommit=True) as other:
        other.execute("DROP TABLE IF EXISTS counter")
        other.execute("CREATE TABLE counter (n int)")
        other.execute("INSERT INTO counter VALUES (1)")
        conn = await connect(fresh_dsn, policy=open_policy(**EVERY_KIND))
        if isinstance(conn, psycopg.Connection):
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        else:
            await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await run(conn.execute("SELECT n FROM counter"))
        await run(conn.rollback())
        time.sleep(freshness.LOOK_AT_LEAST_EVERY)
        await run(conn.execute("SAVEPOINT a"))
        time.sleep(freshness.LOOK_AT_LEAST_EVERY)
        await run(conn.execute("SHOW work_mem"))
        other.execute("UPDATE counter SET n = 2")
        await run(conn.execute("LOCK TABLE counter IN SHARE ROW EXCLUSIVE MODE"))
        cur = await run(conn.execute("SELECT n FROM counter"))
        assert await run(cur.fetchone()) == (2,)
        await run(conn.execute("UPDATE counter SET n = n + 1 WHERE n > 0"))
        await run(conn.commit())


@pytest.mark.parametrize("between", ["SET application_name = 'x'", "LISTEN c", "NOTIFY c", "DO 'BEGIN END'"])
async def test_the_implicit_transaction_of_a_pipeline_is_not_split(
    connect: Connect, fresh_dsn: str, between: str
) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as other:
        other.execute("CREATE TABLE IF NOT EXISTS split (id int)")
        other.execute("TRUNCATE split")
    policy = open_policy(**EVERY_KIND, guarddb={"floor_exceptions": ["anonymous_code"]})
    conn = await connect(fresh_dsn, policy=policy, autocommit=True)
    await run(conn.execute("SELECT 1"))

    async def pipeline() -> None:
        async with block(conn.pipeline()):
            await run(conn.execute("INSERT INTO split VALUES (1)"))
            await run(conn.execute(between))
            await run(conn.execute("INSERT INTO split VALUES (2)"))
            await run(conn.execute("SELECT 1/0"))

    with pytest.raises(psycopg.errors.DivisionByZero):
        await pipeline()
    cur = await run(conn.execute("SELECT count(*) FROM split"))
    assert await run(cur.fetchone()) == (0,)


async def test_a_short_timeout_does_not_cut_off_guarddbs_own_questions(
    connect: Connect, look: Looking, fresh_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They fail here where a statement_timeout is in force while they run."""
    for room, name in ((watch, "FINGERPRINT"), (reading, "_CATALOG")):
        asked = getattr(room, name)
        in_no_hurry = b"1 / (current_setting('statement_timeout') = '0')::int = 1"
        monkeypatch.setattr(room, name, b"SELECT q.* FROM (" + asked + b") AS q WHERE " + in_no_hurry)
    conn = await connect(fresh_dsn, policy=open_policy(statement_timeout_ms=900), autocommit=True)
    await run(conn.execute("SELECT 'look'"))
    with psycopg.connect(fresh_dsn, autocommit=True) as other:
        other.execute("CREATE TABLE seen_slowly (id int)")
    time.sleep(freshness.LOOK_AT_LEAST_EVERY + freshness.FINGERPRINT_AT_LEAST_EVERY)
    await run(conn.execute("SELECT 'look'"))
    assert "seen_slowly" in look.tables
    with pytest.raises(psycopg.errors.QueryCanceled):
        await run(conn.execute("SELECT count(*) FROM generate_series(1, 100000000)"))


async def test_executemany_of_nothing_begins_a_transaction(connect: Connect, dsn: str) -> None:
    with psycopg.connect(dsn) as plain:
        plain.cursor().executemany("SELECT %s", [])
        expected = plain.info.transaction_status
    conn = await connect()
    await run(conn.cursor().executemany("SELECT %s", []))
    assert conn.info.transaction_status == expected


async def test_a_refusal_in_a_pipeline_forgets_no_names(connect: Connect) -> None:
    conn = await connect(policy=open_policy(table_denylist=["pg_class"]))
    await run(conn.execute("PREPARE kept AS SELECT 1"))
    await run(conn.execute("DECLARE held CURSOR FOR SELECT 2"))
    async with block(conn.pipeline()):
        await run(conn.execute("PREPARE fresh AS SELECT 3"))
        with pytest.raises(guarddb.PolicyViolation):
            await run(conn.execute("SELECT * FROM pg_class"))
        results = [
            await run((await run(conn.execute(text))).fetchone())
            for text in ("EXECUTE kept", "FETCH held", "EXECUTE fresh")
        ]
    assert results == [(1,), (2,), (3,)]


def script(conn: Any) -> None:
    conn.execute("CREATE TEMP TABLE wire (id int PRIMARY KEY, n int)")
    conn.cursor().executemany("INSERT INTO wire VALUES (%s, %s)", [(1, 1), (2, 2)])
    conn.execute("SELECT * FROM wire WHERE id = %s", (1,)).fetchall()
    conn.commit()
    conn.cursor().executemany(
        "INSERT INTO wire VALUES (%s, %s) RETURNING id", [(3, 3), (4, 4)], returning=True
    )
    with conn.transaction():
        conn.execute("UPDATE wire SET n = 0")
        with suppress(psycopg.Error), conn.transaction():
            conn.execute("SELECT 1/0")
    with conn.pipeline():
        conn.execute("SELECT 1")
        conn.execute("SELECT 2", prepare=True)
    conn.execute("SET work_mem = '5MB'")
    with conn.cursor("named") as cur:
        cur.execute("SELECT * FROM wire")
        cur.fetchmany(2)
    with conn.cursor().copy("COPY wire TO STDOUT") as copy:
        list(copy)
    list(conn.cursor().stream("SELECT * FROM wire"))
    conn.rollback()
    conn.autocommit = True
    with conn.pipeline():
        conn.execute("SELECT 1")
        conn.execute("LISTEN c")
        conn.execute("SELECT 2")
    conn.execute("DISCARD ALL")


@pytest.mark.skipif(not hasattr(pq, "Trace"), reason="psycopg before 3.1")
def test_where_nothing_is_forbidden_the_wire_is_psycopgs_to_the_message(dsn: str) -> None:
    def traced(conn: Any) -> dict[str, list[str]]:
        """What each side said, in its order. How the two fall between each other, and how often libpq flushes, is the clock's."""
        with tempfile.TemporaryFile("w+") as file:
            conn.pgconn.trace(file.fileno())
            conn.pgconn.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS | pq.Trace.REGRESS_MODE)
            try:
                script(conn)
            finally:
                conn.pgconn.untrace()
            file.seek(0)
            lines = [line for line in file.read().splitlines() if "\tFlush" not in line]
        return {side: [line for line in lines if line.startswith(side)] for side in "FB"}

    with psycopg.connect(dsn) as plain:
        expected = traced(plain)
    with guarddb.connect(dsn, policy=NOTHING_FORBIDDEN) as conn:
        assert traced(conn) == expected
        assert conn.execute("SELECT 1 AS one").fetchone() == (1,)
        assert guarddb.Catalog.from_connection(conn).version
