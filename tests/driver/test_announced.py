"""A database that announces changes of its catalog: what is announced, that connections hear it, and that nobody else does."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import guarddb
from guarddb.cli import main
from guarddb.driver import freshness, watch
from guarddb.vocabulary import KINDS
from tests.driver.conftest import Connect, block, collect, look_is_due, open_policy, run

EVERY_KIND: dict[str, Any] = {"statement_rules": {"allow": list(KINDS)}}


@pytest.fixture
def announcing(fresh_dsn: str, capsys: pytest.CaptureFixture[str]) -> str:
    """A database with the trigger."""
    assert main(["catalog", "install-trigger", "--dsn", fresh_dsn]) == 0
    assert "announced" in capsys.readouterr().out
    return fresh_dsn


@pytest.fixture
def owner(announcing: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(announcing, autocommit=True) as conn:
        yield conn


@pytest.fixture
def no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is heard makes a connection look, and only what is announced tells it of a change."""
    monkeypatch.setattr(freshness, "LOOK_EVERY", 3600.0)
    monkeypatch.setattr(freshness, "LOOK_AT_LEAST_EVERY", 3600.0)
    monkeypatch.setattr(freshness, "_FORGET_AFTER", 3600.0)
    monkeypatch.setattr(freshness, "ANNOUNCED_FINGERPRINT_EVERY", 3600.0)


def changes(owner: psycopg.Connection) -> int:
    row = owner.execute("SELECT max(id) FROM guarddb_catalog.change").fetchone()
    assert row is not None
    return int(row[0] or 0)


def tables(conn: Any) -> set[str]:
    return {relation.name for relation in conn._guard.catalog.relations.values()}


async def until_seen(conn: Any, name: str) -> int:
    """Send statements until one is judged by a catalog with this table; how many it took. (The notification is on its way.)"""
    for number in range(1, 2_000):
        await run(conn.execute("SELECT 1"))
        if name in tables(conn):
            return number
        time.sleep(0.005)
    raise AssertionError(f"{name} is never seen")


CHANGES = [
    "CREATE TABLE made (id int)",
    "ALTER TABLE made ADD COLUMN more text",
    "COMMENT ON COLUMN made.more IS 'classification: pii'",
    "CREATE POLICY few ON made USING (id > 1)",
    "CREATE VIEW seen AS SELECT id FROM made",
    "GRANT SELECT ON made TO PUBLIC",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TYPE mood AS ENUM ('a')",
    "ALTER TYPE mood ADD VALUE 'b'",
    "CREATE EXTENSION vector",
    "CREATE TABLE copied AS SELECT 1 AS a",
    "SELECT 1 AS a INTO copied_too",
    "CREATE INDEX CONCURRENTLY i ON made (id)",
    "CREATE SCHEMA apart",
    "ALTER SCHEMA apart RENAME TO away",
    "DROP FUNCTION f()",
    "DROP TABLE made CASCADE",
    "DROP EXTENSION vector",
]


def test_every_change_is_announced_and_data_and_temporary_tables_are_not(owner: psycopg.Connection) -> None:
    for statement in CHANGES:
        before = changes(owner)
        owner.execute(statement.encode())
        assert changes(owner) > before, statement
    before = changes(owner)
    for statement in (
        "INSERT INTO copied VALUES (2)",
        "CREATE TEMP TABLE passing (id serial PRIMARY KEY)",
        "CREATE INDEX ON passing (id)",
        "DROP TABLE passing",
        "ANALYZE copied",
        "VACUUM copied",
    ):
        owner.execute(statement.encode())
        assert changes(owner) == before, statement


def test_what_is_rolled_back_is_not_announced_and_old_rows_go(owner: psycopg.Connection) -> None:
    before = changes(owner)
    with owner.transaction(force_rollback=True):
        owner.execute("CREATE TABLE never (id int)")
    assert changes(owner) == before
    for number in range(100):
        owner.execute(f"CREATE TABLE many_{number} (id int)".encode())
    row = owner.execute("SELECT count(*) FROM guarddb_catalog.change").fetchone()
    assert row is not None
    assert row[0] <= 100


def test_two_transactions_that_change_the_catalog_do_not_wait_for_each_other(
    announcing: str, owner: psycopg.Connection
) -> None:
    with psycopg.connect(announcing) as other:
        other.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        other.execute("CREATE TABLE one (id int)")
        owner.execute("SET lock_timeout = '20s'")
        owner.execute("CREATE TABLE two (id int)")
        other.execute("CREATE TABLE three (id int)")
        other.commit()


