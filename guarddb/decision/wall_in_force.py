"""A wall that is up, as far as deciding has to know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, eq=False)
class Wall:
    """A wall that is up.

    Attributes:
        schema: where its views are.
        views: relation -> the name of its view there.
        checksum: of what it was compiled to, part of every plan's cache key.
        only: parent -> the name of its view without the children, for ONLY.
        asked_first: relations whose filter PostgreSQL asks before any condition of an agent's that no index serves, whatever that
            costs (see `guarddb.wall.asked_first`).
        asked_by_one: relations whose filter is one condition, which PostgreSQL asks before what costs it an operator.
        late: settings whose values it looks up for the login -> what they were when the wall was looked at.
    """

    schema: str
    views: Mapping[tuple[str, str], str]
    checksum: str
    only: Mapping[tuple[str, str], str] = field(default_factory=dict)
    late: Mapping[str, str] = field(default_factory=dict)
    asked_first: frozenset[tuple[str, str]] = frozenset()
    asked_by_one: frozenset[tuple[str, str]] = frozenset()
