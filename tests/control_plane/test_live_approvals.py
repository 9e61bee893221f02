"""A live session's write waits on the control plane: approved it is there, rejected or expired it is not."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import pytest

import guarddb
from tests.control_plane.conftest import Plane

WRITE = "UPDATE customers SET name = 'Changed' WHERE id = 1"


@pytest.fixture
def agent(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    profile = {"access_mode": "read_write", "approval_mode": "writes", "approval_timeout_seconds": 30}
    made = plane.agent(plane.policy("writer", **profile)["id"])
    monkeypatch.setenv("GUARDDB_API_KEY", made["key"])
    return made


class Person(threading.Thread):
    """Decides about the next request that waits."""

    def __init__(self, plane: Plane, verb: str) -> None:
        super().__init__(daemon=True)
        self.plane, self.verb = plane, verb
        self.request: dict[str, Any] = {}
        self.start()

    def run(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            pending = self.plane.request("GET", "/approvals", params={"status": "pending"}).json()[
                "approvals"
            ]
            if pending:
                self.request = pending[0]
                path = f"/approvals/{self.request['id']}/{self.verb}"
                self.plane.request("POST", path, json={"reason": "looked at it"})
                return
            time.sleep(0.05)


def name_of_first(dsn: str) -> str:
    with psycopg.connect(dsn) as conn:
        [name] = conn.execute("SELECT name FROM customers WHERE id = 1").fetchone() or ("",)
        return str(name)


def test_an_approved_write_is_there(plane: Plane, agent: dict[str, Any], fresh_shop_admin: str) -> None:
    with guarddb.connect(fresh_shop_admin, policy=plane.base, approver=plane.base, autocommit=True) as conn:
        person = Person(plane, "approve")
        conn.execute(WRITE)
        person.join()
    assert name_of_first(fresh_shop_admin) == "Changed"
    shown = plane.request("GET", f"/approvals/{person.request['id']}").json()
    assert shown["status"] == "executed"
    assert shown["reason"] == "looked at it"
    assert "customers" in "".join(person.request["tables"])
    assert person.request["agent"] == "bot"
    (row,) = person.request["sample"]
    assert row["table"].endswith("customers")
    assert (row["old"]["name"] != "Changed", row["new"]["name"]) == (True, "Changed")
    assert person.request["counted_rows"] == 1


def test_a_rejected_write_is_not(plane: Plane, agent: dict[str, Any], fresh_shop_admin: str) -> None:
    before = name_of_first(fresh_shop_admin)
    with guarddb.connect(fresh_shop_admin, policy=plane.base, approver=plane.base, autocommit=True) as conn:
        person = Person(plane, "reject")
        with pytest.raises(guarddb.ApprovalRejected):
            conn.execute(WRITE)
        person.join()
        conn.execute("SELECT 1")
    assert name_of_first(fresh_shop_admin) == before
    assert plane.request("GET", f"/approvals/{person.request['id']}").json()["status"] == "rejected"


async def test_an_async_session_waits_as_well(
    plane: Plane, agent: dict[str, Any], fresh_shop_admin: str
) -> None:
    conn = await guarddb.AsyncConnection.connect(
        fresh_shop_admin, policy=plane.base, approver=plane.base, autocommit=True
    )
    async with conn:
        Person(plane, "approve")
        await conn.execute(WRITE)
    assert name_of_first(fresh_shop_admin) == "Changed"


def test_a_lost_control_plane_refuses_the_write(
    plane: Plane, agent: dict[str, Any], fresh_shop_admin: str
) -> None:
    policy = plane.request("GET", f"/policies/{agent['policy_id']}").json()
    away = "http://127.0.0.1:9/v1/projects/prj_1"
    with guarddb.connect(fresh_shop_admin, policy=policy, approver=away, autocommit=True) as conn:
        with pytest.raises(guarddb.PolicyViolation) as caught:
            conn.execute(WRITE)
        assert caught.value.rule == "approval_unavailable"
