"""Agents: made with a key, bound to a profile, switched off at once, rotated."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from ..errors import InvalidRequest
from ..store import agents, keys
from ..store.columns import now
from .access import Admin, Reader, ServerDep
from .shapes import (
    AgentBody,
    AgentChange,
    AgentInput,
    AgentList,
    AgentWithKey,
    PageSize,
    PageToken,
    RotateRequest,
    after,
    failures,
    listed,
)

router = APIRouter(tags=["agents"])


@router.post(
    "/v1/projects/{project_id}/agents",
    status_code=201,
    operation_id="createAgent",
    responses={201: {"model": AgentWithKey}, **failures(400, 404, 409, 413)},
)
def create(project_id: str, caller: Admin, server: ServerDep, body: AgentInput) -> Response:
    """A new agent with its key. The key is shown in this answer and never again."""
    policy_id = body.bound_to
    if body.expires_at is not None and body.expires_at <= now():
        raise InvalidRequest("expires_at: must be in the future")
    with server.database.write() as session:
        agent = agents.create(
            session, project_id, body.name, policy_id, actor=caller.actor, limit=server.settings.max_agents
        )
        key, text = keys.create_key(
            session,
            server.secret,
            project_id,
            body.name,
            "agent",
            actor=caller.actor,
            agent_id=agent.id,
            expires_at=body.expires_at,
        )
    return JSONResponse({**agents.wire(agent), "key_id": key.id, "key": text}, 201)


@router.get(
    "/v1/projects/{project_id}/agents",
    operation_id="listAgents",
    responses={200: {"model": AgentList}, **failures(400, 404)},
)
def index(
    project_id: str, _: Reader, server: ServerDep, page_size: PageSize = 20, page_token: PageToken = None
) -> Response:
    """The project's agents, oldest first, a page at a time."""
    with server.database.read() as session:
        rows = agents.page(session, project_id, page_size + 1, after(page_token))
    return JSONResponse(listed("agents", rows, page_size, agents.wire, lambda agent: agent.id))


@router.get(
    "/v1/projects/{project_id}/agents/{agent_id}",
    operation_id="getAgent",
    responses={200: {"model": AgentBody}, **failures(404)},
)
def read(project_id: str, agent_id: str, _: Reader, server: ServerDep) -> Response:
    """One agent."""
    with server.database.read() as session:
        return JSONResponse(agents.wire(agents.find(session, project_id, agent_id)))


@router.patch(
    "/v1/projects/{project_id}/agents/{agent_id}",
    operation_id="updateAgent",
    responses={200: {"model": AgentBody}, **failures(400, 404, 409, 413)},
)
def change(project_id: str, agent_id: str, caller: Admin, server: ServerDep, body: AgentChange) -> Response:
    """Change an agent. `status: disabled` is the kill switch: its next statement is refused."""
    with server.database.write() as session:
        agent = agents.find(session, project_id, agent_id)
        agents.update(
            session, agent, actor=caller.actor, name=body.name, policy_id=body.policy_id, status=body.status
        )
    return JSONResponse(agents.wire(agent))


@router.delete(
    "/v1/projects/{project_id}/agents/{agent_id}",
    status_code=204,
    operation_id="deleteAgent",
    responses=failures(404),
)
def delete(project_id: str, agent_id: str, caller: Admin, server: ServerDep) -> Response:
    """Remove an agent and its keys."""
    with server.database.write() as session:
        agents.delete(session, agents.find(session, project_id, agent_id), actor=caller.actor)
    return Response(status_code=204)


@router.post(
    "/v1/projects/{project_id}/agents/{agent_id}/rotate",
    operation_id="rotateAgent",
    responses={200: {"model": AgentWithKey}, **failures(400, 404, 413)},
)
def rotate(
    project_id: str,
    agent_id: str,
    caller: Admin,
    server: ServerDep,
    body: RotateRequest | None = None,
) -> Response:
    """A new key for an agent. The keys it has stay valid for `overlap_seconds`."""
    overlap = timedelta(seconds=body.overlap_seconds if body else 0)
    with server.database.write() as session:
        agent = agents.find(session, project_id, agent_id)
        key, text = keys.rotate_agent(session, server.secret, agent, overlap=overlap, actor=caller.actor)
    answer: dict[str, Any] = {**agents.wire(agent), "key_id": key.id, "key": text}
    return JSONResponse(answer)
