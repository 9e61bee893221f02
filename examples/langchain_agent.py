"""LangChain's SQL agent on a guarded SQLAlchemy engine. The model here is a script, so that it runs anywhere.

pip install 'guarddb[sqlalchemy]' langchain-community
SALES_HASH_KEY=… DATABASE_URL=postgresql://agent@localhost/shop python examples/langchain_agent.py
"""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa
from langchain_community.agent_toolkits import create_sql_agent
from langchain_community.utilities import SQLDatabase
from langchain_core.language_models import FakeListChatModel

POLICY = Path(__file__).parent / "profiles" / "sales.yaml"

#: What a model would answer: it asks for something that is refused, reads why, and asks for something else.
SCRIPT = [
    "Thought: I look at the tables.\nAction: sql_db_list_tables\nAction Input: ",
    "Thought: I count.\nAction: sql_db_query\nAction Input: SELECT count(*) FROM customers WHERE email LIKE 'c%'",
    "Thought: It is masked; I count all.\nAction: sql_db_query\nAction Input: SELECT count(*) FROM customers",
    "Thought: I know it.\nFinal Answer: There are 4 customers.",
]


def main() -> None:
    engine = sa.create_engine(
        os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"),
        plugins=["guarddb"],
        guarddb_policy=POLICY,
        guarddb_agent="langchain",
        guarddb_settings={"app.tenant": "1"},
    )
    agent = create_sql_agent(
        FakeListChatModel(responses=SCRIPT),
        db=SQLDatabase(engine),
        agent_executor_kwargs={"return_intermediate_steps": True},
    )
    answer = agent.invoke({"input": "How many customers are there?"})
    for action, observation in answer["intermediate_steps"]:
        print(f"{action.tool}({action.tool_input.strip()})\n  {str(observation).splitlines()[0]}")
    print(answer["output"])
    engine.dispose()


if __name__ == "__main__":
    main()
