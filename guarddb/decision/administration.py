"""Administration: whose rights apply, which code is stored, and what no profile opens."""

from __future__ import annotations

from collections.abc import Iterator

from guarddb.decision.admitted import admitted, named
from guarddb.decision.case import Case, case_of
from guarddb.decision.functions import functions
from guarddb.decision.refusal import Refusal
from guarddb.facts.functions import builtin
from guarddb.sql.analysis.classify import NotJudged, UnknownName, UnknownNode, read_statement
from guarddb.sql.analysis.definitions import Definition, stored
from guarddb.sql.names import string_list
from guarddb.tree import Node
from guarddb.vocabulary import FLOOR_RULES, KINDS, WRITE_KINDS

#: GRANT and REVOKE, ownership, roles, row security and security labels say whose rights apply.
_RIGHTS = frozenset(("grant", "revoke", "own", "label"))
_RIGHTS_OBJECTS = frozenset(("role", "policy"))
_RIGHTS_PARTS = frozenset(
    (
        "change owner",
        "enable row security",
        "disable row security",
        "force row security",
        "no force row security",
    )
)
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


#: What runs when it is called by its name: by another name, of another schema or owner it would be another one.
_CODE = frozenset(
    (
        "access method",
        "aggregate",
        "cast",
        "conversion",
        "domain",
        "event trigger",
        "function",
        "language",
        "operator",
        "operator class",
        "operator family",
        "procedure",
        "routine",
        "rule",
        "text search parser",
        "text search template",
        "transform",
        "trigger",
        "type",
    )
)


def rights(case: Case) -> Iterator[Refusal]:
    """GRANT and REVOKE, owners, roles, row security, security labels, when the profile restricts data.

    >>> import guarddb
    >>> policy = {"access_mode": "read_write", "table_denylist": ["secrets"]}
    >>> changes = "GRANT SELECT ON t TO PUBLIC", "ALTER TABLE t OWNER TO x", "ALTER TABLE t ADD COLUMN n int"
    >>> [guarddb.evaluate(sql, policy).rule for sql in changes]
    ['role_change', 'role_change', 'ok']
    """
    if not case.policy.restricts_data:
        return
    for definition in case.statement.definitions:
        parts = any(part.verb in _RIGHTS_PARTS for part in definition.parts)
        settings = definition.command == "AlterRoleSetStmt"  # judged by what is set
        if (
            definition.verb in _RIGHTS
            or parts
            or (definition.object in _RIGHTS_OBJECTS and definition.verb != "comment" and not settings)
        ):
            yield Refusal(
                "role_change",
                f"{definition.shown} would change whose rights apply",
                "Work with the role you are connected as, and with the rights it has.",
            )


def anonymous_code(case: Case) -> Iterator[Refusal]:
    """DO blocks; code that is stored for later, which would run without being asked about; and code under another name.

    A profile that has lifted the floor may store code.

    >>> import guarddb
    >>> stored = "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'begin end'"
    >>> policy = {"access_mode": "read_write", "table_denylist": ["secrets"]}
    >>> [guarddb.evaluate(sql, policy).rule for sql in ("DO 'begin end'", stored)]
    ['anonymous_code', 'anonymous_code']
    """
    policy = case.policy
    for definition in case.statement.definitions:
        if definition.verb == "do":
            yield Refusal(
                "anonymous_code",
                "DO runs code that cannot be judged",
                "Write the statements of the block one by one.",
            )
            continue
        key = (definition.verb, definition.object)
        # (A type by DEFINE is a base type, made of C functions.)
        stores = (
            key in _STORES_CODE
            or definition.command == "AlterTypeStmt"
            or (key == ("create", "type") and definition.command == "DefineStmt")
        )
        if stores and not _is_known(definition, case):
            shown = _CODE_SHOWN.get(" ".join(key), definition.shown)
            yield Refusal(
                "anonymous_code",
                f"{shown} stores code that would run outside this policy",
                "Use plain SELECT, INSERT, UPDATE and DELETE statements instead.",
            )
        elif (policy.restricts_data or policy.profile.function_patterns) and _renames_code(definition):
            yield Refusal(
                "anonymous_code",
                f"{definition.shown} would give code a name under which it was not looked at",
                "Leave functions, operators and types under the names they have.",
            )


