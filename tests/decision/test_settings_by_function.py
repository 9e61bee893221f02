"""set_config() of a name that stands there is a SET, where the policy lets SET through by name."""

from __future__ import annotations

from typing import Any

import pytest

import guarddb
from guarddb.vocabulary import KINDS

SETS: dict[str, Any] = {
    "name": "sets",
    "statement_rules": {"allow": ["select", "set"]},
    "row_filters": [{"table": "orders", "predicate": "tenant = current_setting('app.tenant')"}],
    "guarddb": {"settings": {"app.tenant": "1"}},
}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT set_config('TimeZone', 'UTC', false)",
        "SELECT set_config('TimeZone', $1, true)",
        "SELECT pg_catalog.set_config('application_name', 'x', false), 1",
    ],
)
def test_passes_where_set_does(sql: str) -> None:
    assert guarddb.evaluate(sql, SETS).rule == "ok"
    for rules in ({}, {"allow": ["select"]}, {"allow": ["select", "set"], "deny": ["set"]}):
        assert guarddb.evaluate(sql, {**SETS, "statement_rules": rules}).rule == "forbidden_function"


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("SELECT set_config('row_security', 'off', false)", "protected_setting"),
        ("SELECT set_config('ROW_SECURITY', 'off', false)", "protected_setting"),
        ("SELECT set_config('App.Tenant', '2', false)", "protected_setting"),
        ("SELECT set_config('search_path', 'x', false)", "search_path_change"),
        ("SELECT set_config('role', 'x', false)", "role_change"),
        ("SELECT set_config($1, 'off', false)", "forbidden_function"),
        ("SELECT set_config('row_' || 'security', 'off', false)", "forbidden_function"),
        ("SELECT set_config('row_security_x'::varchar(12), 'off', false)", "forbidden_function"),
        ("SELECT set_config('row_security'::name, 'off', false)", "protected_setting"),
        (
            "SELECT set_config(new_value => 'off', setting_name => 'row_security', is_local => false)",
            "forbidden_function",
        ),
        (
            "SELECT set_config('off', is_local => false, new_value => 'x')",
            "forbidden_function",
        ),
        ("SELECT set_config(name, setting, false) FROM pg_settings", "forbidden_function"),
        (
            "SELECT set_config('TimeZone', 'UTC', false), set_config(x, '', false) FROM t",
            "forbidden_function",
        ),
    ],
)
def test_is_refused_where_it_is_not_clear_or_protected(sql: str, rule: str) -> None:
    assert guarddb.evaluate(sql, SETS).rule == rule
    everything = {**SETS, "access_mode": "read_write", "statement_rules": {"allow": list(KINDS)}}
    assert guarddb.evaluate(sql, everything).rule == rule


def test_one_that_passed_says_nothing_about_the_next() -> None:
    for _ in range(2):
        assert guarddb.evaluate("SELECT set_config('TimeZone', 'UTC', false)", SETS).rule == "ok"
        assert guarddb.evaluate("SELECT set_config($1, $2, false)", SETS).rule == "forbidden_function"


def test_the_session_takes_note(dsn: str) -> None:
    """What it sets is looked at again, as after SET."""
    policy = {"name": "takes note", "statement_rules": {"allow": ["select", "set", "show", "transaction"]}}
    with guarddb.connect(dsn, policy=policy, autocommit=True) as conn:
        conn.execute("SELECT set_config('TimeZone', 'Asia/Tokyo', false)")
        assert conn.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)
        conn.execute("SELECT set_config('client_min_messages', 'error', false)")
        assert conn._guard.profile is not None
