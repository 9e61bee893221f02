"""COPY: its rows pass by the transformer: masks and filters are in its statement, the meter is here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from psycopg import AsyncCopy, Copy

from guarddb.driver.cursor import CursorMixin

if TYPE_CHECKING:
    from psycopg.abc import Buffer, Params, PQGen, Query


class _MeteredMixin:
    """Counts what COPY TO STDOUT hands out. Copy objects have no __slots__, so one can become metered."""

    cursor: Any

    def _read_gen(self) -> PQGen[Buffer]:
        data: Buffer = yield from super()._read_gen()  # type: ignore[misc]
        if data:
            self.cursor._conn._guard.charge_bytes(len(data))
        return data

    def _end_copy_out_gen(self) -> PQGen[None]:
        # What is only drained on the way out was not handed out.
        while (yield from super()._read_gen()):  # type: ignore[misc]
            pass


class MeteredCopy(_MeteredMixin, Copy):
    """psycopg's Copy, metered."""


class MeteredAsyncCopy(_MeteredMixin, AsyncCopy):
    """psycopg's AsyncCopy, metered."""


class SyncCursorMixin(CursorMixin):
    """What only a sync cursor has."""

    __slots__ = ()

    @contextmanager
    def copy(self, statement: Query, params: Params | None = None, **options: Any) -> Iterator[Copy]:
        """As psycopg's; what is copied out counts against the egress budget."""
        with super().copy(statement, params, **options) as copy:  # type: ignore[misc]
            if self._guard.egress and type(copy) is Copy:
                copy.__class__ = MeteredCopy
            yield copy


class AsyncCursorMixin(CursorMixin):
    """What only an async cursor has."""

    __slots__ = ()

    @asynccontextmanager
    async def copy(
        self, statement: Query, params: Params | None = None, **options: Any
    ) -> AsyncIterator[AsyncCopy]:
        """As psycopg's; what is copied out counts against the egress budget."""
        async with super().copy(statement, params, **options) as copy:  # type: ignore[misc]
            if self._guard.egress and type(copy) is AsyncCopy:
                copy.__class__ = MeteredAsyncCopy
            yield copy
