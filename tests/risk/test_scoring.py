"""The score: each line of the model, both ways."""

from __future__ import annotations

from typing import Any

import pytest

from guarddb.risk import ActionPolicy, EventError, RiskResult, score
from tests.risk.test_policy import DOCUMENTED

NOON = "2026-03-02T12:00:00Z"


def ask(policy: dict[str, Any] | None = None, action: str = "x:y:read", **event: Any) -> RiskResult:
    return score({"action": action, "timestamp": NOON, **event}, policy or {})


def base(result: RiskResult) -> float:
    (found,) = [c.contribution for c in result.score_components if c.rule == "base"]
    return found


def rules(result: RiskResult) -> list[str]:
    assert sum(c["contribution"] for c in result.score_components) == result.score
    return [c["rule"] for c in result.score_components]


def of_class(*labels: str | None) -> list[Any]:
    return [{"field": f"f{i}", "classification": label} for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("verbs", "points"),
    [
        ("read list select search", 5),
        ("execute call invoke", 10),
        ("insert create write import copy", 15),
        ("update alter modify set", 20),
        ("send", 25),
        ("delete drop truncate revoke export", 35),
        ("grant install", 40),
        ("explain dance", 15),
    ],
)
def test_the_base_of_each_verb(verbs: str, points: int) -> None:
    for verb in verbs.split():
        assert base(ask(action=f"x:y:{verb}")) == points
        assert base(ask(action=f"X:Y:{verb.upper()}")) == points
        assert base(ask(action=f"x:y:thing.{verb}")) == points


@pytest.mark.parametrize(
    ("label", "points"),
    [
        ("public", 5),
        ("internal", 6.5),
        ("pii", 12.5),
        ("pii_sensitive", 12.5),
        ("financial", 12.5),
        ("health", 12.5),
        ("legal", 12.5),
        ("auth", 17.5),
        ("PHI", 12.5),
        ("PII", 12.5),
        ("Secret", 17.5),
        ("restricted", 6.5),
        (None, 6.5),
    ],
)
def test_the_factor_of_each_class(label: str | None, points: float) -> None:
    assert base(ask(data_fields_accessed=of_class(label))) == points


def test_the_most_sensitive_field_counts() -> None:
    assert base(ask(data_fields_accessed=of_class("public", "auth", "pii"))) == 17.5
    assert base(ask(data_fields_accessed=of_class("public"))) == 5
    assert base(ask()) == 5


def test_the_base_is_capped_at_100() -> None:
    result = ask(action="x:y:grant", data_fields_accessed=of_class("auth"))
    assert (base(result), result.score) == (100, 100)


def test_a_score_is_a_whole_number_halves_up() -> None:
    result = ask(data_fields_accessed=of_class("internal"))
    assert (result.score, rules(result)) == (7, ["base", "rounding"])
    assert rules(ask()) == ["base"]


def test_an_allowed_pattern_takes_20_once() -> None:
    policy = {"allowed_action_patterns": ["x:*", "*:*:update"]}
    result = ask(policy, "x:y:update")
    assert (result.score, rules(result)) == (0, ["base", "allowed_action_pattern"])
    assert ask(policy, "z:y:delete").score == 35


def test_a_score_is_never_below_0() -> None:
    result = ask({"allowed_action_patterns": ["*"]})
    assert (result.score, result.risk_level) == (0, "none")
    assert rules(result) == ["base", "allowed_action_pattern", "bounds"]


