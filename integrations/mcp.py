"""An MCP server whose tools are a database under a policy: `guarddb mcp --policy P DSN`.

    from guarddb.integrations.mcp import server
    server("postgresql://agent@localhost/shop", policy="sales.yaml").run("stdio")

The tools are those of `AgentTools`. A refusal is an error result with rule, reason, hint and, where one is known, a
statement that passes; the server goes on whatever it is called with.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from guarddb.integrations.agent_tools import MAX_ROWS, AgentTools, Answer

try:
    from anyio import to_thread
    from mcp.server.mcpserver import MCPServer
    from mcp.types import CallToolResult, TextContent, ToolAnnotations
    from pydantic import Field
except ImportError as ex:
    raise ImportError("guarddb.integrations.mcp needs the MCP SDK: pip install 'guarddb[mcp]'") from ex

if TYPE_CHECKING:
    from collections.abc import Callable

INSTRUCTIONS = (
    "A PostgreSQL database behind a policy. Call list_tables and describe_table before you write SQL. Some columns are masked "
    "and some rows are hidden; a masked column may be selected and nothing else. When a statement is refused, read rule, "
    "reason and hint, or call propose_fix. Results are cut where truncated is true."
)

Sql = Annotated[str, Field(description="One PostgreSQL statement.", max_length=100_000)]


def server(conninfo: str, policy: Any, *, name: str = "guarddb", **arguments: Any) -> MCPServer[Any]:
    """An MCP server over one guarded connection.

    Args:
        conninfo: the database, as libpq writes it.
        policy: as `guarddb.connect()` takes it.
        arguments: of `AgentTools`: `max_rows=`, and those of `guarddb.connect()`.
    """
    tools = AgentTools(conninfo, policy, **{"agent": "mcp", **arguments})
    mcp: MCPServer[Any] = MCPServer(name, instructions=INSTRUCTIONS)
    reading = ToolAnnotations(read_only_hint=True, open_world_hint=False)

    async def answer(call: Callable[[], Answer]) -> CallToolResult:
        return _result(await to_thread.run_sync(call))

    @mcp.tool()
    async def query(
        sql: Sql,
        max_rows: Annotated[
            int, Field(description="Rows to return at the most.", ge=1, le=MAX_ROWS)
        ] = MAX_ROWS,
    ) -> CallToolResult:
        """Run one SQL statement under the policy. Returns columns, rows, truncated, masked_columns and the budget left."""
        return await answer(lambda: tools.query(sql, max_rows))

    @mcp.tool(annotations=reading)
    async def validate_sql(sql: Sql) -> CallToolResult:
        """Say what the policy would do with a statement, without running it: verdict, rule, reason, hint, rewritten_sql."""
        return await answer(lambda: tools.validate_sql(sql))

    @mcp.tool(annotations=reading)
    async def propose_fix(sql: Sql) -> CallToolResult:
        """For a refused statement: a form of it that passes, where one is known."""
        return await answer(lambda: tools.propose_fix(sql))

    @mcp.tool(annotations=reading)
    async def list_tables() -> CallToolResult:
        """List the tables and views that may be read, with their masked columns and row filters."""
        return await answer(tools.list_tables)

    @mcp.tool(annotations=reading)
    async def describe_table(
        table: Annotated[str, Field(description="Name, or schema.name.", max_length=256)],
    ) -> CallToolResult:
        """Describe a table: columns with type, nullability and mask."""
        return await answer(lambda: tools.describe_table(table))

    @mcp.tool(annotations=reading)
    async def explain(sql: Sql) -> CallToolResult:
        """Show the plan PostgreSQL makes for a statement, without running it."""
        return await answer(lambda: tools.explain(sql))

    @mcp.tool(annotations=reading)
    async def my_permissions() -> CallToolResult:
        """Say what this agent may do, its limits, and what is left of its budgets."""
        return await answer(tools.my_permissions)

    return mcp


def _result(answer: Answer) -> CallToolResult:
    text = json.dumps(answer, ensure_ascii=False, default=str)
    return CallToolResult(
        content=[TextContent(type="text", text=text)],
        structured_content=json.loads(text),
        is_error=answer["status"] != "ok",
    )
