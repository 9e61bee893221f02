"""LlamaIndex asks a guarded SQLAlchemy engine in natural language. The model here is a script, so that it runs anywhere.

pip install 'guarddb[sqlalchemy]' llama-index-core
SALES_HASH_KEY=… DATABASE_URL=postgresql://agent@localhost/shop python examples/llamaindex_tables.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from llama_index.core import SQLDatabase
from llama_index.core.base.llms.types import CompletionResponse, LLMMetadata
from llama_index.core.llms import CustomLLM
from llama_index.core.query_engine import NLSQLTableQueryEngine

POLICY = Path(__file__).parent / "profiles" / "sales.yaml"

#: What a model would answer, by what it is asked.
SCRIPT = {
    "How many orders": "SELECT count(*) FROM orders",
    "Whose address": "SELECT id FROM customers WHERE email = 'c1@example.org'",
}


class ScriptedModel(CustomLLM):
    """Stands in for a model."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata()

    def complete(self, prompt: str, formatted: bool = False, **arguments: Any) -> CompletionResponse:
        return CompletionResponse(text=next(sql for words, sql in SCRIPT.items() if words in prompt))

    def stream_complete(self, prompt: str, formatted: bool = False, **arguments: Any) -> Any:
        yield self.complete(prompt)


def main() -> None:
    engine = sa.create_engine(
        os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"),
        plugins=["guarddb"],
        guarddb_policy=POLICY,
        guarddb_agent="llamaindex",
        guarddb_settings={"app.tenant": "1"},
    )
    tables = ["customers", "orders"]
    asking = NLSQLTableQueryEngine(
        SQLDatabase(engine, include_tables=tables),
        tables=tables,
        llm=ScriptedModel(),
        embed_model="mock",
        synthesize_response=False,
    )
    for question in ("How many orders are there?", "Whose address is c1@example.org?"):
        answer = asking.query(question)
        print(f"{question}\n  {answer.metadata['sql_query']}\n  {str(answer).splitlines()[0]}")
    engine.dispose()


if __name__ == "__main__":
    main()
