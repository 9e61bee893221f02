"""The examples run as they are, on a real database, with the profile that comes with them."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import quote

import psycopg
import pytest

import guarddb

EXAMPLES = Path(__file__).parent.parent / "examples"


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
    parts = psycopg.conninfo.conninfo_to_dict(fresh_dsn)
    url = f"postgresql://{parts['user']}@/{parts['dbname']}?host={quote(str(parts['host']))}"
    monkeypatch.setenv("DATABASE_URL", url)
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute((EXAMPLES / "shop.sql").read_text().encode())
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


#: Each example, with its arguments, and the packages that it needs beyond those of the tests, what it is about first.
PROGRAMS: dict[str, tuple[list[str], list[str]]] = {
    "agent_tool": (["SELECT 1 AS one"], []),
    "async_agent": ([], []),
    "pool": ([], []),
    "function_tools": ([], []),
    "traces": ([], []),
    "guarded_mcp_tools": ([], []),
    "mcp_client": ([], []),
    "sqlalchemy_engine": ([], []),
    "django_app": ([], []),
    "decision_log": ([], []),
    "shared_budgets": ([], []),
    "langchain_agent": ([], ["langchain_community"]),
    "llamaindex_tables": ([], ["llama_index.core"]),
    "pydantic_ai_agent": ([], ["pydantic_ai"]),
    "data_frames": ([], ["pandas", "polars", "duckdb"]),
    "jupyter_sql": ([], ["sql", "IPython"]),
}
#: What each must have said; where it is about a refusal, that there was one.
SAYS = {
    "function_tools": "refused: masked_column_expression",
    "sqlalchemy_engine": "refused: ",
    "django_app": "refused: ",
    "mcp_client": "'status': 'refused'",
    "decision_log": "the chain is whole",
    "shared_budgets": "worker 2: used up",
    "langchain_agent": "There are 4 customers.",
    "llamaindex_tables": "[(10,)]",
    "pydantic_ai_agent": "There are 4 customers.",
    "data_frames": "duckdb: [(4, '[redacted]')]",
    "jupyter_sql": "blocked by policy",
}


def is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # what it is a part of
        return False


def test_every_example_is_run_and_described() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PROGRAMS)
    described = (EXAMPLES / "README.md").read_text()
    assert [name for name in PROGRAMS if f"`{name}.py`" not in described] == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_example_runs_as_a_program(sales: str, name: str) -> None:
    arguments, packages = PROGRAMS[name]
    # Where what it is about is there, so must be the rest: the extra installs both.
    if packages and not is_installed(packages[0]):
        pytest.skip(f"needs {packages[0]}: pip install -e '.[examples]'")
    # (What other people's packages warn of is not the examples' business.)
    quiet = ["-W", "ignore"] if packages else []
    command = [sys.executable, *quiet, str(EXAMPLES / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    # (The server that mcp_client starts logs what it refuses.)
    assert (done.returncode, done.stderr if name != "mcp_client" else "") == (0, "")
    assert SAYS.get(name, "") in done.stdout
    assert done.stdout
