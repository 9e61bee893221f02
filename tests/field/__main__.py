"""Run other people's SQL files against plain psycopg and guarddb, and count what differs.

    python -m tests.field --from DIR [--from DIR …] [--profile P.yaml | --twin] [--schema FILE.sql] [--monitor] [--json]

DIR holds .sql files (a checkout of some repository); nothing of it is copied. The run starts a PostgreSQL of its own and
loads the shop of the corpus, or the given schema, into it. Each statement runs twice in a transaction that is rolled
back: plain, and through guarddb under a read-only profile that restricts nothing (or the given one). Counted are the
statements that plain PostgreSQL runs; of them those that guarddb refuses, by rule and reason, and those with other rows
(apart: those with NULL in columns that the decision's notes name). Exits with 1 when rows differ.

With `--monitor` both connect as a role that is no superuser and has pg_monitor and pg_read_all_data, as health checks do: what
PostgreSQL itself refuses to it is not counted.

With `--twin` every table has a row filter, and a text column that no statement names has a mask; what is plain then is a
role under native row-level security, with views that mask by hand in front of the tables: see `twin.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

import guarddb
from tests.field.texts import files, statements
from tests.field.twin import ROLE, build
from tests.fix_server import SHOP_SQL, create_database, running_server

OPEN = {"name": "open", "access_mode": "read_only"}
MONITOR = "field_monitor"


def run(conn: psycopg.Connection[Any], sql: str) -> tuple[str, Any]:
    """What became of a statement: `rows` and a multiset of them, or `error` and the exception."""
    conn.rollback()
    try:
        with conn.cursor() as cur:
            cur.execute(sql.encode())
            rows = Counter(map(repr, cur.fetchall())) if cur.description else Counter()
    except psycopg.Error as ex:
        if not conn.closed:
            conn.rollback()
        return "error", ex
    conn.rollback()
    return "rows", rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.field", description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="directories", action="append", type=Path, required=True)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--twin", action="store_true")
    parser.add_argument("--schema", type=Path, default=SHOP_SQL)
    parser.add_argument("--monitor", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--postgres", type=int, choices=(16, 18), default=18)
    options = parser.parse_args()
    policy = guarddb.load_policy(options.profile) if options.profile else OPEN
    seen: Counter[str] = Counter()
    found: list[dict[str, str]] = []
    server_directory = Path(tempfile.gettempdir()) / f"gdb-field-{os.getpid()}" / str(options.postgres)
    with running_server(server_directory, options.postgres) as server:
        dsn = create_database(server, "field")
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(options.schema.read_bytes())
            if options.twin:
                texts = [
                    path.read_text(errors="replace") for each in options.directories for path in files(each)
                ]
                policy = build(admin, "\n".join(texts))
            if options.monitor:
                admin.execute(f"DROP ROLE IF EXISTS {MONITOR}")
                admin.execute(f"CREATE ROLE {MONITOR} LOGIN")
                admin.execute(f"GRANT pg_monitor, pg_read_all_data TO {MONITOR}")
                dsn = make_conninfo(dsn, user=MONITOR)

        def plainly() -> psycopg.Connection[Any]:
            conn = psycopg.connect(dsn, options="-c statement_timeout=20s")
            # (As guarddb sets it: some statements tell how.)
            conn.execute("SET default_transaction_read_only = on")
            if options.twin:
                conn.execute(f"SET ROLE {ROLE}")
                conn.execute("SET search_path = masked, public")
            conn.commit()
            return conn

        def guarded() -> psycopg.Connection[Any]:
            return guarddb.connect(dsn, policy=policy, options="-c statement_timeout=20s")

        plain, conn = plainly(), guarded()
        with plain, conn:
            for directory in options.directories:
                for path in files(directory):
                    for sql in statements(path):
                        # Some of them end other people's sessions.
                        plain, conn = plainly() if plain.closed else plain, guarded() if conn.closed else conn
                        seen["statements"] += 1
                        how, answer = run(plain, sql)
                        if how == "error":
                            seen["not for plain PostgreSQL either"] += 1
                            continue
                        seen["run by plain PostgreSQL"] += 1
                        other, got = run(conn, sql)
                        if other == "error":
                            rule = getattr(got, "rule", None)
                            kind = f"refused: {rule}" if rule else f"error: {type(got).__name__}"
                        elif got != answer and run(plain, sql)[1] == answer:
                            # (What differs from session to session differs between two plain ones as well.)
                            with plainly() as another:
                                if run(another, sql)[1] != answer:
                                    continue
                            notes = guarddb.evaluate(sql, policy).notes
                            noted = any("comes as NULL" in note for note in notes)
                            kind = "other rows, noted" if noted else "other rows"
                        else:
                            continue
                        seen[kind] += 1
                        found.append(
                            {
                                "file": str(path),
                                "what": kind,
                                "why": str(got).splitlines()[0][:300],
                                "sql": sql,
                            }
                        )
    if options.json:
        print(json.dumps({"counts": seen, "found": found}, indent=1, ensure_ascii=False))
    else:
        for each in found:
            print(f"{each['file']}: {each['what']}: {each['why']}")
        for name, number in seen.items():
            print(f"{number:6} {name}")
    return 1 if seen["other rows"] else 0


if __name__ == "__main__":
    sys.exit(main())
