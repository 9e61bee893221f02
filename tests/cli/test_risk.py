"""`guarddb risk score`: the table, the JSON, the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

EVENT = {"event_id": "e1", "action": "database:table:select", "timestamp": "2026-03-01T12:00:00Z"}


@pytest.fixture
def actions(tmp_path: Path) -> Path:
    path = tmp_path / "actions.yaml"
    path.write_text(
        'blocked_actions: ["database:table:drop"]\n'
        "custom_rules:\n  bulk: {condition: 'batch_size > 100', score_impact: 60, description: many rows}\n"
    )
    return path


def test_an_allowed_event_ends_with_zero_and_shows_the_table(run: Run, actions: Path, tmp_path: Path) -> None:
    event = tmp_path / "event.json"
    event.write_text(json.dumps({**EVENT, "parameters": {"batch_size": 500}}))
    answer = run("risk", "score", event, "--policy", actions)
    assert answer.code == 0
    for shown in ("FLAG", "score 65 of 100, high", "base", "+5", "bulk", "+60", "many rows"):
        assert shown in answer.out


def test_a_refused_event_ends_with_one(run: Run, actions: Path) -> None:
    event = json.dumps({**EVENT, "action": "database:table:drop"})
    answer = run("risk", "score", "-", "-p", actions, stdin=event)
    assert answer.code == 1
    assert "REFUSE" in answer.out
    assert "blocked_actions[0]" in answer.out


def test_json_is_the_wire_shape(run: Run, actions: Path) -> None:
    answer = run("risk", "score", "-", "-p", actions, "--json", stdin=json.dumps(EVENT))
    result = json.loads(answer.out)
    assert answer.code == 0
    assert (result["event_id"], result["score"], result["verdict"]) == ("e1", 5, "allow")
    assert result["score_components"] == [{"rule": "base", "contribution": 5}]
    assert "bulk" in result["notes"][0]


def test_the_thresholds_may_be_given(run: Run, actions: Path) -> None:
    assert run("risk", "score", "-", "-p", actions, "--refuse-at", "5", stdin=json.dumps(EVENT)).code == 1


@pytest.mark.parametrize(
    ("stdin", "told"),
    [
        ("{", "not JSON"),
        ("[]", "no event"),
        ("{}", "action: is required"),
        ('{"action": "drop", "timestamp": "2026-03-01T12:00:00Z"}', "three segments"),
        (b"\xff", "UTF-8"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_bad_input_ends_with_two_and_a_sentence(
    run: Run, actions: Path, stdin: str | bytes, told: str
) -> None:
    answer = run("risk", "score", "-", "-p", actions, stdin=stdin)
    assert (answer.code, answer.out) == (2, "")
    assert told in answer.err


def test_a_bad_policy_ends_with_two(run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("custom_rules: {r: {condition: 'lower(action)', score_impact: 1}}\n")
    answer = run("risk", "score", "-", "-p", bad, stdin=json.dumps(EVENT))
    assert answer.code == 2
    assert "custom_rules.r.condition" in answer.err
    assert run("risk", "score", tmp_path / "nothing.json", "-p", bad).code == 2