def _is_known(definition: Definition, case: Case) -> bool:
    """Whether stored code may pass: nothing restricts what it may do, or what it does is known and the floor has seen it."""
    policy = case.policy
    rules = policy.profile.statement_rules
    if policy.restricts_data or rules.deny or (rules.allow and set(rules.allow) != set(KINDS)):
        return False
    if policy.profile.max_affected_rows and not case.statement.kinds.isdisjoint(WRITE_KINDS):
        return False  # the rows that it will touch are no part of any count
    if set(FLOOR_RULES) <= policy.floor_exceptions | {"anonymous_code"}:
        return True
    if (definition.verb, definition.object) == ("alter", "function"):
        return True  # its body stays as it is; what it SETs is asked about as a setting
    if definition.object in ("function", "procedure", "rule"):
        kept = stored(definition)
        return kept is not None and all(_calls_what_it_may(name, node, case) for name, node in kept)
    if definition.object == "trigger":
        return _may_call(string_list(definition.fields.get("funcname", ())), case)
    if definition.object == "aggregate" and policy.profile.function_patterns:
        return False  # by a listed name it would run functions that no list names
    # An operator, a cast runs a function that is there already, and is asked about it where it is used.
    return definition.object not in ("language", "event trigger") and definition.verb != "load"


def _calls_what_it_may(name: str, node: Node, case: Case) -> bool:
    """Whether a stored statement calls only what the agent may call itself."""
    try:
        statement = read_statement({"stmt": {name: node}}, case.catalog, {"prepared": {}, "portals": {}})
    except (NotJudged, UnknownName, UnknownNode):
        return False
    return not isinstance(functions(case_of(statement, case.policy, case.catalog)), Refusal)


def _may_call(parts: list[str], case: Case) -> bool:
    """Whether a trigger's function is built in, or one that the profile admits."""
    schema, name = (parts[-2] if len(parts) > 1 else None), parts[-1]
    mine = case.catalog.functions_named(name, schema) if case.catalog is not None else ()
    if mine:
        return all(admitted(function, case.policy) for function in mine)
    # (Without a catalog, or where nobody has made it yet, the name is all there is.)
    return bool(builtin(name)) or named(schema or "public", name, case.policy)


def _renames_code(definition: Definition) -> bool:
    if definition.verb == "own":
        # (Whose a type is, says whose rights apply to it.)
        return definition.object in _CODE - {"type", "domain"}
    return definition.verb in ("rename", "move") and definition.object in _CODE


_SYSTEM_SCHEMAS = frozenset(("pg_catalog", "information_schema"))


def system_objects(case: Case) -> Refusal | None:
    """Changes of functions, operators, types and the like of pg_catalog. No profile lifts this one."""
    for definition in case.statement.definitions:
        if definition.verb == "move" and definition.fields.get("newschema") in _SYSTEM_SCHEMAS:
            return Refusal(
                "anonymous_code",
                f"{definition.shown} into pg_catalog would change PostgreSQL itself, and is refused under every policy",
                "Use a schema of your own.",
            )
        if definition.verb in ("comment", "select", "insert", "update", "delete", "grant", "revoke"):
            continue
        if definition.object not in _CODE and not definition.object.startswith(("text search", "collation")):
            continue
        if definition.object in ("cast", "transform", "rule", "trigger", "event trigger", "language"):
            continue
        if any(schema in _SYSTEM_SCHEMAS for schema, _ in definition.names):
            return Refusal(
                "anonymous_code",
                f"{definition.shown} in pg_catalog would change PostgreSQL itself, and is refused under every policy",
                "Change only objects of your own.",
            )
    return None
