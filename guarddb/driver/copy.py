"""COPY: its rows pass by the transformer: masks and filters are in its statement; the meter and its end are here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from psycopg import AsyncCopy, Copy
from psycopg._copy_base import BaseCopy
from psycopg.errors import QueryCanceled

from guarddb.driver import steps
from guarddb.driver.cursor import CursorMixin

if TYPE_CHECKING:
    from psycopg.abc import Buffer, Params, PQGen, Query


def _read_gen(copy: BaseCopy[Any]) -> PQGen[Buffer]:
    data = yield from BaseCopy._read_gen(copy)
    if data:
        if (policy := copy.cursor._conn._guard.in_force) is not None and policy.egress:
            steps.count_bytes(copy.cursor._conn._guard, len(data))
        steps.inspect_copied(copy.cursor, bytes(data))
    return data


def _end_copy_out_gen(copy: BaseCopy[Any]) -> PQGen[None]:
    # What is only drained on the way out was not handed out.
    with suppress(QueryCanceled):
        while (yield from BaseCopy._read_gen(copy)):
            pass


# A Copy is made inside of psycopg's `copy()`, so an existing one must become a guarded one. That takes the
# same layout, and since Copy has a __dict__, a single base.


class GuardedCopy(Copy):
    """psycopg's Copy, metered, and told about its end."""

    _read_gen = _read_gen
    _end_copy_out_gen = _end_copy_out_gen

    def finish(self, exc: BaseException | None) -> None:
        """As psycopg's."""
        cursor: Any = self.cursor
        results = cursor._guard_results()  # psycopg will put a plain list in its place
        try:
            super().finish(exc)
        except BaseException as ex:
            self.connection.wait(steps.copy_ends_gen(cursor, results, ex))
            raise
        self.connection.wait(steps.copy_ends_gen(cursor, results, exc))


class GuardedAsyncCopy(AsyncCopy):
    """psycopg's AsyncCopy, metered, and told about its end."""

    _read_gen = _read_gen
    _end_copy_out_gen = _end_copy_out_gen

    async def finish(self, exc: BaseException | None) -> None:
        """As psycopg's."""
        cursor: Any = self.cursor
        results = cursor._guard_results()  # psycopg will put a plain list in its place
        try:
            await super().finish(exc)
        except BaseException as ex:
            await self.connection.wait(steps.copy_ends_gen(cursor, results, ex))
            raise
        await self.connection.wait(steps.copy_ends_gen(cursor, results, exc))


GUARDED: dict[type[Any], type[Any]] = {Copy: GuardedCopy, AsyncCopy: GuardedAsyncCopy}


class SyncCursorMixin(CursorMixin):
    """What only a sync cursor has."""

    __slots__ = ()

    @contextmanager
    def copy(self, statement: Query, params: Params | None = None, **options: Any) -> Iterator[Copy]:
        """As psycopg's; what is copied out counts against the egress budget."""
        self._guard.copy_ends = True
        with super().copy(statement, params, **options) as copy:  # type: ignore[misc]
            if type(copy) is Copy:
                copy.__class__ = GuardedCopy
            yield copy


class AsyncCursorMixin(CursorMixin):
    """What only an async cursor has."""

    __slots__ = ()

    @asynccontextmanager
    async def copy(
        self, statement: Query, params: Params | None = None, **options: Any
    ) -> AsyncIterator[AsyncCopy]:
        """As psycopg's; what is copied out counts against the egress budget."""
        self._guard.copy_ends = True
        async with super().copy(statement, params, **options) as copy:  # type: ignore[misc]
            if type(copy) is AsyncCopy:
                copy.__class__ = GuardedAsyncCopy
            yield copy
