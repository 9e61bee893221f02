"""What a statement changes in the script's own picture of the database, for the statements after it."""

from __future__ import annotations

from guarddb.lint.acts import Target
from guarddb.lint.rules.column_types import typmod
from guarddb.lint.rules.constraints import not_checked
from guarddb.lint.script import Check, Column, ForeignKey, Script, Table, is_not_null, type_names
from guarddb.lint.text import StatementText, label
from guarddb.sql.names import string_list
from guarddb.tree import Node

_UTC = frozenset(
    {"utc", "gmt", "uct", "zulu", "universal", "etc/utc", "etc/gmt", "etc/uct", "etc/zulu", "etc/universal"}
)
_OFF = frozenset({"0", "0s", "0ms", "default"})


def follow(statement: StatementText, script: Script) -> None:
    """Take over what the statement did. Called after the rules have spoken."""
    fields = statement.fields
    kind = statement.kind
    if kind == "CreateStmt":
        _made(script.to_make(fields["relation"]), fields, script)
    elif kind in ("CreateTableAsStmt",):
        _made(script.to_make(fields["into"]["rel"]), {}, script)
    elif kind == "SelectStmt" and "intoClause" in fields:
        _made(script.to_make(fields["intoClause"]["rel"]), {}, script)
    elif kind == "ViewStmt":
        target = script.target(fields["view"])
        if target.relation is None:
            script.now.made.add(target.key)
    elif kind == "CreateForeignTableStmt":
        _made(script.to_make(fields["base"]["relation"]), fields.get("base", {}), script)
    elif kind == "IndexStmt":
        _indexed(fields, script)
    elif kind == "AlterTableStmt":
        if fields.get("objtype") in (None, "OBJECT_TABLE", "OBJECT_FOREIGN_TABLE", "OBJECT_MATVIEW"):
            target = script.target(fields["relation"])
            for each in fields.get("cmds", ()):
                _altered(target, each["AlterTableCmd"], script)
    elif kind == "RenameStmt":
        _renamed(fields, script)
    elif kind == "DropStmt":
        _dropped(fields, script)
    elif kind == "CreateDomainStmt":
        constrained = [
            c["Constraint"]
            for c in fields.get("constraints", ())
            if c["Constraint"].get("contype") in ("CONSTR_CHECK", "CONSTR_NOTNULL")
        ]
        script.now.made_types[string_list(fields["domainname"])[-1]] = constrained[0] if constrained else None
    elif kind in ("CreateEnumStmt", "CompositeTypeStmt", "CreateRangeStmt"):
        names = string_list(fields.get("typeName", ())) or [fields.get("typevar", {}).get("relname", "")]
        script.now.made_types[names[-1]] = None
    elif kind == "CreateFunctionStmt":
        script.now.made_functions[string_list(fields["funcname"])[-1]] = _volatility(fields)
    elif kind == "AlterEnumStmt" and fields.get("newVal") and not fields.get("oldVal"):
        script.now.made_values.add(fields["newVal"])
    elif kind == "VariableSetStmt":
        _set(fields, script)


def _volatility(fields: Node) -> str:
    for option in fields.get("options", ()):
        if option["DefElem"]["defname"] == "volatility":
            word: str = option["DefElem"]["arg"]["String"]["sval"]
            return word[0]
    return "v"


def _made(target: Target, fields: Node, script: Script) -> None:
    if fields.get("if_not_exists") and script.named(target.schema, target.name).relation is not None:
        return  # it was there before, or may have been
    script.now.made.add(target.key)
    table = script.now.tables[target.key] = Table(known=True)
    for element in fields.get("tableElts", ()):
        if "ColumnDef" in element:
            _column(table, target, element["ColumnDef"], script)
        elif "Constraint" in element:
            constraint = dict(element["Constraint"])
            constraint.pop("skip_validation", None)  # there is nothing to validate in a new table
            _constraint(table, target, constraint, script)


def _column(table: Table, target: Target, definition: Node, script: Script) -> None:
    name = definition["colname"]
    type_name = definition.get("typeName", {})
    column = table.columns[name] = Column(script.qualified_type(type_names(type_name)), typmod(type_name))
    for each in definition.get("constraints", ()):
        constraint = dict(each["Constraint"])
        kind = constraint.get("contype", "CONSTR_NULL")
        if kind in ("CONSTR_NOTNULL", "CONSTR_PRIMARY", "CONSTR_IDENTITY"):
            column.not_null = True
        if kind == "CONSTR_GENERATED":
            column.virtual = constraint.get("generated_kind") == "v"
        if kind == "CONSTR_FOREIGN":
            constraint["fk_attrs"] = [{"String": {"sval": name}}]
        if kind in ("CONSTR_UNIQUE", "CONSTR_PRIMARY"):
            constraint["keys"] = [{"String": {"sval": name}}]
        if kind in ("CONSTR_CHECK", "CONSTR_FOREIGN", "CONSTR_UNIQUE", "CONSTR_PRIMARY"):
            constraint.pop("skip_validation", None)
            _constraint(table, target, constraint, script, column=name)


