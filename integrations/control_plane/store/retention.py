"""How long things are kept that only grow."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from ..identifiers import first_id
from .columns import now
from .tables import Delivery, Event, LoggedDecision, Session as Browser

#: Events: as long as a stream may be away and still hear of all of them.
EVENTS = timedelta(days=3)
#: What sessions reported, and deliveries that are done or given up.
REPORTS = timedelta(days=30)


def prune(session: Session) -> None:
    """Forget what is too old. Profiles, their versions, approvals and the audit chain are kept for good."""
    moment = now()
    # The newest stays: SQLite would give its number, and all that streams know, to the next one again.
    newest = select(func.max(Event.seq)).scalar_subquery()
    session.execute(delete(Event).where(Event.at < moment - EVENTS, Event.seq < newest))
    session.execute(delete(LoggedDecision).where(LoggedDecision.at < moment - REPORTS))
    # One that was given up says only by its identifier how old it is.
    old = (Delivery.delivered_at < moment - REPORTS) | (
        Delivery.delivered_at.is_(None) & (Delivery.id < first_id("dlv", moment - REPORTS))
    )
    session.execute(delete(Delivery).where(Delivery.next_at.is_(None), old))
    session.execute(delete(Browser).where(Browser.expires_at < moment))
