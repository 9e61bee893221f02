"""Event streams: what changes is told at once, nothing is lost over a reconnect, and servers wake each other."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from guarddb.integrations.control_plane.broker import Broker
from guarddb.integrations.control_plane.store.database import Database
from guarddb.integrations.control_plane.store.upgrade import upgrade

from tests.control_plane.conftest import Plane, running
from tests.control_plane.test_approvals import HELD


@contextmanager
def listening(
    plane: Plane, path: str, key: str | None = None, last: str | None = None
) -> Iterator[queue.Queue[dict[str, Any]]]:
    """The events of a stream, as they come; {"kind": None} when it ends."""
    events: queue.Queue[dict[str, Any]] = queue.Queue()
    opened = threading.Event()
    client = plane.client(key)

    def read() -> None:
        headers = {"Last-Event-ID": last} if last else {}
        try:
            with client.stream("GET", path, headers=headers) as answer:
                assert answer.status_code in (200, 401)
                if answer.status_code == 401:  # on a busy machine a key for two seconds has ended before
                    opened.set()
                fields: dict[str, str] = {}
                for line in answer.iter_lines():
                    opened.set()
                    if line:
                        name, _, value = line.partition(": ")
                        fields[name] = value
                    elif "data" in fields:
                        events.put(
                            {"id": fields["id"], "kind": fields["event"], **json.loads(fields["data"])}
                        )
                        fields = {}
        except httpx.HTTPError:
            pass
        events.put({"kind": None})

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    assert opened.wait(60)
    try:
        yield events
    finally:
        client.close()


def test_a_put_is_told_to_those_who_follow_the_policy(plane: Plane) -> None:
    stored, other = plane.policy("followed"), plane.policy("other")
    with listening(plane, f"/policies/{stored['id']}/events") as events:
        plane.request("PUT", f"/policies/{other['id']}", json={"name": "other"})
        put = plane.request("PUT", f"/policies/{stored['id']}", json={"name": "followed", "max_rows": 1})
        event = events.get(timeout=60)
        assert event["kind"] == "policy_updated"
        assert (event["policy_id"], event["version"]) == (stored["id"], 2)
        assert event["etag"] == put.headers["etag"]
        assert events.empty()


def test_what_was_missed_comes_after_a_reconnect(plane: Plane) -> None:
    stored = plane.policy("missed")
    path = f"/policies/{stored['id']}/events"
    with listening(plane, path) as events:
        plane.request("PUT", f"/policies/{stored['id']}", json={"name": "missed", "max_rows": 1})
        last = events.get(timeout=60)["id"]
    for rows in (2, 3):
        plane.request("PUT", f"/policies/{stored['id']}", json={"name": "missed", "max_rows": rows})
    with listening(plane, path, last=last) as events:
        assert [events.get(timeout=60)["version"] for _ in range(2)] == [3, 4]
        plane.request("PUT", f"/policies/{stored['id']}", json={"name": "missed", "max_rows": 4})
        assert events.get(timeout=60)["version"] == 5
    with listening(plane, path, last="not a number") as events:
        assert events.empty()


def test_an_agent_hears_of_itself_and_its_stream_ends_when_it_is_disabled(plane: Plane) -> None:
    stored = plane.policy("bound")
    agent, other = plane.agent(stored["id"]), plane.agent(stored["id"], "other")
    with listening(plane, f"/policies/{stored['id']}/events", agent["key"]) as events:
        plane.request("PATCH", f"/agents/{other['id']}", json={"status": "disabled"})
        plane.request("PATCH", f"/agents/{agent['id']}", json={"status": "disabled"})
        event = events.get(timeout=60)
        assert (event["kind"], event["agent_id"]) == ("agent_disabled", agent["id"])
        assert events.get(timeout=60)["kind"] is None


@pytest.mark.parametrize("turns", range(5))
async def test_a_stop_that_meets_news_is_a_stop(tmp_path: Path, turns: int) -> None:
    """Something is committed within the turn of the loop in which the server is told to stop: it went on for ever."""
    database = Database(str(tmp_path / "plane.sqlite3"))
    upgrade(database)
    broker = Broker(database)
    await broker.start()
    await asyncio.sleep(0.05)
    broker._news.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    stopping = asyncio.create_task(broker.stop())
    await asyncio.wait({stopping}, timeout=60)
    assert stopping.done()
    # Nobody would close a stream that is opened now, and the server would wait for it until its patience is over.
    assert broker.subscribe("prj_1", lambda _: True).queue.get_nowait() is None
    assert broker.streams == 0
    # A thread that was at it goes on when its task is cancelled; its connection has to come back first.
    await asyncio.get_running_loop().shutdown_default_executor()
    database.close()


def ended(events: queue.Queue[dict[str, Any]]) -> bool:
    return events.get(timeout=60)["kind"] is None


@pytest.mark.parametrize("path", ["/events", "/policies/{}/events"])
def test_a_stream_ends_with_the_key_that_opened_it(plane: Plane, path: str) -> None:
    stored = plane.policy("streamed")
    where = path.format(stored["id"])
    withdrawn, rotated = (
        plane.request("POST", "/keys", json={"name": name, "role": "viewer"}).json() for name in ("a", "b")
    )
    soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    expiring = plane.request("POST", "/keys", json={"name": "c", "role": "viewer", "expires_at": soon}).json()
    agent = plane.agent(stored["id"])
    with (
        listening(plane, where, withdrawn["key"]) as first,
        listening(plane, where, rotated["key"]) as second,
        listening(plane, where, expiring["key"]) as third,
        listening(plane, where, agent["key"]) as fourth,
        listening(plane, where) as other,
    ):
        plane.request("DELETE", f"/keys/{withdrawn['id']}")
        assert ended(first)
        plane.request("POST", f"/keys/{rotated['id']}/rotate", json={"overlap_seconds": 1})
        assert ended(second)
        assert ended(third)
        plane.request("POST", f"/agents/{agent['id']}/rotate")
        assert ended(fourth)
        plane.request("PUT", f"/policies/{stored['id']}", json={"name": "streamed", "max_rows": 1})
        event = other.get(timeout=60)
        assert event["kind"] == "policy_updated"  # when keys end is nobody else's news


def test_a_rebound_agent_follows_its_new_profile(plane: Plane) -> None:
    first, second = plane.policy("first"), plane.policy("second")
    agent = plane.agent(first["id"])
    with listening(plane, "/events", agent["key"]) as events:
        plane.request("PUT", f"/policies/{second['id']}", json={"name": "second", "max_rows": 1})
        plane.request("PATCH", f"/agents/{agent['id']}", json={"policy_id": second["id"]})
        plane.request("PUT", f"/policies/{second['id']}", json={"name": "second", "max_rows": 2})
        assert events.get(timeout=60)["kind"] == "agent_updated"
        event = events.get(timeout=60)
        assert (event["kind"], event["policy_id"]) == ("policy_updated", second["id"])


def test_a_decision_reaches_the_session_that_waits(plane: Plane) -> None:
    agent = plane.agent(plane.policy("held")["id"])
    made = plane.request("POST", "/approvals", agent["key"], json=HELD).json()
    with listening(plane, f"/approvals/{made['id']}/events", agent["key"]) as events:
        plane.request("POST", f"/approvals/{made['id']}/approve")
        event = events.get(timeout=60)
        if event["kind"] == "approval_requested":  # the server told of it so late that the stream was open
            event = events.get(timeout=60)
        assert (event["kind"], event["status"]) == ("approval_decided", "approved")


def test_the_queue_hears_of_every_request(plane: Plane) -> None:
    agent = plane.agent(plane.policy("queued")["id"])
    with listening(plane, "/events") as events:
        made = plane.request("POST", "/approvals", agent["key"], json=HELD).json()
        event = events.get(timeout=60)
        assert (event["kind"], event["approval_id"]) == ("approval_requested", made["id"])


def test_a_put_to_one_server_reaches_the_streams_of_another(plane: Plane) -> None:
    if not plane.server.database.shared:
        pytest.skip("SQLite has one server")
    stored = plane.policy("shared")
    with running(plane.settings.database, first_key=(plane.project, plane.key)) as second:
        with listening(second, f"/policies/{stored['id']}/events") as events:
            plane.request("PUT", f"/policies/{stored['id']}", json={"name": "shared", "max_rows": 1})
            assert events.get(timeout=60)["version"] == 2
        assert second.request("GET", f"/policies/{stored['id']}").json()["max_rows"] == 1


def test_servers_of_one_database_count_requests_together(plane: Plane) -> None:
    if not plane.server.database.shared:
        pytest.skip("SQLite has one server")
    key = plane.new_key("viewer")
    options: dict[str, Any] = {"first_key": (plane.project, key), "rate_limit": "6/year"}
    with (
        running(plane.settings.database, **options) as first,
        running(plane.settings.database, **options) as second,
    ):
        statuses = [
            each.request("GET", "/policies").status_code for _ in range(4) for each in (first, second)
        ]
    assert statuses == [200] * 6 + [429] * 2


def test_a_stop_ends_the_streams(tmp_path: Any) -> None:
    with running(str(tmp_path / "plane.sqlite3")) as plane:
        context = listening(plane, "/events")
        events = context.__enter__()
    assert events.get(timeout=60)["kind"] is None
    context.__exit__(None, None, None)