@pytest.mark.parametrize(
    ("sensitive", "touched", "classes"),
    [
        ({"sensitive_fields": ["ssn"]}, ["ssn"], ["pii"]),
        ({"sensitive_fields": ["ssn"]}, ["SSN"], ["pii"]),
        ({"sensitive_fields": ["SSN"]}, ["public.users.ssn"], ["pii"]),
        ({"sensitive_fields": ["users.ssn"]}, ["public.users.ssn"], ["pii"]),
        ({"sensitive_fields": ["users.ssn"]}, ["ssn", "staff.ssn"], []),
        ({"sensitive_fields": ["ssn"]}, ["ssn_hint", "notssn"], []),
        ({"sensitive_fields": ["a", "b"]}, ["a", "b"], ["pii"]),
        ({"sensitive_fields": ["a"]}, [{"field": "a", "classification": "auth"}], ["auth"]),
        ({"sensitive_classifications": ["PII"]}, of_class("pii", "pii"), ["pii"]),
        ({"sensitive_classifications": ["PII"]}, of_class("pii_sensitive"), ["pii_sensitive"]),
        ({"sensitive_classifications": ["pii"]}, of_class("PII", "Pii_Sensitive"), ["pii", "pii_sensitive"]),
        ({"sensitive_classifications": ["pii_sensitive"]}, of_class("pii"), []),
        ({"sensitive_classifications": ["PHI"]}, of_class("health"), ["health"]),
        ({"sensitive_classifications": ["health"]}, of_class("PHI"), ["health"]),
        ({"sensitive_classifications": ["secret"]}, of_class("auth"), ["auth"]),
        ({"sensitive_classifications": ["Restricted"]}, of_class("restricted"), ["restricted"]),
        ({"sensitive_classifications": ["PII", "financial"]}, of_class("financial", "legal"), ["financial"]),
        ({}, of_class("auth"), []),
    ],
)
def test_each_sensitive_class_touched_adds_30(
    sensitive: dict[str, Any], touched: list[Any], classes: list[str]
) -> None:
    result = ask(sensitive, data_fields_accessed=touched)
    found = [c for c in result.score_components if c.rule.startswith("sensitive_class:")]
    assert [c.rule.partition(":")[2] for c in found] == classes
    assert [c.contribution for c in found] == [30] * len(classes)


def test_a_bare_sensitive_field_counts_as_pii() -> None:
    policy = {
        "sensitive_fields": ["nickname"],
        "custom_rules": {"level_2": {"condition": "target.sensitivity_level = 2", "score_impact": 1}},
    }
    result = ask(policy, data_fields_accessed=["nickname"])
    assert base(result) == 12.5
    assert "level_2" in rules(result)


@pytest.mark.parametrize(
    ("labels", "level"),
    [
        (["auth", "public"], 4),
        (["pii_sensitive"], 3),
        (["financial"], 3),
        (["PHI"], 3),
        (["pii"], 2),
        (["legal"], 1),
        (["public"], 1),
        (["whatever"], 1),
        ([None], 1),
        ([], 1),
    ],
)
def test_the_sensitivity_level_is_the_highest_class_touched(labels: list[str | None], level: int) -> None:
    rule = {"level": {"condition": f"target.sensitivity_level = {level}", "score_impact": 1}}
    assert "level" in rules(ask({"custom_rules": rule}, data_fields_accessed=of_class(*labels)))
    given = ask(
        {"custom_rules": rule}, data_fields_accessed=of_class(*labels), target={"sensitivity_level": 0}
    )
    assert "level" not in rules(given)


def test_custom_rules_add_their_impact_also_a_negative_one() -> None:
    policy = {
        "custom_rules": {
            "up": {"condition": "batch_size > 1", "score_impact": 12},
            "down": {"condition": "batch_size > 2", "score_impact": -7},
            "never": {"condition": "batch_size > 3", "score_impact": 50},
        }
    }
    result = ask(policy, parameters={"batch_size": 3})
    assert (result.score, rules(result)) == (10, ["base", "up", "down"])
    assert result.notes == ()


def test_an_unknown_rule_does_not_fire_and_is_listed() -> None:
    policy = {"custom_rules": {"bulk": {"condition": "batch_size > 1", "score_impact": 99}}}
    result = ask(policy)
    assert result.score == 5
    (note,) = result.notes
    assert "bulk" in note
    assert "the event has no batch_size" in note


@pytest.mark.parametrize("section", ["blocked_actions", "blocked_action_patterns"])
def test_what_is_blocked_is_refused_whatever_the_score(section: str) -> None:
    policy = {
        section: ["x:y:READ", "*:*:delete"],
        "allowed_action_patterns": ["*"],
        "custom_rules": {"calm": {"condition": "true", "score_impact": -500}},
    }
    result = ask(policy)
    assert (result.verdict, result.rule, result.score) == ("refuse", "action_blocked", 70)
    assert rules(result) == ["base", "calm", "blocked_floor"]
    assert result.violations == (
        f'action_blocked: the action x:y:read is blocked by "x:y:READ" ({section}[0])',
    )
    assert ask(policy, "mcp:s3:object.delete").violations[0].endswith(f'"*:*:delete" ({section}[1])')
    assert ask(policy, "x:y:write").verdict == "allow"