def _constraint(table: Table, target: Target, constraint: Node, script: Script, *, column: str = "") -> None:
    kind = constraint.get("contype")
    valid = not not_checked(constraint)
    if kind == "CONSTR_CHECK":
        name = constraint.get("conname") or label(target.name, column, "check")
        table.checks[name] = Check(constraint["raw_expr"], valid, script.transaction)
    elif kind == "CONSTR_NOTNULL":
        columns = tuple(string_list(constraint.get("keys", ())))
        name = constraint.get("conname") or label(target.name, *columns, "not_null")
        if columns:
            table.checks[name] = Check(is_not_null(columns), valid, script.transaction, True)
    elif kind == "CONSTR_FOREIGN":
        columns = tuple(string_list(constraint.get("fk_attrs", ())))
        name = constraint.get("conname") or label(target.name, *columns, "fkey")
        references = script.target(constraint["pktable"])
        table.foreign_keys[name] = ForeignKey(references, columns, valid, script.transaction)
    elif kind in ("CONSTR_UNIQUE", "CONSTR_PRIMARY", "CONSTR_EXCLUSION"):
        columns = tuple(string_list(constraint.get("keys", ())))
        index = constraint.get("indexname")
        if index is not None:
            columns = table.indexes.get(index, ())
        suffix = {"CONSTR_UNIQUE": "key", "CONSTR_PRIMARY": "pkey"}.get(kind, "excl")
        parts = () if kind == "CONSTR_PRIMARY" else columns
        name = constraint.get("conname") or label(target.name, *parts, suffix)
        table.keys[name] = columns
        table.indexes[name] = columns
        if kind == "CONSTR_PRIMARY":
            for each in columns:
                table.columns.setdefault(each, Column(None)).not_null = True


def _indexed(fields: Node, script: Script) -> None:
    target = script.target(fields["relation"])
    columns = tuple(each["IndexElem"].get("name", "") for each in fields.get("indexParams", ()))
    name = fields.get("idxname") or label(target.name, *columns, "idx")
    script.table(target).indexes[name] = tuple(column for column in columns if column)
    script.now.index_tables[target.schema, name] = target


def _altered(target: Target, node: Node, script: Script) -> None:
    table = script.table(target)
    verb, name = node.get("subtype", "AT_AddColumn"), node.get("name", "")
    if verb == "AT_AddColumn":
        _column(table, target, node["def"]["ColumnDef"], script)
    elif verb == "AT_DropColumn":
        table.columns.pop(name, None)
    elif verb in ("AT_SetNotNull", "AT_DropNotNull"):
        table.columns.setdefault(name, Column(None)).not_null = verb == "AT_SetNotNull"
    elif verb == "AT_AlterColumnType":
        type_name = node["def"]["ColumnDef"]["typeName"]
        column = table.columns.setdefault(name, Column(None))
        column.type, column.typmod = script.qualified_type(type_names(type_name)), typmod(type_name)
    elif verb == "AT_AddConstraint":
        _constraint(table, target, node["def"]["Constraint"], script)
    elif verb == "AT_ValidateConstraint":
        if name in table.checks:
            table.checks[name].valid = True
        elif (key := table.foreign_keys.get(name)) is not None:
            table.foreign_keys[name] = ForeignKey(key.references, key.columns, True, key.added_in)
    elif verb == "AT_DropConstraint":
        table.checks.pop(name, None)
        table.foreign_keys.pop(name, None)
        table.keys.pop(name, None)
        table.indexes.pop(name, None)


def _renamed(fields: Node, script: Script) -> None:
    kind = fields.get("renameType")
    if "relation" not in fields:
        return
    target = script.target(fields["relation"])
    if kind in ("OBJECT_TABLE", "OBJECT_MATVIEW", "OBJECT_VIEW"):
        table = script.table(target)
        moved = (target.schema, fields["newname"])
        script.now.tables[moved] = table
        script.now.tables.pop(target.key, None)
        if target.key in script.now.made:
            script.now.made.discard(target.key)
            script.now.made.add(moved)
    elif kind == "OBJECT_COLUMN" and (column := script.table(target).columns.pop(fields["subname"], None)):
        script.table(target).columns[fields["newname"]] = column


def _dropped(fields: Node, script: Script) -> None:
    for each in fields.get("objects", ()):
        names = string_list(each.get("List", {}).get("items", ()))
        if not names:
            continue
        if fields["removeType"] in ("OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW"):
            target = script.named(names[-2] if len(names) > 1 else None, names[-1])
            script.now.made.discard(target.key)
            script.now.tables.pop(target.key, None)


def _set(fields: Node, script: Script) -> None:
    name = fields.get("name", "")
    values = [each.get("A_Const", {}) for each in fields.get("args", ())]
    if name == "search_path" and values:
        path = tuple(v["sval"].get("sval", "") for v in values if "sval" in v)
        script.now.search_path = path or None
    elif name.lower() == "timezone":
        script.set_utc(_is_utc(fields, values), local=bool(fields.get("is_local")))
    elif name in ("lock_timeout", "statement_timeout"):
        if fields.get("kind", "VAR_SET_VALUE") != "VAR_SET_VALUE" or not values:
            script.set_lock_timeout(
                False, local=bool(fields.get("is_local"))
            ) if name == "lock_timeout" else None
            return
        text = str(values[0].get("sval", {}).get("sval", values[0].get("ival", {}).get("ival", 0)))
        on = text.strip().lower() not in _OFF
        if name == "lock_timeout" or on:
            script.set_lock_timeout(on, local=bool(fields.get("is_local")))


def _is_utc(fields: Node, values: list[Node]) -> bool:
    if fields.get("kind", "VAR_SET_VALUE") != "VAR_SET_VALUE" or len(values) != 1 or "isnull" in values[0]:
        return False
    value = values[0]
    if "sval" in value:
        return value["sval"].get("sval", "").lower() in _UTC
    return "ival" in value and not value["ival"].get("ival")
