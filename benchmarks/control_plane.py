"""The control plane under load, and killed while it writes. Figures, no assertions about time.

    python -m benchmarks.control_plane [--postgresql [URL]] [--seconds 20]

0. What one question costs the server: CPU time of its process, which other work on the machine does not change much.
1. 200 pollers (one question each 5 s, with the ETag) and 50 evaluations a second: percentiles of both.
2. 500 open event streams: how long a PUT takes to reach all of them.
3. kill -9 in the middle of 1,000 PUTs: everything that was answered with 200 is there afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from common import server as embedded
from psycopg.conninfo import conninfo_to_dict

POLLERS, POLL_SECONDS, EVALUATIONS_PER_SECOND, STREAMS, PUTS = 200, 5.0, 50, 500, 1_000
SQL = (
    "SELECT o.id, c.name, c.email FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.total > 100"
)
PROFILE: dict[str, Any] = {
    "name": "load",
    "table_allowlist": ["orders", "customers"],
    "masking_rules": [{"table": "customers", "column": "email", "kind": "redact"}],
    "row_filters": [{"table": "orders", "predicate": "tenant_id = 1"}],
}


@dataclass
class Running:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    key: str

    def client(self, **options: Any) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx.AsyncClient(
            base_url=f"{self.url}/v1/projects/prj_default",
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=60,
            trust_env=False,
            limits=limits,
            **options,
        )


@contextmanager
def serving(database: str, key: str = "", port: int = 0) -> Iterator[Running]:
    """`guarddb serve`, as a user starts it."""
    command = [sys.executable, "-m", "guarddb.cli", "serve", "--database", database, "--port", str(port)]
    command += ["--rate-limit", "1000000/minute"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    url = ""
    for line in process.stdout:
        if found := re.search(r"http://\S+", line):
            url = found[0]
        if found := re.search(r"gdk_\S+", line):
            key = found[0]
        if url and (key or "admin key" in line):
            break
    try:
        yield Running(process, url, key)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(20)


def told(name: str, seconds: list[float]) -> None:
    """Print percentiles in milliseconds."""
    ordered = sorted(each * 1000 for each in seconds)
    p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.99))
    print(
        f"{name}: {len(ordered)} requests, p50 {p50:.1f} ms, p99 {p99:.1f} ms, slowest {ordered[-1]:.1f} ms"
    )


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process (Linux; elsewhere 0)."""
    if not Path(f"/proc/{pid}/stat").exists():
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def cost(server: Running, number: int = 2_000) -> None:
    """Questions one after the other over one connection."""
    async with server.client() as client:
        stored = (await client.post("/policies", json={**PROFILE, "name": "cost"})).json()
        path = f"/policies/{stored['id']}"
        tag = (await client.get(path)).headers["etag"]
        asked: dict[str, dict[str, Any]] = {
            "a poll (304)": {"method": "GET", "url": path, "headers": {"If-None-Match": tag}},
            "a fetch (200)": {"method": "GET", "url": path},
            "an evaluation": {
                "method": "POST",
                "url": "/policy-evaluations",
                "json": {"sql": SQL, "policy_id": stored["id"]},
            },
        }
        for name, request in asked.items():
            before = _cpu_seconds(server.process.pid)
            for _ in range(number):
                await client.request(**request)
            spent = _cpu_seconds(server.process.pid) - before
            print(f"{name}: {1000 * spent / number:.2f} ms of CPU")
        await client.delete(path)


