"""A guarded SQLAlchemy engine: `creator` opens the connections, so that each carries the policy.

SALES_HASH_KEY=… DATABASE_URL=postgresql://agent@localhost/shop python examples/sqlalchemy_engine.py
"""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa

import guarddb

PROFILE = guarddb.load_policy(Path(__file__).parent / "profiles" / "sales.yaml")


def guarded_engine(dsn: str, tenant: int) -> sa.Engine:
    """An engine whose every connection is guarded, the pool's pings and the dialect's first look included."""

    def connect() -> guarddb.Connection:
        return guarddb.connect(dsn, policy=PROFILE, settings={"app.tenant": str(tenant)})

    return sa.create_engine("postgresql+psycopg://", creator=connect)


def main() -> None:
    engine = guarded_engine(os.environ["DATABASE_URL"], tenant=1)
    try:
        with engine.connect() as conn:
            for row in conn.execute(sa.text("SELECT id, email FROM customers ORDER BY id LIMIT 3")):
                print(row)
            try:
                conn.execute(sa.text("DELETE FROM orders"))
            except sa.exc.ProgrammingError as ex:
                # SQLAlchemy wraps by class: PolicyViolation is an InsufficientPrivilege, a ProgrammingError.
                refusal = ex.orig
                assert isinstance(refusal, guarddb.PolicyViolation)
                print("refused:", refusal.rule, "-", refusal.hint)
    finally:
        engine.dispose()


if __name__ == "__main__":
    main()
