"""The built-in rules over an agent's history: off unless asked for, silent until there is something to compare with."""

from __future__ import annotations

from typing import Any

import pytest

from guarddb.policy.errors import PolicyError
from guarddb.risk import History, score

NOON = "2026-03-02T12:00:00Z"


def event(
    agent: str = "a", size: float | None = None, table: str | None = None, at: str = NOON
) -> dict[str, Any]:
    made: dict[str, Any] = {"action": "database:table:select", "timestamp": at, "agent": {"agent_id": agent}}
    if size is not None:
        made["parameters"] = {"batch_size": size}
    if table is not None:
        made["target"] = {"resource_id": table}
    return made


def fired(history: History, each: dict[str, Any]) -> list[str]:
    return [component.rule for component in history.components(each)]


def test_rules_are_off_by_default() -> None:
    history = History({})
    for _ in range(50):
        history.remember(event(size=1), refused=True)
    assert fired(history, event(size=10**6, table="x", at="2026-03-02T03:00:00Z")) == []


def test_a_volume_spike_is_measured_against_the_agents_own_median() -> None:
    history = History({"volume_spike": 25})
    for size in (10, 20, 30) * 4:
        history.remember(event(size=size), refused=False)
        history.remember(event("b", size=size * 1000), refused=False)
    assert fired(history, event(size=200)) == []
    assert fired(history, event(size=201)) == ["volume_spike"]
    assert fired(history, event("b", size=201)) == []
    assert fired(history, event("new", size=10**9)) == []
    assert fired(history, event()) == []


def test_the_rate_of_refusals() -> None:
    history = History({"refusal_rate": 30})
    for number in range(10):
        assert fired(history, event()) == []
        history.remember(event(), refused=number < 3)
    assert fired(history, event()) == ["refusal_rate"]
    history.remember(event(), refused=False)
    assert fired(history, event()) == []


def test_a_table_that_was_not_touched_before() -> None:
    history = History({"first_seen": 10})
    for _ in range(10):
        assert fired(history, event(table="public.orders")) == []
        history.remember(event(table="public.orders"), refused=False)
    assert fired(history, event(table="PUBLIC.Orders")) == []
    assert fired(history, event(table="public.salaries")) == ["first_seen"]
    history.remember(event(table="public.salaries"), refused=True)
    assert fired(history, event(table="public.salaries")) == []


@pytest.mark.parametrize(
    ("hour", "off"), [("05:59", True), ("06:00", False), ("22:59", False), ("23:00", True)]
)
def test_off_hours(hour: str, off: bool) -> None:
    history = History({"off_hours": 5})
    assert fired(history, event(at=f"2026-03-02T{hour}:00Z")) == (["off_hours"] if off else [])


def test_what_history_adds_appears_among_the_components() -> None:
    history = History({"off_hours": 80})
    night = event(at="2026-03-02T03:00:00Z")
    result = score(night, {}, history=history.components(night))
    assert [(c.rule, c.contribution) for c in result.score_components] == [("base", 5), ("off_hours", 80)]
    assert (result.score, result.verdict) == (85, "refuse")


def test_the_last_fifty_actions_are_remembered() -> None:
    history = History({})
    for _ in range(60):
        history.remember(event(), refused=False)
    assert history.preceding_actions({"agent_id": "a"}) == ["database:table:select"] * 50
    assert history.preceding_actions({"agent_id": "b"}) == []


def test_only_so_many_agents_are_remembered() -> None:
    history = History({"off_hours": 1}, agents=3)
    for number in range(10):
        history.remember(event(str(number)), refused=False)
    assert [bool(history.preceding_actions({"agent_id": str(n)})) for n in (6, 7, 8, 9)] == [
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize(
    "rules", [{"volume": 1}, {"volume_spike": "x"}, {"volume_spike": 1.5}, {"off_hours": True}]
)
def test_a_rule_that_there_is_not_is_an_error(rules: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        History(rules)
