"""Everyday statements through a row filter: no filter, native row-level security, and the text that guarddb sends.

The three take turns on the same table, with the same predicate (`--filter`), and send each statement anew, so that planning
counts; writes are undone. Statements with parameters are prepared, and
have a generic plan. Beside the times, the ratio of the pages that are looked at (ten more of each, so that a few count for
little), which a busy machine does not change, and whether the plans have the same nodes and indexes. Targets: the median of the
ratios to native row-level security at most 1.15, each at most 1.5. What guarddb itself costs per statement is the subject of
point_select.py and first_seen.py.

    python benchmarks/row_filters.py [--rows 1000000] [--seconds 2] [--filter constant]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from common import cores, interleaved, met, pin, report, server
from psycopg.conninfo import make_conninfo
from row_filter_queries import PARAMETERS, QUERIES

from guarddb import Catalog, evaluate

MEDIAN_TARGET = 1.15
EACH_TARGET = 1.5
TENANTS = 10

PREDICATES = {
    "constant": "tenant_id < 3",
    "setting": "tenant_id = current_setting('app.tenant')::int",
    "sub-select": "tenant_id IN (SELECT m.tenant_id FROM members AS m WHERE m.agent = 'bot')",
}
SETTINGS = {"app.tenant": "1"}

#: The policies are for one role; a superuser's statements go past them, so that guarddb's meet the same tables without.
SCHEMA = """
DROP TABLE IF EXISTS accounts, orders, items, secrets CASCADE;
CREATE TABLE members (agent text, tenant_id int);
INSERT INTO members VALUES ('bot', 0), ('bot', 1), ('bot', 2), ('other', 3);
CREATE TABLE customers (id int PRIMARY KEY, tenant_id int NOT NULL, name text NOT NULL, email text NOT NULL, city text NOT NULL);
INSERT INTO customers SELECT n, n % {tenants}, 'Name ' || n, 'e' || n || '@x.org', 'City ' || n % 400
FROM generate_series(1, {rows} / 20) AS n;
CREATE INDEX ON customers (name); CREATE INDEX ON customers (email); CREATE INDEX ON customers (city);
CREATE TABLE orders (
    id int PRIMARY KEY, tenant_id int NOT NULL, customer_id int NOT NULL, code text COLLATE "C" NOT NULL, status text NOT NULL,
    amount numeric(12, 2) NOT NULL, day date NOT NULL, placed_at timestamptz NOT NULL, note text);
INSERT INTO orders
SELECT n, n % {tenants}, 1 + n % ({rows} / 20), substr(md5(n::text), 1, 12), (ARRAY['new', 'paid', 'sent'])[1 + n / 7 % 3],
       n % 1000 + n % 97 / 100.0, (now() - (n % 2000) * interval '1 day')::date,
       now() - (n % 2000) * interval '1 day' - (n / 2000) * interval '1 second', CASE WHEN n % 3 > 0 THEN md5(n::text) END
FROM generate_series(1, {rows}) AS n;
CREATE INDEX ON orders (tenant_id); CREATE INDEX ON orders (customer_id); CREATE INDEX ON orders (code);
CREATE INDEX ON orders (amount); CREATE INDEX ON orders (day); CREATE INDEX ON orders (placed_at);
CREATE TABLE lines (order_id int NOT NULL, line int NOT NULL, tenant_id int NOT NULL, product text NOT NULL, pieces int NOT NULL,
    PRIMARY KEY (order_id, line));
