"""Approvals: submitted by an agent, decided once by somebody else, expired by this server's clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from ..errors import Conflict, NotFound
from ..identifiers import new_id
from . import rows
from .columns import now, rfc3339
from .journal import announce, record
from .tables import Approval

STATUSES = ("pending", "approved", "rejected", "expired", "executed", "failed")


def is_late(approval: Approval) -> bool:
    """Whether nobody decided in time, written down already or not."""
    expires = approval.expires_at
    return approval.status == "pending" and expires is not None and expires <= now()


def wire(approval: Approval) -> dict[str, Any]:
    """The request as the API shows it. One whose time is over is shown as expired, even before that is written."""
    status = approval.status
    if is_late(approval):
        status = "expired"
    return {
        "id": approval.id,
        "project_id": approval.project_id,
        "agent_id": approval.agent_id,
        **approval.request,
        "status": status,
        "requested_at": rfc3339(approval.requested_at),
        "expires_at": rfc3339(approval.expires_at) if approval.expires_at else None,
        "decided_at": rfc3339(approval.decided_at) if approval.decided_at else None,
        "decided_by": approval.decided_by,
        "reason": approval.reason,
        "outcome": approval.outcome,
    }


def find(session: Session, project_id: str, approval_id: str, agent_id: str | None = None) -> Approval:
    """The project's request with that identifier; with `agent_id`, only if it is that agent's. Raises NotFound."""
    approval = rows.find(session, Approval, "apr", "approval", project_id, approval_id)
    if agent_id not in (None, approval.agent_id):
        raise NotFound(f"there is no approval {approval_id!r} in this project")
    return approval


def page(
    session: Session,
    project_id: str,
    size: int,
    after: str | None,
    status: str | None = None,
    agent_id: str | None = None,
) -> Sequence[Approval]:
    """Up to `size` requests, newest first, those older than the one with the identifier `after`."""
    query = select(Approval).where(Approval.project_id == project_id)
    if status == "pending":
        in_time = Approval.expires_at.is_(None) | (Approval.expires_at > now())
        query = query.where(Approval.status == status, in_time)
    elif status == "expired":
        late = (Approval.status == "pending") & (Approval.expires_at <= now())
        query = query.where((Approval.status == status) | late)
    elif status is not None:
        query = query.where(Approval.status == status)
    if agent_id is not None:
        query = query.where(Approval.agent_id == agent_id)
    return rows.page(session, query, Approval.id, size, after, newest_first=True)


def submit(
    session: Session,
    project_id: str,
    request: dict[str, Any],
    *,
    approval_id: str | None,
    agent_id: str | None,
    waits: timedelta | None,
    actor: str,
) -> tuple[Approval, bool]:
    """A new request, and True; or the one with the same identifier and content, and False.

    Raises:
        Conflict: there is another request with that identifier.
    """
    if approval_id is not None and (known := session.get(Approval, approval_id)) is not None:
        if (known.project_id, known.agent_id, known.request) == (project_id, agent_id, request):
            return known, False
        raise Conflict(f"there is another request with the identifier {approval_id}")
    moment = now()
    approval = Approval(
        id=approval_id or new_id("apr"),
        project_id=project_id,
        agent_id=agent_id,
        status="pending",
        request=request,
        requested_at=moment,
        expires_at=moment + waits if waits is not None else None,
    )
    session.add(approval)
    session.flush()
    record(session, project_id, actor, "approval.request", approval.id, {"kind": request.get("kind")})
    _announce(session, approval, "approval_requested")
    return approval, True


def decide(session: Session, approval: Approval, status: str, *, reason: str | None, actor: str) -> bool:
    """Approve or reject; False: its time was over, which is written down instead.

    Raises:
        Conflict: it was decided already.
    """
    if is_late(approval):
        expire(session, approval)
        return False
    # Asked and set in one statement: two people who decide at the same moment cannot both be first.
    changed = session.execute(
        update(Approval)
        .where(Approval.id == approval.id, Approval.status == "pending")
        .values(status=status, decided_at=now(), decided_by=actor, reason=reason)
        .returning(Approval.id)
    ).first()
    if changed is None:
        session.refresh(approval)
        raise Conflict(f"approval {approval.id} is {approval.status} already", "already_decided")
    session.refresh(approval)
    record(session, approval.project_id, actor, f"approval.{status}", approval.id, {"reason": reason})
    _announce(session, approval, "approval_decided")
    return True


def expire(session: Session, approval: Approval) -> None:
    """Write down that nobody decided in time."""
    approval.status = "expired"
    approval.decided_at = approval.expires_at
    session.flush()
    record(session, approval.project_id, "server", "approval.expired", approval.id)
    _announce(session, approval, "approval_decided")


def expire_all(session: Session) -> int:
    """The same for all whose time is over; how many that were."""
    late = select(Approval).where(Approval.status == "pending", Approval.expires_at <= now()).limit(500)
    found = session.scalars(late).all()
    for approval in found:
        expire(session, approval)
    return len(found)


def report(session: Session, approval: Approval, status: str, outcome: dict[str, Any], *, actor: str) -> None:
    """What became of an approved statement: executed or failed; or that a session no longer waits (expired)."""
    before = "pending" if status == "expired" else "approved"
    if approval.status == status:
        return
    if approval.status != before:
        raise Conflict(
            f"approval {approval.id} is {approval.status}; only a {before} one can become {status}"
        )
    approval.status = status
    approval.outcome = outcome
    session.flush()
    record(session, approval.project_id, actor, f"approval.{status}", approval.id, outcome)
    _announce(session, approval, f"approval_{status}" if status != "expired" else "approval_decided")


def _announce(session: Session, approval: Approval, kind: str) -> None:
    data = {"approval_id": approval.id, "agent_id": approval.agent_id, "status": approval.status}
    announce(session, approval.project_id, approval.id, kind, data)
