"""COPY: its rows pass by the transformer: masks and filters are in its statement; the meter and its end are here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

from psycopg import AsyncCopy, AsyncCursor, Copy, Cursor, pq
from psycopg._copy_base import BaseCopy
from psycopg.errors import Error, ProgrammingError, QueryCanceled, error_from_result
from psycopg.generators import fetch_many

from guarddb.driver import ahead, counting, steps
from guarddb.driver.cursor import CursorMixin
from guarddb.driver.settling import SettlingMixin, told

if TYPE_CHECKING:
    from psycopg.abc import Buffer, Params, PQGen, Query

    from guarddb.driver.session import Session
    from guarddb.driver.views import Results

ACTIVE = pq.TransactionStatus.ACTIVE
COMMAND_OK = pq.ExecStatus.COMMAND_OK
COPY_OUT = pq.ExecStatus.COPY_OUT
#: What psycopg hands out at the end.
NO_DATA = memoryview(b"")


def _count(copy: BaseCopy[Any], data: Buffer) -> None:
    """Count and scan what is about to be handed out."""
    cursor: Any = copy.cursor
    session: Session = cursor._conn._guard
    policy = session.in_force
    if policy is None or policy.egress:
        counting.count_bytes(session, cursor._guard_results(), len(data))
    if policy is None or policy.scans:
        steps.inspect_copied(cursor, bytes(data))


def _read_gen(copy: BaseCopy[Any]) -> PQGen[Buffer]:
    data = yield from BaseCopy._read_gen(copy)
    if data:
        _count(copy, data)
    return data


def _end_gen(copy: BaseCopy[Any]) -> PQGen[Buffer]:
    """The server has sent the last row: what psycopg does then."""
    results = yield from fetch_many(copy._pgconn)
    if len(results) > 1:
        raise ProgrammingError("you cannot mix COPY with other operations")
    if (result := results[0]).status != COMMAND_OK:
        raise error_from_result(result, encoding=copy._pgconn._encoding)
    copy._finished = True
    rows = result.command_tuples
    copy.cursor._rowcount = -1 if rows is None else rows
    return NO_DATA


def _end_copy_out_gen(copy: BaseCopy[Any]) -> PQGen[None]:
    # What is only drained on the way out was not handed out.
    with suppress(QueryCanceled):
        while (yield from BaseCopy._read_gen(copy)):
            pass


def _has_more(copy: Any, results: Results) -> bool:
    """Whether it was left before its end and is one of those whose end something has to come after: it is read to the end then.

    (psycopg leaves the connection busy.)
    """
    if results.undo is None or copy.connection.pgconn.transaction_status != ACTIVE:
        return False
    result = copy.cursor.pgresult
    return result is not None and result.status == COPY_OUT


# A Copy is made inside of psycopg's `copy()`, so an existing one must become a guarded one. That takes the
# same layout, and since Copy has a __dict__, a single base.
#
# The connection's wait() looks into each generator, and there is one for each row. Those of a guarded Copy are known, so they go
# to psycopg's own; and rows that have arrived already need none.


class GuardedCopy(Copy):
    """psycopg's Copy, told about its end."""

    _guard_metered = False

    def read(self) -> Buffer:
        """As psycopg's."""
        conn: Any = self.connection
        if self._finished:
            return NO_DATA
        try:
            size, arrived = self._pgconn.get_copy_data(1)
            if size > 0:
                if self._guard_metered:
                    _count(self, arrived)
                return arrived
            data: Buffer = conn._psycopgs_wait(_end_gen(self) if size else self._read_gen())
        except Error as ex:
            error = conn._guard_error(ex)
        else:
            return data
        raise error

    def read_row(self) -> tuple[Any, ...] | None:
        """As psycopg's."""
        conn: Any = self.connection
        try:
            row: tuple[Any, ...] | None = conn._psycopgs_wait(self._read_row_gen())
        except Error as ex:
            error = conn._guard_error(ex)
        else:
            return row
        raise error

    def finish(self, exc: BaseException | None) -> None:
        """As psycopg's."""
        cursor: Any = self.cursor
        results = cursor._guard_results()  # psycopg will put a plain list in its place
        try:
            if exc is None and _has_more(self, results):
                self.connection.wait(self._end_copy_out_gen())
            super().finish(exc)
        except BaseException as ex:
            self.connection.wait(ahead.copy_ends_gen(cursor, results, ex))
            raise
        self.connection.wait(ahead.copy_ends_gen(cursor, results, exc))


class MeteredCopy(GuardedCopy):
    """The same, whose rows are counted and scanned."""

    _guard_metered = True

    _read_gen = _read_gen
    _end_copy_out_gen = _end_copy_out_gen


