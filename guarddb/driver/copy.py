"""COPY: its rows pass by the transformer: masks and filters are in its statement, the meter is here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from psycopg import AsyncCopy, Copy
from psycopg._copy_base import BaseCopy
from psycopg.errors import QueryCanceled

from guarddb.driver.cursor import CursorMixin

if TYPE_CHECKING:
    from psycopg.abc import Buffer, Params, PQGen, Query


def _read_gen(copy: BaseCopy[Any]) -> PQGen[Buffer]:
    data = yield from BaseCopy._read_gen(copy)
    if data:
        copy.cursor._conn._guard.charge_bytes(len(data))
    return data


def _end_copy_out_gen(copy: BaseCopy[Any]) -> PQGen[None]:
    # What is only drained on the way out was not handed out.
    with suppress(QueryCanceled):
        while (yield from BaseCopy._read_gen(copy)):
            pass


# A Copy is made inside of psycopg's `copy()`, so an existing one must become a metered one. That takes the
# same layout, and since Copy has a __dict__, a single base.


class MeteredCopy(Copy):
    """psycopg's Copy, metered."""

    _read_gen = _read_gen
    _end_copy_out_gen = _end_copy_out_gen


class MeteredAsyncCopy(AsyncCopy):
    """psycopg's AsyncCopy, metered."""

    _read_gen = _read_gen
    _end_copy_out_gen = _end_copy_out_gen


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
