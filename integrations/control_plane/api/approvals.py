"""Approvals: an agent submits and watches, somebody else decides."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from ..errors import Conflict, Forbidden
from ..state import Server
from ..store import approvals
from ..store.keys import Principal
from .access import AgentOrAdmin, Approver, ReaderOrAgent, ServerDep
from .shapes import (
    ApprovalBody,
    ApprovalDecision,
    ApprovalInput,
    ApprovalList,
    ApprovalReport,
    PageSize,
    PageToken,
    after,
    failures,
    listed,
)

router = APIRouter(tags=["approvals"])
Status = Literal["pending", "approved", "rejected", "expired", "executed", "failed"]


@router.post(
    "/v1/projects/{project_id}/approvals",
    status_code=201,
    operation_id="createApproval",
    responses={
        200: {"model": ApprovalBody, "description": "It was submitted before."},
        201: {"model": ApprovalBody},
        **failures(400, 404, 409, 413),
    },
)
def submit(project_id: str, caller: AgentOrAdmin, server: ServerDep, body: ApprovalInput) -> Response:
    """Ask for a person's decision. The same request sent twice with the same `id` is one request."""
    own = {"id", "status", "timeout_seconds", "requested_at", "expires_at"}
    request: dict[str, Any] = body.model_dump(mode="json", exclude=own)
    if request["rows"] is None:
        counted = request["counted_rows"]
        request["rows"] = counted if counted is not None else request["estimated_rows"]
    if caller.agent_name is not None and request["agent"] is None:
        request["agent"] = caller.agent_name
    with server.database.write() as session:
        approval, is_new = approvals.submit(
            session,
            project_id,
            request,
            approval_id=body.id,
            agent_id=caller.agent_id,
            waits=body.waits(),
            actor=caller.actor,
        )
    return JSONResponse(approvals.wire(approval), 201 if is_new else 200)


@router.get(
    "/v1/projects/{project_id}/approvals",
    operation_id="listApprovals",
    responses={200: {"model": ApprovalList}, **failures(400, 404)},
)
def index(
    project_id: str,
    caller: ReaderOrAgent,
    server: ServerDep,
    status: Annotated[Status | None, Query(description="Only those with this status.")] = None,
    page_size: PageSize = 20,
    page_token: PageToken = None,
) -> Response:
    """The project's requests, newest first, a page at a time; to an agent its own."""
    with server.database.read() as session:
        rows = approvals.page(session, project_id, page_size + 1, after(page_token), status, caller.agent_id)
    return JSONResponse(listed("approvals", rows, page_size, approvals.wire, lambda each: each.id))


@router.get(
    "/v1/projects/{project_id}/approvals/{approval_id}",
    operation_id="getApproval",
    responses={200: {"model": ApprovalBody}, **failures(404)},
)
def read(project_id: str, approval_id: str, caller: ReaderOrAgent, server: ServerDep) -> Response:
    """One request and what became of it."""
    with server.database.read() as session:
        found = approvals.find(session, project_id, approval_id, caller.agent_id)
    return JSONResponse(approvals.wire(found))


@router.post(
    "/v1/projects/{project_id}/approvals/{approval_id}/approve",
    operation_id="approveApproval",
    responses={200: {"model": ApprovalBody}, **failures(400, 404, 409, 413)},
)
def approve(
    project_id: str,
    approval_id: str,
    caller: Approver,
    server: ServerDep,
    body: ApprovalDecision | None = None,
) -> Response:
    """Let the statement run. 409: somebody decided already, or its time is over."""
    return JSONResponse(decide(server, caller, approval_id, "approved", body.reason if body else None))


@router.post(
    "/v1/projects/{project_id}/approvals/{approval_id}/reject",
    operation_id="rejectApproval",
    responses={200: {"model": ApprovalBody}, **failures(400, 404, 409, 413)},
)
def reject(
    project_id: str,
    approval_id: str,
    caller: Approver,
    server: ServerDep,
    body: ApprovalDecision | None = None,
) -> Response:
    """Refuse the statement. 409: somebody decided already, or its time is over."""
    return JSONResponse(decide(server, caller, approval_id, "rejected", body.reason if body else None))


def decide(
    server: Server, caller: Principal, approval_id: str, status: str, reason: str | None
) -> dict[str, Any]:
    """Decide a request once. Raises NotFound, Conflict, and Forbidden to an agent."""
    if caller.agent_id is not None:
        raise Forbidden("an agent cannot decide about its own statements")
    with server.database.write() as session:
        approval = approvals.find(session, caller.project_id, approval_id)
        in_time = approvals.decide(session, approval, status, reason=reason, actor=caller.actor)
    if not in_time:
        raise Conflict(f"approval {approval_id} has expired", "already_decided")
    return approvals.wire(approval)


@router.patch(
    "/v1/projects/{project_id}/approvals/{approval_id}",
    operation_id="reportApproval",
    responses={200: {"model": ApprovalBody}, **failures(400, 404, 409, 413)},
)
def report(
    project_id: str, approval_id: str, caller: AgentOrAdmin, server: ServerDep, body: ApprovalReport
) -> Response:
    """What became of an approved statement: `executed` or `failed`. `expired`: the session gave up waiting."""
    outcome = body.model_dump(mode="json", exclude={"status"}, exclude_none=True)
    with server.database.write() as session:
        approval = approvals.find(session, project_id, approval_id, caller.agent_id)
        approvals.report(session, approval, body.status, outcome, actor=caller.actor)
    return JSONResponse(approvals.wire(approval))
