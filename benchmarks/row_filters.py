"""Queries through a row filter over a million rows: the text that guarddb sends, native row-level security, no filter.

The first two take turns on the same table, with the same predicate (one tenant of ten), and send the same query each time
anew, so that planning counts. Target: at most 1.1 times native row-level security. Beside it, whether the plans have the
same nodes. What guarddb itself costs per statement is the subject of point_select.py and first_seen.py.

    python benchmarks/row_filters.py [--rows 1000000] [--seconds 6]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from common import cores, interleaved, met, pin, report, server
from psycopg.conninfo import make_conninfo

from guarddb import Catalog, evaluate

RATIO_TARGET = 1.1
TENANTS = 10

#: The policy is for one role; a superuser's statements go past it, so that guarddb's meet the same table without it.
SCHEMA = """
CREATE TABLE entries (
    id int PRIMARY KEY, tenant_id int NOT NULL, account_id int NOT NULL, code text COLLATE "C" NOT NULL,
    kind text NOT NULL, amount int NOT NULL, placed_at timestamptz NOT NULL, note text);
INSERT INTO entries
SELECT n, n % {tenants}, n / 20, substr(md5(n::text), 1, 12), 'kind ' || n % 7, n % 1000,
       timestamptz '2024-01-01' + n * interval '1 minute'
FROM generate_series(1, {rows}) AS n;
CREATE INDEX entries_account ON entries (account_id);
CREATE INDEX entries_code ON entries (code);
CREATE INDEX entries_placed ON entries (placed_at);
CREATE TABLE lines (entry_id int NOT NULL, line int NOT NULL, tenant_id int NOT NULL, pieces int NOT NULL,
    PRIMARY KEY (entry_id, line));
INSERT INTO lines SELECT n, 1, n % {tenants}, n % 9 FROM generate_series(1, {rows}, 2) AS n;
ALTER TABLE entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE lines ENABLE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON entries TO {role} USING (tenant_id = 1) WITH CHECK (tenant_id = 1);
CREATE POLICY one_tenant ON lines TO {role} USING (tenant_id = 1) WITH CHECK (tenant_id = 1);
GRANT SELECT, INSERT, UPDATE, DELETE ON entries, lines TO {role};
"""

PROFILE: dict[str, Any] = {
    "name": "one tenant",
    "access_mode": "read_write",
    "row_filters": [
        {"table": "entries", "predicate": "tenant_id = 1"},
        {"table": "lines", "predicate": "tenant_id = 1"},
    ],
}

#: Comparisons of columns with constants and with each other: guarddb only adds the predicate, as native security does.
PLAIN: dict[str, str] = {
    "point by primary key": "SELECT * FROM entries WHERE id = 4711",
    "range on an indexed column": (
        "SELECT id, amount FROM entries "
        "WHERE placed_at >= '2024-01-15' AND placed_at < '2024-01-16' AND amount <> 3"
    ),
    "join of two filtered tables": (
        "SELECT e.id, e.amount, l.pieces FROM entries AS e JOIN lines AS l ON l.entry_id = e.id "
        "WHERE e.account_id BETWEEN 500 AND 600"
    ),
    "aggregate by group": "SELECT kind, count(*), sum(amount) FROM entries GROUP BY kind",
    "ORDER BY indexed LIMIT": "SELECT id, placed_at FROM entries ORDER BY placed_at DESC LIMIT 20",
    "UPDATE by primary key": "UPDATE entries SET note = 'seen' WHERE id = 4711",
}
#: Here the two may go about it in another way: LIKE is not leakproof in PostgreSQL's eyes, a condition that can raise is put
#: behind a fence, and a written row is checked in RETURNING.
OTHERS: dict[str, str] = {
    "LIKE 'abc%'": "SELECT id FROM entries WHERE code LIKE 'abc%'",
    "can raise, beside an indexed one": (
        "SELECT id FROM entries WHERE account_id BETWEEN 500 AND 510 AND 1000 / (amount + 1) > 2"
    ),
    "can raise, alone": "SELECT count(*) FROM entries WHERE 1000 / (amount + 1) > 2",
    "UPDATE that could leave the filter": "UPDATE entries SET tenant_id = 1 WHERE id = 4711",
}

Shape = tuple[str, tuple["Shape", ...]]


def shape(conn: psycopg.Connection[Any], sql: str) -> Shape:
    """The types of a plan's nodes, as a tree. Plain EXPLAIN: the statement does not run."""
    row = conn.execute(f"EXPLAIN (FORMAT json, COSTS off) {sql}".encode()).fetchone()
    assert row is not None
    plans = row[0] if isinstance(row[0], list) else json.loads(row[0])

    def of(node: dict[str, Any]) -> Shape:
        return node["Node Type"], tuple(of(child) for child in node.get("Plans", ()))

    return of(plans[0]["Plan"])


