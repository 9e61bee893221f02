"""Who changed what, and whether the chain of entries is whole."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from sqlalchemy import select

from ..errors import InvalidRequest
from ..store import journal
from ..store.columns import rfc3339
from ..store.tables import AuditEntry
from .access import Admin, ServerDep
from .shapes import PageSize, PageToken, after, failures, listed

router = APIRouter(tags=["audit"])


def _wire(entry: AuditEntry) -> dict[str, Any]:
    return {
        "seq": entry.seq,
        "at": rfc3339(entry.at),
        "actor": entry.actor,
        "action": entry.action,
        "object_id": entry.object_id,
        "detail": entry.detail,
        "previous": entry.previous,
        "digest": entry.digest,
    }


@router.get("/v1/projects/{project_id}/audit", operation_id="listAudit", responses=failures(400, 404))
def index(
    project_id: str, _: Admin, server: ServerDep, page_size: PageSize = 20, page_token: PageToken = None
) -> Response:
    """The project's audit entries, newest first, a page at a time."""
    query = select(AuditEntry).where(AuditEntry.project_id == project_id)
    if (before := after(page_token)) is not None:
        if not before.isdigit() or len(before) > 18:
            raise InvalidRequest("page_token: is not one that this server gave")
        query = query.where(AuditEntry.seq < int(before))
    with server.database.read() as session:
        rows = session.scalars(query.order_by(AuditEntry.seq.desc()).limit(page_size + 1)).all()
    return JSONResponse(listed("entries", rows, page_size, _wire, lambda entry: str(entry.seq)))


@router.get("/v1/projects/{project_id}/audit/check", operation_id="checkAudit", responses=failures(404))
def check(project_id: str, _: Admin, server: ServerDep) -> Response:
    """Whether every entry is as it was written and none is missing before another. `broken_at`: the first one that is not.

    Entries that were cut off at the end are not missed: whoever wants to notice that notes the newest `digest` elsewhere.
    """
    with server.database.read() as session:
        broken = journal.broken_at(session, project_id)
    return JSONResponse({"whole": broken is None, "broken_at": broken})
