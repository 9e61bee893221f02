"""What the store must not do: number events anew, wait for ever, give a right away with a key, tell secrets in its log."""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from guarddb.integrations.control_plane.api.rates import Rates
from guarddb.integrations.control_plane.app import open_server
from guarddb.integrations.control_plane.errors import TooManyRequests
from guarddb.integrations.control_plane.settings import Settings
from guarddb.integrations.control_plane.store import retention, webhooks
from guarddb.integrations.control_plane.store.database import DatabaseError
from guarddb.integrations.control_plane.store.tables import Delivery, Event, ServerSetting
from sqlalchemy import delete, event, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError, TimeoutError as PoolTimeout

from tests.control_plane.conftest import Plane, running
from tests.control_plane.test_client import eventually
from tests.control_plane.test_pages import Browser
from tests.control_plane.test_policies import error
from tests.control_plane.test_streams import listening


def test_a_quiet_time_does_not_silence_the_streams(plane: Plane) -> None:
    """When every event was too old and is gone, the next one is still a later one: SQLite would begin with 1 again."""
    stored = plane.policy("quiet")
    path = f"/policies/{stored['id']}/events"
    plane.request("PUT", f"/policies/{stored['id']}", json={"name": "quiet"})
    with listening(plane, path) as events:
        with plane.server.database.write() as session:
            session.execute(update(Event).values(at=datetime.now(UTC) - timedelta(days=30)))
            retention.prune(session)
        plane.request("PUT", f"/policies/{stored['id']}", json={"name": "quiet", "max_rows": 1})
        assert events.get(timeout=60)["version"] == 3


def test_a_database_that_was_put_back_is_heard(plane: Plane) -> None:
    """A client comes back with the number of an event that the database, restored from a copy, has not had yet."""
    stored = plane.policy("restored")
    with listening(plane, f"/policies/{stored['id']}/events", last="999999999") as events:
        plane.request("PUT", f"/policies/{stored['id']}", json={"name": "restored", "max_rows": 1})
        assert events.get(timeout=60)["version"] == 2


def test_a_server_whose_events_went_back_goes_on(plane: Plane) -> None:
    stored = plane.policy("back")
    with listening(plane, f"/policies/{stored['id']}/events") as events:
        plane.server.broker._seq = 10**9  # as if the database had been put back beneath it
        plane.request("PUT", f"/policies/{stored['id']}", json={"name": "back", "max_rows": 1})
        assert events.get(timeout=60)["kind"] is None  # whoever listens comes back
    with listening(plane, f"/policies/{stored['id']}/events") as events:
        plane.request("PUT", f"/policies/{stored['id']}", json={"name": "back", "max_rows": 2})
        assert events.get(timeout=60)["version"] == 3


def test_deliveries_that_were_given_up_do_not_stay_for_good(plane: Plane) -> None:
    with plane.server.database.write() as session:
        hook = webhooks.create(session, plane.project, "https://example.com/", [], "json")
        for number, (next_at, done) in enumerate([(None, None), (None, 1), (1, None)]):
            moment = datetime.now(UTC) - timedelta(days=40)
            session.add(
                Delivery(
                    id=f"dlv_0{number}0000000000000000000000{hook.id[-2:]}",  # of long ago
                    webhook_id=hook.id,
                    event="decided",
                    payload={},
                    attempts=8,
                    next_at=moment if next_at else None,
                    delivered_at=moment if done else None,
                )
            )
        session.add(
            Delivery(id=webhooks.new_id("dlv"), webhook_id=hook.id, event="decided", payload={}, attempts=8)
        )
        session.flush()
        retention.prune(session)
        left = session.scalars(select(Delivery).where(Delivery.webhook_id == hook.id)).all()
        assert sorted(each.next_at is not None for each in left) == [False, True]
        session.execute(delete(Delivery).where(Delivery.webhook_id == hook.id))


def test_the_right_to_make_projects_is_not_to_be_had_by_rotation(shared_plane: Plane) -> None:
    admin = shared_plane.new_key("admin")
    keys = shared_plane.request("GET", "/keys", admin).json()["keys"]
    first = next(key for key in keys if key["name"] == "first admin key")
    for method, path in (("POST", f"/keys/{first['id']}/rotate"), ("DELETE", f"/keys/{first['id']}")):
        error(shared_plane.request(method, path, admin), 403, "forbidden")
    assert shared_plane.request("GET", "/keys").status_code == 200