def shown(tree: Shape) -> str:
    name, below = tree
    return name if not below else f"{name}({', '.join(shown(child) for child in below)})"


def rewritten(sql: str, catalog: Catalog) -> str:
    """What guarddb sends in place of a statement."""
    decision = evaluate(sql, PROFILE, catalog)
    assert decision.rewritten_sql is not None, decision.reason
    return decision.rewritten_sql


def one(conn: psycopg.Connection[Any], sql: str) -> Callable[[], object]:
    """Execute and fetch; what it writes is undone."""
    text = sql.encode()
    writes = sql.startswith("UPDATE")

    def call() -> object:
        cursor = conn.execute(text, prepare=False)
        if writes:
            conn.rollback()
            return None
        return cursor.fetchall()

    return call


def in_turns(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Median microseconds of each, with as many turns as fit into the time."""
    once = max(interleaved(calls, 1, batch=1, warmup=1))
    batch = max(1, min(5, round(10_000 / once)))
    rounds = max(5, min(1000, round(seconds * 1e6 / (once * batch * len(calls)))))
    return interleaved(calls, rounds, batch=batch, warmup=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=6, help="of measuring, for each query")
    parser.add_argument("--parallel", type=int, default=0, help="max_parallel_workers_per_gather")
    arguments = parser.parse_args()
    results = []
    differences = []
    with server() as dsn:
        with psycopg.Connection.connect(dsn, autocommit=True) as admin:
            admin.execute("CREATE ROLE native LOGIN NOBYPASSRLS")
            admin.execute(SCHEMA.format(rows=arguments.rows, tenants=TENANTS, role="native").encode())
            admin.execute("VACUUM ANALYZE")
            catalog = Catalog.from_connection(admin)
        options = f"-c max_parallel_workers_per_gather={arguments.parallel}"
        plain, guarded = (psycopg.Connection.connect(dsn, options=options) for _ in range(2))
        native = psycopg.Connection.connect(make_conninfo(dsn, user="native"), options=options)
        available = cores()
        pin(0, available[0])
        for conn in (plain, guarded, native):
            pin(conn.info.backend_pid, available[-1])
        for title, sql in {**PLAIN, **OTHERS}.items():
            sent = rewritten(sql, catalog)
            own, theirs = shape(guarded, sent), shape(native, sql)
            if own != theirs:
                differences.append((title, shown(own), shown(theirs)))
            ours, rls = in_turns([one(guarded, sent), one(native, sql)], arguments.seconds)
            # Not in turns with the others: it reads ten times as much, and whoever came next would find the caches cold.
            (bare,) = in_turns([one(plain, sql)], arguments.seconds / 3)
            results.append(
                (
                    title,
                    f"{bare:.0f}",
                    f"{rls:.0f}",
                    f"{ours:.0f}",
                    f"{ours / rls:.3f}",
                    met(ours / rls, RATIO_TARGET),
                    "same" if own == theirs else "other",
                )
            )
        for conn in (plain, guarded, native):
            conn.close()
    columns = ("query", "no filter µs", "native RLS µs", "guarddb µs", "guarddb / RLS", "target", "plan")
    report(f"Row filters over {arguments.rows:,} rows, medians", columns, results)
    if differences:
        report("Plans that differ", ("query", "guarddb", "native RLS"), differences)


if __name__ == "__main__":
    main()
