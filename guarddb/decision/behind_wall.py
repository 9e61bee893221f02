"""Behind a wall PostgreSQL itself masks and filters, by views (see `guarddb.wall`). What is written is their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guarddb.decision.on_catalog import is_system
from guarddb.decision.refusal import Refusal
from guarddb.sql.rewriting.edits import RewriteError

if TYPE_CHECKING:
    from guarddb.decision.case import Case
    from guarddb.decision.writing import Draft
    from guarddb.sql.statement import Reference


@dataclass(frozen=True, slots=True, eq=False)
class Wall:
    """A wall that is up.

    Attributes:
        schema: where its views are.
        views: relation -> the name of its view there.
        checksum: of what it was compiled to, part of every plan's cache key.
    """

    schema: str
    views: Mapping[tuple[str, str], str]
    checksum: str


def names(case: Case, draft: Draft) -> Refusal | None:
    """The wall's view in the place of every relation."""
    statement, wall = case.statement, case.wall
    if wall is None or (
        statement.ddl is not None and statement.ddl[0] not in ("CreateTableAsStmt", "CopyStmt")
    ):
        # A definition is the server's to refuse: the role has no right on any table.
        return None
    draft.shown = list(
        dict.fromkeys(
            p.shown for r in statement.references if r.mode != "ddl" for p in case.governance.rules(r).filters
        )
    )
    temporary = case.catalog.temp_schema if case.catalog is not None else None
    for reference in statement.references:
        if reference.mode == "ddl" or reference.relation is None or is_system(reference.schema):
            continue
        if reference.schema in (wall.schema, temporary):
            continue
        view = wall.views.get((reference.schema, reference.name))
        if view is None:
            return Refusal(
                "table_not_allowed",
                f'table "{reference.qualified_name}" has no view in the wall "{wall.schema}"',
                "Read other tables; `guarddb wall` says why this one is left out.",
            )
        if not reference.inherits and reference.relation.descendants:
            return Refusal(
                "statement_not_allowed",
                f'ONLY "{reference.qualified_name}" is refused: its view in the wall reads the children too',
                "Leave out ONLY.",
            )
        refusal = _rename(reference, wall.schema, view, draft)
        if refusal is not None:
            return refusal
    return None


def _rename(reference: Reference, schema: str, view: str, draft: Draft) -> Refusal | None:
    try:
        draft.rewriter.rename_relation(reference, schema, view)
    except RewriteError as ex:
        return Refusal(
            "statement_not_allowed",
            f"the view of the wall found no place in this statement: {ex}",
            "Write the statement in a simpler way.",
        )
    return None