class GuardedAsyncCopy(AsyncCopy):
    """psycopg's AsyncCopy, told about its end."""

    _guard_metered = False

    async def read(self) -> Buffer:
        """As psycopg's."""
        conn: Any = self.connection
        if self._finished:
            return NO_DATA
        try:
            size, arrived = self._pgconn.get_copy_data(1)
            if size > 0:
                if self._guard_metered:
                    _count(self, arrived)
                return arrived
            data: Buffer = await conn._psycopgs_wait(_end_gen(self) if size else self._read_gen())
        except Error as ex:
            error = conn._guard_error(ex)
        else:
            return data
        raise error

    async def read_row(self) -> tuple[Any, ...] | None:
        """As psycopg's."""
        conn: Any = self.connection
        try:
            row: tuple[Any, ...] | None = await conn._psycopgs_wait(self._read_row_gen())
        except Error as ex:
            error = conn._guard_error(ex)
        else:
            return row
        raise error

    async def finish(self, exc: BaseException | None) -> None:
        """As psycopg's."""
        cursor: Any = self.cursor
        results = cursor._guard_results()  # psycopg will put a plain list in its place
        try:
            if exc is None and _has_more(self, results):
                await self.connection.wait(self._end_copy_out_gen())
            await super().finish(exc)
        except BaseException as ex:
            await self.connection.wait(ahead.copy_ends_gen(cursor, results, ex))
            raise
        await self.connection.wait(ahead.copy_ends_gen(cursor, results, exc))


class MeteredAsyncCopy(GuardedAsyncCopy):
    """The same, whose rows are counted and scanned."""

    _guard_metered = True

    async def read(self) -> Buffer:
        """As psycopg's."""
        cursor: Any = self.cursor
        data: Buffer = await told(cursor, super().read())
        return data

    async def read_row(self) -> tuple[Any, ...] | None:
        """As psycopg's."""
        cursor: Any = self.cursor
        row: tuple[Any, ...] | None = await told(cursor, super().read_row())
        return row

    _read_gen = _read_gen
    _end_copy_out_gen = _end_copy_out_gen


GUARDED: dict[type[Any], type[Any]] = {Copy: GuardedCopy, AsyncCopy: GuardedAsyncCopy}
METERED: dict[type[Any], type[Any]] = {Copy: MeteredCopy, AsyncCopy: MeteredAsyncCopy}


def is_metered(session: Session) -> bool:
    """Whether the rows of COPY are counted or scanned."""
    policy = session.in_force
    return policy is None or policy.egress or policy.scans


def _making(copy: Any, name: str, manager: Any) -> Any:
    """psycopg's own `copy()`, of whatever version, with a guarded Copy from the beginning.

    CPython reads the attributes of an object whose class was changed more slowly, by a fifth of what a row takes.
    """
    function = copy.__wrapped__

    def made(cursor: Any, **options: Any) -> Any:
        kinds = METERED if is_metered(cursor._guard) else GUARDED
        return kinds[function.__globals__[name]](cursor, **options)

    with_ours = FunctionType(function.__code__, {**function.__globals__, name: made}, function.__name__)
    with_ours.__defaults__, with_ours.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return manager(with_ours)


_PSYCOPGS = vars(Cursor)["copy"]
_PSYCOPGS_ASYNC = vars(AsyncCursor)["copy"]
_copy = _making(_PSYCOPGS, "Copy", contextmanager)
_copy_async = _making(_PSYCOPGS_ASYNC, "AsyncCopy", asynccontextmanager)


class SyncCursorMixin(CursorMixin):
    """What only a sync cursor has."""

    __slots__ = ()

    @contextmanager
    def copy(self, statement: Query, params: Params | None = None, **options: Any) -> Iterator[Copy]:
        """As psycopg's; what is copied out counts against the egress budget."""
        self._guard.copy_ends = True
        found = super().copy  # type: ignore[misc]
        if found.__func__ is _PSYCOPGS:
            found = partial(_copy, self)
        try:
            with found(statement, params, **options) as copy:
                if type(copy) is Copy:
                    copy.__class__ = (METERED if is_metered(self._guard) else GUARDED)[Copy]
                yield copy
        finally:
            self._guard.copy_ends = False


class AsyncCursorMixin(SettlingMixin):
    """What only an async cursor has."""

    __slots__ = ()

    @asynccontextmanager
    async def copy(
        self, statement: Query, params: Params | None = None, **options: Any
    ) -> AsyncIterator[AsyncCopy]:
        """As psycopg's; what is copied out counts against the egress budget."""
        self._guard.copy_ends = True
        found = super().copy  # type: ignore[misc]
        if found.__func__ is _PSYCOPGS_ASYNC:
            found = partial(_copy_async, self)
        try:
            async with found(statement, params, **options) as copy:
                if type(copy) is AsyncCopy:
                    copy.__class__ = (METERED if is_metered(self._guard) else GUARDED)[AsyncCopy]
                yield copy
        finally:
            self._guard.copy_ends = False
