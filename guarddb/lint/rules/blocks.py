"""What PostgreSQL refuses inside a transaction block, whatever it would lock (`PreventInTransactionBlock` in its source)."""

from __future__ import annotations

from collections.abc import Iterator

from guarddb.lint.acts import Remark
from guarddb.lint.rules.hints import script_of
from guarddb.lint.script import Script
from guarddb.lint.text import StatementText
from guarddb.tree import Node

_ALWAYS = {
    "CreatedbStmt": "CREATE DATABASE",
    "DropdbStmt": "DROP DATABASE",
    "CreateTableSpaceStmt": "CREATE TABLESPACE",
    "DropTableSpaceStmt": "DROP TABLESPACE",
    "AlterSystemStmt": "ALTER SYSTEM",
}
_PREPARED = {
    "TRANS_STMT_COMMIT_PREPARED": "COMMIT PREPARED",
    "TRANS_STMT_ROLLBACK_PREPARED": "ROLLBACK PREPARED",
}
_OFF = frozenset({"false", "off", "no", "0", "none"})


def refused_in_a_transaction(statement: StatementText, script: Script) -> Iterator[Remark]:
    """A statement that needs a transaction of its own, in another one. (CONCURRENTLY has a rule of its own.)"""
    if not script.in_transaction or (what := _what(statement, script)) is None:
        return
    yield Remark(
        "error",
        "not_in_transaction",
        f"{what} cannot run inside a transaction block; PostgreSQL refuses it",
        script_of(["COMMIT", statement.text, "BEGIN"]),
    )


def _what(statement: StatementText, script: Script) -> str | None:
    kind, fields = statement.kind, statement.fields
    if kind in _ALWAYS:
        return _ALWAYS[kind]
    if kind == "VacuumStmt":
        return "VACUUM" if fields.get("is_vacuumcmd") else None
    if kind == "TransactionStmt":
        return _PREPARED.get(fields.get("kind", ""))
    if kind == "DiscardStmt":
        return "DISCARD ALL" if fields.get("target", "DISCARD_ALL") == "DISCARD_ALL" else None
    if kind == "AlterDatabaseStmt":
        return "ALTER DATABASE … SET TABLESPACE" if "tablespace" in _options(fields) else None
    if kind == "CreateSubscriptionStmt":
        # It makes a slot on the other server, which no rollback takes back.
        options = _options(fields)
        slotless = any(
            name in options and _word(options[name]) in _OFF
            for name in ("connect", "create_slot", "slot_name")
        )
        return None if slotless else "CREATE SUBSCRIPTION that makes a slot"
    if kind == "ClusterStmt":
        relation = fields.get("relation")
        if relation is None:
            return "CLUSTER of every clustered table"
        return "CLUSTER of a partitioned table" if _is_partitioned(relation, script) else None
    if kind == "ReindexStmt" and fields.get("kind", "") in (
        "REINDEX_OBJECT_TABLE",
        "REINDEX_OBJECT_INDEX",
        "",
    ):
        whole = fields.get("kind") == "REINDEX_OBJECT_TABLE"
        if "concurrently" not in _options(fields, "params") and _is_partitioned(
            fields["relation"], script, index=not whole
        ):
            return f"REINDEX of a partitioned {'table' if whole else 'index'}"
    return None


def _options(fields: Node, name: str = "options") -> dict[str, Node]:
    return {o["DefElem"]["defname"]: o["DefElem"] for o in fields.get(name, ()) if "DefElem" in o}


def _word(option: Node) -> str:
    arg = option.get("arg", {})
    return str(
        arg.get("String", {}).get("sval", arg.get("Integer", {}).get("ival", 0 if arg else "on"))
    ).lower()


def _is_partitioned(relation: Node, script: Script, *, index: bool = False) -> bool:
    found = (
        script.index(relation.get("schemaname"), relation["relname"]) if index else script.target(relation)
    )
    return found is not None and found.relation is not None and found.relation.kind == "p"
