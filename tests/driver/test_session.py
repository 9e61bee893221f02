"""The walls of the session, and connect() itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

import guarddb
from tests.driver.conftest import Connect, block, open_policy, run


async def setting(conn: Any, name: str) -> str | None:
    cur = await run(conn.execute("SELECT current_setting(%s, true)", (name,)))
    value: str | None = (await run(cur.fetchone()))[0]
    return value


async def test_walls_stand_before_the_first_statement(connect: Connect) -> None:
    policy = {
        "name": "walled",
        "statement_timeout_ms": 1234,
        "guarddb": {"settings": {"app.tenant": "7", "app.region": "it's \\ here"}},
    }
    conn = await connect(policy=policy, settings={"app.tenant": "42"})
    assert conn.info.transaction_status == TransactionStatus.IDLE
    assert conn.pgconn.parameter_status(b"default_transaction_read_only") == b"on"
    assert await setting(conn, "statement_timeout") == "1234ms"
    assert await setting(conn, "app.tenant") == "42"
    assert await setting(conn, "app.region") == "it's \\ here"
    await run(conn.rollback())
    assert await setting(conn, "app.tenant") == "42"
    with pytest.raises(psycopg.Error):
        await run(conn.execute("CREATE TABLE walled (a int)"))


async def test_statement_timeout_is_the_servers_own_error(connect: Connect) -> None:
    conn = await connect(policy=open_policy(statement_timeout_ms=50))
    with pytest.raises(psycopg.errors.QueryCanceled):
        # heavy enough, and allowed without calling pg_sleep
        await run(conn.execute("SELECT count(*) FROM generate_series(1, 3000000) a, generate_series(1, 9) b"))


async def test_strings_are_read_as_the_parser_reads_them(connect: Connect, dsn: str) -> None:
    """A role may have standard_conforming_strings off; a text would then mean something else to the server."""
    conninfo = psycopg.conninfo.make_conninfo(dsn, options="-c standard_conforming_strings=off")
    conn = await connect(conninfo)
    cur = await run(conn.execute(r"SELECT '\'"))
    assert await run(cur.fetchone()) == ("\\",)


async def test_walls_are_put_up_again_after_a_reset(connect: Connect) -> None:
    """A pool's reset callback of the application may say what an agent may not."""
    conn = await connect(policy={"name": "reset"}, settings={"app.tenant": "42"}, autocommit=True)
    await run(conn.execute("SELECT 1"))
    await run(conn.rollback())
    conn.pgconn.exec_(b"DISCARD ALL")
    conn._guard.freshness.check_at = 0.0  # what a millisecond does
    assert await setting(conn, "app.tenant") == "42"
    assert conn.pgconn.parameter_status(b"default_transaction_read_only") == b"on"


async def test_read_only_policy_gives_no_writing_transaction(connect: Connect) -> None:
    conn = await connect(policy={"name": "reader"})

    async def read_write() -> None:
        await run(conn.set_read_only(False))

    async def prepare() -> None:
        await run(conn.tpc_begin(conn.xid(1, "gtrid", "bqual")))
        try:
            await run(conn.tpc_prepare())
        finally:
            await run(conn.tpc_rollback())

    async def commit_of_others() -> None:
        await run(conn.tpc_commit("somebody's"))

    for way in (read_write, prepare, commit_of_others):
        with pytest.raises(guarddb.PolicyViolation) as caught:
            await way()
        assert caught.value.rule == "read_only", way.__name__
    await run(conn.set_read_only(True))
    cur = await run(conn.execute("SELECT 1"))
    assert await run(cur.fetchone()) == (1,)


async def test_two_phase_commit_works_where_writing_does(connect: Connect) -> None:
    conn = await connect()
    await run(conn.tpc_begin(conn.xid(1, "guarddb", f"test {os.getpid()}")))
    await run(conn.execute("SELECT 1"))
    await run(conn.tpc_prepare())
    await run(conn.tpc_commit())


async def test_connection_tells_its_policy_agent_and_budget(connect: Connect) -> None:
    policy = open_policy(budget_queries_per_hour=10)
    conn = await connect(policy=policy, agent="bot")
    assert conn.policy.name == policy["name"]
    assert conn.agent == "bot"
    await run(conn.execute("SELECT 1"))
    assert conn.budget.queries_this_hour == 9
    assert conn.budget.queries_today is None


async def test_no_policy_no_connection(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GUARDDB_POLICY", raising=False)
    with pytest.raises(guarddb.PolicyError, match="there is no policy"):
        await connect("host=/nowhere", policy=None)
    with pytest.raises(guarddb.PolicyError):
        await connect("host=/nowhere", policy={"name": "bad", "no_such_field": 1})
    path = tmp_path / "policy.json"
    path.write_text('{"name": "from the environment"}')
    monkeypatch.setenv("GUARDDB_POLICY", str(path))
    conn = await connect(policy=None)
    assert conn.policy.name == "from the environment"


@pytest.mark.parametrize(
    "arguments", [{"approver": object()}, {"branches": object()}, {"enforcement": "sometimes"}]
)
async def test_arguments_that_cannot_be_honoured_are_refused(
    connect: Connect, arguments: dict[str, Any]
) -> None:
    with pytest.raises(psycopg.NotSupportedError):
        await connect("host=/nowhere", **arguments)


async def test_bad_budget_store_is_one_sentence_without_a_password(connect: Connect) -> None:
    with pytest.raises(guarddb.PolicyUnavailable) as caught:
        await connect("host=/nowhere", budgets="nonsense://user:secret@host")
    assert "secret" not in str(caught.value)


async def test_failed_attachment_closes_the_connection(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Any] = []
    for cls in (psycopg.Connection, psycopg.AsyncConnection):
        monkeypatch.setattr(cls, "close", _noting(cls.close, closed))
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(guarddb.PolicyUnavailable):
        await connect(policy=open_policy(guarddb={"hash_key_env": "NO_SUCH_KEY"}))
    assert closed


def _noting(close: Any, closed: list[Any]) -> Any:
    def noted(self: Any) -> Any:
        closed.append(self)
        return close(self)

    return noted


async def test_set_transaction_may_still_be_the_first_statement(connect: Connect) -> None:
    """The guard's own questions must not take the transaction's snapshot before it."""
    conn = await connect()
    await run(conn.execute("SELECT 1"))
    await run(conn.rollback())
    for _ in range(3):
        async with block(conn.transaction()):
            conn._guard.freshness.check_at = 0.0
            await run(conn.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
            cur = await run(conn.execute("SHOW transaction_isolation"))
            assert await run(cur.fetchone()) == ("serializable",)


async def test_connection_can_be_a_subclass(dsn: str) -> None:
    class Mine(guarddb.Connection[Any]):
        pass

    with Mine.connect(dsn, policy=open_policy()) as conn:
        assert type(conn) is Mine
        assert conn.execute("SELECT 1").fetchone() == (1,)
