"""A pool of guarded connections: psycopg_pool takes the connection class and the arguments of its connect.

SALES_HASH_KEY=… DATABASE_URL=postgresql://agent@localhost/shop python examples/pool.py
"""

from __future__ import annotations

import os
from pathlib import Path

from psycopg_pool import ConnectionPool

import guarddb

PROFILE = guarddb.load_policy(Path(__file__).parent / "profiles" / "sales.yaml")


def guarded_pool(dsn: str, tenant: int) -> ConnectionPool[guarddb.Connection]:
    return ConnectionPool(
        dsn,
        connection_class=guarddb.Connection,
        kwargs={"policy": PROFILE, "settings": {"app.tenant": str(tenant)}, "agent": "pool"},
        min_size=1,
        max_size=4,
        open=False,
    )


def main() -> None:
    with guarded_pool(os.environ["DATABASE_URL"], tenant=1) as pool, pool.connection() as conn:
        print(conn.execute("SELECT count(*) FROM orders").fetchone())


if __name__ == "__main__":
    main()
