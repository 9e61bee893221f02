"""Constraints added, validated, dropped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from guarddb.lint.acts import Act, Lock, Remark, Said, Target, Work
from guarddb.lint.rules.command import Command
from guarddb.lint.rules.expressions import proved_not_null
from guarddb.lint.rules.hints import by_index, not_null, script_of, validated
from guarddb.lint.script import Script
from guarddb.lint.text import label, shown
from guarddb.sql.names import string_list
from guarddb.tree import Node

_WORDS = {"CONSTR_UNIQUE": "UNIQUE", "CONSTR_PRIMARY": "PRIMARY KEY", "CONSTR_EXCLUSION": "EXCLUDE"}


def not_checked(constraint: Node) -> bool:
    """NOT VALID, or NOT ENFORCED (PostgreSQL 18): nothing is read."""
    enforced = constraint.get("is_enforced", False)
    return bool(constraint.get("skip_validation")) or (
        constraint.get("contype") in ("CONSTR_CHECK", "CONSTR_FOREIGN") and not enforced
    )


def add_constraint(command: Command, script: Script) -> Iterator[Said]:
    """A constraint is checked against every row while the lock is held, unless it is NOT VALID or comes with an index (USING
    INDEX)."""
    constraint = command.node["def"]["Constraint"]
    kind = constraint["contype"]
    if kind == "CONSTR_CHECK":
        yield from _check(command, constraint, script)
    elif kind == "CONSTR_FOREIGN":
        yield from _foreign_key(command, constraint, script)
    elif kind == "CONSTR_NOTNULL":
        yield from _not_null(command, constraint, script)
    elif kind in _WORDS:
        yield from _key(command, constraint, script)
    else:
        yield Act(command.target, Lock.ACCESS_EXCLUSIVE, why=command.text)


def _name(command: Command, constraint: Node, *parts: str) -> str:
    name: str = constraint.get("conname") or label(command.target.name, *parts)
    return name


def _definition(command: Command, word: str) -> str | None:
    """The text from CHECK or FOREIGN KEY on, without an ADD CONSTRAINT before it."""
    at = command.text.upper().find(word)
    return command.text[at:].strip() if at >= 0 else None


def _check(command: Command, constraint: Node, script: Script) -> Iterator[Said]:
    target = command.target
    work = None if not_checked(constraint) else Work.SCAN
    definition = _definition(command, "CHECK")
    safe = definition and script_of(validated(target, _name(command, constraint, "check"), definition))
    act = Act(
        target,
        Lock.ACCESS_EXCLUSIVE,
        work,
        "missing_not_valid",
        "ADD CONSTRAINT … CHECK" + (" without NOT VALID" if work is not None else ""),
        safe,
    )
    for each in command.spread(act, script):
        # NO INHERIT is nothing to the children; PostgreSQL 18 locks them all the same.
        if not (each.implied and constraint.get("is_no_inherit")):
            yield each
        elif script.major is None or script.at_least(18):
            yield replace(each, work=None)


def _not_null(command: Command, constraint: Node, script: Script) -> Iterator[Said]:
    (column,) = string_list(constraint.get("keys", ())) or ("?",)
    for each in (command.target, *(script.children(command.target) if command.recurses else ())):
        table = script.table(each)
        known = table.columns.get(column)
        done = (known is not None and known.not_null) or proved_not_null(table.checks, column)
        yield Act(
            each, Lock.ACCESS_EXCLUSIVE, None if done or not_checked(constraint) else Work.SCAN, "missing_not_valid",
            "ADD CONSTRAINT … NOT NULL without NOT VALID", script_of(not_null(command.target, column, script)),
            implied=each.key != command.target.key,
        )  # fmt: skip


def _foreign_key(command: Command, constraint: Node, script: Script) -> Iterator[Said]:
    """A foreign key locks both tables: writers of either wait until every row's key has been looked up."""
    target, other = command.target, script.target(constraint["pktable"])
    work = None if not_checked(constraint) else Work.FOREIGN_KEY
    how = " without NOT VALID" if work is not None else ""
    why = f"ADD CONSTRAINT … FOREIGN KEY{how} (which locks {other.sql} in the same way)"
    columns = string_list(constraint.get("fk_attrs", ()))
    definition = _definition(command, "FOREIGN KEY")
    name = _name(command, constraint, *columns, "fkey")
    safe = definition and script_of(validated(target, name, definition))
    for each in (target, *(script.children(target) if _is_partitioned(target) else ())):
        yield Act(
            each,
            Lock.SHARE_ROW_EXCLUSIVE,
            work,
            "missing_not_valid",
            why,
            safe,
            implied=each.key != target.key,
        )
    for each in (other, *(script.children(other) if _is_partitioned(other) else ())):
        yield Act(each, Lock.SHARE_ROW_EXCLUSIVE, rule="", why=why, implied=True)


def _is_partitioned(target: Target) -> bool:
    return target.relation is not None and target.relation.kind == "p"


