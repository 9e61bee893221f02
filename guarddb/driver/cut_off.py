"""What runs when a control plane switches the agent off: cancelled, if the profile says so.

The next statement is refused in any case (`Session.follow`). This is about the one that was on its way, or that runs for
hours.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

if TYPE_CHECKING:
    from guarddb.driver.session import Session

logger = logging.getLogger("guarddb")

#: Seconds before each attempt. A statement that was judged a moment before the denial reaches the server a moment after it.
_ATTEMPTS = (0.0, 0.2, 1.0)
#: Seconds that the server may take to answer a request to cancel.
_TIMEOUT = 5.0


async def cancel_running(conn: psycopg.BaseConnection[Any], session: Session) -> None:
    """Cancel what runs on a connection whose policy is denied. Runs in the background, beside the thread that waits for it."""
    for pause in _ATTEMPTS:
        await asyncio.sleep(pause)
        policy = session.in_force
        if policy is None or policy.observe or not policy.profile.guarddb.cancel_running:
            return
        if conn.closed or conn.pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
            continue
        logger.warning("policy %r: a statement that was running is cancelled", policy.name)
        try:
            if isinstance(conn, psycopg.AsyncConnection):
                await conn.cancel_safe(timeout=_TIMEOUT)
            elif isinstance(conn, psycopg.Connection):
                await asyncio.to_thread(conn.cancel_safe, timeout=_TIMEOUT)
        except psycopg.Error as ex:
            logger.error(
                "policy %r: the statement could not be cancelled: %s", policy.name, type(ex).__name__
            )
