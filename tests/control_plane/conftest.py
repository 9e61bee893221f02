"""A control plane on loopback: uvicorn in a thread, on a SQLite file and on PostgreSQL."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from guarddb.integrations.control_plane.app import open_server
from guarddb.integrations.control_plane.serve import Running
from guarddb.integrations.control_plane.settings import Settings
from guarddb.integrations.control_plane.state import Server

from guarddb.policy import remote
from guarddb.runtime import action_policies, answers, decision_upload, http_policy
from tests.fix_server import reserved_port, temporary_database


@dataclass
class Plane:
    """One that runs: its address, its project, its first admin key."""

    url: str
    project: str
    key: str
    server: Server
    settings: Settings
    agents: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def base(self) -> str:
        return f"{self.url}/v1/projects/{self.project}"

    def client(self, key: str | None = None, **options: Any) -> httpx.Client:
        """A client of the project's routes, with the admin key unless another is given."""
        headers = {"Authorization": f"Bearer {key or self.key}"} if key != "" else {}
        return httpx.Client(
            base_url=self.base, headers=headers, timeout=60, trust_env=False, verify=False, **options
        )

    def request(self, method: str, path: str, key: str | None = None, **options: Any) -> httpx.Response:
        with self.client(key) as client:
            return client.request(method, path, **options)

    def policy(self, name: str = "analyst", **fields: Any) -> dict[str, Any]:
        """A new profile."""
        answer = self.request("POST", "/policies", json={"name": name, **fields})
        assert answer.status_code == 201, answer.text
        stored: dict[str, Any] = answer.json()
        return stored

    def agent(self, policy_id: str, name: str = "bot") -> dict[str, Any]:
        """A new agent, with its key."""
        answer = self.request("POST", "/agents", json={"name": name, "policy_id": policy_id})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def new_key(self, role: str) -> str:
        answer = self.request("POST", "/keys", json={"name": role, "role": role})
        assert answer.status_code == 201, answer.text
        text: str = answer.json()["key"]
        return text


@contextmanager
def running(
    database: str, *, first_key: tuple[str, str] | None = None, port: int = 0, **settings: Any
) -> Iterator[Plane]:
    """A control plane in a thread. `first_key`: the project and key that the database has already."""
    configured = Settings(database=database, **settings)
    server, first = open_server(configured)
    project, key = first_key or (first.project_id, first.key) if first else first_key or ("", "")
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    uvicorn_server = Running(server)
    thread = threading.Thread(target=uvicorn_server.run, args=([listening],), daemon=True)
    thread.start()
    deadline = time.monotonic() + 90
    while not uvicorn_server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < deadline, "the server did not start in time"
        time.sleep(0.01)
    try:
        yield Plane(f"http://127.0.0.1:{listening.getsockname()[1]}", project, key, server, configured)
    finally:
        uvicorn_server.should_exit = True
        thread.join(20)
        listening.close()


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that ends and comes again: nobody else gets it meanwhile."""
    with reserved_port() as port:
        yield port


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a server may take longer than what is waited for in production.

    (An approver, which tries again for as long as it waits for an answer, is left as it is: it would go on after lost servers.)
    """
    for module in (remote, answers, http_policy, decision_upload, action_policies):
        for name in ("TIMEOUT", "WHOLE_TIMEOUT", "FIRST_FETCH_SECONDS"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, 60.0)


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the module's control plane keeps its things."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            yield str(tmp_path_factory.mktemp("plane") / "plane.sqlite3")
        else:
            server = request.getfixturevalue("server_dsn")
            dsn = stack.enter_context(temporary_database(server, "plane"))
            yield postgres_url(dsn)


def postgres_url(dsn: str) -> str:
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(dsn)
    return f"postgresql://{parts['user']}@/{parts['dbname']}?host={parts['host']}"


@pytest.fixture(scope="module")
def shared_plane(database: str) -> Iterator[Plane]:
    """The module's control plane, on SQLite and on PostgreSQL."""
    with running(database) as plane:
        yield plane


@pytest.fixture
def plane(shared_plane: Plane) -> Plane:
    """The module's control plane, in a project of this test's own."""
    with httpx.Client(
        headers={"Authorization": f"Bearer {shared_plane.key}"}, trust_env=False, verify=False, timeout=60
    ) as client:
        answer = client.post(f"{shared_plane.url}/v1/projects", json={"name": "of a test"})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    return Plane(shared_plane.url, made["id"], made["key"], shared_plane.server, shared_plane.settings)


@pytest.fixture
def start_plane(tmp_path: Path) -> Iterator[Callable[..., Plane]]:
    """Starts a control plane with settings of one's own, on a SQLite file of this test."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Plane:
            settings.setdefault("database", str(tmp_path / "plane.sqlite3"))
            return stack.enter_context(running(**settings))

        yield start
