"""Definitions are allow-listed: one passes because a rule shows that it can neither look at governed rows nor change what a
policy stands on. What is on no list is refused with a reason.

Asked when the profile restricts data, after the floor (rights, code, settings), the masks (a masked column may not be named in a
definition) and the row filters have had their say.
"""

from __future__ import annotations

from guarddb.decision.case import Case
from guarddb.decision.filters.rule import asks_rows
from guarddb.decision.referential import below
from guarddb.decision.refusal import Refusal
from guarddb.decision.relation_rules import RelationRules
from guarddb.facts import functions as facts
from guarddb.sql.analysis.definitions import Definition, Part
from guarddb.sql.catalog import Catalog, Relation
from guarddb.sql.names import string_list
from guarddb.sql.statement import Reference
from guarddb.tree import Node
from guarddb.vocabulary import Rule

#: Objects that may be made, altered, renamed, moved and dropped, as far as the rules about governed tables let them.
_OBJECTS = frozenset(
    (
        "collation",
        "column",
        "domain",
        "domain constraint",
        "foreign table",
        "index",
        "materialized view",
        "schema",
        "sequence",
        "statistics",
        "table",
        "table constraint",
        "text search configuration",
        "text search dictionary",
        "type",
        "attribute",
        "view",
    )
)
_CHANGES = frozenset(("create", "alter", "rename", "move", "drop", "refresh"))
#: What else passes: it leaves things as they are, or is judged as what it is elsewhere.
_VERBS = frozenset(
    (
        "analyze",
        "call",
        "checkpoint",
        "cluster",
        "comment",
        "copy",
        "delete",
        "discard",
        "do",
        "grant",
        "insert",
        "label",
        "listen",
        "load",
        "lock",
        "notify",
        "own",
        "reindex",
        "revoke",
        "select",
        "set",
        "transaction",
        "truncate",
        "unlisten",
        "update",
        "vacuum",
    )
)
#: Code may be dropped: what is gone does nothing. (What a filter uses is frozen.)
_DROPPED = frozenset(
    (
        "access method",
        "aggregate",
        "cast",
        "conversion",
        "event trigger",
        "extension",
        "function",
        "language",
        "operator",
        "operator class",
        "operator family",
        "owned",
        "procedure",
        "routine",
        "rule",
        "text search parser",
        "text search template",
        "transform",
        "trigger",
        "database",
        "tablespace",
        "foreign server",
        "foreign data wrapper",
        "user mapping",
        "publication",
    )
)
#: Judged by the setting that they set, or by what the floor says of code and rights.
_ELSEWHERE = frozenset(
    (
        "AlterDatabaseSetStmt",
        "AlterRoleSetStmt",
        "AlterSystemStmt",
    )
)


def definitions(case: Case) -> Refusal | None:
    """The first definition that is on no list, or that could look at rows or values the policy hides.

    >>> import guarddb
    >>> policy = {"access_mode": "read_write", "row_filters": [{"table": "docs", "predicate": "id > 0"}]}
    >>> guarddb.evaluate("ALTER TABLE docs ADD COLUMN n serial", policy).rule
    'row_filter_unsafe'
    >>> guarddb.evaluate("ALTER TABLE docs ADD COLUMN n int DEFAULT 0", policy).rule
    'ok'
    """
    if not case.statement.definitions or not case.policy.restricts_data:
        return None
    for definition in case.statement.definitions:
        if not _listed(definition, case):
            return Refusal(
                "statement_not_allowed",
                f"{definition.shown} is refused: nobody has shown that it leaves what this policy hides alone",
                "Have it done by somebody who may see everything.",
            )
    if not case.governance.restricts:
        return None
    for definition in case.statement.definitions:
        if definition.verb == "cluster" and "relation" not in definition.fields:
            if case.governance.masks:
                return Refusal(
                    "masked_column_rename",
                    "CLUSTER of every table is refused: the order in which rows lie would tell about masked values",
                    "Name one table that has no masked columns.",
                )
            if definition.fields.get("params"):
                return Refusal(
                    "row_filter_unsafe",
                    "CLUSTER VERBOSE tells how many rows tables have, and a row filter of this policy hides some",
                    "Leave out VERBOSE.",
                )
        refusal = (
            _key_of_others(definition, case)
            or _types(definition, case)
            or _hashed_text(definition, case)
            or _last_value(definition, case)
        )
        if refusal is not None:
            return refusal
        for reference in case.statement.references:
            rules = case.governance.rules(reference)
            if reference.mode != "ddl" or not rules.governed or _is_new(definition, reference):
                continue
            refusal = _governed(definition, reference, rules, case)
            if refusal is not None:
                return refusal
    return None


