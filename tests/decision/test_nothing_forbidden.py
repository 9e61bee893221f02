"""A profile that forbids nothing passes on what the engine cannot read; with one more rule it refuses again."""

from __future__ import annotations

from typing import Any

import pytest

import guarddb
from guarddb.vocabulary import FLOOR_RULES, KINDS

OPEN: dict[str, Any] = {
    "name": "open",
    "access_mode": "read_write",
    "statement_rules": {"allow": list(KINDS)},
    "guarddb": {"floor_exceptions": list(FLOOR_RULES)},
}
UNREAD = [
    ("SELEC 1", "parse_error"),
    ("SELECT " + "1 + " * 3000 + "1", "parse_error"),
    ("SELECT '" + "x" * 100_001 + "'", "parse_error"),
    ("SELECT * FROM pg_catalog.pg_cursors", "table_not_allowed"),
    ("BEGIN; PREPARE TRANSACTION 'x'", "statement_not_allowed"),
    ("COMMIT; SELECT 1", "statement_not_allowed"),
    ("EXECUTE unknown", "statement_not_allowed"),
]


@pytest.mark.parametrize(("sql", "rule"), UNREAD)
def test_is_passed_on_with_a_note(sql: str, rule: str) -> None:
    decision = guarddb.evaluate(sql, OPEN)
    assert (decision.verdict, decision.rule, decision.rewritten_sql) == ("allow", "ok", sql)
    assert any(rule in note for note in decision.notes)


@pytest.mark.parametrize(("sql", "rule"), UNREAD)
@pytest.mark.parametrize(
    "field", [{"max_rows": 10}, {"table_denylist": ["x"]}, {"budget_queries_per_day": 1}], ids=str
)
def test_is_refused_as_soon_as_anything_is_protected(sql: str, rule: str, field: dict[str, Any]) -> None:
    assert guarddb.evaluate(sql, {**OPEN, **field}).rule == rule


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("", "empty"),
        ("-- nothing", "empty"),
        ("SELECT '\0'", "parse_error"),
        ("COPY pg_class TO '/tmp/x'", "forbidden_function"),
        ("COPY pg_class FROM PROGRAM 'true'", "forbidden_function"),
    ],
)
def test_is_refused_even_so(sql: str, rule: str) -> None:
    assert guarddb.evaluate(sql, OPEN).rule == rule
