"""What the row filters of a policy stand on (see `foundation.py`) is frozen for the agent."""

from __future__ import annotations

from collections.abc import Iterator

from guarddb.decision.case import Case
from guarddb.decision.foundation import Foundation
from guarddb.decision.refusal import Refusal
from guarddb.sql.analysis.definitions import Definition
from guarddb.sql.statement import WRITE_MODES, Reference

#: Definitions that change neither the rows nor the meaning of the relation they name.
_LEAVES_AS_IT_IS = frozenset(
    (
        ("create", "index"),
        ("create", "statistics"),
        ("create", "view"),
        ("create", "materialized view"),
        ("create", "sequence"),
        ("analyze", "table"),
        ("vacuum", "table"),
        ("reindex", "index"),
        ("cluster", "table"),
        ("lock", "table"),
        ("alter", "index"),
        ("alter", "statistics"),
        ("drop", "index"),
        ("drop", "statistics"),
    )
)
_PARTS_THAT_LEAVE_IT = frozenset(
    (
        "set statistics",
        "set options",
        "reset options",
        "set storage",
        "set compression",
        "set rel options",
        "reset rel options",
        "cluster on",
        "drop cluster",
        "replica identity",
    )
)


def stands_on(case: Case) -> Refusal | None:
    """Writing or redefining what a row filter stands on.

    >>> import guarddb
    >>> predicate = "project IN (SELECT m.project FROM members m)"
    >>> policy = {"access_mode": "read_write", "row_filters": [{"table": "docs", "predicate": predicate}]}
    >>> guarddb.evaluate("INSERT INTO members VALUES (1)", policy).rule
    'row_filter_unsafe'
    """
    governance = case.governance
    if not governance.filters:
        return None
    found = governance.foundation
    for reference in case.statement.references:
        refusal = _relation_frozen(reference, case, found) or _shadowed(
            reference.name, reference.mode, case, found
        )
        if refusal is not None:
            return refusal
    for definition in case.statement.definitions:
        refusal = _object_frozen(definition, found) or _shadowed(
            str(definition.fields.get("newname", "")), "ddl", case, found
        )
        if refusal is not None:
            return refusal
    return None


def _relation_frozen(reference: Reference, case: Case, found: Foundation) -> Refusal | None:
    writes = reference.mode in WRITE_MODES or (
        reference.mode == "copy" and case.statement.fields.get("is_from", False)
    )
    if not writes and reference.mode != "ddl":
        return None
    rules = case.governance.rules(reference)
    identities: Iterator[tuple[str, str]] = iter(
        (*rules.identities, *(sorted(rules.seen_through) if writes else ()))
    )
    for identity in identities:
        table = found.relations.get(identity)
        if table is None or _admitted(identity, case):
            continue
        definitions = case.statement.definitions  # (none: SELECT INTO makes it)
        if not writes and definitions and all(_leaves(d, reference) for d in definitions):
            continue
        what = "written" if writes else "redefined"
        return Refusal(
            "row_filter_unsafe",
            f'"{identity[0]}.{identity[1]}" may not be {what}: the row filter on {table} depends on it',
            "Leave it to somebody who may see all rows, or have the policy name it in guarddb.may_change.",
            _entry(case, table),
        )
    return None


def _shadowed(name: str, mode: str, case: Case, found: Foundation) -> Refusal | None:
    """Another relation of the name by which a function finds one, or a filter a type: a temporary one comes before all others."""
    if mode != "ddl" or not (name in found.bare or name in found.types) or not _makes(name, case):
        return None
    if name not in found.bare:
        table = found.types[name]
        return Refusal(
            "row_filter_unsafe",
            f'"{name}" may not be the name of a relation: the row filter on {table} uses the type "{name}", and every relation '
            "is a type as well",
            "Choose another name.",
            _entry(case, table),
        )
    table = found.bare[name]
    return Refusal(
        "row_filter_unsafe",
        f'"{name}" may not be the name of another relation: a function that the row filter on {table} calls reads "{name}"',
        "Choose another name.",
        _entry(case, table),
    )


