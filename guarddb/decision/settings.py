"""Settings of the session and of the server: which of them nobody changes, by whatever way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guarddb.decision.case import Case
from guarddb.decision.refusal import Refusal
from guarddb.decision.shown_settings import closed_names, shows_all_elsewhere
from guarddb.decision.view_calls import views_read
from guarddb.facts import settings as facts
from guarddb.sql.names import string_list
from guarddb.sql.statement import Call, Reference, Statement
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


def _asks_for_one(statement: Statement) -> Iterator[Call]:
    """The calls of current_setting()."""
    for call in statement.calls:
        if call.name == "current_setting" and call.schema in (None, "pg_catalog"):
            yield call


def _shows_closed(definition: Statement, case: Case) -> bool:
    """Whether a view may show a closed setting: what is done in a statement's text (`shown_settings.py`) is not done in its."""
    closed = closed_names(case)
    if any(call.name == "pg_show_all_settings" for call in definition.calls):
        return True
    for call in _asks_for_one(definition):
        name = _constant_argument(call.node)
        if name is None:
            if not _is_of_a_namespace(call):
                return True
        elif name.lower() in closed:
            return True
    return any(
        (reference.schema, reference.name) == ("pg_catalog", "pg_settings")
        and (case.policy.restricts_data or not _names_open_ones(reference, definition, closed))
        for reference in definition.references
    )


def _is_of_a_namespace(call: Call) -> bool:
    """`current_setting('app.' || name)`: no setting of the server's own has a dot in its name."""
    node: Any = call.node["args"][0] if call.node is not None and call.node.get("args") else {}
    while node.get("A_Expr", {}).get("name") == [{"String": {"sval": "||"}}]:
        node = node["A_Expr"].get("lexpr", {})
    while "TypeCast" in node:
        node = node["TypeCast"]["arg"]
    return "." in node.get("A_Const", {}).get("sval", {}).get("sval", "")


def _names_open_ones(reference: Reference, statement: Statement, closed: frozenset[str]) -> bool:
    """Whether pg_settings is read for the rows of settings named by constants, none of them closed."""
    if reference.query is None:
        return False
    named = {id(node) for root in statement.roots for link, node in root.uses if link == (reference, "name")}
    condition: Node = reference.query.fields.get("whereClause", {})
    conjuncts = [condition]
    if condition.get("BoolExpr", {}).get("boolop") == "AND_EXPR":
        conjuncts = condition["BoolExpr"]["args"]
    for each in conjuncts:
        fields: Any = each.get("A_Expr", {})
        if string_list(fields.get("name", ())) != ["="] or id(fields["lexpr"].get("ColumnRef")) not in named:
            continue
        given = fields["rexpr"]
        of_many = fields.get("kind") == "AEXPR_OP_ANY"
        elements = given.get("A_ArrayExpr", {}).get("elements", ()) if of_many else [given]
        names = [_text(element) for element in elements]
        if names and None not in names and closed.isdisjoint(names):
            return True
    return False


def _text(node: Any) -> str | None:
    """The value of a constant, as the definition of a view has it: `'x'::text`."""
    cast = node.get("TypeCast", {})
    if (
        not cast
        or string_list(cast["typeName"].get("names", ())) != ["text"]
        or "arrayBounds" in cast["typeName"]
    ):
        return None
    text: str | None = cast["arg"].get("A_Const", {}).get("sval", {}).get("sval")
    return text


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
    names += [_constant_argument(call.node) or "" for call in _asks_for_one(statement)]
    if not case.policy.profile.forbids_nothing and shows_all_elsewhere(statement):
        return Refusal(
            "protected_setting",
            "pg_show_all_settings() shows settings that tell about the server's machine",
            "Read pg_settings, or have it in FROM by itself.",
        )
    for reference, definition in views_read(case) if not case.policy.profile.forbids_nothing else ():
        if _shows_closed(definition, case):
            return Refusal(
                "protected_setting",
                f'view "{reference.qualified_name}" shows settings that tell about the server\'s machine or may hold a password',
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
