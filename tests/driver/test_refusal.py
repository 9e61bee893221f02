"""A refused statement: what the caller gets, and that nothing of it was sent."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

import guarddb
from tests.driver.conftest import Connect, Engine, block, collect, open_policy, run

IDLE = TransactionStatus.IDLE
INTRANS = TransactionStatus.INTRANS


async def test_refusal_carries_rule_hint_and_diagnostics(connect: Connect, answers: Engine) -> None:
    answers.block("SELECT 'x'", "table_denied", 'table "public.x" is denied', "ask for another table")
    policy = open_policy()
    conn = await connect(policy=policy)
    cur = conn.cursor()
    with pytest.raises(guarddb.PolicyViolation) as caught:
        await run(cur.execute("SELECT 'x'"))
    ex = caught.value
    assert str(ex) == f'blocked by policy "{policy["name"]}": table "public.x" is denied'
    assert (ex.rule, ex.hint, ex.sqlstate) == ("table_denied", "ask for another table", "42501")
    assert isinstance(ex, psycopg.errors.InsufficientPrivilege)
    assert ex.diag.message_primary == str(ex)
    assert ex.diag.message_hint == "ask for another table"
    assert (ex.diag.severity, ex.diag.sqlstate) == ("ERROR", "42501")
    assert ex.diag.message_detail is None
    assert cur.decision is ex.decision
    assert ex.decision is not None
    assert ex.decision.blocked


async def test_refusal_survives_pickling(connect: Connect, answers: Engine) -> None:
    answers.block("SELECT 'x'", hint="a hint")
    conn = await connect()
    with pytest.raises(guarddb.PolicyViolation) as caught:
        await run(conn.execute("SELECT 'x'"))
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is guarddb.PolicyViolation
    assert (str(again), again.rule, again.hint) == (str(caught.value), "table_denied", "a hint")
    assert again.diag.message_hint == "a hint"


async def test_refused_statement_opens_no_transaction(connect: Connect, answers: Engine) -> None:
    """Not even the BEGIN that psycopg would send first, whatever the way the statement is executed."""
    answers.block("SELECT 'x'")
    answers.block("COPY x TO STDOUT")
    answers.block("DECLARE \"c\" CURSOR FOR SELECT 'x'")
    conn = await connect()

    async def execute() -> None:
        await run(conn.execute("SELECT 'x'"))

    async def many() -> None:
        await run(conn.cursor().executemany("SELECT 'x'", [(), ()]))

    async def stream() -> None:
        await collect(conn.cursor().stream("SELECT 'x'"))

    async def copy() -> None:
        async with block(conn.cursor().copy("COPY x TO STDOUT")):
            pass

    async def server() -> None:
        async with block(conn.cursor("c")) as cur:
            await run(cur.execute("SELECT 'x'"))

    for way in (execute, many, stream, copy, server):
        with pytest.raises(guarddb.PolicyViolation):
            await way()
        assert conn.info.transaction_status == IDLE, way.__name__


async def test_refusal_leaves_the_transaction_usable(connect: Connect, answers: Engine) -> None:
    answers.block("SELECT 'x'")
    conn = await connect()
    await run(conn.execute("SELECT 1"))
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("SELECT 'x'"))
    assert conn.info.transaction_status == INTRANS
    cur = await run(conn.execute("SELECT 2"))
    assert await run(cur.fetchone()) == (2,)


@pytest.mark.parametrize("text", ["", " ", ";", ";;", "-- only a comment", "/* so is this */ ;"])
async def test_empty_text_passes_as_the_ping_it_is(connect: Connect, text: str) -> None:
    conn = await connect()
    cur = await run(conn.execute(text))
    assert cur.description is None


async def test_undecodable_bytes_are_refused(connect: Connect) -> None:
    conn = await connect()
    with pytest.raises(guarddb.PolicyViolation) as caught:
        await run(conn.execute(b"SELECT '\xff'"))
    assert caught.value.rule == "parse_error"
    assert conn.info.transaction_status == IDLE


async def test_error_in_the_engine_refuses_and_is_logged(
    connect: Connect, answers: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    answers.plans["SELECT 1"] = ZeroDivisionError()
    conn = await connect()
    with caplog.at_level(logging.ERROR, "guarddb"), pytest.raises(guarddb.PolicyViolation) as caught:
        await run(conn.execute("SELECT 1"))
    assert caught.value.rule == "internal_error"
    assert "ZeroDivisionError" in caplog.text
    assert await run((await run(conn.execute("SELECT 2"))).fetchone()) == (2,)


async def test_one_refused_row_of_executemany_stops_it(connect: Connect, answers: Engine, dsn: str) -> None:
    """A client cursor writes each row into the text, so each one is judged."""
    conn = await connect(
        cursor_factory=None,
    )
    async_ = isinstance(conn, guarddb.AsyncConnection)
    cls: Any = guarddb.AsyncClientCursor if async_ else guarddb.ClientCursor
    answers.block("SELECT 2")
    with pytest.raises(guarddb.PolicyViolation):
        await run(cls(conn).executemany("SELECT %s", [(1,), (2,), (3,)]))
    assert "SELECT 3" not in answers.asked


async def test_connection_denies_until_a_policy_is_attached(dsn: str) -> None:
    pgconn = psycopg.pq.PGconn.connect(dsn.encode())
    conn: guarddb.Connection[Any] = guarddb.Connection(pgconn)
    try:
        with pytest.raises(guarddb.PolicyUnavailable):
            conn.execute("SELECT 1")
        with pytest.raises(guarddb.PolicyUnavailable):
            conn.execute("")
        with pytest.raises(psycopg.Error):
            conn.read_only = False
    finally:
        conn.close()


async def test_bytes_that_were_not_judged_trip_the_wire(guard: Any) -> None:
    conn = guard(autocommit=True)

    class Late(guarddb.Cursor):
        def _maybe_prepare_gen(self, pgq: Any, **options: Any) -> Any:
            pgq.query = b"SELECT 'something else'"
            return super()._maybe_prepare_gen(pgq, **options)

    with pytest.raises(guarddb.PolicyViolation, match="never judged"):
        Late(conn).execute("SELECT 1")


async def test_query_class_of_a_subclass_is_judged_too(guard: Any, answers: Engine) -> None:
    answers.block("SELECT $1::int")

    class Raw(guarddb.Cursor):
        _query_cls = psycopg._queries.PostgresRawQuery

    with pytest.raises(guarddb.PolicyViolation):
        Raw(guard()).execute("SELECT $1::int", [1])


async def test_rewritten_text_is_what_runs(connect: Connect, answers: Engine) -> None:
    answers.allow("SELECT $1::int", sql="SELECT $1::int + 100")
    conn = await connect()
    cur = conn.cursor()
    for _ in range(8):  # past prepare_threshold
        await run(cur.execute("SELECT %s::int", (1,)))
        assert await run(cur.fetchone()) == (101,)
    await run(cur.executemany("SELECT %s::int", [(1,), (2,)], returning=True))
    assert await run(cur.fetchall()) == [(101,)]
    assert cur.nextset()
    assert await run(cur.fetchall()) == [(102,)]


async def test_mogrify_shows_what_the_agent_wrote(guard: Any, answers: Engine) -> None:
    answers.block("SELECT 1")
    assert guarddb.ClientCursor(guard()).mogrify("SELECT %s", (1,)) == "SELECT 1"


async def test_on_decision_sees_every_statement_and_breaks_nothing(
    connect: Connect, answers: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    answers.block("SELECT 'x'")
    seen: list[tuple[str, str]] = []

    def watch(decision: guarddb.Decision, sql: str) -> None:
        seen.append((decision.verdict, sql))
        raise RuntimeError("a broken observer")

    conn = await connect(on_decision=watch)
    await run(conn.execute("SELECT 1"))
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("SELECT 'x'"))
    assert seen == [("allow", "SELECT 1"), ("block", "SELECT 'x'")]
    assert "a broken observer" in caplog.text


async def test_observing_changes_nothing(connect: Connect, answers: Engine) -> None:
    answers.block("SELECT 1")
    answers.allow("SELECT generate_series(1, 5)", sql="SELECT 'rewritten'", row_cap=2)
    answers.plans["SELECT 3"] = ZeroDivisionError()
    seen: list[str] = []
    conn = await connect(
        enforcement="observe", on_decision=lambda d, s: seen.append(d.verdict), policy={"name": "observed"}
    )
    cur = await run(conn.execute("SELECT 1"))
    assert await run(cur.fetchone()) == (1,)
    assert cur.decision.blocked
    cur = await run(conn.execute("SELECT generate_series(1, 5)"))
    assert len(await run(cur.fetchall())) == 5
    assert not cur.truncated
    await run(conn.execute("SELECT 3"))
    assert seen == ["block", "allow", "block"]
    await run(conn.execute("CREATE TEMP TABLE written (a int)"))
