"""A row that a filter hides is not evaluated: the trap `1 / n` raises for hidden rows and for no other.

PostgreSQL orders conditions by cost, pulls sub-selects up, makes joins of predicates and sorts early, so each expression
runs against predicates of several forms and under several settings of the planner.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from guarddb.facts.system_relations import RESTRICTED, closed_columns
from tests.adversary.ground import BOTH, PREDICATES, Ground, filters, writing
from tests.fix_server import temporary_database

TRAPS = [
    "SELECT id FROM orders t WHERE 1 / t.n > 0",
    "SELECT id FROM orders t WHERE id > 0 AND NOT 1 / t.n = 5",
    "SELECT id FROM orders t WHERE CASE WHEN id > 0 THEN 1 / n END > 0",
    "SELECT id FROM orders t WHERE n IN (1, 1 / n)",
    "SELECT id FROM orders t WHERE n BETWEEN 0 AND 5 / n",
    "SELECT id FROM orders t WHERE (id, 1 / n) IN ((1, 1))",
    "SELECT id FROM orders t WHERE EXISTS (SELECT 1 / t.n)",
    "SELECT id FROM orders t WHERE EXISTS (SELECT 1 / t.n OFFSET 0)",
    "SELECT id FROM orders t WHERE EXISTS (VALUES (1 / t.n))",
    "SELECT id FROM orders t WHERE EXISTS (SELECT 1 / t.n UNION SELECT 5)",
    "SELECT id FROM orders t WHERE EXISTS (SELECT 1 FROM other OFFSET 1 / t.n)",
    "SELECT id FROM orders t WHERE EXISTS (SELECT 1 FROM other LIMIT 1 / t.n)",
    "SELECT id FROM orders t WHERE EXISTS (SELECT FROM other o WHERE o.id = 1 / t.n)",
    "SELECT id FROM orders t WHERE EXISTS (SELECT 1 FROM generate_series(1, 1 / t.n))",
    "SELECT id FROM orders t WHERE EXISTS (SELECT 1 FROM other TABLESAMPLE bernoulli (1 / t.n))",
    "SELECT id FROM orders t WHERE EXISTS (SELECT FROM (SELECT 1 / t.n AS x OFFSET 0) q)",
    "SELECT id FROM orders t WHERE EXISTS (SELECT FROM (SELECT 1 / t.n AS x) q WHERE x > 0)",
    "SELECT id FROM orders t WHERE EXISTS (SELECT FROM JSON_TABLE((1/t.n)::text::jsonb, '$' COLUMNS (a int PATH '$')))",
    "SELECT id FROM orders t WHERE (SELECT 1 FROM other LIMIT 1 / t.n) = 1",
    "SELECT id FROM orders t WHERE (SELECT 1 LIMIT 1 / t.n) IS NOT NULL",
    "SELECT id FROM orders t WHERE (SELECT 1 ORDER BY 1 / t.n) = 1",
    "SELECT id FROM orders t WHERE (SELECT 1 GROUP BY 1 / t.n) = 1",
    "SELECT id FROM orders t WHERE (SELECT DISTINCT ON (1 / t.n) 1) = 1",
    "SELECT id FROM orders t WHERE (SELECT row_number() OVER (ORDER BY 1 / t.n)) = 1",
    "SELECT id FROM orders t WHERE (SELECT sum(o.id) FILTER (WHERE 1 / t.n > 0) FROM other o) > 0",
    "SELECT id FROM orders t WHERE ARRAY(SELECT 1 / t.n) = '{1}'",
    "SELECT id FROM orders t WHERE ROW(1, 2) = (SELECT 1 / t.n, 2)",
    "SELECT id FROM orders t WHERE id IN (SELECT 1 / t.n)",
    "SELECT id FROM orders t WHERE id IN (SELECT id FROM other LIMIT 1 / t.n)",
    "SELECT t.id FROM orders t, LATERAL (VALUES (1 / t.n)) v(x) WHERE v.x > 0",
    "SELECT t.id FROM orders t, LATERAL (SELECT 1 / t.n AS x) q, other WHERE other.id = t.id AND q.x > 0",
    "SELECT count(*) FROM orders t, LATERAL abs(1 / t.n) f(x) WHERE f.x > 0",
    "SELECT g FROM orders t, generate_series(1, 1 / t.n) g",
    "SELECT generate_series(1, 1 / n) FROM orders",
    "SELECT a.id FROM orders a JOIN orders b ON 1 / a.n = 1 / b.n",
    "SELECT a.id FROM other a JOIN orders b ON a.id = b.n WHERE a.id / b.n > 0",
    "SELECT count(*) FROM other a LEFT JOIN orders b ON a.id = b.id AND 1 / b.n > 0",
    "SELECT count(*) FROM other a LEFT JOIN orders b ON a.id = b.id WHERE 1 / b.n > 0 OR b.id IS NULL",
    "SELECT count(*) FROM orders b RIGHT JOIN other a ON a.id = b.id AND 1 / b.n > 0",
    "SELECT count(*) FROM other a FULL JOIN orders b ON a.id = b.id WHERE 1 / b.n > 0 OR b.id IS NULL",
    "SELECT count(*) FROM other a NATURAL JOIN orders b WHERE 1 / n > 0",
    "SELECT s.x FROM other o LEFT JOIN (SELECT id, 1 / n AS x FROM orders) s ON s.id = o.id",
    "SELECT s.x FROM other o LEFT JOIN (SELECT id, 1 / n AS x FROM orders) s ON s.id = o.id WHERE s.x > 0",
    "SELECT s.x FROM other o FULL JOIN (SELECT id, 1 / n AS x FROM orders) s ON s.id = o.id",
    "SELECT s.x FROM other o LEFT JOIN LATERAL (SELECT 1 / t.n AS x FROM orders t WHERE t.id = o.id) s ON true",
    "SELECT o.id, (SELECT 1 / t.n FROM orders t WHERE t.id = o.id) FROM other o",
    "SELECT o.id FROM other o WHERE o.id IN (SELECT 1 / t.n FROM orders t)",
    "SELECT o.id FROM other o WHERE o.id NOT IN (SELECT 1 / t.n FROM orders t)",
    "SELECT o.id FROM other o WHERE EXISTS (SELECT 1 FROM orders t WHERE 1 / t.n = o.id)",
    "SELECT x FROM (SELECT n AS x FROM orders UNION ALL SELECT 1) q WHERE 1 / x > 0",
    "SELECT x FROM (SELECT 1 / n AS x FROM orders UNION ALL SELECT 1) q WHERE x > 0",
    "SELECT x FROM (SELECT n AS x FROM orders GROUP BY n) q WHERE 1 / x > 0",
    "SELECT x FROM (SELECT DISTINCT n AS x FROM orders) q WHERE 1 / x > 0",
    "SELECT x FROM (SELECT n AS x, row_number() OVER (PARTITION BY n) FROM orders) q WHERE 1 / x > 0",
    "SELECT x FROM (SELECT n AS x FROM orders LIMIT 10) q WHERE 1 / x > 0",
    "WITH q AS (SELECT n AS x FROM orders) SELECT x FROM q WHERE 1 / x > 0",
    "WITH q AS NOT MATERIALIZED (SELECT n AS x FROM orders) SELECT x FROM q WHERE 1 / x > 0",
    "SELECT sum(1 / n) FROM orders",
    "SELECT 1 / n, count(*) FROM orders GROUP BY 1 / n HAVING 1 / n > 0",
    "SELECT n, count(*) FROM orders GROUP BY n HAVING 1 / n > 0",
    "SELECT DISTINCT 1 / n FROM orders",
    "SELECT id FROM orders ORDER BY 1 / n LIMIT 1",
    "SELECT id FROM orders UNION SELECT 1 / n FROM orders",
    "SELECT id, label FROM orders WHERE 1 / n > 0 GROUP BY id",
    "SELECT t FROM orders t WHERE 1 / n > 0",
    "SELECT id FROM orders t WHERE ctid = '(0,4)' AND 1 / n > 0",
    "SELECT id FROM orders TABLESAMPLE bernoulli (100) WHERE 1 / n > 0",
    "SELECT id FROM orders AS o(tenant_id, id, a, b, c, d) WHERE 1 / c > 0",
    "SELECT id FROM vo WHERE 1 / n > 0",
    "SELECT t.id FROM vo t, LATERAL (SELECT o.id, 1 / t.n AS e, count(*) FROM other o GROUP BY o.id, 1 / t.n) q, other b",
    "SELECT t.id FROM vo t, LATERAL generate_series(1, 1 / t.n) g",
    "SELECT t.id FROM vo t, LATERAL (SELECT o.id FROM other o ORDER BY 1 / t.n LIMIT 1) q",
    "SELECT t.id FROM vo t, LATERAL (SELECT o.id FROM other o LIMIT 1 / t.n) q",
    "SELECT t.id FROM orders t, LATERAL (SELECT sum(o.id / t.n) AS s FROM other o) q, other b WHERE b.id = t.id",
    "SELECT id FROM v2 WHERE 1 / n > 0",
    "SELECT id FROM vbarrier WHERE 1 / n > 0",
    "SELECT id FROM vcomputed WHERE x IS NULL",
    "SELECT id FROM vcomputed WHERE x > 0",
    "SELECT id FROM vcomputed WHERE y BETWEEN 1 AND 2",
    "SELECT id FROM vcomputed NATURAL JOIN (SELECT 1 AS x) q",
    "SELECT o.id FROM other o JOIN vcomputed USING (id) WHERE vcomputed.x = o.id",
    "SELECT id FROM vcomputed ORDER BY id, x LIMIT 1",
    "SELECT id FROM vtwice WHERE x IN (1, 2)",
    "SELECT id FROM (SELECT * FROM vtwice) q WHERE y = 1",
    "SELECT id FROM orders t WHERE EXISTS (WITH q AS MATERIALIZED (SELECT 1 / t.n AS x) SELECT FROM q)",
    "SELECT id FROM orders WHERE 1 / n > 0 FOR UPDATE",
    "UPDATE orders SET amount = 1 / n WHERE 1 / n > 0",
    "UPDATE orders SET amount = (SELECT 1 / orders.n) WHERE id > 0",
    "UPDATE orders SET amount = 2 FROM other o WHERE 1 / orders.n = o.id RETURNING 1 / orders.n",
    "DELETE FROM orders WHERE 1 / n > 0",
    "DELETE FROM orders USING other o WHERE o.id = orders.id AND 1 / orders.n > 0",
    "WITH d AS (DELETE FROM orders WHERE id > 0 RETURNING 1 / n AS x) SELECT x FROM d WHERE x > 0",
    "INSERT INTO other SELECT id + 100, label, 1 / n FROM orders",
    "MERGE INTO orders t USING other o ON t.id = o.id AND 1 / t.n > 0 WHEN MATCHED THEN UPDATE SET amount = 1",
    "MERGE INTO orders t USING other o ON t.id = o.id WHEN MATCHED THEN UPDATE SET amount = 1 / t.n",
    "MERGE INTO other t USING orders o ON t.id = o.id AND 1 / o.n > 0 WHEN MATCHED THEN DELETE",
]


@pytest.mark.parametrize("form", PREDICATES)
@pytest.mark.parametrize("sql", TRAPS)
def test_no_trap_is_sprung_by_a_hidden_row(ground: Ground, sql: str, form: str) -> None:
    """No division by zero, whatever form the predicate has; a refusal is `row_filter_unsafe` and nothing else."""
    attempt = ground.attempt(sql, writing(PREDICATES[form]))
    if attempt.blocked:
        assert attempt.decision.rule == "row_filter_unsafe"
    else:
        assert attempt.error is None, attempt.decision.rewritten_sql


@pytest.mark.parametrize("form", PREDICATES)
def test_most_traps_are_answered_and_not_refused(ground: Ground, form: str) -> None:
    """A fence, not a refusal, is the answer to nearly all of them: five at the most are refused."""
    refused = [sql for sql in TRAPS if ground.attempt(sql, writing(PREDICATES[form])).blocked]
    assert len(refused) <= 5, refused


PLANNERS = {
    "default": (),
    "nested loops in parallel": (
        "SET parallel_setup_cost = 0",
        "SET parallel_tuple_cost = 0",
        "SET min_parallel_table_scan_size = 0",
        "SET enable_hashjoin = off",
        "SET enable_mergejoin = off",
    ),
    "merge joins": ("SET enable_hashjoin = off", "SET enable_nestloop = off"),
    "indexes": ("SET enable_seqscan = off", "SET enable_bitmapscan = off"),
    "as written": ("SET join_collapse_limit = 1", "SET from_collapse_limit = 1"),
}


class Big(Ground):
    """Sixty thousand rows, nine tenths hidden, an index on every column, statistics: the planner has a choice."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("DELETE FROM orders")
            conn.execute("""
                INSERT INTO orders SELECT i, 1 + (i % 10 > 0)::int, i, CASE WHEN i % 10 > 0 THEN 'HIDDEN' || i ELSE '1' END,
                  CASE WHEN i % 10 > 0 THEN 0 ELSE 5 END, i FROM generate_series(1, 60000) AS i
            """)
            for column in ("tenant_id", "n", "label", "amount"):
                conn.execute(f"CREATE INDEX ON orders ({column})")
            conn.execute("ANALYZE")


