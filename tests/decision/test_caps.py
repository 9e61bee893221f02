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
