"""Who may do what: keys, roles, projects, limits."""

from __future__ import annotations

import http.client
import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from guarddb.integrations.control_plane.store.tables import AuditEntry, Key
from sqlalchemy import update

from tests.control_plane.conftest import Plane, running
from tests.control_plane.test_client import eventually
from tests.control_plane.test_policies import error


def test_a_request_without_a_valid_key_is_turned_away(plane: Plane) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {plane.key}"},
        {"Authorization": f"Bearer {plane.key[:-1]}"},
        {"Authorization": f"Bearer {plane.key}x"},
        {"X-API-Key": plane.key},  # that header is for the routes of action policies
    ):
        with httpx.Client(trust_env=False, verify=False, timeout=60) as client:
            answer = client.get(f"{plane.base}/policies", headers=headers)
        error(answer, 401, "unauthenticated")
        assert "Bearer" in answer.headers["www-authenticate"]


def test_a_scheme_is_known_in_any_case(plane: Plane) -> None:
    with httpx.Client(trust_env=False, verify=False, timeout=60) as client:
        answer = client.get(f"{plane.base}/policies", headers={"Authorization": f"bearer {plane.key}"})
    assert answer.status_code == 200


def test_another_projects_key_finds_nothing(plane: Plane, shared_plane: Plane) -> None:
    error(plane.request("GET", "/policies", key=shared_plane.key), 404, "not_found")
    error(shared_plane.request("GET", "/policies", key=plane.key), 404, "not_found")


def test_only_the_servers_first_key_makes_projects(plane: Plane) -> None:
    with httpx.Client(
        trust_env=False, verify=False, timeout=60, headers={"Authorization": f"Bearer {plane.key}"}
    ) as client:
        error(client.post(f"{plane.url}/v1/projects", json={"name": "x"}), 403, "forbidden")


def test_an_agents_key_reads_its_profile_and_nothing_else(plane: Plane) -> None:
    own, other = plane.policy("own"), plane.policy("other")
    agent = plane.agent(own["id"])
    key = agent["key"]
    assert plane.request("GET", f"/policies/{own['id']}", key).json() == own
    assert plane.request("GET", "/policy", key).json() == own
    judge = {"sql": "SELECT 1", "policy_id": own["id"]}
    assert plane.request("POST", "/policy-evaluations", key, json=judge).status_code == 200
    draft = {"sql": "SELECT 1", "policy": {}}
    assert plane.request("POST", "/policy-evaluations", key, json=draft).status_code == 200
    foreign = {"sql": "SELECT 1", "policy_id": other["id"]}
    refused = [
        ("POST", "/policy-evaluations", {"json": foreign}),
        ("GET", f"/policies/{other['id']}", {}),
        ("GET", "/policies", {}),
        ("POST", "/policies", {"json": {"name": "mine"}}),
        ("PUT", f"/policies/{own['id']}", {"json": {"name": "wide", "access_mode": "read_write"}}),
        ("DELETE", f"/policies/{own['id']}", {}),
        ("GET", f"/policies/{own['id']}/versions", {}),
        ("GET", "/agents", {}),
        ("POST", "/agents", {"json": {"name": "x", "policy_id": own["id"]}}),
        ("PATCH", f"/agents/{agent['id']}", {"json": {"status": "active"}}),
        ("POST", f"/agents/{agent['id']}/rotate", {}),
        ("GET", "/keys", {}),
        ("POST", "/keys", {"json": {"name": "x", "role": "admin"}}),
        ("GET", "/audit", {}),
        ("PUT", "/catalog", {"json": {}}),
        ("GET", f"/policies/{other['id']}/events", {}),
    ]
    for method, path, options in refused:
        error(plane.request(method, path, key, **options), 403, "forbidden")


def test_viewers_and_approvers_change_nothing_else(plane: Plane) -> None:
    stored = plane.policy("seen")
    for role in ("viewer", "approver"):
        key = plane.new_key(role)
        assert plane.request("GET", f"/policies/{stored['id']}", key).status_code == 200
        assert plane.request("GET", "/agents", key).status_code == 200
        error(plane.request("PUT", f"/policies/{stored['id']}", key, json={"name": "x"}), 403, "forbidden")
        error(plane.request("POST", "/keys", key, json={"name": "x", "role": "admin"}), 403, "forbidden")
        error(plane.request("GET", "/keys", key), 403, "forbidden")


def test_a_key_is_shown_once_and_kept_as_a_hash(plane: Plane) -> None:
    made = plane.request("POST", "/keys", json={"name": "ci", "role": "viewer"}).json()
    listed = plane.request("GET", "/keys").json()["keys"]
    assert made["key"] not in json.dumps(listed)
    with plane.server.database.read() as session:
        row = session.get_one(Key, made["id"])
        assert made["key"] not in json.dumps([row.digest, row.name])
    assert {each["id"] for each in listed} >= {made["id"]}


