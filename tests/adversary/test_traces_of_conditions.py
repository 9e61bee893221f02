"""A condition that takes no column may run before a filter, and a function in it may leave a trace of how often it ran."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb.decision import decide as engine
from guarddb.decision.plan import NO_NAMES
from guarddb.decision.wall_in_force import Wall
from tests.fix_server import temporary_database

SCHEMA = """
CREATE TABLE people (id int PRIMARY KEY, name text, tenant int);
INSERT INTO people SELECT i, 'n' || i, i % 2 FROM generate_series(1, 9) AS i WHERE {kept};
CREATE TABLE other (id int PRIMARY KEY, tenant int);
INSERT INTO other SELECT i, i % 2 FROM generate_series(1, 9) AS i;
CREATE VIEW seen AS SELECT p.id, p.name FROM people AS p;
CREATE VIEW joined AS SELECT p.id, o.tenant FROM people AS p JOIN other AS o ON o.id = p.id;
CREATE SEQUENCE s;
CREATE FUNCTION known(name text) RETURNS bool LANGUAGE sql AS 'SELECT name IS NOT NULL';
CREATE FUNCTION trace() RETURNS bool LANGUAGE sql VOLATILE AS 'SELECT nextval(''s'') > 0';
"""
FILTERS = (
    "tenant = 1",
    "tenant = current_setting('app.tenant')::int",
    "tenant = 1 OR name = 'a' OR name = 'b'",
    "tenant IN (SELECT o.tenant FROM other AS o WHERE o.tenant = 1)",
)
#: `?` is a condition that is true.
STATEMENTS = (
    "SELECT count(*) FROM people WHERE ?",
    "SELECT count(*) FROM people WHERE id = 2 AND ?",
    "SELECT count(*) FROM people WHERE CASE WHEN id = 2 AND name > 'n1' THEN ? ELSE true END",
    "SELECT count(*) FROM people WHERE id = 3 OR ?",
    "SELECT count(*) FROM people WHERE id = 2 AND (SELECT ?)",
    "SELECT count(*) FROM people WHERE CASE WHEN id = 2 THEN (SELECT ?) ELSE true END",
    "SELECT count(*) FROM people AS p JOIN other AS o ON p.id = o.id AND ?",
    "SELECT count(*) FROM other AS o LEFT JOIN people AS p ON p.id = o.id AND ?",
    "SELECT count(*) FROM people AS p FULL JOIN people AS q ON p.id = q.id AND p.id = 2 AND ?",
    "SELECT count(*) FROM other AS o WHERE EXISTS (SELECT FROM people AS p WHERE p.id = o.id AND ?)",
    "SELECT count(*) FROM (SELECT * FROM people) AS p WHERE ?",
    "WITH w AS (SELECT * FROM people) SELECT count(*) FROM w WHERE ?",
    "SELECT count(*) FROM seen WHERE ?",
    "SELECT count(*) FROM seen WHERE id = 2 AND ?",
    "SELECT count(*) FROM seen WHERE CASE WHEN id = 2 THEN ? ELSE true END",
    "SELECT count(*) FROM joined WHERE CASE WHEN id = 2 THEN ? ELSE true END",
    "SELECT count(*) FROM people AS p WHERE 1 / (p.id - 2) < 9 AND CASE WHEN p.id = 4 THEN ? ELSE true END",
    "SELECT count(*) FROM people AS p JOIN other AS o ON p.id = o.id + 0 AND CASE WHEN p.id = 2 THEN ? ELSE true END",
    "SELECT count(*) FROM people AS p, people AS q WHERE CASE WHEN p.id = 2 AND q.id = 4 THEN ? ELSE true END",
    "SELECT count(*) FROM people GROUP BY id HAVING ?",
    "SELECT id FROM people ORDER BY CASE WHEN ? THEN id END",
    "UPDATE people SET name = name WHERE id < 4 AND ?",
    "DELETE FROM people WHERE id = 2 AND ?",
    "UPDATE other AS o SET tenant = o.tenant FROM people AS p WHERE p.id = o.id AND ?",
)


@pytest.fixture(scope="module")
def variants(server_dsn: str) -> Iterator[list[str]]:
    """The same visible rows; the second one has no hidden ones."""
    with temporary_database(server_dsn, "traces") as one, temporary_database(server_dsn, "traces") as two:
        for dsn, kept in ((one, "true"), (two, "i % 2 = 1")):
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute(SCHEMA.format(kept=kept).encode())
        yield [one, two]


def policy(predicate: str) -> dict[str, Any]:
    return {
        "name": f"traces {predicate}",
        "access_mode": "read_write",
        "row_filters": [{"table": "people", "predicate": predicate}],
        "guarddb": {"function_allowlist": ["trace", "known"], "may_change": ["other"]},
    }


Guarded = Callable[[str], list[guarddb.Connection[Any]]]


@pytest.fixture(scope="module")
def guarded(variants: list[str]) -> Iterator[Guarded]:
    """guarded(predicate) -> a connection of each variant, for all tests that roll back."""
    opened: dict[str, list[guarddb.Connection[Any]]] = {}

    def connections(predicate: str) -> list[guarddb.Connection[Any]]:
        if predicate not in opened:
            opened[predicate] = [
                guarddb.connect(dsn, policy=policy(predicate), settings={"app.tenant": "1"})
                for dsn in variants
            ]
        return opened[predicate]

    yield connections
    for each in opened.values():
        for conn in each:
            conn.close()


@pytest.mark.parametrize("predicate", FILTERS)
@pytest.mark.parametrize("statement", STATEMENTS)
def test_random_numbers_do_not_count_hidden_rows(guarded: Guarded, statement: str, predicate: str) -> None:
    after = []
    for conn in guarded(predicate):
        try:
            conn.execute("SELECT setseed(0.25)")
            conn.execute(statement.replace("?", "random() IS NOT NULL").encode())
            after.append(conn.execute("SELECT random()").fetchall())
        finally:
            conn.rollback()
    assert after[0] == after[1]


@pytest.mark.parametrize("statement", STATEMENTS[:6])
@pytest.mark.parametrize("call", ["trace()", "public.trace()", "setseed(0.5) IS NOT NULL"])
def test_nor_does_what_else_leaves_a_trace(variants: list[str], statement: str, call: str) -> None:
    after = []
    for dsn in variants:
        with psycopg.connect(dsn, autocommit=True) as plain:
            plain.execute("SELECT setval('s', 1)")
        with guarddb.connect(dsn, policy=policy("tenant = 1 OR name = 'a'"), autocommit=True) as conn:
            conn.execute("SELECT setseed(0.25)")
            conn.execute(statement.replace("?", call).encode())
            state = conn.execute("SELECT random()").fetchall()
        with psycopg.connect(dsn) as plain:
            after.append((state, plain.execute("SELECT last_value FROM s").fetchall()))
    assert after[0] == after[1]


@pytest.mark.parametrize("predicate", FILTERS[:3])
@pytest.mark.parametrize("statement", STATEMENTS[:19])
def test_nor_does_a_transactions_number(guarded: Guarded, statement: str, predicate: str) -> None:
    numbered = []
    for conn in guarded(predicate):
        try:
            conn.execute(statement.replace("?", "pg_current_xact_id() IS NOT NULL").encode())
            numbered.append(conn.execute("SELECT pg_current_xact_id_if_assigned() IS NULL").fetchall())
        finally:
            conn.rollback()
    assert numbered[0] == numbered[1]


def test_drawing_lots_among_what_is_seen_runs(variants: list[str]) -> None:
    with guarddb.connect(variants[0], policy=policy("tenant = 1")) as conn:
        assert conn.execute("SELECT count(*) FROM people WHERE random() < 2").fetchone() == (5,)
        assert len(conn.execute("SELECT * FROM people ORDER BY random() LIMIT 2").fetchall()) == 2
        assert conn.execute("SELECT count(*) FROM people WHERE gen_random_uuid() IS NOT NULL").fetchone() == (
            5,
        )


@pytest.mark.parametrize(
    "condition",
    [
        "random() < 0.5",
        "CASE WHEN id = 2 THEN random() < 0.5 ELSE true END",
        "CASE WHEN id = 2 THEN pg_current_xact_id() IS NOT NULL ELSE true END",
    ],
)
def test_behind_a_wall_it_waits_for_the_views_own_conditions(variants: list[str], condition: str) -> None:
    with psycopg.connect(variants[0]) as conn:
        catalog = guarddb.Catalog.from_connection(conn)
    profile = guarddb.PolicyProfile.model_validate(policy("tenant = 1"))
    compiled = engine.compile_policy(profile, {}, profile.version)
    wall = Wall("wall", {("public", "people"): "people", ("public", "other"): "other"}, "x")

    def sent(sql: str) -> str:
        return engine.decide(sql, compiled, catalog, NO_NAMES, wall).sql

    waits = f"COALESCE(({condition}), false)"
    assert waits in sent(f"SELECT * FROM people WHERE {condition}")
    assert waits in sent(f"SELECT * FROM people WHERE known(name) AND {condition}")
    either = f"known(name) AND ({condition}) OR known('x') AND ({condition})"
    assert f"COALESCE(({either}), false)" in sent(f"SELECT * FROM people WHERE {either}")
    for harmless in (
        f"SELECT * FROM (SELECT * FROM people OFFSET 0) AS p WHERE {condition}",
        f"SELECT * FROM other WHERE {condition}",
        "SELECT * FROM people ORDER BY random() LIMIT 3",
        "SELECT * FROM people WHERE known(name)",
    ):
        assert sent(harmless) == harmless.replace("FROM people", 'FROM "wall"."people"').replace(
            "FROM other", 'FROM "wall"."other"'
        )


#: Conditions that take no column, and say something each time they run; or when the setting is what it is set to.
SPEAKING = (
    "name <> to_tsquery('the')::text",
    "id <> ALL (ARRAY[numnode(plainto_tsquery('the'))])",
    "name <> (current_setting('application_name')::tsquery)::text",
    "name <> (current_setting('application_name')::aclitem)::text",
    "name <> pg_typeof(to_regtype('timestamp(7)'))::text",
    "name <> said()",
    "name <> (SELECT said())",
)


@pytest.mark.parametrize(
    "way", ["execute", "named", "stream", "pipeline", "FETCH", "EXECUTE", "HOLD", "COMMIT"]
)
def test_what_is_said_does_not_count_hidden_rows(variants: list[str], way: str) -> None:
    """A filter that costs more than the condition is asked after it."""
    costly = (
        "EXISTS (SELECT 1 FROM other AS o WHERE o.tenant <= people.tenant AND o.tenant + people.tenant = 2)"
    )
    profile = policy(costly)
    profile["guarddb"]["function_allowlist"].append("said")
    profile["statement_rules"] = {"allow": ["select", "set", "transaction"]}
    heard: list[list[Any]] = []
    for dsn in variants:
        with psycopg.connect(dsn, autocommit=True) as plain:
            plain.execute("""
                CREATE OR REPLACE FUNCTION said() RETURNS text LANGUAGE plpgsql STABLE COST 1 AS
                $$ BEGIN RAISE NOTICE 'I ran'; RETURN 'x'; END $$""")
        with guarddb.connect(dsn, policy=profile, autocommit=True) as conn:
            said: list[Any] = []
            conn.add_notice_handler(lambda diagnostic, said=said: said.append(diagnostic.message_primary))
            for application in ("", "=r"):
                conn.execute(f"SET application_name = '{application}'")
                for condition in SPEAKING:
                    speak(conn, f"SELECT id FROM people WHERE id > 1 AND {condition}", way)
                    said.append(condition)
            heard.append(list(said))
            said.clear()
            conn.execute("SELECT said()")
            assert said == ["I ran"]
    assert heard[0] == heard[1]


def speak(conn: Any, sql: str, way: str) -> None:
    if way == "COMMIT":
        for text in ("BEGIN", f"DECLARE held CURSOR WITH HOLD FOR {sql}", "SELECT 1", "COMMIT", "CLOSE held"):
            with suppress(psycopg.Error):
                conn.execute(text)
        conn.rollback()
        return
    try:
        with conn.transaction():
            match way:
                case "named":
                    with conn.cursor("c") as cursor:
                        cursor.execute(sql)
                        cursor.fetchall()
                case "stream":
                    list(conn.cursor().stream(sql))
                case "pipeline":
                    with conn.pipeline():
                        conn.execute(sql)
                        conn.execute("SELECT 1")
                case "FETCH":
                    conn.execute(f"DECLARE c CURSOR FOR {sql}")
                    conn.execute("FETCH ALL FROM c")
                case "HOLD":  # run to its end by the COMMIT
                    conn.execute(f"DECLARE held CURSOR WITH HOLD FOR {sql}")
                    conn.execute("SELECT 1")
                case "EXECUTE":
                    conn.execute(f"PREPARE p AS {sql}")
                    conn.execute("EXECUTE p")
                    conn.execute("DEALLOCATE p")
                case _:
                    conn.execute(sql)
        if way == "HOLD":
            conn.execute("CLOSE held")
    except psycopg.Error:
        pass
