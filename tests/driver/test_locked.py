"""A lock that somebody else holds keeps nobody from working who does not ask for what is locked."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors as e

import guarddb

SCHEMA = """
CREATE TABLE big (id int PRIMARY KEY, tenant int CHECK (tenant > 0), secret text);
CREATE TABLE small (id int PRIMARY KEY, note text);
CREATE TABLE parts (id int, day date) PARTITION BY RANGE (day);
CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
CREATE TABLE never_analyzed (a text);
CREATE VIEW over_big AS SELECT id, secret FROM big;
CREATE VIEW over_over AS SELECT id, secret FROM over_big WHERE id > 0;
CREATE VIEW over_small AS SELECT * FROM small;
CREATE FUNCTION in_big() RETURNS bigint STABLE BEGIN ATOMIC SELECT count(*) FROM big; END;
CREATE VIEW calls AS SELECT in_big() AS n;
INSERT INTO big VALUES (1, 1, 'x'), (2, 2, 'y');
INSERT INTO small VALUES (1, 'a');
"""
LOCK = "LOCK TABLE big, parts, parts_rest, never_analyzed IN ACCESS EXCLUSIVE MODE"
POLICY = {
    "name": "locked",
    "masking_rules": [{"table": "big", "column": "secret", "kind": "redact"}],
    "row_filters": [{"table": "big", "predicate": "tenant = 1"}],
}


@pytest.fixture
def locked(fresh_dsn: str) -> Iterator[tuple[str, psycopg.Connection]]:
    """A database, and the session that holds the locks."""
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute(SCHEMA)
    with psycopg.connect(fresh_dsn) as holder:
        holder.execute(LOCK)
        yield fresh_dsn, holder


def _notes(conn: guarddb.Connection) -> list[tuple[object, ...]]:
    return conn.execute("SELECT id, note FROM over_small").fetchall()


def test_a_new_process_works_beside_a_migration(locked: tuple[str, psycopg.Connection]) -> None:
    dsn, holder = locked
    options = "-c statement_timeout=20s"
    with guarddb.connect(dsn, policy=POLICY, autocommit=True, options=options) as conn:
        assert _notes(conn) == [(1, "a")]
        # A transaction has a catalog too; and somebody's unrelated DDL does not change anything.
        with conn.transaction():
            assert _notes(conn) == [(1, "a")]
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("CREATE TABLE unrelated (a int)")
        assert _notes(conn) == [(1, "a")]
        holder.rollback()
        assert conn.execute("SELECT id, secret FROM over_over").fetchall() == [(1, "[redacted]")]


@pytest.mark.parametrize("name", ["over_big", "over_over", "big"])
def test_what_is_locked_is_waited_for(locked: tuple[str, psycopg.Connection], name: str) -> None:
    dsn, holder = locked
    with guarddb.connect(dsn, policy=POLICY, autocommit=True) as conn:
        assert _notes(conn) == [(1, "a")]
        release = threading.Timer(0.3, holder.rollback)
        release.start()
        try:
            found = conn.execute(f"SELECT id, secret FROM {name}").fetchall()
        finally:
            release.join()
        assert found == [(1, "[redacted]")]


def test_a_timeout_ends_the_wait(locked: tuple[str, psycopg.Connection]) -> None:
    dsn, _ = locked
    policy = {**POLICY, "statement_timeout_ms": 300}
    with guarddb.connect(dsn, policy=policy, autocommit=True) as conn:
        for sql in ("SELECT id FROM over_over", "SELECT id FROM big"):
            with pytest.raises((e.LockNotAvailable, e.QueryCanceled)):
                conn.execute(sql.encode())
        assert _notes(conn) == [(1, "a")]


def test_a_name_that_is_written_otherwise_is_refused(locked: tuple[str, psycopg.Connection]) -> None:
    """The wait is decided by the look of the text; what is not seen there is not judged by half a catalog."""
    dsn, holder = locked
    for policy in (POLICY, {"name": "deny", "table_denylist": ["big"]}):
        with guarddb.connect(dsn, policy=policy, autocommit=True) as conn:
            assert _notes(conn) == [(1, "a")]
            for sql in ('SELECT * FROM U&"over\\005fbig"', 'SELECT * FROM U&"over\\005fover"'):
                with pytest.raises(guarddb.PolicyViolation):
                    conn.execute(sql.encode())
            with pytest.raises(guarddb.PolicyViolation):
                conn.execute("SELECT n FROM calls")
    holder.rollback()


def test_a_part_of_a_catalog_is_nobody_elses(locked: tuple[str, psycopg.Connection]) -> None:
    dsn, holder = locked
    with guarddb.connect(dsn, policy=POLICY, autocommit=True) as conn:
        assert _notes(conn) == [(1, "a")]
        holder.rollback()
        with guarddb.connect(dsn, policy=POLICY, autocommit=True) as second:
            assert second.execute("SELECT n FROM (SELECT 1 AS n) AS x").fetchall() == [(1,)]
            assert guarddb.Catalog.from_connection(second).unread == ()
    with psycopg.connect(dsn) as plain:
        definition = guarddb.Catalog.from_connection(plain).relation("public", "over_big")
        assert definition is not None
        assert "FROM" in (definition.definition or "")
