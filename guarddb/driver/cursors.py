"""The exported cursor classes, and the guarded form of any other cursor class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import psycopg as _psycopg
from psycopg._cursor_base import BaseCursor
from psycopg._server_cursor_base import ServerCursorMixin
from psycopg.adapt import Transformer
from psycopg.client_cursor import ClientCursorMixin
from psycopg.rows import Row

from guarddb.driver.copy import AsyncCursorMixin, SyncCursorMixin
from guarddb.driver.cursor import CursorMixin
from guarddb.driver.server_cursor import ServerCursorGuard

if TYPE_CHECKING:
    from psycopg.abc import Params, Query


class MogrifyMixin(CursorMixin):
    """mogrify() sends nothing, so it judges nothing: it shows what the agent wrote."""

    __slots__ = ()

    def mogrify(self, query: Query, params: Params | None = None) -> str:
        """The query with its parameters merged in, as psycopg's."""
        self._tx = Transformer(self)
        pgq = self._query_cls(self._tx)
        pgq.convert(query, params)
        return pgq.query.decode(self._tx.encoding)


class Cursor(SyncCursorMixin, _psycopg.Cursor[Row]):
    """`psycopg.Cursor` under a policy."""

    __module__ = "guarddb"
    __slots__ = ()


class AsyncCursor(AsyncCursorMixin, _psycopg.AsyncCursor[Row]):
    """`psycopg.AsyncCursor` under a policy."""

    __module__ = "guarddb"
    __slots__ = ()


class ServerCursor(ServerCursorGuard, SyncCursorMixin, _psycopg.ServerCursor[Row]):
    """`psycopg.ServerCursor` under a policy."""

    __module__ = "guarddb"
    __slots__ = ()


class AsyncServerCursor(ServerCursorGuard, AsyncCursorMixin, _psycopg.AsyncServerCursor[Row]):
    """`psycopg.AsyncServerCursor` under a policy."""

    __module__ = "guarddb"
    __slots__ = ()


class ClientCursor(MogrifyMixin, SyncCursorMixin, _psycopg.ClientCursor[Row]):
    """`psycopg.ClientCursor` under a policy."""

    __module__ = "guarddb"


class AsyncClientCursor(MogrifyMixin, AsyncCursorMixin, _psycopg.AsyncClientCursor[Row]):
    """`psycopg.AsyncClientCursor` under a policy."""

    __module__ = "guarddb"


class RawCursor(SyncCursorMixin, _psycopg.RawCursor[Row]):
    """`psycopg.RawCursor` under a policy."""

    __module__ = "guarddb"


class AsyncRawCursor(AsyncCursorMixin, _psycopg.AsyncRawCursor[Row]):
    """`psycopg.AsyncRawCursor` under a policy."""

    __module__ = "guarddb"


class RawServerCursor(ServerCursorGuard, SyncCursorMixin, _psycopg.RawServerCursor[Row]):
    """`psycopg.RawServerCursor` under a policy."""

    __module__ = "guarddb"


class AsyncRawServerCursor(ServerCursorGuard, AsyncCursorMixin, _psycopg.AsyncRawServerCursor[Row]):
    """`psycopg.AsyncRawServerCursor` under a policy."""

    __module__ = "guarddb"


CURSORS: tuple[type[CursorMixin], ...] = (
    Cursor,
    AsyncCursor,
    ServerCursor,
    AsyncServerCursor,
    ClientCursor,
    AsyncClientCursor,
    RawCursor,
    AsyncRawCursor,
    RawServerCursor,
    AsyncRawServerCursor,
)

_guarded: dict[type[Any], type[CursorMixin]] = {
    next(base for base in cls.__mro__ if base.__module__ == "psycopg"): cls for cls in CURSORS
}


def guarded(cls: type[Any]) -> type[CursorMixin]:
    """The guarded form of a cursor class: itself when it is one, else composed once and kept.

    The layout stays the same, so that an object of `cls` can become one of it.
    """
    found = _guarded.get(cls)
    if found is not None:
        return found
    if issubclass(cls, CursorMixin):
        return cls
    if not issubclass(cls, BaseCursor):
        raise TypeError(f"{cls.__qualname__} is not a cursor class of psycopg's")
    mixins: list[type[Any]] = [AsyncCursorMixin if issubclass(cls, _psycopg.AsyncCursor) else SyncCursorMixin]
    if issubclass(cls, ServerCursorMixin):
        mixins.insert(0, ServerCursorGuard)
    if issubclass(cls, ClientCursorMixin):
        mixins.insert(0, MogrifyMixin)
    space = {"__slots__": (), "__module__": cls.__module__, "__doc__": cls.__doc__}
    found = cast("type[CursorMixin]", type(cls.__name__, (*mixins, cls), space))
    _guarded[cls] = found
    return found
