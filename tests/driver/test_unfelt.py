"""The catalog that decides is the one in force, and guarddb's own questions to the server are not felt."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import pq

import guarddb
from guarddb.driver import watch
from guarddb.vocabulary import FLOOR_RULES, KINDS
from tests.driver.conftest import Connect, Engine, block, open_policy, run
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
    conn._guard.freshness.check_at = 0.0
    with monkeypatch.context() as patch:
        patch.setattr(watch, "_FINGERPRINT", b"SELECT (1/0)::text")
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
        time.sleep(watch.LOOK_AT_LEAST_EVERY)
        if first is not None:
            await run(conn.execute(first))
        conn._guard.plans.clear()
        await run(conn.execute("SELECT 'look'"))
        assert "seen_in_transaction" in look.tables


async def test_no_statement_is_judged_by_a_catalog_older_than_the_bound(
    look: Looking, fresh_dsn: str
) -> None:
    """Also on many connections that are idle, busy, or have just looked, and with somebody who writes all the time."""
    policy = open_policy()
    connections = [guarddb.connect(fresh_dsn, policy=policy, autocommit=True) for _ in range(40)]
    bound = watch.LOOK_AT_LEAST_EVERY + watch.FINGERPRINT_AT_LEAST_EVERY
    with psycopg.connect(fresh_dsn, autocommit=True) as other:
        other.execute("CREATE TABLE IF NOT EXISTS busy (id int)")
        for number in range(5):
            for conn in connections[number:]:
                conn.execute("SELECT 1")
                other.execute("INSERT INTO busy VALUES (1)")
            other.execute(f"CREATE TABLE IF NOT EXISTS bounded_{number} (id int)")
            committed = time.perf_counter()
            for conn in connections:
                time.sleep(max(0.0, committed + bound - time.perf_counter()))
                conn.execute("SELECT 1")
                assert conn._guard.catalog is not None
                relations = conn._guard.catalog.relations.values()
                assert f"bounded_{number}" in {relation.name for relation in relations}
    for conn in connections:
        conn.close()


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
        time.sleep(watch.LOOK_AT_LEAST_EVERY)
        await run(conn.execute("SAVEPOINT a"))
        time.sleep(watch.LOOK_AT_LEAST_EVERY)
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
    """Questions that take 60 ms, under a statement_timeout of 40."""
    for name in ("_FINGERPRINT", "_CATALOG"):
        asked = getattr(watch, name)
        monkeypatch.setattr(
            watch, name, b"SELECT q.* FROM (" + asked + b") AS q, (SELECT pg_sleep(0.06)) AS s"
        )
    conn = await connect(fresh_dsn, policy=open_policy(statement_timeout_ms=40), autocommit=True)
    await run(conn.execute("SELECT 'look'"))
    with psycopg.connect(fresh_dsn, autocommit=True) as other:
        other.execute("CREATE TABLE seen_slowly (id int)")
    time.sleep(watch.LOOK_AT_LEAST_EVERY + watch.FINGERPRINT_AT_LEAST_EVERY)
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
