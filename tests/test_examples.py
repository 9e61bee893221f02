"""The examples run as they are, on a real database, with the profile that comes with them."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psycopg
import pytest

import guarddb

EXAMPLES = Path(__file__).parent.parent / "examples"

TABLES = """
CREATE TABLE customers (id int PRIMARY KEY, tenant_id int NOT NULL, email text, phone text);
CREATE TABLE orders (id int PRIMARY KEY, tenant_id int NOT NULL, total numeric);
CREATE TABLE order_items (order_id int, product_id int);
CREATE TABLE products (id int PRIMARY KEY, name text);
INSERT INTO customers SELECT n, n % 2, 'c' || n || '@example.org', '555-' || n FROM generate_series(1, 8) n;
INSERT INTO orders SELECT n, n % 2, n FROM generate_series(1, 20) n;
INSERT INTO products SELECT n, 'product ' || n FROM generate_series(1, 900) n;
"""


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sales(fresh_dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database as the profile of the examples expects it."""
    monkeypatch.setenv("SALES_HASH_KEY", "a key that nobody guesses")
    monkeypatch.setenv("DATABASE_URL", fresh_dsn)
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute(TABLES)
    return fresh_dsn


def test_the_agents_tool_answers_with_rows_reasons_and_hints(sales: str) -> None:
    tool = load("agent_tool")
    with guarddb.connect(sales, policy=tool.PROFILE, settings={"app.tenant": "1"}, autocommit=True) as conn:
        assert tool.query_sales(conn, "SELECT count(*) AS n FROM orders") == {"rows": [{"n": 10}]}
        refused = tool.query_sales(conn, "SELECT * FROM customers WHERE email LIKE 'c%'")
        assert refused["rule"] == "masked_column_predicate"
        assert refused["hint"]
        cut = tool.query_sales(conn, "SELECT * FROM products")
        assert (len(cut["rows"]), "note" in cut) == (500, True)
        assert "division" in tool.query_sales(conn, "SELECT 1/0")["error"]


def test_sqlalchemy_gets_guarded_connections(sales: str) -> None:
    sa = pytest.importorskip("sqlalchemy")
    engine = load("sqlalchemy_engine").guarded_engine(sales, tenant=1)
    try:
        with engine.connect() as conn:
            assert conn.execute(sa.text("SELECT count(*) FROM orders")).scalar() == 10
            with pytest.raises(sa.exc.ProgrammingError) as caught:
                conn.execute(sa.text("DELETE FROM orders"))
            assert isinstance(caught.value.orig, guarddb.PolicyViolation)
    finally:
        engine.dispose()


def test_a_pool_hands_out_guarded_connections(sales: str) -> None:
    pytest.importorskip("psycopg_pool")
    with load("pool").guarded_pool(sales, tenant=0) as pool:
        for _ in range(3):
            with pool.connection() as conn:
                assert isinstance(conn, guarddb.Connection)
                assert conn.execute("SELECT count(*) FROM orders").fetchone() == (10,)


def test_async_questions_are_answered_each_for_itself(sales: str) -> None:
    example = load("async_agent")
    rows, hashed, refused = (asyncio.run(example.ask(sales, sql)) for sql in example.QUESTIONS)
    assert rows == "[(10,)]"
    assert "@example.org" not in hashed
    assert refused.startswith("refused by masked_column_predicate: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("agent_tool.py", "SELECT 1 AS one"),
        ("async_agent.py",),
        ("pool.py",),
        ("function_tools.py",),
        ("traces.py",),
        ("guarded_mcp_tools.py",),
    ],
)
def test_each_example_runs_as_a_program(sales: str, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, str(EXAMPLES / arguments[0]), *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