def _key(command: Command, constraint: Node, script: Script) -> Iterator[Said]:
    """UNIQUE, PRIMARY KEY and EXCLUDE build an index under ACCESS EXCLUSIVE, unless USING INDEX hands them one.

    A primary key makes its columns NOT NULL as well, which reads the table where they are not yet.
    """
    target, kind = command.target, constraint["contype"]
    word, index = _WORDS[kind], constraint.get("indexname")
    columns = string_list(constraint.get("keys", ()))
    table = script.table(target)
    if index is not None:
        columns = list(table.indexes.get(index, ()))
    suffix = {"CONSTR_UNIQUE": "key", "CONSTR_PRIMARY": "pkey"}.get(kind, "excl")
    name = _name(command, constraint, *(columns if kind != "CONSTR_PRIMARY" else ()), suffix)
    nullable = [
        column
        for column in columns
        if kind == "CONSTR_PRIMARY"
        and not ((known := table.columns.get(column)) is not None and known.not_null)
        and not proved_not_null(table.checks, column)
    ]
    steps = [line for column in nullable for line in not_null(target, column, script)]
    if index is None:
        more = _including(constraint) + _nulls(constraint)
        safe = None
        if kind != "CONSTR_EXCLUSION" and not _is_partitioned(target):
            steps += by_index(target, name, columns, word, more=more)
            safe = script_of(steps)
        why = f"ADD {word}" + ("" if safe else ", for which PostgreSQL has no form that lets others go on")
        yield from command.spread(
            Act(target, Lock.ACCESS_EXCLUSIVE, Work.INDEX, "index_under_lock", why, safe), script
        )
    else:
        yield Act(target, Lock.ACCESS_EXCLUSIVE, why=command.text)
    if nullable or (kind == "CONSTR_PRIMARY" and index is not None and not columns):
        listed = ", ".join(shown(column) for column in nullable) or "its columns"
        steps.append(f"ALTER TABLE {target.sql} {command.text}")
        yield Act(
            target, Lock.ACCESS_EXCLUSIVE, Work.SCAN, "not_null_scan" if index is not None else "",
            f"ADD PRIMARY KEY, which makes {listed} NOT NULL", script_of(steps) if nullable else None, certain=table.known,
        )  # fmt: skip


def _including(constraint: Node) -> str:
    columns = string_list(constraint.get("including", ()))
    return f" INCLUDE ({', '.join(shown(column) for column in columns)})" if columns else ""


def _nulls(constraint: Node) -> str:
    return " NULLS NOT DISTINCT" if constraint.get("nulls_not_distinct") else ""


def validate_constraint(command: Command, script: Script) -> Iterator[Said]:
    """VALIDATE reads the table while others go on; but not in the transaction that added the constraint, which still has its
    lock."""
    target, name = command.target, command.node["name"]
    table = script.table(target)
    check, key = table.checks.get(name), table.foreign_keys.get(name)
    done = (check is not None and check.valid) or (key is not None and key.valid)
    work = None if done else Work.FOREIGN_KEY if key is not None else Work.SCAN
    added = check or key
    # (Only the lock of this very constraint is told here; `migrations.py` speaks of the others that the transaction holds.)
    if added is not None and added.added_in == script.transaction and not done and not script.is_new(target):
        lock = "SHARE ROW EXCLUSIVE" if key is not None else "ACCESS EXCLUSIVE"
        yield Remark(
            "error",
            "validate_in_transaction",
            f"VALIDATE CONSTRAINT {shown(name)} in the transaction that added it: the {lock} lock on {target.sql} is still "
            f"held "
            f"while "
            f"{(work or Work.SCAN).value}, so that NOT VALID gains nothing",
            script_of(["COMMIT", f"ALTER TABLE {target.sql} {command.text}"]),
            target,
        )  # fmt: skip
    yield from command.spread(Act(target, Lock.SHARE_UPDATE_EXCLUSIVE, work, rule=""), script)
    if key is not None:
        yield Act(key.references, Lock.ROW_SHARE, rule="", implied=True)


def drop_constraint(command: Command, script: Script) -> Iterator[Said]:
    """DROP CONSTRAINT is quick, but dropping a foreign key takes ACCESS EXCLUSIVE on the other table as well."""
    target, name = command.target, command.node["name"]
    why = f"DROP CONSTRAINT {shown(name)}"
    yield from command.spread(Act(target, Lock.ACCESS_EXCLUSIVE, why=why), script)
    table = script.table(target)
    others: list[Target] = []
    if (key := table.foreign_keys.get(name)) is not None:
        others = [key.references, *script.children(key.references)]
    elif name in table.keys and command.node.get("behavior") == "DROP_CASCADE":
        others = script.referencing(target)
    for other in others:
        yield Act(other, Lock.ACCESS_EXCLUSIVE, why=why, implied=True)
    if others and not script.is_new(others[0]):
        yield Remark(
            "warning",
            "locks_other_table",
            f"{why} takes an ACCESS EXCLUSIVE lock on {others[0].sql} as well as on {target.sql}: reads and writes of both "
            f"wait "
            f"behind it",
            script_of(["SET lock_timeout = '2s'", f"ALTER TABLE {target.sql} {command.text}"]),
            target,
        )
