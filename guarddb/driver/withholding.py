"""What reaches the application beside rows, under `content_scan_mode`: errors, notices, NOTIFY payloads."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psycopg import Notify, errors as e
from psycopg.pq import DiagnosticField as Field

from guarddb.content.scan import is_plain, scan

if TYPE_CHECKING:
    from guarddb.driver.session import Session

logger = logging.getLogger("guarddb.content")

WITHHELD: Final = (
    "this text was withheld: it holds what a person does not see and a model reads (content_scan_mode)"
)

#: What is no text of anybody's: how bad it is, which error, and where in the server's source and in the statement.
_KEPT: Final = frozenset(
    (
        Field.SEVERITY,
        Field.SEVERITY_NONLOCALIZED,
        Field.SQLSTATE,
        Field.STATEMENT_POSITION,
        Field.INTERNAL_POSITION,
        Field.SOURCE_FILE,
        Field.SOURCE_LINE,
        Field.SOURCE_FUNCTION,
    )
)


class Payload(NamedTuple):
    """As much of a PGnotify as psycopg reads."""

    relname: bytes
    be_pid: int
    extra: bytes


def scans(session: Session) -> bool:
    """Whether the profile in force wants texts scanned."""
    policy = session.in_force
    return policy is not None and policy.scans


def is_withheld(session: Session, texts: Iterable[str]) -> bool:
    """Scan texts; True when one of them holds what the profile blocks. What is found otherwise is logged."""
    policy = session.in_force
    if policy is None:
        return False
    profile = policy.profile
    blocked = False
    for text in texts:
        extra = profile.guarddb.content_scan_extra
        if not extra and is_plain(text):
            continue
        for finding in scan(text, extra):
            logger.warning("content_scan: a message of the server's holds %s", finding.detail)
            blocked = blocked or finding.severity == "block"
    return blocked and profile.content_scan_mode == "block" and not policy.observe


def without_hidden(session: Session, diagnostic: e.Diagnostic) -> dict[int, bytes | None] | None:
    """The fields of a server message without its texts, when the profile blocks one of them; None otherwise."""
    encoding = diagnostic._encoding
    fields: dict[int, str] = {
        field: value for field in Field if (value := diagnostic._error_message(field)) is not None
    }
    if not is_withheld(session, fields.values()):
        return None
    kept: dict[int, bytes | None] = {
        field: value.encode(encoding, "replace") for field, value in fields.items() if field in _KEPT
    }
    kept[Field.MESSAGE_PRIMARY] = WITHHELD.encode()
    return kept


def notification(session: Session, notify: Notify) -> Notify:
    """A notification as the application may see it."""
    if not scans(session) or not is_withheld(session, (notify.channel, notify.payload)):
        return notify
    channel = notify.channel if not is_withheld(session, (notify.channel,)) else "(withheld)"
    return Notify(channel, WITHHELD, notify.pid)


def raw_notification(session: Session, notify: Any, encoding: str) -> Any:
    """The same for libpq's own form of it."""
    if not scans(session):
        return notify
    channel, payload = notify.relname.decode(encoding, "replace"), notify.extra.decode(encoding, "replace")
    if not is_withheld(session, (channel, payload)):
        return notify
    return Payload(
        b"(withheld)" if is_withheld(session, (channel,)) else notify.relname,
        notify.be_pid,
        WITHHELD.encode(),
    )