def _key_of_others(definition: Definition, case: Case) -> Refusal | None:
    """A change of a key's values by its type: the server compares all that refers to it, hidden rows and masked values too."""
    governance, catalog = case.governance, case.catalog
    changed = {p.name for p in definition.parts if p.verb in ("alter column type", "set expression")}
    if not changed or catalog is None:
        return None
    for reference in case.statement.references:
        if reference.mode != "ddl" or reference.relation is None:
            continue
        for table in below(reference, governance, catalog):
            for other, key in governance.referencing(table.oid):
                rules = governance.rules_for(other)
                if changed.isdisjoint(key.referenced_columns):
                    continue
                if (
                    rules.filters
                    or governance.is_stood_on(other)
                    or not rules.masks.keys().isdisjoint(key.columns)
                ):
                    hidden = bool(rules.filters)
                    return Refusal(
                        "row_filter_unsafe" if hidden else "masked_column_rename",
                        f'the foreign key "{key.name}" of "{other.schema}.{other.name}" would be asked again, of '
                        + ("hidden rows" if hidden else "masked values"),
                        "Leave it to somebody who may see all rows and values.",
                    )
    return None


def _listed(definition: Definition, case: Case) -> bool:
    if definition.command in _ELSEWHERE or definition.verb in _VERBS:
        return True
    if definition.verb == "drop" and definition.object in _DROPPED:
        return True
    if definition.verb in _CHANGES and definition.object in _OBJECTS:
        return True
    # What the floor has let through because the profile lifts the rule.
    lifted = case.policy.floor_exceptions
    return "anonymous_code" in lifted or (
        "role_change" in lifted and definition.object in ("role", "policy", "default privileges")
    )


def _is_new(definition: Definition, reference: Reference) -> bool:
    """Whether it is the relation that is about to be made: it holds nothing, and its name is what the rules are about."""
    if definition.command in ("CreateStmt", "CreateSeqStmt"):
        return reference.node is definition.fields.get("relation", definition.fields.get("sequence"))
    if definition.command == "CreateTableAsStmt":
        return reference.node is definition.fields["into"].get("rel")
    # A view that is there would become another one under its name.
    return (
        definition.command == "ViewStmt"
        and reference.node is definition.fields.get("view")
        and (reference.relation is None or not definition.fields.get("replace", False))
    )


# ---------------------------------------------------------------------- governed tables


def _governed(
    definition: Definition, reference: Reference, rules: RelationRules, case: Case
) -> Refusal | None:
    """What a definition may do that names a table with masks or filters."""
    why = _for_both(definition, reference, rules, case)
    if why is None and (rules.filters or rules.needs_inlining or rules.unsafe):
        why = _for_hidden_rows(definition, reference, case.catalog)
    if why is None and rules.partition_of is not None:
        why = _for_rows_in_place(definition, reference, rules, case)
    if why is None and rules.masks:
        why = _for_masks(definition, reference, rules, case)
    if why is None:
        return None
    filtered = bool(rules.filters or rules.needs_inlining)
    rule: Rule = "row_filter_unsafe" if filtered else "masked_column_rename"
    return Refusal(
        rule,
        f'{definition.shown} is refused on "{reference.qualified_name}": {why}',
        "Leave it to somebody who may see all rows and values.",
    )


def _for_both(definition: Definition, reference: Reference, rules: RelationRules, case: Case) -> str | None:
    if definition.verb == "cluster":
        return "the order in which rows lie would tell about values"
    if definition.command == "ViewStmt" and reference.node is definition.fields.get("view"):
        return "a view that the policy has rules for would become another one"
    if definition.command == "RefreshMatViewStmt":
        return "its query would run on rows and values that the policy hides"
    if definition.command in ("CreateStmt", "CreateForeignTableStmt") and _is_parent(definition, reference):
        return _partition(definition, reference, rules, case)
    return None


def _is_parent(definition: Definition, reference: Reference) -> bool:
    base = definition.fields.get("base", definition.fields)
    parents = [each.get("RangeVar", each) for each in base.get("inhRelations", ())]
    return any(node is reference.node for node in parents)


