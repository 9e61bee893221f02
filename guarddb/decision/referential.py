"""Referential actions: a key whose UPDATE or DELETE would write rows that a row filter is about.

The server carries them out by itself, on hidden rows as well: with `deals.tenant REFERENCES tenants ON UPDATE CASCADE` and a
filter on `deals.tenant`, moving a tenant's id away and another's to its place brings hidden rows into sight.
"""

from __future__ import annotations

from guarddb.decision.case import Case
from guarddb.decision.on_catalog import Governance
from guarddb.decision.refusal import Refusal
from guarddb.sql.catalog import Catalog, Constraint, Relation
from guarddb.sql.statement import Query, Reference

#: CASCADE, SET NULL, SET DEFAULT
_ACTS = frozenset("cnd")


def referential_actions(case: Case) -> Refusal | None:
    """The first write whose referential actions reach a filtered table, or one that a filter reads.

    `UPDATE tenants SET id = 99 WHERE id = 1` -> refused; `UPDATE tenants SET name = 'x' WHERE id = 1` -> passes
    """
    governance, catalog = case.governance, case.catalog
    if catalog is None or not governance.filters:
        return None
    for query in case.statement.queries:
        target = query.target
        if target is None or target.relation is None:
            continue
        updated, deletes = _written(query)
        for relation in _below(target, governance, catalog):
            reached = reaches(relation, updated, deletes, governance, catalog)
            if reached is not None:
                key, other = reached
                return Refusal(
                    "row_filter_unsafe",
                    f'writing the key of "{target.qualified_name}" would write rows of "{other.schema}.{other.name}" '
                    f'by the foreign key "{key.name}", the hidden ones among them',
                    "Leave the key as it is; write other columns, or have it done by somebody who may see all rows.",
                )
    return None


def _below(target: Reference, governance: Governance, catalog: Catalog) -> list[Relation]:
    """The tables that a write reaches: the relation, what it is part of, its parts, and what a view reads."""
    assert target.relation is not None
    found = {target.relation.oid: target.relation}
    for identity in governance.rules(target).seen_through:
        relation = catalog.relation(*identity)
        if relation is not None:
            found[relation.oid] = relation
    for relation in list(found.values()):
        for oid in (*relation.ancestors, *relation.descendants):
            near = catalog.by_oid(oid)
            if near is not None:
                found[oid] = near
    return list(found.values())


def _written(query: Query) -> tuple[set[str], bool]:
    """The columns that a query may change in rows that are there, and whether it deletes."""
    if query.kind == "update":
        return query.written, False
    if query.kind == "delete":
        return set(), True
    if query.kind == "insert":
        clause = query.fields.get("onConflictClause", {})
        return {t["ResTarget"].get("name", "") for t in clause.get("targetList", ())}, False
    updated: set[str] = set()
    deletes = False
    for wrapped in query.fields.get("mergeWhenClauses", ()):
        clause = wrapped["MergeWhenClause"]
        deletes = deletes or clause.get("commandType") == "CMD_DELETE"
        if clause.get("commandType") == "CMD_UPDATE":
            updated |= {t["ResTarget"].get("name", "") for t in clause.get("targetList", ())}
    return updated, deletes


def reaches(
    relation: Relation, updated: set[str], deletes: bool, governance: Governance, catalog: Catalog
) -> tuple[Constraint, Relation] | None:
    """The foreign key by which a write of a table writes a filtered one, through as many tables as there are."""
    seen: set[tuple[int, frozenset[str], bool]] = set()
    stack: list[tuple[Relation, set[str], bool]] = [(relation, updated, deletes)]
    while stack:
        table, columns, gone = stack.pop()
        key = (table.oid, frozenset(columns), gone)
        if key in seen:
            continue
        seen.add(key)
        for other, constraint in governance.referencing(table.oid):
            falls = gone and constraint.on_delete in _ACTS
            moves = constraint.on_update in _ACTS and bool(columns & set(constraint.referenced_columns))
            if not falls and not moves:
                continue
            if governance.rules_for(other).filters or governance.is_stood_on(other):
                return constraint, other
            if falls and constraint.on_delete == "c":
                stack.append((other, set(), True))
            else:
                stack.append((other, set(constraint.columns), False))
    return None
