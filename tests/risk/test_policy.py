"""The action policy: its keys, its two forms, where it comes from, and what its errors say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import guarddb
from guarddb.policy.errors import PolicyError
from guarddb.risk import ActionPolicy, load_action_policy, score

#: As the original documentation shows it.
DOCUMENTED: dict[str, Any] = {
    "sensitive_fields": ["ssn", "password", "credit_card"],
    "allowed_tools": ["postgres", "slack"],
    "blocked_actions": ["database:table:drop", "database:table:truncate"],
    "allowed_action_patterns": ["database:*:select"],
    "blocked_action_patterns": ["*:*:delete", "database:schema:*"],
    "sensitive_classifications": ["PII", "PHI", "financial", "secret", "restricted"],
    "custom_rules": {
        "bulk_sensitive_access": {
            "condition": "batch_size > 100 AND target.sensitivity_level >= 3",
            "score_impact": 40,
            "description": "Bulk access to sensitive data",
        },
        "off_hours": {
            "condition": "hour(timestamp) < 6 OR hour(timestamp) > 22",
            "score_impact": 15,
            "description": "Activity outside business hours",
        },
    },
}


def test_an_empty_policy_is_a_policy() -> None:
    assert load_action_policy({}).sensitive_fields == ()


def test_the_documented_policy_loads_in_both_forms() -> None:
    stored = {"customer_id": "acme", "policies": DOCUMENTED, "updated_at": "2026-03-01T00:00:00Z"}
    assert load_action_policy(stored) == load_action_policy(DOCUMENTED)
    assert load_action_policy(json.loads(json.dumps(stored))).custom_rules["off_hours"].score_impact == 15


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".toml", ""])
def test_it_loads_from_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"actions{suffix}"
    texts = {
        ".yaml": 'blocked_actions: ["database:table:drop"]\n',
        ".toml": 'blocked_actions = ["database:table:drop"]\n',
    }
    path.write_text(texts.get(suffix, '{"blocked_actions": ["database:table:drop"]}'))
    assert load_action_policy(path).blocked_actions == ("database:table:drop",)
    assert load_action_policy(str(path)).blocked_actions == ("database:table:drop",)


def test_an_error_in_a_file_names_the_file_and_the_place(tmp_path: Path) -> None:
    path = tmp_path / "actions.yaml"
    path.write_text("custom_rules:\n  bulk: {condition: 'batch_size >', score_impact: 1}\n")
    with pytest.raises(PolicyError, match=r"actions\.yaml.*custom_rules\.bulk\.condition.*syntax error"):
        load_action_policy(path)
    with pytest.raises(PolicyError, match="does not exist"):
        load_action_policy(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("policy", "path", "told"),
    [
        ({"blocked_action": []}, "blocked_action", "did you mean"),
        ({"blocked_actions": "database:table:drop"}, "blocked_actions", "must be a list"),
        ({"sensitive_fields": ["ssn", 7]}, "sensitive_fields[1]", "must be a text"),
        ({"sensitive_fields": [" "]}, "sensitive_fields[0]", "is empty"),
        ({"blocked_action_patterns": [""]}, "blocked_action_patterns[0]", "is empty"),
        ({"custom_rules": []}, "custom_rules", "mapping"),
        ({"custom_rules": {"r": {"score_impact": 1}}}, "custom_rules.r.condition", "is required"),
        ({"custom_rules": {"r": {"condition": "true"}}}, "custom_rules.r.score_impact", "is required"),
        (
            {"custom_rules": {"r": {"condition": "true", "score_impact": 1.5}}},
            "custom_rules.r.score_impact",
            "whole",
        ),
        (
            {"custom_rules": {"r": {"condition": "true", "score_impact": 1, "x": 1}}},
            "custom_rules.r.x",
            "not a key",
        ),
        (
            {"custom_rules": {"r": {"condition": "f(1)", "score_impact": 1}}},
            "custom_rules.r.condition",
            '"f"',
        ),
        ({"policies": DOCUMENTED, "blocked_actions": []}, "blocked_actions", "beside policies"),
        ({"policies": []}, "policies", "mapping"),
        ({"customer_id": "acme"}, "customer_id", "not a key"),
        ({"timezone": 1}, "timezone", "text"),
    ],
)
def test_a_bad_policy_is_an_error_that_names_the_place(policy: dict[str, Any], path: str, told: str) -> None:
    for load in (load_action_policy, ActionPolicy.model_validate, lambda p: ActionPolicy(**p)):
        with pytest.raises(PolicyError) as caught:
            load(policy)
        assert caught.value.path == path
        assert told in str(caught.value)
        assert isinstance(caught.value, guarddb.PolicyError)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(PolicyError) as caught:
        ActionPolicy(
            blocked_actions="x", allowed_tools=[1], custom_rules={"r": {"condition": "", "score_impact": "a"}}
        )
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize("source", [7, None, b"{}", "https://example.org/policies/acme", ""])
def test_what_is_no_policy_is_an_error(source: Any) -> None:
    with pytest.raises(PolicyError):
        score({"action": "a:b:c", "timestamp": "2026-03-01T12:00:00Z"}, source)
