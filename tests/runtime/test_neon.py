"""Branches by Neon's API, against a server in this process that speaks the API's documented shapes over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import guarddb
from guarddb.driver.branches import DatabaseBranches
from guarddb.runtime.branches import Branch, BranchError
from guarddb.runtime.neon import NeonBranches

pytest.importorskip("httpx")

KEY = "napi_key"


class Project:
    """A project of Neon's whose branches are databases of the test's server."""

    def __init__(self) -> None:
        self.branches: dict[str, dict[str, Any]] = {
            "br-main-1": {
                "id": "br-main-1",
                "name": "main",
                "current_state": "ready",
                "created_at": "2026-01-01T00:00:00Z",
            }
        }
        self.asked: list[tuple[str, str, Any]] = []
        #: what is asked after operations; the last one is repeated
        self.states = ["running", "finished"]
        self.host = "ep-cool-1.eu.aws.neon.tech"
        self.endpoints = True
        self.fails: tuple[int, dict[str, Any]] | None = None

    def answer(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        self.asked.append((method, path, body))
        if self.fails is not None:
            return self.fails
        if (method, path) == ("POST", "/projects/p1/branches"):
            id = f"br-agent-{len(self.branches)}"
            made = {
                "id": id,
                "project_id": "p1",
                "current_state": "init",
                "created_at": "2026-02-01T00:00:00Z",
                **body["branch"],
            }
            self.branches[id] = made
            endpoint = {
                "host": self.host,
                "id": "ep-cool-1",
                "branch_id": id,
                "type": "read_write",
                "current_state": "init",
            }
            operations = [
                {"id": "op-1", "action": "create_branch", "status": "running"},
                {"id": "op-2", "action": "start_compute", "status": "scheduling"},
            ]
            return 201, {
                "branch": made,
                "endpoints": [endpoint] if self.endpoints else [],
                "operations": operations,
                "roles": [],
                "databases": [],
            }
        if method == "GET" and path.startswith("/projects/p1/operations/"):
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            return 200, {
                "operation": {"id": path.rpartition("/")[2], "status": state, "action": "create_branch"}
            }
        if (method, path) == ("GET", "/projects/p1/branches"):
            return 200, {"branches": list(self.branches.values())}
        if method == "DELETE" and path.startswith("/projects/p1/branches/"):
            gone = self.branches.pop(path.rpartition("/")[2], None)
            return (
                (200, {"branch": gone, "operations": []})
                if gone
                else (404, {"code": "", "message": "branch not found"})
            )
        return 404, {"code": "", "message": "not found"}


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Project, str]]:
    monkeypatch.setattr("guarddb.runtime.neon._INTERVAL", 0)
    made = Project()

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            if self.headers.get("Authorization") != f"Bearer {KEY}":
                status, document = 401, {"code": "", "message": "authentication required"}
            else:
                status, document = made.answer(self.command, self.path, body)
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = respond

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield made, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def neon(project: tuple[Project, str]) -> Iterator[NeonBranches]:
    provider = NeonBranches("p1", KEY, url=project[1])
    yield provider
    provider.close()


def test_a_branch_has_the_endpoints_host_and_all_else_of_the_source(
    project: tuple[Project, str], neon: NeonBranches
) -> None:
    branch = neon.create(
        "user=agent password='a b' dbname=shop host=ep-main.neon.tech hostaddr=10.0.0.1 sslmode=require"
    )
    assert conninfo_to_dict(branch.conninfo) == {
        "user": "agent",
        "password": "a b",
        "dbname": "shop",
        "host": project[0].host,
        "hostaddr": "",
        "port": "5432",
        "sslmode": "require",
    }
    assert "a b" not in repr(branch)
    method, path, body = project[0].asked[0]
    assert (method, path) == ("POST", "/projects/p1/branches")
    assert body["endpoints"] == [{"type": "read_write"}]
    assert body["branch"]["name"].startswith("guarddb-brn_")


def test_only_our_branches_are_listed_and_discarding_twice_is_no_error(
    project: tuple[Project, str], neon: NeonBranches
) -> None:
    branch = neon.create("dbname=shop")
    assert [(b.id, b.status) for b in neon.list()] == [(branch.id, "pending")]
    neon.discard(branch)
    neon.discard(branch)
    assert neon.list() == []
    assert set(project[0].branches) == {"br-main-1"}


def test_a_parent_can_be_chosen(project: tuple[Project, str]) -> None:
    provider = NeonBranches("p1", KEY, parent="br-main-1", url=project[1])
    provider.create("dbname=shop")
    provider.close()
    assert project[0].asked[0][2]["branch"]["parent_id"] == "br-main-1"


@pytest.mark.parametrize("broken", ["failed", "no endpoint"])
def test_what_does_not_become_ready_is_thrown_away(
    project: tuple[Project, str], neon: NeonBranches, broken: str
) -> None:
    if broken == "failed":
        project[0].states = ["failed"]
    else:
        project[0].endpoints = False
    with pytest.raises(BranchError, match=r"could not make|without an endpoint"):
        neon.create("dbname=shop")
    assert set(project[0].branches) == {"br-main-1"}


def test_errors_of_the_api_are_said(project: tuple[Project, str]) -> None:
    project[0].fails = (423, {"code": "", "message": "project is locked"})
    for provider, said in (
        (NeonBranches("p1", KEY, url=project[1]), "423: project is locked"),
        (NeonBranches("p1", "wrong", url=project[1]), "401: authentication required"),
        (NeonBranches("p1", KEY, url="http://127.0.0.1:1"), "does not answer"),
    ):
        with pytest.raises(BranchError, match=said):
            provider.create("dbname=shop")
        provider.close()


def test_without_a_key_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEON_API_KEY", raising=False)
    with pytest.raises(BranchError, match="NEON_API_KEY"):
        NeonBranches("p1")


def test_a_session_works_on_the_branch_and_discards_it(
    project: tuple[Project, str], neon: NeonBranches, fresh_shop_admin: str
) -> None:
    """The endpoint's host is that of the test's own server, so that there is something to connect to."""
    project[0].host = str(conninfo_to_dict(fresh_shop_admin)["host"])
    policy = {"name": "n", "access_mode": "read_write", "write_mode": "sandbox"}
    with guarddb.connect(
        make_conninfo(fresh_shop_admin, host="/elsewhere"), policy=policy, branches=neon
    ) as conn:
        assert conn.branch is not None
        assert conn.branch.id in project[0].branches
        conn.execute("DELETE FROM orders")
        conn.rollback()
    assert set(project[0].branches) == {"br-main-1"}


def test_both_are_providers(server_dsn: str, neon: NeonBranches) -> None:
    from guarddb.runtime.branches import BranchProvider

    assert isinstance(neon, BranchProvider)
    assert isinstance(DatabaseBranches(server_dsn), BranchProvider)
    assert Branch("brn_1").to_dict()["status"] == "ready"
    assert psycopg is not None
