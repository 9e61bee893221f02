"""`guarddb serve` as a user starts it: what it prints, how it stops, and one sentence for what goes wrong."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from guarddb.integrations.control_plane.store.retention import prune
from guarddb.integrations.control_plane.store.tables import Event, LoggedDecision
from sqlalchemy import func, select

from guarddb.cli import main
from tests.control_plane.conftest import Plane, running
from tests.control_plane.test_client import eventually


def start(directory: Path, *options: str) -> tuple[subprocess.Popen[bytes], str]:
    """The command, and what it prints when it accepts connections."""
    command = [sys.executable, "-m", "guarddb.cli", "serve", "--port", "0", *options]
    output = directory / "printed"
    with output.open("wb") as file:
        process = subprocess.Popen(command, cwd=directory, stdout=file, stderr=subprocess.DEVNULL)
    # It is printed in one piece.
    eventually(lambda: b"http://" in output.read_bytes() or process.poll() is not None, 60)
    return process, output.read_text()


def test_on_an_empty_machine_it_makes_its_database_and_prints_the_key_once(tmp_path: Path) -> None:
    process, text = start(tmp_path)
    try:
        url = re.search(r"http://127\.0\.0\.1:\d+", text)
        key = re.search(r"gdk_\S+", text)
        assert url
        assert key
        assert "project: prj_default" in text
        headers = {"Authorization": f"Bearer {key[0]}"}
        asked = f"{url[0]}/v1/projects/prj_default/policies"
        assert httpx.get(asked, headers=headers, trust_env=False, verify=False, timeout=60).json() == {
            "policies": []
        }
        file = tmp_path / "guarddb.sqlite3"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert key[0].encode() not in file.read_bytes()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    process, text = start(tmp_path)
    try:
        assert "gdk_" not in text
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_what_goes_wrong_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "not.sqlite3").write_text("this is no database, whatever its name says " * 100)
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    database = str(tmp_path / "x.sqlite3")
    for options, told in (
        (["--database", str(tmp_path / "no" / "dir.sqlite3")], "No such file or directory"),
        (["--database", str(tmp_path / "not.sqlite3")], "not a database"),
        (["--database", "mysql://localhost/x"], "not supported"),
        (["--database", "postgresql://localhost:1/x?connect_timeout=2"], "cannot be used"),
        (["--database", database, "--rate-limit", "often"], "is not a rate"),
        (["--database", database, "--project", "mine"], "--project is prj_"),
        (["--database", database, "--port", str(taken.getsockname()[1])], "Address already in use"),
        (["--database", database, "--signing-key", str(tmp_path / "none")], "cannot read"),
    ):
        options = options if "--port" in options else [*options, "--port", "0"]
        assert main(["serve", *options]) == 2, options
        error = capsys.readouterr().err
        assert told in error
        assert "Traceback" not in error
    taken.close()


def test_what_only_grows_is_pruned_and_the_rest_is_kept(tmp_path: Path) -> None:
    with running(str(tmp_path / "plane.sqlite3")) as plane:
        agent = plane.agent(plane.policy("p")["id"])
        plane.request("PATCH", f"/agents/{agent['id']}", json={"name": "renamed"})
        old = (datetime.now(UTC) - timedelta(days=40)).isoformat()
        new = datetime.now(UTC).isoformat()
        entries = [{"at": at, "verdict": "allow", "rule": "ok"} for at in (old, new)]
        plane.request("POST", "/decisions", agent["key"], json={"entries": entries})
        with plane.server.database.write() as session:
            session.execute(Event.__table__.update().values(at=datetime.now(UTC) - timedelta(days=4)))
            prune(session)
        with plane.server.database.read() as session:
            assert session.scalar(select(func.count()).select_from(Event)) == 1  # see test_store.py
            assert session.scalar(select(func.count()).select_from(LoggedDecision)) == 1
        assert plane.request("GET", "/audit/check").json()["whole"]


def test_settings_come_from_the_environment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARDDB_PROJECT", "prj_env")
    monkeypatch.setenv("GUARDDB_DATABASE", str(tmp_path / "env.sqlite3"))
    process, text = start(tmp_path)
    try:
        assert "project: prj_env" in text
    finally:
        process.terminate()
        process.wait(60)
    assert (tmp_path / "env.sqlite3").exists()


def test_a_killed_server_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    """The short form of what `benchmarks/control_plane.py` does with 1,000 PUTs."""
    process, text = start(tmp_path)
    url, key = re.findall(r"http://\S+", text)[0], re.findall(r"gdk_\S+", text)[0]
    plane = Plane(url, "prj_default", key, None, None)  # type: ignore[arg-type]
    stored = plane.policy("crash")
    acknowledged = 0
    for rows in range(1, 31):
        if rows == 25:
            os.kill(process.pid, signal.SIGKILL)
        try:
            answer = plane.request(
                "PUT", f"/policies/{stored['id']}", json={"name": "crash", "max_rows": rows}
            )
        except httpx.HTTPError:
            break
        assert answer.status_code == 200
        acknowledged = rows
    process.wait(60)
    with running(str(tmp_path / "guarddb.sqlite3"), first_key=("prj_default", key)) as again:
        there = again.request("GET", f"/policies/{stored['id']}").json()["max_rows"]
        assert there in (acknowledged, acknowledged + 1)
        versions = again.request("GET", f"/policies/{stored['id']}/versions").json()["versions"]
        assert len(versions) == there + 1
        assert again.request("GET", "/audit/check").json()["whole"]
