"""Column types that SQLite and PostgreSQL keep alike."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, Text
from sqlalchemy.types import TypeDecorator


class Moment(TypeDecorator[datetime]):
    """A point in time, always aware and in UTC. SQLite keeps no zone, so what it gives back gets one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Json(TypeDecorator[Any]):
    """A JSON document as ASCII text: PostgreSQL's own types refuse a NUL that somebody's SQL may hold."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


def now() -> datetime:
    """This moment, to the microsecond, in UTC."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """`2026-03-01T00:00:00.000000Z`.

    >>> rfc3339(datetime(2026, 3, 1, tzinfo=UTC))
    '2026-03-01T00:00:00.000000Z'
    """
    # (strftime leaves out the zeros of an early year.)
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
