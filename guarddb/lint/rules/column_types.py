"""ALTER COLUMN … TYPE: which changes rewrite the table, and which only the catalog (ATColumnChangeRequiresRewrite in
tablecmds.c)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from guarddb.lint.acts import Act, Lock, Said, Target, Work
from guarddb.lint.rules.command import Command
from guarddb.lint.rules.expressions import column_of, columns_of
from guarddb.lint.rules.hints import backfill, script_of
from guarddb.lint.script import Column, Script, Table, type_names
from guarddb.lint.text import label, shown
from guarddb.tree import Node

#: Casts that change nothing in a value: pg_cast with castmethod 'b', without the types of the system's own catalogs.
_BINARY: Mapping[str, frozenset[str]] = {
    "text": frozenset({"varchar", "bpchar"}),
    "varchar": frozenset({"text", "bpchar"}),
    "xml": frozenset({"text", "varchar", "bpchar"}),
    "cidr": frozenset({"inet"}),
    "bit": frozenset({"varbit"}),
    "varbit": frozenset({"bit"}),
    "int4": frozenset({"oid", "regclass", "regtype", "regproc", "regprocedure", "regrole", "regnamespace"}),
    "oid": frozenset({"int4", "regclass", "regtype", "regproc", "regprocedure", "regrole", "regnamespace"}),
    "regclass": frozenset({"int4", "oid"}),
    "regtype": frozenset({"int4", "oid"}),
    "regproc": frozenset({"int4", "oid", "regprocedure"}),
    "regprocedure": frozenset({"int4", "oid", "regproc"}),
    "regrole": frozenset({"int4", "oid"}),
    "regnamespace": frozenset({"int4", "oid"}),
}

#: Types whose modifier is a length or precision that may grow without a rewrite (their cast functions have a planner support
#: function).
_GROWING = frozenset({"varchar", "varbit", "numeric", "timestamp", "timestamptz", "time", "timetz"})
#: The default precision of times, and the offset of a varchar's or numeric's modifier.
_MICROSECONDS, _HEADER = 6, 4


def change_type(command: Command, script: Script) -> Iterator[Said]:
    """A change that only renames or widens what is stored changes the catalog; every other one rewrites the table and its
    indexes.

    A CHECK on the column is verified again either way.
    """
    target, name = command.target, command.node["name"]
    definition = command.node["def"]["ColumnDef"]
    wanted = Column(script.qualified_type(type_names(definition["typeName"])), typmod(definition["typeName"]))
    using = definition.get("raw_default")
    text = _type_text(command)
    table = script.table(target)
    column = table.columns.get(name)
    free = column is not None and _is_free(column, wanted, using, definition["typeName"], name, script)
    certain = column is not None and column.type is not None
    if not certain and using is None and _may_be_free(wanted):
        rewrite: Work | None = Work.REWRITE
    else:
        certain, rewrite = True, None if free else Work.REWRITE
    was = f" from {column.type.removeprefix('pg_catalog.')}" if column is not None and column.type else ""
    why = f"ALTER COLUMN {shown(name)} TYPE {text}{was}"
    if rewrite is None and _is_checked(table, name):
        why += ", for which its CHECK is verified again"
        act = Act(target, Lock.ACCESS_EXCLUSIVE, Work.SCAN, "unsafe_type_change", why)
        yield from command.spread(act, script)
        return
    safe = script_of(_new_column(target, name, text, using, command, script))
    act = Act(target, Lock.ACCESS_EXCLUSIVE, rewrite, "unsafe_type_change", why, safe, certain)
    yield from command.spread(act, script)
    for key in table.foreign_keys.values():
        if name in key.columns:
            # The constraint is made anew: dropped and added.
            yield Act(key.references, Lock.ACCESS_EXCLUSIVE, rule="", why=why, implied=True)
    if column is not None and script.referencing(target) and name in _keyed(target):
        for other in script.referencing(target):
            yield Act(other, Lock.ACCESS_EXCLUSIVE, rule="", why=why, implied=True)


def _is_checked(table: Table, column: str) -> bool:
    """Whether a CHECK (in PostgreSQL 18 NOT NULL is a constraint as well, which stays as it is) is about the column."""
    return any(
        not check.only_not_null and column in columns_of(check.condition) for check in table.checks.values()
    )


def _keyed(target: Target) -> set[str]:
    if target.relation is None:
        return set()
    return {c for k in target.relation.constraints if k.kind in "pu" for c in k.columns}


def _type_text(command: Command) -> str:
    upper = command.text.upper()
    at = upper.find(" TYPE ")
    if at < 0:
        return command.text
    end = next(
        (e for word in (" USING ", " USING(", " COLLATE ") if (e := upper.find(word, at)) > 0), len(upper)
    )
    return command.text[at + 6 : end].strip()


def _may_be_free(wanted: Column) -> bool:
    """Whether the old type is likely one that is stored in the same way: a varchar that gets longer, or becomes text."""
    return wanted.type in ("pg_catalog.text", "pg_catalog.varchar")


def _is_free(
    old: Column, new: Column, using: Node | None, type_name: Node, name: str, script: Script
) -> bool:
    if old.type is None or new.type is None:
        return False
    steps = [new]
    if using is not None:
        # USING c, USING c::text: conversions one after the other, each of which must be free.
        between: list[Column] = []
        expression = using
        while (cast := expression.get("TypeCast")) is not None:
            inner = cast["typeName"]
            between.append(Column(script.qualified_type(type_names(inner)), typmod(inner)))
            expression = cast["arg"]
        if column_of(expression) != name:
            return False
        steps = [*reversed(between), new]
    for step in steps:
        if step.type is None or not _step_is_free(old, step, script):
            return False
        old = step
    return True


def _step_is_free(old: Column, new: Column, script: Script) -> bool:
    assert old.type is not None
    assert new.type is not None
    if new.type == old.type:
        return new.typmod in (-1, old.typmod) or _grows(old, new)
    domain = script.domain(new.type.split("."))
    if domain is not None:
        # Without constraints a domain is its base type by another name.
        return not domain.constrained and _step_is_free(old, Column(domain.base_type, domain.typmod), script)
    domain = script.domain(old.type.split("."))
    if domain is not None:
        return _step_is_free(Column(domain.base_type), new, script)  # its modifier is forgotten on the way
    source, wanted = old.type.removeprefix("pg_catalog."), new.type.removeprefix("pg_catalog.")
    if {source, wanted} == {"timestamp", "timestamptz"} and script.is_utc:
        return new.typmod in (-1, _MICROSECONDS)
    if wanted not in _BINARY.get(source, ()):
        return False
    if new.typmod == -1:
        return wanted != "bpchar" or source != "bpchar"
    # A varchar(10) that becomes… a text of no limit is free; the other way every value is measured.
    return wanted in ("varchar", "varbit") and source in ("varchar", "varbit") and _grows(old, new)


def _grows(old: Column, new: Column) -> bool:
    kind = (new.type or "").removeprefix("pg_catalog.")
    if kind not in _GROWING:
        return False
    if new.typmod == -1:
        return True
    if kind in ("timestamp", "timestamptz", "time", "timetz"):
        had = _MICROSECONDS if old.typmod == -1 else old.typmod
        return new.typmod >= had
    if old.typmod == -1:
        return False
    if kind == "numeric":
        had_digits, had_scale = _numeric(old.typmod)
        digits, scale = _numeric(new.typmod)
        return scale == had_scale and digits >= had_digits
    return new.typmod >= old.typmod


def _numeric(modifier: int) -> tuple[int, int]:
    inner = modifier - _HEADER
    return inner >> 16, inner & 0x7FF


def typmod(type_name: Node) -> int:
    """A type's modifier, as PostgreSQL would store it; -1 without one, -2 for one that is not understood."""
    modifiers = [
        each.get("A_Const", {}).get("ival", {}).get("ival", 0) if "ival" in each.get("A_Const", {}) else None
        for each in type_name.get("typmods", ())
    ]
    if not modifiers:
        return -1
    if any(modifier is None for modifier in modifiers):
        return -2
    kind = (type_names(type_name) or [""])[-1]
    first = modifiers[0] or 0
    if kind in ("varchar", "bpchar"):
        return first + _HEADER
    if kind == "numeric":
        return ((first << 16) | ((modifiers[1] or 0) & 0x7FF if len(modifiers) > 1 else 0)) + _HEADER
    if kind == "interval":
        return -2
    return first


