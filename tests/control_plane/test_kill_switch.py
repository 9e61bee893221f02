"""A disabled agent: the next statement, the one that runs, the one that waits for a person, and what of it is seen."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import guarddb
from tests.control_plane.conftest import Plane, running
from tests.control_plane.test_client import eventually, let_it_end, works
from tests.test_telemetry import Exported, exported  # noqa: F401

#: Runs for days.
ENDLESS = "SELECT count(*) FROM generate_series(1, 1000000000000) n"


def sessions_at_work(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database()"  # (another worker's may be at work as well)
            " AND state = 'active' AND query LIKE '%1000000000000%' AND pid <> pg_backend_pid()"
        ).fetchone()
    assert row is not None
    return int(row[0])


def agent_of(plane: Plane, monkeypatch: pytest.MonkeyPatch, **profile: Any) -> dict[str, Any]:
    agent = plane.agent(plane.policy("switched", **profile)["id"])
    monkeypatch.setenv("GUARDDB_API_KEY", agent["key"])
    return agent


def switch_off(plane: Plane, agent: dict[str, Any]) -> None:
    answer = plane.request("PATCH", f"/agents/{agent['id']}", json={"status": "disabled"})
    assert answer.status_code == 200


@pytest.mark.parametrize("way", ["disable", "delete", "rotate"])
def test_what_runs_is_cancelled_when_the_profile_says_so(
    plane: Plane, shop: str, shop_admin: str, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("GUARDDB_POLICY_REFRESH", "0.2")
    agent = agent_of(plane, monkeypatch, guarddb={"cancel_running": True})
    errors: list[BaseException] = []
    with guarddb.connect(shop, policy=plane.base, autocommit=True) as conn:

        def run() -> None:
            try:
                conn.execute(ENDLESS)
            except psycopg.Error as ex:
                errors.append(ex)

        session = threading.Thread(target=run)
        session.start()
        eventually(lambda: sessions_at_work(shop_admin) == 1)
        if way == "disable":
            switch_off(plane, agent)
        elif way == "delete":
            plane.request("DELETE", f"/agents/{agent['id']}")
        else:
            plane.request("POST", f"/agents/{agent['id']}/rotate")
        session.join(60)
        assert [type(each) for each in errors] == [psycopg.errors.QueryCanceled]
        assert sessions_at_work(shop_admin) == 0
        with pytest.raises(guarddb.PolicyUnavailable):
            conn.execute("SELECT 1")


async def test_what_an_async_session_runs_is_cancelled_too(
    plane: Plane, shop: str, shop_admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = agent_of(plane, monkeypatch, guarddb={"cancel_running": True})
    async with await guarddb.AsyncConnection.connect(shop, policy=plane.base, autocommit=True) as conn:
        task = asyncio.create_task(conn.execute(ENDLESS))
        deadline = time.monotonic() + 60
        while not await asyncio.to_thread(sessions_at_work, shop_admin):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        await asyncio.to_thread(switch_off, plane, agent)
        with pytest.raises(psycopg.errors.QueryCanceled):
            async with asyncio.timeout(60):
                await task


def test_what_runs_goes_on_when_it_says_nothing(
    plane: Plane, shop: str, shop_admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = agent_of(plane, monkeypatch)
    idle = guarddb.connect(shop, policy=plane.base, autocommit=True)
    with idle, guarddb.connect(shop, policy=plane.base, autocommit=True) as conn:

        def run() -> None:
            with pytest.raises(psycopg.errors.QueryCanceled):
                conn.execute(ENDLESS)

        session = threading.Thread(target=run)
        session.start()
        eventually(lambda: sessions_at_work(shop_admin) == 1)
        switch_off(plane, agent)
        eventually(lambda: not works(idle, "SELECT 1"))
        assert sessions_at_work(shop_admin) == 1
        conn.cancel()
        session.join(60)


def test_a_statement_that_waits_for_a_person_is_not_run_for_a_disabled_agent(
    plane: Plane, fresh_shop_admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = agent_of(plane, monkeypatch, access_mode="read_write", approval_mode="writes")
    errors: list[BaseException] = []
    with guarddb.connect(fresh_shop_admin, policy=plane.base, approver=plane.base, autocommit=True) as conn:

        def run() -> None:
            try:
                conn.execute("UPDATE customers SET name = 'Mallory' WHERE id = 1")
            except psycopg.Error as ex:
                errors.append(ex)

        session = threading.Thread(target=run)
        session.start()
        eventually(lambda: plane.request("GET", "/approvals?status=pending").json()["approvals"])
        switch_off(plane, agent)
        [held] = plane.request("GET", "/approvals").json()["approvals"]
        plane.request("POST", f"/approvals/{held['id']}/approve")
        session.join(60)
    assert isinstance(errors[0], guarddb.PolicyViolation)
    with psycopg.connect(fresh_shop_admin) as check:
        assert check.execute("SELECT count(*) FROM customers WHERE name = 'Mallory'").fetchone() == (0,)


def test_spans_logs_and_callbacks_tell_of_an_old_profile_and_of_none(
    tmp_path: Path,
    shop: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    exported: Exported,  # noqa: F811
    port: int,
) -> None:
    monkeypatch.setenv("GUARDDB_POLICY_REFRESH", "0.1")
    caplog.set_level(logging.INFO)

    def logged(words: str) -> bool:
        """Of this control plane: followers that other tests have left may still speak."""
        return any(
            words in record.getMessage() and f":{port}/" in record.getMessage() for record in caplog.records
        )

    told: list[tuple[str, str]] = []
    database = str(tmp_path / "plane.sqlite3")
    with running(database, port=port) as plane:
        agent_of(plane, monkeypatch)
        conn = guarddb.connect(
            shop, policy=plane.base, autocommit=True, on_decision=lambda d, sql: told.append((d.rule, sql))
        )
        conn.execute("SELECT 1")
        assert "guarddb.policy.stale" not in newest(exported.spans)
    eventually(lambda: logged("cannot be fetched"))
    conn.execute("SELECT 2")
    stale = newest(exported.spans)
    assert (stale["guarddb.policy.stale"], stale["guarddb.verdict"]) == (True, "allow")
    let_it_end(plane)
    eventually(lambda: not works(conn, "SELECT 3"))
    none = newest(exported.spans)
    assert (none["guarddb.verdict"], none["guarddb.rule"]) == ("block", "policy_unavailable")
    assert none["guarddb.policy.stale"] is True
    assert ("policy_unavailable", "SELECT 3") in told
    assert "refused: rule=policy_unavailable" in caplog.text
    cursor = conn.cursor()
    with pytest.raises(guarddb.PolicyUnavailable, match="was not confirmed") as caught:
        cursor.execute("SELECT 4")
    assert caught.value.decision is not None
    assert caught.value.decision.rule == "policy_unavailable"
    assert cursor.decision == caught.value.decision
    caplog.clear()
    with running(database, first_key=(plane.project, plane.key), port=port):
        eventually(lambda: works(conn, "SELECT 5"))
        eventually(lambda: "answers again" in caplog.text)
        conn.execute("SELECT 6")
        assert "guarddb.policy.stale" not in newest(exported.spans)
    # A second outage is told as the first one was.
    eventually(lambda: logged("cannot be fetched"))
    conn.close()


def newest(spans: InMemorySpanExporter) -> dict[str, Any]:
    return dict(spans.get_finished_spans()[-1].attributes or {})