@pytest.fixture(scope="module")
def big(server_dsn: str) -> Iterator[Big]:
    with temporary_database(server_dsn, "adversary_big") as dsn:
        big = Big(dsn)
        yield big
        big.close()


BIG_TRAPS = [
    "SELECT id FROM orders WHERE label::int > 0 LIMIT 3",
    "SELECT id FROM orders WHERE id < 500 AND 1 / n > 0",
    "SELECT id FROM orders WHERE n >= 0 AND 1 / n > 0 ORDER BY id LIMIT 3",
    "SELECT b.id FROM orders b JOIN other o ON o.id = b.id AND 1 / b.n > 0",
    "SELECT s.x FROM other o LEFT JOIN (SELECT id, label::int AS x FROM orders) s ON s.id = o.id * 10",
    "SELECT o.id, s.x FROM other o LEFT JOIN (SELECT id, 1 / n AS x FROM orders) s ON s.id = o.id LEFT JOIN other p USING (id)",
    "SELECT 1 / b.n FROM orders b, other o WHERE o.id * 10 = b.id",
    "SELECT q.x FROM orders b, LATERAL (SELECT 1 / b.n AS x) q WHERE b.id < 100",
    "SELECT q.x FROM orders b LEFT JOIN LATERAL (SELECT 1 / b.n AS x) q ON true WHERE b.id < 100",
    "SELECT q.x FROM other o LEFT JOIN (orders b LEFT JOIN LATERAL (SELECT 1 / b.n AS x OFFSET 0) q ON true) ON b.id = o.id",
    "SELECT count(*) FROM (SELECT 1 / n AS x FROM orders GROUP BY 1 / n) q",
    "SELECT max(1 / n), min(label::int) FROM orders",
    "SELECT 1 / n, count(*) FROM orders GROUP BY 1",
    "SELECT x FROM (SELECT id, row_number() OVER (ORDER BY 1 / n) AS x FROM orders) q WHERE x < 3",
    "SELECT id FROM other WHERE id IN (SELECT 1 / n FROM orders)",
    "SELECT id, (SELECT 1 / n FROM orders b WHERE b.id = other.id) FROM other",
    "SELECT id FROM orders WHERE id < 100 UNION SELECT 1 / n FROM orders WHERE id < 100",
    "SELECT string_agg(label::int::text, ',' ORDER BY 1 / n) FROM orders WHERE id < 200",
    "SELECT id FROM vo WHERE label::int > 0 LIMIT 3",
    "SELECT id FROM orders ORDER BY id, 1 / n LIMIT 1",
    "SELECT s.id FROM (SELECT id, 1 / n AS x FROM orders) s ORDER BY s.id, s.x LIMIT 1",
    "SELECT id FROM vcomputed ORDER BY id, x LIMIT 1",
    "UPDATE other SET n = 1 / b.n FROM orders b WHERE b.id = other.id",
    "DELETE FROM orders WHERE id < 50 RETURNING 1 / n",
]


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("sql", BIG_TRAPS)
def test_no_plan_of_a_large_table_springs_a_trap(big: Big, sql: str, planner: str) -> None:
    """Costs and statistics are real here; no choice of the planner's reads a hidden value."""
    for form in ("cheap", "in", "exists"):
        attempt = big.attempt(sql, writing(PREDICATES[form]), settings=PLANNERS[planner])
        assert attempt.blocked or not attempt.leaks, (form, attempt.decision.rewritten_sql)


