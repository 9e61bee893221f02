"""The floor: what is refused whatever the profile says, unless it names the rule in `guarddb.floor_exceptions`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from guarddb.decision.case import Case
from guarddb.decision.on_catalog import CompiledPolicy
from guarddb.decision.refusal import Refusal
from guarddb.sql.analysis.definitions import Definition
from guarddb.sql.statement import Statement
from guarddb.tree import Node, nodes

#: Objects whose DROP takes data with it. A type or an extension takes the columns of it, a schema all that is in it.
_HOLDS_DATA = frozenset(
    [
        "table",
        "materialized view",
        "foreign table",
        "sequence",
        "schema",
        "type",
        "domain",
        "extension",
        "database",
        "tablespace",
        "foreign server",
        "foreign data wrapper",
        "column",
        "attribute",
        "owned",
    ]
)
#: Settings a session may never change, besides those the profile's own row filters read.
_PROTECTED = frozenset(
    [
        "statement_timeout",
        "row_security",
        "session_replication_role",
        "transaction_read_only",
        "default_transaction_read_only",
        "transaction_timeout",
    ]
)
#: Settings by which the server would read another text than the guard: where a string constant ends, which bytes are what.
_READING = frozenset(("standard_conforming_strings", "backslash_quote"))
_ENCODING = frozenset(("client_encoding", "names"))
_ROLE = frozenset(("role", "session_authorization"))
#: What stores code for later, or says which code is run.
_STORES_CODE = frozenset(
    (
        ("alter", "event trigger"),
        ("alter", "function"),
        ("create", "access method"),
        ("create", "aggregate"),
        ("create", "cast"),
        ("create", "event trigger"),
        ("create", "extension"),
        ("create", "function"),
        ("create", "language"),
        ("create", "operator"),
        ("create", "operator class"),
        ("create", "rule"),
        ("create", "transform"),
        ("create", "trigger"),
        ("load", "library"),
    )
)
_CODE_SHOWN = {"create function": "CREATE FUNCTION or PROCEDURE", "load library": "LOAD"}


def destructive_ddl(statement: Statement, policy: CompiledPolicy) -> Iterator[Refusal]:
    """DROP of anything that holds data, DROP COLUMN, TRUNCATE.

    `DROP TABLE IF EXISTS t` -> refused; `DROP VIEW v` -> passes; `DROP VIEW v CASCADE` -> refused
    """
    for definition in statement.definitions:
        what = _destroys(definition)
        if what is not None:
            yield Refusal(
                "destructive_ddl",
                f"{what} destroys data and is refused under every policy",
                "Leave the data in place; ask a person with the right to it if it really has to go.",
            )


def _destroys(definition: Definition) -> str | None:
    if definition.verb == "truncate":
        return "TRUNCATE"
    if definition.verb == "drop":
        name = definition.object.upper()
        if definition.object in _HOLDS_DATA:
            return f"DROP {name}"
        if definition.fields.get("behavior") == "DROP_CASCADE":
            return f"DROP {name} … CASCADE"
    if any(part.verb == "drop column" for part in definition.parts):
        return "DROP COLUMN" if definition.object != "type" else "DROP ATTRIBUTE"
    if definition.verb == "discard" and definition.fields.get("target") == "DISCARD_TEMP":
        return "DISCARD TEMP"
    return None


def whereless_write(statement: Statement, policy: CompiledPolicy) -> Iterator[Refusal]:
    """UPDATE and DELETE (and MERGE that does either) without a condition on a column, at any depth."""
    if statement.ddl is not None:
        for name, node in nodes(statement.ddl[1]):
            # In the body of a rule or a function: it would run later, by itself.
            if name in ("UpdateStmt", "DeleteStmt") and "whereClause" not in node:
                yield Refusal(
                    "whereless_write",
                    f"{name.removesuffix('Stmt').upper()} without a WHERE would touch every row, whenever it runs",
                    "Add a WHERE that picks the rows by a column of the table, for example WHERE id = 1.",
                )
    for query in statement.queries:
        if query.kind not in ("update", "delete", "merge") or query.filters_rows:
            continue
        if query.kind == "merge" and not any(
            w["MergeWhenClause"].get("commandType") in ("CMD_UPDATE", "CMD_DELETE")
            and w["MergeWhenClause"].get("matchKind") != "MERGE_WHEN_NOT_MATCHED_BY_TARGET"
            for w in query.fields.get("mergeWhenClauses", ())
        ):
            continue
        verb = query.kind.upper()
        target = query.target.qualified_name if query.target is not None else "the table"
        missing = "ON condition" if query.kind == "merge" else "WHERE"
        yield Refusal(
            "whereless_write",
            f'{verb} on "{target}" without a {missing} that names a column would touch every row',
            f"Add a {missing} that picks the rows by a column of the table, for example WHERE id = 1.",
        )


def anonymous_code(statement: Statement, policy: CompiledPolicy) -> Iterator[Refusal]:
    """DO blocks; and, when the profile restricts data, everything that stores code for later."""
    for definition in statement.definitions:
        if definition.verb == "do":
            yield Refusal(
                "anonymous_code",
                "DO runs code that cannot be judged",
                "Write the statements of the block one by one.",
            )
        if not policy.restricts_data:
            continue
        key = (definition.verb, definition.object)
        # (A type by DEFINE is a base type, made of C functions.)
        if key in _STORES_CODE or (key == ("create", "type") and definition.command == "DefineStmt"):
            shown = _CODE_SHOWN.get(" ".join(key), definition.shown)
            yield Refusal(
                "anonymous_code",
                f"{shown} stores code that would run outside this policy",
                "Use plain SELECT, INSERT, UPDATE and DELETE statements instead.",
            )


def session_settings(statement: Statement, policy: CompiledPolicy) -> Iterator[Refusal]:
    """search_path, role and the settings that hold the guard's walls up, by SET, RESET, DISCARD, ALTER or set_config()."""
    for definition in statement.definitions:
        command, fields = definition.command, definition.fields
        if command == "VariableSetStmt":
            yield from _variable(fields, policy)
        elif command in ("AlterRoleSetStmt", "AlterDatabaseSetStmt", "AlterSystemStmt"):
            yield from _variable(fields.get("setstmt", {}), policy)
        elif command in ("AlterFunctionStmt", "CreateFunctionStmt"):
            for _, node in nodes(fields):
                if "kind" in node and str(node.get("kind", "")).startswith("VAR_"):
                    yield from _variable(node, policy)
        elif command == "DiscardStmt" and fields.get("target", "DISCARD_ALL") == "DISCARD_ALL":
            yield Refusal(
                "protected_setting",
                "DISCARD ALL would reset the settings that this policy depends on",
                "Close and reopen the connection for a fresh session.",
            )
    for call in statement.calls:
        if call.name == "set_config" and call.schema in (None, "pg_catalog"):
            name = _constant_argument(call.node)
            if name is not None:
                yield from _setting(name, policy)
    yield from _settings_view(statement)


