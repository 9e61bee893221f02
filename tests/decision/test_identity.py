"""Functions, operators and casts are judged by what they are, not by a name that something else may have as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import guarddb
from tests.fix_server import temporary_database

SCHEMA = """
CREATE SCHEMA other;
CREATE TYPE colour AS ENUM ('red', 'blue');
CREATE TYPE wrapped AS (a int);
CREATE TYPE holder AS (d int, t text);
CREATE TYPE harmless AS (a int, b text);
CREATE FUNCTION spy(colour, colour) RETURNS bool LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION spy(text, int) RETURNS bool LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION other.spy(text, text) RETURNS bool LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION wrap(int) RETURNS wrapped LANGUAGE sql AS 'SELECT ROW($1)::wrapped';
CREATE FUNCTION is_odd(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 % 2 = 1';
CREATE OPERATOR = (leftarg = colour, rightarg = colour, function = spy);
CREATE OPERATOR = (leftarg = text, rightarg = int, function = spy);
CREATE OPERATOR other.= (leftarg = text, rightarg = text, function = other.spy);
CREATE OPERATOR other.@@@ (leftarg = text, rightarg = text, function = other.spy);
CREATE CAST (int AS wrapped) WITH FUNCTION wrap(int);
CREATE TYPE tagged AS (t text);
CREATE FUNCTION tag(text) RETURNS tagged LANGUAGE sql AS 'SELECT ROW($1)::tagged';
CREATE CAST (text AS tagged) WITH FUNCTION tag(text);
CREATE TYPE flag AS (b bool);
CREATE FUNCTION to_flag(bool) RETURNS flag LANGUAGE sql AS 'SELECT ROW($1)::flag';
CREATE CAST (bool AS flag) WITH FUNCTION to_flag(bool) AS IMPLICIT;
CREATE FUNCTION of_flag(flag) RETURNS text LANGUAGE sql AS 'SELECT ($1).b::text';
CREATE DOMAIN odd AS int CHECK (is_odd(value));
CREATE DOMAIN odder AS odd;
CREATE TYPE holds_odd AS (a int, o odder);
CREATE DOMAIN mail AS text;
CREATE FUNCTION spy(mail, mail) RETURNS bool LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR <> (leftarg = mail, rightarg = mail, function = spy);
CREATE FUNCTION lower(varchar) RETURNS text LANGUAGE sql AS $$ SELECT 'spied' $$;
CREATE FUNCTION upper(mail) RETURNS text LANGUAGE sql AS $$ SELECT 'spied' $$;
CREATE TABLE mails (m mail);
CREATE TABLE items (id int, name varchar, label text, c colour, d colour, w wrapped, n numeric, at date, tags text[], h harmless);
CREATE TABLE odds (id int, o holds_odd);
INSERT INTO items VALUES (1, 'a', 'b', 'red', 'red', NULL, 1, '2024-01-01', '{a}');
"""
PLAIN: dict[str, Any] = {"name": "identity"}

REFUSED = [
    "SELECT c = d FROM items",
    "SELECT id FROM items WHERE c = 'red'",
    "SELECT id FROM items WHERE c IN ('red', 'blue')",
    "SELECT id FROM items WHERE c = ANY (ARRAY['red']::colour[])",
    "SELECT id FROM items WHERE (id, c) = (1, 'red')",
    "SELECT id FROM items WHERE c IS DISTINCT FROM 'red'",
    "SELECT nullif(c, 'red') FROM items",
    "SELECT 'red'::colour = 'red'::colour",
    "SELECT CASE c WHEN 'red' THEN 1 END FROM items",
    "SELECT * FROM items a JOIN items b USING (c)",
    "SELECT id FROM items WHERE c IN (SELECT d FROM items)",
    "SELECT x.c = x.d FROM (SELECT c, d FROM items) AS x",
    "WITH x AS (SELECT c, d FROM items) SELECT c = d FROM x",
    "SELECT label = id FROM items",
    "SELECT 'a'::text = 1",
    "SELECT 'a'::text OPERATOR(other.=) 'b'::text",
    "SELECT m <> 'a' FROM mails",
    "SELECT m <> m FROM mails",
    "SELECT lower(name) FROM items",
    "SELECT lower('A'::varchar)",
    "SELECT lower(x.name) FROM (SELECT name FROM items) AS x",
    "SELECT upper(m) FROM mails",
    "SELECT 'a' OPERATOR(other.=) 'b'",
    "SELECT label OPERATOR(other.@@@) name FROM items",
    "SELECT 1::wrapped",
    "SELECT CAST(id AS wrapped) FROM items",
    "SELECT (id)::public.wrapped FROM items",
    "SELECT (1 + 1)::wrapped",
    "SELECT (SELECT id FROM items LIMIT 1)::wrapped",
    "SELECT ARRAY[1, 2]::wrapped[]",
    # A parameter comes with a type of the program's; a constant that a sub-select hands out is a text.
    "SELECT $1::wrapped",
    "SELECT CAST($1 AS wrapped)",
    "SELECT ($1::wrapped).a",
    "SELECT $1::wrapped[]",
    "SELECT ARRAY[$1]::wrapped[]",
    "SELECT coalesce($1, $2)::wrapped",
    "SELECT (SELECT $1)::wrapped",
    "SELECT x::wrapped FROM (SELECT $1 AS x) AS s",
    "SELECT x::wrapped FROM (SELECT $1 UNION ALL SELECT NULL) AS s (x)",
    "SELECT x::wrapped FROM (VALUES ($1)) AS s (x)",
    "SELECT label = $1 FROM items",
    "SELECT $1 = $2",
    "SELECT lower($1)",
    "SELECT (SELECT 'a')::tagged",
    "SELECT x::tagged FROM (SELECT 'a' AS x) AS s",
    "WITH s (x) AS (SELECT 'a') SELECT x::tagged FROM s",
    "SELECT ('a' COLLATE \"C\")::tagged",
    "SELECT (SELECT 'a') = 1",
    "SELECT x = 1 FROM (SELECT 'a' AS x) AS s",
    "SELECT 1::odd",
    "SELECT '1'::odder",
    "SELECT ROW(1, 1)::holds_odd",
    "SELECT '(1,1)'::holds_odd",
    "SELECT '{1}'::odd[]",
    "SELECT jsonb_populate_record(NULL::holds_odd, '{}')",
    "SELECT jsonb_populate_record(o, '{}') FROM odds",
]
PASSES = [
    "SELECT id FROM items WHERE id = 1",
    "SELECT id FROM items WHERE name = 'a'",
    "SELECT id FROM items WHERE label = 'b' AND n = 1 AND at = '2024-01-01'",
    "SELECT id FROM items WHERE name = label",
    "SELECT id FROM items WHERE id IN (1, 2) OR name IN ('a')",
    "SELECT id FROM items WHERE id = ANY (ARRAY[1, 2])",
    "SELECT id FROM items WHERE (id, name) = (1, 'a')",
    "SELECT id FROM items WHERE id IS DISTINCT FROM 1",
    "SELECT nullif(id, 1) FROM items",
    "SELECT 1 = 1, 'a' = 'b'",
    "SELECT id FROM items WHERE lower(label) = 'a'",
    "SELECT lower('A')",
    "SELECT lower(label || name) FROM items",
    "SELECT label <> 'a' FROM items",
    "SELECT count(*) = 1 FROM items",
    "SELECT x.id = 1 FROM (SELECT id FROM items) AS x",
    "SELECT id FROM items WHERE coalesce(label, '') = 'b'",
    "SELECT id FROM items WHERE tags = ARRAY['a']",
    "SELECT id FROM items WHERE n::int = 1",
    "SELECT c FROM items",
    "SELECT c <> d FROM items",
    "SELECT '(1)'::wrapped",
    "SELECT w FROM items",
    "SELECT NULL::wrapped",
    "SELECT id::text FROM items",
    "SELECT ROW(1, 'x')::harmless",
    "SELECT h::text, h FROM items",
    "SELECT ROW(1, 'x')::holder",
    "SELECT jsonb_populate_record(NULL::harmless, '{}')",
    "SELECT 'red'::colour",
    "PREPARE a AS SELECT $1::int, $2::text, $3::colour, $4::harmless",
    "PREPARE b AS SELECT id FROM items WHERE id = $1 AND n > $2 AND tags = $3",
    "SELECT '(a)'::tagged",
    "SELECT (SELECT 'a'), x FROM (SELECT 'b' AS x) AS s WHERE x = 'b'",
]


@pytest.fixture(scope="module")
def database(server_dsn: str) -> Iterator[tuple[str, guarddb.Catalog]]:
    with temporary_database(server_dsn, "identity") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SCHEMA)
            catalog = guarddb.Catalog.from_connection(conn)
        yield dsn, catalog


@pytest.mark.parametrize("sql", REFUSED)
def test_what_runs_a_function_that_no_list_names(database: tuple[str, guarddb.Catalog], sql: str) -> None:
    decision = guarddb.evaluate(sql, PLAIN, database[1])
    assert decision.rule == "function_not_allowed", decision.reason
    listed = {
        "name": "listed",
        "guarddb": {"function_allowlist": ["spy", "other.spy", "wrap", "tag", "is_odd", "lower", "upper"]},
    }
    assert guarddb.evaluate(sql, listed, database[1]).rule == "ok"


def test_what_a_listed_function_makes_of_its_argument(database: tuple[str, guarddb.Catalog]) -> None:
    """An implicit cast to the type that a function asks for shows nowhere in the text."""
    for listed, rule in ((["of_flag"], "function_not_allowed"), (["of_flag", "to_flag"], "ok")):
        policy = {"name": "listed", "access_mode": "read_write", "guarddb": {"function_allowlist": listed}}
        for sql in (
            "SELECT of_flag(true)",
            "SELECT of_flag(1 = 1)",
            "SELECT of_flag($1)",
            "CREATE TABLE t AS SELECT of_flag(false)",
        ):
            assert guarddb.evaluate(sql, policy, database[1]).rule == rule


@pytest.mark.parametrize("sql", PASSES)
def test_what_runs_none_of_them(database: tuple[str, guarddb.Catalog], sql: str) -> None:
    decision = guarddb.evaluate(sql, PLAIN, database[1])
    assert not decision.blocked, decision.reason
    with guarddb.connect(database[0], policy=PLAIN) as conn:
        conn.execute(sql.encode())


def test_a_name_of_the_servers_in_another_schema_is_not_the_servers(fresh_dsn: str) -> None:
    """A collation called "C" may be any; a function called pg_backend_pid may give another session's."""
    policy = {
        "name": "named alike",
        "access_mode": "read_write",
        "row_filters": [{"table": "kept", "predicate": "id > 0"}],
        "guarddb": {"function_allowlist": ["other.*"]},
    }
    with psycopg.connect(fresh_dsn, autocommit=True) as plain:
        plain.execute("""
            CREATE SCHEMA other; CREATE TABLE kept (id int, name text);
            CREATE COLLATION other."C" (provider = libc, locale = 'C');
            CREATE FUNCTION other.pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 1';
            CREATE DOMAIN other.int4 AS int CHECK (value > 0)""")
        catalog = guarddb.Catalog.from_connection(plain)
    waits = "SELECT id FROM kept WHERE name COLLATE {}\"C\" = 'x'"
    for schema, guarded in (("", False), ("pg_catalog.", False), ("other.", True)):
        sent = guarddb.evaluate(waits.format(schema), policy, catalog).rewritten_sql
        assert ("CASE WHEN" in str(sent)) is guarded, schema
    own = "SELECT query FROM pg_stat_activity WHERE pid = {}pg_backend_pid()"
    for schema, replaced in (("", False), ("pg_catalog.", False), ("other.", True)):
        open_policy = {**policy, "row_filters": []}
        sent = guarddb.evaluate(own.format(schema), open_policy, catalog).rewritten_sql
        assert ("insufficient privilege" in str(sent)) is replaced, schema
    added = "ALTER TABLE kept ADD COLUMN n int DEFAULT 1::{}int4"
    for schema, refused in (("", False), ("pg_catalog.", False), ("other.", True)):
        assert guarddb.evaluate(added.format(schema), policy, catalog).blocked is refused, schema
