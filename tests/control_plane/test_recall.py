"""What a server answers from memory: a poll costs no transaction, and nothing that was withdrawn or changed is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from tests.control_plane.conftest import Plane, running
from tests.control_plane.test_policies import error


@contextmanager
def statements(plane: Plane) -> Iterator[list[str]]:
    """What is asked of the plane's database meanwhile by requests; the server's own chores look by themselves."""
    seen: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        chores = ("FROM approvals", "FROM deliveries", "FROM events")
        if statement != "BEGIN" and not any(chore in statement for chore in chores):
            seen.append(statement)

    engine = plane.server.database.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_a_poll_and_an_evaluation_ask_the_database_for_nothing_but_the_count(plane: Plane) -> None:
    stored = plane.policy("polled", table_allowlist=["orders"])
    key = plane.agent(stored["id"])["key"]
    path = f"/policies/{stored['id']}"
    tag = plane.request("GET", path, key).headers["etag"]
    judged = {"sql": "SELECT 1", "policy_id": stored["id"]}
    plane.request("POST", "/policy-evaluations", key, json=judged)
    with statements(plane) as asked:
        for _ in range(3):
            assert plane.request("GET", path, key, headers={"If-None-Match": tag}).status_code == 304
            assert plane.request("GET", "/policy", key).json() == stored
            assert plane.request("POST", "/policy-evaluations", key, json=judged).status_code == 200
    counts = [statement for statement in asked if "rate_counters" in statement]
    assert asked == counts
    assert len(counts) == (9 if plane.server.database.shared else 0)


def test_what_changes_is_answered_at_once(plane: Plane) -> None:
    first, second = plane.policy("first"), plane.policy("second")
    agent = plane.agent(first["id"])
    path = f"/policies/{first['id']}"
    for rows in range(1, 6):
        tag = plane.request("GET", path, agent["key"]).headers["etag"]
        changed = plane.request("PUT", path, json={"name": "first", "max_rows": rows})
        answer = plane.request("GET", path, agent["key"], headers={"If-None-Match": tag})
        assert (answer.status_code, answer.json()) == (200, changed.json())
    plane.request("PATCH", f"/agents/{agent['id']}", json={"policy_id": second["id"]})
    assert plane.request("GET", "/policy", agent["key"]).json() == second
    error(plane.request("GET", path, agent["key"]), 403, "forbidden")
    plane.request("PATCH", f"/agents/{agent['id']}", json={"status": "disabled"})
    error(plane.request("GET", "/policy", agent["key"]), 403, "agent_disabled")
    plane.request("DELETE", f"/agents/{agent['id']}")
    error(plane.request("GET", "/policy", agent["key"]), 401, "unauthenticated")
    plane.request("DELETE", path)
    error(plane.request("GET", path), 404, "not_found")


def test_what_one_server_withdraws_works_at_no_other(plane: Plane) -> None:
    if not plane.server.database.shared:
        pytest.skip("SQLite has one server")
    stored = plane.policy("shared")
    with running(plane.settings.database, first_key=(plane.project, plane.key)) as second:
        for round_ in range(5):
            made = plane.request("POST", "/keys", json={"name": f"key {round_}", "role": "viewer"}).json()
            path = f"/policies/{stored['id']}"
            assert second.request("GET", path, made["key"]).status_code == 200
            rows = {"name": "shared", "max_rows": round_}
            plane.request("PUT", path, json=rows)
            assert second.request("GET", path, made["key"]).json()["max_rows"] == round_
            plane.request("DELETE", f"/keys/{made['id']}")
            error(second.request("GET", path, made["key"]), 401, "unauthenticated")


def test_a_withdrawn_key_is_told_so_however_many_wrong_ones_come_from_its_address(
    start_plane: Callable[..., Plane],
) -> None:
    plane = start_plane()
    agent = plane.agent(plane.policy("guessed")["id"])
    assert plane.request("GET", "/policy", agent["key"]).status_code == 200
    statuses = {plane.request("GET", "/policy", "gdk_wrong").status_code for _ in range(45)}
    assert statuses == {401, 429}
    plane.request("DELETE", f"/agents/{agent['id']}")
    for _ in range(30):
        error(plane.request("GET", "/policy", agent["key"]), 401, "unauthenticated")
    guess = agent["key"][:-1] + ("A" if agent["key"][-1] != "A" else "B")
    # (More than twice what one minute allows: the next may begin among them.)
    assert {plane.request("GET", "/policy", guess).status_code for _ in range(45)} >= {429}


def test_a_remembered_key_is_still_looked_at_in_whole(plane: Plane) -> None:
    key = plane.new_key("viewer")
    assert plane.request("GET", "/policies", key).status_code == 200
    for wrong in (key[:-1] + ("A" if key[-1] != "A" else "B"), key[:31] + "x" * 43, key.lower()):
        error(plane.request("GET", "/policies", wrong), 401, "unauthenticated")
