"""Every rule on a live connection, both ways: what it stops, and near-identical statements that pass."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

import guarddb
from guarddb.vocabulary import RULES
from tests.conformance.cases import AT_RUN_TIME, PASSES, PROFILES, STOPPED
from tests.conformance.conftest import Guard, attempt

STOPPED_CASES = [(rule, *case) for rule, cases in STOPPED.items() for case in cases]
PASSING_CASES = [(rule, *case) for rule, cases in PASSES.items() for case in cases]

#: Rules that have tests of their own below or in test_fields.py and test_bad_input.py.
ELSEWHERE = {
    "action_blocked",
    "risk_denied",
    "content_scan",
    "ok",
    "empty",
    "migration_block",  # tests/decision/test_migrations.py
    "max_affected_rows",  # tests/driver/test_caps.py
    "approval_rejected",  # tests/driver/test_approvals.py
    "approval_expired",
    "approval_unavailable",
    "query_budget_hour",
    "query_budget_day",
    "egress_budget",
    "policy_unavailable",
    "internal_error",
}


def test_every_rule_has_statements_of_both_kinds() -> None:
    assert set(STOPPED) == set(PASSES) == set(RULES) - ELSEWHERE
    assert all(len(cases) >= 3 for table in (STOPPED, PASSES) for cases in table.values())


def test_size_of_the_tables() -> None:
    assert len(STOPPED_CASES) >= 740
    assert len(PASSING_CASES) >= 270
    assert len(set(STOPPED_CASES)) == len(STOPPED_CASES)
    assert len(set(PASSING_CASES)) == len(PASSING_CASES)


@pytest.mark.parametrize(("rule", "profile", "sql"), STOPPED_CASES)
def test_is_stopped_by_the_rule(guarded: Guard, rule: str, profile: str, sql: str) -> None:
    """Refused with the rule's tag, a reason and a hint, and nothing of it was sent."""
    conn = guarded(profile)
    outcome = attempt(conn, sql)
    assert outcome.rule == rule, outcome
    assert isinstance(outcome.error, guarddb.PolicyViolation)
    assert outcome.error.sqlstate == "42501"
    assert str(outcome.error).startswith(f'blocked by policy "{profile}": ')
    assert conn.info.transaction_status == TransactionStatus.IDLE
    if rule in AT_RUN_TIME:
        assert (outcome.decision.verdict, outcome.decision.rule) == ("block", rule)
        return
    decision = outcome.decision
    assert (decision.verdict, decision.rule) == ("block", rule)
    assert str(outcome.error) == f'blocked by policy "{profile}": {decision.reason}'
    assert len(decision.reason) > 20
    assert "\n" not in decision.reason
    assert decision.hint
    assert outcome.error.hint == outcome.error.diag.message_hint == decision.hint
    assert not decision.masked_columns
    assert decision.rewritten_sql is None
    assert decision.row_filter_predicate is None


@pytest.mark.parametrize(("rule", "profile", "sql"), PASSING_CASES)
def test_near_identical_statement_passes(guarded: Guard, rule: str, profile: str, sql: str) -> None:
    """It runs on the server without an error, and the decision says so."""
    outcome = attempt(guarded(profile), sql)
    assert outcome.error is None, outcome
    assert (outcome.decision.rule, outcome.decision.hint) == ("ok", None)
    assert outcome.decision.verdict in ("allow", "mask", "row-filter")
    assert outcome.decision.rewritten_sql


# ------------------------------------------------------------------ classification through wrappers

