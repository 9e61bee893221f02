"""A filter in the form in which it is asked first shows the rows that it showed, whatever is NULL."""

from __future__ import annotations

import random

import psycopg

from guarddb.wall.asked_first import Cost, asked_first
from guarddb.wall.database import Column

COLUMNS = (
    Column("tenant", 1, "integer", "int4", "N"),
    Column("kind", 2, "text", "text", "S"),
    Column("shut", 3, "boolean", "bool", "B"),
    Column("big", 4, "bigint", "int8", "N"),
)
LEAVES = (
    "tenant = 1", "2 = t.tenant", "tenant IN (1, 3)", "tenant = '3'", "tenant < 2", "tenant <> 1", "tenant BETWEEN 1 AND 2",
    "kind = 'a'", "kind IN ('a', 'b''c')", "kind = 'b''c'::text", "kind IS NULL", "kind > 'a'", "kind LIKE 'a%'",
    "shut", "NOT shut", "shut = false", "NOT shut = true", "shut IS NOT TRUE", "shut IS UNKNOWN", "t.shut IS NOT NULL",
    "big = 1", "big IN (1, 2)", "tenant + 0 = 1", "true",
)  # fmt: skip


def drawn(draw: random.Random, depth: int) -> str:
    if depth == 0 or draw.random() < 0.3:
        return draw.choice(LEAVES)
    parts = [drawn(draw, depth - 1) for _ in range(draw.randint(2, 3))]
    word = draw.choice((" AND ", " OR ", " OR "))
    whole = "(" + word.join(parts) + ")"
    return f"NOT {whole}" if draw.random() < 0.1 else whole


def test_the_form_shows_the_same_rows(plain: psycopg.Connection) -> None:
    draw = random.Random(20261201)
    rows = """(SELECT row_number() OVER () AS id, * FROM unnest(ARRAY[1, 2, 3, NULL]) AS a (tenant),
      unnest(ARRAY['a', 'b''c', 'z', NULL]) AS b (kind), unnest(ARRAY[true, false, NULL]) AS c (shut),
      unnest(ARRAY[1::int8, 3, NULL]) AS d (big)) AS t"""
    for_nothing = 0
    for _ in range(400):
        text = drawn(draw, 2)
        asked = asked_first(text, COLUMNS)
        for_nothing += asked.cost == Cost.NOTHING
        theirs, ours = (
            plain.execute(f"SELECT id FROM {rows} WHERE {condition} ORDER BY id").fetchall()
            for condition in (text, asked.text)
        )
        assert ours == theirs, (text, asked.text)
    assert for_nothing > 20
