"""Predicates and aliases that could take each other's names, more than one filter, settings, and filters on views."""

from __future__ import annotations

from typing import Any

import pytest

from guarddb import evaluate
from tests.adversary.ground import Ground, writing


def profile(*rules: tuple[str, str], **guarddb: Any) -> dict[str, Any]:
    """A profile with these (table, predicate) filters."""
    return {
        "name": "predicates",
        "row_filters": [{"table": table, "predicate": predicate} for table, predicate in rules],
        "guarddb": guarddb,
    }


PLAIN = profile(("orders", "orders.tenant_id = 1 OR orders.n IS NULL"))
SUBSELECT = profile(("orders", "EXISTS (SELECT 1 FROM allowed WHERE allowed.tenant_id = orders.tenant_id)"))
MAXIMUM = profile(("orders", "tenant_id = (SELECT max(tenant_id) FROM allowed)"))
TWO = profile(("orders", "tenant_id = 1"), ("orders", "n > 1"))
COMMENT = profile(("orders", "tenant_id = 1 -- the tenant's\n"))
DOLLARS = profile(("orders", "tenant_id = 1 AND label <> $$a;b--$$"))
SETTING = profile(("orders", "tenant_id = current_setting('app.t')::int"), settings={"app.t": "1"})
ON_VIEW = profile(("vo", "tenant_id = 1"))
SCHEMA_WIDE = profile(("public.*", "tenant_id = 1"))

