"""What the server itself keeps of rows and values, by ways that name no column of it: COPY, sequences, and views
that read it or call a function that does.

The same statements run on two databases that differ in hidden rows and masked values only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import guarddb
from tests.fix_server import temporary_database

SCHEMA = """
CREATE TABLE people (id int PRIMARY KEY, ssn text);
INSERT INTO people SELECT i, 'RAW-{v}' FROM generate_series(1, 5) AS i;
CREATE TABLE orders (id int PRIMARY KEY, tenant_id int, label text);
INSERT INTO orders SELECT i, 1, 'seen' FROM generate_series(1, 5) AS i;
INSERT INTO orders SELECT i, 2, 'HIDDEN' FROM generate_series(11, 15 + 20 * {v}) AS i;
CREATE SEQUENCE numbers;
SELECT setval('numbers', 10 + {v});
CREATE VIEW sampled AS SELECT tablename, attname, n_distinct, most_common_vals::text AS vals FROM pg_stats;
CREATE VIEW sampled_again AS SELECT tablename AS t, upper(vals) AS loud FROM sampled;
CREATE VIEW sizes AS SELECT relname, reltuples FROM pg_class;
CREATE VIEW large AS SELECT relname FROM pg_class WHERE reltuples > 20 AND relname = 'orders';
CREATE VIEW ranked AS SELECT relname, rank() OVER (ORDER BY reltuples) AS r FROM pg_class;
CREATE VIEW live AS SELECT s.relname, x.n FROM pg_stat_user_tables AS s, LATERAL (SELECT s.n_live_tup AS n) AS x;
CREATE VIEW whole AS SELECT c AS w FROM pg_class AS c;
CREATE VIEW next_number AS SELECT last_value FROM numbers;
CREATE VIEW all_numbers AS SELECT sequencename, last_value FROM pg_sequences;
CREATE VIEW locks AS SELECT mode FROM pg_locks;
CREATE VIEW activity AS SELECT pid, query FROM pg_stat_activity;
CREATE FUNCTION everybody() RETURNS SETOF people LANGUAGE sql STABLE AS 'SELECT * FROM people';
CREATE FUNCTION label_of(int) RETURNS text LANGUAGE plpgsql STABLE AS
  $$ BEGIN RETURN (SELECT label FROM Orders WHERE id = $1); END $$;
