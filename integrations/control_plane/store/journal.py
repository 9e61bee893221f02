"""What every change leaves behind: an entry in the audit chain, and an event for those who listen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from . import webhooks
from .columns import now, rfc3339
from .tables import AuditEntry, Event

#: What the first entry of a project has for the digest before it.
GENESIS = "0" * 64


def record(
    session: Session,
    project_id: str,
    actor: str,
    action: str,
    object_id: str,
    detail: dict[str, Any] | None = None,
) -> None:
    """Add an entry to the project's audit chain. Call it in a transaction that writes: those are one at a time."""
    previous = session.scalar(
        select(AuditEntry.digest)
        .where(AuditEntry.project_id == project_id)
        .order_by(AuditEntry.seq.desc())
        .limit(1)
    )
    entry = AuditEntry(
        project_id=project_id,
        at=now(),
        actor=actor,
        action=action,
        object_id=object_id,
        detail=detail or {},
        previous=previous or GENESIS,
    )
    entry.digest = digest_of(entry)
    session.add(entry)
    session.flush()


def digest_of(entry: AuditEntry) -> str:
    """SHA-256 over the entry and the digest before it."""
    content = [
        entry.previous,
        entry.project_id,
        rfc3339(entry.at),
        entry.actor,
        entry.action,
        entry.object_id,
        entry.detail,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def broken_at(session: Session, project_id: str) -> int | None:
    """The number of the first entry that was changed, or that follows one which is gone; None: the chain holds."""
    previous = GENESIS
    for entry in entries(session, project_id):
        if entry.previous != previous or entry.digest != digest_of(entry):
            return entry.seq
        previous = entry.digest
    return None


def entries(session: Session, project_id: str) -> Iterator[AuditEntry]:
    """The project's entries, oldest first."""
    seq = 0
    query = select(AuditEntry).where(AuditEntry.project_id == project_id).order_by(AuditEntry.seq).limit(500)
    while found := session.scalars(query.where(AuditEntry.seq > seq)).all():
        yield from found
        seq = found[-1].seq


def announce(session: Session, project_id: str, topic: str, kind: str, data: dict[str, Any]) -> None:
    """Tell the event streams and the webhooks, once the transaction is committed."""
    event = Event(project_id=project_id, topic=topic, kind=kind, data=data, at=now())
    session.add(event)
    webhooks.enqueue(session, event)