def test_a_role_without_rights_changes_the_catalog_as_before(
    announcing: str, owner: psycopg.Connection, shop: str
) -> None:
    owner.execute("GRANT CREATE ON SCHEMA public TO agent")
    with psycopg.connect(make_conninfo(announcing, user="agent"), autocommit=True) as agent:
        before = changes(owner)
        agent.execute("CREATE TABLE theirs (id int)")
        assert changes(owner) > before
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            agent.execute("INSERT INTO guarddb_catalog.change DEFAULT VALUES")


@pytest.mark.parametrize("user", ["postgres", "agent"])
async def test_a_change_is_heard_without_asking(
    connect: Connect, announcing: str, owner: psycopg.Connection, shop: str, user: str, no_polling: None
) -> None:
    conn = await connect(make_conninfo(announcing, user=user), autocommit=True)
    await run(conn.execute("SELECT 1"))
    await run(conn.execute("SELECT 1"))
    assert conn._guard.freshness.hears
    owner.execute("CREATE TABLE heard (id int)")
    await until_seen(conn, "heard")
    await run(conn.execute("BEGIN"))
    owner.execute("CREATE TABLE heard_later (id int)")
    await run(conn.execute("SELECT 1"))
    await run(conn.execute("COMMIT"))
    await until_seen(conn, "heard_later")


async def test_a_named_cursor_hears_as_well(
    connect: Connect, announcing: str, owner: psycopg.Connection, no_polling: None
) -> None:
    conn = await connect(announcing)
    await run(conn.execute("SELECT 1"))
    await run(conn.commit())
    await run(conn.execute("SELECT 1"))
    async with block(conn.cursor("named", withhold=True)) as cur:
        await run(cur.execute("SELECT generate_series(1, 5000)"))
        await run(conn.commit())
        owner.execute("CREATE TABLE heard_by_fetch (id int)")
        for _ in range(2_000):
            await run(cur.fetchone())
            await run(conn.commit())
            if "heard_by_fetch" in tables(conn):
                break
            time.sleep(0.005)
    assert "heard_by_fetch" in tables(conn)


async def test_a_look_reads_what_is_announced_in_place_of_the_fingerprint(
    connect: Connect, announcing: str, owner: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness, "ANNOUNCED_FINGERPRINT_EVERY", 3600.0)
    monkeypatch.setattr(freshness, "_FORGET_AFTER", 3600.0)
    # A quick server makes a table within the millisecond for which one look does.
    monkeypatch.setattr(freshness, "LOOK_EVERY", 0.0)
    conn = await connect(announcing, autocommit=True)
    owner.execute("CREATE TABLE busy (id int)")
    await run(conn.execute("SELECT 1"))
    look_is_due(conn)
    await run(conn.execute("SELECT 1"))
    with monkeypatch.context() as patch:
        patch.setattr(watch, "FINGERPRINT", b"SELECT (1/0)::text")
        for _ in range(3):
            owner.execute("INSERT INTO busy VALUES (1)")
            look_is_due(conn)
            await run(conn.execute("SELECT 1"))
        owner.execute("CREATE TABLE changed (id int)")
        look_is_due(conn)
        with pytest.raises(psycopg.errors.DivisionByZero):
            await run(conn.execute("SELECT 1"))
    await run(conn.execute("SELECT 1"))
    assert "changed" in tables(conn)


@pytest.mark.parametrize(
    "switched_off",
    [
        "ALTER EVENT TRIGGER guarddb_catalog_ddl DISABLE",
        "DROP EVENT TRIGGER guarddb_catalog_drop",
        "REVOKE SELECT ON guarddb_catalog.change FROM PUBLIC",
        "DROP SCHEMA guarddb_catalog CASCADE",
    ],
)
async def test_where_it_is_switched_off_connections_ask_as_without_it(
    connect: Connect, announcing: str, owner: psycopg.Connection, shop: str, switched_off: str
) -> None:
    conn = await connect(make_conninfo(announcing, user="agent"), autocommit=True)
    await run(conn.execute("SELECT 1"))
    await run(conn.execute("SELECT 1"))
    owner.execute(switched_off.encode())
    owner.execute("CREATE TABLE unannounced (id int)")
    time.sleep(freshness.LOOK_AT_LEAST_EVERY + freshness.FINGERPRINT_AT_LEAST_EVERY)
    await run(conn.execute("SELECT 1"))
    assert "unannounced" in tables(conn)