#: (profile, statement, what its only row holds)
CASES: list[tuple[dict[str, Any], str, int]] = [
    (PLAIN, "SELECT count(*) FROM orders o", 3),
    (PLAIN, 'SELECT count(*) FROM orders AS "we""ird" WHERE 1 / n > 0', 1),
    (PLAIN, 'SELECT count(*) FROM orders AS "select"', 3),
    (PLAIN, 'SELECT count(*) FROM orders AS U&"\\0061"', 3),
    (PLAIN, "SELECT count(*) FROM orders AS o(tenant_id, id, n)", 3),
    (PLAIN, "SELECT count(*) FROM orders AS o(n, n, n) WHERE 1 / 1 = 1", 3),
    (
        PLAIN,
        "WITH u AS (UPDATE orders AS old SET n = 5 WHERE old.id > 0 RETURNING old.n) SELECT count(*) FROM u",
        3,
    ),
    (PLAIN, "WITH d AS (DELETE FROM orders AS excluded WHERE id > 0 RETURNING 1) SELECT count(*) FROM d", 3),
    (SUBSELECT, "SELECT count(*) FROM orders AS allowed", 3),
    (SUBSELECT, "SELECT count(*) FROM orders AS allowed WHERE 1 / n > 0", 1),
    (SUBSELECT, "SELECT count(*) FROM orders, allowed", 3),
    (SUBSELECT, "WITH allowed AS (SELECT 2 AS tenant_id) SELECT count(*) FROM orders", 3),
    (SUBSELECT, "WITH allowed AS (SELECT 2 AS tenant_id) SELECT count(*) FROM orders WHERE 1 / n >= 0", 3),
    (SUBSELECT, "SELECT count(*) FROM orders AS o(allowed, tenant_id)", 3),
    (SUBSELECT, "SELECT count(*) FROM (SELECT 2 AS tenant_id) allowed, orders", 3),
    (SUBSELECT, "SELECT count(*) FROM vo AS allowed", 3),
    (MAXIMUM, "SELECT count(*) FROM orders WHERE 1 / n > 0", 1),
    (MAXIMUM, "SELECT count(*) FROM orders o FULL JOIN other USING (id)", 6),
    (MAXIMUM, "SELECT count(o.id) FROM orders o FULL JOIN other USING (id)", 3),
    (TWO, "SELECT count(*) FROM orders", 2),
    (TWO, "SELECT count(*) FROM orders WHERE 1 / (n - 1) > 0", 1),
    (TWO, "SELECT count(*) FROM vo WHERE 1 / n = 0", 2),
    (COMMENT, "SELECT count(*) FROM orders", 3),
    (COMMENT, "SELECT count(*) FROM orders WHERE 1 / n > 0", 1),
    (COMMENT, "SELECT count(o.id) FROM other LEFT JOIN orders o ON o.id = other.id", 3),
    (DOLLARS, "SELECT count(*) FROM orders WHERE 1 / n > 0", 1),
    (SETTING, "SELECT count(*) FROM orders", 3),
    (SETTING, "SELECT count(*) FROM orders WHERE 1 / n > 0", 1),
    (ON_VIEW, "SELECT count(*) FROM vo WHERE 1 / n > 0", 1),
    (ON_VIEW, "SELECT count(v) FROM vo v", 3),
    (ON_VIEW, "SELECT count(*) FROM orders", 6),
    (SCHEMA_WIDE, "SELECT count(*) FROM parent WHERE 1 / n > 0", 2),
    (SCHEMA_WIDE, "SELECT count(*) FROM vpart", 1),
    (SCHEMA_WIDE, "SELECT count(*) FROM vault.s", 1),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_predicate_means_the_filtered_row(ground: Ground, number: int) -> None:
    """No alias, column alias, CTE or relation of the statement's stands in for a name of the predicate's."""
    policy, sql, expected = CASES[number]
    attempt = ground.attempt(sql, writing(policy))
    assert attempt.error is None, attempt.decision.rewritten_sql
    assert attempt.rows == [(expected,)], attempt.decision.rewritten_sql or attempt.decision.reason


SETTINGS = [
    "SET app.t = '2'",
    "SET LOCAL app.t = '2'",
    'SET "app.t" TO 2',
    "SET APP.T TO DEFAULT",
    "RESET app.t",
    "RESET ALL",
    "SELECT set_config('app.t', '2', false)",
    "SELECT set_config(setting_name => 'APP.T', new_value => '2', is_local => true)",
    "ALTER ROLE CURRENT_USER SET app.t = '2'",
    "ALTER DATABASE postgres RESET app.t",
    "DISCARD ALL",
]


@pytest.mark.parametrize("sql", SETTINGS)
def test_the_settings_of_a_predicate_are_the_callers(ground: Ground, sql: str) -> None:
    """Whether it has a value or not; without one the filtered table cannot be read at all."""
    unset = profile(("orders", "tenant_id = current_setting('app.t')::int"))
    for policy in (SETTING, unset):
        assert evaluate(sql, writing(policy), ground.catalog).rule == "protected_setting"
    assert evaluate("SELECT 1 FROM orders", unset, ground.catalog).rule == "row_filter_unsafe"
    assert evaluate("SELECT 1 FROM other", unset, ground.catalog).verdict == "allow"


def test_system_relations_are_masked_like_others(ground: Ground) -> None:
    """A rule on a system relation holds for its columns, its star and its rows."""
    policy = {
        "name": "system",
        "masking_rules": [{"table": "pg_catalog.pg_roles", "column": "rolname", "kind": "redact"}],
    }
    names = {name for (name,) in ground.plain("SELECT rolname FROM pg_roles") or []}
    for sql in (
        "SELECT rolname FROM pg_roles",
        "SELECT * FROM pg_roles",
        "SELECT r FROM pg_roles r",
        "SELECT pg_roles.* FROM pg_roles",
    ):
        attempt = ground.attempt(sql, policy)
        assert attempt.rows
        assert not [row for row in attempt.rows if names & set(map(str, row))]
    assert ground.attempt("SELECT 1 FROM pg_roles WHERE rolname = 'x'", policy).blocked


def test_a_row_that_moves_out_of_a_filter_by_tableoid_is_seen(ground: Ground) -> None:
    """A filter by partition: an UPDATE of the key moves the row to another one, and its columns are not in the filter."""
    policy = writing(profile(("part", "tableoid = 'part1'::regclass")))
    moved = ground.attempt("UPDATE part SET tenant_id = 2 WHERE id = 1", policy)
    assert "guarddb:row_filter_violation:" in str(moved.error)
    assert ground.attempt("UPDATE part SET label = 'x' WHERE id = 1 RETURNING label", policy).rows == [("x",)]


def test_the_classes_are_complete() -> None:
    """The classes have the size they were written with: one that shrinks by an edit is noticed."""
    assert (len(CASES), len(set(SETTINGS))) == (34, 11)
