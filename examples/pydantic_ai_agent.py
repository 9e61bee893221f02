"""A pydantic-ai agent whose tools are a database under a policy. The model here is a script, so that it runs anywhere.

pip install guarddb pydantic-ai-slim
SALES_HASH_KEY=… DATABASE_URL=postgresql://agent@localhost/shop python examples/pydantic_ai_agent.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from guarddb.integrations.agent_tools import AgentTools
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

POLICY = Path(__file__).parent / "profiles" / "sales.yaml"


def scripted(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Stands in for a model: it asks for something that is refused, reads the answer, and does as it says."""
    answers = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
    if not answers:
        return ModelResponse([ToolCallPart("query", {"sql": "SELECT count(email) FROM customers"})])
    answer: dict[str, Any] = answers[0].model_response_object()
    if answer["status"] == "refused":
        print("refused:", answer["rule"], "-", answer["hint"])
        return ModelResponse([ToolCallPart("query", {"sql": answer["try_sql"]})])
    return ModelResponse([TextPart(f"There are {answer['rows'][0][0]} customers.")])


def main() -> None:
    tools = AgentTools(os.environ["DATABASE_URL"], POLICY, agent="pydantic-ai", settings={"app.tenant": "1"})
    agent = Agent(
        FunctionModel(scripted),
        tools=[tools.list_tables, tools.describe_table, tools.query, tools.propose_fix],
    )
    print(agent.run_sync("How many customers are there?").output)
    tools.close()


if __name__ == "__main__":
    main()
