"""A tool for a language model: it runs SQL, and answers a refusal with what the model needs to correct it.

SALES_HASH_KEY=… DATABASE_URL=postgresql://agent@localhost/shop python examples/agent_tool.py ["SELECT 1"]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

import guarddb

PROFILE = Path(__file__).parent / "profiles" / "sales.yaml"

TOOL = {
    "name": "query_sales",
    "description": "Run one read-only PostgreSQL statement on the sales database.",
    "input_schema": {"type": "object", "properties": {"sql": {"type": "string"}}, "required": ["sql"]},
}


def query_sales(conn: guarddb.Connection[Any], sql: str) -> dict[str, Any]:
    """What the model gets back: rows, or why there are none and what to try instead."""
    with conn.cursor(row_factory=dict_row) as cur:
        try:
            cur.execute(sql.encode())
            rows = cur.fetchall() if cur.description is not None else []
        except guarddb.PolicyViolation as ex:
            reason = ex.decision.reason if ex.decision is not None else str(ex)
            return {"error": reason, "rule": ex.rule, "hint": ex.hint}
        except guarddb.BudgetExceeded as ex:
            return {"error": "the query budget is used up", "try_again_at": ex.resets_at.isoformat()}
        except psycopg.Error as ex:
            return {"error": ex.diag.message_primary or str(ex)}
        answer: dict[str, Any] = {"rows": rows}
        if cur.truncated:
            answer["note"] = f"only the first {len(rows)} rows; aggregate, or add a WHERE"
        return answer


def main() -> None:
    with guarddb.connect(
        os.environ["DATABASE_URL"],
        policy=PROFILE,
        agent="sales-assistant",
        settings={"app.tenant": os.environ.get("TENANT", "1")},
        autocommit=True,
    ) as conn:
        sql = sys.argv[1] if len(sys.argv) > 1 else "SELECT phone FROM customers WHERE phone LIKE '1%'"
        print(json.dumps(query_sales(conn, sql), indent=2, default=str))


if __name__ == "__main__":
    main()
