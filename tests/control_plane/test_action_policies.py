"""Action policies over HTTP: bare in, nested out, and events scored as the library scores them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import guarddb
from tests.control_plane.conftest import Plane
from tests.control_plane.test_policies import error

DOCUMENTED: dict[str, Any] = {
    "sensitive_fields": ["ssn", "credit_card"],
    "allowed_tools": [],
    "blocked_actions": ["database:table:drop"],
    "custom_rules": {
        "max_sensitivity_for_batch": {
            "condition": "batch_size > 100 AND target.sensitivity_level >= 3",
            "score_impact": 30,
            "description": "Flag large batch operations on sensitive resources",
        }
    },
    "allowed_action_patterns": ["github:pull_request:*"],
    "blocked_action_patterns": ["*:*:delete"],
    "sensitive_classifications": ["PII", "PHI"],
}
EVENT = {"event_id": "e1", "action": "database:table:select", "timestamp": "2026-03-01T12:00:00Z"}


@pytest.fixture
def client(plane: Plane) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=plane.url, headers={"X-API-Key": plane.key}, trust_env=False, verify=False, timeout=60
    ) as client:
        yield client


def test_a_policy_goes_in_bare_and_comes_out_nested(client: httpx.Client, plane: Plane) -> None:
    made = client.post("/policies/cust_1", json=DOCUMENTED)
    assert made.status_code == 201
    stored = made.json()
    assert set(stored) == {"customer_id", "policies", "updated_at"}
    assert (stored["customer_id"], stored["policies"]) == ("cust_1", DOCUMENTED)
    assert client.get("/policies/cust_1").json() == stored
    put = client.put("/policies/cust_1", json={"blocked_actions": ["a:b:c"]})
    assert put.status_code == 200
    assert put.json()["policies"] == {"blocked_actions": ["a:b:c"]}
    assert put.json()["updated_at"] > stored["updated_at"]
    again = client.post("/policies/cust_1", json=DOCUMENTED)
    assert (again.status_code, again.json()["policies"]) == (200, DOCUMENTED)
    sent_back = client.put("/policies/cust_1", json=again.json())
    assert sent_back.json()["policies"] == DOCUMENTED
    bearer = {"Authorization": f"Bearer {plane.key}"}
    assert (
        httpx.get(
            f"{plane.url}/policies/cust_1", headers=bearer, trust_env=False, verify=False, timeout=60
        ).status_code
        == 200
    )


def test_what_is_not_there_is_404_and_what_is_not_valid_422(client: httpx.Client, plane: Plane) -> None:
    error(client.get("/policies/nobody"), 404, "not_found")
    error(client.put("/policies/nobody", json={}), 404, "not_found")
    error(client.post("/events", json=EVENT), 404, "not_found")
    for bad, told in (
        ({"blocked_action": []}, "blocked_actions"),
        ({"sensitive_fields": "ssn"}, "sensitive_fields"),
        ({"custom_rules": {"r": {"condition": "a >", "score_impact": 1}}}, "custom_rules.r.condition"),
        ([], "mapping"),
    ):
        assert told in error(client.post("/policies/c", json=bad), 422, "unprocessable")
    error(client.post("/policies/a%20b", json={}), 422, "unprocessable")
    error(
        httpx.get(f"{plane.url}/policies/c", trust_env=False, verify=False, timeout=60),
        401,
        "unauthenticated",
    )


def test_customers_of_another_project_are_not_seen(
    client: httpx.Client, plane: Plane, shared_plane: Plane
) -> None:
    client.post("/policies/shared_name", json=DOCUMENTED)
    other = {"X-API-Key": shared_plane.key}
    error(
        httpx.get(
            f"{plane.url}/policies/shared_name", headers=other, trust_env=False, verify=False, timeout=60
        ),
        404,
        "not_found",
    )


def test_an_agent_scores_and_does_not_write(client: httpx.Client, plane: Plane) -> None:
    client.post("/policies/c", json=DOCUMENTED)
    agent = plane.agent(plane.policy("p")["id"])
    with httpx.Client(
        base_url=plane.url, headers={"X-API-Key": agent["key"]}, trust_env=False, verify=False, timeout=60
    ) as own:
        assert own.post("/events", json=EVENT).status_code == 200
        error(own.post("/policies/c", json={}), 403, "forbidden")
        error(own.put("/policies/c", json={}), 403, "forbidden")


def test_an_event_is_scored_as_the_library_scores_it(client: httpx.Client) -> None:
    client.post("/policies/c", json=DOCUMENTED)
    risky = {
        **EVENT,
        "action": "database:table:drop",
        "data_fields_accessed": [{"field": "email", "classification": "PII"}],
    }
    for event in (EVENT, risky, {**EVENT, "action": "mcp:s3:object.delete"}):
        answer = client.post("/events", json=event)
        assert answer.status_code == 200
        assert answer.json() == guarddb.risk.score(event, DOCUMENTED).to_dict()
    for bad in ({}, {**EVENT, "action": "x"}, {**EVENT, "timestamp": "soon"}, [], "x"):
        error(client.post("/events", json=bad), 422, "unprocessable")


def test_a_batch_is_scored_in_order(client: httpx.Client) -> None:
    client.post("/policies/c", json=DOCUMENTED)
    events = [{**EVENT, "event_id": f"e{number}"} for number in range(1000)]
    answer = client.post("/events/batch", json={"events": events}).json()
    assert (answer["count"], answer["event_ids"]) == (1000, [each["event_id"] for each in events])
    assert [each["event_id"] for each in answer["results"]] == answer["event_ids"]
    error(client.post("/events/batch", json={"events": [*events, EVENT]}), 422, "unprocessable")
    error(client.post("/events/batch", json={"events": []}), 422, "unprocessable")
    message = error(client.post("/events/batch", json={"events": [EVENT, {}]}), 422, "unprocessable")
    assert message.startswith("events[1].action")


def test_the_customer_is_named_where_there_are_several(client: httpx.Client) -> None:
    client.post("/policies/strict", json={"blocked_actions": ["database:table:select"]})
    client.post("/policies/lax", json={})
    error(client.post("/events", json=EVENT), 422, "unprocessable")
    strict = client.post("/events", json=EVENT, params={"customer_id": "strict"}).json()
    lax = client.post("/events", json=EVENT, headers={"X-Customer-Id": "lax"}).json()
    assert (strict["verdict"], lax["verdict"]) == ("refuse", "allow")
    error(client.post("/events", json=EVENT, params={"customer_id": "no"}), 404, "not_found")


def test_bad_json_is_422_here(client: httpx.Client) -> None:
    answer = client.post("/policies/c", content=b"{", headers={"Content-Type": "application/json"})
    error(answer, 422, "unprocessable")
    assert json.loads(answer.text)["error"]["message"].startswith("the body is not JSON")