#: What a definition would evaluate on every row there is.
DEFINITIONS = [
    "ALTER TABLE orders ADD CHECK (n > 0)",
    "ALTER TABLE orders ALTER n SET NOT NULL",
    "ALTER TABLE orders ALTER label TYPE int USING label::int",
    "ALTER TABLE orders ALTER tenant_id TYPE int USING 1",
    "ALTER TABLE orders ADD COLUMN z int GENERATED ALWAYS AS (1 / n) STORED",
    "ALTER TABLE orders ADD UNIQUE (n)",
    "ALTER TABLE orders ADD EXCLUDE (n WITH =)",
    "ALTER TABLE orders ADD FOREIGN KEY (n) REFERENCES other (id)",
    "ALTER TABLE orders RENAME COLUMN tenant_id TO z",
    "ALTER TABLE orders RENAME COLUMN user_id TO tenant_id",
    "ALTER TABLE orders RENAME TO z",
    "ALTER TABLE orders SET SCHEMA vault",
    "ALTER TABLE other ATTACH PARTITION orders DEFAULT",
    "ALTER SCHEMA public RENAME TO z",
    "CREATE UNIQUE INDEX ON orders (n)",
    "CREATE INDEX ON orders ((1 / n))",
    "CREATE INDEX ON orders (id) WHERE 1 / n > 0",
    "CREATE MATERIALIZED VIEW z AS SELECT * FROM orders",
    "CREATE VIEW z AS SELECT * FROM orders; SELECT * FROM z",
    "CREATE TEMP VIEW z AS SELECT * FROM orders; SELECT * FROM z",
    "CREATE TABLE z () INHERITS (orders); SELECT * FROM z",
    "EXPLAIN ANALYZE SELECT * FROM orders",
    "EXPLAIN ANALYZE SELECT * FROM vo",
    "ALTER TABLE orders ADD COLUMN z int REFERENCES other (id)",
    "SELECT * FROM mo",
]


