"""A hint that lists what is open lists nothing that the next rule refuses."""

from __future__ import annotations

from typing import Any

import pytest

import guarddb

POLICIES: dict[str, dict[str, Any]] = {
    # monthly_sales is a materialised view over orders, whose rows no filter reaches.
    "a filtered table": {"row_filters": [{"table": "orders", "predicate": "tenant_id = 1"}]},
    # A read of a parent reads its child.
    "a filtered partition": {"row_filters": [{"table": "measurements_2024", "predicate": "sensor = 1"}]},
    "a denied child": {"table_denylist": ["contracts"]},
    "a mask in the condition of a view": {
        "masking_rules": [{"table": "customers", "column": "active", "kind": "null"}]
    },
    "nothing to hide": {},
}


def listed(decision: guarddb.Decision) -> list[str]:
    _, found, rest = (decision.hint or "").partition("Tables that are open here: ")
    assert found, decision
    return rest.partition(". Try: ")[0].rstrip(".").split(", ")


@pytest.mark.parametrize(
    "asked", ["secret.monthly_sales", "secret.orders", "secret.documents", "secret.film"]
)
@pytest.mark.parametrize("name", POLICIES)
def test_what_is_listed_may_be_read(catalog: guarddb.Catalog, name: str, asked: str) -> None:
    rules = POLICIES[name]
    denied = [*rules.get("table_denylist", ()), "secret.*"]
    for policy in (
        {"name": "listed", "table_allowlist": ["public.*"], **rules},
        {"name": "denied", **rules, "table_denylist": denied},
    ):
        decision = guarddb.evaluate(f"SELECT * FROM {asked}", policy, catalog)
        assert decision.rule in ("table_not_allowed", "table_denied")
        names = listed(decision)
        assert len(names) > 5
        for each in names:
            assert not guarddb.evaluate(f"SELECT FROM {each}", policy, catalog).blocked, each
        if "Did you mean " in (decision.hint or ""):
            meant = (decision.hint or "").partition("Did you mean ")[2].partition("?")[0]
            assert meant in names


def test_a_policy_that_only_writes_lists_what_it_may_write(catalog: guarddb.Catalog) -> None:
    policy = {
        "name": "writer",
        "access_mode": "read_write",
        "statement_rules": {"allow": ["insert"]},
        "table_allowlist": ["orders"],
    }
    assert listed(guarddb.evaluate("INSERT INTO payments VALUES (1)", policy, catalog)) == ["public.orders"]
