"""Webhooks: signed, repeated until they arrive, and never sent into the server's own network."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from guarddb.integrations.control_plane import destinations
from guarddb.integrations.control_plane.store.columns import now
from guarddb.integrations.control_plane.store.tables import Delivery
from guarddb.integrations.control_plane.webhooks import sign
from sqlalchemy import update

from tests.control_plane.conftest import Plane
from tests.control_plane.test_approvals import HELD
from tests.control_plane.test_client import eventually
from tests.control_plane.test_policies import error


@contextmanager
def receiver(statuses: list[int]) -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """A receiver that answers with each of the statuses once, then with 200."""
    received: list[tuple[dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((dict(self.headers), body))
            self.send_response(statuses.pop(0) if statuses else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_what_happens_is_delivered_signed(start_plane: Callable[..., Plane]) -> None:
    plane = start_plane(private_webhooks=True)
    with receiver([]) as (url, received):
        made = plane.request("POST", "/webhooks", json={"url": url}).json()
        assert made["events"] == ["approval_requested", "decided", "policy_updated", "agent_disabled"]
        stored = plane.policy("told")
        agent = plane.agent(stored["id"])
        plane.request("PUT", f"/policies/{stored['id']}", json={"name": "told"})
        approval = plane.request("POST", "/approvals", agent["key"], json=HELD).json()
        plane.request("POST", f"/approvals/{approval['id']}/reject")
        plane.request("PATCH", f"/agents/{agent['id']}", json={"status": "disabled"})
        eventually(lambda: len(received) == 4)
        bodies = [json.loads(body) for _, body in received]
        assert sorted(each["event"] for each in bodies) == sorted(made["events"])
        for headers, body in received:
            moment, _, mac = headers["Guarddb-Webhook-Signature"].partition(",v1=")
            seconds = int(moment.removeprefix("t="))
            assert (
                abs(seconds - time.time()) < 60
            )  # a receiver refuses what is older: nothing can be replayed
            expected = hmac.new(
                made["secret"].encode(), f"{seconds}.".encode() + body, hashlib.sha256
            ).hexdigest()
            assert hmac.compare_digest(mac, expected)
            assert headers["Guarddb-Webhook-Signature"] == sign(made["secret"], body, seconds)
            assert headers["Guarddb-Webhook-Signature"] != sign(made["secret"], body, seconds - 1)
        assert made["secret"] not in plane.request("GET", "/webhooks").text
        eventually(lambda: all(each["delivered_at"] for each in deliveries(plane, made["id"])))


def deliveries(plane: Plane, webhook_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = plane.request("GET", f"/webhooks/{webhook_id}/deliveries").json()[
        "deliveries"
    ]
    return found


def test_a_delivery_that_fails_is_tried_again_later(start_plane: Callable[..., Plane]) -> None:
    plane = start_plane(private_webhooks=True)
    with receiver([500, 302]) as (url, received):
        made = plane.request("POST", "/webhooks", json={"url": url, "events": ["policy_updated"]}).json()
        stored = plane.policy("retried")
        plane.request("PUT", f"/policies/{stored['id']}", json={"name": "retried"})
        for attempt in (1, 2):
            eventually(lambda attempt=attempt: deliveries(plane, made["id"])[0]["attempts"] == attempt)
            [waiting] = deliveries(plane, made["id"])
            assert waiting["error"] == f"it answers {500 if attempt == 1 else 302}"
            assert waiting["next_at"] is not None
            with plane.server.database.write() as session:
                session.execute(update(Delivery).values(next_at=now()))
        eventually(lambda: deliveries(plane, made["id"])[0]["delivered_at"])
        [done] = deliveries(plane, made["id"])
        assert (done["attempts"], done["error"], done["next_at"]) == (3, None, None)
        assert len({headers["Guarddb-Delivery"] for headers, _ in received}) == 1


def test_a_receiver_that_answers_in_drops_holds_up_nobody(
    start_plane: Callable[..., Plane], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guarddb.integrations.control_plane.webhooks._TIMEOUT", 1.0)
    plane = start_plane(private_webhooks=True)
    with socket.create_server(("127.0.0.1", 0)) as listening, receiver([]) as (url, received):
        stopped = threading.Event()

        def drip() -> None:
            connection, _ = listening.accept()
            with connection:
                for byte in itertools.cycle(b"HTTP/1.1 200 OK\r\nX-Drop: 1"):
                    try:
                        connection.send(bytes([byte]))
                    except OSError:
                        return
                    if stopped.wait(0.05):
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        dripping = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        slow = plane.request("POST", "/webhooks", json={"url": dripping}).json()
        plane.request("POST", "/webhooks", json={"url": url})
        stored = plane.policy("told")
        plane.request("PUT", f"/policies/{stored['id']}", json={"name": "told"})
        eventually(lambda: received)
        eventually(lambda: deliveries(plane, slow["id"])[0]["attempts"] == 1)
        assert deliveries(plane, slow["id"])[0]["error"] == "ReadTimeout"
        stopped.set()
        thread.join(10)


def test_a_slack_message_is_a_text(start_plane: Callable[..., Plane]) -> None:
    plane = start_plane(private_webhooks=True)
    with receiver([]) as (url, received):
        plane.request("POST", "/webhooks", json={"url": url, "format": "slack", "events": ["policy_updated"]})
        stored = plane.policy("slack")
        plane.request("PUT", f"/policies/{stored['id']}", json={"name": "slack"})
        eventually(lambda: received)
        assert json.loads(received[0][1]) == {"text": f"guarddb: policy updated: {stored['id']}"}


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "https://",
        "https://user:secret@example.com/",
        "https://localhost/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0.0.0.0/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1]/",
        "https://[fc00::1]/",
        "https://[2002:7f00:1::]/",
        "https://10.0.0.1/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://100.64.0.1/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://[::1",
        "https://name.invalid/",
        "javascript:alert(1)",
    ],
)
def test_a_webhook_into_the_servers_own_network_is_refused(plane: Plane, url: str) -> None:
    assert error(plane.request("POST", "/webhooks", json={"url": url}), 400, "invalid_request").startswith(
        "url: "
    )


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.7", "::1", "::ffff:169.254.169.254", "64:ff9b::a00:1", "fec0::1"]
)
def test_a_name_that_leads_home_among_other_places_is_refused(
    plane: Plane, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """What a resolver of somebody else's answers is theirs to choose: one address that is not public is enough."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    real = socket.getaddrinfo

    def resolver(host: Any, *rest: Any, **options: Any) -> Any:
        if host != "hooks.example":
            return real(host, *rest, **options)
        public = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", 443))
        return [public, (family, socket.SOCK_STREAM, 6, "", (address, 443))]

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    answer = plane.request("POST", "/webhooks", json={"url": "https://hooks.example/"})
    assert "not public" in error(answer, 400, "invalid_request")


def test_an_address_that_a_second_look_up_gives_is_looked_at_too() -> None:
    """A name that was public when the webhook was made may lead home when it is used."""
    with (
        receiver([]) as (url, received),
        destinations.client(private=False, timeout=5) as client,
        pytest.raises(destinations.ForbiddenDestination, match="not public"),
    ):
        client.post(url, content=b"{}")
    assert received == []


def test_unknown_events_and_formats_are_refused(plane: Plane) -> None:
    for bad in ({"events": ["everything"]}, {"format": "xml"}, {"url": 5}):
        body = {"url": "https://example.com", **bad}
        error(plane.request("POST", "/webhooks", json=body), 400, "invalid_request")
    error(plane.request("DELETE", "/webhooks/whk_no"), 404, "not_found")
