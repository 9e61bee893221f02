"""COPY: its rows pass by the transformer: masks and filters are in its statement, the meter is here."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from psycopg import AsyncCopy, Copy
from psycopg._copy_base import BaseCopy
from psycopg.errors import QueryCanceled

from guarddb.driver import steps

if TYPE_CHECKING:
    from psycopg.abc import Buffer, PQGen


def _read_gen(copy: BaseCopy[Any]) -> PQGen[Buffer]:
    data = yield from BaseCopy._read_gen(copy)
    if data:
        steps.count_bytes(copy.cursor._conn._guard, len(data))
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


METERED: dict[type[Any], type[Any]] = {Copy: MeteredCopy, AsyncCopy: MeteredAsyncCopy}