def _partition(definition: Definition, reference: Reference, rules: RelationRules, case: Case) -> str | None:
    """A partition beside a default one: the server looks through the default one for rows that belong into the new one."""
    base = definition.fields.get("base", definition.fields)
    if "partbound" not in base:
        return None
    relation, catalog = reference.relation, case.catalog
    if relation is None or catalog is None:
        return "without a catalog nobody knows whether there is a default partition to be looked through"
    below = [child for oid in relation.descendants if (child := catalog.by_oid(oid)) is not None]
    if not any(child.partition_bound == "DEFAULT" for child in below):
        return None
    if not rules.filters and not any(column in (relation.partition_key or "") for column in rules.masks):
        return None
    return "the rows of the default partition would be looked through"


#: Parts of ALTER TABLE that look at no row.
_LOOKS_AT_NO_ROW = frozenset(
    (
        "add identity",
        "alter constraint",
        "cluster on",
        "column default",
        "cooked column default",
        "drop cluster",
        "drop constraint",
        "drop identity",
        "drop not null",
        "enable always trig",
        "enable trig",
        "enable trig all",
        "enable trig user",
        "replica identity",
        "reset options",
        "reset rel options",
        "set compression",
        "set identity",
        "set options",
        "set rel options",
        "set statistics",
        "set storage",
    )
)
#: Types of one length: an index on them has no row that is too long for it.
_OF_ONE_LENGTH = frozenset(
    (
        "bool",
        "char",
        "date",
        "float4",
        "float8",
        "int2",
        "int4",
        "int8",
        "interval",
        "macaddr",
        "money",
        "oid",
        "time",
        "timestamp",
        "timestamptz",
        "timetz",
        "uuid",
    )
)


def _for_hidden_rows(definition: Definition, reference: Reference, catalog: Catalog | None) -> str | None:
    """What of a definition PostgreSQL would ask of rows that a filter hides."""
    if definition.verb in (
        "comment",
        "analyze",
        "vacuum",
        "lock",
        "reindex",
        "drop",
        "grant",
        "revoke",
        "label",
    ):
        return None
    if definition.verb in ("rename", "move"):
        return None  # asked by the filters' own rule
    if definition.command == "IndexStmt":
        return _index(definition.fields, reference.relation, catalog)
    if definition.object == "statistics":
        return "statistics would be made of hidden rows"
    if definition.command == "CreateStmt":
        if any(_references(part, reference) for part in definition.parts):
            return "a foreign key would tell whether a hidden row is there"
        return None  # LIKE copies no row, and a child's rows are filtered as the parent's
    if definition.command in (
        "ViewStmt",
        "CreateTableAsStmt",
        "CreateSeqStmt",
        "AlterSeqStmt",
        "CreateSchemaStmt",
    ):
        return None
    if definition.command != "AlterTableStmt":
        return "nobody has shown that it leaves hidden rows alone"
    for part in definition.parts:
        if _references(part, reference):
            return "a foreign key would tell whether a hidden row is there"
        if part.verb in _LOOKS_AT_NO_ROW and not asks_rows(part.node):
            continue
        if part.verb == "add column":
            why = _new_column(part)
            if why is None:
                continue
            return why
        return f"{part.verb.upper()} would be asked of hidden rows"
    return None


def _for_rows_in_place(
    definition: Definition, reference: Reference, rules: RelationRules, case: Case
) -> str | None:
    """What would be asked of the rows of one partition, and so tell which these are."""
    dropped = definition.verb == "drop" and definition.object == "table"
    # (What is published cannot be updated where nothing identifies a row.)
    unpublished = any(part.verb == "replica identity" for part in definition.parts)
    if not dropped and not unpublished and _for_hidden_rows(definition, reference, case.catalog) is None:
        return None
    return f'which rows are in this partition tells the masked column "{rules.partition_of}"'


