"""A decision log in a file, chained so that nobody changes it unseen, and its verification.

SALES_HASH_KEY=… DATABASE_URL=postgresql://agent@localhost/shop python examples/decision_log.py
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import guarddb
from guarddb.cli import main as command

POLICY = Path(__file__).parent / "profiles" / "sales.yaml"


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "decisions.jsonl"
        log = guarddb.JsonlSink(path, max_bytes=100_000_000, keep=30)
        with guarddb.connect(
            os.environ["DATABASE_URL"],
            policy=POLICY,
            settings={"app.tenant": "1"},
            agent="reporter",
            on_decision=log,
        ) as conn:
            conn.execute("SELECT id, email FROM customers WHERE id = 7")
            try:
                conn.execute("DELETE FROM orders WHERE id = 1")
            except guarddb.PolicyViolation as ex:
                print("refused:", ex.rule)
        log.close()
        for line in path.read_text().splitlines():
            record = json.loads(line)
            print(record["seq"], record["outcome"], record["text"])
        command(["audit", "verify", str(path)])


if __name__ == "__main__":
    main()
