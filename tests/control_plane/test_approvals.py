"""Approvals over HTTP: an agent asks and watches, a person decides once, the server's clock ends the wait."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.control_plane.conftest import Plane
from tests.control_plane.test_policies import error

HELD: dict[str, Any] = {
    "sql": "UPDATE orders SET total = 0 WHERE id = 7",
    "kind": "update",
    "tables": ["public.orders"],
    "rows": 1,
    "findings": [],
}


@pytest.fixture
def agent(plane: Plane) -> dict[str, Any]:
    return plane.agent(plane.policy("held")["id"])


def submit(plane: Plane, agent: dict[str, Any], **fields: Any) -> dict[str, Any]:
    answer = plane.request("POST", "/approvals", agent["key"], json={**HELD, **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_a_request_waits_and_is_approved_once(plane: Plane, agent: dict[str, Any]) -> None:
    made = submit(plane, agent)
    assert made["id"].startswith("apr_")
    assert made["status"] == "pending"
    assert made["agent"] == "bot"
    assert {key: made[key] for key in HELD} == HELD
    [listed] = plane.request("GET", "/approvals", params={"status": "pending"}).json()["approvals"]
    assert listed == made
    path = f"/approvals/{made['id']}"
    error(plane.request("POST", f"{path}/approve", agent["key"]), 403, "forbidden")
    error(plane.request("POST", f"{path}/approve", plane.new_key("viewer")), 403, "forbidden")
    decided = plane.request("POST", f"{path}/approve", plane.new_key("approver"), json={"reason": "checked"})
    assert decided.status_code == 200
    body = decided.json()
    assert (body["status"], body["reason"]) == ("approved", "checked")
    assert body["decided_by"].startswith("key_")
    assert body["decided_at"] >= body["requested_at"]
    error(plane.request("POST", f"{path}/approve"), 409, "already_decided")
    error(plane.request("POST", f"{path}/reject", json={"reason": "late"}), 409, "already_decided")
    assert plane.request("GET", path, agent["key"]).json() == body
    assert plane.request("GET", "/approvals", params={"status": "pending"}).json() == {"approvals": []}
    ran = plane.request("PATCH", path, agent["key"], json={"status": "executed", "rows": 1})
    assert ran.json()["status"] == "executed"
    error(plane.request("PATCH", path, agent["key"], json={"status": "failed"}), 409, "conflict")


def test_a_request_is_rejected_with_a_reason(plane: Plane, agent: dict[str, Any]) -> None:
    made = submit(plane, agent)
    rejected = plane.request("POST", f"/approvals/{made['id']}/reject", json={"reason": "not today"}).json()
    assert (rejected["status"], rejected["reason"]) == ("rejected", "not today")
    path = f"/approvals/{made['id']}"
    error(plane.request("PATCH", path, agent["key"], json={"status": "executed"}), 409, "conflict")


def test_the_servers_clock_ends_the_wait(plane: Plane, agent: dict[str, Any]) -> None:
    made = submit(plane, agent, timeout_seconds=1)
    deadline = time.monotonic() + 60
    path = f"/approvals/{made['id']}"
    while plane.request("GET", path).json()["status"] == "pending":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert plane.request("GET", path).json()["status"] == "expired"
    error(plane.request("POST", f"{path}/approve"), 409, "already_decided")
    [listed] = plane.request("GET", "/approvals", params={"status": "expired"}).json()["approvals"]
    assert listed["id"] == made["id"]


def test_the_same_request_sent_twice_is_one(plane: Plane, agent: dict[str, Any]) -> None:
    made = submit(plane, agent, id=f"apr_{plane.project}")
    again = plane.request("POST", "/approvals", agent["key"], json={**HELD, "id": made["id"]})
    assert again.status_code == 200
    assert again.json() == made
    other = {**HELD, "id": made["id"], "sql": "DELETE FROM orders WHERE id = 1"}
    error(plane.request("POST", "/approvals", agent["key"], json=other), 409, "conflict")


def test_an_agent_sees_its_own_requests_only(plane: Plane, agent: dict[str, Any]) -> None:
    made = submit(plane, agent)
    stranger = plane.agent(agent["policy_id"], "stranger")
    assert plane.request("GET", "/approvals", stranger["key"]).json() == {"approvals": []}
    for method, path, options in (
        ("GET", f"/approvals/{made['id']}", {}),
        ("GET", f"/approvals/{made['id']}/events", {}),
        ("PATCH", f"/approvals/{made['id']}", {"json": {"status": "expired"}}),
    ):
        error(plane.request(method, path, stranger["key"], **options), 404, "not_found")


def test_two_people_who_decide_at_once_cannot_both_be_first(plane: Plane, agent: dict[str, Any]) -> None:
    made = submit(plane, agent)
    start = threading.Barrier(8)
    statuses: list[int] = []

    def decide(verb: str) -> None:
        start.wait()
        statuses.append(plane.request("POST", f"/approvals/{made['id']}/{verb}").status_code)

    threads = [threading.Thread(target=decide, args=(verb,)) for verb in ["approve", "reject"] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [409] * 7


@pytest.mark.parametrize(
    "change",
    [
        {"sql": ""},
        {"sql": 5},
        {"rows": -1},
        {"tables": "orders"},
        {"unknown": 1},
        {"id": "xyz"},
        {"timeout_seconds": 0},
    ],
)
def test_a_bad_request_is_refused(plane: Plane, agent: dict[str, Any], change: dict[str, Any]) -> None:
    answer = plane.request("POST", "/approvals", agent["key"], json={**HELD, **change})
    assert next(iter(change)) in error(answer, 400, "invalid_request")


def test_any_text_is_kept_as_it_is(plane: Plane, agent: dict[str, Any]) -> None:
    sql = "SELECT '\u202e<script>alert(1)</script>\x00\U0001f600'"
    made = submit(plane, agent, sql=sql, parameters=["\x00", {"a": None}])
    shown = plane.request("GET", f"/approvals/{made['id']}").json()
    assert shown["sql"] == sql
    assert shown["parameters"] == ["\x00", {"a": None}]


def test_the_queue_comes_in_pages_newest_first(plane: Plane, agent: dict[str, Any]) -> None:
    made = [submit(plane, agent)["id"] for _ in range(3)]
    first = plane.request("GET", "/approvals", params={"page_size": 2}).json()
    rest = plane.request(
        "GET", "/approvals", params={"page_size": 2, "page_token": first["next_page_token"]}
    ).json()
    assert [each["id"] for each in first["approvals"] + rest["approvals"]] == made[::-1]
    assert "next_page_token" not in rest
    error(plane.request("GET", "/approvals", params={"status": "odd"}), 400, "invalid_request")
