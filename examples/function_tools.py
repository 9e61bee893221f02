"""An agent with OpenAI-style function tools over a guarded database. The model here is a script, so that it runs anywhere.

SALES_HASH_KEY=… DATABASE_URL=postgresql://agent@localhost/shop python examples/function_tools.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guarddb.integrations.agent_tools import AgentTools

POLICY = Path(__file__).parent / "profiles" / "sales.yaml"

#: What a chat API is given as `tools=`.
DEFINITIONS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "query",
            "description": "Run one PostgreSQL statement.",
            "parameters": {"type": "object", "properties": {"sql": {"type": "string"}}, "required": ["sql"]},
        },
    }
]


def scripted_model() -> Iterator[dict[str, Any]]:
    """Stands in for a chat API: asks for something that is refused, reads the answer, and does as it says."""
    refused = yield {"name": "query", "arguments": json.dumps({"sql": "SELECT count(email) FROM customers"})}
    answer = json.loads(refused["content"])
    print("refused:", answer["rule"], "-", answer["hint"])
    yield {"name": "query", "arguments": json.dumps({"sql": answer["try_sql"]})}


def main() -> None:
    tools = AgentTools(
        os.environ["DATABASE_URL"], POLICY, agent="function tools", settings={"app.tenant": "1"}
    )
    model = scripted_model()
    call = next(model)
    try:
        while True:
            result = getattr(tools, call["name"])(**json.loads(call["arguments"]))
            print(call["arguments"], "->", result["status"], result.get("rows", ""))
            call = model.send({"role": "tool", "content": json.dumps(result)})
    except StopIteration:
        pass
    finally:
        tools.close()


if __name__ == "__main__":
    main()
