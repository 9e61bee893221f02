"""The control plane under load, and killed while it writes. Figures, no assertions about time.

    python -m benchmarks.control_plane [--postgresql URL] [--seconds 20]

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
from typing import Any

import httpx

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


async def pollers_and_evaluations(server: Running, seconds: float) -> None:
    polls: list[float] = []
    evaluations: list[float] = []
    failures: list[str] = []
    async with server.client() as client:
        stored = (await client.post("/policies", json=PROFILE)).json()
        path = f"/policies/{stored['id']}"
        tag = (await client.get(path)).headers["etag"]
        ends = time.monotonic() + seconds

        async def ask(kept: list[float], **request: Any) -> None:
            started = time.monotonic()
            answer = await client.request(**request)
            kept.append(time.monotonic() - started)
            if answer.status_code not in (200, 304):
                failures.append(f"{answer.status_code} {answer.text[:80]}")

        async def poll(number: int) -> None:
            await asyncio.sleep(POLL_SECONDS * number / POLLERS)
            while time.monotonic() < ends:
                await ask(polls, method="GET", url=path, headers={"If-None-Match": tag})
                await asyncio.sleep(POLL_SECONDS)

        async def evaluate() -> None:
            running = set()
            while time.monotonic() < ends:
                body = {"sql": SQL, "policy_id": stored["id"]}
                running.add(
                    asyncio.create_task(ask(evaluations, method="POST", url="/policy-evaluations", json=body))
                )
                await asyncio.sleep(1 / EVALUATIONS_PER_SECOND)
            await asyncio.gather(*running)

        await asyncio.gather(evaluate(), *(poll(number) for number in range(POLLERS)))
        await client.delete(path)
    told(f"{POLLERS} pollers", polls)
    told(f"{EVALUATIONS_PER_SECOND} evaluations/s", evaluations)
    print(f"failures: {len(failures)} {failures[:3]}")


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
            async with client.stream("GET", f"{path}/events", timeout=None) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith(": guarddb"):
                        ready += 1
                        if ready == STREAMS:
                            opened.set()
                    elif line.startswith("data:"):
                        arrived.append(time.monotonic() - put_at)
                        return

        listeners = [asyncio.create_task(listen()) for _ in range(STREAMS)]
        await asyncio.wait_for(opened.wait(), 120)
        put_at = time.monotonic()
        await client.put(path, json={**PROFILE, "max_rows": 10})
        await asyncio.wait_for(asyncio.gather(*listeners), 60)
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


def main() -> None:
    """Run the three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgresql", help="URL of an empty database; without it a SQLite file is used")
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        database = arguments.postgresql or f"{directory}/plane.sqlite3"
        print("PostgreSQL" if arguments.postgresql else "SQLite", f"on {os.cpu_count()} cores")
        with serving(database) as server:
            key = server.key
            asyncio.run(pollers_and_evaluations(server, arguments.seconds))
            asyncio.run(streams(server))
        asyncio.run(crash(database, key))


if __name__ == "__main__":
    main()