@pytest.mark.parametrize("sql", DEFINITIONS)
def test_definitions_look_at_no_hidden_row(ground: Ground, sql: str) -> None:
    """Constraints, indexes, type changes and new names of a filtered table are refused."""
    assert ground.attempt(sql, writing(PREDICATES["cheap"])).blocked


RELATIONS = [
    ("SELECT * FROM orders", 3),
    ("TABLE orders", 3),
    ("SELECT * FROM ONLY orders", 3),
    ("SELECT * FROM part", 1),
    ("SELECT * FROM part1", 1),
    ("SELECT * FROM part2", 0),
    ("SELECT * FROM parent", 2),
    ("SELECT * FROM ONLY parent", 1),
    ("SELECT * FROM parent *", 2),
    ("SELECT * FROM child", 1),
    ("SELECT * FROM grandchild", 0),
    ("SELECT tableoid::regclass, * FROM parent", 2),
    ("SELECT * FROM vo", 3),
    ("SELECT * FROM v1", 3),
    ("SELECT * FROM v2", 3),
    ("SELECT * FROM vbarrier", 3),
    ("SELECT * FROM vgroup", 1),
    ("SELECT * FROM vrecursive", 3),
    ("SELECT * FROM vunion", 9),
    ("SELECT * FROM vscalar", 6),
    ("SELECT * FROM vpart", 1),
    ("SELECT vo FROM vo", 3),
    ("SELECT row_to_json(vo) FROM vo", 3),
    ("SELECT * FROM orders AS o(tenant_id, id)", 3),
    ("SELECT tenant_id FROM orders AS tenant_id", 3),
    ("SELECT * FROM orders WHERE tenant_id = 2 OR true", 3),
    ("SELECT * FROM orders WHERE id = 4 OR id = 1 -- the end", 1),
    ("SELECT * FROM orders o1, orders o2", 9),
    ("SELECT * FROM other LEFT JOIN orders USING (id)", 6),
    ("SELECT * FROM orders RIGHT JOIN other USING (id)", 6),
    ("SELECT * FROM orders FULL JOIN other USING (id)", 6),
    ("SELECT * FROM other NATURAL LEFT JOIN (SELECT id, label FROM orders) o", 6),
    (
        "SELECT * FROM other LEFT JOIN (orders JOIN users ON users.id = orders.user_id) ON other.id = orders.id",
        6,
    ),
    (
        "SELECT * FROM other LEFT JOIN (users LEFT JOIN orders ON users.id = orders.user_id) ON other.id = users.id",
        6,
    ),
    ("SELECT * FROM (other CROSS JOIN orders) j", 18),
    ("SELECT * FROM other LEFT JOIN orders ON true", 18),
    ("SELECT id FROM orders UNION ALL SELECT id FROM orders", 6),
    ("SELECT id FROM other EXCEPT SELECT id FROM orders", 3),
    ("SELECT * FROM generate_series(1, (SELECT count(*)::int FROM orders))", 3),
    ("SELECT * FROM other LIMIT (SELECT count(*) FROM orders)", 3),
    ("SELECT DISTINCT tenant_id FROM orders", 1),
    ("SELECT * FROM orders TABLESAMPLE bernoulli (100)", 3),
    ("SELECT * FROM orders WHERE ctid >= '(0,1)'", 3),
    ("UPDATE orders SET n = 9 WHERE id > 0 RETURNING old.*, new.*", 3),
    ("UPDATE parent SET n = 9 WHERE id > 0 RETURNING *", 2),
    ("DELETE FROM part WHERE id > 0 RETURNING *", 1),
    ("DELETE FROM other USING orders o WHERE o.id = other.id RETURNING *", 3),
    ("UPDATE other SET val = o.label FROM orders o WHERE o.id = other.id RETURNING *", 3),
    ("WITH d AS (DELETE FROM orders WHERE id > 0 RETURNING *) SELECT * FROM d", 3),
    (
        "MERGE INTO other t USING orders o ON t.id = o.id WHEN MATCHED THEN UPDATE SET val = o.label RETURNING *",
        3,
    ),
    (
        "MERGE INTO orders t USING other o ON t.id = o.id WHEN MATCHED THEN UPDATE SET label = 'q' RETURNING t.*",
        3,
    ),
    ("INSERT INTO orders SELECT id + 10, tenant_id, user_id, label, n, amount FROM orders RETURNING *", 3),
]


