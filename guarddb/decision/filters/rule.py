"""Row filters: which uses of a filtered relation are refused from the start.

How a filter is written into a statement, and where that has no place, is in `placing`, `reads`, `views` and `writes`.
"""

from __future__ import annotations

from guarddb.decision.case import Case
from guarddb.decision.masks.rule import brings_under_another_name
from guarddb.decision.refusal import Refusal
from guarddb.decision.relation_rules import RelationRules
from guarddb.decision.system_columns import HIDDEN_SHOWN
from guarddb.sql.statement import Reference, Statement
from guarddb.tree import Node

#: More mentions of filtered tables than this are no query, but an attempt to keep the process busy.
_MANY_REFERENCES = 256


def row_filters(case: Case) -> Refusal | None:
    """Whether every filter of the statement can be written into it.

    >>> import guarddb
    >>> policy = {"access_mode": "read_write", "row_filters": [{"table": "notes", "predicate": "tenant = 1"}]}
    >>> guarddb.evaluate("SELECT id FROM notes", policy).rewritten_sql
    'SELECT id FROM notes WHERE ("notes"."tenant" = 1)'
    >>> guarddb.evaluate("COPY notes FROM STDIN", policy).rule
    'row_filter_unsafe'
    """
    statement, governance = case.statement, case.governance
    if not governance.restricts:
        return None
    if statement.ddl is not None and statement.ddl[0] == "VacuumStmt":
        counted = governance.hides & {"filter", "place"}
        if counted and any(
            o["DefElem"].get("defname") == "verbose" for o in statement.ddl[1].get("options", ())
        ):
            return Refusal(
                "row_filter_unsafe" if "filter" in counted else "masked_column_predicate",
                f"{statement.operation} VERBOSE tells how many rows tables have, and this policy hides "
                + " and ".join(HIDDEN_SHOWN[each] for each in sorted(counted)),
                "Leave out VERBOSE.",
            )
    filtered = 0
    plain = statement.ddl is None and not statement.analyzes
    for reference, rules in case.ruled:
        if not rules.filters and not rules.needs_inlining and not rules.unsafe:
            continue
        filtered += 1
        if plain and filtered <= _MANY_REFERENCES and reference.mode == "read" and rules.readable:
            continue
        if filtered > _MANY_REFERENCES:
            return unsafe(
                reference, f"the statement names filtered tables more than {_MANY_REFERENCES} times"
            )
        refusal = _possible(statement, reference, rules)
        if refusal is not None:
            return refusal
    return None


def unsafe(reference: Reference, why: str, hint: str | None = None) -> Refusal:
    return Refusal(
        "row_filter_unsafe",
        f'the row filter on "{reference.qualified_name}" cannot be kept here: {why}',
        hint or "Use a plain SELECT, INSERT, UPDATE or DELETE on the table.",
    )


def _possible(statement: Statement, reference: Reference, rules: RelationRules) -> Refusal | None:
    for predicate in rules.filters:
        if predicate.missing is not None:
            return unsafe(
                reference,
                f'it reads the setting "{predicate.missing}", for which the application gave no value',
                "The application has to pass settings={...} when it connects.",
            )
    if reference.mode == "ddl":
        command, fields = statement.ddl or ("", {})
        if statement.definitions and brings_under_another_name(statement.definitions[0]):
            return unsafe(reference, "its rows would come under another name")
        if rules.filters and (what := _evaluates(command, fields)) is not None:
            return unsafe(
                reference,
                f"{what} would be evaluated on hidden rows",
                "Leave it to somebody who may see all rows.",
            )
        if (column := _redefines(command, fields, rules)) is not None:
            return unsafe(reference, f'the column "{column}", by which it chooses rows, would become another')
        return None
    if statement.analyzes:
        return unsafe(
            reference,
            "EXPLAIN ANALYZE tells how many rows the filter removed",
            "Use EXPLAIN without ANALYZE.",
        )
    if rules.unsafe is not None and (reference.inherits or rules.filters or rules.needs_inlining):
        if reference.inherits or reference.mode != "read":
            return unsafe(reference, rules.unsafe)
    if reference.mode == "read" and statement.ddl is None:
        return None
    if statement.ddl is not None and statement.ddl[0] == "CreateTableAsStmt":
        if statement.ddl[1].get("objtype") == "OBJECT_MATVIEW":
            return unsafe(reference, "a materialised view would store rows that no filter reaches")
    if reference.mode == "copy" and statement.fields.get("is_from"):
        return unsafe(reference, "COPY FROM does not check the rows it writes", "Use INSERT.")
    if reference.mode in ("insert", "update", "delete", "merge"):
        if rules.needs_inlining or (reference.relation is not None and reference.relation.kind == "v"):
            return unsafe(reference, "it is written through a view", "Write to the table itself.")
        if reference.relation is not None and (
            reference.relation.has_rules or reference.relation.kind == "f"
        ):
            return unsafe(reference, "the table has rules, or is a foreign table")
    return None


