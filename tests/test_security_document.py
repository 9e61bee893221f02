"""The page about the threat model: every guarantee names the tests that show it, and they exist; what remains does remain."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest

import guarddb

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
GUARANTEES = TEXT[TEXT.index("## What is guaranteed") : TEXT.index("## What remains")]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def guarantees() -> dict[int, str]:
    """Number -> the whole item."""
    items = re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |^### |\Z)", GUARANTEES, re.MULTILINE | re.DOTALL)
    return {int(number): text for number, text in items}


@cache
def functions_in(path: str) -> frozenset[str]:
    """The test functions of a file, whether or not they are parametrized or asynchronous."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def test_the_guarantees_are_numbered() -> None:
    assert list(guarantees()) == list(range(1, len(guarantees()) + 1))
    assert len(guarantees()) >= 30


@pytest.mark.parametrize("number", guarantees())
def test_every_guarantee_names_a_test(number: int) -> None:
    assert NAMED.search(guarantees()[number]), guarantees()[number]


@pytest.mark.parametrize("named", sorted(set(NAMED.findall(TEXT))), ids="::".join)
def test_every_named_test_exists(named: tuple[str, str]) -> None:
    path, name = named
    assert (ROOT / path).is_file()
    assert name in functions_in(path)


def test_nothing_that_looks_like_a_test_is_missed() -> None:
    """A name that is cut by a line, or written in another way, would not be looked for."""
    assert len(re.findall(r"\btest_\w+\b(?!\.py)", TEXT)) == len(NAMED.findall(TEXT))


# ---------------------------------------------------------------------- what the page says and no other test shows

POLICY: dict[str, Any] = {
    "name": "one tenant",
    "access_mode": "read_write",
    "row_filters": [{"table": "orders", "predicate": "tenant_id = 1"}],
}


@pytest.fixture
def conn(shop_admin: str) -> Iterator[guarddb.Connection[Any]]:
    with guarddb.connect(shop_admin, policy=POLICY) as conn:
        yield conn
        conn.rollback()


@pytest.fixture
def hidden(shop_admin: str) -> int:
    """The key of a row that the filter hides."""
    with psycopg.connect(shop_admin) as plain:
        row = plain.execute("SELECT id FROM orders WHERE tenant_id <> 1 ORDER BY id LIMIT 1").fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize(
    "options",
    [
        "",
        "(COSTS) ",
        "(COSTS true, FORMAT json) ",
        "(VERBOSE, COSTS on) ",
        "VERBOSE ",
        "(BUFFERS) ",
        "(MEMORY) ",
        "(BUFFERS on, MEMORY true, FORMAT json) ",
    ],
)
def test_explain_of_a_filtered_table_shows_no_estimates(conn: guarddb.Connection[Any], options: str) -> None:
    statement = "SELECT count(*) FROM orders AS o JOIN order_items AS i ON i.order_id = o.id"
    shown = json.dumps(conn.execute(f"EXPLAIN {options}{statement}").fetchall(), default=str)
    assert "Scan" in shown
    # (Planning reads and takes more where the statistics hold longer values.)
    for word in ("rows=", "cost=", "Plan Rows", "Total Cost", "Memory", "Buffers", "Shared Hit"):
        assert word not in shown
    with pytest.raises(guarddb.PolicyViolation):
        conn.execute(f"EXPLAIN (ANALYZE, COSTS off) {statement}")


WRITE = "INSERT INTO orders (id, tenant_id, customer_id, placed_at) VALUES (%s, 1, 8, now())"


def test_unique_keys_tell_that_a_hidden_row_exists(conn: guarddb.Connection[Any], hidden: int) -> None:
    assert conn.execute(f"{WRITE} ON CONFLICT DO NOTHING", (hidden,)).rowcount == 0
    assert conn.execute(f"{WRITE} ON CONFLICT DO NOTHING", (900_000,)).rowcount == 1
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        conn.execute(WRITE, (hidden,))
    assert caught.value.diag.message_detail is None


def test_foreign_keys_tell_that_a_hidden_row_exists(conn: guarddb.Connection[Any], hidden: int) -> None:
    item = "INSERT INTO order_items VALUES (%s, 90, 1, 1, 1)"
    assert conn.execute(item, (hidden,)).rowcount == 1
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        conn.execute(item, (900_000,))


def test_places_of_rows_tell_of_rows_between_them(conn: guarddb.Connection[Any]) -> None:
    places = conn.execute("SELECT ctid FROM orders WHERE id < 20 ORDER BY id").fetchall()
    assert places


def test_names_in_the_catalog_are_not_hidden(conn: guarddb.Connection[Any]) -> None:
    assert conn.execute("SELECT conname FROM pg_constraint WHERE conrelid = 'employees'::regclass").fetchall()