async def test_it_is_noticed_when_it_comes_later_and_listened_for_again(
    connect: Connect, fresh_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    conn = await connect(fresh_dsn, policy=open_policy(**EVERY_KIND), autocommit=True)
    await run(conn.execute("SELECT 1"))
    assert not conn._guard.freshness.hears
    assert main(["catalog", "install-trigger", "--dsn", fresh_dsn]) == 0
    assert main(["catalog", "install-trigger", "--dsn", fresh_dsn, "--json"]) == 0  # again is no error
    capsys.readouterr()
    time.sleep(freshness.LOOK_AT_LEAST_EVERY + freshness.FINGERPRINT_AT_LEAST_EVERY)
    for _ in range(2):
        await run(conn.execute("SELECT 1"))
    channels = "SELECT pg_listening_channels()"
    assert await run((await run(conn.execute(channels))).fetchall()) == [("guarddb_catalog",)]
    await run(conn.execute("UNLISTEN *"))
    assert await run((await run(conn.execute(channels))).fetchall()) == [("guarddb_catalog",)]


async def test_the_applications_own_notifications_come_and_guarddbs_do_not(
    connect: Connect, announcing: str, owner: psycopg.Connection
) -> None:
    conn = await connect(announcing, policy=open_policy(**EVERY_KIND), autocommit=True)
    await run(conn.execute("LISTEN mine"))
    await run(conn.execute("SELECT 1"))
    assert conn._guard.freshness.hears
    for number in range(3):
        owner.execute(f"CREATE TABLE noisy_{number} (id int)".encode())
        owner.execute(f"NOTIFY mine, '{number}'".encode())
    arrived = await collect(conn.notifies(timeout=20, stop_after=3))
    assert [(each.channel, each.payload) for each in arrived] == [("mine", "0"), ("mine", "1"), ("mine", "2")]
    heard: list[str] = []
    conn.add_notify_handler(lambda each: heard.append(each.channel))
    owner.execute("CREATE TABLE noisy (id int)")
    owner.execute("NOTIFY mine")
    await until_seen(conn, "noisy")
    while not heard:
        await run(conn.execute("SELECT 1"))
    assert set(heard) == {"mine"}


def test_a_change_of_nobodys_knowledge_is_seen_all_the_same(
    announcing: str, owner: psycopg.Connection
) -> None:
    """What no event trigger fires for: the fingerprint is still asked for, once a second."""
    owner.execute("CREATE TABLE silent (id int)")
    with guarddb.connect(announcing, policy=open_policy(), autocommit=True) as conn:
        conn.execute("SELECT 1")
        owner.execute("UPDATE pg_catalog.pg_class SET relname = 'renamed' WHERE relname = 'silent'")
        time.sleep(freshness.ANNOUNCED_FINGERPRINT_EVERY)
        conn.execute("SELECT 1")
        assert "renamed" in tables(conn)


def test_the_command(
    fresh_dsn: str, shop: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    assert main(["catalog", "install-trigger", "--print"]) == 0
    script = capsys.readouterr().out
    assert "CREATE EVENT TRIGGER" in script
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute(script.encode())
        assert main(["catalog", "install-trigger", "--dsn", fresh_dsn, "--drop"]) == 0
        assert main(["catalog", "install-trigger", "--dsn", fresh_dsn, "--drop"]) == 0
        for query in ("SELECT FROM pg_event_trigger", "SELECT FROM pg_namespace WHERE nspname ~ 'guarddb'"):
            assert conn.execute(query.encode()).fetchall() == []
    capsys.readouterr()
    assert main(["catalog", "install-trigger", "--print", "--drop"]) == 0
    assert "CREATE" not in capsys.readouterr().out
    assert main(["catalog", "install-trigger"]) == 2
    assert "--dsn" in capsys.readouterr().err
    assert main(["catalog", "install-trigger", "--dsn", make_conninfo(fresh_dsn, user="agent")]) == 2
    told = capsys.readouterr().err
    assert "superuser" in told
    assert "Traceback" not in told