#: Parts of ALTER TABLE that look at no row.
_LOOKS_AT_NO_ROW = frozenset(
    (
        "AT_NO_ROW",
        "AT_ColumnDefault",
        "AT_CookedColumnDefault",
        "AT_DropNotNull",
        "AT_SetStatistics",
        "AT_SetOptions",
        "AT_ResetOptions",
        "AT_SetStorage",
        "AT_SetCompression",
        "AT_DropConstraint",
        "AT_ChangeOwner",
        "AT_ClusterOn",
        "AT_DropCluster",
        "AT_SetRelOptions",
        "AT_ResetRelOptions",
        "AT_EnableTrig",
        "AT_EnableAlwaysTrig",
        "AT_EnableTrigAll",
        "AT_EnableTrigUser",
        "AT_EnableRowSecurity",
        "AT_ForceRowSecurity",
        "AT_ReplicaIdentity",
        "AT_AddIdentity",
        "AT_SetIdentity",
        "AT_DropIdentity",
        "AT_AlterConstraint",
    )
)


def _evaluates(command: str, fields: Node) -> str | None:
    """What of a definition PostgreSQL evaluates on the rows that are there: constraints, expressions, unique indexes."""
    if command in ("CreatePolicyStmt", "AlterPolicyStmt"):
        return "the condition of a policy"
    if command == "CreateStatsStmt" and any(
        "expr" in e.get("StatsElem", {}) for e in fields.get("exprs", ())
    ):
        return "the expression of statistics"
    if command == "IndexStmt":
        if fields.get("unique") or fields.get("primary") or fields.get("excludeOpNames"):
            return "a unique index"
        if "whereClause" in fields or any("expr" in e["IndexElem"] for e in fields.get("indexParams", ())):
            return "the expression of an index"
    if command == "AlterTableStmt":
        for wrapped in fields.get("cmds", ()):
            part = wrapped["AlterTableCmd"]
            subtype = part.get("subtype", "AT_AddColumn")
            if subtype in _LOOKS_AT_NO_ROW and not asks_rows(part):
                continue
            if subtype == "AT_AddColumn":
                column = part.get("def", {}).get("ColumnDef", {})
                kinds = {c["Constraint"].get("contype") for c in column.get("constraints", ())}
                if kinds <= {"CONSTR_NULL", "CONSTR_DEFAULT", "CONSTR_NOTNULL"}:
                    continue
            return "a part of ALTER TABLE"
    return None


def asks_rows(part: Node) -> bool:
    """ALTER CONSTRAINT … ENFORCED, and … INHERIT, which asks the children's rows (PostgreSQL 18)."""
    constraint = part.get("def", {}).get("ATAlterConstraint", {})
    if constraint.get("alterInheritability") and not constraint.get("noinherit"):
        return True
    return bool(constraint.get("alterEnforceability") and constraint.get("is_enforced"))


def _redefines(command: str, fields: Node, rules: RelationRules) -> str | None:
    """A column of the predicate that a definition renames, replaces or rewrites."""
    columns = {column for predicate in rules.filters for column in predicate.columns}
    named: set[str] = set()
    if command == "RenameStmt":
        named = {fields.get("subname", ""), fields.get("newname", "")}
    elif command == "AlterTableStmt":
        named = {
            w["AlterTableCmd"].get("name", "")
            for w in fields.get("cmds", ())
            if w["AlterTableCmd"].get("subtype")
            in ("AT_AlterColumnType", "AT_SetExpression", "AT_DropExpression")
        }
    return next(iter(sorted(columns & named)), None)
