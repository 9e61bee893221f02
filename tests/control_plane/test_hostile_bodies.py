"""Bodies that one reader takes and another does not, too deep, out of range: none breaks a list or a page."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.control_plane.conftest import Plane
from tests.control_plane.test_pages import Browser, browser

__all__ = ["browser"]  # a fixture

HELD = {"sql": "DELETE FROM t WHERE a = 1", "kind": "delete"}
DECISION = {"at": "2026-03-01T00:00:00Z", "verdict": "allow", "rule": "ok"}


@pytest.fixture
def agent(plane: Plane) -> str:
    """The key of an agent."""
    key: str = plane.agent(plane.policy()["id"])["key"]
    return key


@pytest.mark.parametrize(
    "body",
    [
        b'{"sql": "x", "parameters": [NaN]}',
        b'{"sql": "x", "parameters": ["\\ud800"]}',
        b'{"sql": "x", "sql": "y"}',
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_second_content_type_hides_nothing(plane: Plane, agent: str, body: bytes, first: bool) -> None:
    kinds = [("Content-Type", "application/json"), ("Content-Type", "text/plain")]
    headers = [("Authorization", f"Bearer {agent}"), *(kinds if first else reversed(kinds))]
    with httpx.Client(trust_env=False, verify=False, timeout=60) as client:
        answer = client.post(f"{plane.base}/approvals", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert plane.request("GET", "/approvals").json()["approvals"] == []


def test_what_is_not_sent_as_json_is_told_so(plane: Plane) -> None:
    answer = plane.request("POST", "/keys", content=b'{"name": "x", "role": "viewer"}')
    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]["message"]


@pytest.mark.parametrize("depth", [101, 300, 900, 5_000, 100_000])
def test_nesting_is_bounded_the_same_everywhere(plane: Plane, agent: str, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    json = {"Content-Type": "application/json"}
    for method, path, key, body in (
        ("POST", "/approvals", agent, '{"sql": "x", "sample": %s}'),
        ("POST", "/approvals", agent, '{"sql": "x", "findings": %s}'),
        ("POST", "/decisions", agent, '{"entries": [{"x": %s}]}'),
        ("POST", "/policies", None, '{"name": "x", "guarddb": %s}'),
        ("POST", "/policy-evaluations", None, '{"sql": "x", "policy": %s}'),
        ("PUT", "/catalog", None, '{"a": %s}'),
    ):
        answer = plane.request(method, path, key, content=body % deep, headers=json)
        assert answer.status_code == 400, (path, answer.text)
        assert "100 levels" in answer.json()["error"]["message"] or depth > 900


def test_ordinary_nesting_is_taken(plane: Plane, agent: str) -> None:
    value: Any = "x"
    for _ in range(90):
        value = [value]
    answer = plane.request("POST", "/approvals", agent, json={**HELD, "findings": value})
    assert answer.status_code == 201
    assert plane.request("GET", "/approvals").json()["approvals"][0]["findings"] == value


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_utc_does_not_have_is_not_valid(plane: Plane, agent: str, moment: str) -> None:
    policy_id = plane.policy("another")["id"]
    for path, key, body in (
        ("/agents", None, {"name": "n", "policy_id": policy_id, "expires_at": moment}),
        ("/keys", None, {"name": "n", "role": "viewer", "expires_at": moment}),
        ("/approvals", agent, {**HELD, "requested_at": moment, "expires_at": moment}),
        ("/decisions", agent, {"entries": [{**DECISION, "at": moment}]}),
    ):
        answer = plane.request("POST", path, key, json=body)
        assert answer.status_code == 400, (path, answer.text)


def test_an_early_time_is_answered_as_it_was_given(plane: Plane, agent: str) -> None:
    early = "0001-01-01T00:00:00.000000Z"
    sent = plane.request("POST", "/decisions", agent, json={"entries": [{**DECISION, "at": early}]})
    assert sent.status_code == 202
    agents = plane.request("GET", "/agents").json()["agents"]
    listed = plane.request("GET", f"/agents/{agents[0]['id']}/decisions").json()["decisions"]
    assert listed[0]["at"] == early


@pytest.mark.parametrize("field", ["verdict", "rule"])
def test_a_reported_word_is_a_word(plane: Plane, agent: str, field: str) -> None:
    for word in ("a\0", "", "line\n"):
        answer = plane.request("POST", "/decisions", agent, json={"entries": [{**DECISION, field: word}]})
        assert answer.status_code == 400, answer.text


def test_what_agents_make_up_is_no_time_series(plane: Plane, agent: str) -> None:
    entries = [{**DECISION, "rule": f"made_up_{number}", "verdict": f"v{number}"} for number in range(50)]
    assert plane.request("POST", "/decisions", agent, json={"entries": entries}).status_code == 202
    text = httpx.get(f"{plane.url}/metrics", trust_env=False, timeout=60).text
    assert "made_up_" not in text
    assert 'rule="other"' in text


@pytest.mark.parametrize(
    "sample",
    [
        [{"table": "t", "old": 5, "new": None}],
        [{"table": "t", "old": None, "new": True}],
        [{"table": 1, "old": [{"a": 1}], "new": [[1]]}],
        [{"old": "text", "new": 0.5}],
        ["a row", 7, None, [1]],
        [{"table": {"a": 1}, "old": {"a": {"b": 1}}, "new": {"a": None}}],
    ],
)
def test_no_sample_breaks_the_page_of_approvals(
    plane: Plane, browser: Browser, agent: str, sample: list[Any]
) -> None:
    filed = plane.request("POST", "/approvals", agent, json={**HELD, "sample": sample})
    assert filed.status_code == 201
    shown = browser.get("/ui/approvals")
    assert shown.status_code == 200
    assert filed.json()["id"] in shown.text


def test_who_approves_sees_every_part_of_what_was_sent(plane: Plane, browser: Browser, agent: str) -> None:
    """Named parameters with their values; rows and findings of a shape that the page does not know as they are."""
    for parameters in ({"the_name": "the value"}, ["the_name", {"x": "the value"}]):
        body = {
            **HELD,
            "parameters": parameters,
            "sample": ["a loose row"],
            "findings": [["a loose finding"], {"text": "another one"}],
        }
        assert plane.request("POST", "/approvals", agent, json=body).status_code == 201
        shown = browser.get("/ui/approvals").text
        for text in ("the_name", "the value", "a loose row", "a loose finding", "another one"):
            assert text in shown


@pytest.mark.parametrize("number", ["--5", "-", "5-", "1_0", "٣", "1e3", " ", "9" * 5_000])
def test_a_number_that_is_none_is_told_beside_the_form(browser: Browser, number: str) -> None:
    for path in ("/ui/policies", "/ui/evaluate"):
        answer = browser.form(path, {"name": "", "max_rows": number, "sql": "SELECT 1"})
        assert answer.status_code in (200, 400), answer.text