INSERT INTO lines SELECT n, 1, n % {tenants}, 'product ' || n % 50, n % 9 FROM generate_series(1, {rows}, 2) AS n;
ALTER TABLE customers ENABLE ROW LEVEL SECURITY;
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE lines ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON customers TO {role} USING (tenant_id < 10) WITH CHECK (tenant_id < 10);
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};
"""


def policies(predicate: str, role: str) -> str:
    """The native policies with a predicate, in place of those that there are."""
    return "".join(
        f"DROP POLICY IF EXISTS visible ON {table}; "
        f"CREATE POLICY visible ON {table} TO {role} USING ({predicate}) WITH CHECK ({predicate});"
        for table in ("orders", "lines")
    )


def profile(predicate: str) -> dict[str, Any]:
    return {
        "name": "some tenants",
        "access_mode": "read_write",
        "row_filters": [
            {"table": "customers", "predicate": "tenant_id < 10"},
            {"table": "orders", "predicate": predicate},
            {"table": "lines", "predicate": predicate},
        ],
        "guarddb": {"settings": SETTINGS},
    }


Shape = tuple[str, tuple["Shape", ...]]


def shape(conn: psycopg.Connection[Any], sql: str) -> Shape:
    """The nodes of a plan with the indexes they use, as a tree. Plain EXPLAIN: the statement does not run."""
    row = conn.execute(f"EXPLAIN (FORMAT json, COSTS off) {sql}".encode()).fetchone()
    assert row is not None
    plans = row[0] if isinstance(row[0], list) else json.loads(row[0])

    def of(node: dict[str, Any]) -> Shape:
        name = node["Node Type"]
        if "Index Name" in node:
            name += f" {node['Index Name']}"
        return name, tuple(of(child) for child in node.get("Plans", ()))

    return of(plans[0]["Plan"])


def indexes(tree: Shape) -> list[str]:
    """The indexes that a plan uses, with how they are scanned."""
    name, below = tree
    found = [name] if " Scan " in name else []
    return sorted([*found, *(index for child in below for index in indexes(child))])


def shown(tree: Shape) -> str:
    name, below = tree
    return name if not below else f"{name}({', '.join(shown(child) for child in below)})"


def pages(conn: psycopg.Connection[Any], sql: str) -> tuple[float, int]:
    """The planner's cost of a statement, and the pages that it looks at."""
    row = conn.execute(f"EXPLAIN (ANALYZE, BUFFERS, TIMING off, FORMAT json) {sql}".encode()).fetchone()
    assert row is not None
    if not conn.autocommit:
        conn.rollback()  # it has run
    plan = row[0][0]["Plan"]
    return plan["Total Cost"], sum(
        plan.get(key, 0)
        for key in ("Shared Hit Blocks", "Shared Read Blocks", "Temp Read Blocks", "Temp Written Blocks")
    )


def rewritten(sql: str, catalog: Catalog, predicate: str = PREDICATES["constant"]) -> str:
    """What guarddb sends in place of a statement."""
    decision = evaluate(sql, profile(predicate), catalog)
    assert decision.rewritten_sql is not None, decision.reason
    return decision.rewritten_sql


def prepared(conn: psycopg.Connection[Any], title: str, sql: str) -> str:
    """Prepare a statement with parameters, for a generic plan; what executes it."""
    _, types, values = PARAMETERS[title]
    conn.execute("SET plan_cache_mode = force_generic_plan")
    conn.execute("DEALLOCATE ALL")
    conn.execute(f"PREPARE statement ({types}) AS {sql}".encode(), prepare=False)
    conn.commit()
    return f"EXECUTE statement ({values})"


def one(conn: psycopg.Connection[Any], sql: str, *, prepare: bool = False) -> Callable[[], object]:
    """Execute and fetch; what it writes is undone. `prepare`: once, as psycopg does with what it has sent five times."""
    text = sql.encode()
    writes = not sql.startswith(("SELECT", "WITH", "EXECUTE"))

    def call() -> object:
        cursor = conn.execute(text, prepare=prepare)
        rows = cursor.fetchall() if cursor.description and not writes else None
        if rows is None:
            conn.rollback()
        return rows

    return call


