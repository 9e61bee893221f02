"""Through the wall PostgreSQL plans as it does under row security of its own with the same filter."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import guarddb
from tests.wall.conftest import made
from tests.wall.ground import Ground

SCHEMA = """
CREATE TABLE orders (id int PRIMARY KEY, tenant int NOT NULL, customer int NOT NULL, total numeric, at timestamptz, note text);
CREATE TABLE lines (order_id int, line int, tenant int NOT NULL, price int, PRIMARY KEY (order_id, line));
INSERT INTO orders SELECT i, i % 10, i % 500, i % 977, '2024-01-01'::timestamptz + i * interval '1 minute', 'note ' || i
  FROM generate_series(1, 20000) AS i;
INSERT INTO lines SELECT i, l, i % 10, i % 7 FROM generate_series(1, 20000) AS i, generate_series(1, 3) AS l;
CREATE INDEX ON orders (tenant, at); CREATE INDEX ON orders (customer); CREATE INDEX ON orders (note text_pattern_ops);
CREATE TABLE native_orders (LIKE orders INCLUDING ALL); INSERT INTO native_orders SELECT * FROM orders;
CREATE TABLE native_lines (LIKE lines INCLUDING ALL); INSERT INTO native_lines SELECT * FROM lines;
ALTER TABLE native_orders ENABLE ROW LEVEL SECURITY; CREATE POLICY f ON native_orders USING (tenant = 1);
ALTER TABLE native_lines ENABLE ROW LEVEL SECURITY; CREATE POLICY f ON native_lines USING (tenant = 1);
GRANT ALL ON ALL TABLES IN SCHEMA public TO {app};
"""

QUERIES = {
    "by key": "SELECT total, note FROM {orders} WHERE id = 4711",
    "newest": "SELECT id FROM {orders} ORDER BY at DESC LIMIT 10",
    "range": "SELECT count(*) FROM {orders} WHERE at BETWEEN '2024-01-02' AND '2024-01-03'",
    "max and min": "SELECT max(at), min(at) FROM {orders}",
    "join": "SELECT o.id, sum(l.price) FROM {orders} o JOIN {lines} l ON l.order_id = o.id WHERE o.customer = 21 GROUP BY o.id",
    "max per group": (
        "SELECT id FROM {orders} o WHERE at = (SELECT max(at) FROM {orders} i WHERE i.customer = o.customer) AND o.customer < 30"
    ),
    "range self-join": (
        "SELECT count(*) FROM {orders} a JOIN {orders} b ON b.at > a.at AND b.at < a.at + interval '1 hour' WHERE a.customer = 21"
    ),
    "left join": "SELECT o.id, l.line FROM {orders} o LEFT JOIN {lines} l ON l.order_id = o.id AND l.line = 9 WHERE o.id < 50",
    "exists": "SELECT count(*) FROM {orders} o WHERE EXISTS (SELECT FROM {lines} l WHERE l.order_id = o.id AND l.price = 3)",
    "update": "UPDATE {orders} SET note = 'x' WHERE id = 4711",
    "delete": "DELETE FROM {lines} WHERE order_id = 4711",
}

#: Asked first, and free of cost and effect on estimates.
LOOK_UP = r"'{t}'::boolean\[\]\[[a-z0-9_]*\.?tenant\] IS NOT NULL"


def plan(conn: psycopg.Connection, query: str) -> str:
    """A plan without the names that aliases and views give to things, and without what hides rows beside an equality."""
    lines = [re.sub("[()]", "", row[0]) for row in conn.execute(f"EXPLAIN (COSTS OFF) {query}").fetchall()]
    asked = (re.sub(rf"{LOOK_UP} AND | AND {LOOK_UP}", "", line) for line in lines)
    text = "\n".join(line for line in asked if not re.search(rf"Filter: {LOOK_UP}$", line))
    text = text.replace("native_", "")
    text = re.sub(r"\b(on (?:orders|lines))(?: \w+)?", r"\1", text)
    text = re.sub(r"\b(?:orders|lines|o|l|a|b|i)(?:_\d+)?\.", "", text)
    return re.sub(r"InitPlan \d+|SubPlan \d+", "plan", text)


@pytest.fixture(scope="module")
def ground(server_dsn: str) -> Iterator[Ground]:
    """For all queries: none of them is run."""
    for ground in made(server_dsn, SCHEMA):
        ground.policy = {
            "name": ground.stem,
            "access_mode": "read_write",
            "table_allowlist": ["orders", "lines"],
            "row_filters": [{"table": t, "predicate": "tenant = 1"} for t in ("orders", "lines")],
            "guarddb": {"wall": ground.schema},
        }
        ground.up()
        ground.as_admin("ANALYZE")
        yield ground


@pytest.mark.parametrize("name", QUERIES)
def test_the_plan_is_that_of_native_row_security(ground: Ground, name: str) -> None:
    # What is visible to all is up to other sessions of the server.
    options = "-c enable_indexonlyscan=off"
    app, agent = make_conninfo(ground.app, options=options), make_conninfo(ground.agent, options=options)
    with psycopg.connect(app, autocommit=True) as conn:
        native = plan(conn, QUERIES[name].format(orders="native_orders", lines="native_lines"))
    query = QUERIES[name].format(orders="orders", lines="lines")
    with psycopg.connect(agent, autocommit=True) as conn:
        assert plan(conn, query) == native
    with guarddb.connect(agent, policy=ground.policy, autocommit=True) as conn:
        assert plan(conn, query) == native
