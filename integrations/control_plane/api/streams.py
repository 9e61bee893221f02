"""Server-sent events: a changed profile, a disabled agent, a decided approval, within a second."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse

from ..broker import Told
from ..errors import Forbidden
from ..state import Server
from ..store import approvals, policies
from ..store.columns import now
from ..store.keys import KEY_ENDS, Principal, works_until
from .access import ReaderOrAgent, ServerDep
from .shapes import failures

router = APIRouter(tags=["events"])

#: Seconds between two comments on a stream where nothing happens, so that both ends notice a dead connection.
HEARTBEAT = 15.0
LastEventId = Annotated[str | None, Header(description="The last event that the client has had.")]
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The stream."}
}


async def _events(
    server: Server, caller: Principal, wants: Callable[[Told], bool], last: str | None
) -> AsyncIterator[bytes]:
    broker, project_id = server.broker, caller.project_id
    subscription = broker.subscribe(project_id, lambda told: told.kind == KEY_ENDS or wants(told))
    try:
        # Asked for after subscribing, so that a key cannot be withdrawn in between.
        ends = await asyncio.to_thread(_works_until, server, caller.key_id)
        yield b"retry: 1000\n: guarddb\n\n"
        seen = int(last) if last and last.isascii() and last.isdigit() and len(last) < 19 else None
        if seen is not None and not await asyncio.to_thread(broker.knows, seen):
            seen = None
        if seen is not None:
            for event in await asyncio.to_thread(broker.since, project_id, seen):
                seen = event.seq
                if event.kind != KEY_ENDS and wants(event):
                    yield event.message
        while True:
            left = math.inf if ends is None else (ends - now()).total_seconds()
            if left <= 0:
                return
            try:
                async with asyncio.timeout(min(HEARTBEAT, left)):
                    told = await subscription.queue.get()
            except TimeoutError:
                yield b": still here\n\n"
                continue
            if told is None:
                return
            if told.kind == KEY_ENDS:
                if told.topic == caller.key_id:
                    ends = datetime.fromisoformat(told.data["expires_at"])
                continue
            if seen is None or told.seq > seen:
                yield told.message
            if told.kind == "agent_disabled" and told.topic == getattr(wants, "agent_id", None):
                return
    finally:
        broker.unsubscribe(subscription)


def _works_until(server: Server, key_id: str) -> datetime | None:
    with server.database.read() as session:
        return works_until(session, key_id)


def stream_of(
    server: Server, caller: Principal, wants: Callable[[Told], bool], last: str | None
) -> StreamingResponse:
    """An event stream with what `wants` picks, from after the event `last` on, until the caller's key ends."""
    if caller.agent_id is not None:
        wants.agent_id = caller.agent_id  # type: ignore[attr-defined]
    return StreamingResponse(
        _events(server, caller, wants, last),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.get(
    "/v1/projects/{project_id}/policies/{policy_id}/events",
    operation_id="streamPolicyEvents",
    response_class=StreamingResponse,
    responses={**_STREAM, **failures(404)},
)
def policy_events(
    project_id: str,
    policy_id: str,
    caller: ReaderOrAgent,
    server: ServerDep,
    last_event_id: LastEventId = None,
) -> StreamingResponse:
    """`policy_updated`, `policy_deleted`, and to an agent its own `agent_disabled`, `agent_enabled`, `agent_updated`."""
    with server.database.read() as session:
        policies.find(session, project_id, policy_id)
    if caller.role == "agent" and caller.agent_policy_id != policy_id:
        raise Forbidden("an agent follows the profile that it is bound to, and no other")
    topics = {policy_id, caller.agent_id}

    def wants(event: Told) -> bool:
        return event.topic in topics

    return stream_of(server, caller, wants, last_event_id)


@router.get(
    "/v1/projects/{project_id}/events",
    operation_id="streamProjectEvents",
    response_class=StreamingResponse,
    responses={**_STREAM, **failures(404)},
)
def project_events(
    project_id: str, caller: ReaderOrAgent, server: ServerDep, last_event_id: LastEventId = None
) -> StreamingResponse:
    """Everything that happens in the project; to an agent what concerns it: its profile, itself, its approvals."""
    agent_id = caller.agent_id
    bound = caller.agent_policy_id

    def wants(event: Told) -> bool:
        nonlocal bound
        if agent_id is None:
            return True
        if event.topic == agent_id:
            bound = event.data.get("policy", bound)  # it was bound to another profile
            return True
        return event.topic == bound or event.data.get("agent_id") == agent_id

    return stream_of(server, caller, wants, last_event_id)


@router.get(
    "/v1/projects/{project_id}/approvals/{approval_id}/events",
    operation_id="streamApprovalEvents",
    response_class=StreamingResponse,
    responses={**_STREAM, **failures(404)},
)
def approval_events(
    project_id: str,
    approval_id: str,
    request: Request,
    caller: ReaderOrAgent,
    server: ServerDep,
    last_event_id: LastEventId = None,
) -> StreamingResponse:
    """What becomes of one approval. Read the approval itself after the stream is open: nothing is missed then."""
    with server.database.read() as session:
        approvals.find(session, project_id, approval_id, caller.agent_id)

    def wants(event: Told) -> bool:
        return event.topic == approval_id

    return stream_of(server, caller, wants, last_event_id)
