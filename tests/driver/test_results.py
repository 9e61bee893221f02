"""What becomes of a result: caps, an added RETURNING, hashes, and the second net."""

from __future__ import annotations

import hashlib
import hmac
import logging
from typing import Any

import psycopg
import pytest
from psycopg.types.numeric import IntLoader

import guarddb
from guarddb.decision.masks.writing import TO_BE_HASHED
from guarddb.driver import plans
from tests.driver.conftest import (
    SELECT,
    Connect,
    Engine,
    block,
    changed,
    collect,
    open_policy,
    run,
    statement,
)

SERIES = "SELECT generate_series(1, 5) AS n"


@pytest.fixture
def capped(answers: Engine) -> Engine:
    """Five rows where the policy hands out three; the server is asked for four."""
    sent = "SELECT * FROM (SELECT generate_series(1, 5) AS n) AS q LIMIT 4"
    answers.allow(SERIES, sql=sent, row_cap=3)
    answers.allow(f'DECLARE "c" CURSOR FOR {SERIES}', sql=f'DECLARE "c" CURSOR FOR {sent}', row_cap=3)
    answers.allow("SELECT generate_series(1, 3)", row_cap=3)
    return answers


async def test_every_fetch_sees_the_capped_rows(connect: Connect, capped: Engine) -> None:
    conn = await connect()
    cur = await run(conn.execute(SERIES))
    assert cur.truncated
    assert cur.rowcount == 3
    assert cur.pgresult.ntuples == 3
    assert cur.pgresult.get_value(3, 0) is None
    assert await run(cur.fetchall()) == [(1,), (2,), (3,)]
    assert await run(cur.fetchall()) == []
    await run(cur.execute(SERIES))
    assert await run(cur.fetchmany(2)) == [(1,), (2,)]
    assert await run(cur.fetchmany(2)) == [(3,)]
    await run(cur.execute(SERIES))
    assert [await run(cur.fetchone()) for _ in range(4)] == [(1,), (2,), (3,), None]
    await run(cur.execute(SERIES))
    assert await collect(cur) == [(1,), (2,), (3,)]
    assert cur.rownumber == 3
    with pytest.raises(IndexError):
        await run(cur.scroll(3, mode="absolute"))
    await run(cur.scroll(2, mode="absolute"))
    assert await run(cur.fetchall()) == [(3,)]


async def test_status_of_a_cut_result_counts_what_is_shown(connect: Connect, capped: Engine) -> None:
    """The server gave one row more than is shown, and said so in its own status: that row is nobody's business."""
    conn = await connect()
    cur = await run(conn.execute(SERIES))
    assert cur.statusmessage == "SELECT 3"
    assert (cur.pgresult.command_status, cur.pgresult.command_tuples) == (b"SELECT 3", 3)
    cur.adapters.register_loader("int4", IntLoader)  # selects the result again
    assert cur.statusmessage == "SELECT 3"
    await run(cur.execute("SELECT generate_series(1, 3)"))
    assert cur.statusmessage == "SELECT 3"


async def test_status_of_a_cut_fetch_counts_what_is_shown(connect: Connect, capped: Engine) -> None:
    conn = await connect()
    async with block(conn.cursor("c")) as cur:
        await run(cur.execute(SERIES))
        assert await run(cur.fetchall()) == [(1,), (2,), (3,)]
        assert cur.pgresult.command_status == b"FETCH 3"


async def test_status_of_a_write_counts_what_was_written(connect: Connect, answers: Engine) -> None:
    """`max_rows` cuts the rows that RETURNING shows, not those that were written."""
    conn = await connect()
    await run(conn.execute("CREATE TEMP TABLE written (id int)"))
    text = "INSERT INTO written SELECT generate_series(1, 5) RETURNING id"
    answers.allow(text, statement("insert", "INSERT", returns_rows=True, row_cap=3))
    cur = await run(conn.execute(text))
    assert await run(cur.fetchall()) == [(1,), (2,), (3,)]
    assert (cur.statusmessage, cur.pgresult.command_tuples, cur.rowcount) == ("INSERT 0 5", 5, 5)


async def test_result_that_fits_is_not_truncated(connect: Connect, capped: Engine) -> None:
    conn = await connect()
    cur = await run(conn.execute("SELECT generate_series(1, 3)"))
    assert not cur.truncated
    assert cur.rowcount == 3


