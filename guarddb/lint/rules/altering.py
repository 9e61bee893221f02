"""ALTER TABLE: each command by itself. What PostgreSQL locks for it is AlterTableGetLockLevel in tablecmds.c."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from guarddb.lint.acts import Act, Lock, Remark, Said, Target, Work
from guarddb.lint.rules import column_types, columns, constraints, partitions
from guarddb.lint.rules.command import Command
from guarddb.lint.rules.hints import script_of
from guarddb.lint.rules.storage import access_method, persistence, tablespace
from guarddb.lint.script import Script
from guarddb.lint.text import StatementText
from guarddb.sql.names import string_list

Rule: TypeAlias = Callable[[Command, Script], Iterator[Said]]

#: Commands that change catalogs only, and the lock they take for a moment.
BRIEF: Mapping[str, Lock] = {
    "AT_ColumnDefault": Lock.ACCESS_EXCLUSIVE,
    "AT_DropNotNull": Lock.ACCESS_EXCLUSIVE,
    "AT_SetStatistics": Lock.SHARE_UPDATE_EXCLUSIVE,
    "AT_SetOptions": Lock.SHARE_UPDATE_EXCLUSIVE,
    "AT_ResetOptions": Lock.SHARE_UPDATE_EXCLUSIVE,
    "AT_SetStorage": Lock.ACCESS_EXCLUSIVE,
    "AT_SetCompression": Lock.ACCESS_EXCLUSIVE,
    "AT_AddIdentity": Lock.ACCESS_EXCLUSIVE,
    "AT_SetIdentity": Lock.ACCESS_EXCLUSIVE,
    "AT_DropIdentity": Lock.ACCESS_EXCLUSIVE,
    "AT_DropExpression": Lock.ACCESS_EXCLUSIVE,
    "AT_AlterConstraint": Lock.ACCESS_EXCLUSIVE,
    "AT_ChangeOwner": Lock.ACCESS_EXCLUSIVE,
    "AT_ClusterOn": Lock.SHARE_UPDATE_EXCLUSIVE,
    "AT_DropCluster": Lock.SHARE_UPDATE_EXCLUSIVE,
    "AT_ReplicaIdentity": Lock.ACCESS_EXCLUSIVE,
    "AT_EnableTrig": Lock.SHARE_ROW_EXCLUSIVE,
    "AT_EnableAlwaysTrig": Lock.SHARE_ROW_EXCLUSIVE,
    "AT_EnableReplicaTrig": Lock.SHARE_ROW_EXCLUSIVE,
    "AT_EnableTrigAll": Lock.SHARE_ROW_EXCLUSIVE,
    "AT_EnableTrigUser": Lock.SHARE_ROW_EXCLUSIVE,
    "AT_DisableTrig": Lock.SHARE_ROW_EXCLUSIVE,
    "AT_DisableTrigAll": Lock.SHARE_ROW_EXCLUSIVE,
    "AT_DisableTrigUser": Lock.SHARE_ROW_EXCLUSIVE,
    "AT_EnableRule": Lock.ACCESS_EXCLUSIVE,
    "AT_EnableAlwaysRule": Lock.ACCESS_EXCLUSIVE,
    "AT_EnableReplicaRule": Lock.ACCESS_EXCLUSIVE,
    "AT_DisableRule": Lock.ACCESS_EXCLUSIVE,
    "AT_AddInherit": Lock.ACCESS_EXCLUSIVE,
    "AT_DropInherit": Lock.ACCESS_EXCLUSIVE,
    "AT_AddOf": Lock.ACCESS_EXCLUSIVE,
    "AT_DropOf": Lock.ACCESS_EXCLUSIVE,
    "AT_EnableRowSecurity": Lock.ACCESS_EXCLUSIVE,
    "AT_DisableRowSecurity": Lock.ACCESS_EXCLUSIVE,
    "AT_ForceRowSecurity": Lock.ACCESS_EXCLUSIVE,
    "AT_NoForceRowSecurity": Lock.ACCESS_EXCLUSIVE,
    "AT_GenericOptions": Lock.ACCESS_EXCLUSIVE,
    "AT_AlterColumnGenericOptions": Lock.ACCESS_EXCLUSIVE,
    "AT_DetachPartitionFinalize": Lock.SHARE_UPDATE_EXCLUSIVE,
    "AT_SetLogged": Lock.ACCESS_EXCLUSIVE,
    "AT_SetUnLogged": Lock.ACCESS_EXCLUSIVE,
}

#: Storage parameters whose change is not of concern to a running query or write (lockmode in reloptions.c).
_EXCLUSIVE_OPTIONS = frozenset({"user_catalog_table", "fastupdate", "gin_pending_list_limit", "buffering", "autosummarize",
                                "pages_per_range", "security_barrier", "security_invoker", "check_option"})  # fmt: skip

RULES: Mapping[str, Rule] = {
    "AT_AddColumn": columns.add_column,
    "AT_DropColumn": columns.drop_column,
    "AT_SetNotNull": columns.set_not_null,
    "AT_SetExpression": columns.set_expression,
    "AT_AlterColumnType": column_types.change_type,
    "AT_AddConstraint": constraints.add_constraint,
    "AT_ValidateConstraint": constraints.validate_constraint,
    "AT_DropConstraint": constraints.drop_constraint,
    "AT_AttachPartition": partitions.attach,
    "AT_DetachPartition": partitions.detach,
    "AT_SetLogged": persistence,
    "AT_SetUnLogged": persistence,
    "AT_SetTableSpace": tablespace,
    "AT_SetAccessMethod": access_method,
}


@dataclass(frozen=True, slots=True)
class Judged:
    """A command of an ALTER TABLE and what is said of it."""

    command: Command
    said: tuple[Said, ...]


def commands(statement: StatementText, script: Script) -> list[Judged]:
    """Every command with what it does."""
    fields = statement.fields
    if fields.get("objtype") in ("OBJECT_INDEX", "OBJECT_SEQUENCE", "OBJECT_VIEW", "OBJECT_TYPE"):
        return []
    target = script.target(fields["relation"])
    texts = statement.commands
    found = []
    siblings = tuple(each["AlterTableCmd"] for each in fields.get("cmds", ()))
    for index, node in enumerate(siblings):
        text = texts[index] if len(texts) == len(siblings) else ""
        command = Command(statement, node, text, target, bool(fields["relation"].get("inh")), siblings)
        found.append(Judged(command, tuple(_say(command, script))))
    return found


def alter_table(statement: StatementText, script: Script) -> Iterator[Said]:
    """All commands of the statement."""
    for judged in commands(statement, script):
        yield from judged.said
    if statement.fields.get("objtype") == "OBJECT_INDEX":
        yield from _alter_index(statement, script)


def _say(command: Command, script: Script) -> Iterator[Said]:
    rule = RULES.get(command.verb)
    if rule is not None:
        yield from rule(command, script)
    elif command.verb in ("AT_SetRelOptions", "AT_ResetRelOptions", "AT_ReplaceRelOptions"):
        options = command.node.get("def", {}).get("List", {}).get("items", ())
        names = {option.get("DefElem", {}).get("defname") for option in options}
        lock = Lock.ACCESS_EXCLUSIVE if names & _EXCLUSIVE_OPTIONS else Lock.SHARE_UPDATE_EXCLUSIVE
        yield Act(command.target, lock, why=command.text)
    elif command.verb in BRIEF:
        yield from command.spread(Act(command.target, BRIEF[command.verb], why=command.text), script)
    else:
        # A command of a later PostgreSQL: nobody knows what it does under its lock.
        yield Act(
            command.target,
            Lock.ACCESS_EXCLUSIVE,
            Work.REWRITE,
            "unknown_command",
            f"{command.text or command.verb}, which this version of guarddb does not know",
            certain=False,
        )


def _alter_index(statement: StatementText, script: Script) -> Iterator[Said]:
    relation = statement.fields["relation"]
    table = script.index(relation.get("schemaname"), relation["relname"])
    for each in statement.fields.get("cmds", ()):
        node = each["AlterTableCmd"]
        if node["subtype"] == "AT_SetTableSpace" and table is not None:
            yield Act(
                table,
                Lock.ACCESS_EXCLUSIVE,
                Work.INDEX,
                "table_rewrite",
                "ALTER INDEX … SET TABLESPACE (which locks the index, and with it every query of the table)",
                _elsewhere(statement, node, script),
            )


def _elsewhere(statement: StatementText, node: dict[str, str], script: Script) -> str:
    name = statement.fields["relation"]["relname"]
    return script_of([f"REINDEX (TABLESPACE {node['name']}) INDEX CONCURRENTLY {name}"])


def rename(statement: StatementText, script: Script) -> Iterator[Said]:
    """ALTER … RENAME: a moment's lock, and every client that knows the old name breaks."""
    fields = statement.fields
    kind = fields.get("renameType")
    if kind == "OBJECT_COLUMN" and fields.get("relationType") in (None, "OBJECT_TABLE"):
        target = script.target(fields["relation"])
        yield from _spread(target, Lock.ACCESS_EXCLUSIVE, "RENAME COLUMN", script)
        yield Remark(
            "warning",
            "rename",
            f"RENAME COLUMN on {target.sql}: whoever still uses {fields['subname']} fails from the moment of the commit",
            script_of([
                f"ALTER TABLE {target.sql} ADD COLUMN {fields['newname']} {_type_of(target, fields['subname'], script)}",
                "-- write both, copy the old rows in batches, read the new one, then drop the old one in a later release",
            ]),
            target,
        )  # fmt: skip
    elif kind in ("OBJECT_TABLE", "OBJECT_MATVIEW") and "relation" in fields:
        target = script.target(fields["relation"])
        yield Act(target, Lock.ACCESS_EXCLUSIVE, why="RENAME")
        yield Remark(
            "warning",
            "rename",
            f"RENAME of {target.sql}: whoever still uses the old name fails from the moment of the commit",
            script_of([
                "BEGIN",
                statement.text,
                f"CREATE VIEW {target.sql} AS SELECT * FROM {Target(target.schema, fields['newname']).sql}",
                "COMMIT",
            ]),
            target,
        )  # fmt: skip
    elif kind in ("OBJECT_TABCONSTRAINT", "OBJECT_TRIGGER", "OBJECT_POLICY", "OBJECT_RULE") and (
        "relation" in fields
    ):
        yield from _spread(
            script.target(fields["relation"]), Lock.ACCESS_EXCLUSIVE, "RENAME", script,
            children=kind in ("OBJECT_TABCONSTRAINT", "OBJECT_TRIGGER"),
        )  # fmt: skip
    elif kind == "OBJECT_VIEW" and "relation" in fields:
        yield Act(script.target(fields["relation"]), Lock.ACCESS_EXCLUSIVE, why="RENAME")


