"""A decision names the entry of the profile that decided, and says when only a catalog could confirm it."""

from __future__ import annotations

from typing import Any

import pytest

import guarddb

PROFILE: dict[str, Any] = {
    "name": "deciding",
    "access_mode": "read_write",
    "statement_rules": {"deny": ["explain", "delete"]},
    "table_allowlist": ["people", "notes", "hidden"],
    "table_denylist": ["other", "hidden"],
    "masking_rules": [
        {"table": "people", "column": "phone", "kind": "hash"},
        {"table": "people", "column": "email", "kind": "redact"},
    ],
    "row_filters": [
        {"table": "elsewhere", "predicate": "id = 1"},
        {"table": "notes", "predicate": "id > 0"},
    ],
}


@pytest.mark.parametrize(
    ("sql", "entry"),
    [
        ("SELECT email FROM people WHERE id = 1", "masking_rules[1]"),
        ("SELECT phone FROM people", "masking_rules[0]"),
        ("SELECT upper(email) FROM people", "masking_rules[1]"),
        ("SELECT id FROM people ORDER BY phone", "masking_rules[0]"),
        ("SELECT id FROM notes", "row_filters[1]"),
        ("COPY notes FROM STDIN", "row_filters[1]"),
        ("SELECT * FROM hidden", "table_denylist[1]"),
        ("SELECT * FROM strange", "table_allowlist"),
        ("DELETE FROM people WHERE id = 1", "statement_rules.deny[1]"),
        ("EXPLAIN SELECT 1", "statement_rules.deny[0]"),
        ("DROP TABLE people", "floor"),
        ("SELECT pg_sleep(1)", "floor"),
        ("SELECT 1", None),
        ("SELEC", None),
    ],
)
def test_the_entry_that_decided(sql: str, entry: str | None) -> None:
    decision = guarddb.evaluate(sql, PROFILE)
    assert decision.deciding == entry
    assert decision.to_dict().get("deciding") == entry


def test_under_read_only_it_is_the_access_mode() -> None:
    assert guarddb.evaluate("INSERT INTO t VALUES (1)", {"name": "r"}).deciding == "access_mode"


@pytest.mark.parametrize(
    ("sql", "needed"),
    [
        ("SELECT id FROM people", True),
        ("SELECT lower('A')", True),
        ("SELECT 1 + 1", True),
        ("SELECT 1", False),
        ("BEGIN", False),
        ("SHOW work_mem", False),
        ("SELECT * FROM strange", False),  # refused either way
    ],
)
def test_what_only_a_catalog_could_confirm_is_no_permit(dsn: str, sql: str, needed: bool) -> None:
    assert guarddb.evaluate(sql, PROFILE).needs_catalog is needed
    assert guarddb.evaluate(sql, {"name": "restricts nothing"}).needs_catalog is False
    with guarddb.connect(dsn, policy={"name": "restricts nothing"}) as conn:
        catalog = guarddb.Catalog.from_connection(conn)
    assert guarddb.evaluate(sql, PROFILE, catalog).needs_catalog is False