@pytest.mark.parametrize(("sql", "count"), RELATIONS)
def test_only_the_visible_rows_come_out(ground: Ground, sql: str, count: int) -> None:
    """Partitions, parents, children, views over them, joins on either side, writes: the same rows everywhere."""
    attempt = ground.attempt(sql, writing(BOTH))
    assert attempt.error is None
    assert attempt.rows is not None, attempt.decision.reason
    assert "HIDDEN" not in attempt.answer, attempt.decision.rewritten_sql
    assert len(attempt.rows) == count, attempt.decision.rewritten_sql


VIOLATIONS = [
    "INSERT INTO orders VALUES (9, 2, 1, 'x', 1, 1)",
    "INSERT INTO orders (id) VALUES (9)",
    "INSERT INTO orders VALUES (9, 1, 1, 'x', 1, 1), (10, 2, 1, 'x', 1, 1)",
    "INSERT INTO orders SELECT id + 10, 2, user_id, label, n, amount FROM orders",
    "INSERT INTO part VALUES (9, 2, 1, 'x')",
    "INSERT INTO part2 VALUES (9, 2, 1, 'x')",
    "INSERT INTO child VALUES (9, 2, 1, 'x', 'y')",
    "UPDATE orders SET tenant_id = 2 WHERE id = 1",
    "UPDATE orders SET (tenant_id, n) = (SELECT 2, 2) WHERE id = 1",
    "UPDATE orders SET tenant_id = NULL WHERE id = 1",
    "UPDATE child SET tenant_id = 2 WHERE id > 0",
    "UPDATE part SET tenant_id = 2 WHERE id = 1",
    "INSERT INTO orders VALUES (1, 1, 1, 'x', 1, 1) ON CONFLICT (id) DO UPDATE SET tenant_id = 2",
    "INSERT INTO orders VALUES (4, 1, 1, 'x', 1, 1) ON CONFLICT (id) DO UPDATE SET label = 'x'",
    "INSERT INTO orders VALUES (4, 1, 1, 'x', 1, 1) ON CONFLICT (id) DO UPDATE SET label = orders.label RETURNING label",
    "WITH i AS (INSERT INTO orders VALUES (9, 2, 1, 'x', 1, 1)) SELECT 1",
    "WITH u AS (UPDATE orders SET tenant_id = 2 WHERE id > 0 RETURNING id) SELECT id FROM u",
    "MERGE INTO orders t USING other o ON t.id = o.id WHEN MATCHED THEN UPDATE SET tenant_id = 2",
    "MERGE INTO orders t USING (SELECT 9 AS id) o ON t.id = o.id WHEN NOT MATCHED THEN INSERT VALUES (9, 2, 1, 'x', 1, 1)",
]