def test_a_withdrawn_and_an_expired_key_do_not_work(plane: Plane) -> None:
    made = plane.request("POST", "/keys", json={"name": "ci", "role": "viewer"}).json()
    assert plane.request("GET", "/policies", made["key"]).status_code == 200
    assert plane.request("DELETE", f"/keys/{made['id']}").status_code == 204
    error(plane.request("GET", "/policies", made["key"]), 401, "unauthenticated")
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    made = plane.request("POST", "/keys", json={"name": "ci", "role": "viewer", "expires_at": soon}).json()
    assert plane.request("GET", "/policies", made["key"]).status_code == 200
    with plane.server.database.write() as session:
        session.execute(update(Key).where(Key.id == made["id"]).values(expires_at=datetime.now(UTC)))
    error(plane.request("GET", "/policies", made["key"]), 401, "unauthenticated")
    past = {"name": "ci", "role": "viewer", "expires_at": "2020-01-01T00:00:00Z"}
    assert "future" in error(plane.request("POST", "/keys", json=past), 400, "invalid_request")


def test_rotation_overlaps_as_long_as_asked(plane: Plane) -> None:
    agent = plane.agent(plane.policy("rotated")["id"])
    path = f"/agents/{agent['id']}/rotate"
    second = plane.request("POST", path, json={"overlap_seconds": 600}).json()
    assert second["key"] != agent["key"]
    for key in (agent["key"], second["key"]):
        assert plane.request("GET", "/policy", key).status_code == 200
    third = plane.request("POST", path).json()
    for key in (agent["key"], second["key"]):
        error(plane.request("GET", "/policy", key), 401, "unauthenticated")
    assert plane.request("GET", "/policy", third["key"]).status_code == 200


def test_the_last_admin_key_stays(plane: Plane) -> None:
    [first] = plane.request("GET", "/keys").json()["keys"]
    assert "last admin key" in error(plane.request("DELETE", f"/keys/{first['id']}"), 409, "conflict")
    second = plane.request("POST", f"/keys/{first['id']}/rotate").json()
    error(plane.request("GET", "/keys"), 401, "unauthenticated")
    assert plane.request("GET", "/keys", second["key"]).status_code == 200


def test_last_used_is_told(plane: Plane) -> None:
    [first] = plane.request("GET", "/keys").json()["keys"]
    assert first["last_used_at"] is not None


def test_a_disabled_agent_is_turned_away_everywhere(plane: Plane) -> None:
    stored = plane.policy("off")
    agent = plane.agent(stored["id"])
    path = f"/agents/{agent['id']}"
    assert plane.request("PATCH", path, json={"status": "disabled"}).json()["status"] == "disabled"
    tag = plane.request("GET", f"/policies/{stored['id']}").headers["etag"]
    for asked in ("/policy", f"/policies/{stored['id']}", f"/policies/{stored['id']}/events", "/approvals"):
        answer = plane.request("GET", asked, agent["key"], headers={"If-None-Match": tag})
        error(answer, 403, "agent_disabled")
    assert plane.request("PATCH", path, json={"status": "active"}).json()["status"] == "active"
    assert plane.request("GET", "/policy", agent["key"]).status_code == 200
    for bad in ({"status": "asleep"}, {"statos": "active"}, {"name": ""}, {"name": "a\nb"}, []):
        error(plane.request("PATCH", path, json=bad), 400, "invalid_request")


def test_an_agent_is_bound_to_another_profile(plane: Plane) -> None:
    first, second = plane.policy("first"), plane.policy("second")
    agent = plane.agent(first["id"])
    bound = plane.request("PATCH", f"/agents/{agent['id']}", json={"policy_id": second["id"]})
    assert bound.json()["policy_id"] == second["id"]
    assert plane.request("GET", "/policy", agent["key"]).json() == second
    error(plane.request("PATCH", f"/agents/{agent['id']}", json={"policy_id": "pol_no"}), 404, "not_found")
    error(plane.request("POST", "/agents", json={"name": "bot", "policy_id": first["id"]}), 409, "conflict")
    error(plane.request("POST", "/agents", json={"name": "b2"}), 400, "invalid_request")


def test_a_large_body_is_refused_before_it_is_read(plane: Plane) -> None:
    where = urlsplit(plane.base)
    connection = http.client.HTTPConnection(where.hostname or "", where.port or 0, timeout=10)
    connection.putrequest("POST", f"{where.path}/policies")
    connection.putheader("Authorization", f"Bearer {plane.key}")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    answer = connection.getresponse()  # nothing of the body was sent
    assert answer.status == 413
    assert json.loads(answer.read())["error"]["code"] == "too_large"
    connection.close()


def test_a_large_body_without_a_length_is_cut_off(plane: Plane) -> None:
    def chunks() -> object:
        for _ in range(100):
            yield b" " * 65536

    with plane.client() as client:
        answer = client.post("/policies", content=chunks(), headers={"Content-Type": "application/json"})  # type: ignore[arg-type]
    error(answer, 413, "too_large")


