"""A part of a value is written over the rest of it: whether that fails tells of the rest, and so would a hash of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from guarddb import Catalog, evaluate
from tests.fix_server import temporary_database

SCHEMA = """
CREATE TYPE place AS (street text, no int);
CREATE DOMAIN real_place AS place CHECK ((value).no > 0 OR (value).street = 'RAW');
CREATE TABLE people (id int PRIMARY KEY, home place, spare real_place, doc jsonb, tags text[], grid int[], homes place[],
  open_doc jsonb, open_tags text[]);
CREATE VIEW shown AS SELECT id AS number, doc AS file, open_tags FROM people;
INSERT INTO people VALUES (1, ROW('RAW', 1), ROW('RAW', 1), '{"a": 1}', '{a,b}', '{{1,2},{3,4}}', ARRAY[ROW('RAW', 1)::place],
  '{"a": {}}', '{a,b}');
CREATE TABLE other (id int PRIMARY KEY);
INSERT INTO other VALUES (1);
"""
MASKED = ("home", "spare", "doc", "tags", "grid", "homes")
PARTS = (
    "home.street = 'x'",
    "home.no = 2",
    "spare.no = -1",
    "spare.street = 'x'",
    "doc['a'] = '2'",
    "doc['a']['b'] = '2'",
    "doc['list'][3] = '2'",
    "tags[2] = 'x'",
    "tags[1:2] = '{x}'",
    "tags[5:] = '{x}'",
    "grid[1][3] = 3",
    "homes[1].no = 3",
    "(home.no, open_doc) = (2, '1')",
    "(open_doc, doc['a']['b']) = (SELECT jsonb '1', jsonb '2')",
    "open_doc = '1', doc['a'] = DEFAULT",
)
WRITES = (
    "UPDATE people SET {part} WHERE id = 1",
    "UPDATE people AS q SET {part} FROM other AS o WHERE o.id = q.id RETURNING q.id, new.doc",
    "INSERT INTO people (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET {part}",
    "MERGE INTO people AS q USING other AS o ON o.id = q.id WHEN MATCHED THEN UPDATE SET {part}",
    "WITH w AS (UPDATE people SET {part} WHERE id = 1 RETURNING id) SELECT id FROM w",
    "PREPARE p AS UPDATE people SET {part} WHERE id = 1",
    "EXPLAIN ANALYZE UPDATE people SET {part} WHERE id = 1",
)
THROUGH_A_VIEW = (
    "UPDATE shown SET file['a']['b'] = '2' WHERE number = 1",
    "UPDATE shown SET open_tags[1] = 'x', file['a'] = '2' WHERE number = 1",
)
ALLOWED = (
    "UPDATE people SET open_doc['a']['b'] = '2', open_tags[2:3] = '{x,y}' WHERE id = 1",
    "UPDATE people SET doc = '{}', home = ROW('x', 2), tags = DEFAULT WHERE id = 1",
    "INSERT INTO people (id, home.street, home.no, tags[2], doc['a']) VALUES (2, 'x', 3, 'y', '1')",
    "UPDATE shown SET open_tags[1] = 'x' WHERE number = 1",
    "MERGE INTO people q USING other o ON o.id = q.id WHEN MATCHED THEN UPDATE SET open_tags[1] = 'x'",
    "MERGE INTO people q USING other o ON o.id = q.id + 5 WHEN NOT MATCHED THEN INSERT (id, home.no) VALUES (7, 1)",
)


def policy(kind: str) -> dict[str, Any]:
    return {
        "name": "parts",
        "access_mode": "read_write",
        "masking_rules": [{"table": "people", "column": column, "kind": kind} for column in MASKED],
    }


@pytest.fixture(scope="module")
def people(server_dsn: str) -> Iterator[tuple[psycopg.Connection[Any], Catalog]]:
    with (
        temporary_database(server_dsn, "parts") as dsn,
        psycopg.connect(dsn, autocommit=True) as conn,
    ):
        conn.execute(SCHEMA)
        yield conn, Catalog.from_connection(conn)


def test_the_server_tells_of_the_rest(people: tuple[psycopg.Connection[Any], Catalog]) -> None:
    conn, _ = people
    for part in ("doc['a']['b'] = '2'", "grid[1][3] = 3", "spare.street = 'x', spare.no = -1"):
        with pytest.raises(psycopg.Error):
            conn.execute(f"UPDATE people SET {part} WHERE id = 1".encode())


@pytest.mark.parametrize("kind", ["null", "hash"])
@pytest.mark.parametrize("write", WRITES)
def test_no_part_of_a_masked_value_is_written(
    people: tuple[psycopg.Connection[Any], Catalog], write: str, kind: str
) -> None:
    _, catalog = people
    for part in PARTS:
        for known in (catalog, None):
            decision = evaluate(write.format(part=part), policy(kind), known)
            assert decision.rule == "masked_column_write", (part, decision.reason)
            assert decision.hint


@pytest.mark.parametrize("sql", THROUGH_A_VIEW)
def test_nor_through_a_view(people: tuple[psycopg.Connection[Any], Catalog], sql: str) -> None:
    assert evaluate(sql, policy("redact"), people[1]).rule == "masked_column_write"


@pytest.mark.parametrize("sql", ALLOWED)
def test_whole_values_and_parts_of_others_are(
    people: tuple[psycopg.Connection[Any], Catalog], sql: str
) -> None:
    conn, catalog = people
    decision = evaluate(sql, policy("null"), catalog)
    assert not decision.blocked, decision.reason
    assert decision.rewritten_sql is not None
    with conn.transaction(force_rollback=True):
        conn.execute(decision.rewritten_sql.encode())