CREATE FUNCTION again(int) RETURNS text LANGUAGE sql STABLE AS 'SELECT label_of($1)';
CREATE FUNCTION taxed(numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 1.19';
CREATE VIEW people_view AS SELECT * FROM everybody();
CREATE VIEW labels AS SELECT i, again(i) AS label FROM generate_series(10, 12) AS i;
CREATE VIEW labels_again AS SELECT * FROM labels;
CREATE VIEW size AS SELECT pg_relation_size('orders') AS bytes;
CREATE VIEW prices AS SELECT taxed(i) AS price, now() AS at FROM generate_series(1, 3) AS i;
CREATE VIEW mine AS SELECT pid, query FROM pg_stat_activity WHERE pid = pg_backend_pid();
ANALYZE;
"""
POLICY: dict[str, Any] = {
    "name": "server columns",
    "access_mode": "read_write",
    "masking_rules": [{"table": "people", "column": "ssn", "kind": "redact"}],
    "row_filters": [{"table": "orders", "predicate": "tenant_id = 1"}],
}
REFUSED = [
    "COPY pg_statistic TO STDOUT",
    "COPY pg_class TO STDOUT",
    "COPY pg_class (relname, reltuples) TO STDOUT",
    "COPY pg_attribute TO STDOUT",
    "COPY pg_subscription TO STDOUT",
    "SELECT * FROM sampled",
    "SELECT vals FROM sampled",
    "SELECT attname FROM sampled WHERE n_distinct < 0",
    "SELECT * FROM sampled_again",
    "SELECT count(*) FROM sampled_again WHERE loud LIKE '%RAW%'",
    "SELECT q FROM sampled AS q",
    "SELECT q.* FROM (SELECT s.* FROM sampled AS s) AS q",
    "SELECT c FROM sampled AS q (a, b, c)",
    "SELECT * FROM sizes",
    "SELECT relname FROM sizes ORDER BY reltuples",
    "SELECT s.relname FROM sizes AS s JOIN (SELECT 10::real AS reltuples) AS x USING (reltuples)",
    "SELECT relname FROM large",
    "SELECT count(*) FROM large",
    "SELECT r FROM ranked",
    "SELECT n FROM live",
    "SELECT w FROM whole",
    "SELECT last_value FROM numbers",
    "SELECT * FROM numbers",
    "TABLE numbers",
    "SELECT n.last_value FROM numbers AS n, people",
    "SELECT is_called FROM public.numbers",
    "SELECT last_value FROM next_number",
    "SELECT last_value FROM all_numbers",
    "SELECT count(*) FROM locks",
    "SELECT query FROM activity",
    "SELECT * FROM people_view",
    "SELECT label FROM labels",
    "SELECT count(*) FROM labels_again",
    "SELECT bytes FROM size",
]
OPEN = [
    "COPY pg_class (relname, relkind) TO STDOUT",
    "SELECT tablename, attname FROM sampled",
    "SELECT t FROM sampled_again",
    "SELECT relname FROM sizes",
    "SELECT relname FROM live",
    "SELECT sequencename FROM all_numbers",
    "SELECT pid FROM activity",
    "SELECT query FROM mine",
    "SELECT price FROM prices",
]


@pytest.fixture(scope="module")
def variants(server_dsn: str) -> Iterator[list[str]]:
    with temporary_database(server_dsn, "columns") as one, temporary_database(server_dsn, "columns") as two:
        for variant, dsn in enumerate((one, two)):
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute(SCHEMA.replace("{v}", str(variant)))
        yield [one, two]


def answer(conn: guarddb.Connection[Any], sql: str) -> str:
    """Everything that comes back, a refusal included."""
    try:
        if sql.startswith("COPY"):
            with conn.cursor().copy(sql) as copy:
                return str(b"".join(bytes(block) for block in copy))
        return str(conn.execute(sql).fetchall())
    except guarddb.PolicyViolation as ex:
        return f"{ex.decision.rule}: {ex.decision.reason}"


@pytest.mark.parametrize("sql", REFUSED)
def test_what_the_server_keeps_is_closed_behind_views_too(variants: list[str], sql: str) -> None:
    answers = []
    for dsn in variants:
        with guarddb.connect(dsn, policy=POLICY) as conn:
            answers.append(answer(conn, sql))
    assert answers[0] == answers[1]
    rule = answers[0].partition(":")[0]
    assert rule in (
        "row_filter_unsafe",
        "masked_column_predicate",
        "table_not_allowed",
        "function_not_allowed",
        "forbidden_function",
    )


def test_what_tells_nothing_of_them_passes(variants: list[str]) -> None:
    with guarddb.connect(variants[0], policy=POLICY) as conn:
        for sql in OPEN:
            assert answer(conn, sql).startswith(("[", "b'")), sql


@pytest.mark.parametrize(
    "sql",
    [
        "EXPLAIN SELECT p.ssn, o.label FROM people AS p JOIN orders AS o USING (id)",
        "EXPLAIN (VERBOSE, COSTS ON) SELECT p.ssn FROM people AS p, pg_am",
        "EXPLAIN SELECT p.ssn, a.amname FROM people AS p JOIN pg_am AS a ON a.oid::int = p.id",
        "EXPLAIN SELECT q.s FROM (SELECT ssn AS s, id FROM people ORDER BY id LIMIT 3) AS q JOIN pg_am AS a ON a.oid::int = q.id",
        "EXPLAIN (FORMAT JSON) WITH w AS MATERIALIZED (SELECT * FROM people) SELECT ssn FROM w",
    ],
)
def test_a_plan_does_not_tell_how_long_masked_values_are(variants: list[str], sql: str) -> None:
    plans = []
    for length, dsn in zip((10, 90), variants, strict=True):
        with psycopg.connect(dsn, autocommit=True) as plain:
            plain.execute(f"UPDATE people SET ssn = repeat('x', {length})")
            plain.execute("ANALYZE people")
        with guarddb.connect(dsn, policy=POLICY) as conn:
            plans.append(answer(conn, sql))
    assert plans[0] == plans[1]
    assert "idth" not in plans[0]


def test_a_plan_without_masked_columns_keeps_its_estimates(variants: list[str]) -> None:
    with guarddb.connect(variants[0], policy=POLICY) as conn:
        assert "cost=" in answer(conn, "EXPLAIN SELECT id FROM people")
        for words in ("VERBOSE", "ANALYZE", "ANALYZE VERBOSE", "(ANALYZE, TIMING OFF)", "ANALYSE"):
            plan = answer(conn, f"EXPLAIN {words} SELECT ssn FROM people")
            assert plan.startswith("[("), words
            assert "width=" not in plan, words


def test_a_policy_that_hides_nothing_leaves_them_open(variants: list[str]) -> None:
    with guarddb.connect(variants[0], policy={"name": "open", "access_mode": "read_write"}) as conn:
        assert answer(conn, "SELECT last_value FROM numbers") == "[(10,)]"
        assert answer(conn, "SELECT count(*) FROM sizes").startswith("[(")
        assert answer(conn, "COPY pg_statistic TO STDOUT").startswith("table_not_allowed")