def _type_of(target: Target, column: str, script: Script) -> str:
    known = script.table(target).columns.get(column)
    return known.type.removeprefix("pg_catalog.") if known is not None and known.type else "text"


def _spread(target: Target, lock: Lock, why: str, script: Script, *, children: bool = True) -> Iterator[Act]:
    yield Act(target, lock, why=why)
    for child in script.children(target) if children else ():
        yield Act(child, lock, why=why, implied=True)


def set_schema(statement: StatementText, script: Script) -> Iterator[Said]:
    """ALTER TABLE … SET SCHEMA: as a RENAME."""
    fields = statement.fields
    if fields.get("objectType") in ("OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW") and "relation" in fields:
        target = script.target(fields["relation"])
        yield Act(target, Lock.ACCESS_EXCLUSIVE, why="SET SCHEMA")
        yield Remark(
            "warning",
            "rename",
            f"SET SCHEMA of {target.sql}: whoever does not have the new schema in its search_path fails from the commit on",
            script_of([
                "BEGIN",
                statement.text,
                f"CREATE VIEW {target.sql} AS SELECT * FROM {Target(fields['newschema'], target.name).sql}",
                "COMMIT",
            ]),
            target,
        )  # fmt: skip
    elif string_list(fields.get("object", {}).get("List", {}).get("items", ())):
        return