async def test_truncation_reaches_the_notice_handlers_once(connect: Connect, capped: Engine) -> None:
    policy = open_policy()
    conn = await connect(policy=policy)
    notices: list[psycopg.errors.Diagnostic] = []
    conn.add_notice_handler(notices.append)
    cur = await run(conn.execute(SERIES))
    cur.adapters.register_loader("int4", IntLoader)  # selects the result again
    (notice,) = notices
    assert (notice.severity, notice.sqlstate) == ("WARNING", "01000")
    assert notice.message_primary == f'the result was cut after 3 rows: max_rows of policy "{policy["name"]}"'
    assert await run(cur.fetchall()) == [(1,), (2,), (3,)]


@pytest.mark.parametrize("size", [1, 2, 10])
async def test_stream_is_capped(connect: Connect, capped: Engine, size: int) -> None:
    conn = await connect()
    cur = conn.cursor()
    assert await collect(cur.stream(SERIES, size=size)) == [(1,), (2,), (3,)]
    assert cur.truncated
    assert await run((await run(conn.execute("SELECT 1"))).fetchone()) == (1,)


async def test_server_cursor_is_capped_over_all_its_fetches(connect: Connect, capped: Engine) -> None:
    conn = await connect()
    async with block(conn.cursor("c")) as cur:
        await run(cur.execute(SERIES))
        assert await run(cur.fetchone()) == (1,)
        assert not cur.truncated
        assert await run(cur.fetchmany(10)) == [(2,), (3,)]
        assert cur.truncated
        assert await run(cur.fetchall()) == []
        assert await run(cur.fetchone()) is None
    async with block(conn.cursor("c")) as cur:
        cur.itersize = 2
        await run(cur.execute(SERIES))
        assert await collect(cur) == [(1,), (2,), (3,)]


async def test_stolen_portal_keeps_its_cap(connect: Connect, capped: Engine) -> None:
    conn = await connect()
    declare = changed(SELECT, session_verb="declare", session_name="d", row_cap=3)
    capped.allow("DECLARE d CURSOR FOR SELECT generate_series(1, 5)", declare)
    await run(conn.execute("DECLARE d CURSOR FOR SELECT generate_series(1, 5)"))
    async with block(conn.cursor("d")) as thief:
        assert await run(thief.fetchone()) == (1,)
        assert await run(thief.fetchall()) == [(2,), (3,)]
        assert thief.truncated


async def test_pipeline_and_executemany_results_are_capped(connect: Connect, capped: Engine) -> None:
    conn = await connect()
    async with block(conn.pipeline()):
        one = await run(conn.execute(SERIES))
        two = await run(conn.execute("SELECT 1"))
        assert await run(one.fetchall()) == [(1,), (2,), (3,)]
        assert await run(two.fetchall()) == [(1,)]
        assert (one.truncated, two.truncated) == (True, False)
    cur = conn.cursor()
    await run(cur.executemany(SERIES, [(), ()], returning=True))
    assert await run(cur.fetchall()) == [(1,), (2,), (3,)]
    assert cur.nextset()
    assert await run(cur.fetchall()) == [(1,), (2,), (3,)]


async def test_each_statement_of_a_text_has_its_own_cap(connect: Connect, answers: Engine) -> None:
    capped = statement("select", "SELECT", returns_rows=True, row_cap=1)
    answers.allow("SELECT generate_series(1,2); SELECT generate_series(3,4)", SELECT, capped)
    conn = await connect()
    cur = await run(conn.execute("SELECT generate_series(1,2); SELECT generate_series(3,4)"))
    assert await run(cur.fetchall()) == [(1,), (2,)]
    assert not cur.truncated
    assert cur.nextset()
    assert cur.truncated
    assert await run(cur.fetchall()) == [(3,)]
    await run(cur.set_result(0))
    assert not cur.truncated


async def test_hidden_returning_looks_like_a_plain_command(connect: Connect, answers: Engine) -> None:
    conn = await connect()
    await run(conn.execute("CREATE TEMP TABLE written (a int)"))
    insert = statement("insert", "INSERT", returns_rows=True, hidden_returning=True)
    answers.allow(
        "INSERT INTO written VALUES ($1)", insert, sql="INSERT INTO written VALUES ($1) RETURNING a"
    )
    cur = await run(conn.execute("INSERT INTO written VALUES (%s)", (1,)))
    assert cur.description is None
    assert (cur.rowcount, cur.statusmessage) == (1, "INSERT 0 1")
    assert cur.pgresult.status == psycopg.pq.ExecStatus.COMMAND_OK
    with pytest.raises(psycopg.ProgrammingError, match="didn't produce records"):
        await run(cur.fetchone())
    await run(cur.executemany("INSERT INTO written VALUES (%s)", [(2,), (3,)]))
    assert cur.rowcount == 2
    dicts = conn.cursor(row_factory=psycopg.rows.dict_row)
    await run(dicts.execute("INSERT INTO written VALUES (%s)", (4,)))
    assert dicts.rowcount == 1


