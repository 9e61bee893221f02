"""Partitions attached, detached, made in place."""

from __future__ import annotations

from collections.abc import Iterator

from guarddb.lint.acts import Act, Lock, Remark, Said, Target, Work
from guarddb.lint.rules.command import Command
from guarddb.lint.rules.expressions import column_of, conjuncts, proved_not_null
from guarddb.lint.rules.hints import script_of
from guarddb.lint.script import Script
from guarddb.lint.text import StatementText, label, shown
from guarddb.sql.names import literal
from guarddb.tree import Node


def attach(command: Command, script: Script) -> Iterator[Said]:
    """ATTACH PARTITION reads the whole new partition under ACCESS EXCLUSIVE, unless a validated CHECK proves that its rows
    belong there.

    The default partition is read as well: a row of the new one might be in it.
    """
    parent = command.target
    part = command.node["def"]["PartitionCmd"]
    partition, bound = script.target(part["name"]), part.get("bound", {})
    yield Act(parent, Lock.SHARE_UPDATE_EXCLUSIVE, rule="")
    why = f"ATTACH PARTITION {partition.sql} without a CHECK that proves its rows"
    proved = _proved(parent, partition, bound, script)
    safe = _safe_attach(command, parent, partition, bound, script)
    for each in (partition, *script.children(partition)):
        yield Act(
            each, Lock.ACCESS_EXCLUSIVE, None if proved else Work.SCAN, "partition_scan", why, safe,
            certain=parent.relation is not None or safe is None, implied=each.key != partition.key,
        )  # fmt: skip
    yield from _default_partition(parent, partition, "ATTACH PARTITION", script)
    for key in script.table(parent).foreign_keys.values():
        yield Act(key.references, Lock.SHARE_ROW_EXCLUSIVE, rule="", implied=True)
        yield Act(partition, Lock.ACCESS_EXCLUSIVE, Work.FOREIGN_KEY, "partition_scan",
                  f"ATTACH PARTITION {partition.sql}, which takes over the foreign key to {key.references.sql}")  # fmt: skip
    missing = _missing_indexes(parent, partition, script)
    if missing:
        yield Act(
            partition, Lock.ACCESS_EXCLUSIVE, Work.INDEX, "index_under_lock",
            f"ATTACH PARTITION {partition.sql}, which lacks indexes of {parent.sql}",
            script_of([*missing, command.statement.text]),
        )  # fmt: skip


def _default_partition(parent: Target, new: Target, why: str, script: Script) -> Iterator[Act]:
    for child in script.children(parent):
        if (
            child.relation is not None
            and child.relation.partition_bound == "DEFAULT"
            and child.key != new.key
        ):
            if child.relation.ancestors[:1] == (parent.relation.oid if parent.relation else 0,):
                yield Act(
                    child, Lock.ACCESS_EXCLUSIVE, Work.SCAN, "partition_scan",
                    f"{why} beside the default partition {child.sql}, whose rows are looked through for some that belong to "
                    f"the "
                    f"new one",
                )  # fmt: skip


def _missing_indexes(parent: Target, partition: Target, script: Script) -> list[str]:
    if parent.relation is None:
        return []
    has = set(script.table(partition).indexes.values())
    return [
        f"CREATE {'UNIQUE ' if index.unique else ''}INDEX CONCURRENTLY {shown(label(partition.name, *index.columns, 'idx'))} "
        f"ON {partition.sql} ({', '.join(shown(column) for column in index.columns)})"
        for index in parent.relation.indexes
        if index.columns not in has and index.columns
    ]


# --- what a CHECK proves ---


def _key_column(parent: Target) -> tuple[str, str] | None:
    """(strategy, column) of a table that is partitioned by one plain column."""
    key = parent.relation.partition_key if parent.relation is not None else None
    if key is None:
        return None
    strategy, _, rest = key.partition(" ")
    column = rest.strip()[1:-1].strip().strip('"')
    return (strategy, column) if column.replace("_", "").isalnum() else None


def _wanted(parent: Target, bound: Node) -> tuple[str, list[str]] | None:
    """The key column, and the conditions that its rows must meet, as SQL."""
    key = _key_column(parent)
    if key is None:
        return None
    strategy, column = key
    name = shown(column)
    if strategy == "RANGE" and bound.get("strategy", "r") == "r":
        low, high = bound.get("lowerdatums", ()), bound.get("upperdatums", ())
        if len(low) != 1 or len(high) != 1:
            return None
        conditions = []
        for datum, sign in ((low[0], ">="), (high[0], "<")):
            special = column_of(datum)
            if special in ("minvalue", "maxvalue"):
                continue
            value = _constant(datum)
            if value is None:
                return None
            conditions.append(f"{name} {sign} {value}")
        return column, conditions
    if strategy == "LIST":
        values = [_constant(datum) for datum in bound.get("listdatums", ())]
        if not values or any(value in (None, "NULL") for value in values):
            return None
        if len(values) == 1:
            return column, [f"{name} = {values[0]}"]
        return column, [f"{name} IN ({', '.join(str(value) for value in values)})"]
    return None


def _constant(node: Node) -> str | None:
    """A constant as SQL, without its cast; None for anything else."""
    while "TypeCast" in node:
        node = node["TypeCast"]["arg"]
    constant = node.get("A_Const")
    if constant is None:
        return None
    if constant.get("isnull"):
        return "NULL"
    if "ival" in constant:
        return str(constant["ival"].get("ival", 0))
    if "sval" in constant:
        return literal(constant["sval"].get("sval", "")).strip()
    if "fval" in constant:
        return str(constant["fval"]["fval"])
    return None