def _settings_view(statement: Statement) -> Iterator[Refusal]:
    for reference in statement.references:
        if reference.mode in ("update", "insert", "delete", "merge") and reference.schema == "pg_catalog":
            if reference.name == "pg_settings":
                yield Refusal(
                    "protected_setting",
                    "UPDATE pg_settings changes settings like SET does",
                    "Leave the session's settings as they are.",
                )


def _variable(fields: Node, policy: CompiledPolicy) -> Iterator[Refusal]:
    kind = fields.get("kind", "VAR_SET_VALUE")
    name = str(fields.get("name", "")).lower()
    if kind == "VAR_RESET_ALL":
        yield Refusal(
            "protected_setting",
            "RESET ALL would reset the settings that this policy depends on",
            "Reset the one setting that you changed, by its name.",
        )
    elif kind == "VAR_SET_MULTI":
        # SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE is default_transaction_read_only = off.
        if name == "session characteristics" and any(
            a.get("DefElem", {}).get("defname") == "transaction_read_only" for a in fields.get("args", ())
        ):
            yield from _setting("default_transaction_read_only", policy)
    else:
        yield from _setting(name, policy)


def _setting(name: str, policy: CompiledPolicy) -> Iterator[Refusal]:
    name = name.lower()
    if name in ("search_path", "schema"):
        yield Refusal(
            "search_path_change",
            "changing search_path would change which tables a name means",
            "Write the schema in front of the table: schema.table.",
        )
    elif name in _ROLE:
        yield Refusal(
            "role_change",
            f'changing "{name}" would change whose rights apply',
            "Work with the role you are connected as.",
        )
    elif name in _PROTECTED | _READING | _ENCODING or name in policy.protected_settings:
        yield Refusal(
            "protected_setting",
            f'the setting "{name}" is set by the policy and cannot be changed',
            "Leave it as it is; SHOW tells its value.",
        )


def copy_files(statement: Statement) -> Refusal | None:
    """COPY to or from a file or a program of the server. No profile lifts this one."""
    for definition in statement.definitions:
        fields = definition.fields
        if definition.verb == "copy" and (fields.get("is_program") or "filename" in fields):
            what = "a program" if fields.get("is_program") else "a file"
            return Refusal(
                "forbidden_function",
                f"COPY to or from {what} on the server is refused under every policy",
                "Use COPY … TO STDOUT or COPY … FROM STDIN.",
            )
    return None


def _constant_argument(call: Node | None) -> str | None:
    if call is None:
        return None
    for argument in call.get("args", ()):
        node: Any = argument
        if "NamedArgExpr" in node:
            node = node["NamedArgExpr"]["arg"]
        while "TypeCast" in node:
            node = node["TypeCast"]["arg"]
        text = node.get("A_Const", {}).get("sval", {}).get("sval")
        if text is not None:
            return str(text)
        return None
    return None


#: The floor but for functions, in the order they are asked.
FLOOR: tuple[Callable[[Statement, CompiledPolicy], Iterator[Refusal]], ...] = (
    destructive_ddl,
    whereless_write,
    session_settings,
    anonymous_code,
)


def floor(case: Case) -> Refusal | None:
    """The first rule of the floor that refuses the statement and that the profile does not lift."""
    statement, policy = case.statement, case.policy
    for rule in FLOOR:
        # All of a rule's, for what the profile lifts may stand in front of what it does not.
        for refusal in rule(statement, policy):
            if refusal.rule not in policy.floor_exceptions:
                return refusal
    return copy_files(statement)
