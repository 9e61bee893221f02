"""The MCP server, asked by the SDK's own client over both transports, and called with anything."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from guarddb.integrations.agent_tools import AgentTools
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError

from tests.fix_server import reserved_port, temporary_database

SCHEMA = """
    CREATE SCHEMA app;
    CREATE TABLE app.people (id int PRIMARY KEY, name text NOT NULL, email text, org int, born date, paid numeric);
    CREATE TABLE app.secret (id int);
    INSERT INTO app.people SELECT i, 'n' || i, 'e' || i || '@example.org', i % 2, '2000-01-01', 1.5 FROM generate_series(1, 10) i;
"""
POLICY = {
    "name": "tools",
    "table_allowlist": ["app.*"],
    "table_denylist": ["app.secret"],
    "masking_rules": [{"table": "app.people", "column": "email", "kind": "redact"}],
    "row_filters": [{"table": "app.people", "predicate": "org = current_setting('app.org')::int"}],
    "max_rows": 3,
    "budget_queries_per_hour": 100_000,
}


@pytest.fixture(scope="module")
def database(server_dsn: str) -> Iterator[str]:
    with temporary_database(server_dsn, "mcp") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SCHEMA)
        yield dsn


@pytest.fixture(scope="module")
def command(database: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    policy = tmp_path_factory.mktemp("mcp") / "policy.json"
    policy.write_text(json.dumps(POLICY))
    return ["-m", "guarddb.cli", "mcp", "--policy", str(policy), "--set", "app.org=1", database]


@asynccontextmanager
async def over_stdio(command: list[str]) -> AsyncIterator[Client]:
    async with Client(
        StdioServerParameters(command=sys.executable, args=command), read_timeout_seconds=60
    ) as client:
        yield client


@asynccontextmanager
async def over_http(command: list[str]) -> AsyncIterator[Client]:
    with reserved_port() as port:
        async with _over_http(command, port) as client:
            yield client


@asynccontextmanager
async def _over_http(command: list[str], port: int) -> AsyncIterator[Client]:
    process = subprocess.Popen(
        [sys.executable, *command, "--transport", "http", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        async with Client(f"http://127.0.0.1:{port}/mcp", read_timeout_seconds=60) as client:
            yield client
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait()


TRANSPORTS = {"stdio": over_stdio, "http": over_http}


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    answer: dict[str, Any] = result.structured_content or {}
    assert result.is_error == (answer["status"] != "ok")
    assert json.loads(result.content[0].text) == answer  # type: ignore[union-attr]
    return answer


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_tools(transport: str, command: list[str]) -> None:
    async with TRANSPORTS[transport](command) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == {
            "query",
            "validate_sql",
            "list_tables",
            "describe_table",
            "explain",
            "my_permissions",
            "propose_fix",
        }
        got = await call(client, "query", sql="SELECT id, email, born, paid FROM app.people ORDER BY id")
        assert got["columns"] == ["id", "email", "born", "paid"]
        assert got["rows"] == [[i, "[redacted]", "2000-01-01", "1.5"] for i in (1, 3, 5)]
        assert (got["truncated"], got["masked_columns"]) == (True, ["email"])
        assert got["budget"]

        refused = await call(client, "query", sql="SELECT id FROM app.people WHERE email LIKE 'e1%'")
        assert (refused["status"], refused["rule"]) == ("refused", "masked_column_predicate")
        assert refused["reason"]
        assert refused["hint"]
        fix = await call(client, "propose_fix", sql="SELECT count(email) FROM app.people")
        assert (await call(client, "query", sql=fix["proposal"]))["rows"] == [[5]]

        tables = (await call(client, "list_tables"))["tables"]
        assert [each["table"] for each in tables] == ["app.people"]
        assert tables[0]["masked_columns"] == ["email"]
        described = await call(client, "describe_table", table="app.people")
        assert {c["name"]: c["mask"] for c in described["columns"]}["email"] == "redact"
        for hidden in ("app.secret", "app.nothing"):
            answer = await call(client, "describe_table", table=hidden)
            assert answer["reason"] == f"there is no table {hidden} for you"
        assert (await call(client, "validate_sql", sql="DROP TABLE app.people"))["rule"] == "destructive_ddl"
        assert (await call(client, "explain", sql="SELECT id FROM app.people"))["plan"]
        assert (await call(client, "my_permissions"))["access_mode"] == "read_only"


def test_explain_runs_nothing(database: str) -> None:
    policy = {"name": "writer", "access_mode": "read_write"}
    tools = AgentTools(database, policy)
    try:
        for sql in (
            "SELECT 1; UPDATE app.people SET name = 'changed' WHERE id = 1",
            "UPDATE app.people SET name = 'changed' WHERE id = 1; SELECT 1",
            "UPDATE app.people SET name = 'changed' WHERE id = 1",
            "ANALYZE UPDATE app.people SET name = 'changed' WHERE id = 1",
            "(ANALYZE) UPDATE app.people SET name = 'changed' WHERE id = 1",
            "SELECT 1 \\; UPDATE app.people SET name = 'changed' WHERE id = 1",
        ):
            tools.explain(sql)
        assert tools.query("SELECT name FROM app.people WHERE id = 1")["rows"] == [["n1"]]
        assert tools.explain("SELECT id FROM app.people")["plan"]
    finally:
        tools.close()


async def test_one_calls_transaction_is_not_the_next_ones(command: list[str]) -> None:
    async with over_stdio(command) as client:
        await call(client, "query", sql="BEGIN")
        error = await call(client, "query", sql="SELECT 1/0")
        assert (error["status"], error["sqlstate"]) == ("error", "22012")
        assert (await call(client, "query", sql="SELECT 1"))["rows"] == [[1]]


async def test_no_malformed_call_ends_the_server(command: list[str], database: str) -> None:
    """200 of them: wrong types, wrong names, texts that are no SQL, a connection that is cut."""
    random = Random(7)
    values: list[Any] = [
        None,
        0,
        -1,
        1e308,
        "",
        " ",
        "\0",
        "\ud800".encode("utf-8", "replace").decode(),
        "SELECT",
        "'",
        '"',
        "--",
        "SELECT 1;" * 500,
        "(" * 5000,
        "x" * 99_999,
        [],
        {},
        ["a"],
        {"a": 1},
        True,
        "SELECT $1",
        "\\d",
        "COPY app.people TO STDOUT",
        "COPY app.people FROM STDIN",
        "FETCH ALL FROM nothing",
        "EXECUTE nothing",
        "SELECT pg_sleep(60)",
        "SET role x",
    ]
    tools = [
        "query",
        "validate_sql",
        "propose_fix",
        "explain",
        "describe_table",
        "list_tables",
        "no_such_tool",
        "",
    ]
    async with over_stdio(command) as client:
        for number in range(200):
            arguments: dict[str, Any] = {
                random.choice(["sql", "table", "max_rows", "other"]): random.choice(values)
                for _ in range(random.randint(0, 3))
            }
            if number == 100:
                with psycopg.connect(database, autocommit=True) as admin:
                    admin.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
            try:
                result = await client.call_tool(random.choice(tools), arguments)
            except MCPError:
                continue  # the protocol's own way to say no
            shown = "".join(getattr(each, "text", "") for each in result.content)
            assert "Traceback" not in shown
            assert "@example.org" not in shown
        assert (await call(client, "query", sql="SELECT 1"))["rows"] == [[1]]


def test_copy_leaves_the_tools_usable(database: str) -> None:
    tools = AgentTools(database, {"name": "copying", "access_mode": "read_write"})
    for sql in ("COPY app.people TO STDOUT", "COPY app.people FROM STDIN"):
        answer = tools.query(sql)
        assert answer["status"] == "error"
        assert "copy()" in answer["reason"]
        assert tools.query("SELECT 1")["rows"] == [[1]]
    tools.close()


#: What Python has no value for, or another one: as PostgreSQL prints it.
VALUES = {
    "'infinity'::date": "infinity",
    "'-infinity'::timestamptz": "-infinity",
    "'0044-03-15 BC'::date": "0044-03-15 BC",
    "'24:00'::time": "24:00:00",
    "interval '1 mon 2 days'": "1 mon 2 days",
    "interval '1000000 years'": "1000000 years",
    "date '2024-01-02'": "2024-01-02",
    "timestamptz '2024-01-02 03:04:05Z'": "2024-01-02T03:04:05+00:00",
    "ARRAY['infinity'::timestamp, '2024-01-02']": ["infinity", "2024-01-02T00:00:00"],
}


@pytest.mark.parametrize("value", VALUES)
def test_values_that_python_has_not_come_as_texts(database: str, value: str) -> None:
    tools = AgentTools(database, POLICY, settings={"app.org": "1"})
    answer = tools.query(f"SELECT {value}")
    assert answer["status"] == "ok", answer
    assert answer["rows"] == [[VALUES[value]]]
    tools.close()


def test_the_server_says_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "guarddb.cli",
            "mcp",
            "--policy",
            str(tmp_path / "none.yaml"),
            "dbname=nothing",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "none.yaml" in done.stderr
    assert "Traceback" not in done.stderr