WRAPPERS = {
    "plain": "{}",
    "explain": "EXPLAIN {}",
    "explain analyze": "EXPLAIN ANALYZE {}",
    "explain options": "EXPLAIN (ANALYZE, VERBOSE, COSTS OFF) {}",
    "prepare": "PREPARE wrapped AS {}",
    "cte": "WITH w AS ({} RETURNING 1) SELECT count(*) FROM w",
    "unused cte": "WITH w AS ({} RETURNING 1) SELECT 1",
    "second cte": "WITH v AS (SELECT 1), w AS ({} RETURNING 1) SELECT * FROM v",
    "cte of an insert": "WITH w AS ({} RETURNING 1) INSERT INTO categories SELECT 77, NULL, 'x' FROM w",
    "explained cte": "EXPLAIN WITH w AS ({} RETURNING 1) SELECT 1",
    "prepared cte": "PREPARE wrapped AS WITH w AS ({} RETURNING 1) SELECT 1",
    "copy": "COPY ({} RETURNING 1) TO STDOUT",
    "second statement": "SELECT 1; {}",
    "first statement": "{}; SELECT 1",
    "commented": "/* SELECT */ {} -- SELECT 1",
}
KERNELS = {
    "bounded delete": ("DELETE FROM settings WHERE key = 'theme'", {"reader": "read_only", "writer": "ok"}),
    "bounded update": (
        "UPDATE settings SET value = 'x' WHERE key = 'theme'",
        {"reader": "read_only", "writer": "ok"},
    ),
    "insert": ("INSERT INTO settings VALUES ('a', 'b')", {"reader": "read_only", "writer": "ok"}),
    "whereless delete": (
        "DELETE FROM settings",
        {"reader": "whereless_write", "writer": "whereless_write"},
    ),
    "whereless update": (
        "UPDATE settings SET value = 'x'",
        {"reader": "whereless_write", "writer": "whereless_write"},
    ),
    "forbidden": (
        "INSERT INTO settings VALUES ('a', pg_read_file('x'))",
        {"reader": "read_only", "writer": "forbidden_function"},
    ),
    "denied": (
        "DELETE FROM employees WHERE id = 1",
        {"denied": "table_denied", "listed": "table_not_allowed"},
    ),
}
WRAPPED = [
    (kernel, wrapper, profile)
    for kernel, (_, rules) in KERNELS.items()
    for wrapper in WRAPPERS
    for profile in rules
]


@pytest.mark.parametrize(("kernel", "wrapper", "profile"), WRAPPED)
def test_wrapper_hides_nothing(catalog: guarddb.Catalog, kernel: str, wrapper: str, profile: str) -> None:
    """A statement is judged alike wherever it stands, and by the first rule in the order of the policy."""
    sql, rules = KERNELS[kernel]
    decision = guarddb.evaluate(WRAPPERS[wrapper].format(sql), PROFILES[profile], catalog)
    expected = rules[profile]
    assert decision.rule == expected, decision


def test_size_of_the_wrapped() -> None:
    assert len(WRAPPED) == 2 * len(WRAPPERS) * len(KERNELS) == 210


ORDER = [
    ("reader", "DROP TABLE settings", "destructive_ddl"),
    ("reader", "ALTER TABLE settings DROP COLUMN value", "destructive_ddl"),
    ("denied", "DROP TABLE employees", "destructive_ddl"),
    ("denied", "TRUNCATE employees", "destructive_ddl"),
    ("reader", "WITH d AS (DELETE FROM settings RETURNING 1) SELECT 1", "whereless_write"),
    ("reader", "WITH d AS (DELETE FROM settings WHERE key = 'a' RETURNING 1) SELECT 1", "read_only"),
    ("listed", "DELETE FROM employees", "whereless_write"),
    ("reader", "SET search_path = hr", "search_path_change"),
    ("reader", "SET ROLE postgres", "role_change"),
    ("reader", "SET statement_timeout = 0", "protected_setting"),
    ("selects", "DO $$ BEGIN END $$", "anonymous_code"),
    ("reader", "INSERT INTO settings VALUES ('a', 'b') RETURNING order_count(1)", "read_only"),
    ("writer", "INSERT INTO settings VALUES ('a', 'b') RETURNING order_count(1)", "function_not_allowed"),
    ("reader", "COPY settings TO '/tmp/x'", "forbidden_function"),
    ("selects", "EXPLAIN SELECT pg_sleep(0)", "statement_not_allowed"),
    ("listed", "SELECT pg_sleep(0) FROM customers", "forbidden_function"),
    ("listed", "SELECT order_count(1) FROM customers", "function_not_allowed"),
    ("reader", "SELECT id FROM pg_authid FOR UPDATE", "locking_select"),
    ("denied_everywhere", "SELECT id FROM orders, employees", "table_denied"),
    ("masked", "UPDATE customers SET notes = ssn WHERE id = 1", "read_only"),
    ("masked", "SELECT upper(ssn) FROM customers WHERE ssn = '1' FOR UPDATE", "locking_select"),
]


