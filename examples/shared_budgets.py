"""One budget for all processes of an application, in Redis or in a table of PostgreSQL's.

BUDGETS=redis://localhost:6379/0 (or postgresql://budgets@localhost/guard)
SALES_HASH_KEY=… DATABASE_URL=postgresql://agent@localhost/shop python examples/shared_budgets.py
"""

from __future__ import annotations

import os

import guarddb

POLICY = {"name": "trial", "budget_queries_per_day": 5, "egress_bytes_per_day": 1_000_000}


def main() -> None:
    store = os.environ.get("BUDGETS") or os.environ["DATABASE_URL"]
    for worker in range(3):  # each of them stands for a process
        with guarddb.connect(os.environ["DATABASE_URL"], policy=POLICY, agent="trial", budgets=store) as conn:
            try:
                for _ in range(2):
                    conn.execute("SELECT 1").fetchall()
                assert conn.budget is not None
                print(f"worker {worker}:", conn.budget.queries_today, "statements left today")
            except guarddb.BudgetExceeded as ex:
                print(f"worker {worker}: used up, there is room again at {ex.resets_at:%Y-%m-%d %H:%M} UTC")


if __name__ == "__main__":
    main()
