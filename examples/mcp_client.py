"""An MCP client that starts `guarddb mcp` and asks it, as an agent's host would. The model here is a script.

pip install 'guarddb[mcp]'
SALES_HASH_KEY=… DATABASE_URL=postgresql://agent@localhost/shop python examples/mcp_client.py
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters

POLICY = Path(__file__).parent / "profiles" / "sales.yaml"


async def main() -> None:
    command = [
        "-m",
        "guarddb.cli",
        "mcp",
        "--policy",
        str(POLICY),
        "--set",
        "app.tenant=1",
        os.environ["DATABASE_URL"],
    ]
    # (In a host's configuration: "command": "guarddb", "args": ["mcp", …].)
    server = StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))
    async with Client(server) as client:

        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            answer = (await client.call_tool(tool, arguments)).structured_content
            print(tool, arguments, "->", answer)
            return answer or {}

        await call("list_tables")
        refused = await call("query", sql="SELECT count(email) FROM customers")
        await call("query", sql=refused["try_sql"])


if __name__ == "__main__":
    asyncio.run(main())
