"""Ordinary SQL simply runs, and what is wrong with a statement is PostgreSQL's to say, in terms of the agent's own text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb.cli.psql_commands import Question, command_sql
from tests.fix_server import temporary_database

SCHEMA = """
CREATE TABLE customers (id int PRIMARY KEY, name text, email text, phone text, tenant_id int);
INSERT INTO customers SELECT i, 'n' || i, 'e' || i, 'p' || i, i % 2 FROM generate_series(1, 6) AS i;
CREATE TABLE scores (id int PRIMARY KEY, customer_id int REFERENCES customers, points numeric, tenant_id int);
INSERT INTO scores SELECT i, i, i, i % 2 FROM generate_series(1, 6) AS i;
"""
PROFILE: dict[str, Any] = {
    "name": "ordinary",
    "masking_rules": [
        {"table": "customers", "column": "email", "kind": "hash"},
        {"table": "customers", "column": "phone", "kind": "null"},
    ],
    "row_filters": [{"table": "scores", "predicate": "tenant_id = 1"}],
}
OPEN: dict[str, Any] = {"name": "open"}
Asked = Callable[..., Any]


@pytest.fixture(scope="module")
def database(server_dsn: str) -> Iterator[str]:
    with temporary_database(server_dsn, "ordinary_sql") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SCHEMA)
        yield dsn


@pytest.fixture
def ask(database: str) -> Asked:
    """Rows of a statement under a profile, or the server's error."""

    def one(sql: str, profile: dict[str, Any] = PROFILE) -> Any:
        with guarddb.connect(database, policy=profile, autocommit=True) as conn:
            cur = conn.execute(sql.encode())
            return cur.fetchall() if cur.description else cur.statusmessage

    return one


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("SELECT c.emial FROM customers AS c", "emial"),
        ("SELECT emial FROM customers", "emial"),
        ("SELECT s.phone FROM scores AS s JOIN customers AS c ON c.id = s.customer_id", "phone"),
        ("SELECT c.name FROM customers AS c WHERE c.nothing = 1", "nothing"),
        ("SELECT name FROM customers ORDER BY emial", "emial"),
    ],
)
def test_an_unknown_column_of_a_masked_table_is_postgresqls_to_refuse(
    ask: Asked, sql: str, name: str
) -> None:
    with pytest.raises(psycopg.errors.UndefinedColumn) as wrong:
        ask(sql)
    assert name in str(wrong.value.diag.message_primary)
    # The position is that in the agent's text.
    position = int(str(wrong.value.diag.statement_position))
    assert name in sql[position - 1 : position + 12]


def test_a_function_that_does_not_exist_is_postgresqls_to_refuse(ask: Asked) -> None:
    for sql in ("SELECT year(current_date)", "SELECT id FROM scores WHERE year(current_date) = 2024"):
        with pytest.raises(psycopg.errors.UndefinedFunction):
            ask(sql)


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT c.count FROM customers AS c", [(6,)]),
        ("SELECT count(c) FROM customers AS c", [(6,)]),
        ("SELECT count(customers.*) FROM customers", [(6,)]),
        ("SELECT count(s.*) FROM scores AS s", [(3,)]),
        ("SELECT s.tenant_id, count(s.*) FROM scores AS s GROUP BY s.tenant_id", [(1, 3)]),
        ("SELECT s.id, s.tenant_id, sum(s.points) FROM scores AS s WHERE 10 / s.points > 2 GROUP BY 1 ORDER BY 1",
         [(1, 1, 1), (3, 1, 3)]),
        ("SELECT s.id AS key, s.tenant_id FROM scores AS s WHERE 10 / s.points > 2 GROUP BY key ORDER BY 1",
         [(1, 1), (3, 1)]),
    ],
)  # fmt: skip
def test_whole_rows_are_counted_and_a_key_groups_behind_a_fence(
    ask: Asked, sql: str, rows: list[Any]
) -> None:
    assert ask(sql) == rows


