"""pandas, polars and DuckDB over guarded connections.

`pandas.read_sql` and `polars.read_database` take what guarddb opens. What opens its own connection goes around guarddb: polars'
`read_database_uri`, and DuckDB's postgres scanner. Fetch through guarddb and give DuckDB the frame, as here, or give the scanner
a role of the wall (docs/wall.md).

pip install 'guarddb[sqlalchemy]' pandas polars duckdb
SALES_HASH_KEY=… DATABASE_URL=postgresql://agent@localhost/shop python examples/data_frames.py
"""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import sqlalchemy as sa

import guarddb

POLICY = Path(__file__).parent / "profiles" / "sales.yaml"
SETTINGS = {"app.tenant": "1"}
CUSTOMERS = "SELECT id, email, phone FROM customers ORDER BY id"


def main() -> None:
    url = os.environ["DATABASE_URL"]
    engine = sa.create_engine(
        url.replace("postgresql://", "postgresql+psycopg://"),
        plugins=["guarddb"],
        guarddb_policy=POLICY,
        guarddb_settings=SETTINGS,
    )
    frame = pd.read_sql(CUSTOMERS, engine)
    print("pandas:", frame["phone"].unique(), len(frame))
    with guarddb.connect(url, policy=POLICY, settings=SETTINGS) as conn:
        print("polars:", pl.read_database(CUSTOMERS, conn)["phone"].unique().to_list())
    print("duckdb:", duckdb.sql("SELECT count(*), any_value(phone) FROM frame").fetchall())
    engine.dispose()


if __name__ == "__main__":
    main()
