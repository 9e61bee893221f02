"""A setting that a filter follows is as the application has given it, before every statement: whatever the agent may set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

import guarddb
from tests.fix_server import temporary_database

SCHEMA = """
CREATE TABLE docs (id int PRIMARY KEY, tenant int);
INSERT INTO docs VALUES (1, 1), (2, 2);
CREATE FUNCTION is_mine(int) RETURNS bool LANGUAGE sql STABLE AS
  $$ SELECT $1 = coalesce(nullif(current_setting('app.tenant', true), ''), '2')::int $$;
"""
#: The profile lets protected settings be changed; its filter reads one in the body of a function.
POLICY: dict[str, Any] = {
    "name": "follows",
    "access_mode": "read_write",
    "row_filters": [{"table": "docs", "predicate": "is_mine(tenant)"}],
    "guarddb": {"function_allowlist": ["is_mine"], "floor_exceptions": ["protected_setting"]},
}
CHANGES = (
    "RESET ALL",
    "DISCARD ALL",
    "RESET app.tenant",
    "SET app.tenant = '2'",
    "SET LOCAL app.tenant = '2'",
    "SET SESSION app.tenant TO DEFAULT",
    "SELECT set_config('app.tenant', '2', false)",
    "SELECT set_config('app.tenant', '2', true)",
)
LOOK = "SELECT id FROM docs"


@pytest.fixture(scope="module")
def follows(server_dsn: str) -> Iterator[str]:
    with temporary_database(server_dsn, "follows") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SCHEMA)
        yield dsn


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_the_next_statement_sees_it_as_it_was_given(follows: str, change: str, autocommit: bool) -> None:
    with guarddb.connect(follows, policy=POLICY, settings={"app.tenant": "1"}, autocommit=autocommit) as conn:
        with suppress(psycopg.Error):  # (DISCARD ALL cannot run in a transaction.)
            conn.execute(change.encode())
        if conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
            conn.rollback()
        assert conn.execute(LOOK).fetchall() == [(1,)]
        conn.rollback()
        assert conn.execute(LOOK).fetchall() == [(1,)]


@pytest.mark.parametrize("change", CHANGES)
def test_one_text_does_not_set_it_and_look(follows: str, change: str) -> None:
    with guarddb.connect(follows, policy=POLICY, settings={"app.tenant": "1"}, autocommit=True) as conn:
        with pytest.raises(guarddb.PolicyViolation):
            conn.execute(f"{change}; {LOOK}".encode())
        conn.execute("SET work_mem = '8MB'; SELECT 1")


@pytest.mark.parametrize("change", ["SET app.tenant = '2'", "SELECT set_config('app.tenant', '2', false)"])
def test_a_pipeline_does_not_set_it_and_look(follows: str, change: str) -> None:
    with (
        guarddb.connect(follows, policy=POLICY, settings={"app.tenant": "1"}, autocommit=True) as conn,
        conn.pipeline(),
    ):
        conn.execute(change.encode())
        cursor = conn.execute(LOOK)
        assert cursor.fetchall() == [(1,)]
