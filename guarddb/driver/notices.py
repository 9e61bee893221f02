"""Warnings and notices of guarddb's own, as if the server had sent them."""

from __future__ import annotations

import logging
from typing import Any

from psycopg import errors as e
from psycopg.pq import DiagnosticField as Field

psycopg_logger = logging.getLogger("psycopg")


def notify(conn: Any, message: str, hint: str) -> None:
    """A warning to the connection's notice handlers, as if the server had sent it."""
    _tell(conn, b"WARNING", b"01000", message, hint)


def notice(conn: Any, message: str) -> None:
    """A notice to the connection's notice handlers, as if the server had sent it."""
    _tell(conn, b"NOTICE", b"00000", message, None)


def _tell(conn: Any, severity: bytes, sqlstate: bytes, message: str, hint: str | None) -> None:
    handlers = conn._notice_handlers
    if not handlers:
        return
    encoding = conn.pgconn._encoding
    fields = {
        Field.SEVERITY: severity,
        Field.SEVERITY_NONLOCALIZED: severity,
        Field.SQLSTATE: sqlstate,
        Field.MESSAGE_PRIMARY: message.encode(encoding, "replace"),
    }
    if hint is not None:
        fields[Field.MESSAGE_HINT] = hint.encode(encoding, "replace")
    diagnostic = e.Diagnostic(fields, encoding)  # type: ignore[arg-type]
    for handler in list(handlers):
        try:
            handler(diagnostic)
        except Exception as ex:
            # As psycopg does with the server's own notices.
            psycopg_logger.exception("error processing notice callback '%s': %s", handler, ex)
