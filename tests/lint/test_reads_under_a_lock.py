"""A query after an ACCESS EXCLUSIVE lock of its transaction: the lint says which tables it reads whole, and the server counts.

And what DROP … CASCADE takes along, by what is gone afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

import guarddb
from guarddb.lint.acts import Act, Lock, Work
from guarddb.lint.migrations import lint, walk
from tests.fix_server import temporary_database
from tests.lint.conftest import World
from tests.lint.oracle import LOCKS, mode
from tests.lint.test_oracle import VERSIONS

HELD = "ALTER TABLE tiny ADD COLUMN held int"
READS = """
SELECT count(*) FROM orders
SELECT 1
SELECT now(), current_setting('search_path')
SELECT * FROM orders WHERE id = 5
SELECT * FROM orders WHERE 5 = id AND qty > 1
SELECT * FROM orders WHERE id IN (1, 2, 3)
SELECT * FROM orders WHERE qty = 5
SELECT * FROM orders WHERE id = qty
SELECT * FROM orders LIMIT 5
SELECT * FROM orders ORDER BY note LIMIT 5
SELECT DISTINCT note FROM orders LIMIT 5
SELECT count(*) FROM orders LIMIT 5
SELECT max(id) FROM orders
SELECT setval('orders_id_seq', coalesce(max(id), 1)) FROM orders
SELECT setval('orders_id_seq', (SELECT max(id) + 1 FROM orders))
SELECT max(qty) FROM orders
SELECT EXISTS (SELECT FROM orders)
SELECT EXISTS (SELECT 1 FROM orders WHERE qty = -1)
SELECT NOT EXISTS (SELECT 1 FROM orders WHERE id = 7)
SELECT o.id, c.name FROM orders AS o JOIN customers AS c ON c.id = o.customer_id
SELECT o.id, c.name FROM orders AS o JOIN customers AS c ON c.id = o.customer_id WHERE o.id = 5
SELECT o.id, c.name FROM orders AS o, customers AS c WHERE c.id = o.customer_id AND o.id = 5
SELECT o.id FROM orders AS o LEFT JOIN customers AS c ON o.id = 5
SELECT * FROM tiny
SELECT t.id FROM tiny AS t CROSS JOIN lonely
SELECT id FROM tiny UNION ALL SELECT id FROM refunds WHERE order_id = 0
WITH o AS (SELECT * FROM orders WHERE id = 5) SELECT * FROM o
WITH o AS (SELECT * FROM orders) SELECT * FROM o
WITH lonely AS (SELECT 1 AS id) SELECT * FROM lonely
SELECT count(*) FROM shown
SELECT * FROM shown WHERE id = 5
SELECT * FROM (SELECT qty FROM orders) AS q WHERE q.qty > 10990
SELECT count(*) FROM totals
SELECT * FROM totals WHERE id = 5
SELECT * FROM generate_series(1, 20) AS n
SELECT * FROM empty
SELECT * FROM customers WHERE email = 'n5@example.org'
SELECT id FROM refunds FOR UPDATE
CREATE TABLE copy_of AS SELECT * FROM orders
CREATE TABLE copy_of AS SELECT * FROM orders WITH NO DATA
CREATE TABLE copy_of AS SELECT * FROM orders WHERE id = 5
SELECT * INTO copy_of FROM orders
CREATE MATERIALIZED VIEW copy_of AS SELECT * FROM orders
EXPLAIN SELECT count(*) FROM orders
EXPLAIN ANALYZE SELECT count(*) FROM orders
""".strip().splitlines()
#: What the planner may do either way.
EITHER = (
    "SELECT * FROM orders WHERE status = 'new'",
    "SELECT * FROM orders WHERE status = 'nothing'",
    "SELECT * FROM refunds WHERE amount = 1",
    "SELECT * FROM orders WHERE id > 10990",
    "SELECT * FROM orders WHERE id BETWEEN 5 AND 8000",
)
COUNTED = "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables"
#: Of the eleven thousand rows of each table.
MOST = 10_000


def read_whole(world: World, query: str) -> set[str]:
    """The tables that the server read whole for a query, while it held the lock."""
    conn = world.conn
    with conn.transaction(force_rollback=True):
        conn.execute("SET LOCAL enable_indexonlyscan = off")  # (which counts no rows of the table)
        conn.execute("SET LOCAL max_parallel_workers_per_gather = 0")
        conn.execute(HELD)
        before = dict(conn.execute(COUNTED).fetchall())
        conn.execute(query.encode())
        after = dict(conn.execute(COUNTED).fetchall())
        held = {mode(lock) for _, lock in conn.execute(LOCKS, [conn.info.backend_pid]).fetchall()}
        assert Lock.ACCESS_EXCLUSIVE in held
    return {name for name, count in after.items() if count - before.get(name, 0) >= MOST}


def said(world: World, query: str) -> dict[str, bool]:
    *_, last = walk(f"BEGIN; {HELD}; {query}", world.catalog)
    return {
        act.target.name: act.certain
        for act in last.said
        if isinstance(act, Act) and act.work is Work.SCAN and act.target.name not in ("tiny", "empty")
    }


@pytest.mark.parametrize("major", VERSIONS)
def test_the_lint_names_the_tables_that_are_read_whole(worlds: Callable[[int], World], major: int) -> None:
    world = worlds(major)
    wrong = []
    for query in READS:
        measured = read_whole(world, query)
        if set(said(world, query)) != measured:
            wrong.append((query, said(world, query), measured))
        found = [f for f in lint(f"BEGIN; {HELD}; {query}; COMMIT", world.catalog) if f.rule == "lock_held"]
        assert bool(found) == bool(measured), query
        assert all(f.severity == "error" and "tiny" in f.message for f in found), query
        assert not [
            f for f in lint(f"BEGIN; {query}; {HELD}; COMMIT", world.catalog) if f.rule == "lock_held"
        ]
        assert not [f for f in lint(query, world.catalog) if f.severity == "error"], query
    assert wrong == []


def test_what_an_index_may_find_is_a_warning(world: World) -> None:
    for query in EITHER:
        (found,) = (f for f in lint(f"BEGIN; {HELD}; {query}", world.catalog) if f.rule == "lock_held")
        assert found.severity == "warning"


def test_a_table_is_unloaded_under_a_lock(world: World) -> None:
    for query, whole in (
        ("COPY orders TO STDOUT", True),
        ("COPY (SELECT * FROM orders) TO STDOUT", True),
        ("COPY (SELECT * FROM orders WHERE id = 1) TO STDOUT", False),
        ("COPY tiny TO STDOUT", False),
    ):
        found = [f for f in lint(f"BEGIN; {HELD}; {query}", world.catalog) if f.rule == "lock_held"]
        assert bool(found) is whole, query


def test_without_a_catalog_a_key_is_called_id() -> None:
    for query, whole in (
        ("SELECT count(*) FROM t", True),
        ("SELECT * FROM t WHERE id = 1", False),
        ("SELECT setval('s', max(id)) FROM t", False),
        ("SELECT max(n) FROM t", True),
        ("SELECT * FROM t LIMIT 1", False),
    ):
        rules = [f.rule for f in lint(f"BEGIN; ALTER TABLE u ADD COLUMN b int; {query}; COMMIT")]
        assert ("lock_held" in rules) is whole, query


CASCADES = """
CREATE VIEW over_shown AS SELECT id FROM shown;
CREATE VIEW "Over" AS SELECT * FROM over_shown;
CREATE MATERIALIZED VIEW stored AS SELECT * FROM shown;
CREATE TABLE keeps (id int, was shown, were shown[], plain int);
CREATE VIEW apart AS SELECT 1 AS one;
CREATE VIEW on_totals AS SELECT * FROM totals;
"""
GONE = """
SELECT c.relname || '.' || a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE c.relkind IN ('r', 'v', 'm', 'p') AND c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
"""


@pytest.mark.parametrize(
    ("drop", "severity"),
    [
        ("DROP VIEW shown CASCADE", "error"),
        ("DROP VIEW over_shown CASCADE", "warning"),
        ("DROP VIEW apart CASCADE", "warning"),
        ("DROP MATERIALIZED VIEW totals CASCADE", "warning"),
        ("DROP MATERIALIZED VIEW stored CASCADE", None),
        ("DROP TABLE orders CASCADE", "error"),
        ("DROP TABLE lonely CASCADE", None),
        ("DROP VIEW shown", None),
    ],
)
def test_a_cascade_names_what_goes_with_it(
    server_dsn: str, world_template: str, drop: str, severity: str | None
) -> None:
    with (
        temporary_database(server_dsn, "cascade", world_template) as dsn,
        psycopg.connect(dsn, autocommit=True) as conn,
    ):
        conn.execute(CASCADES)
        catalog = guarddb.Catalog.from_connection(conn)
        found = [f for f in lint(drop, catalog) if f.rule == "cascade"]
        assert [f.severity for f in found] == ([severity] if severity else [])
        if not found:
            return
        before = {name for (name,) in conn.execute(GONE).fetchall()}
        conn.execute(drop.encode())
        gone = before - {name for (name,) in conn.execute(GONE).fetchall()}
        left = {name.partition(".")[0] for name in before - gone}
        named = drop.split()[-2]
        message = found[0].message
        for name in sorted(gone):
            relation, _, column = name.partition(".")
            if relation == named:
                continue
            shown = '"Over"' if relation == "Over" else relation
            assert (f"the column {column} of {relation}" if relation in left else shown) in message, name
        for name in sorted(before - gone):
            assert f"the column {name.partition('.')[2]} of {name.partition('.')[0]}" not in message
        listed = message.partition(": ")[2]
        assert not [r for r in left - {"keeps"} if f" {r}," in f" {listed},"]
        assert found[0].hint == f"{drop.removesuffix(' CASCADE')};"


def test_a_cascade_without_a_catalog_may_take_anything() -> None:
    (found,) = (f for f in lint("DROP VIEW v CASCADE") if f.rule == "cascade")
    assert "whatever depends on it" in found.message
    assert not [f for f in lint("CREATE VIEW v AS SELECT 1; DROP VIEW v CASCADE") if f.rule == "cascade"]
