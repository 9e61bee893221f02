"""A function that the profile lists, or a trigger, defines something: what is sent next in the transaction is judged by it.

The server's snapshot, by which a look tells whether anything has changed, does not say what the transaction itself has done.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

import guarddb
from tests.adversary.ground import ONE_MASK, Ground, writing
from tests.driver.conftest import look_is_due
from tests.fix_server import temporary_database

FUNCTIONS = """
CREATE TABLE mine AS SELECT 1 AS own, 'mine'::text AS ssn;
CREATE TABLE written (id int);
INSERT INTO written VALUES (1);
CREATE FUNCTION by_text() RETURNS int LANGUAGE plpgsql AS $$ BEGIN ALTER TABLE mine RENAME ssn TO s; RETURN 1; END $$;
CREATE FUNCTION by_parts(text) RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN EXECUTE 'alter table ' || quote_ident($1) || ' rename ssn TO s'; RETURN 1; END $$;
CREATE FUNCTION by_another() RETURNS int LANGUAGE sql AS $$ SELECT by_parts('mine') $$;
CREATE FUNCTION by_operator(int, int) RETURNS int LANGUAGE sql AS 'SELECT by_text()';
CREATE OPERATOR === (FUNCTION = by_operator, LEFTARG = int, RIGHTARG = int);
CREATE FUNCTION by_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM by_text(); RETURN NEW; END $$;
CREATE TRIGGER t AFTER UPDATE ON written FOR EACH STATEMENT EXECUTE FUNCTION by_trigger();
"""
DEFINES = {
    "by its text": "SELECT by_text()",
    "by a command that is put together": "SELECT by_parts('mine')",
    "by another function": "SELECT by_another()",
    "by an operator": "SELECT 1 === 2",
    "in a WITH query": "WITH w AS MATERIALIZED (SELECT by_text() AS a) SELECT a FROM w",
    "in a trigger": "UPDATE written SET id = 2 WHERE id = 1",
}
READS = "SELECT id, (SELECT ssn FROM mine) FROM users"
POLICY = {
    **writing(ONE_MASK),
    "guarddb": {"function_allowlist": ["by_text", "by_parts", "by_another", "by_operator"]},
}


@pytest.fixture(scope="module")
def own(server_dsn: str) -> Iterator[Ground]:
    with temporary_database(server_dsn, "adversary_defining") as dsn:
        ground = Ground(dsn)
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(FUNCTIONS)
        yield ground


def _read(conn: guarddb.Connection[tuple[object, ...]]) -> str:
    try:
        with conn.transaction():
            return str(conn.execute(READS).fetchall())
    except psycopg.Error as ex:
        return str(ex)


@pytest.mark.parametrize("how", DEFINES)
def test_what_a_function_defines_is_known_within_the_transaction(own: Ground, how: str) -> None:
    with guarddb.connect(own.dsn, policy=POLICY) as conn:
        assert "mine" in _read(conn)
        with conn.transaction(force_rollback=True):
            conn.execute(DEFINES[how])
            for _ in range(2):
                assert "RAW-" not in _read(conn)
                look_is_due(conn)
        # The savepoint is undone, and with it what was defined.
        assert "mine" in _read(conn)
        conn.rollback()
        assert "mine" in _read(conn)
        conn.rollback()


def test_other_functions_and_writes_ask_for_nothing(own: Ground) -> None:
    """The catalog is not looked through again after each statement of a transaction that only writes."""
    with psycopg.connect(own.dsn, autocommit=True) as plain:
        plain.execute("CREATE FUNCTION harmless(created int) RETURNS int LANGUAGE sql AS 'SELECT created'")
        plain.execute("DROP TRIGGER t ON written; DROP FUNCTION by_trigger")
    policy = {**POLICY, "guarddb": {"function_allowlist": ["harmless"]}}
    for sql in ("SELECT harmless(1)", "UPDATE written SET id = 3 WHERE id = 2"):
        with guarddb.connect(own.dsn, policy=policy) as conn:
            conn.execute(sql)
            assert not conn._guard.freshness.stale, sql
            conn.rollback()