MONITORING = [
    "pg_relation_size('customers')",
    "pg_total_relation_size('customers')",
    "pg_table_size('customers')",
    "pg_indexes_size('customers')",
    "pg_database_size(current_database())",
    "(SELECT count(*) FROM pg_partition_tree('customers'))",
    "(SELECT count(*) FROM pg_partition_ancestors('customers'))",
    "pg_is_in_recovery()",
    "pg_current_wal_lsn()",
    "pg_last_wal_receive_lsn()",
    "pg_last_wal_replay_lsn()",
    "pg_last_xact_replay_timestamp()",
    "(SELECT count(*) FROM pg_control_system())",
    "(SELECT count(*) FROM pg_control_checkpoint())",
    "pg_notification_queue_usage()",
    "pg_blocking_pids(pg_backend_pid())",
    "pg_postmaster_start_time()",
    "setseed(0.5)",
]


@pytest.mark.parametrize("call", MONITORING)
def test_monitoring_runs_under_an_open_profile(ask: Asked, call: str) -> None:
    assert len(ask(f"SELECT {call}", OPEN)) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT pid, state, wait_event, datname FROM pg_stat_activity",
        "SELECT subname, subenabled FROM pg_subscription",
        "SELECT relname, last_autovacuum FROM pg_stat_user_tables",
        "SELECT relname, relkind FROM pg_class",
    ],
)
def test_views_of_the_servers_are_read_by_column_also_under_a_filter(ask: Asked, sql: str) -> None:
    assert ask(sql) is not None


def test_a_profile_opens_a_group_of_functions_by_name(ask: Asked) -> None:
    sql = "SELECT pg_total_relation_size('scores')"  # (it tells how many rows are hidden)
    with pytest.raises(guarddb.PolicyViolation):
        ask(sql)
    opened = {**PROFILE, "name": "with sizes", "guarddb": {"function_groups": ["sizes"]}}
    assert len(ask(sql, opened)) == 1


@pytest.mark.parametrize(
    ("sql", "limited"),
    [
        ("SELECT count(*) FROM scores", False),
        ("SELECT max(points), min(points) FROM scores", False),
        ("SELECT EXISTS (SELECT FROM scores)", False),
        ("SELECT 1", False),
        ("SELECT tenant_id, count(*) FROM scores GROUP BY tenant_id", True),
        ("SELECT id FROM scores", True),
        ("SELECT generate_series(1, 100)", True),
    ],
)
def test_no_limit_is_added_where_one_row_is_certain(sql: str, limited: bool) -> None:
    decision = guarddb.evaluate(sql, {"name": "capped", "max_rows": 5})
    assert ("LIMIT" in (decision.rewritten_sql or "")) == limited


def test_an_error_speaks_of_the_agents_text_and_not_of_the_filters(ask: Asked) -> None:
    sql = "SELECT id,\n  points FROM scores WHERE points > 0 AND nothing > 1"
    with pytest.raises(psycopg.Error) as wrong:
        ask(sql)
    told = str(wrong.value)
    assert "tenant_id" not in told
    assert "points FROM scores WHERE points > 0 AND nothing > 1" in told
    assert "LINE 2:" in told


def test_reasons_are_true(ask: Asked) -> None:
    assert ask("SELECT information_schema._pg_char_max_length(1043, 14)", OPEN) == [(10,)]
    with pytest.raises(psycopg.Error) as refused:
        ask("SELECT textin('x'::cstring)", OPEN)
    assert "chosen at run time" not in str(refused.value)
    setting = {"name": "settings", "statement_rules": {"allow": ["select", "set"]}}
    for sql in ("SET work_mem = '5MB'", "SELECT set_config('work_mem', '5MB', false)"):
        assert ask(sql, setting)