def test_a_blocked_action_may_score_more_than_the_floor() -> None:
    result = ask({"blocked_actions": ["*"]}, "x:y:grant", data_fields_accessed=of_class("auth"))
    assert (result.score, result.verdict) == (100, "refuse")
    assert "blocked_floor" not in rules(result)


def test_only_the_tools_that_are_allowed() -> None:
    policy = {"allowed_tools": ["Slack"]}
    refused = ask(policy, tool_name="email")
    assert (refused.verdict, refused.rule, refused.score) == ("refuse", "action_blocked", 5)
    assert refused.violations == ('action_blocked: the tool "email" is not in allowed_tools',)
    assert ask(policy, tool_name="").verdict == "refuse"
    assert ask(policy, tool_name="sLACK").verdict == "allow"
    assert ask(policy).verdict == "allow"
    assert ask({"allowed_tools": []}, tool_name="email").verdict == "allow"


def scoring(points: int) -> dict[str, Any]:
    return {"custom_rules": {"r": {"condition": "true", "score_impact": points - 5}}}


@pytest.mark.parametrize(
    ("points", "band"),
    [
        (0, "none"),
        (10, "none"),
        (11, "low"),
        (30, "low"),
        (31, "medium"),
        (55, "medium"),
        (56, "high"),
        (80, "high"),
        (81, "critical"),
        (100, "critical"),
        (200, "critical"),
    ],
)
def test_the_bands(points: int, band: str) -> None:
    result = ask(scoring(points))
    assert (result.score, result.risk_level) == (min(points, 100), band)


@pytest.mark.parametrize(
    ("points", "verdict", "rule"),
    [(59, "allow", "ok"), (60, "flag", "ok"), (84, "flag", "ok"), (85, "refuse", "risk_denied")],
)
def test_the_thresholds(points: int, verdict: str, rule: str) -> None:
    result = ask(scoring(points))
    assert (result.verdict, result.rule) == (verdict, rule)
    assert (result.refused, result.flagged) == (verdict == "refuse", verdict == "flag")
    assert bool(result.violations) == (verdict == "refuse")


def test_the_thresholds_are_arguments() -> None:
    event = {"action": "x:y:read", "timestamp": NOON}
    assert score(event, {}, flag_at=5).verdict == "flag"
    refused = score(event, {}, refuse_at=5)
    assert (refused.verdict, refused.violations) == (
        "refuse",
        ("risk_denied: the score 5 is not below 5 (refuse_at)",),
    )
    assert score(event, scoring(100), refuse_at=101).verdict == "flag"
    for bad in (float("nan"), "60", None, True):
        with pytest.raises(ValueError, match="refuse_at"):
            score(event, {}, refuse_at=bad)  # type: ignore[arg-type]


def test_the_documented_policy_does_what_its_descriptions_say() -> None:
    policy = ActionPolicy(**DOCUMENTED)
    bulk: dict[str, Any] = {
        "action": "database:table:select",
        "timestamp": NOON,
        "tool_name": "postgres",
        "data_fields_accessed": [{"field": "public.users.ssn", "classification": "pii_sensitive"}],
    }
    small = score({**bulk, "parameters": {"batch_size": 100}}, policy)
    large = score({**bulk, "parameters": {"batch_size": 101}}, policy)
    night = score({**bulk, "parameters": {"batch_size": 101}, "timestamp": "2026-03-02T23:10:00Z"}, policy)
    assert (small.score, large.score, night.score) == (23, 63, 78)
    assert (small.verdict, large.verdict, night.verdict) == ("allow", "flag", "flag")
    assert score({**bulk, "action": "database:table:drop"}, policy).rule == "action_blocked"
    assert score({**bulk, "action": "database:schema:alter"}, policy).rule == "action_blocked"
    assert score({**bulk, "action": "mcp:s3:object.delete"}, policy).rule == "action_blocked"
    assert score({**bulk, "tool_name": "email"}, policy).rule == "action_blocked"


