"""A control plane that fails in every way that a server and a network can: nothing of it opens, and nothing hangs."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import guarddb
from guarddb.decision.plan import Decision
from guarddb.policy import remote
from guarddb.runtime import answers, http_policy
from guarddb.runtime.approvals import ApprovalRequest, ApproverLost
from guarddb.runtime.decision_upload import DecisionUpload
from guarddb.runtime.http_approver import ControlPlaneApprover
from guarddb.runtime.http_policy import HttpPolicy
from guarddb.runtime.policy_source import PolicySourceError
from tests.control_plane.test_client import eventually, reply, scripted

Answer = Callable[[BaseHTTPRequestHandler], None]
GOOD = {"name": "good", "max_rows": 7}


def whole(handler: BaseHTTPRequestHandler) -> None:
    reply(handler, 200, GOOD, {"ETag": '"1"'})


def server_error(handler: BaseHTTPRequestHandler) -> None:
    reply(handler, 500, {"error": {"code": "internal_error", "message": "no"}})


def half_a_body(handler: BaseHTTPRequestHandler) -> None:
    """Fewer bytes than announced, then the end."""
    handler.send_response(200)
    handler.send_header("Content-Length", "500")
    handler.end_headers()
    handler.wfile.write(json.dumps(GOOD).encode()[:10])
    handler.close_connection = True


def half_a_document(handler: BaseHTTPRequestHandler) -> None:
    """Half of the JSON, as if it were all."""
    content = json.dumps(GOOD).encode()[:10]
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def nothing_at_all(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def garbage(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x00\xff no HTTP at all\r\n\r\n")
    handler.close_connection = True


def another_host(handler: BaseHTTPRequestHandler) -> None:
    reply(handler, 307, None, {"Location": "https://elsewhere.example/v1/projects/prj_1/policies/pol_1"})


def silence(handler: BaseHTTPRequestHandler) -> None:
    """Until the other side has gone."""
    with suppress(OSError):
        handler.connection.recv(1)
    handler.close_connection = True


def drops(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then: each in time, all of them never."""
    content = b" " * 500 + json.dumps(GOOD).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    for byte in content:
        try:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.02)


