"""The approver of a control plane: requests are filed over HTTP, and people decide on its pages or by its API."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

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
from guarddb.runtime import answers
from guarddb.runtime.approvals import Answer, ApprovalRequest, ApproverLost, Outcome

#: Seconds between two questions where there is no event stream.
_POLL_SECONDS: Final = 2.0
#: With a stream the request is asked for all the same, once in so many seconds.
_LOOK_ANYWAY: Final = 20.0
#: Seconds after which a control plane that does not answer is lost.
_LOST_SECONDS: Final = 30.0


class ControlPlaneApprover:
    """Asks the people behind a control plane. Async in form; sync connections use it as well.

    Args:
        url: the project's URL, `https://host/v1/projects/prj_…`, or that of a profile in it.
        key: the agent's API key; None: GUARDDB_API_KEY.
        unmasked: what the profile masks goes there as it is, in the sample of the rows, and is kept there.

    Raises:
        PolicyError: the URL may not be used, or httpx is missing.
    """

    def __init__(self, url: str, key: str | None = None, *, unmasked: bool = False) -> None:
        self.unmasked = unmasked
        require_httpx()
        remote = Remote.parse(url)
        path = urlsplit(url).path.rstrip("/").split("/")
        if remote.events_url is None or "projects" not in path:
            raise PolicyError("an approver's URL is that of a project: https://host/v1/projects/prj_…")
        project = "/".join(path[: path.index("projects") + 2])
        self._url = urlsplit(url)._replace(path=f"{project}/approvals", query="", fragment="").geturl()
        self._loopback = remote.loopback
        self._key = read_key(key)

    def __repr__(self) -> str:
        return f"ControlPlaneApprover({self._url!r})"

    async def submit(self, request: ApprovalRequest) -> ApprovalRequest:
        """File a request. Sent again after a failure, it is still one request.

        Raises:
            ApproverLost: the control plane does not take it.
        """
        async with self._client() as client:
            filed = await self._send(
                client, "POST", self._url, request.to_dict(), until=time.monotonic() + 2 * TIMEOUT
            )
        try:
            waits = (
                _moment(filed["expires_at"]) - _moment(filed["requested_at"]) if filed["expires_at"] else None
            )
            now = datetime.now(UTC)
            # How long it waits counts, by whichever clock; the two clocks need not agree on what time it is.
            expires = None if waits is None else now + max(timedelta(0), waits)
            return replace(request, id=str(filed["id"]), requested_at=now, expires_at=expires)
        except (KeyError, TypeError, ValueError) as ex:
            raise ApproverLost(
                f"the control plane's answer is no approval request ({type(ex).__name__})"
            ) from None

    async def wait(self, request: ApprovalRequest, timeout: float | None) -> Answer:
        """Wait for a decision, over the event stream, and by asking where there is none.

        Raises:
            ApproverLost: the control plane cannot be reached, or its answer is not clear.
        """
        async with self._client() as client:
            news = asyncio.Event()
            listening = asyncio.create_task(self._listen(client, f"{self._url}/{request.id}/events", news))
            try:
                return await self._answer(client, request, timeout, news, listening)
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)

    async def report(self, request: ApprovalRequest, status: Outcome) -> None:
        """Tell what became of a request."""
        async with self._client() as client:
            url = f"{self._url}/{request.id}"
            await self._send(client, "PATCH", url, {"status": status}, until=time.monotonic() + TIMEOUT)

    async def _answer(
        self,
        client: Any,
        request: ApprovalRequest,
        timeout: float | None,
        news: asyncio.Event,
        listening: asyncio.Task[None],
    ) -> Answer:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            news.clear()
            lost_at = time.monotonic() + _LOST_SECONDS
            found = await self._send(client, "GET", f"{self._url}/{request.id}", None, until=lost_at)
            if (answer := _read(request, found)) is not None:
                return answer
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return Answer("expired", request_id=request.id)
            pause = _POLL_SECONDS if listening.done() else _LOOK_ANYWAY
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause if left is None else min(pause, left)):
                    await news.wait()

    async def _listen(self, client: Any, url: str, news: asyncio.Event) -> None:
        """Say when there is news; ends when the server has no stream, and then asking has to do."""
        httpx = require_httpx()
        told = {**headers(self._key), "Accept": "text/event-stream"}
        for attempt in range(1_000_000):
            try:
                async with client.stream(
                    "GET", url, headers=told, timeout=httpx.Timeout(TIMEOUT, read=45)
                ) as answer:
                    if answer.status_code != 200 or "event-stream" not in answer.headers.get(
                        "content-type", ""
                    ):
                        return
                    news.set()
                    async for field, _ in answers.events(answer):
                        if field == "data":
                            news.set()
            except (httpx.HTTPError, OSError):
                pass
            news.set()
            await asyncio.sleep(backoff(min(attempt, 4)))

    def _client(self) -> Any:
        return require_httpx().AsyncClient(timeout=TIMEOUT, **trust(self._loopback))

    async def _send(
        self, client: Any, method: str, url: str, body: Any, *, until: float
    ) -> Mapping[str, Any]:
        """The answer to one request, tried again while it may help and `until` (monotonic) is not over."""
        httpx = require_httpx()
        attempt = 0
        while True:
            asked = None
            try:
                async with asyncio.timeout(WHOLE_TIMEOUT):
                    answer = await client.request(method, url, headers=headers(self._key), json=body)
                if answer.is_success:
                    found = answer.json()
                    if isinstance(found, dict):
                        return found
                    raise ApproverLost("the control plane's answer is not clear")
                problem = f"the control plane answers {answer.status_code}: {_message(answer)}"
                if answer.status_code not in TRANSIENT:
                    raise ApproverLost(problem)
                asked = retry_after(answer.headers.get("retry-after"))
            except (httpx.HTTPError, TimeoutError) as ex:
                problem = f"the control plane cannot be reached: {describe(ex)}"
            except ValueError:
                raise ApproverLost("the control plane's answer is not JSON") from None
            wait = backoff(attempt, asked)
            if time.monotonic() + wait > until:
                raise ApproverLost(problem)
            attempt += 1
            await asyncio.sleep(wait)


def _message(answer: Any) -> str:
    try:
        return str(answer.json()["error"]["message"])[:300]
    except (ValueError, LookupError, TypeError):
        return "no reason"


def _moment(text: Any) -> datetime:
    return datetime.fromisoformat(text)


def _read(request: ApprovalRequest, found: Mapping[str, Any]) -> Answer | None:
    """The decision in what the control plane shows; None: there is none yet."""
    status = found.get("status")
    wire = request.to_dict()
    if any(found.get(name) != wire[name] for name in ("sql", "parameters")) or found.get("id") != request.id:
        raise ApproverLost("what the control plane shows people is not what would run")
    if status == "pending":
        return None
    if status not in ("approved", "rejected", "expired"):
        raise ApproverLost(f"the request is {status!s:.40} already")
    by, reason = found.get("decided_by"), found.get("reason")
    return Answer(
        status,
        decided_by=str(by) if by is not None else None,
        reason=str(reason) if reason is not None else None,
        request_id=request.id,
    )