class Line:
    """One connection that is kept. A full HTTP client takes longer for a question than the server does, on the same two cores."""

    def __init__(self, server: Running) -> None:
        where = urlsplit(server.url)
        self._host, self._port = where.hostname or "", where.port or 80
        self._head = f"Host: {where.netloc}\r\nAuthorization: Bearer {server.key}\r\n"
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, method: str, path: str, extra: str = "", body: bytes = b"") -> asyncio.StreamReader:
        """Send a request; where its answer comes from, at its first byte."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        head = f"{method} /v1/projects/prj_default{path} HTTP/1.1\r\n{self._head}{extra}{kind}\r\n"
        self._writer.write(head.encode() + body)
        return self._reader

    async def ask(self, method: str, path: str, extra: str = "", body: bytes = b"") -> int:
        """The status of the answer, once all of it is there."""
        reader = await self.send(method, path, extra, body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if found := re.search(rb"content-length: (\d+)", head):
            await reader.readexactly(int(found[1]))
        return int(head[9:12])

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()


async def pollers_and_evaluations(server: Running, seconds: float) -> None:
    polls: list[float] = []
    evaluations: list[float] = []
    failures: list[int] = []
    async with server.client() as client:
        stored = (await client.post("/policies", json=PROFILE)).json()
        path = f"/policies/{stored['id']}"
        tag = (await client.get(path)).headers["etag"]
    question = json.dumps({"sql": SQL, "policy_id": stored["id"]}).encode()
    idle: list[Line] = []
    before = _cpu_seconds(server.process.pid)
    begins = time.monotonic()
    ends = begins + seconds

    async def ask(line: Line, kept: list[float], *request: Any) -> None:
        started = time.monotonic()
        status = await line.ask(*request)
        kept.append(time.monotonic() - started)
        if status not in (200, 304):
            failures.append(status)

    async def poll(number: int) -> None:
        line = Line(server)
        await asyncio.sleep(POLL_SECONDS * number / POLLERS)
        while time.monotonic() < ends:
            await ask(line, polls, "GET", path, f"If-None-Match: {tag}\r\n")
            await asyncio.sleep(POLL_SECONDS)
        line.close()

    async def evaluate() -> None:
        line = idle.pop() if idle else Line(server)
        await ask(line, evaluations, "POST", "/policy-evaluations", "", question)
        idle.append(line)

    async def evaluate_often() -> None:
        running = []
        for number in range(int(seconds * EVALUATIONS_PER_SECOND)):
            # At its moment, however long the ones before it take: a slow server gets no rest.
            await asyncio.sleep(max(0.0, begins + number / EVALUATIONS_PER_SECOND - time.monotonic()))
            running.append(asyncio.create_task(evaluate()))
        await asyncio.gather(*running)

    await asyncio.gather(evaluate_often(), *(poll(number) for number in range(POLLERS)))
    took = time.monotonic() - begins
    busy = (_cpu_seconds(server.process.pid) - before) / took
    for line in idle:
        line.close()
    async with server.client() as client:
        await client.delete(path)
    told(f"{POLLERS} pollers", polls)
    told(f"{EVALUATIONS_PER_SECOND} evaluations/s", evaluations)
    print(f"failures: {len(failures)} {failures[:3]}; the server took {100 * busy:.0f} % of one core")


async def streams(server: Running) -> None:
    async with server.client() as client:
        stored = (await client.post("/policies", json=PROFILE)).json()
        path = f"/policies/{stored['id']}"
        opened = asyncio.Event()
        ready = 0
        arrived: list[float] = []
        put_at = 0.0

        async def listen() -> None:
            nonlocal ready
            line = Line(server)
            reader = await line.send("GET", f"{path}/events")
            await reader.readuntil(b": guarddb")
            ready += 1
            if ready == STREAMS:
                opened.set()
            await reader.readuntil(b"data:")
            arrived.append(time.monotonic() - put_at)
            line.close()

        listeners = [asyncio.create_task(listen()) for _ in range(STREAMS)]
        async with asyncio.timeout(120):
            await opened.wait()
        put_at = time.monotonic()
        await client.put(path, json={**PROFILE, "max_rows": 10})
        async with asyncio.timeout(60):
            await asyncio.gather(*listeners)
        told(f"a PUT to {STREAMS} streams", arrived)
        await client.delete(path)


async def put_until_killed(server: Running, policies: list[str]) -> dict[str, int]:
    """PUTs from several tasks; the server is killed in the middle. What was acknowledged, by policy."""
    acknowledged: dict[str, int] = dict.fromkeys(policies, 0)
    done = 0

    async with server.client() as client:

        async def write(policy_id: str) -> None:
            nonlocal done
            for number in range(1, PUTS // len(policies) + 1):
                body = {**PROFILE, "name": f"crash {policy_id}", "max_rows": number}
                try:
                    answer = await client.put(f"/policies/{policy_id}", json=body)
                except httpx.HTTPError:
                    return
                if answer.status_code == 200:
                    acknowledged[policy_id] = number
                    done += 1
                    if done == PUTS // 2:
                        os.kill(server.process.pid, signal.SIGKILL)

        await asyncio.gather(*(write(policy_id) for policy_id in policies))
    return acknowledged


async def crash(database: str, key: str) -> None:
    with serving(database, key) as server:
        async with server.client() as client:
            made = [await client.post("/policies", json={**PROFILE, "name": f"crash {n}"}) for n in range(10)]
        policies = [answer.json()["id"] for answer in made]
        started = time.monotonic()
        acknowledged = await put_until_killed(server, policies)
        seconds = time.monotonic() - started
    total = sum(acknowledged.values())
    with serving(database, key) as server:
        async with server.client() as client:
            lost = []
            for policy_id, number in acknowledged.items():
                there = (await client.get(f"/policies/{policy_id}")).json()["max_rows"]
                versions = len((await client.get(f"/policies/{policy_id}/versions")).json()["versions"])
                if there < number or versions < number + 1:
                    lost.append((policy_id, number, there, versions))
            whole = (await client.get("/audit/check")).json()["whole"]
    print(
        f"killed after {total} acknowledged PUTs ({total / seconds:.0f}/s): {len(lost)} lost, audit chain whole: {whole}"
    )
    if lost or not whole:
        raise SystemExit(json.dumps(lost))


def measure(database: str, seconds: float) -> None:
    """All of it."""
    print("PostgreSQL" if "://" in database else "SQLite", f"on {os.cpu_count()} cores")
    with serving(database) as server:
        key = server.key
        asyncio.run(cost(server))
        asyncio.run(pollers_and_evaluations(server, seconds))
        asyncio.run(streams(server))
    asyncio.run(crash(database, key))


def main() -> None:
    """Measure where the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--postgresql",
        nargs="?",
        const="",
        metavar="URL",
        help="keep it in PostgreSQL: in the empty database of this URL, or in an embedded server's; else in a SQLite file",
    )
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    if arguments.postgresql is None:
        with tempfile.TemporaryDirectory() as directory:
            measure(f"{directory}/plane.sqlite3", arguments.seconds)
    elif arguments.postgresql:
        measure(arguments.postgresql, arguments.seconds)
    else:
        with embedded() as dsn:
            parts = conninfo_to_dict(dsn)
            measure(
                f"postgresql://{parts['user']}@/{parts['dbname']}?host={parts['host']}", arguments.seconds
            )


if __name__ == "__main__":
    main()
