"""Webhooks and what is on its way to them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ..identifiers import new_id
from . import rows
from .columns import now, rfc3339
from .tables import Delivery, Event, Webhook

#: The events that a webhook may ask for, by the kinds of the event streams that they are made of.
EVENTS = {
    "approval_requested": "approval_requested",
    "approval_decided": "decided",
    "policy_updated": "policy_updated",
    "agent_disabled": "agent_disabled",
}
NAMES = tuple(EVENTS.values())
#: Seconds before each further attempt; then it is given up.
BACKOFF = (5, 30, 120, 600, 1800, 3600, 7200)


def wire(webhook: Webhook) -> dict[str, Any]:
    """The webhook as the API shows it, without its secret."""
    return {
        "id": webhook.id,
        "project_id": webhook.project_id,
        "url": webhook.url,
        "events": webhook.events,
        "format": webhook.format,
        "created_at": rfc3339(webhook.created_at),
    }


def create(session: Session, project_id: str, url: str, events: Sequence[str], format: str) -> Webhook:
    """A new webhook with its secret, which is shown once."""
    webhook = Webhook(
        id=new_id("whk"),
        project_id=project_id,
        url=url,
        events=list(events) or list(NAMES),
        format=format,
        secret=f"whs_{secrets.token_urlsafe(32)}",
        created_at=now(),
    )
    session.add(webhook)
    session.flush()
    return webhook


def find(session: Session, project_id: str, webhook_id: str) -> Webhook:
    """The project's webhook with that identifier. Raises NotFound."""
    return rows.find(session, Webhook, "whk", "webhook", project_id, webhook_id)


def of_project(session: Session, project_id: str) -> Sequence[Webhook]:
    """The project's webhooks, oldest first."""
    return session.scalars(select(Webhook).where(Webhook.project_id == project_id).order_by(Webhook.id)).all()


def enqueue(session: Session, event: Event) -> None:
    """A delivery of an event to each webhook that asked for it. Part of the transaction that made the event."""
    name = EVENTS.get(event.kind)
    if name is None:
        return
    for webhook in of_project(session, event.project_id):
        if name in webhook.events:
            session.add(
                Delivery(
                    id=new_id("dlv"),
                    webhook_id=webhook.id,
                    event=name,
                    payload={
                        "event": name,
                        "at": rfc3339(event.at),
                        "project_id": event.project_id,
                        **event.data,
                    },
                    attempts=0,
                    next_at=now(),
                )
            )


def due(session: Session, limit: int = 50) -> Sequence[Delivery]:
    """Deliveries whose time has come, claimed for a while: another server does not send them as well."""
    query = select(Delivery).where(Delivery.next_at <= now()).order_by(Delivery.next_at).limit(limit)
    found = session.scalars(query.with_for_update(skip_locked=True)).all()
    for delivery in found:
        delivery.next_at = now() + timedelta(seconds=60)
    return found


def any_due(session: Session) -> bool:
    """Whether anything is due: asked often, and without a lock."""
    return session.scalar(select(Delivery.id).where(Delivery.next_at <= now()).limit(1)) is not None


def delivered(session: Session, delivery_id: str, error: str | None) -> None:
    """What became of an attempt: None is a success; otherwise it is tried again later, until it is given up."""
    delivery = session.get(Delivery, delivery_id)
    if delivery is None:  # its webhook was deleted meanwhile
        return
    delivery.attempts += 1
    delivery.error = error
    if error is None:
        delivery.delivered_at = now()
        delivery.next_at = None
    elif delivery.attempts > len(BACKOFF):
        delivery.next_at = None
    else:
        delivery.next_at = now() + timedelta(seconds=BACKOFF[delivery.attempts - 1])


def history(session: Session, webhook: Webhook, limit: int = 50) -> Sequence[Delivery]:
    """The last deliveries to a webhook, newest first."""
    query = select(Delivery).where(Delivery.webhook_id == webhook.id).order_by(Delivery.id.desc())
    return session.scalars(query.limit(limit)).all()
