"""What reaches the application beside rows: notices, and the server's last message. Row data is cut out of both."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast
from weakref import ReferenceType, ref

from psycopg import ConnectionInfo, Notify, errors as e
from psycopg._connection_base import BaseConnection
from psycopg.pq import DiagnosticField as Field

from guarddb.driver.announced import CHANNEL
from guarddb.driver.counting import has_room_for
from guarddb.driver.faults import cleaned, message_of_the_connection, without_room
from guarddb.driver.withholding import Payload, notification, raw_notification, scans, without_hidden

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

    from guarddb.driver.session import Session


_NO_ROOM = "this text was withheld: the budget of bytes has no room for it (egress_bytes_per_day)"


class GuardedInfo(ConnectionInfo):
    """psycopg's, but for the server's last message, which may quote rows."""

    def __init__(self, pgconn: PGconn, session: Session) -> None:
        super().__init__(pgconn)
        self._session = session

    @property
    def error_message(self) -> str:
        """The message of the last error, as the exception said it."""
        message, lost = super().error_message, self._session.lost_message
        if not message and lost is not None and lost[0] is self._session.last:
            message = lost[1].decode(self._session.encoding, "replace")
        return message_of_the_connection(self._session, message)


def handle_notices(conn: Any) -> None:
    """Take the place of psycopg's handlers of notices and notifications."""
    conn.pgconn.notice_handler = partial(_on_notice, ref(conn))
    conn.pgconn.notify_handler = partial(_on_notify, ref(conn))


def _on_notice(wself: ReferenceType[Any], result: PGresult) -> None:
    conn = wself()
    if conn is None or not conn._notice_handlers:
        return
    session: Session = conn._guard
    if _of_the_server_itself(session, result) or _counts_rows(session):
        return
    if session.sensitive and not session.observe:
        diagnostic = e.Diagnostic(result, conn.pgconn._encoding)
        if (fields := cleaned(session, diagnostic)) is not None:
            result = cast("PGresult", _Notice(fields))
    elif (fields := without_room(session, e.Diagnostic(result, conn.pgconn._encoding))) is not None:
        result = cast("PGresult", _Notice(fields))
    if scans(session):
        diagnostic = e.Diagnostic(result, conn.pgconn._encoding)
        if (fields := without_hidden(session, diagnostic)) is not None:
            result = cast("PGresult", _Notice(fields))
    BaseConnection._notice_handler(wself, result)


def _of_the_server_itself(session: Session, result: PGresult) -> bool:
    """What the server says for its developers and its log, while a policy hides rows or values: how many rows ANALYZE has met,
    how much memory a sort took (trace_sort). `client_min_messages` lets whoever sets it read along."""
    policy = session.in_force
    if policy is None or session.observe or policy.compiled.policy.hides.isdisjoint(("filter", "mask")):
        return False
    severity = result.error_field(Field.SEVERITY_NONLOCALIZED) or b""
    return severity == b"LOG" or severity.startswith(b"DEBUG")


def _counts_rows(session: Session) -> bool:
    """Whether a notice may say how often something ran while a filtered relation was read.

    A condition that takes no column of a row may run before its filter, and `to_tsquery('the')` or a function of the user's then
    says something for each hidden row.
    """
    policy = session.in_force
    return (
        session.sensitive
        and session.sensitive_now
        and policy is not None
        and not session.observe
        and "filter" in policy.compiled.policy.hides
    )


def _on_notify(wself: ReferenceType[Any], notify: Any) -> None:
    conn = wself()
    if conn is not None:
        if notify.relname == CHANNEL and conn._guard.freshness.hears:
            conn._guard.freshness.told()
            return
        # (Without handlers psycopg keeps it for notifies(), where it is counted.)
        if conn._notify_handlers and not has_room_for(conn._guard, len(notify.extra)):
            notify = Payload(notify.relname, notify.be_pid, _NO_ROOM.encode())
        notify = raw_notification(conn._guard, notify, conn.pgconn._encoding)
    BaseConnection._notify_handler(wself, notify)


def heard(session: Session, notify: Notify) -> Notify:
    """A notification that notifies() hands out, counted."""
    if not has_room_for(session, len(notify.payload.encode())):
        return Notify(notify.channel, _NO_ROOM, notify.pid)
    return notification(session, notify)


class _Notice:
    """As much of a PGresult as psycopg's Diagnostic reads."""

    def __init__(self, fields: dict[int, bytes | None]) -> None:
        self._fields = fields

    def error_field(self, field: int) -> bytes | None:
        return self._fields.get(field)
