"""The columns of what stands in FROM like a function are those that the server gives it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from guarddb import Catalog
from guarddb.sql.analysis.classify import read_statement
from guarddb.tree import parse
from tests.fix_server import temporary_database

SCHEMA = """
CREATE TYPE pair AS (id int, ssn text);
CREATE DOMAIN dpair AS pair;
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE DOMAIN short AS varchar(5);
CREATE DOMAIN many AS int[];
CREATE TABLE t (id int, p pair, ps pair[], m mood, words text[], dp dpair, n many);
INSERT INTO t VALUES (1, (1, 'x'), ARRAY[(1, 'x')::pair], 'sad', '{a}', (1, 'x')::pair, '{1}');
CREATE FUNCTION same(anyelement) RETURNS anyelement LANGUAGE sql AS 'SELECT $1';
"""
ITEMS = (
    "CAST(ROW(1, 'x') AS pair)", "CAST(ROW(1, 'x') AS dpair)", "CAST('a' AS short)", "CAST('{1}' AS many)",
    "CAST(NULL AS pair[])", "CAST('sad' AS mood)", "COALESCE(CAST(ROW(1, 'x') AS pair), NULL)", "COALESCE('a', NULL)",
    "COALESCE(1, 2.5)", "GREATEST(1, 2)", "LEAST('a', 'b')", "NULLIF(1, 2)",
    "NULLIF(CAST(ROW(1, 'x') AS pair), ROW(1, 'y')::pair)", "unnest(ARRAY[1, 2])", "unnest(ARRAY['a', NULL])",
    "unnest(ARRAY[ROW(1, 'x')::pair])", "unnest('{}'::dpair[])", "unnest('{}'::mood[])", "unnest('a b'::tsvector)",
    "unnest(ARRAY[[1], [2]])", "unnest('{[1,3]}'::int4multirange)", "unnest('{1}'::int[], ARRAY['a'])",
    "unnest(ARRAY[ROW(1, 'x')::pair], ARRAY[1])", "unnest(CAST('{1}' AS many))", "jsonb_populate_record(NULL::pair, '{}')",
    "jsonb_populate_record(NULL::dpair, '{}')", "jsonb_populate_recordset(NULL::t, '[]')",
    "json_populate_record(COALESCE(NULL::t, NULL), '{}')", "same(1)", "same(NULL::pair)", "array_append(ARRAY[1], 2)",
    "unnest(array_append(ARRAY[1], 2))", "jsonb_each('{}')", "jsonb_array_elements_text('[]')", "generate_series(1, 2)",
    "regexp_matches('a', 'b')", "string_to_table('a', 'b')",
    "pg_options_to_table('{}')", "json_each_text('{}')", "jsonb_to_record('{}') AS r(a int)", "current_date",
    "LATERAL unnest(t.ps)", "LATERAL unnest(t.words)", "LATERAL unnest(ARRAY[t.p])", "LATERAL unnest(ARRAY[t.dp])",
    "LATERAL unnest(ARRAY[t.id, 3])", "LATERAL unnest(t.n)", "LATERAL unnest(ARRAY[t])", "LATERAL unnest(ARRAY[s.q])",
    "LATERAL jsonb_populate_record(t, '{}')", "LATERAL COALESCE(t.p, NULL)", "LATERAL unnest(ARRAY[t.m])",
    "LATERAL unnest(ARRAY[(t.p).ssn])", "LATERAL unnest(t.ps, t.words)", "LATERAL NULLIF(t.id, 1)",
)  # fmt: skip
#: Those of which nothing is claimed: the result of a user's polymorphic function, of a domain over an array, of a field,
#: what differs between versions, ranges, and text search vectors.
UNCLAIMED = 9


#: What stands in FROM under a name that nobody has written.
TABLE_FUNCTIONS = (
    ("xmltable", "XMLTABLE('/a' PASSING (NULL::xml) COLUMNS id int PATH '@id', n FOR ORDINALITY)"),
    (
        "json_table",
        "JSON_TABLE(jsonb '[]', '$[*]' COLUMNS (id int PATH '$.a', NESTED PATH '$.b' COLUMNS (k text)))",
    ),
)


@pytest.fixture(scope="module")
def items(server_dsn: str) -> Iterator[psycopg.Connection]:
    with temporary_database(server_dsn, "item_types") as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(SCHEMA)
        yield conn


def test_columns_are_those_of_the_server(items: psycopg.Connection) -> None:
    catalog = Catalog.from_connection(items)
    unclaimed = []
    for item in ITEMS:
        for alias in ("", " AS f", " AS f(a)") if " AS r(" not in item else ("",):
            sql = f"SELECT * FROM t, (SELECT p AS q FROM t) AS s, {item}{alias}"
            there = [column.name for column in items.execute(sql.encode()).description or ()]
            statement = read_statement(parse(sql)[0], catalog, {})
            outputs = statement.queries[0].outputs
            if any(output.open is not None for output in outputs):
                unclaimed.append(item)
                continue
            assert [output.name for output in outputs] == there, sql
    assert len(set(unclaimed)) <= UNCLAIMED, set(unclaimed)


@pytest.mark.parametrize(("name", "item"), TABLE_FUNCTIONS)
def test_a_table_function_is_called_by_its_own_name(items: psycopg.Connection, name: str, item: str) -> None:
    catalog = Catalog.from_connection(items)
    sql = f"SELECT {name}.*, {name}.id FROM t, {item} WHERE false"
    there = [column.name for column in items.execute(sql.encode()).description or ()]
    statement = read_statement(parse(sql)[0], catalog, {})
    assert statement.top is not None
    outputs = statement.top.outputs
    assert [output.name for output in outputs] == there
