"""Several questions at once, each on its own guarded connection.

SALES_HASH_KEY=… DATABASE_URL=postgresql://agent@localhost/shop python examples/async_agent.py
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import guarddb

PROFILE = guarddb.load_policy(Path(__file__).parent / "profiles" / "sales.yaml")

QUESTIONS = (
    "SELECT count(*) FROM orders",
    "SELECT id, email FROM customers ORDER BY id LIMIT 2",
    "SELECT email FROM customers WHERE email LIKE '%@example.org'",
)


async def ask(dsn: str, sql: str) -> str:
    """One line: the rows, or the rule that refused and its hint."""
    async with await guarddb.AsyncConnection.connect(
        dsn, policy=PROFILE, settings={"app.tenant": "1"}, autocommit=True
    ) as conn:
        try:
            cur = await conn.execute(sql.encode())
            return f"{await cur.fetchall()}"
        except guarddb.PolicyViolation as ex:
            return f"refused by {ex.rule}: {ex.hint}"


async def main() -> None:
    dsn = os.environ["DATABASE_URL"]
    for sql, answer in zip(
        QUESTIONS, await asyncio.gather(*(ask(dsn, sql) for sql in QUESTIONS)), strict=True
    ):
        print(f"{sql}\n  {answer}")


if __name__ == "__main__":
    asyncio.run(main())
