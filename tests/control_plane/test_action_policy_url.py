"""`action_policy=` takes the URL of a stored action policy, and follows it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

import guarddb
from guarddb.runtime.action_policies import ActionPolicyUrl
from guarddb.runtime.policy_source import PolicySourceError
from tests.control_plane.conftest import Plane

PROFILE = {"name": "scored", "access_mode": "read_write"}


@pytest.fixture
def client(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setenv("GUARDDB_API_KEY", plane.key)
    with httpx.Client(
        base_url=plane.url, headers={"X-API-Key": plane.key}, trust_env=False, verify=False, timeout=60
    ) as client:
        yield client


def test_a_connection_follows_the_stored_policy(client: httpx.Client, plane: Plane, dsn: str) -> None:
    client.put("/policies/acme", json={})
    client.post("/policies/acme", json={"blocked_actions": ["database:schema:*"]})
    source = ActionPolicyUrl(f"{plane.url}/policies/acme", refresh=0.05)
    with guarddb.connect(dsn, policy=PROFILE, action_policy=source, autocommit=True) as conn:
        with pytest.raises(guarddb.PolicyViolation, match="blocked_actions"):
            conn.execute("CREATE SCHEMA made_by_agent")
        assert conn.execute("SELECT 1").fetchone() == (1,)
        client.put("/policies/acme", json={"blocked_actions": ["database:session:select"]})
        deadline = time.monotonic() + 60
        refusal: guarddb.PolicyViolation | None = None
        while refusal is None and time.monotonic() < deadline:
            try:
                conn.execute("SELECT 1")
            except guarddb.PolicyViolation as ex:
                refusal = ex
        assert refusal is not None
        assert "database:session:select" in str(refusal)


async def test_the_url_itself_is_taken(client: httpx.Client, plane: Plane, dsn: str) -> None:
    client.post("/policies/acme2", json={"blocked_actions": ["*"]})
    url = f"{plane.url}/policies/acme2"
    with (
        guarddb.connect(dsn, policy=PROFILE, action_policy=url, autocommit=True) as conn,
        pytest.raises(guarddb.PolicyViolation),
    ):
        conn.execute("SELECT 1")
    aconn = await guarddb.AsyncConnection.connect(dsn, policy=PROFILE, action_policy=url, autocommit=True)
    with pytest.raises(guarddb.PolicyViolation):
        await aconn.execute("SELECT 1")
    await aconn.close()


def test_what_cannot_be_fetched_is_no_connection(client: httpx.Client, plane: Plane, dsn: str) -> None:
    for url in (f"{plane.url}/policies/nobody", "http://127.0.0.1:1/policies/x"):
        with pytest.raises(guarddb.PolicyUnavailable):
            guarddb.connect(dsn, policy=PROFILE, action_policy=url)


def test_a_policy_that_is_not_confirmed_for_long_is_none(client: httpx.Client, plane: Plane) -> None:
    client.post("/policies/acme3", json={})
    source = ActionPolicyUrl(f"{plane.url}/policies/acme3", refresh=3600, max_stale=0)
    with pytest.raises(PolicySourceError):
        source.current()