@pytest.mark.parametrize(("profile", "sql", "rule"), ORDER)
def test_first_rule_in_the_order_is_reported(guarded: Guard, profile: str, sql: str, rule: str) -> None:
    assert attempt(guarded(profile), sql).rule == rule


# ------------------------------------------------------------------ several statements in one text


MULTI = [
    ("writer", "INSERT INTO settings VALUES ('m', 'x'); DROP TABLE settings", "destructive_ddl"),
    ("writer", "DROP TABLE settings; INSERT INTO settings VALUES ('m', 'x')", "destructive_ddl"),
    ("writer", "INSERT INTO settings VALUES ('m', 'x'); SELECT 1; SELECT pg_sleep(0)", "forbidden_function"),
    ("listed", "INSERT INTO hr.orders VALUES (777, 1, 'x'); SELECT 1 FROM customers", "table_not_allowed"),
    ("writer", "INSERT INTO settings VALUES ('m', 'x'); COMMIT", "statement_not_allowed"),
    ("writer", "BEGIN; INSERT INTO settings VALUES ('m', 'x'); COMMIT", "statement_not_allowed"),
    ("writer", "INSERT INTO settings VALUES ('m', 'x'); SELEC", "parse_error"),
]


@pytest.mark.parametrize(("profile", "sql", "rule"), MULTI)
def test_one_refusal_refuses_the_whole_text(
    guarded: Guard, shop_admin: str, profile: str, sql: str, rule: str
) -> None:
    """Outside any transaction, where the first statement would stay: nothing of the text runs."""
    conn = guarded(profile)
    with pytest.raises(guarddb.PolicyViolation) as caught:
        conn.execute(sql.encode())
    assert caught.value.rule == rule
    assert conn.info.transaction_status == TransactionStatus.IDLE
    with psycopg.connect(shop_admin) as plain:
        kept = "SELECT (SELECT count(*) FROM settings WHERE key = 'm') + (SELECT count(*) FROM hr.orders WHERE id = 777)"
        assert plain.execute(kept).fetchone() == (0,)


def test_several_harmless_statements_give_their_results_in_order(guarded: Guard) -> None:
    cursor = guarded("masked").execute("SELECT 1; SELECT ssn FROM customers WHERE id = 1; SELECT 3")
    assert cursor.fetchall() == [(1,)]
    assert cursor.nextset()
    assert cursor.fetchall() == [("[redacted]",)]
    assert cursor.nextset()
    assert cursor.fetchall() == [(3,)]
    assert not cursor.nextset()


# ------------------------------------------------------------------ texts without a statement

EMPTY = ["", " ", "\n\t", ";", " ; ; ", "-- only a comment", "/* so /* is */ this */", "-- a\n;/* b */"]


@pytest.mark.parametrize("sql", EMPTY)
def test_empty_text_is_refused_dry_and_a_no_op_live(
    guarded: Guard, catalog: guarddb.Catalog, sql: str
) -> None:
    """The one difference between the two: pools and ORMs ping with it."""
    for known in (catalog, None):
        decision = guarddb.evaluate(sql, PROFILES["reader"], known)
        assert (decision.verdict, decision.rule) == ("block", "empty")
        assert decision.hint
    assert guarded("reader").execute(sql.encode()).description is None


@pytest.mark.parametrize("sql", ["SELECT", "-- a comment\nSELECT 1", "; SELECT 1 ;"])
def test_text_with_a_statement_is_not_empty(guarded: Guard, sql: str) -> None:
    assert attempt(guarded("reader"), sql).decision.rule == "ok"


# ------------------------------------------------------------------ what the refusal says