def test_psqls_descriptions_run_under_a_mask_and_a_filter(database: str) -> None:
    def passes(question: Question) -> bool:
        with guarddb.connect(database, policy=PROFILE, autocommit=True) as conn:
            for sql in question.statements:
                try:
                    conn.execute(sql.encode(), question.parameters or None)
                except guarddb.PolicyViolation:
                    continue
                return True
        return False

    for command in (r"\d", r"\d scores", r"\d customers", r"\d+ scores", r"\dt", r"\dv", r"\di", r"\dn"):
        questions = command_sql(command)
        assert questions, command
        for question in questions:
            assert passes(question), command


#: PostgreSQL takes a name behind `t.*` and pays no heed to it.
NAMED_STARS = (
    ("SELECT c.*{} FROM customers AS c ORDER BY id", " AS a"),
    ("SELECT c.*{}, s.*{} FROM customers AS c JOIN scores AS s ON s.id = c.id ORDER BY c.id", " a"),
    ("SELECT (c.*){}, 1 AS one FROM customers AS c ORDER BY c.id", ' AS "a b"'),
    (
        "SELECT x.id, x.phone FROM (SELECT c.*{} FROM customers AS c) AS x ORDER BY 1",
        " /* all */ AS /* of */ x -- them\n",
    ),
    ("WITH w AS (SELECT c.*{} FROM customers AS c) SELECT w.*{} FROM w ORDER BY id", " AS select"),
    (
        "SELECT x.* FROM scores AS s, LATERAL (SELECT c.*{} FROM customers AS c WHERE c.id = s.id) AS x ORDER BY s.id",
        " AS from",
    ),
)


@pytest.mark.parametrize(("sql", "name"), NAMED_STARS)
def test_a_star_with_a_name_is_a_star(ask: Asked, sql: str, name: str) -> None:
    assert ask(sql.replace("{}", name)) == ask(sql.replace("{}", ""))


WRITER: dict[str, Any] = {**PROFILE, "name": "writer", "access_mode": "read_write"}
#: PostgreSQL refuses to read from a WITH query that returns nothing. What a filter checks of a written row returns something.
RETURNS_NOTHING = (
    "WITH w AS (INSERT INTO scores VALUES (90, 1, 1, 1)) SELECT count(*) FROM w",
    "WITH w AS (INSERT INTO scores VALUES (90, 1, 1, 1)) SELECT * FROM w AS x",
    "WITH w AS (UPDATE scores SET tenant_id = 1 WHERE id = 1) SELECT 1 FROM customers WHERE EXISTS (SELECT FROM w)",
    "WITH w AS (UPDATE scores SET tenant_id = 1 WHERE id = 1), x AS (SELECT 1 FROM w) SELECT 1",
    "WITH w AS (DELETE FROM customers WHERE id = 1) DELETE FROM scores USING w WHERE scores.id = 1",
    (
        "WITH w AS (MERGE INTO scores AS s USING customers AS c ON c.id = s.id WHEN MATCHED THEN UPDATE SET points = 1)"
        " SELECT count(*) FROM w"
    ),
)


@pytest.mark.parametrize("sql", RETURNS_NOTHING)
def test_what_returns_nothing_is_not_read_from(database: str, ask: Asked, sql: str) -> None:
    with (
        psycopg.connect(database) as conn,
        pytest.raises(psycopg.errors.FeatureNotSupported, match="RETURNING"),
    ):
        conn.execute(sql.encode())
    with pytest.raises(guarddb.PolicyViolation, match="has no RETURNING clause"):
        ask(sql, WRITER)


def test_what_nobody_reads_from_needs_no_returning(database: str) -> None:
    with guarddb.connect(database, policy=WRITER) as conn:
        cur = conn.execute("WITH w AS (INSERT INTO scores VALUES (91, 1, 1, 1)) SELECT 1")
        assert cur.fetchall() == [(1,)]
        cur = conn.execute(
            "WITH w AS (UPDATE scores SET points = 5 WHERE id = 91 RETURNING id) SELECT id FROM w"
        )
        assert cur.fetchall() == [(91,)]
        conn.rollback()
