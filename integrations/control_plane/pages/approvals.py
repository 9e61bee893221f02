"""The queue of statements that wait for a person."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from ..api.access import ServerDep
from ..api.approvals import decide
from ..api.streams import stream_of
from ..store import agents, approvals
from .rendering import page
from .session import AnyVisitor, ApproverForm, Form

router = APIRouter(prefix="/ui", include_in_schema=False)


@router.get("/approvals")
def index(who: AnyVisitor, server: ServerDep, part: str = "") -> Response:
    """What waits, and what was decided last. `part=queue`: only the piece that changes."""
    project = who.principal.project_id
    with server.database.read() as session:
        waiting = approvals.page(session, project, 100, None, "pending")
        recent = approvals.page(session, project, 50, None)
        names = agents.names(session, project)
    return page(
        "queue.html" if part == "queue" else "approvals.html",
        who,
        names=names,
        waiting=[approvals.wire(each) for each in reversed(waiting)],
        decided=[wire for each in recent if (wire := approvals.wire(each))["status"] != "pending"],
    )


@router.post("/approvals/{approval_id}")
def answer(approval_id: str, who: ApproverForm, server: ServerDep, form: Form) -> Response:
    """Approve or reject, by the button that was pressed."""
    status = "approved" if form.get("decision") == "approve" else "rejected"
    reason = str(form.get("reason", "")).strip()[:2_000] or None
    decide(server, who.principal, approval_id, status, reason)
    return RedirectResponse("/ui/approvals", 303)


@router.get("/events")
def events(who: AnyVisitor, server: ServerDep) -> StreamingResponse:
    """What happens in the project, for pages that are open."""
    return stream_of(server, who.principal, lambda _: True, None)