ALLOWED_IN_REASON = [
    ("listed", "SELECT id FROM customers", ["public.customers", "orders", "hr.*", '"Orders Détail"']),
    ("selects", "SHOW timezone", ["show", "select"]),
    ("selects_rw", "DELETE FROM settings WHERE key = 'a'", ["delete", "allowed kinds: select"]),
    ("no_delete", "DELETE FROM settings WHERE key = 'a'", ["delete", "select, update, insert"]),
    ("reader", "DELETE FROM settings WHERE key = 'a'", ["DELETE", "select, show, explain, transaction"]),
    ("functions", "SELECT note('x')", ["note", "order_count", "public.with_tax"]),
    ("masked", "SELECT upper(ssn) FROM customers", ["public.customers.ssn", "selected"]),
    ("masked", "SELECT id FROM customers WHERE ssn = '1'", ["public.customers.ssn", "selected"]),
    ("denied", "SELECT * FROM staff", ["public.staff", "public.employees"]),
    ("reader", "SELECT pg_sleep(1)", ["pg_sleep"]),
    ("writer", "SET statement_timeout = 0", ["statement_timeout"]),
    ("writer", "DELETE FROM settings", ["public.settings", "WHERE"]),
    ("tenant_missing", "SELECT id FROM orders", ["app.tenant"]),
]


@pytest.mark.parametrize(("profile", "sql", "words"), ALLOWED_IN_REASON)
def test_reason_names_what_was_refused_and_what_is_allowed(
    guarded: Guard, profile: str, sql: str, words: list[str]
) -> None:
    reason = attempt(guarded(profile), sql).decision.reason
    for word in words:
        assert word in reason, reason


HINTS_THAT_WORK = [
    ("listed", "SELECT id FROM customers", "SELECT id FROM orders"),
    ("masked", "SELECT upper(ssn) FROM customers", "SELECT ssn FROM customers"),
    ("masked", "SELECT ssn FROM customers ORDER BY ssn", "SELECT ssn FROM customers ORDER BY id"),
    ("writer", "DELETE FROM settings", "DELETE FROM settings WHERE key = 'theme'"),
    ("reader", "SELECT id FROM orders FOR UPDATE", "SELECT id FROM orders"),
    ("reader", "BEGIN READ WRITE", "BEGIN"),
    ("writer", "BEGIN; SELECT 1", "BEGIN"),
    ("writer", "SET search_path = hr", "SELECT id FROM hr.orders"),
    ("writer", "COPY settings TO '/tmp/x'", "SELECT key FROM settings"),
]


@pytest.mark.parametrize(("profile", "refused", "rewritten"), HINTS_THAT_WORK)
def test_what_the_hint_proposes_passes(guarded: Guard, profile: str, refused: str, rewritten: str) -> None:
    conn = guarded(profile)
    assert attempt(conn, refused).decision.hint
    assert attempt(conn, rewritten).error is None


# ------------------------------------------------------------------ faults


def test_fault_of_a_rule_refuses_is_logged_and_leaves_the_connection_usable(
    guarded: Guard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception inside one rule is a refusal with `internal_error`; nobody sees a traceback but the log."""
    from guarddb.decision import decide as engine

    def broken(*arguments: Any) -> None:
        raise LookupError("a secret detail")

    conn = guarded("writer")
    rules = list(engine.RULES)
    for position in range(len(rules)):
        monkeypatch.setattr(engine, "RULES", (*rules[:position], broken, *rules[position + 1 :]))
        sql = f"INSERT INTO settings VALUES ('fault {position}', 'x')"
        with caplog.at_level(logging.ERROR, "guarddb"):
            dry = guarddb.evaluate(sql, PROFILES["writer"])
            outcome = attempt(conn, sql)
        assert (dry.verdict, dry.rule) == ("block", "internal_error")
        assert outcome.rule == "internal_error"
        assert isinstance(outcome.error, guarddb.PolicyViolation)
        assert "a secret detail" not in str(outcome.error) + dry.reason + str(dry.hint)
        assert "a secret detail" in caplog.text
        caplog.clear()
    monkeypatch.undo()
    assert attempt(conn, "SELECT 1").rows == [(1,)]
    assert attempt(conn, "SELECT count(*) FROM settings WHERE key LIKE 'fault%'").rows == [(0,)]
