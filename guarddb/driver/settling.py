"""What async cursors hand out, told to a budget store that an event loop must not wait for.

Rows are loaded without waiting, so what they hold is added up by the connection. As soon as it is worth the way, the store is
asked in a thread whether it fits, before the rows reach the caller: several connections at once hand out no more than one alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from guarddb.driver import counting
from guarddb.driver.cursor import CursorMixin
from guarddb.errors import BudgetExceeded, PolicyUnavailable, PolicyViolation

if TYPE_CHECKING:
    from guarddb.driver.session import Session

#: Bytes that a connection may have handed out without the store's knowing.
UNTOLD: Final = 4_096


async def told(cursor: Any, fetch: Awaitable[Any]) -> Any:
    """What is fetched of a cursor, after the store was told where that is due. A refusal is in the decision log first."""
    session: Session = cursor._guard
    owed = session.owed
    try:
        rows = await fetch
    except (PolicyViolation, BudgetExceeded):
        if session.recorder is not None:
            await session.recorder.written()
        raise
    policy = session.in_force
    if session.owed > UNTOLD and policy is not None and policy.counted_elsewhere:
        await asyncio.to_thread(counting.settle, session, cursor._guard_results(), owed)
    return rows


class SettlingMixin(CursorMixin):
    """The fetch methods of an async cursor."""

    __slots__ = ()

    async def fetchone(self) -> Any:
        """As psycopg's."""
        return await self._guard_told(super().fetchone())  # type: ignore[misc]

    async def fetchmany(self, size: int = 0) -> Any:
        """As psycopg's."""
        return await self._guard_told(super().fetchmany(size))  # type: ignore[misc]

    async def fetchall(self) -> Any:
        """As psycopg's."""
        return await self._guard_told(super().fetchall())  # type: ignore[misc]

    def __anext__(self) -> Coroutine[Any, Any, Any]:
        following: Coroutine[Any, Any, Any] = super().__anext__()  # type: ignore[misc]
        policy = self._guard.in_force
        # (Not a coroutine around psycopg's where nobody is told: there is one for each row.)
        return following if policy is not None and not policy.asks else self._guard_told(following)

    async def _guard_told(self, fetch: Awaitable[Any]) -> Any:
        position = self._pos
        try:
            return await told(self, fetch)
        except (BudgetExceeded, PolicyUnavailable):
            self._pos = position  # nothing of it was handed out
            raise
