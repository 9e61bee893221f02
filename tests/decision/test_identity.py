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
        "guarddb": {"function_allowlist": ["spy", "other.spy", "wrap", "is_odd", "lower", "upper"]},
    }
    assert guarddb.evaluate(sql, listed, database[1]).rule == "ok"


@pytest.mark.parametrize("sql", PASSES)
def test_what_runs_none_of_them(database: tuple[str, guarddb.Catalog], sql: str) -> None:
    decision = guarddb.evaluate(sql, PLAIN, database[1])
    assert not decision.blocked, decision.reason
    with guarddb.connect(database[0], policy=PLAIN) as conn:
        conn.execute(sql.encode())
