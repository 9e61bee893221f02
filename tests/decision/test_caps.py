"""`max_rows` where nobody counts the rows that are handed out: COPY, and cursors that can be read again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import guarddb

CAPPED = {"name": "capped", "access_mode": "read_write", "max_rows": 5}


@pytest.fixture
def conn(shop: str) -> Iterator[Any]:
    with guarddb.connect(shop, policy=CAPPED) as conn:
        yield conn
        conn.rollback()


@pytest.mark.parametrize(
    "statement",
    [
        "COPY products TO STDOUT",
        "COPY products (id, name) TO STDOUT",
        "COPY pg_namespace TO STDOUT",
        "COPY (SELECT id FROM products) TO STDOUT",
        "COPY (SELECT id FROM products LIMIT 100) TO STDOUT",
        "COPY (SELECT id FROM products UNION ALL SELECT id FROM products) TO STDOUT",
    ],
)
def test_copy_hands_out_no_more_than_the_cap(conn: Any, statement: str) -> None:
    with conn.cursor().copy(statement) as copy:
        assert sum(1 for _ in copy.rows()) <= 5


def test_copy_with_ties_has_no_bound_and_is_refused(conn: Any) -> None:
    with pytest.raises(guarddb.PolicyViolation) as caught:
        conn.execute("COPY (SELECT 1 FROM products ORDER BY 1 FETCH FIRST 1 ROW WITH TIES) TO STDOUT")
    assert caught.value.rule == "statement_not_allowed"


@pytest.mark.parametrize(("rows", "shown"), [(3, 3), (5, 5), (30, 5)])
def test_a_scroll_cursor_shows_the_same_rows_each_time(conn: Any, rows: int, shown: int) -> None:
    conn.execute(f"DECLARE c SCROLL CURSOR FOR SELECT g FROM generate_series(1, {rows}) g")
    first = conn.execute("FETCH ALL FROM c").fetchall()
    conn.execute("MOVE ABSOLUTE 0 FROM c")
    again = conn.execute("FETCH ALL FROM c").fetchall()
    assert first == again == [(n + 1,) for n in range(shown)]


def test_a_scrollable_server_cursor_shows_the_same_rows_each_time(conn: Any) -> None:
    with conn.cursor("s", scrollable=True) as cur:
        cur.execute("SELECT g FROM generate_series(1, 9) g")
        first = cur.fetchall()
        cur.scroll(0, "absolute")
        assert cur.fetchall() == first == [(1,), (2,), (3,), (4,), (5,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id, name FROM products WHERE id = 7",
        "SELECT * FROM products AS p WHERE 7 = p.id AND price > 1",
        "SELECT p.* FROM public.products p WHERE p.id = $1::int",
        "SELECT id FROM products WHERE id = '7' AND (name = 'x' OR id > 3) FOR UPDATE",
    ],
)
def test_a_look_up_by_key_is_sent_as_it_is(conn: Any, sql: str) -> None:
    catalog = guarddb.Catalog.from_connection(conn)
    assert guarddb.evaluate(sql, CAPPED, catalog).rewritten_sql == sql


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM products",
        "SELECT id FROM products WHERE id = 7 OR true",
        "SELECT id FROM products WHERE id = id",
        "SELECT id FROM products WHERE id > 7",
        "SELECT id FROM products WHERE NOT (id = 7)",
        "SELECT id FROM products WHERE id = ANY ('{1,2}')",
        "SELECT id FROM products WHERE id IN (1, 2)",
        "SELECT id FROM products WHERE id = (SELECT 7)",
        "SELECT generate_series(1, 100) FROM products WHERE id = 7",
        "SELECT id, (SELECT 1) FROM products WHERE id = 7",
        "SELECT p.id FROM products p, products q WHERE p.id = 7",
        "SELECT p.id FROM products p JOIN products q ON true WHERE p.id = 7",
        "SELECT id FROM products WHERE name = 'x'",
        "SELECT id FROM products WHERE id = 7 UNION ALL SELECT id FROM products",
        "SELECT id FROM (SELECT id FROM products) AS products WHERE id = 7",
        "WITH products AS (SELECT 7 AS id) SELECT id FROM products WHERE id = 7",
        "SELECT order_id FROM order_items WHERE order_id = 7",
    ],
)
def test_everything_else_asks_for_one_row_more(conn: Any, sql: str) -> None:
    catalog = guarddb.Catalog.from_connection(conn)
    assert (guarddb.evaluate(sql, CAPPED, catalog).rewritten_sql or "").endswith("LIMIT 6")
    assert (guarddb.evaluate(sql, CAPPED).rewritten_sql or "").endswith("LIMIT 6")


def test_a_cursor_that_nobody_counts_keeps_its_limit(conn: Any) -> None:
    catalog = guarddb.Catalog.from_connection(conn)
    sql = "DECLARE c SCROLL CURSOR FOR SELECT id FROM products WHERE id = 7"
    assert guarddb.evaluate(sql, CAPPED, catalog).rewritten_sql == f"{sql} LIMIT 5"


def test_the_cap_holds_where_a_deferred_key_is_there_twice(conn: Any) -> None:
    conn.execute("CREATE TABLE late (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")
    conn.execute("INSERT INTO late SELECT 1 FROM generate_series(1, 9)")
    cur = conn.execute("SELECT id FROM late WHERE id = 1")
    assert (len(cur.fetchall()), cur.truncated) == (5, True)
