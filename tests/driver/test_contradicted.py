"""What others define is noticed where a look is not due: when the server's error says so, and in a pipeline that goes on and on.

Looks are put off for an hour, so that nothing else would notice.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import errors as e

import guarddb
from guarddb.driver import freshness
from tests.driver.conftest import Connect, block, look_is_due, run

SCHEMA = """
CREATE TABLE people (id int, ssn text);
INSERT INTO people VALUES (1, 'RAW');
CREATE TABLE public_people (id int, ssn text);
INSERT INTO public_people VALUES (1, 'public');
CREATE VIEW shown AS SELECT id, ssn FROM public_people;
CREATE SCHEMA old;
CREATE TABLE old.people AS SELECT 1 AS id, 'public'::text AS ssn;
CREATE FUNCTION named() RETURNS int LANGUAGE sql AS 'SELECT 1';
"""
POLICY: dict[str, Any] = {
    "name": "masks",
    "masking_rules": [{"table": "public.people", "column": "ssn", "kind": "redact"}],
    "guarddb": {"function_allowlist": ["named"]},
}
#: From now on the name reaches the masked table.
SWAP = "DROP VIEW IF EXISTS shown; CREATE VIEW shown AS SELECT id, ssn FROM people"
#: A statement that the agent runs before and after, what the other connection does to its names meanwhile, and the error.
STORIES: dict[str, tuple[str, str, type[psycopg.Error]]] = {
    "a table": (
        "SELECT ssn FROM public_people",
        "DROP VIEW shown; DROP TABLE public_people",
        e.UndefinedTable,
    ),
    "a schema": ("SELECT ssn FROM old.people", "DROP SCHEMA old CASCADE", e.UndefinedTable),
    "a column": (
        "SELECT ssn FROM public_people",
        "DROP VIEW shown; ALTER TABLE public_people DROP ssn",
        e.UndefinedColumn,
    ),
    "another column": (
        "SELECT zip FROM public_people, (SELECT 1 AS zip) AS z",
        "ALTER TABLE public_people ADD zip int",
        e.AmbiguousColumn,
    ),
    "a function": ("SELECT named()", "DROP FUNCTION named()", e.UndefinedFunction),
}


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "LOOK_EVERY", 3600.0)
    monkeypatch.setattr(freshness, "LOOK_AT_LEAST_EVERY", 3600.0)
    monkeypatch.setattr(freshness, "PIPELINE_AT_LEAST_EVERY", 3600.0)


@pytest.mark.usefixtures("seldom")
@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transaction"])
@pytest.mark.parametrize("story", STORIES)
async def test_after_an_error_about_a_name_the_next_statement_is_judged_anew(
    connect: Connect, fresh_dsn: str, story: str, autocommit: bool
) -> None:
    sql, change, error = STORIES[story]
    with psycopg.connect(fresh_dsn, autocommit=True) as other:
        other.execute(SCHEMA)
        conn = await connect(fresh_dsn, policy=POLICY, autocommit=autocommit)
        await run(conn.execute(sql))
        await run(conn.rollback())
        other.execute(change.encode())
        other.execute(SWAP)
        with pytest.raises(error):
            await run(conn.execute(sql))
        await run(conn.rollback())
        assert await run((await run(conn.execute("SELECT ssn FROM shown"))).fetchall()) == [("[redacted]",)]


@pytest.mark.usefixtures("seldom")
async def test_after_a_plan_that_does_not_hold_any_more(connect: Connect, fresh_dsn: str) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as other:
        other.execute(SCHEMA)
        conn = await connect(fresh_dsn, policy=POLICY, autocommit=True)
        for _ in range(2):
            await run(conn.execute("SELECT * FROM public_people", prepare=True))
        other.execute("ALTER TABLE public_people ADD more int")
        other.execute(SWAP)
        with pytest.raises(e.FeatureNotSupported):
            await run(conn.execute("SELECT * FROM public_people", prepare=True))
        assert await run((await run(conn.execute("SELECT ssn FROM shown"))).fetchall()) == [("[redacted]",)]


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transaction"])
async def test_a_pipeline_that_is_never_empty_is_looked_at_as_well(
    connect: Connect, fresh_dsn: str, autocommit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are always outstanding, so that a look would have to wait for them; it does so from time to time."""
    with psycopg.connect(fresh_dsn, autocommit=True) as other:
        other.execute(SCHEMA)
        conn = await connect(fresh_dsn, policy=POLICY, autocommit=autocommit)
        await run(conn.execute("SELECT 1"))
        await run(conn.rollback())
        for wait in ("LOOK_AT_LEAST_EVERY", "PIPELINE_AT_LEAST_EVERY", "FINGERPRINT_AT_LEAST_EVERY"):
            monkeypatch.setattr(freshness, wait, 0.0)
        async with block(conn.pipeline()):
            await run(conn.execute("SELECT ssn FROM public_people"))
            pid = conn.info.backend_pid
            other.execute(SWAP)
            look_is_due(conn)
            cur = await run(conn.execute("SELECT ssn FROM shown"))
        assert await run(cur.fetchall()) == [("[redacted]",)]
        assert conn.info.backend_pid == pid


async def test_a_look_in_a_pipeline_leaves_its_transaction_whole(connect: Connect, fresh_dsn: str) -> None:
    """Of an implicit transaction, while nothing has changed."""
    with psycopg.connect(fresh_dsn, autocommit=True) as other:
        other.execute("CREATE TABLE t (id int PRIMARY KEY)")
        policy = {"name": "writes", "access_mode": "read_write"}
        conn = await connect(fresh_dsn, policy=policy, autocommit=True)
        await run(conn.execute("SELECT 1"))

        async def three_writes() -> None:
            async with block(conn.pipeline()):
                for key in (1, 2, 1):
                    await run(conn.execute(f"INSERT INTO t VALUES ({key})"))
                    conn._guard.freshness._looked_at = 0.0

        with pytest.raises(e.UniqueViolation):
            await three_writes()
        assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_an_error_of_values_costs_no_look(fresh_dsn: str) -> None:
    with guarddb.connect(fresh_dsn, policy={"name": "open"}, autocommit=True) as conn:
        for sql, looks in (
            ("SELECT 1 / 0", False),
            ("SELECT 'x'::int", False),
            ("SELECT ARRAY[1] || ARRAY[ARRAY[2], ARRAY[3]] || ARRAY[ARRAY[ARRAY[2]]]", False),
            ("SELECT nothing", True),
        ):
            seen = conn._guard.freshness
            conn.execute("SELECT 1")
            with pytest.raises(psycopg.Error):
                conn.execute(sql.encode())
            assert (seen.check_at == 0.0) is looks, sql