def test_the_result_on_the_wire() -> None:
    event = {"event_id": "evt_1", "action": "x:y:delete", "timestamp": NOON}
    assert score(event, {"blocked_actions": ["x:y:delete"]}).to_dict() == {
        "event_id": "evt_1",
        "status": "scored",
        "score": 70,
        "risk_level": "high",
        "verdict": "refuse",
        "violations": [
            'action_blocked: the action x:y:delete is blocked by "x:y:delete" (blocked_actions[0])'
        ],
        "score_components": [
            {"rule": "base", "contribution": 35},
            {"rule": "blocked_floor", "contribution": 35},
        ],
        "reasoning": "x:y:delete is refused: score 70 (high) = base +35, blocked_floor +35; action_blocked: the action "
        'x:y:delete is blocked by "x:y:delete" (blocked_actions[0])',
        "notes": [],
    }


def test_explain_gives_the_table() -> None:
    event = {"action": "x:y:delete", "timestamp": NOON}
    assert score(event, {}).explanation is None
    explanation = score(event, {"blocked_actions": ["*"]}, explain=True).explanation
    assert explanation is not None
    lines = [line.split() for line in explanation.splitlines()]
    assert lines[0][:2] == ["base", "+35"]
    assert lines[1][:2] == ["blocked_floor", "+35"]
    assert lines[2][:2] == ["score", "70"]
    assert lines[3][0] == "violation:"


@pytest.mark.parametrize(
    ("event", "path"),
    [
        ({}, "action"),
        ({"action": "x:y:read"}, "timestamp"),
        ({"timestamp": NOON}, "action"),
        ({"action": "x:y", "timestamp": NOON}, "action"),
        ({"action": "read", "timestamp": NOON}, "action"),
        ({"action": "x::read", "timestamp": NOON}, "action"),
        ({"action": "", "timestamp": NOON}, "action"),
        ({"action": None, "timestamp": NOON}, "action"),
        ({"action": 7, "timestamp": NOON}, "action"),
        ({"action": "x:y:read", "timestamp": "yesterday"}, "timestamp"),
        ({"action": "x:y:read", "timestamp": 7}, "timestamp"),
        ({"action": "x:y:read", "timestamp": NOON, "parameters": []}, "parameters"),
        ({"action": "x:y:read", "timestamp": NOON, "target": "users"}, "target"),
        (
            {"action": "x:y:read", "timestamp": NOON, "target": {"sensitivity_level": 5}},
            "target.sensitivity_level",
        ),
        (
            {"action": "x:y:read", "timestamp": NOON, "target": {"sensitivity_level": "high"}},
            "target.sensitivity_level",
        ),
        (
            {"action": "x:y:read", "timestamp": NOON, "target": {"sensitivity_level": True}},
            "target.sensitivity_level",
        ),
        ({"action": "x:y:read", "timestamp": NOON, "tool_name": 7}, "tool_name"),
        ({"action": "x:y:read", "timestamp": NOON, "data_fields_accessed": "ssn"}, "data_fields_accessed"),
        ({"action": "x:y:read", "timestamp": NOON, "data_fields_accessed": [7]}, "data_fields_accessed[0]"),
        (
            {"action": "x:y:read", "timestamp": NOON, "data_fields_accessed": [{}]},
            "data_fields_accessed[0].field",
        ),
        ({"action": "x:y:read", "timestamp": NOON, "preceding_actions": "x"}, "preceding_actions"),
        ({"action": "x:y:read", "timestamp": NOON, "parameters": {"Size": 1, "size": 2}}, "parameters.size"),
        ({"action": "x:y:read", "timestamp": NOON, 7: 1}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_what_is_no_event_is_an_error_and_never_a_pass(event: Any, path: str) -> None:
    with pytest.raises(EventError) as caught:
        score(event, {})
    assert caught.value.path == path
    assert isinstance(caught.value, ValueError)


def test_an_event_is_bounded() -> None:
    nested: dict[str, Any] = {}
    for _ in range(100_000):
        nested = {"x": nested}
    for parameters in (nested, {"list": list(range(200_000))}):
        with pytest.raises(EventError):
            ask(parameters=parameters)
    while nested:  # taken apart one by one: the interpreter frees it by recursion
        nested = nested.pop("x")


def test_null_is_not_there() -> None:
    result = ask(
        {"allowed_tools": ["x"]},
        tool_name=None,
        parameters=None,
        target=None,
        agent=None,
        data_fields_accessed=None,
        preceding_actions=None,
        event_id=None,
    )
    assert (result.score, result.verdict) == (5, "allow")
