"""Rows changed in a migration: backfills."""

from __future__ import annotations

from collections.abc import Iterator

from guarddb.lint.acts import Act, Lock, Remark, Said, Target, Work
from guarddb.lint.rules.expressions import column_of, columns_of, conjuncts
from guarddb.lint.rules.hints import backfill, script_of
from guarddb.lint.script import Script
from guarddb.lint.sizes import size_of
from guarddb.lint.text import StatementText
from guarddb.tree import Node, nodes


def update(statement: StatementText, script: Script) -> Iterator[Said]:
    """An UPDATE or DELETE of a whole table is one long transaction: each row stays locked until the end, and VACUUM waits for
    it."""
    fields = statement.fields
    target = script.target(fields["relation"])
    where = fields.get("whereClause")
    if _finds_few(target, where, script):
        yield Act(target, Lock.ROW_EXCLUSIVE, rule="")
        return
    yield Act(target, Lock.ROW_EXCLUSIVE, Work.SCAN, rule="")
    word = "UPDATE" if statement.kind == "UpdateStmt" else "DELETE"
    if script.is_new(target) or any(True for _ in script.exclusively_held()):
        return  # told by `migrations.py`, with the lock that is held
    size = size_of(target, script)
    estimate = f" ({size.shown(None)})" if size.shown(None) else ""
    yield Remark(
        "info" if size.tiny else "warning",
        "unbatched_backfill",
        f"{word} of a whole table in one transaction: every row of {target.sql}{estimate} stays locked against other writers "
        f"until the end",
        batched(statement, target, script),
        target,
        fixes=True,
    )


def batched(statement: StatementText, target: Target, script: Script) -> str | None:
    """The same UPDATE in batches; None where doing a row twice would do harm, or where other tables are involved."""
    fields = statement.fields
    if statement.kind != "UpdateStmt" or {"fromClause", "withClause", "returningClause"} & fields.keys():
        return None
    if any(kind in ("SubLink", "ParamRef") for kind, _ in nodes(fields)) or "alias" in fields["relation"]:
        return None
    targets = [each["ResTarget"] for each in fields["targetList"]]
    assigned = {each.get("name") for each in targets}
    if any("val" not in each or columns_of(each["val"]) & assigned for each in targets):
        return None  # n = n + 1: a row that moves to a later block would be counted twice
    upper = [token.name for token in statement.tokens]
    if "SET" not in upper:
        return None
    begin = statement.tokens[upper.index("SET")].end + 1
    assignment = statement.text[begin:]
    condition = None
    if fields.get("whereClause") is not None:
        at = statement.tokens[len(upper) - 1 - upper[::-1].index("WHERE")]
        assignment, condition = statement.text[begin : at.start], statement.text[at.end + 1 :].strip()
    return script_of(backfill(target, assignment.strip(), condition, script))


def _finds_few(target: Target, where: Node | None, script: Script) -> bool:
    """Whether the condition is an equality on a key, so that few rows are touched."""
    if where is None:
        return False
    keys = [set(target.relation.primary_key)] if target.relation is not None else []
    keys += [set(columns) for columns in script.table(target).keys.values()]
    compared: set[str] = set()
    for part in conjuncts(where):
        comparison = part.get("A_Expr", {})
        operator = (comparison.get("name") or [{}])[-1].get("String", {}).get("sval")
        if operator == "=" and comparison.get("kind") in ("AEXPR_OP", "AEXPR_IN"):
            for side in ("lexpr", "rexpr"):
                if (name := column_of(comparison.get(side))) is not None:
                    compared.add(name)
    if not keys and target.relation is None:
        return "id" in compared
    return any(key and key <= compared for key in keys)


def insert(statement: StatementText, script: Script) -> Iterator[Said]:
    """INSERT … SELECT works for as long as there are rows; nobody waits for it, unless a lock is held."""
    fields = statement.fields
    query = fields.get("selectStmt", {}).get("SelectStmt", {})
    work = Work.SCAN if query.get("fromClause") else None
    yield Act(script.target(fields["relation"]), Lock.ROW_EXCLUSIVE, work, rule="")