@pytest.mark.parametrize("sql", VIOLATIONS)
def test_no_row_is_written_out_of_sight(ground: Ground, sql: str) -> None:
    """A row that the filter would hide makes the server raise the guard's own error, and nothing of it tells a value."""
    attempt = ground.attempt(sql, writing(BOTH))
    assert attempt.error is not None, attempt.decision.rewritten_sql
    assert "guarddb:row_filter_violation:" in str(attempt.error)
    assert "HIDDEN" not in attempt.answer


def test_counters_of_hidden_rows_are_refused(ground: Ground) -> None:
    """reltuples by any name, the statistics views, sampled values."""
    columns = ", ".join(f"a{i}" for i in range(12))
    refused = [
        "SELECT reltuples FROM pg_class",
        "SELECT c FROM pg_class c",
        "SELECT * FROM pg_class",
        f"SELECT * FROM pg_class AS c({columns})",
        f"SELECT a9, a10, a11 FROM pg_class AS c({columns})",
        "SELECT n_live_tup FROM pg_stat_user_tables",
        "SELECT * FROM pg_stats",
        "SELECT pg_relation_size('orders')",
        "SELECT * FROM pg_stat_all_tables",
        "SELECT last_value FROM pg_sequences",
        "SELECT count(*) FROM pg_locks",
        "SELECT reads, hits FROM pg_stat_io",
        "SELECT blks_hit FROM pg_stat_slru",
        "SELECT buffers_alloc FROM pg_stat_bgwriter",
        "SELECT pg_stat_get_buf_alloc()",
        "SELECT * FROM pg_stat_get_slru()",
        "SELECT indexrelname, last_idx_scan FROM pg_stat_user_indexes",
        "SELECT max(last_seq_scan) FROM pg_stat_all_tables",
    ]
    allowed = [
        "SELECT relname, last_autovacuum FROM pg_stat_user_tables",
        "SELECT relname FROM pg_class WHERE relname = 'orders'",
        "SELECT count(*) FROM pg_attribute",
    ]
    profile = filters("tenant_id = 1")
    assert [sql for sql in refused if not ground.attempt(sql, profile).blocked] == []
    assert [sql for sql in allowed if ground.attempt(sql, profile).blocked] == []