def _index(fields: Node, relation: Relation | None, catalog: Catalog | None) -> str | None:
    """A plain index tells nothing; one that can fail for a row, or is about some rows only, tells of hidden ones."""
    if fields.get("unique") or fields.get("primary") or fields.get("excludeOpNames"):
        return "a unique index would tell of hidden rows"
    if "whereClause" in fields:
        return "the condition of an index would run on hidden rows"
    if fields.get("accessMethod", "btree") not in ("btree", "hash", "brin"):
        return "an index of this kind may fail for a hidden row"
    types = {a.name: a.base_type for a in relation.attributes} if relation is not None else {}
    for wrapped in (*fields.get("indexParams", ()), *fields.get("indexIncludingParams", ())):
        element = wrapped["IndexElem"]
        if "expr" in element or "opclass" in element:
            return "the expression of an index would run on hidden rows"
        schema, _, name = types.get(element.get("name", ""), "pg_catalog.text").partition(".")
        known = catalog.type_named(schema, name) if catalog is not None and schema != "pg_catalog" else None
        enum = known is not None and known.kind == "e"
        if not enum and (schema != "pg_catalog" or name not in _OF_ONE_LENGTH):
            return "an index on values of any length fails for a row that is too long, hidden or not"
    return None


def _new_column(part: Part) -> str | None:
    """A new column that is the same in every row needs no look at any."""
    column = part.node.get("def", {}).get("ColumnDef", {})
    names = string_list(column.get("typeName", {}).get("names", ()))
    known = facts.builtin_type(names[-1]) if names and (len(names) == 1 or names[0] == "pg_catalog") else None
    if names[-1:] and names[-1] in facts.SERIAL:
        return "a sequence would count hidden rows"
    if known is None:
        return "a type that is not built in may be asked of every row"
    kinds = {c.get("contype"): c for c in part.constraints}
    default = kinds.pop("CONSTR_DEFAULT", None)
    if default is not None and not _constant(default.get("raw_expr", {})):
        return "a default that is computed would be computed for hidden rows"
    null = default is None or "isnull" in _inner(default.get("raw_expr", {})).get("A_Const", {})
    if "CONSTR_NOTNULL" in kinds and null:
        return "NOT NULL without a default would tell whether there are rows"
    if kinds.keys() - {"CONSTR_NULL", "CONSTR_NOTNULL"}:
        return "the constraints of a new column would be asked of hidden rows"
    return None


def _inner(node: Node) -> Node:
    while "TypeCast" in node:
        node = node["TypeCast"]["arg"]
    return node


def _constant(node: Node) -> bool:
    while "TypeCast" in node:
        names = string_list(node["TypeCast"].get("typeName", {}).get("names", ()))
        if names[:-1] not in ([], ["pg_catalog"]) or not names or facts.builtin_type(names[-1]) is None:
            return False
        node = node["TypeCast"]["arg"]
    sign = node.get("A_Expr", {})
    if sign and "lexpr" not in sign and string_list(sign.get("name", ())) in (["-"], ["+"]):
        node = sign.get("rexpr", {})
    return "A_Const" in node


# ---------------------------------------------------------------------- masked columns


def _for_masks(definition: Definition, reference: Reference, rules: RelationRules, case: Case) -> str | None:
    """What tells of a masked column although it does not name it."""
    relation = reference.relation
    for part in definition.parts:
        if (constraint := _references(part, reference)) is not None:
            columns = string_list(constraint.get("pk_attrs", ()))
            if not columns:
                columns = list(relation.primary_key) if relation is not None else list(rules.masks)
            if rules.masks.keys() & set(columns):
                return "a foreign key would tell whether a masked value is there"
        if part.verb == "cluster on" and _orders_by(part.name, relation, rules):
            return "the next CLUSTER would lay the rows in the order of masked values"
        if (part.verb == "validate constraint" or asks_rows(part.node)) and relation is not None:
            name = part.name or part.node.get("def", {}).get("ATAlterConstraint", {}).get("conname")
            of_masks = [
                c
                for c in relation.constraints
                if c.name == name and (rules.masks.keys() & set(c.columns) or not c.columns)
            ]
            if of_masks:
                return "the constraint would be asked of masked values"
    return None


def _orders_by(index: str | None, relation: Relation | None, rules: RelationRules) -> bool:
    """Whether an index may have a masked column in it."""
    known = [each for each in relation.indexes if each.name == index] if relation is not None else []
    return not known or any(rules.masks.keys() & {*each.columns, *each.reads} for each in known)


def _references(part: Part, reference: Reference) -> Node | None:
    """The foreign key of a part that references the relation."""
    for constraint in part.constraints:
        if constraint.get("contype") == "CONSTR_FOREIGN" and constraint.get("pktable") is reference.node:
            return constraint
    return None


# ---------------------------------------------------------------------- sequences