def _proved(parent: Target, partition: Target, bound: Node, script: Script) -> bool:
    wanted = _wanted(parent, bound)
    if wanted is None:
        return False
    column, conditions = wanted
    table = script.table(partition)
    known = table.columns.get(column)
    if not ((known is not None and known.not_null) or proved_not_null(table.checks, column)):
        return False
    parts = [part for check in table.checks.values() if check.valid for part in conjuncts(check.condition)]
    return all(any(_implies(part, condition) for part in parts) for condition in conditions)


def _implies(part: Node, condition: str) -> bool:
    """Whether a part of a CHECK says the same as `column >= constant`."""
    comparison = part.get("A_Expr", {})
    column = column_of(_bare(comparison.get("lexpr", {})))
    if column is None:
        return False
    right = comparison.get("rexpr", {})
    operator = (comparison.get("name") or [{}])[-1].get("String", {}).get("sval", "")
    if comparison.get("kind") == "AEXPR_IN" and operator == "=":
        items = right.get("List", {}).get("items", ())
    elif comparison.get("kind") == "AEXPR_OP_ANY" and operator == "=":
        items = _bare(right).get("A_ArrayExpr", {}).get("elements", ())
    else:
        return f"{shown(column)} {operator} {_constant(right)}" == condition
    return f"{shown(column)} IN ({', '.join(str(_constant(item)) for item in items)})" == condition


def _bare(node: Node) -> Node:
    while "TypeCast" in node:
        node = node["TypeCast"]["arg"]
    return node


def _safe_attach(
    command: Command, parent: Target, partition: Target, bound: Node, script: Script
) -> str | None:
    wanted = _wanted(parent, bound)
    if wanted is None:
        return None
    column, conditions = wanted
    name = shown(label(partition.name, "bound", "check"))
    proof = " AND ".join([f"{shown(column)} IS NOT NULL", *conditions])
    return script_of(
        [
            f"ALTER TABLE {partition.sql} ADD CONSTRAINT {name} CHECK ({proof}) NOT VALID",
            f"ALTER TABLE {partition.sql} VALIDATE CONSTRAINT {name}",
            f"ALTER TABLE {parent.sql} {command.text}",
            f"ALTER TABLE {partition.sql} DROP CONSTRAINT {name}",
        ]
    )


def detach(command: Command, script: Script) -> Iterator[Said]:
    """DETACH PARTITION takes ACCESS EXCLUSIVE on both for a moment; CONCURRENTLY does not, outside of a transaction."""
    part = command.node["def"]["PartitionCmd"]
    parent, partition = command.target, script.target(part["name"])
    if part.get("concurrent"):
        if script.in_transaction:
            yield Remark(
                "error",
                "concurrently_in_transaction",
                "DETACH PARTITION CONCURRENTLY cannot run inside a transaction block; PostgreSQL refuses it",
                script_of(["COMMIT", command.statement.text, "BEGIN"]),
            )
        yield Act(parent, Lock.SHARE_UPDATE_EXCLUSIVE, momentary=True)
        # Its second transaction takes the partition, once everybody has left it.
        yield Act(partition, Lock.ACCESS_EXCLUSIVE, why="DETACH PARTITION CONCURRENTLY", implied=True)
        return
    why = "DETACH PARTITION without CONCURRENTLY"
    yield Act(parent, Lock.ACCESS_EXCLUSIVE, why=why)
    yield Act(partition, Lock.ACCESS_EXCLUSIVE, why=why, implied=True)
    for each in script.children(partition):
        yield Act(each, Lock.ACCESS_EXCLUSIVE, why=why, implied=True)
    for child in script.children(parent):
        if child.relation is not None and child.relation.partition_bound == "DEFAULT":
            yield Act(child, Lock.ACCESS_EXCLUSIVE, why=why, implied=True)
    for key in script.table(partition).foreign_keys.values():
        yield Act(key.references, Lock.SHARE_ROW_EXCLUSIVE, rule="", why=why, implied=True)
    has_default = any(
        child.relation is not None and child.relation.partition_bound == "DEFAULT"
        for child in script.children(parent)
    )
    yield Remark(
        "warning",
        "missing_concurrently",
        f"{why}: an ACCESS EXCLUSIVE lock on {parent.sql} and {partition.sql} waits for every running query of the whole "
        f"table, "
        f"and all "
        "others wait behind it",
        None if has_default else script_of([f"ALTER TABLE {parent.sql} {command.text} CONCURRENTLY"]),
        parent,
        fixes=True,
    )


def create_partition(statement: StatementText, script: Script) -> Iterator[Said]:
    """CREATE TABLE … PARTITION OF takes ACCESS EXCLUSIVE on the parent, and reads its default partition."""
    fields = statement.fields
    parent = script.target(fields["inhRelations"][0]["RangeVar"])
    new = script.to_make(fields["relation"])
    why = "CREATE TABLE … PARTITION OF"
    yield Act(parent, Lock.ACCESS_EXCLUSIVE, why=why)
    if fields.get("partbound", {}).get("is_default") is not True:
        yield from _default_partition(parent, new, why, script)
    for key in script.table(parent).foreign_keys.values():
        yield Act(key.references, Lock.SHARE_ROW_EXCLUSIVE, rule="", implied=True)
