"""Behind a wall PostgreSQL itself masks and filters, by views (see `guarddb.wall`). What is written is their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guarddb.decision.case import filters_of, is_governed, stores_text
from guarddb.decision.on_catalog import is_system
from guarddb.decision.refusal import Refusal
from guarddb.sql.rewriting.edits import RewriteError

if TYPE_CHECKING:
    from guarddb.decision.case import Case
    from guarddb.decision.draft import Draft
    from guarddb.sql.catalog import Catalog


def names(case: Case, draft: Draft) -> Refusal | None:
    """The wall's view in the place of every relation.

    >>> from guarddb.decision.decide import compile_policy, decide
    >>> from guarddb.policy.profile import PolicyProfile
    >>> from guarddb.sql.catalog import Catalog, Relation
    >>> catalog = Catalog("1", 180000, relations={1: Relation(1, "public", "notes", "r")})
    >>> from guarddb.decision.wall_in_force import Wall
    >>> wall = Wall("shop_wall", {("public", "notes"): "notes"}, "checksum")
    >>> decide("SELECT count(*) FROM notes", compile_policy(PolicyProfile(name="shop")), catalog, wall=wall).sql
    'SELECT count(*) FROM "shop_wall"."notes"'
    """
    statement, wall = case.statement, case.wall
    if wall is None or stores_text(statement):
        # A definition is the server's to refuse: the role has no right on any table.
        return None
    draft.shown = filters_of(case)
    if "explain" in statement.kinds and is_governed(case):
        # The planner's estimates are made of the tables below the views, of hidden rows and masked values.
        draft.rewriter.explain_quietly(statement.fields, statement.location)
    rename, schema, views = draft.wording.rename, wall.schema, wall.views
    try:
        for reference in statement.references:
            relation, within = reference.relation, reference.schema
            if reference.mode == "ddl" or relation is None:
                continue
            view = views.get((within, reference.name))
            if relation.descendants and not reference.inherits:
                view = wall.only.get((within, reference.name))
            if view is not None:
                rename(reference, schema, view)
            elif within != schema and not _is_temporary(within, case.catalog) and not is_system(within):
                return Refusal(
                    "table_not_allowed",
                    f'table "{reference.qualified_name}" has no view in the wall "{wall.schema}"',
                    "Read other tables; `guarddb wall` says why this one is left out.",
                )
    except RewriteError as ex:
        return Refusal(
            "statement_not_allowed",
            f"the view of the wall found no place in this statement: {ex}",
            "Write the statement in a simpler way.",
        )
    return None


def _is_temporary(schema: str, catalog: Catalog | None) -> bool:
    return catalog is not None and schema == catalog.temp_schema