def _new_column(
    target: Target, name: str, text: str, using: Node | None, command: Command, script: Script
) -> list[str]:
    """A second column of the new type, kept equal by a trigger, filled in batches, and swapped in a moment."""
    column, fresh = shown(name), shown(label(name, "new"))
    function = label(target.name, name, "sync")
    value = f"{column}::{text}"
    upper = command.text.upper()
    at = upper.find(" USING")
    if using is not None and at > 0:
        value = command.text[at + 6 :].strip()
    new_value = value.replace(column, f"NEW.{column}") if using is not None else f"NEW.{value}"
    return [
        f"ALTER TABLE {target.sql} ADD COLUMN {fresh} {text};",
        (
            f"CREATE FUNCTION {shown(function)}() RETURNS trigger LANGUAGE plpgsql AS\n"
            f"  $$BEGIN NEW.{fresh} := {new_value}; RETURN NEW; END$$;"
        ),
        (
            f"CREATE TRIGGER {shown(function)} BEFORE INSERT OR UPDATE ON {target.sql}\n"
            f"  FOR EACH ROW EXECUTE FUNCTION {shown(function)}();"
        ),
        *backfill(target, f"{fresh} = {value}", f"{fresh} IS NULL AND {column} IS NOT NULL", script),
        "-- then indexes, constraints and defaults of the new column; and when clients are ready for it:",
        "BEGIN;",
        f"DROP TRIGGER {shown(function)} ON {target.sql};",
        f"ALTER TABLE {target.sql} RENAME COLUMN {column} TO {shown(label(name, 'old'))};",
        f"ALTER TABLE {target.sql} RENAME COLUMN {fresh} TO {column};",
        "COMMIT;",
        f"DROP FUNCTION {shown(function)}();",
    ]
