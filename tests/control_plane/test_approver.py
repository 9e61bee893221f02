"""The approver of a control plane, as a session uses it: sync and async, decided, expired, lost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import guarddb
from guarddb.runtime.approvals import Answer, ApprovalRequest, ApproverLost, ask, ask_async, report
from guarddb.runtime.approvers import as_approver, as_async_approver
from guarddb.runtime.http_approver import ControlPlaneApprover
from tests.control_plane.conftest import Plane, running


@pytest.fixture
def agent(plane: Plane) -> dict[str, Any]:
    return plane.agent(plane.policy("held")["id"])


def held(**details: Any) -> ApprovalRequest:
    details.setdefault("timeout_seconds", 300)
    return ApprovalRequest.make(
        "UPDATE orders SET total = $1 WHERE id = 7",
        "update",
        tables=("public.orders",),
        counted_rows=1,
        **details,
    )


def decide(plane: Plane, verb: str, reason: str | None = None) -> dict[str, Any]:
    """A person who decides what comes next."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pending = plane.request("GET", "/approvals", params={"status": "pending"}).json()["approvals"]
        if pending:
            answer = plane.request("POST", f"/approvals/{pending[0]['id']}/{verb}", json={"reason": reason})
            decided: dict[str, Any] = answer.json()
            return decided
        time.sleep(0.02)
    raise AssertionError("nothing was asked")


@pytest.mark.parametrize(("verb", "status"), [("approve", "approved"), ("reject", "rejected")])
def test_a_session_waits_for_a_person(plane: Plane, agent: dict[str, Any], verb: str, status: str) -> None:
    approver = as_approver(ControlPlaneApprover(plane.base, agent["key"]))
    person = threading.Thread(target=decide, args=(plane, verb, "because"))
    person.start()
    filed: list[ApprovalRequest] = []
    request, answer = ask(approver, held(parameters=("0",)), filed.append)
    person.join()
    assert filed[0].id == request.id
    assert (answer.status, answer.reason, answer.request_id) == (status, "because", request.id)
    assert answer.decided_by is not None
    shown = plane.request("GET", f"/approvals/{request.id}").json()
    assert (shown["sql"], shown["parameters"], shown["rows"]) == (request.sql, ["0"], 1)
    assert shown["agent"] == "bot"
    if status == "approved":
        report(approver, request, "executed")
        assert plane.request("GET", f"/approvals/{request.id}").json()["status"] == "executed"


async def test_an_async_session_waits_without_blocking_its_loop(plane: Plane, agent: dict[str, Any]) -> None:
    approver = as_async_approver(
        ControlPlaneApprover(f"{plane.base}/policies/{agent['policy_id']}", agent["key"])
    )
    person = asyncio.create_task(asyncio.to_thread(decide, plane, "approve"))
    _, answer = await ask_async(approver, held())
    await person
    assert answer.approved


async def test_a_cancelled_wait_withdraws_the_request(plane: Plane, agent: dict[str, Any]) -> None:
    approver = as_async_approver(ControlPlaneApprover(plane.base, agent["key"]))
    filed: list[ApprovalRequest] = []
    asking = asyncio.create_task(ask_async(approver, held(), filed.append))
    while not filed:
        await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    shown = await asyncio.to_thread(plane.request, "GET", f"/approvals/{filed[0].id}")
    assert shown.json()["status"] == "expired"


@pytest.mark.parametrize("turns", range(5))
async def test_a_cancellation_that_meets_news_is_none_the_less_one(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event stream says something within the turn of the loop in which the task that waits is cancelled."""
    approver, request, asked = ControlPlaneApprover("http://127.0.0.1/v1/projects/prj_1", "gdk_1"), held(), []

    async def pending(*_: object, **__: object) -> dict[str, Any]:
        asked.append(1)
        return request.to_dict()

    monkeypatch.setattr(approver, "_send", pending)
    news = asyncio.Event()
    listening = asyncio.create_task(asyncio.Event().wait())
    waiting = asyncio.create_task(approver._answer(None, request, None, news, listening))  # type: ignore[arg-type]
    while not asked:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    news.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting}, timeout=60)
    listening.cancel()
    assert waiting.cancelled()


def test_nobody_decides_in_time(plane: Plane, agent: dict[str, Any]) -> None:
    request, answer = ask(
        as_approver(ControlPlaneApprover(plane.base, agent["key"])), held(timeout_seconds=1)
    )
    assert answer.status == "expired"
    assert plane.request("GET", f"/approvals/{request.id}").json()["status"] == "expired"


def test_a_request_without_an_expiry_waits_for_ever(plane: Plane, agent: dict[str, Any]) -> None:
    approver = as_approver(ControlPlaneApprover(plane.base, agent["key"]))
    filed = approver.submit(held(timeout_seconds=0))
    assert filed.expires_at is None
    shown = plane.request("GET", f"/approvals/{filed.id}").json()
    assert (shown["status"], shown["expires_at"]) == ("pending", None)


def test_a_decision_survives_a_restart_of_the_server(tmp_path: Path, port: int) -> None:
    database = str(tmp_path / "plane.sqlite3")
    answers: list[Answer] = []
    with running(database, port=port) as first:
        agent = first.agent(first.policy("held")["id"])
        filed: list[ApprovalRequest] = []
        approver = as_approver(ControlPlaneApprover(first.base, agent["key"]))
        session = threading.Thread(target=lambda: answers.append(ask(approver, held(), filed.append)[1]))
        session.start()
        while not filed:
            time.sleep(0.01)
    with running(database, first_key=(first.project, first.key), port=port) as second:
        decide(second, "approve")
        session.join(60)
    assert [each.status for each in answers] == ["approved"]


def test_a_wrong_key_and_a_lost_server_are_no_answer(plane: Plane) -> None:
    with pytest.raises(ApproverLost, match="401"):
        ask(as_approver(ControlPlaneApprover(plane.base, "gdk_wrong")), held())
    with pytest.raises(ApproverLost, match="cannot be reached"):
        ask(as_approver(ControlPlaneApprover("http://127.0.0.1:9/v1/projects/prj_1", "x")), held())


def test_what_people_are_shown_is_what_would_run(plane: Plane, agent: dict[str, Any]) -> None:
    approver = as_approver(ControlPlaneApprover(plane.base, agent["key"]))
    filed = approver.submit(held())
    other = ApprovalRequest(id=filed.id, sql="DELETE FROM orders", kind="delete")
    with pytest.raises(ApproverLost, match="not what would run"):
        approver.wait(other, 5)


def test_a_url_stands_for_its_approver(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(as_async_approver(plane.base), ControlPlaneApprover)
    for odd in ("https://example.com/x", "http://example.com/v1/projects/prj_1"):
        with pytest.raises(guarddb.PolicyError):
            as_async_approver(odd)


def test_the_key_is_in_no_text(plane: Plane, start_plane: Callable[..., Plane]) -> None:
    assert "secret" not in repr(ControlPlaneApprover(plane.base, "gdk_secret"))
