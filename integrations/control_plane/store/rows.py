"""What the things of a project have in common: found by an identifier in it, and listed a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from ..errors import NotFound
from ..identifiers import is_id


class OfProject(Protocol):
    """A row that belongs to a project."""

    project_id: Any


Row = TypeVar("Row", bound=OfProject)


def find(session: Session, kind: type[Row], prefix: str, word: str, project_id: str, row_id: str) -> Row:
    """The project's row with that identifier. Raises NotFound, for one of another project just so."""
    row = session.get(kind, row_id) if is_id(row_id, prefix) else None
    if row is None or row.project_id != project_id:
        raise NotFound(f"there is no {word} {row_id!r} in this project")
    return row


def page(
    session: Session,
    query: Select[Any],
    identifier: InstrumentedAttribute[str],
    size: int,
    after: str | None,
    *,
    newest_first: bool = False,
) -> Sequence[Any]:
    """Up to `size` rows, those behind the one with the identifier `after`. Identifiers sort by the time they were made."""
    if after is not None:
        query = query.where(identifier < after if newest_first else identifier > after)
    order = identifier.desc() if newest_first else identifier
    return session.scalars(query.order_by(order).limit(size)).all()
