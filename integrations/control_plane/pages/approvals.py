"""The queue of statements that wait for a person."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from ..api.access import ServerDep
from ..api.approvals import decide
from ..api.streams import stream_of
from ..store import agents, approvals
from ..store.tables import Approval
from .rendering import page
from .session import AnyVisitor, ApproverForm, Form

#: Characters of one request that are shown (as JSON; a statement that a session judges has 100,000), and of all on the page.
_REQUEST_CHARACTERS = 400_000
_PAGE_CHARACTERS = 1_000_000

router = APIRouter(prefix="/ui", include_in_schema=False)


@router.get("/approvals")
def index(who: AnyVisitor, server: ServerDep, part: str = "", request: str = "") -> Response:
    """What waits, and what was decided last. `part=queue`: only the piece that changes; `request`: only that one waits."""
    project = who.principal.project_id
    with server.database.read() as session:
        if request:
            waiting = [approvals.find(session, project, request)]
        else:
            waiting = list(reversed(approvals.page(session, project, 100, None, "pending")))
        recent = approvals.page(session, project, 50, None)
        names = agents.names(session, project)
    shown = [approvals.wire(each) for each in waiting]
    return page(
        "queue.html" if part == "queue" else "approvals.html",
        who,
        names=names,
        waiting=[each for each in shown if each["status"] == "pending"],
        brief=_brief(waiting),
        alone=bool(request),
        decided=[wire for each in recent if (wire := approvals.wire(each))["status"] != "pending"],
    )


def _brief(waiting: Sequence[Approval]) -> dict[str, int]:
    """The sizes of those that are not shown in whole: whoever sends long ones must not keep others from being decided."""
    found, left = {}, _PAGE_CHARACTERS
    for each in waiting:
        size = len(json.dumps(each.request))
        if size > min(left, _REQUEST_CHARACTERS):
            found[each.id] = size
        else:
            left -= size
    return found


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
