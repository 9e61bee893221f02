"""Referential actions: a key whose UPDATE or DELETE would write rows that a row filter is about, or by a masked column.

The server carries them out by itself, on hidden rows as well: with `deals.tenant REFERENCES tenants ON UPDATE CASCADE` and a
filter on `deals.tenant`, moving a tenant's id away and another's to its place brings hidden rows into sight. With a mask on it,
the rows that vanish, or get another hash, are those that had the value.
"""

from __future__ import annotations

from guarddb.decision.case import Case
from guarddb.decision.on_catalog import Governance
from guarddb.decision.refusal import Refusal
from guarddb.sql.catalog import Catalog, Constraint, Relation
from guarddb.sql.statement import Query, Reference, origins

#: CASCADE, SET NULL, SET DEFAULT
_ACTS = frozenset("cnd")


def referential_actions(case: Case) -> Refusal | None:
    """The first write whose referential actions reach a filtered table, one that a filter reads, or rows by a masked column.

    >>> import guarddb
    >>> from guarddb.sql.catalog import Attribute, Constraint, Relation
    >>> id_, tenant, name = (
    ...     Attribute(n, i, "pg_catalog.int4", "pg_catalog.int4", "N", plain=True)
    ...     for i, n in enumerate(("id", "tenant", "name"), 1)
    ... )
    >>> key = Constraint(
    ...     "of", "f", columns=("tenant",), references=1, referenced_columns=("id",), on_update="c"
    ... )
    >>> relations = {
    ...     1: Relation(1, "public", "tenants", "r", (id_, name)),
    ...     2: Relation(2, "public", "docs", "r", (tenant,), constraints=(key,)),
    ... }
    >>> catalog = guarddb.Catalog("1", 180000, relations=relations)
    >>> policy = {"access_mode": "read_write", "row_filters": [{"table": "docs", "predicate": "tenant = 1"}]}
    >>> guarddb.evaluate("UPDATE tenants SET id = 99 WHERE id = 1", policy, catalog).rule
    'row_filter_unsafe'
    >>> guarddb.evaluate("UPDATE tenants SET name = 2 WHERE id = 1", policy, catalog).rule
    'ok'
    """
    governance, catalog = case.governance, case.catalog
    if catalog is None or not governance.restricts:
        return None
    emptied = _emptied(case) if governance.filters and case.statement.definitions else None
    if emptied is not None:
        return Refusal(
            "row_filter_unsafe",
            f'TRUNCATE … CASCADE would empty "{emptied.schema}.{emptied.name}" too, the hidden rows among it',
            "Leave it to somebody who may see all rows.",
        )
    for query in case.statement.queries:
        target = query.target
        if target is None or target.relation is None:
            continue
        updated, deletes = written(query)
        for relation in below(target, governance, catalog):
            columns = updated
            if target.relation.kind == "v" and updated:
                # The view may have given the key another name.
                near = (relation.oid, *relation.ancestors, *relation.descendants)
                found = behind(target, updated, governance)
                columns = {column for oid in near for column in found.get(oid, ())}
            reached = reaches(relation, columns, deletes, governance, catalog)
            if reached is not None:
                key, other = reached
                filtered = governance.rules_for(other).filters or governance.is_stood_on(other)
                why = "the hidden ones among them" if filtered else "and so tell which have this masked value"
                return Refusal(
                    "row_filter_unsafe" if filtered else "masked_column_predicate",
                    f'writing the key of "{target.qualified_name}" would write rows of "{other.schema}.{other.name}" '
                    f'by the foreign key "{key.name}", {why}',
                    "Leave the key as it is; write other columns, or have it done by somebody who may see all rows.",
                )
    return None


def _emptied(case: Case) -> Relation | None:
    """The filtered table, or one that a filter reads, that TRUNCATE … CASCADE reaches by foreign keys."""
    governance = case.governance
    if not any(
        d.verb == "truncate" and d.fields.get("behavior") == "DROP_CASCADE"
        for d in case.statement.definitions
    ):
        return None
    stack = [r.relation for r in case.statement.references if r.mode == "ddl" and r.relation is not None]
    seen: set[int] = set()
    while stack:
        table = stack.pop()
        if table.oid in seen:
            continue
        seen.add(table.oid)
        if governance.rules_for(table).filters or governance.is_stood_on(table):
            return table
        stack += [other for other, _ in governance.referencing(table.oid)]
    return None


def below(target: Reference, governance: Governance, catalog: Catalog) -> list[Relation]:
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


def behind(target: Reference, names: set[str], governance: Governance) -> dict[int, set[str]]:
    """The columns that columns of a view go back to, by the OID of their table, through views below it."""
    found: dict[int, set[str]] = {}
    seen: set[tuple[int, frozenset[str]]] = set()
    stack: list[tuple[Reference, set[str]]] = [(target, names)]
    while stack:
        reference, columns = stack.pop()
        relation, definition = reference.relation, governance.rules(reference).definition
        if relation is None or definition is None or definition.top is None:
            continue
        if (id(reference), frozenset(columns)) in seen:
            continue
        seen.add((id(reference), frozenset(columns)))
        for attribute, output in zip(relation.attributes, definition.top.outputs, strict=False):
            if attribute.name in columns:
                for below, column in origins(output):
                    if below.relation is not None:
                        found.setdefault(below.relation.oid, set()).add(column)
                    stack.append((below, {column}))
    return found


def written(query: Query) -> tuple[set[str], bool]:
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
    """The foreign key by which a write of a table writes a filtered one, or rows by a masked column, through as many tables as
    there are."""
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
            if _shows(table, constraint, other, governance):
                return constraint, other
            if falls and constraint.on_delete == "c":
                stack.append((other, set(), True))
            else:
                stack.append((other, set(constraint.columns), False))
    return None


def _shows(parent: Relation, constraint: Constraint, child: Relation, governance: Governance) -> bool:
    """Whether it can be seen in which rows an action was carried out, although the column that refers is masked in them.

    It can, whatever the mask: a row that was written lies elsewhere (ctid, the order of rows) and says so (xmin), and is counted.
    """
    masks = governance.rules_for(child).masks
    kinds = {masks[column] for column in constraint.columns if column in masks}
    of_key = {governance.rules_for(parent).masks.get(column) for column in constraint.referenced_columns}
    if kinds == of_key == {"hash"}:
        return False  # who refers to whom, equal hashes tell anyway
    return bool(kinds)
