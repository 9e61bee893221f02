"""Settings of the session and of the server: which of them nobody changes, by whatever way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guarddb.decision.case import Case
from guarddb.decision.refusal import Refusal
from guarddb.decision.shown_settings import closed_names, shows_all_elsewhere
from guarddb.facts import settings as facts
from guarddb.sql.statement import Statement
from guarddb.tree import Node, nodes
from guarddb.vocabulary import PROTECTED_SETTINGS

#: Settings by which the server would read another text than the guard: where a string constant ends, which bytes are what.
_READING = frozenset(("standard_conforming_strings", "backslash_quote"))
_ENCODING = frozenset(("client_encoding", "names"))
_ROLE = frozenset(("role", "session_authorization"))
#: RESET ALL
_OF_NAMES = frozenset(("all",))


def session_settings(case: Case) -> Iterator[Refusal]:
    """search_path, role and the settings that hold the guard's walls up, by SET, RESET, DISCARD, ALTER or set_config().

    >>> import guarddb
    >>> changes = "SET row_security = off", "SET lock_timeout = '1s'"
    >>> [guarddb.evaluate(sql, {"access_mode": "read_write"}).verdict for sql in changes]
    ['block', 'allow']
    """
    statement = case.statement
    for definition in statement.definitions:
        command, fields = definition.command, definition.fields
        if command == "VariableSetStmt":
            yield from _variable(fields, case)
        elif command in ("AlterRoleSetStmt", "AlterDatabaseSetStmt", "AlterSystemStmt"):
            yield from _variable(fields.get("setstmt", {}), case)
        elif command in ("AlterFunctionStmt", "CreateFunctionStmt"):
            for _, node in nodes(fields):
                if "kind" in node and str(node.get("kind", "")).startswith("VAR_"):
                    yield from _variable(node, case)
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
                yield from _setting(name, case)
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


def _variable(fields: Node, case: Case) -> Iterator[Refusal]:
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
            yield from _setting("default_transaction_read_only", case)
    else:
        yield from _setting(name, case)


def is_protected(name: str, case: Case) -> bool:
    """Whether the policy stands on a setting, by its name in lower case: SET of it is refused."""
    return name in _OF_NAMES or next(_setting(name, case), None) is not None


def _setting(name: str, case: Case) -> Iterator[Refusal]:
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
    elif name in PROTECTED_SETTINGS | _READING | _ENCODING or name in case.policy.protected_settings:
        yield Refusal(
            "protected_setting",
            f'the setting "{name}" is set by the policy and cannot be changed',
            "Leave it as it is; SHOW tells its value.",
        )
    elif name in case.governance.settings:
        yield Refusal(
            "protected_setting",
            f'what a row filter or a hash of this policy gives follows the setting "{name}", so it cannot be changed',
            "Leave it as it is; convert values in the statement, for example with AT TIME ZONE or to_char().",
        )


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


def closed_settings(case: Case) -> Refusal | None:
    """ALTER SYSTEM, and settings that load code, run programs or say what is logged. No profile lifts this one."""
    statement = case.statement
    for definition in statement.definitions:
        if definition.command == "AlterSystemStmt":
            return Refusal(
                "protected_setting",
                "ALTER SYSTEM changes the server's own configuration and is refused under every policy",
                "Leave the server as it is configured; SET changes a setting for the session.",
            )
        for _, node in nodes(definition.fields):
            if str(node.get("kind", "")).startswith("VAR_") and facts.is_closed(
                str(node.get("name", "")).lower()
            ):
                return _closed(str(node["name"]).lower())
    for call in statement.calls:
        if call.name == "set_config" and call.schema in (None, "pg_catalog"):
            name = _constant_argument(call.node)
            if name is not None and facts.is_closed(name.lower()):
                return _closed(name.lower())
    return None


def _closed(name: str) -> Refusal:
    return Refusal(
        "protected_setting",
        f'the setting "{name}" loads code, runs programs or says what is logged, and is refused under every policy',
        "Leave it as it is.",
    )


#: What a view over it shows is left out of it itself, see `shown_settings.py`.
_SETTINGS_VIEW = ("pg_catalog", "pg_settings")


def superuser_settings(case: Case) -> Refusal | None:
    """SHOW and current_setting() of what PostgreSQL shows to superusers only, where data is restricted; of secrets, always.

    A profile that hides nothing leaves it to the server whom it shows where its files are.

    >>> import guarddb
    >>> masked = {"masking_rules": [{"table": "people", "column": "ssn", "kind": "redact"}]}
    >>> [guarddb.evaluate("SHOW data_directory", policy).verdict for policy in (masked, {})]
    ['block', 'allow']
    """
    statement, closed = case.statement, closed_names(case)
    shown = str(statement.fields.get("name", "")) if statement.command == "VariableShowStmt" else None
    names = [shown] if shown else []
    names += [
        _constant_argument(call.node) or ""
        for call in statement.calls
        if call.name == "current_setting" and call.schema in (None, "pg_catalog")
    ]
    if not case.policy.profile.forbids_nothing and shows_all_elsewhere(statement):
        return Refusal(
            "protected_setting",
            "pg_show_all_settings() shows settings that tell about the server's machine",
            "Read pg_settings, or have it in FROM by itself.",
        )
    for reference, rules in case.ruled if case.policy.restricts_data else ():
        if _SETTINGS_VIEW in rules.seen_through and reference.mode != "ddl":
            return Refusal(
                "protected_setting",
                f'view "{reference.qualified_name}" shows settings that tell about the server\'s machine',
                "Read pg_settings itself.",
            )
    for name in names:
        if name.lower() in closed:
            return Refusal(
                "protected_setting",
                f'the setting "{name.lower()}" may hold a password and is shown under no policy'
                if name.lower() in facts.SECRET
                else f'the setting "{name.lower()}" tells about the server\'s machine and is shown to its administrators only',
                "Leave it out.",
            )
    return None
