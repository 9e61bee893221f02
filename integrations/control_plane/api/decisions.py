"""Decision logs: agents' sessions report what was decided; it is listed and summed up per agent."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from ..store import activity, agents
from .access import AgentOnly, Reader, ServerDep
from .shapes import DecisionUpload, PageSize, PageToken, after, failures, listed

router = APIRouter(tags=["decisions"])


@router.post(
    "/v1/projects/{project_id}/decisions",
    status_code=202,
    operation_id="reportDecisions",
    responses=failures(400, 404, 413),
)
def report(project_id: str, caller: AgentOnly, server: ServerDep, body: DecisionUpload) -> Response:
    """Report decisions of this agent's sessions. `dropped`: entries that a full queue has lost before these."""
    entries: list[dict[str, Any]] = [entry.model_dump() for entry in body.entries]
    if body.dropped:
        lost = {"at": entries[0]["at"], "verdict": "allow", "rule": "ok", "dropped": body.dropped}
        entries.insert(0, lost)
    with server.database.write() as session:
        activity.store(session, agents.find(session, project_id, caller.agent_id or ""), entries)
    for entry in body.entries:
        server.metrics.decision(entry.verdict, entry.rule)
    return JSONResponse({"accepted": len(body.entries)}, 202)


@router.get(
    "/v1/projects/{project_id}/agents/{agent_id}/decisions",
    operation_id="listDecisions",
    responses=failures(400, 404),
)
def index(
    project_id: str,
    agent_id: str,
    _: Reader,
    server: ServerDep,
    page_size: PageSize = 20,
    page_token: PageToken = None,
) -> Response:
    """What an agent's sessions reported, newest first."""
    with server.database.read() as session:
        agent = agents.find(session, project_id, agent_id)
        rows = activity.page(session, agent, page_size + 1, after(page_token))
    return JSONResponse(listed("decisions", rows, page_size, activity.wire, lambda each: each.id))


@router.get(
    "/v1/projects/{project_id}/agents/{agent_id}/activity",
    operation_id="getActivity",
    responses=failures(404),
)
def summary(project_id: str, agent_id: str, _: Reader, server: ServerDep) -> Response:
    """Statements, refusals by rule, and what is left of the budgets, as far as the sessions reported."""
    with server.database.read() as session:
        return JSONResponse(activity.summary(session, agents.find(session, project_id, agent_id)))
