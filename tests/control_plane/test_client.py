"""A live session whose policy is a URL: fetched at connect, followed while it lives, refused when nothing is known."""

from __future__ import annotations

import base64
import gc
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from guarddb.integrations.control_plane.signing import Signer
from guarddb.integrations.control_plane.store.tables import Policy
from sqlalchemy import update

import guarddb
from guarddb.policy.remote import backoff, retry_after
from guarddb.runtime.http_policy import HttpPolicy, follow
from tests.control_plane.conftest import Plane, running


def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def let_it_end(plane: Plane) -> None:
    """The time for which the last profile stays in force is over in a moment, and not after five minutes."""
    policy = follow(plane.base)
    policy._in_force = policy._in_force._replace(until=time.monotonic() + 0.1)


@pytest.fixture
def agent(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An agent whose key is the one of this process."""
    made = plane.agent(plane.policy("live", table_allowlist=["customers"])["id"])
    monkeypatch.setenv("GUARDDB_API_KEY", made["key"])
    return made


@pytest.fixture
def url(plane: Plane, agent: dict[str, Any]) -> str:
    return f"{plane.base}/policies/{agent['policy_id']}"


@contextmanager
def scripted(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server that answers as it is told, for what a control plane never does of itself."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/projects/prj_1/policies/pol_1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(
    handler: BaseHTTPRequestHandler, status: int, body: Any = None, headers: dict[str, str] | None = None
) -> None:
    content = b"" if body is None else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def test_a_session_enforces_the_profile_behind_its_url(url: str, plane: Plane, shop: str) -> None:
    with guarddb.connect(shop, policy=url) as conn:
        conn.execute("SELECT id FROM customers")
        with pytest.raises(guarddb.PolicyViolation) as caught:
            conn.execute("SELECT id FROM orders")
        assert caught.value.rule == "table_not_allowed"
        assert conn.policy.id == url.rpartition("/")[2]
        assert conn.policy.project_id == plane.project


def test_the_projects_url_is_the_profile_that_the_key_is_bound_to(
    agent: dict[str, Any], plane: Plane, shop: str
) -> None:
    other = plane.policy("other", table_allowlist=["orders"])
    with guarddb.connect(shop, policy=plane.base, autocommit=True) as conn:
        conn.execute("SELECT id FROM customers")
        plane.request("PATCH", f"/agents/{agent['id']}", json={"policy_id": other["id"]})
        eventually(lambda: works(conn, "SELECT id FROM orders"))
        assert not works(conn, "SELECT id FROM customers")


def works(conn: Any, sql: str) -> bool:
    try:
        conn.execute(sql)
    except guarddb.PolicyViolation:
        return False
    return True


def test_a_change_is_in_force_on_the_next_statement(url: str, plane: Plane, shop: str) -> None:
    with guarddb.connect(shop, policy=url, autocommit=True) as conn:
        eventually(lambda: plane.server.broker.streams)
        assert not works(conn, "SELECT id FROM orders")
        plane.request(
            "PUT", f"/policies/{conn.policy.id}", json={"name": "live", "table_allowlist": ["orders"]}
        )
        eventually(lambda: works(conn, "SELECT id FROM orders"))
        assert not works(conn, "SELECT id FROM customers")


async def test_async_sessions_follow_as_well(url: str, plane: Plane, shop: str) -> None:
    async with await guarddb.AsyncConnection.connect(shop, policy=url, autocommit=True) as conn:
        await conn.execute("SELECT id FROM customers")
        with pytest.raises(guarddb.PolicyViolation):
            await conn.execute("SELECT id FROM orders")


def test_the_environment_names_the_url(url: str, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDDB_POLICY", url)
    with guarddb.connect(shop) as conn:
        assert conn.policy.name == "live"
    assert guarddb.load_policy(url).name == "live"


def test_a_disabled_agent_is_refused_on_its_next_statement(
    url: str, agent: dict[str, Any], plane: Plane, shop: str
) -> None:
    with guarddb.connect(shop, policy=url, autocommit=True) as conn:
        assert works(conn, "SELECT id FROM customers")
        plane.request("PATCH", f"/agents/{agent['id']}", json={"status": "disabled"})
        eventually(lambda: not works(conn, "SELECT id FROM customers"))
        with pytest.raises(guarddb.PolicyUnavailable, match="is disabled") as caught:
            conn.execute("SELECT 1")
        assert caught.value.rule == "policy_unavailable"
        assert isinstance(caught.value, psycopg.Error)
        with pytest.raises(guarddb.PolicyUnavailable, match="is disabled"):
            guarddb.connect(shop, policy=f"{url}/")  # another spelling, which nobody follows yet
        plane.request("PATCH", f"/agents/{agent['id']}", json={"status": "active"})
        eventually(lambda: works(conn, "SELECT id FROM customers"))


def test_a_withdrawn_key_is_refused_at_once(url: str, agent: dict[str, Any], plane: Plane) -> None:
    policy = HttpPolicy(url, refresh=0.1)
    plane.request("POST", f"/agents/{agent['id']}/rotate")

    def refused() -> bool:
        try:
            policy.current()
        except RuntimeError as ex:
            return "401" in str(ex)
        return False

    eventually(refused)
    policy.close()


def test_two_hundred_connections_are_one_poller(url: str, plane: Plane) -> None:
    gc.collect()
    # Of tests before this one, which the server may not have noticed to be gone.
    others = plane.server.broker.streams
    with ThreadPoolExecutor(32) as pool:
        policies = list(pool.map(lambda _: follow(url), range(200)))
    assert len({id(policy) for policy in policies}) == 1
    eventually(lambda: 1 <= plane.server.broker.streams <= others + 1)
    assert sum(thread.name == "guarddb-background" for thread in threading.enumerate()) == 1


def test_it_ends_with_the_last_connection(url: str, plane: Plane, shop: str) -> None:
    with guarddb.connect(shop, policy=url):
        eventually(lambda: plane.server.broker.streams == 1)
    gc.collect()
    eventually(lambda: plane.server.broker.streams == 0)


def test_a_forked_process_follows_by_itself(url: str, plane: Plane) -> None:
    policy = follow(url)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        os.close(read)
        try:
            policy.current()
            os.write(write, b"1")
            deadline = time.monotonic() + 60
            while policy.current()[0].max_rows != 7 and time.monotonic() < deadline:
                time.sleep(0.02)
            os.write(write, str(policy.current()[0].max_rows).encode())
        finally:
            os._exit(0)
    os.close(write)
    assert os.read(read, 1) == b"1"
    plane.request("PUT", f"/policies/{url.rpartition('/')[2]}", json={"name": "live", "max_rows": 7})
    assert os.read(read, 10) == b"7"
    os.waitpid(child, 0)
    os.close(read)
    eventually(lambda: policy.current()[0].max_rows == 7)


def test_the_first_fetch_has_to_succeed(plane: Plane, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = plane.policy("unread")
    path = f"{plane.base}/policies/{stored['id']}"
    monkeypatch.delenv("GUARDDB_API_KEY", raising=False)
    with pytest.raises(guarddb.PolicyUnavailable, match="GUARDDB_API_KEY is not set"):
        guarddb.connect(shop, policy=path)
    monkeypatch.setenv("GUARDDB_API_KEY", "gdk_wrong")
    with pytest.raises(guarddb.PolicyUnavailable, match="401") as caught:
        guarddb.connect(shop, policy=path)
    assert "gdk_wrong" not in str(caught.value)
    with pytest.raises(guarddb.PolicyUnavailable, match="connect error"):
        guarddb.connect(shop, policy="http://127.0.0.1:9/v1/projects/prj_1")
    with pytest.raises(guarddb.PolicyError, match="plain http"):
        guarddb.connect(shop, policy="http://policies.example/v1/projects/prj_1")
    monkeypatch.setenv("GUARDDB_API_KEY", "two words\n")
    with pytest.raises(guarddb.PolicyError, match="characters that no key has"):
        guarddb.connect(shop, policy=path)


def test_the_last_profile_stays_for_a_while_when_the_server_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, shop: str, port: int
) -> None:
    monkeypatch.setenv("GUARDDB_POLICY_REFRESH", "0.2")
    database = str(tmp_path / "plane.sqlite3")
    with running(database, port=port) as plane:
        agent = plane.agent(plane.policy("stale")["id"])
        monkeypatch.setenv("GUARDDB_API_KEY", agent["key"])
        conn = guarddb.connect(shop, policy=plane.base, autocommit=True)
        assert works(conn, "SELECT 1")
    assert works(conn, "SELECT 1")
    eventually(lambda: "cannot be fetched" in caplog.text)
    assert works(conn, "SELECT 1")
    let_it_end(plane)
    eventually(lambda: not works(conn, "SELECT 1"))
    with pytest.raises(guarddb.PolicyUnavailable, match="was not confirmed for 300 s"):
        conn.execute("SELECT 1")
    with running(database, first_key=(plane.project, plane.key), port=port):
        eventually(lambda: works(conn, "SELECT 1"))
    conn.close()


def test_an_invalid_version_leaves_the_old_one_in_force_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Any] = [{"name": "good"}]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.endswith("/events"):
            reply(handler, 404)
        else:
            reply(handler, 200, answers[-1])

    with scripted(answer) as url:
        policy = HttpPolicy(url, refresh=0.05)
        with caplog.at_level(logging.ERROR, logger="guarddb.policy"):
            answers.append({"name": "bad", "acces_mode": "read_write"})
            eventually(lambda: "acces_mode" in caplog.text)
        assert policy.current()[0].name == "good"
        assert caplog.text.count("acces_mode: is not a field") == 1
        answers.append({"name": "better"})
        eventually(lambda: policy.current()[0].name == "better")
        policy.close()


def test_a_server_without_streams_is_polled_with_its_etag() -> None:
    seen: list[str | None] = []
    state = {"name": "one", "tag": '"1"'}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.endswith("/events"):
            reply(handler, 404)
            return
        asked = handler.headers.get("If-None-Match")
        seen.append(asked)
        if asked == state["tag"]:
            reply(handler, 304, headers={"ETag": state["tag"]})
        else:
            reply(handler, 200, {"name": state["name"]}, {"ETag": state["tag"]})

    with scripted(answer) as url:
        policy = HttpPolicy(url, refresh=0.05)
        eventually(lambda: seen.count('"1"') > 2)
        assert seen[0] is None
        state.update(name="two", tag='"2"')
        eventually(lambda: policy.current()[0].name == "two")
        eventually(lambda: '"2"' in seen)
        policy.close()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again_at_connect(status: int) -> None:
    left = [status, status]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.endswith("/events"):
            reply(handler, 404)
        elif left:
            reply(handler, left.pop(), {"error": {"code": "x", "message": "later"}}, {"Retry-After": "0"})
        else:
            reply(handler, 200, {"name": "patient"})

    with scripted(answer) as url:
        policy = HttpPolicy(url)
        assert policy.current()[0].name == "patient"
        policy.close()


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (400, None, "answers 400"),
        (404, {"error": {"code": "not_found", "message": "no such policy"}}, "404: no such policy"),
        (302, None, "answers 302"),
        (200, [], "not a policy profile"),
        (200, {"nam": "x"}, "is not a field"),
        (200, {"name": "x" * (1 << 20)}, "more than 1048576 bytes"),
    ],
)
def test_what_will_not_pass_is_reported_at_once(status: int, body: Any, told: str) -> None:
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        reply(handler, status, body, {"Location": "http://example.com/"} if status == 302 else None)

    with scripted(answer) as url, pytest.raises(RuntimeError, match=told):
        HttpPolicy(url)
    assert len(asked) == 1


def test_a_server_that_asks_to_wait_longer_than_connect_may_take_is_not_waited_for() -> None:
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        reply(handler, 429, None, {"Retry-After": "3600"})

    with scripted(answer) as url, pytest.raises(RuntimeError, match="answers 429"):
        HttpPolicy(url)
    assert len(asked) == 1


def test_waits_double_and_honour_the_server() -> None:
    assert all(backoff(n) <= 10 for n in range(50))
    assert min(backoff(6) for _ in range(20)) > max(backoff(1) for _ in range(20))
    assert backoff(0, 30.0) >= 30
    assert retry_after("7") == 7
    assert (
        3500
        < (retry_after(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3600))) or 0)
        < 3700
    )
    assert retry_after("soon") is None
    assert retry_after(None) is None


def test_a_signed_profile_is_taken_and_an_unsigned_one_is_not(
    start_plane: Callable[..., Plane], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    private = Ed25519PrivateKey.generate().private_bytes_raw()
    plane = start_plane(signing_key=private)
    agent = plane.agent(plane.policy("signed – é")["id"])
    monkeypatch.setenv("GUARDDB_API_KEY", agent["key"])
    monkeypatch.setenv("GUARDDB_POLICY_KEY", Signer(private).public_key)
    policy = HttpPolicy(plane.base, refresh=0.1)
    assert policy.current()[0].name == "signed – é"
    object.__setattr__(plane.server, "signer", Signer(Ed25519PrivateKey.generate().private_bytes_raw()))
    plane.request("PUT", f"/policies/{agent['policy_id']}", json={"name": "forged"})
    eventually(lambda: "not signed with this key" in caplog.text)
    assert policy.current()[0].name == "signed – é"
    policy.close()
    object.__setattr__(plane.server, "signer", None)
    with pytest.raises(RuntimeError, match="is not signed"):
        HttpPolicy(plane.base)
    monkeypatch.setenv("GUARDDB_POLICY_KEY", base64.b64encode(b"short").decode())
    with pytest.raises(RuntimeError, match="not an Ed25519 public key"):
        HttpPolicy(plane.base)


def test_a_signature_of_another_profile_or_an_older_version_does_not_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who stands in between has all that the server has ever signed."""
    signer = Signer(Ed25519PrivateKey.generate().private_bytes_raw())
    monkeypatch.setenv("GUARDDB_POLICY_KEY", signer.public_key)
    newer = {
        "id": "pol_1",
        "project_id": "prj_1",
        "name": "newer",
        "updated_at": "2026-03-02T00:00:00Z",
        "created_at": "2026-03-01T00:00:00Z",
    }
    served: list[Any] = [newer]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.endswith("/events"):
            reply(handler, 404)
        else:
            reply(handler, 200, served[0], {"Guarddb-Signature": signer.sign(served[0])})

    with scripted(answer) as url:
        policy = HttpPolicy(url, refresh=0.05)
        for change, told in (
            ({"updated_at": "2026-03-01T23:59:59Z"}, "older than the one in force"),
            ({"id": "pol_2"}, "another one: its id"),
            ({"project_id": "prj_2"}, "another one: its project_id"),
            ({"id": None}, "another one: its id"),
        ):
            caplog.clear()
            served[0] = {**newer, "name": "open", **change}
            eventually(lambda told=told: told in caplog.text)  # type: ignore[misc]
            assert policy.current()[0].name == "newer"
            with (
                pytest.raises(guarddb.PolicyError, match="another one")
                if "updated_at" not in change
                else nullcontext()
            ):
                guarddb.load_policy(url)
        served[0] = {**newer, "name": "newest", "updated_at": "2026-03-02T00:00:00.000001Z"}
        eventually(lambda: policy.current()[0].name == "newest")
        policy.close()


def test_a_version_is_later_than_the_one_before_whatever_the_clock_says(plane: Plane) -> None:
    stored = plane.policy("clock")
    ahead = datetime.now(UTC) + timedelta(minutes=5)
    with plane.server.database.write() as session:
        session.execute(update(Policy).where(Policy.id == stored["id"]).values(updated_at=ahead))
    answer = plane.request("PUT", f"/policies/{stored['id']}", json={"name": "clock"}).json()
    assert datetime.fromisoformat(answer["updated_at"]) > ahead


def test_the_key_is_in_no_text(url: str, agent: dict[str, Any]) -> None:
    policy = follow(url)
    assert agent["key"] not in repr(policy)
    assert agent["key"] not in repr(vars(policy.remote))
    with pytest.raises(TypeError, match="cannot be pickled"):
        __import__("pickle").dumps(policy)


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf"])
def test_settings_of_the_environment_are_checked(
    url: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARDDB_POLICY_REFRESH", value)
    with pytest.raises(guarddb.PolicyError, match="GUARDDB_POLICY_REFRESH is a number of seconds"):
        HttpPolicy(url)
