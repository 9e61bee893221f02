"""A pool's reset callback cleans the session: nothing of the last user is left, and all that the policy set is there again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import psycopg_pool
import pytest
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict

import guarddb
from guarddb.vocabulary import KINDS

POLICY: dict[str, Any] = {
    "access_mode": "read_write",
    "statement_rules": {"allow": list(KINDS)},
    "statement_timeout_ms": 5000,
    "table_denylist": ["elsewhere"],
    "guarddb": {"floor_exceptions": []},
}
CLEANING = [
    "DISCARD ALL",
    "discard /* everything */ all;",
    "CLOSE ALL; UNLISTEN *; RESET ALL",
    (
        "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; DEALLOCATE ALL; CLOSE ALL; UNLISTEN *; "
        "SELECT pg_advisory_unlock_all(); DISCARD PLANS; DISCARD TEMP; DISCARD SEQUENCES"
    ),
]
NOT_CLEANING = [
    "SET ROLE postgres",
    "RESET statement_timeout",
    "SET statement_timeout = 0",
    "DISCARD ALL; SET row_security = off",
    "SELECT pg_advisory_unlock_all(), pg_sleep(0)",
    "SELECT pg_advisory_unlock_all() FROM pg_class",
    "DROP TABLE IF EXISTS nothing",
]


def dirty(conn: Any) -> None:
    """What a user leaves behind."""
    conn.execute("SET work_mem = '5MB'")
    conn.execute("PREPARE mine AS SELECT 1")
    conn.execute("DECLARE held CURSOR WITH HOLD FOR SELECT 1")
    conn.execute("LISTEN mine")
    conn.execute("CREATE TEMP TABLE left_behind (id int)")
    for _ in range(7):
        conn.execute("SELECT %s::int", (1,))


def assert_clean(conn: Any, *, wholly: bool = True) -> None:
    """Nothing of it is there, and the policy's settings are."""

    def one(query: str) -> Any:
        return conn.execute(query).fetchone()[0]

    assert one("SELECT current_setting('app.tenant')") == "1"
    assert one("SHOW statement_timeout") == "5s"
    assert one("SHOW work_mem") != "5MB"
    assert one("SELECT count(*) FROM pg_listening_channels()") == 0
    with pytest.raises(guarddb.PolicyViolation):
        conn.execute("SELECT * FROM elsewhere")
    for text in ("EXECUTE mine", "FETCH held") if wholly else ("FETCH held",):
        with pytest.raises(psycopg.Error):
            conn.execute(text)
        conn.rollback()
    if wholly:
        with pytest.raises(psycopg.errors.UndefinedTable):
            conn.execute("SELECT * FROM left_behind")
        conn.rollback()
        assert one("SELECT 3") == 3


def pool(dsn: str, reset: Callable[[Any], None], **fields: Any) -> psycopg_pool.ConnectionPool[Any]:
    return psycopg_pool.ConnectionPool(
        dsn,
        min_size=1,
        max_size=1,
        connection_class=guarddb.Connection,
        kwargs={
            "policy": {"name": "pooled", **POLICY, **fields},
            "settings": {"app.tenant": "1"},
            "autocommit": True,
        },
        reset=reset,
        open=True,
    )


@pytest.mark.parametrize("text", CLEANING)
def test_a_pools_reset_cleans_the_session_and_the_walls_stand_again(dsn: str, text: str) -> None:
    with pool(dsn, lambda conn: conn.execute(text)) as connections:
        with connections.connection() as conn:
            dirty(conn)
            pid = conn.info.backend_pid
            assert conn._prepared._names
        for _ in range(2):
            with connections.connection() as conn:
                assert conn.info.backend_pid == pid
                assert_clean(conn, wholly="UNLISTEN" not in text or "DISCARD" in text)


@pytest.mark.parametrize("text", CLEANING)
def test_an_agent_cannot_say_the_same(dsn: str, text: str) -> None:
    with pool(dsn, lambda conn: conn.execute(text)) as connections:
        for _ in range(2):  # also when the pool has said it on this connection
            with connections.connection() as conn:
                with pytest.raises(guarddb.PolicyViolation):
                    conn.execute(text)
                assert conn.execute("SHOW statement_timeout").fetchone() == ("5s",)


@pytest.mark.parametrize("text", NOT_CLEANING)
def test_a_reset_that_does_more_than_cleaning_is_judged_like_an_agents(dsn: str, text: str) -> None:
    refused: list[Exception] = []
    done = threading.Event()

    def reset(conn: Any) -> None:
        try:
            conn.execute(text)
        except Exception as ex:
            refused.append(ex)
            raise
        finally:
            done.set()

    with pool(dsn, reset) as connections:
        with connections.connection():
            pass
        done.wait(30)
    assert isinstance(refused[0], guarddb.PolicyViolation)


def test_it_is_not_counted_against_the_agents_budgets(dsn: str) -> None:
    with pool(dsn, lambda conn: conn.execute("DISCARD ALL"), budget_queries_per_hour=2) as connections:
        pids = set()
        for _ in range(2):
            with connections.connection() as conn:
                conn.execute("SELECT 1")
                pids.add(conn.info.backend_pid)
        with connections.connection() as conn:
            pids.add(conn.info.backend_pid)
            with pytest.raises(guarddb.BudgetExceeded):
                conn.execute("SELECT 1")
        assert len(pids) == 1


async def test_an_async_pools_reset(dsn: str) -> None:
    async def reset(conn: Any) -> None:
        await conn.execute("DISCARD ALL")

    async with psycopg_pool.AsyncConnectionPool(
        dsn,
        min_size=1,
        max_size=1,
        connection_class=guarddb.AsyncConnection,
        kwargs={
            "policy": {"name": "pooled", **POLICY},
            "settings": {"app.tenant": "1"},
            "autocommit": True,
        },
        reset=reset,
        open=False,
    ) as connections:
        pids = set()
        for _ in range(3):
            async with connections.connection() as conn:
                pids.add(conn.info.backend_pid)
                await conn.execute("SET work_mem = '5MB'")
                cur = await conn.execute("SELECT current_setting('app.tenant')")
                assert await cur.fetchone() == ("1",)
                with pytest.raises(guarddb.PolicyViolation):
                    await conn.execute("DISCARD ALL")
        assert len(pids) == 1


def test_sqlalchemys_reset_event(dsn: str) -> None:
    parts: dict[str, Any] = dict(conninfo_to_dict(dsn))
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        plugins=["guarddb"],
        guarddb_policy={"name": "pooled", **POLICY},
        guarddb_settings={"app.tenant": "1"},
        connect_args=parts,
        pool_size=1,
        max_overflow=0,
        pool_reset_on_return=None,
    )

    @sqlalchemy.event.listens_for(engine, "reset")
    def reset(connection: Any, record: Any, state: Any) -> None:
        connection.rollback()
        if not state.terminate_only:
            connection.autocommit = True
            connection.execute("DISCARD ALL")
            connection.autocommit = False

    pids = set()
    for _ in range(3):
        with engine.connect() as conn:
            pids.add(conn.exec_driver_sql("SELECT pg_backend_pid()").scalar())
            conn.exec_driver_sql("SET work_mem = '5MB'")
            conn.commit()
            assert conn.exec_driver_sql("SELECT current_setting('app.tenant')").scalar() == "1"
            with pytest.raises(sqlalchemy.exc.ProgrammingError):
                conn.exec_driver_sql("DISCARD ALL")
    engine.dispose()
    assert len(pids) == 1
