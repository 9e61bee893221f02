"""Decisions that sessions report: batched, never in a statement's way, and no refusal lost without a word."""

from __future__ import annotations

import logging
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

import guarddb
from guarddb.runtime.decision_upload import DecisionUpload
from tests.control_plane.conftest import Plane, running
from tests.control_plane.test_client import eventually, reply, scripted, works


@pytest.fixture
def agent(plane: Plane) -> dict[str, Any]:
    return plane.agent(plane.policy("counted", table_denylist=["orders"], budget_queries_per_day=100)["id"])


def test_a_sessions_decisions_are_listed_and_summed_up(
    plane: Plane, agent: dict[str, Any], shop: str
) -> None:
    upload = DecisionUpload(plane.base, agent["key"])
    policy = plane.request("GET", f"/policies/{agent['policy_id']}").json()
    with guarddb.connect(shop, policy=policy, autocommit=True, on_decision=upload) as conn:
        for _ in range(3):
            conn.execute("SELECT id FROM customers")
        assert not works(conn, "SELECT id FROM orders")
    assert upload.flush()
    activity = plane.request("GET", f"/agents/{agent['id']}/activity").json()
    assert activity["statements_today"] >= 3
    assert activity["refusals_today"] == {"table_denied": 1}
    assert activity["budget_left"]["queries_per_day"] == 100 - activity["statements_today"]
    assert activity["budget_left"]["queries_per_hour"] is None
    listed = plane.request("GET", f"/agents/{agent['id']}/decisions").json()["decisions"]
    refused = [each for each in listed if each["verdict"] == "block"]
    assert [each["rule"] for each in refused] == ["table_denied"]
    assert "orders" in refused[0]["reason"]
    assert all("sql" not in each for each in listed)


def test_no_reason_is_sent_that_quotes_the_text(plane: Plane, agent: dict[str, Any]) -> None:
    upload = DecisionUpload(plane.base, agent["key"])
    for text in ("SELECT 'secret", "SELECT 1 'secret' FROM x", "DROP TABLE x"):
        upload(guarddb.evaluate(text, {"name": "p"}), text)
    assert upload.flush()
    listed = plane.request("GET", f"/agents/{agent['id']}/decisions").json()["decisions"]
    assert sorted(each["rule"] for each in listed) == ["destructive_ddl", "parse_error", "parse_error"]
    assert "secret" not in str(listed)
    assert [each["rule"] for each in listed if each.get("reason")] == ["destructive_ddl"]
    page = plane.request("GET", f"/agents/{agent['id']}")
    assert page.status_code == 200


def test_they_are_sent_without_being_asked_for(plane: Plane, agent: dict[str, Any]) -> None:
    upload = DecisionUpload(plane.base, agent["key"])
    decision = guarddb.evaluate("DROP TABLE x", {"name": "p"})
    for _ in range(501):
        upload(decision, "DROP TABLE x")
    path = f"/agents/{agent['id']}/activity"
    eventually(lambda: plane.request("GET", path).json()["refusals_today"] == {"destructive_ddl": 501})


def test_what_a_server_that_is_away_misses_is_sent_later(tmp_path: Path, port: int) -> None:
    database = str(tmp_path / "plane.sqlite3")
    with running(database, port=port) as plane:
        agent = plane.agent(plane.policy("p")["id"])
    upload = DecisionUpload(plane.base, agent["key"])
    upload(guarddb.evaluate("DROP TABLE x", {"name": "p"}), "DROP TABLE x")
    assert not upload.flush(0.5)
    with running(database, first_key=(plane.project, plane.key), port=port) as plane:
        eventually(lambda: upload.flush())
        path = f"/agents/{agent['id']}/activity"
        assert plane.request("GET", path).json()["refusals_today"] == {"destructive_ddl": 1}


def test_a_full_queue_keeps_refusals_and_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    bodies: list[Any] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        reply(handler, 503)

    passed = guarddb.evaluate("SELECT 1", {"name": "p"})
    refused = guarddb.evaluate("DROP TABLE x", {"name": "p"})
    with scripted(answer) as url, caplog.at_level(logging.ERROR, logger="guarddb.decisions"):
        upload = DecisionUpload(url, "gdk_x", queue=10)
        for _ in range(10):
            upload(refused, "")
            upload(passed, "")
        assert [each["verdict"] for each in upload._entries].count("block") >= 9
        assert upload._dropped + len(upload._entries) >= 20 - 10
        for _ in range(12):
            upload(refused, "")
        assert "a refusal was not sent" in caplog.text
        upload._entries.clear()
    assert bodies == []


def test_lost_entries_are_told_to_the_server(plane: Plane, agent: dict[str, Any]) -> None:
    at = "2026-01-01T00:00:00Z"
    body = {"entries": [{"at": at, "verdict": "block", "rule": "table_denied"}], "dropped": 7}
    assert plane.request("POST", "/decisions", agent["key"], json=body).status_code == 202
    listed = plane.request("GET", f"/agents/{agent['id']}/decisions").json()["decisions"]
    assert [each.get("dropped") for each in listed] == [None, 7]


def test_what_is_sent_twice_is_kept_once(plane: Plane, agent: dict[str, Any]) -> None:
    entry = {"id": f"dec_{plane.project[4:]}", "at": "2026-01-01T00:00:00Z", "verdict": "allow", "rule": "ok"}
    for entries in ([entry], [entry, entry], [entry, {**entry, "id": f"dec_z{plane.project[5:]}"}]):
        assert plane.request("POST", "/decisions", agent["key"], json={"entries": entries}).status_code == 202
    listed = plane.request("GET", f"/agents/{agent['id']}/decisions").json()["decisions"]
    assert len(listed) == 2