def in_turns(
    calls: Sequence[Callable[[], object]],
    seconds: float,
    clocks: Sequence[Callable[[], int]] | None = None,
) -> list[float]:
    """Median microseconds of each, with as many turns as fit into the time."""
    once = max(interleaved(calls, 1, batch=1, warmup=1))
    batch = max(1, min(5, round(10_000 / once)))
    rounds = max(5, min(1000, round(seconds * 1e6 / (once * batch * len(calls)))))
    return interleaved(calls, rounds, batch=batch, warmup=1, clocks=clocks)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=2, help="of measuring, for each statement")
    parser.add_argument("--parallel", type=int, default=0, help="max_parallel_workers_per_gather")
    parser.add_argument("--filter", choices=PREDICATES, default="constant")
    arguments = parser.parse_args()
    predicate = PREDICATES[arguments.filter]
    results, ratios, differences = [], [], []
    with server() as dsn:
        with psycopg.Connection.connect(dsn, autocommit=True) as admin:
            admin.execute("CREATE ROLE native LOGIN NOBYPASSRLS")
            admin.execute(SCHEMA.format(rows=arguments.rows, tenants=TENANTS, role="native").encode())
            admin.execute(policies(predicate, "native").encode())
            admin.execute("VACUUM ANALYZE")
            catalog = Catalog.from_connection(admin)
        options = (
            f"-c max_parallel_workers_per_gather={arguments.parallel} -c app.tenant={SETTINGS['app.tenant']}"
        )
        plain, guarded = (
            psycopg.Connection.connect(dsn, options=options, prepare_threshold=None) for _ in range(2)
        )
        native = psycopg.Connection.connect(
            make_conninfo(dsn, user="native"), options=options, prepare_threshold=None
        )
        available = cores()
        pin(0, available[0])
        for conn in (plain, guarded, native):
            pin(conn.info.backend_pid, available[-1])
        for title, sql in {**QUERIES, **{title: sql for title, (sql, *_) in PARAMETERS.items()}}.items():
            sent, bare_sql, asked = rewritten(sql, catalog, predicate), sql, sql
            if title in PARAMETERS:
                sent, asked = prepared(guarded, title, sent), prepared(native, title, sql)
                bare_sql = prepared(plain, title, sql)
            own, theirs = shape(guarded, sent), shape(native, asked)
            if own != theirs:
                differences.append((title, shown(own), shown(theirs)))
            (_, read), (_, read_by_rls) = pages(guarded, sent), pages(native, asked)
            ours, rls = in_turns([one(guarded, sent), one(native, asked)], arguments.seconds)
            # Not in turns with the others: it reads more, and whoever came next would find the caches cold.
            (bare,) = in_turns([one(plain, bare_sql)], arguments.seconds / 4)
            ratios.append((ours / rls, (read + 10) / (read_by_rls + 10)))
            results.append(
                (
                    title,
                    f"{bare / 1000:.2f}",
                    f"{rls / 1000:.2f}",
                    f"{ours / 1000:.2f}",
                    f"{ours / rls:.2f}",
                    met(ours / rls, EACH_TARGET),
                    f"{ratios[-1][1]:.2f}",
                    "same" if own == theirs else "other",
                )
            )
        for conn in (plain, guarded, native):
            conn.close()
    columns = (
        "statement",
        "no filter ms",
        "native RLS ms",
        "guarddb ms",
        "guarddb / RLS",
        "target",
        "pages",
        "plan",
    )
    report(f"Filter {predicate} over {arguments.rows:,} orders, medians", columns, results)
    print()
    for what, figures in zip(("time", "pages"), zip(*ratios, strict=True), strict=True):
        middle, over = statistics.median(figures), sum(each > EACH_TARGET for each in figures)
        print(
            f"{len(figures)} ratios of {what}: median {middle:.3f} ({met(middle, MEDIAN_TARGET)}), {over} over {EACH_TARGET}"
        )
    if differences:
        report("Plans that differ", ("statement", "guarddb", "native RLS"), differences)


if __name__ == "__main__":
    main()
