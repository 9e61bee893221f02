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
CREATE FUNCTION is_label(int, text) RETURNS bool LANGUAGE sql STABLE AS 'SELECT label_of($1) = $2';
CREATE OPERATOR =~= (FUNCTION = is_label, LEFTARG = int, RIGHTARG = text);
CREATE FUNCTION is_near(text, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT lower($1) = lower($2)';
CREATE OPERATOR ~=~ (FUNCTION = is_near, LEFTARG = text, RIGHTARG = text);
CREATE TYPE named AS (label text);
CREATE FUNCTION to_named(int) RETURNS named LANGUAGE sql STABLE AS 'SELECT row(label_of($1))::named';
CREATE CAST (int AS named) WITH FUNCTION to_named(int);
CREATE FUNCTION is_there(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT label_of($1) IS NOT NULL';
CREATE DOMAIN order_id AS int CHECK (is_there(value));
CREATE VIEW by_operator AS SELECT i FROM generate_series(10, 12) AS i WHERE i =~= 'HIDDEN';
CREATE VIEW by_operator_again AS SELECT i + 1 AS j FROM by_operator;
CREATE VIEW by_cast AS SELECT (i::named).label FROM generate_series(10, 12) AS i;
CREATE VIEW by_domain AS SELECT CAST(i AS order_id) > 0 AS there FROM generate_series(1, 12) AS i;
CREATE VIEW near AS SELECT i FROM generate_series(1, 2) AS i WHERE 'a' ~=~ 'A';
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
    "SELECT i FROM by_operator",
    "SELECT count(*) FROM by_operator_again",
    "SELECT label FROM by_cast",
    "SELECT there FROM by_domain",
]
OPEN = [
    "COPY pg_class (relname, relkind) TO STDOUT",
    "SELECT tablename, attname FROM sampled",
    "SELECT t FROM sampled_again",
    "SELECT relname FROM sizes",
    "SELECT relname FROM live",
    "SELECT sequencename FROM all_numbers",
    "SELECT pid FROM activity",
    "SELECT price FROM prices",
    "SELECT i FROM near",
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
        assert answer(conn, "SELECT query FROM mine") == "[('SELECT query FROM mine',)]"
        assert answer(conn, "COPY pg_statistic TO STDOUT").startswith("table_not_allowed")


def test_ones_own_activity_does_not_show_what_was_written_into_the_text(fresh_dsn: str) -> None:
    """The server has the text that was sent, with the filter and the caller's value in it: no more open than current_query()."""
    with psycopg.connect(fresh_dsn, autocommit=True) as plain:
        plain.execute("CREATE TABLE t (id int, tenant text)")
        plain.execute("CREATE VIEW mine AS SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()")
    policy = {
        "name": "own text",
        "row_filters": [{"table": "t", "predicate": "tenant = current_setting('app.tenant')"}],
    }
    settings = {"app.tenant": "whose it is"}
    with guarddb.connect(fresh_dsn, policy=policy, settings=settings, autocommit=True) as conn:
        texts = (
            "SELECT query FROM pg_stat_activity, (SELECT count(*) FROM t) AS c",
            "SELECT query FROM pg_stat_activity, (SELECT count(*) FROM t) AS c WHERE pid = pg_backend_pid()",
            "SELECT a FROM pg_stat_activity AS a, (SELECT count(*) FROM t) AS c WHERE a.pid = pg_backend_pid()",
            "SELECT count(*) FROM pg_stat_activity, (SELECT count(*) FROM t) AS c WHERE query LIKE '%whose' || ' it%'",
            "SELECT query FROM mine, (SELECT count(*) FROM t) AS c",
        )
        shown = [answer(conn, text) for text in texts]
        assert not any("whose it is" in each for each in shown)
        assert shown[3] == "[(0,)]"
        assert "<insufficient privilege>" in shown[1]
        assert shown[4].startswith("table_not_allowed")


def test_activity_is_shown_by_row_and_others_texts_to_nobody(fresh_dsn: str) -> None:
    """Own session: its text. Others: all but theirs, however it is asked for."""
    policy = {"name": "by row", "access_mode": "read_write", "max_rows": 100}
    with (
        psycopg.connect(fresh_dsn, autocommit=True) as other,
        guarddb.connect(fresh_dsn, policy=policy, autocommit=True) as conn,
    ):
        other.execute("SELECT 'a secret of somebody else'")
        pid = other.info.backend_pid
        row = conn.execute(
            "SELECT state, datname, query FROM pg_stat_activity WHERE pid = %s", (pid,)
        ).fetchone()
        assert row == ("idle", conn.info.dbname, "<insufficient privilege>")
        mine = "SELECT query FROM pg_stat_activity AS a WHERE query LIKE '%my own words%' AND pid = pg_backend_pid()"
        assert "my own words" in str(conn.execute(mine).fetchone())
        conn.execute("CREATE TABLE kept (id int PRIMARY KEY, t text)")
        conn.execute("INSERT INTO kept VALUES (1, '')")
        for text in (
            "SELECT * FROM pg_stat_activity",
            "TABLE pg_stat_activity",
            "SELECT a FROM pg_stat_activity AS a",
            "SELECT a::text FROM pg_catalog.pg_stat_activity AS a",
            "SELECT to_jsonb(a) FROM pg_stat_activity AS a",
            "SELECT pg_catalog.pg_stat_activity.query FROM pg_catalog.pg_stat_activity",
            "SELECT x.q FROM pg_stat_activity AS x (a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, s, r, t, u, q)",
            "SELECT max(query), min(query) FROM pg_stat_activity",
            "WITH w AS (SELECT * FROM pg_stat_activity) SELECT query FROM w",
            "SELECT (SELECT string_agg(query, ';') FROM pg_stat_activity)",
            "SELECT * FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)",
            "SELECT query FROM pg_stat_activity UNION ALL SELECT 'x'",
            "UPDATE kept SET t = (SELECT string_agg(query, ';') FROM pg_stat_activity) WHERE id = 1 RETURNING t",
            "INSERT INTO kept SELECT 2, string_agg(query, ';') FROM pg_stat_activity RETURNING t",
            "CREATE TABLE copied AS SELECT query FROM pg_stat_activity",
            "SELECT * FROM copied",
            "SELECT query FROM pg_stat_activity WHERE query LIKE '%secret of%' AND pid <> pg_backend_pid()",
            "SELECT count(*) FROM pg_stat_activity WHERE length(query) = 33",
        ):
            cur = conn.execute(text)
            if cur.description:
                assert "secret of somebody" not in str(cur.fetchall()), text
        conn.execute("PREPARE p AS SELECT query FROM pg_stat_activity")
        assert "secret of somebody" not in str(conn.execute("EXECUTE p").fetchall())
        with conn.cursor().copy("COPY (SELECT query FROM pg_stat_activity) TO STDOUT") as copy:
            assert b"secret of somebody" not in b"".join(map(bytes, copy))
        with pytest.raises(guarddb.PolicyViolation):
            conn.execute("CREATE VIEW v AS SELECT query FROM pg_stat_activity")