@pytest.fixture
def keyed(answers: Engine, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A policy with a key, and a statement whose second column is hashed with it."""
    monkeypatch.setenv("TEST_HASH_KEY", "a key")
    marked = f"varchar({TO_BE_HASHED})"
    for head in ("", 'DECLARE "c" CURSOR FOR '):
        answers.allow(
            f"{head}SELECT 1, 'é@x'::text, NULL::text",
            sql=f"{head}SELECT 1, 'é@x'::text::{marked}, NULL::{marked}",
            keyed_hashes=(1, 2),
            output_kinds={1: "hash", 2: "hash"},
        )
    return open_policy(guarddb={"hash_key_env": "TEST_HASH_KEY"})


HASHED = hmac.digest(b"a key", "é@x".encode(), hashlib.sha256).hex()


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("encoding", ["utf8", "latin1"])
async def test_keyed_hash_is_the_same_in_every_format(
    connect: Connect, keyed: dict[str, Any], binary: bool, encoding: str
) -> None:
    conn = await connect(policy=keyed, client_encoding=encoding)
    text = "SELECT 1, 'é@x'::text, NULL::text"
    expected = (1, HASHED, None)
    cur = await run(conn.cursor(binary=binary).execute(text))
    assert await run(cur.fetchone()) == expected
    assert cur.pgresult.get_value(0, 1) == HASHED.encode()
    assert cur.pgresult.get_value(0, 2) is None
    assert await collect(conn.cursor(binary=binary).stream(text)) == [expected]
    async with block(conn.cursor("c", binary=binary)) as cur:
        await run(cur.execute(text))
        assert await run(cur.fetchall()) == [expected]


async def test_loader_of_the_agents_does_not_see_a_hashed_value(
    connect: Connect, keyed: dict[str, Any]
) -> None:
    conn = await connect(policy=keyed)
    seen: list[bytes] = []

    class Spy(psycopg.adapt.Loader):
        def load(self, data: Any) -> str:
            seen.append(bytes(data))
            return "spied"

    cur = await run(conn.execute("SELECT 1, 'é@x'::text, NULL::text"))
    cur.adapters.register_loader("text", Spy)
    assert await run(cur.fetchone()) == (1, HASHED, None)
    assert seen == []


async def test_missing_key_refuses(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_HASH_KEY", raising=False)
    with pytest.raises(guarddb.PolicyUnavailable, match="TEST_HASH_KEY"):
        await connect(policy=open_policy(guarddb={"hash_key_env": "TEST_HASH_KEY"}))


async def test_masked_origin_that_the_plan_missed_is_nulled_and_reported(
    connect: Connect, answers: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    conn = await connect()
    await run(conn.execute("CREATE TEMP TABLE secrets (id int, ssn text)"))
    await run(conn.execute("INSERT INTO secrets VALUES (1, '078-05-1120')"))
    oid = (await run((await run(conn.execute("SELECT 'secrets'::regclass::oid::int"))).fetchone()))[0]
    text = "SELECT ssn AS name, id FROM secrets"
    answers.allow(text)
    answers.allow(f'DECLARE "c" CURSOR FOR {text}')
    monkeypatch.setattr(plans, "masked_origins", lambda policy, catalog: {(oid, 2): "redact"})
    conn._guard.freshness.stale = conn._guard.freshness.due = True
    conn._guard.renew()
    with caplog.at_level(logging.ERROR, "guarddb"):
        cur = await run(conn.execute(text))
        assert await run(cur.fetchone()) == (None, 1)
    assert "fault: output column 1" in caplog.text
    assert cur.pgresult.get_value(0, 0) is None
    assert await collect(conn.cursor().stream(text)) == [(None, 1)]
    async with block(conn.cursor("c", binary=True)) as server:
        await run(server.execute(text))
        assert await run(server.fetchall()) == [(None, 1)]