#: Command -> the field with the name of what it makes.
_MAKES_A_RELATION = {
    "CreateStmt": "relation",
    "ViewStmt": "view",
    "CreateSeqStmt": "sequence",
    "CreateForeignTableStmt": "base",
}


def _makes(name: str, case: Case) -> bool:
    """Whether the statement makes a relation of that name, or gives the name or another schema to one."""
    statement = case.statement
    if not statement.definitions:
        return True  # SELECT INTO
    for definition in statement.definitions:
        fields = definition.fields
        if fields.get("newschema"):
            return True
        if fields.get("newname") == name and "relation" in fields and "subname" not in fields:
            return True  # (With a subname it is a column's, or a constraint's.)
        if definition.command == "CreateTableAsStmt":
            made = fields["into"].get("rel", {})
        elif definition.command in _MAKES_A_RELATION:
            made = fields.get(_MAKES_A_RELATION[definition.command], {})
            made = made.get("relation", made)  # (of a foreign table)
        else:
            continue
        if made.get("relname") == name:
            return True
    return False


def _entry(case: Case, table: str) -> str | None:
    for index, (pattern, _) in enumerate(case.governance.filters):
        if str(pattern) == table:
            return f"row_filters[{index}]"
    return None


def _admitted(identity: tuple[str, str], case: Case) -> bool:
    return any(
        pattern.matches(*identity, bare="public", strict=True)
        for pattern in case.policy.profile.may_change_patterns
    )


def _leaves(definition: Definition, reference: Reference) -> bool:
    """Whether a definition leaves the relation as it is."""
    if definition.verb in ("comment", "grant", "revoke", "label"):
        return True
    if definition.command == "CreateSchemaStmt":
        return True  # what is inside is asked by itself
    if definition.command == "ViewStmt":
        return reference.node is not definition.fields.get("view")
    if definition.command == "CreateTableAsStmt":
        return reference.node is not definition.fields["into"].get("rel")
    if (definition.verb, definition.object) in _LEAVES_AS_IT_IS:
        return True
    if definition.command == "CreateStmt":
        # Its rows would be among those of a table that it is a partition or a child of.
        inherits = [each.get("RangeVar", each) for each in definition.fields.get("inhRelations", ())]
        own = reference.node is definition.fields.get("relation")
        return not own and not any(node is reference.node for node in inherits)
    return bool(definition.parts) and all(part.verb in _PARTS_THAT_LEAVE_IT for part in definition.parts)


_FUNCTIONS = frozenset(("function", "procedure", "routine", "aggregate"))
_TYPES = frozenset(("type", "domain", "attribute", "domain constraint", "collation"))


def _object_frozen(definition: Definition, found: Foundation) -> Refusal | None:
    if definition.verb in ("comment", "select", "insert", "update", "delete"):
        return None
    what = definition.object
    names = [name for _, name in definition.names]
    if definition.command == "CreateStmt" or definition.command == "ViewStmt":
        # A relation is a type as well.
        relation = definition.fields.get("relation") or definition.fields.get("view") or {}
        names, what = [relation.get("relname", "")], "type"
    group = (
        found.functions
        if what in _FUNCTIONS
        else found.operators
        if what == "operator"
        else found.types
        if what in _TYPES
        else {}
    )
    table = next((group[name] for name in names if name in group), None)
    if what.startswith("text search") and found.text_search:
        table = next(iter(found.functions.values()), None)
    if what in ("operator class", "operator family", "cast") and definition.verb in ("alter", "drop"):
        table = next(iter(found.operators.values()), None)
    if table is None:
        return None
    return Refusal(
        "row_filter_unsafe",
        f'{definition.shown} of "{names[0] if names else what}" is refused: the row filter on {table} uses it',
        "Leave it to somebody who may see all rows.",
    )
