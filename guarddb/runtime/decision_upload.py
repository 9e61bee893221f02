"""Decisions sent to a control plane: in batches, in the background, from a queue that has an end.

    guarddb.connect(dsn, policy=url, on_decision=DecisionUpload(url))

A statement never waits for it. What is sent are verdicts, rules and reasons; the text of a statement is not, since its
literals may be the very values that a mask hides.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import secrets
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from guarddb.decision.plan import Decision
from guarddb.policy.errors import PolicyError
from guarddb.policy.remote import (
    TIMEOUT,
    TRANSIENT,
    WHOLE_TIMEOUT,
    Remote,
    backoff,
    describe,
    headers,
    read_key,
    require_httpx,
    retry_after,
    trust,
)
from guarddb.runtime import background
from guarddb.runtime.decision_log import without_values

logger = logging.getLogger("guarddb.decisions")

#: Entries of one request, and seconds until a batch that is not full is sent.
BATCH: Final = 500
SEND_SECONDS: Final = 2.0
#: Entries that wait at the most. Room is made among statements that passed; a refusal that is lost is logged.
QUEUE: Final = 10_000
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"


class DecisionUpload:
    """What `on_decision=` takes: sends every decision to the project of a control plane.

    One may serve many connections, from several threads. It is sent empty when the process ends, as far as the server
    answers within two seconds.

    Args:
        url: the project's URL, or that of a profile in it.
        key: the agent's API key; None: GUARDDB_API_KEY.

    Raises:
        PolicyError: the URL may not be used, or httpx is missing.
    """

    def __init__(self, url: str, key: str | None = None, *, queue: int = QUEUE) -> None:
        require_httpx()
        remote = Remote.parse(url)
        path = urlsplit(url).path.rstrip("/").split("/")
        if remote.events_url is None or "projects" not in path:
            raise PolicyError("decisions go to a project: https://host/v1/projects/prj_…")
        project = "/".join(path[: path.index("projects") + 2])
        self._url = urlsplit(url)._replace(path=f"{project}/decisions", query="", fragment="").geturl()
        self._loopback = remote.loopback
        self._key = read_key(key)
        self._room = queue
        self._entries: deque[dict[str, Any]] = deque()
        self._lock = threading.Lock()
        self._dropped = 0
        #: batches that are being sent
        self._under_way = 0
        self._pid = 0
        self._work: Future[None] | None = None
        self._wake: asyncio.Event | None = None
        _uploads.add(self)

    def __repr__(self) -> str:
        return f"DecisionUpload({self._url!r}, {len(self._entries)} waiting)"

    def __call__(self, decision: Decision, sql: str) -> None:
        """Take a decision. Never waits, never raises."""
        entry: dict[str, Any] = {
            "id": _new_id(),
            "at": datetime.now(UTC).isoformat(),
            "verdict": decision.verdict,
            "rule": decision.rule,
        }
        reason = without_values(decision).get("reason") if decision.blocked else None
        if reason is not None:
            entry["reason"] = reason[:2_000]
        if decision.policy_version is not None:
            entry["policy_version"] = decision.policy_version
        lost: dict[str, Any] | None = None
        with self._lock:
            if len(self._entries) >= self._room:
                lost = self._make_room()
            self._entries.append(entry)
            start = self._pid != os.getpid()
            if start:
                self._pid = os.getpid()
        if lost is not None:
            logger.error("a refusal was not sent to the control plane, which is behind: %s", lost)
        if start:
            self._start()
        elif len(self._entries) >= BATCH and (wake := self._wake) is not None:
            background.call_soon(wake.set)

    def _make_room(self) -> dict[str, Any] | None:
        """Drop the oldest entry that passed, else the oldest refusal, which is given back."""
        self._dropped += 1
        for index, entry in enumerate(self._entries):
            if entry["verdict"] != "block":
                del self._entries[index]
                return None
            if index > 1_000:  # a queue full of refusals is not searched for every further one
                break
        return self._entries.popleft()

    def _start(self) -> None:
        self._wake = None
        self._work = background.submit(_run(weakref.ref(self)))

    def flush(self, timeout: float = 2.0) -> bool:
        """Send what waits now; whether all of it was taken."""
        sending = background.submit(self._send_all())
        try:
            sending.result(timeout)
        except Exception:  # time is up, or it was said in the log
            sending.cancel()
        return not self._entries and not self._under_way

    async def _send_all(self) -> None:
        async with self._client() as client:
            while self._entries and await self.send(client) is None:
                pass

    def _client(self) -> Any:
        return require_httpx().AsyncClient(timeout=TIMEOUT, **trust(self._loopback))

    async def send(self, client: Any) -> float | None:
        """Send one batch. Seconds to wait before the next attempt, or None when there is none to make."""
        self._under_way += 1
        try:
            return await self._send(client)
        finally:
            self._under_way -= 1

    async def _send(self, client: Any) -> float | None:
        with self._lock:
            batch = [self._entries.popleft() for _ in range(min(BATCH, len(self._entries)))]
            dropped, self._dropped = self._dropped, 0
        if not batch:
            return None
        httpx = require_httpx()
        try:
            body = {"entries": batch, "dropped": dropped}
            async with asyncio.timeout(WHOLE_TIMEOUT):
                answer = await client.post(self._url, headers=headers(self._key), json=body)
        except BaseException as ex:
            self._put_back(batch, dropped)
            if not isinstance(ex, httpx.HTTPError | TimeoutError):
                raise
            logger.warning("decisions cannot be sent: %s", describe(ex))
            return 0.0
        if answer.is_success:
            return None
        if answer.status_code in TRANSIENT or answer.status_code in (401, 403):
            self._put_back(batch, dropped)
            logger.warning("decisions cannot be sent: the control plane answers %s", answer.status_code)
            return retry_after(answer.headers.get("retry-after")) or 0.0
        refusals = sum(entry["verdict"] == "block" for entry in batch)
        logger.error(
            "%s decisions (%s refusals) were not taken: the control plane answers %s",
            len(batch),
            refusals,
            answer.status_code,
        )
        return None

    def _put_back(self, batch: list[dict[str, Any]], dropped: int) -> None:
        with self._lock:
            self._dropped += dropped
            self._entries.extendleft(reversed(batch))
            while len(self._entries) > self._room:
                if (lost := self._make_room()) is not None:
                    logger.error("a refusal was not sent to the control plane, which is behind: %s", lost)


def _new_id() -> str:
    """An identifier that sorts by time. By it the server knows an entry that it has already: one whose answer was lost."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "dec_" + "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


async def _run(reference: weakref.ref[DecisionUpload]) -> None:
    """Send batches until the upload is gone."""
    upload = reference()
    if upload is None:
        return
    wake = upload._wake = asyncio.Event()
    attempt = 0
    async with upload._client() as client:
        del upload
        pause = SEND_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wake.wait()
            wake.clear()
            upload = reference()
            if upload is None:
                return
            pause = SEND_SECONDS
            try:
                while upload._entries:
                    asked = await upload.send(client)
                    if asked is not None:
                        attempt += 1
                        pause = max(SEND_SECONDS, backoff(attempt, asked))
                        break
                    attempt = 0
            except Exception:
                logger.exception("decisions cannot be sent")
            del upload


_uploads: weakref.WeakSet[DecisionUpload] = weakref.WeakSet()


def _finish() -> None:
    deadline = time.monotonic() + 2.0
    for upload in list(_uploads):
        if upload._entries and upload._pid == os.getpid():
            if not upload.flush(max(0.1, deadline - time.monotonic())):
                logger.error(
                    "decisions that were not sent before the process ended: %s", len(upload._entries)
                )


# Registered after that of the background, so it runs before it.
atexit.register(_finish)