#: Numbers and times of the statistics views that stay open: of sessions, commands and settings, not of rows, pages or bytes.
_OPEN_NUMBERS = """
    pid leader_pid client_port query_id client_serial bits sync_priority sender_port current_locker_pid
    vacuum_count autovacuum_count analyze_count autoanalyze_count total_vacuum_time total_autovacuum_time
    total_analyze_time total_autoanalyze_time archived_count failed_count
    num_timed num_requested num_done restartpoints_timed restartpoints_req restartpoints_done
    numbackends xact_commit xact_rollback conflicts deadlocks checksum_failures session_time idle_in_transaction_time
    sessions sessions_abandoned sessions_fatal sessions_killed parallel_workers_to_launch parallel_workers_launched
    child_tables_total child_tables_done delay_time lockers_total lockers_done partitions_total partitions_done
    index_rebuild_count index_vacuum_count indexes_total indexes_processed
    backup_total backup_streamed tablespaces_total tablespaces_streamed
    apply_error_count sync_error_count
    backend_start xact_start query_start state_change stats_reset checksum_last_failure last_archived_time last_failed_time
    last_vacuum last_autovacuum last_analyze last_autoanalyze
"""
#: What a standby, a subscriber or a restart counts; and the log's places in views that are closed where something is written.
_OPEN_VIEWS = frozenset(
    ("pg_stat_recovery_prefetch", "pg_stat_subscription", "pg_stat_wal_receiver", "pg_stat_replication")
)


