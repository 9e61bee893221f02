"""How long things are kept that only grow."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete
from sqlalchemy.orm import Session

from .columns import now
from .tables import Delivery, Event, LoggedDecision, Session as Browser

#: Events: as long as a stream may be away and still hear of all of them.
EVENTS = timedelta(days=3)
#: What sessions reported, and deliveries that are done or given up.
REPORTS = timedelta(days=30)


def prune(session: Session) -> None:
    """Forget what is too old. Profiles, their versions, approvals and the audit chain are kept for good."""
    moment = now()
    session.execute(delete(Event).where(Event.at < moment - EVENTS))
    session.execute(delete(LoggedDecision).where(LoggedDecision.at < moment - REPORTS))
    done = Delivery.next_at.is_(None) & (Delivery.delivered_at < moment - REPORTS)
    session.execute(delete(Delivery).where(done))
    session.execute(delete(Browser).where(Browser.expires_at < moment))
