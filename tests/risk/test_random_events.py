"""Ten thousand events and policies at random: what holds for every one of them."""

from __future__ import annotations

import random
from typing import Any

from guarddb.risk import ActionPolicy, RiskResult, score

DOMAINS = ["database", "mcp", "github"]
SCOPES = ["table", "view", "schema", "s3", "pull_request"]
VERBS = ["select", "update", "delete", "object.delete", "grant", "send", "dance", "a.b.read"]
CLASSES = [
    "public",
    "internal",
    "pii",
    "PII",
    "pii_sensitive",
    "PHI",
    "health",
    "auth",
    "secret",
    "restricted",
    "",
    None,
]
FIELDS = ["ssn", "email", "users.email", "public.users.password", "note", "straße"]
TOOLS = ["slack", "Postgres", "e-mail", "ﬁle"]
PATTERNS = [
    "*:*:delete",
    "database:*",
    "*:*:*.delete",
    "mcp:s3:object.delete",
    "github:pull_request:*",
    "delete",
    "*",
]
CONDITIONS = [
    "batch_size > 100",
    "batch_size > 100 AND target.sensitivity_level >= 3",
    "hour(timestamp) < 6 OR hour(timestamp) > 22",
    "action LIKE '*:*:delete'",
    "matches('mcp:*')",
    "tool_name IN ('slack', 'POSTGRES')",
    "tool_name LIKE 's%'",
    "count(preceding_actions) > 2",
    "nosuch.name = 1",
    "parameters.amount / batch_size > 2",
    "action = 'database:table:delete' OR agent.agent_type IS NULL",
]


def some(draw: random.Random, values: list[Any]) -> list[Any]:
    return draw.sample(values, draw.randint(0, min(3, len(values))))


def a_policy(draw: random.Random) -> dict[str, Any]:
    return {
        "sensitive_fields": some(draw, FIELDS),
        "allowed_tools": some(draw, TOOLS),
        "blocked_actions": some(draw, PATTERNS) if draw.random() < 0.3 else [],
        "allowed_action_patterns": some(draw, PATTERNS),
        "blocked_action_patterns": some(draw, PATTERNS) if draw.random() < 0.3 else [],
        "sensitive_classifications": [c for c in some(draw, CLASSES) if c],
        "custom_rules": {
            f"rule {i}": {"condition": condition, "score_impact": draw.randint(-120, 120)}
            for i, condition in enumerate(some(draw, CONDITIONS))
        },
    }


def an_event(draw: random.Random) -> dict[str, Any]:
    event: dict[str, Any] = {
        "action": ":".join((draw.choice(DOMAINS), draw.choice(SCOPES), draw.choice(VERBS))),
        "timestamp": f"2026-03-01T{draw.randint(0, 23):02}:00:00Z",
    }
    if draw.random() < 0.7:
        event["tool_name"] = draw.choice(TOOLS)
    if draw.random() < 0.7:
        event["data_fields_accessed"] = [
            name if draw.random() < 0.3 else {"field": name, "classification": draw.choice(CLASSES)}
            for name in some(draw, FIELDS)
        ]
    if draw.random() < 0.7:
        event["parameters"] = {
            "batch_size": draw.choice([0, 1, 50, 101, 5000, None]),
            "amount": draw.randint(0, 99),
        }
    if draw.random() < 0.5:
        event["target"] = {
            "resource_id": "public.users",
            "sensitivity_level": draw.choice([0, 2, 3, 4, None]),
        }
    if draw.random() < 0.5:
        event["preceding_actions"] = ["database:table:select"] * draw.randint(0, 4)
    if draw.random() < 0.3:
        event["agent"] = {"agent_id": "a", "agent_type": "bot"}
    return event


def shuffled(draw: random.Random, event: dict[str, Any]) -> dict[str, Any]:
    """The event with its keys in another order, and what is compared without letter case in another case."""

    def other_case(text: str) -> str:
        return draw.choice([str.upper, str.lower, str.title, str.swapcase])(text)

    def reordered(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        items = [(other_case(key), reordered(each)) for key, each in value.items()]
        draw.shuffle(items)
        return dict(items)

    changed = dict(event)
    for key in ("action", "tool_name"):
        if key in changed:
            changed[key] = other_case(changed[key])
    if "data_fields_accessed" in changed:
        fields = [
            other_case(each)
            if isinstance(each, str)
            else {
                "field": other_case(each["field"]),
                "classification": each["classification"] and other_case(each["classification"]),
            }
            for each in changed["data_fields_accessed"]
        ]
        draw.shuffle(fields)
        changed["data_fields_accessed"] = [reordered(each) for each in fields]
    result: dict[str, Any] = reordered(changed)
    return result


def judged(result: RiskResult) -> tuple[Any, ...]:
    return (
        result.score,
        result.verdict,
        result.rule,
        result.risk_level,
        [(c.rule, c.contribution) for c in result.score_components],
        len(result.violations),
        len(result.notes),
    )


def test_what_holds_for_ten_thousand_events() -> None:
    """Within 0 and 100, components add up, blocked is refused, and neither order nor letter case changes anything."""
    draw = random.Random(14)
    verdicts: dict[str, int] = {}
    for number in range(1000):
        policy = ActionPolicy(**a_policy(draw))
        for _ in range(10):
            event = an_event(draw)
            result = score(event, policy)
            place = f"policy {number}: {event}"
            assert 0 <= result.score <= 100, place
            assert isinstance(result.score, int), place
            assert sum(c.contribution for c in result.score_components) == result.score, place
            blocked = any(pattern.matches(_action(event)) for _, pattern in policy.compiled.blocked)
            outside = (
                bool(policy.allowed_tools)
                and event.get("tool_name") is not None
                and (event["tool_name"].casefold() not in {tool.casefold() for tool in policy.allowed_tools})
            )
            assert (result.rule == "action_blocked") == (blocked or outside), place
            assert (result.verdict == "refuse") == (blocked or outside or result.score >= 85), place
            assert result.score >= 70 or not blocked, place
            assert (result.verdict == "flag") == (60 <= result.score < 85 and not result.refused), place
            assert judged(score(shuffled(draw, event), policy)) == judged(result), place
            verdicts[result.verdict] = verdicts.get(result.verdict, 0) + 1
    assert all(verdicts.get(verdict, 0) > 300 for verdict in ("allow", "flag", "refuse")), verdicts


def _action(event: dict[str, Any]) -> Any:
    from guarddb.risk.patterns import Action

    return Action(event["action"])