def test_a_rotated_key_of_an_agent_ends_as_the_old_one_would(plane: Plane) -> None:
    ends = datetime.now(UTC) + timedelta(hours=1)
    made = plane.request(
        "POST",
        "/agents",
        json={"name": "a", "policy_id": plane.policy()["id"], "expires_at": ends.isoformat()},
    ).json()
    rotated = plane.request("POST", f"/agents/{made['id']}/rotate").json()
    key = next(key for key in plane.request("GET", "/keys").json()["keys"] if key["id"] == rotated["key_id"])
    assert key["expires_at"] is not None


def test_a_rate_by_the_hour_is_not_begun_anew_by_a_wrong_key(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = Rates(plane.server.database, "2/hour")
    monkeypatch.setattr(rates._database, "shared", False)
    for _ in range(2):
        rates.request("key_1")
    rates._swept -= 61
    rates.wrong_key("192.0.2.1")
    with pytest.raises(TooManyRequests):
        rates.request("key_1")


@pytest.mark.parametrize("revision", ["9999", "not_ours"])
def test_a_database_of_a_newer_version_is_told(tmp_path: Path, revision: str) -> None:
    settings = Settings(database=str(tmp_path / "plane.sqlite3"))
    server, _ = open_server(settings)
    with server.database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :to"), {"to": revision})
    server.database.close()
    with pytest.raises(DatabaseError, match="newer"):
        open_server(settings)


def test_the_log_of_a_failed_statement_holds_no_values(plane: Plane) -> None:
    def insert() -> None:
        with plane.server.database.write() as session:
            session.add(ServerSetting(name="secret", value="do-not-tell"))
            session.flush()

    with pytest.raises(IntegrityError) as raised:
        insert()
    assert "do-not-tell" not in str(raised.value).partition("DETAIL")[0]


def test_a_lock_that_nobody_gives_back_is_503_and_no_hang(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = plane.server.database
    if not database.shared:
        pytest.skip("SQLite has one server")
    monkeypatch.setattr(type(database), "LOCK_SECONDS", 1)
    with psycopg.connect(database.libpq_dsn()) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [0x67_75_61_72_64_64_62])
        answer = plane.request("POST", "/policies", json={"name": "waits"})
        error(answer, 503, "unavailable")
        assert "retry-after" in answer.headers
    assert plane.request("POST", "/policies", json={"name": "waits"}).status_code == 201


def test_no_connection_to_be_had_is_503(plane: Plane) -> None:
    engine = plane.server.database.engine
    pool: Any = engine.pool
    with ExitStack() as stack:
        stack.callback(setattr, pool, "_timeout", pool._timeout)
        pool._timeout = 0.1
        with suppress(PoolTimeout):
            while True:
                stack.enter_context(engine.connect())
        answer = plane.request("GET", "/agents")
    error(answer, 503, "unavailable")


def test_a_path_forges_no_line_of_the_log(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        httpx.get(f"{plane.url}/v1/%0a2026-03-01%20ERROR%20forged", trust_env=False)
    assert all("\n" not in each.getMessage() for each in caplog.records)


@pytest.mark.parametrize("path", ["/ui/nothing", "/ui/policies/pol_1/versions/x/restore", "/ui/agents/agt_1"])
def test_people_get_pages_also_when_something_is_wrong(plane: Plane, path: str) -> None:
    with Browser(base_url=plane.url, trust_env=False, timeout=60) as browser:
        browser.sign_in(plane.key)
        answer = browser.get(path)
        assert answer.status_code in (404, 405)
        assert "<h1>Not done</h1>" in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_database_that_is_away_is_told_in_lines_and_not_in_tracebacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three things look at it every second: an outage of an hour must not fill the disk with the log."""
    with running(str(tmp_path / "plane.sqlite3")) as plane:
        away = plane.server.database
        with caplog.at_level(logging.WARNING):

            def fail(*_: object) -> None:
                raise OperationalError("SELECT 1", None, Exception("away"))

            event.listen(away.engine, "begin", fail)
            eventually(
                lambda: sum("the database does not answer" in each.message for each in caplog.records) > 4
            )
            event.remove(away.engine, "begin", fail)
        assert plane.request("GET", "/policies").status_code == 200
    assert {each.message.partition(":")[0] for each in caplog.records} >= {"a chore waits", "deliveries wait"}
    assert not [each for each in caplog.records if each.exc_info]