def too_much(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(1_000):
            handler.wfile.write(b" " * 65_536)
    except OSError:
        pass
    handler.close_connection = True


FAULTS: list[Answer] = [
    server_error,
    half_a_body,
    half_a_document,
    nothing_at_all,
    garbage,
    another_host,
    silence,
    drops,
    too_much,
]


@pytest.fixture(autouse=True)
def impatient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same code with time-outs that a test can wait for."""
    monkeypatch.setattr("guarddb.runtime.http_policy.TIMEOUT", 1.0)
    monkeypatch.setattr("guarddb.runtime.http_policy.FIRST_FETCH_SECONDS", 3.0)
    monkeypatch.setattr("guarddb.runtime.http_approver.TIMEOUT", 0.5)
    monkeypatch.setattr(remote, "TIMEOUT", 0.4)
    monkeypatch.setattr(remote, "WHOLE_TIMEOUT", 0.4)
    monkeypatch.setattr(remote, "LONGEST_BACKOFF", 0.05)
    monkeypatch.setattr(answers, "WHOLE_TIMEOUT", 1.0)
    monkeypatch.setattr("guarddb.runtime.decision_upload.WHOLE_TIMEOUT", 1.0)
    monkeypatch.setattr("guarddb.runtime.decision_upload.SEND_SECONDS", 0.1)
    monkeypatch.setattr("guarddb.runtime.http_approver.WHOLE_TIMEOUT", 1.0)
    monkeypatch.setenv("GUARDDB_API_KEY", "gdk_the_key")


def fetched(url: str, refresh: float) -> HttpPolicy:
    """From a server that answers: on a busy machine not always within the time-outs of `impatient`."""
    ends = time.monotonic() + 60
    while True:
        try:
            return HttpPolicy(url, refresh=refresh)
        except PolicySourceError:
            if time.monotonic() > ends:
                raise


def without_stream(answer: Answer) -> Answer:
    def answered(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.endswith("/events"):
            reply(handler, 404)
        else:
            answer(handler)

    return answered


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_at_connect_is_a_refusal_to_connect(
    fault: Answer, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "WHOLE_TIMEOUT", 0.4)  # nothing good is to come
    with scripted(without_stream(fault)) as url:
        with pytest.raises(guarddb.PolicyUnavailable) as caught:
            guarddb.connect(shop, policy=url)
        with pytest.raises(guarddb.PolicyError):
            guarddb.load_policy(url)
    assert "gdk_the_key" not in str(caught.value)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_later_leaves_the_last_profile_in_force_and_heals(
    fault: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    now: list[Answer] = [whole]
    with scripted(without_stream(lambda handler: now[0](handler))) as url:
        policy = fetched(url, refresh=0.05)
        now[0] = fault
        eventually(lambda: policy.stale)
        assert policy.current()[0].max_rows == 7
        eventually(lambda: url in caplog.text)
        assert "gdk_the_key" not in caplog.text
        now[0] = lambda handler: reply(handler, 200, {**GOOD, "max_rows": 8})
        eventually(lambda: policy.current()[0].max_rows == 8)
        assert not policy.stale
        policy.close()


def a_stream_of(*pieces: bytes, ends: bool) -> Answer:
    def answered(handler: BaseHTTPRequestHandler) -> None:
        if not handler.path.endswith("/events"):
            whole(handler)
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        try:
            for piece in pieces:
                handler.wfile.write(piece)
                handler.wfile.flush()
            if not ends:
                handler.connection.recv(1)  # until the other side has gone
        except OSError:
            pass
        handler.close_connection = True

    return answered


@pytest.mark.parametrize(
    "pieces",
    [
        (b"",),
        (b"\xff\xfe\x00",),
        (b"id: 1\nevent: policy_upd",),
        (b"data: {}\n\n" * 1_000,),
        tuple(b"x" * 65_536 for _ in range(50)),
        (b"id: \n\ndata\n:::\n\r\n",),
    ],
    ids=["empty", "bytes", "cut", "flood", "endless line", "odd"],
)
@pytest.mark.parametrize("ends", [True, False])
def test_a_stream_of_anything_changes_nothing(pieces: tuple[bytes, ...], ends: bool) -> None:
    asked: list[str] = []
    stream = a_stream_of(*pieces, ends=ends)

    def answered(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        stream(handler)

    with scripted(answered) as url:
        policy = fetched(url, refresh=0.1)
        eventually(lambda: any(path.endswith("/events") for path in asked))
        eventually(lambda: sum(not path.endswith("/events") for path in asked) > 1)
        assert policy.current()[0].max_rows == 7
        policy.close()


@contextmanager
def over_tls(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A server with a certificate that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    today = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - dt.timedelta(days=1))
        .not_valid_after(today + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            without_stream(whole)(self)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1], file
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_certificate_that_nobody_vouches_for_is_no_server(
    tmp_path: Path, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("policy.remote.TIMEOUT", "runtime.http_policy.TIMEOUT", "runtime.answers.WHOLE_TIMEOUT"):
        monkeypatch.setattr(f"guarddb.{name}", 60.0)  # it answers
    monkeypatch.setattr("guarddb.runtime.http_policy.FIRST_FETCH_SECONDS", 60.0)
    with over_tls(tmp_path) as (port, _):
        url = f"https://127.0.0.1:{port}/v1/projects/prj_1/policies/pol_1"
        with pytest.raises(guarddb.PolicyUnavailable, match=r"certificate|CERTIFICATE"):
            guarddb.connect(shop, policy=url)
        with pytest.raises(guarddb.PolicyUnavailable):
            guarddb.connect(shop, policy=url.replace("https", "http"))


def test_what_answers_no_tls_is_no_server(shop: str) -> None:
    with scripted(without_stream(whole)) as url, pytest.raises(guarddb.PolicyUnavailable):
        guarddb.connect(shop, policy=url.replace("http:", "https:"))


def test_a_port_that_takes_connections_and_says_nothing(shop: str) -> None:
    """It is given up after a few attempts, each of which ends."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        with pytest.raises(guarddb.PolicyUnavailable):
            guarddb.connect(shop, policy=f"http://127.0.0.1:{port}/v1/projects/prj_1")
        listening.setblocking(False)
        attempts = 0
        with suppress(BlockingIOError):
            while attempts <= http_policy.FIRST_FETCH_ATTEMPTS:
                listening.accept()[0].close()
                attempts += 1
    assert 1 <= attempts <= http_policy.FIRST_FETCH_ATTEMPTS


REQUEST = ApprovalRequest(
    id="apr_1", sql="DELETE FROM t WHERE id = 1", kind="delete", agent="bot", policy="p"
)


@contextmanager
def answering(answer: Answer) -> Iterator[tuple[str, list[bytes]]]:
    """A server for POST and PATCH as well, and the bodies that it got."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            answer(self)

        do_PATCH = do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/projects/prj_1", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_a_fault_is_no_approval(fault: Answer) -> None:
    with answering(fault) as (url, _), pytest.raises(ApproverLost):
        await ControlPlaneApprover(url).submit(REQUEST)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_decisions_wait_for_a_server_that_fails_and_no_refusal_is_lost_in_silence(
    fault: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    now: list[Answer] = [fault]
    with answering(lambda handler: now[0](handler)) as (url, bodies):
        upload = DecisionUpload(url)
        upload(Decision("block", "table_denied", "no"), "SELECT 1")
        flushed = upload.flush(timeout=20)
        assert "gdk_the_key" not in caplog.text
        if fault in (half_a_document, too_much):  # a success is a success, whatever it says
            return
        assert not flushed or "were not taken" in caplog.text
        now[0] = lambda handler: reply(handler, 202, {"accepted": 1})
        if not flushed:
            eventually(lambda: upload.flush(timeout=20))
            sent = [json.loads(body)["entries"][0]["id"] for body in bodies]
            assert len(set(sent)) == 1  # the same entry, by its identifier