def test_too_many_requests_are_told_when_to_come_back(start_plane: Callable[..., Plane]) -> None:
    plane = start_plane(rate_limit="5/year")  # (whose end no run of the suite is likely to see)
    answers = [plane.request("GET", "/policies") for _ in range(7)]
    assert [each.status_code for each in answers[:5]] == [200] * 5
    for answer in answers[5:]:
        error(answer, 429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= 366 * 86_400


def test_wrong_keys_are_slowed_down_and_right_ones_are_not(start_plane: Callable[..., Plane]) -> None:
    plane = start_plane()
    statuses = {plane.request("GET", "/policies", "gdk_wrong").status_code for _ in range(45)}
    assert statuses == {401, 429}
    assert plane.request("GET", "/policies").status_code == 200


def test_limits_of_the_server_are_403(start_plane: Callable[..., Plane]) -> None:
    plane = start_plane(max_policies=1, max_agents=1)
    stored = plane.policy("one")
    error(plane.request("POST", "/policies", json={"name": "two"}), 403, "limit_reached")
    plane.agent(stored["id"])
    error(
        plane.request("POST", "/agents", json={"name": "b", "policy_id": stored["id"]}), 403, "limit_reached"
    )


def test_an_unknown_path_and_method_have_the_same_shape(plane: Plane) -> None:
    error(plane.request("GET", "/nothing"), 404, "not_found")
    answer = plane.request("PATCH", "/policies")
    error(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST"


def test_what_somebody_makes_up_becomes_no_time_series_and_no_redirect(plane: Plane) -> None:
    with httpx.Client(
        trust_env=False, verify=False, timeout=60, headers={"Authorization": f"Bearer {plane.key}"}
    ) as client:
        for number in range(3):
            client.request(f"MADE{number}", f"{plane.url}/made/up/{number}")
        told = client.get(f"{plane.url}/metrics").text
        assert "MADE" not in told
        assert "made/up" not in told
        for path in ("/policies/", "/agents/"):
            error(client.get(plane.base + path), 404, "not_found")


def test_every_change_is_in_the_audit_chain(plane: Plane) -> None:
    stored = plane.policy("audited")
    plane.request("PUT", f"/policies/{stored['id']}", json={"name": "audited", "max_rows": 5})
    agent = plane.agent(stored["id"])
    plane.request("PATCH", f"/agents/{agent['id']}", json={"status": "disabled"})
    entries = plane.request("GET", "/audit", params={"page_size": 100}).json()["entries"]
    actions = [each["action"] for each in reversed(entries)]
    assert actions == [
        "project.create",
        "key.create",
        "policy.create",
        "policy.update",
        "agent.create",
        "key.create",
        "agent.update",
    ]
    assert agent["key"] not in json.dumps(entries)
    assert all(newer["previous"] == older["digest"] for newer, older in itertools.pairwise(entries))
    assert plane.request("GET", "/audit/check").json() == {"whole": True, "broken_at": None}
    with plane.server.database.write() as session:
        changed = entries[3]["seq"]
        session.execute(update(AuditEntry).where(AuditEntry.seq == changed).values(actor="somebody else"))
    assert plane.request("GET", "/audit/check").json() == {"whole": False, "broken_at": changed}


def test_a_second_start_prints_no_key_and_knows_the_first(
    start_plane: Callable[..., Plane], tmp_path: object
) -> None:
    first = start_plane()
    stored = first.policy("kept")
    with running(first.settings.database, first_key=(first.project, first.key)) as second:
        assert second.key == first.key
        assert second.request("GET", f"/policies/{stored['id']}").json() == stored


@pytest.mark.parametrize("path", ["/healthz", "/metrics"])
def test_operations_need_no_key(plane: Plane, path: str) -> None:
    answer = httpx.get(plane.url + path, trust_env=False, verify=False, timeout=60)
    assert answer.status_code == 200
    if path == "/metrics":
        assert "guarddb_http_requests_total" in answer.text
        assert plane.key not in answer.text


def test_the_access_log_holds_no_key(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="guarddb.control_plane.access"):
        plane.request("GET", "/policies", params={"page_token": "c2VjcmV0"})
        plane.request("GET", "/policies", "gdk_wrong_key")

        def lines_of_both() -> list[Any]:
            records = [record for record in caplog.records if record.name.endswith("access")]
            return [json.loads(record.message) for record in records] if len(records) > 1 else []

        # A line is written when its answer is on its way.
        eventually(lines_of_both)
    lines = lines_of_both()
    assert [line["status"] for line in lines[-2:]] == [200, 401]
    assert lines[-2]["key"].startswith("key_")
    text = caplog.text
    assert plane.key not in text
    assert "gdk_" not in text
    assert "c2VjcmV0" not in text