def _last_value(definition: Definition, case: Case) -> Refusal | None:
    """New bounds of a sequence, which are compared with its last value: `RESTART value (7) cannot be greater than MAXVALUE`."""
    given = [definition.fields.get("options", ())] if definition.command == "AlterSeqStmt" else []
    given += [
        part.node.get("def", {}).get("List", {}).get("items", ())
        for part in definition.parts
        if part.verb == "set identity"
    ]
    for options in given:
        names = {option["DefElem"]["defname"] for option in options}
        if names & {"minvalue", "maxvalue", "as"} and "restart" not in names:
            return Refusal(
                "row_filter_unsafe" if case.governance.filters else "masked_column_rename",
                f"{definition.shown} is refused: new bounds are compared with the sequence's last value, "
                "which tells how many rows were ever made",
                "Give it a RESTART value as well.",
            )
    return None


# ---------------------------------------------------------------------- types


#: Parts of a type's definition that look at no row.
_OF_NO_ROW = frozenset(("column default", "drop not null", "drop constraint"))


def _types(definition: Definition, case: Case) -> Refusal | None:
    """Domains and row types whose constraints or attributes would be asked of hidden rows or masked values."""
    what, verb = definition.object, definition.verb
    if what == "domain" and verb == "alter":
        asks = any(part.verb not in _OF_NO_ROW for part in definition.parts)
    elif what == "type" and verb == "alter" and definition.command == "AlterTableStmt":
        asks = True
    else:
        asks = what == "attribute" and verb == "rename"
    if not asks:
        return None
    for schema, name in definition.names:
        used = _used_by(schema, name, case)
        if used is not None:
            return Refusal(
                "row_filter_unsafe" if case.governance.filters else "masked_column_rename",
                f'{definition.shown} "{name}" is refused: it would be asked of the values of {used}, which this policy hides',
                "Leave it to somebody who may see all rows and values.",
            )
    return None


#: Their values are printed as the names of objects.
_NAMES_OF_OBJECTS = frozenset(
    f"pg_catalog.{array}reg{what}"
    for array in ("", "_")
    for what in (
        "class",
        "collation",
        "config",
        "dictionary",
        "namespace",
        "oper",
        "operator",
        "proc",
        "procedure",
        "role",
        "type",
    )
)


def _hashed_text(definition: Definition, case: Case) -> Refusal | None:
    """Another text for values that are hashed: the hashes that change tell which rows have them, whatever the key.

    `ALTER TYPE mood RENAME VALUE 'sad' TO 'x'` over a hashed mood -> refused
    """
    label = definition.command == "AlterEnumStmt" and "oldVal" in definition.fields
    if not label and definition.verb not in ("rename", "move"):
        return None
    if case.catalog is None:
        hashed = any(rule.kind == "hash" for _, rule in case.governance.masks)
        column = "columns that nobody knows without a catalog" if label and hashed else None
    else:
        column = _hashed_column(definition, case, case.catalog, label=label)
    if column is None:
        return None
    return Refusal(
        "masked_column_rename",
        f"{definition.shown} is refused: it would give values of {column} another text, and so another hash",
        "Leave it to somebody who may see all values.",
    )


def _hashed_column(definition: Definition, case: Case, catalog: Catalog, *, label: bool) -> str | None:
    known = [t for schema, name in definition.names if (t := catalog.type_named(schema, name)) is not None]
    wanted = {f"{type_.schema}.{type_.name}" for type_ in known} if label else set()
    for relation in case.governance.governed_tables:
        masks = case.governance.rules_for(relation).masks
        for attribute in relation.attributes if masks else ():
            if masks.get(attribute.name) != "hash":
                continue
            if (wanted and wanted & catalog.types_inside(attribute.type)) or (
                not label and attribute.base_type in _NAMES_OF_OBJECTS
            ):
                return f'"{relation.schema}.{relation.name}.{attribute.name}"'
    return None


def _used_by(schema: str | None, name: str, case: Case) -> str | None:
    """The governed column that has the type, or may have it inside."""
    catalog = case.catalog
    if catalog is None:
        return "tables that nobody knows without a catalog"
    known = catalog.type_named(schema, name)
    if known is None:
        return None
    wanted = f"{known.schema}.{known.name}"
    for relation in case.governance.governed_tables:
        rules = case.governance.rules_for(relation)
        for attribute in relation.attributes:
            if (rules.filters or attribute.name in rules.masks) and wanted in catalog.types_inside(
                attribute.type
            ):
                return f'"{relation.schema}.{relation.name}.{attribute.name}"'
    return None
