"""An MCP server whose own tools are judged by an action policy. The client here is a script, so that it runs anywhere.

The same policy judges the statements of a guarded connection: see docs/action-policy.md.

python examples/guarded_mcp_tools.py
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec

from mcp import Client
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

import guarddb
from guarddb.risk import History, guard_tool

POLICY = guarddb.risk.ActionPolicy(
    allowed_tools=["read_object", "delete_objects"],
    blocked_action_patterns=["mcp:s3:*.purge"],
    custom_rules={
        "mass_delete": {
            "condition": "matches('*:*:delete') AND count(keys) > 10",
            "score_impact": 60,
            "description": "more than ten objects at once",
        }
    },
)
#: An agent that is refused again and again is trusted less and less.
HISTORY = History({"refusal_rate": 85})

server = MCPServer("storage", log_level="ERROR")
P = ParamSpec("P")


def guarded(action: str) -> Callable[[Callable[P, Awaitable[str]]], Callable[P, Awaitable[str]]]:
    """A tool judged by the action policy; what refuses it is the tool's answer, so that the model can read the reason."""

    def decorate(function: Callable[P, Awaitable[str]]) -> Callable[P, Awaitable[str]]:
        judged = guard_tool(action, policy=POLICY, agent="assistant", history=HISTORY)(function)

        @functools.wraps(function)
        async def tool(*args: P.args, **kwargs: P.kwargs) -> str:
            try:
                return await judged(*args, **kwargs)
            except guarddb.PolicyViolation as ex:
                raise ToolError(str(ex)) from None

        return tool

    return decorate


@server.tool()
@guarded("mcp:s3:object.read")
async def read_object(key: str) -> str:
    """Read an object."""
    return f"the content of {key}"


@server.tool()
@guarded("mcp:s3:object.delete")
async def delete_objects(keys: list[str]) -> str:
    """Delete objects."""
    return f"deleted {len(keys)}"


async def main() -> None:
    async with Client(server) as client:

        async def call(tool: str, **arguments: object) -> None:
            result = await client.call_tool(tool, arguments)
            said = " ".join(getattr(block, "text", "") for block in result.content)
            print("refused:" if result.is_error else "done:", said)

        for number in range(6):
            await call("read_object", key=f"report-{number}")
        await call("delete_objects", keys=["draft"])
        many = [f"invoice-{number}" for number in range(50)]
        for _ in range(4):
            await call("delete_objects", keys=many)
        # What it did before makes even a harmless call too risky now.
        await call("read_object", key="report-1")


if __name__ == "__main__":
    asyncio.run(main())