def test_every_number_of_the_statistics_views_has_been_looked_at(dsn: str) -> None:
    """A new PostgreSQL brings new counters; each is closed, or is of something that no row moves."""
    numbers = """
        SELECT c.relname, a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind = 'v' AND c.relname LIKE 'pg\\_stat\\_%'
        AND a.atttypid IN ('int8'::regtype, 'float8'::regtype, 'numeric'::regtype, 'int4'::regtype, 'pg_lsn'::regtype,
          'timestamptz'::regtype)
        AND a.attname NOT LIKE 'confl\\_%'"""
    looked_at = set(_OPEN_NUMBERS.split())
    with psycopg.connect(dsn) as plain:
        columns = plain.execute(numbers).fetchall()
    unseen = [
        (view, column)
        for view, column in columns
        if view not in _OPEN_VIEWS
        and column not in looked_at
        and f"pg_catalog.{view}" not in RESTRICTED
        and not any(
            closed.columns is None or column in closed.columns
            for closed in closed_columns("pg_catalog", view)
            if not closed.tells or "filter" in closed.tells
        )
    ]
    assert len(columns) > 200
    assert unseen == []


def test_the_classes_are_complete() -> None:
    """The classes have the size they were written with: one that shrinks by an edit is noticed."""
    sizes = [len(set(c)) for c in (TRAPS, BIG_TRAPS, DEFINITIONS, RELATIONS, VIOLATIONS)]
    assert sizes == [96, 24, 25, 52, 19]
    assert (len(PREDICATES), len(PLANNERS)) == (5, 5)


@pytest.mark.parametrize(
    "values",
    [
        "VALUES (5, 2, 'x')",
        "VALUES (7, 2, 'x'), (8, 1, 'y')",
        "SELECT o.id + 1, 1 + o.n, o.val FROM other AS o WHERE o.id > 3",
    ],
)
@pytest.mark.parametrize("target", ["", " (id)"])
def test_a_row_that_may_not_be_written_says_nothing_of_its_key(
    ground: Ground, values: str, target: str
) -> None:
    """Id 5 is a hidden row's, 7 is nobody's: both answers are the filter's."""
    sql = f"INSERT INTO orders (id, tenant_id, label) {values} ON CONFLICT{target} DO NOTHING"
    attempt = ground.attempt(sql, writing(filters("tenant_id = 1")))
    assert not attempt.blocked, attempt.decision.reason
    assert "row_filter_violation" in str(attempt.error)


def test_a_row_without_a_value_for_the_filter_is_not_proposed(ground: Ground) -> None:
    sql = "INSERT INTO orders (id, label) VALUES (5, 'x') ON CONFLICT DO NOTHING"
    assert ground.attempt(sql, writing(filters("tenant_id = 1"))).decision.rule == "row_filter_unsafe"
    written = (
        "INSERT INTO orders (id, tenant_id, label) VALUES (5, 1, 'x'), (9, '1', 'y') ON CONFLICT DO NOTHING"
    )
    attempt = ground.attempt(written, writing(filters("tenant_id = 1")))
    assert attempt.error is None
    assert not attempt.blocked
