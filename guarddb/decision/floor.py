"""The floor: what is refused whatever the profile says, unless it names the rule in `guarddb.floor_exceptions`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from guarddb.decision.administration import anonymous_code, rights, system_objects
from guarddb.decision.case import Case
from guarddb.decision.refusal import Refusal
from guarddb.decision.settings import closed_settings, session_settings, superuser_settings
from guarddb.sql.analysis.definitions import Definition, define, stored
from guarddb.sql.names import string_list
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


def destructive_ddl(case: Case) -> Iterator[Refusal]:
    """DROP of anything that holds data, DROP COLUMN, TRUNCATE.

    >>> import guarddb
    >>> drops = "DROP TABLE IF EXISTS t", "DROP VIEW v", "DROP VIEW v CASCADE"
    >>> [guarddb.evaluate(sql, {"access_mode": "read_write"}).rule for sql in drops]
    ['destructive_ddl', 'ok', 'destructive_ddl']
    """
    for definition in _with_stored(case):
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


def _with_stored(case: Case) -> Iterator[Definition]:
    """The definitions of a statement, and the utility statements that they keep for later."""
    for definition in case.statement.definitions:
        yield definition
        for name, node in stored(definition) or ():
            yield define(name, node)


def whereless_write(case: Case) -> Iterator[Refusal]:
    """UPDATE and DELETE (and MERGE that does either) without a condition on a column, at any depth."""
    statement = case.statement
    for definition in statement.definitions:
        kept = stored(definition) or ()
        inner = [pair for name, tree in kept for pair in ((name, tree), *nodes(tree))]
        for name, node in (*nodes(definition.fields), *inner):
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
        merge = query.kind == "merge"
        missing, article = ("ON condition", "an") if merge else ("WHERE", "a")
        yield Refusal(
            "whereless_write",
            f'{verb} on "{target}" without {article} {missing} that names a column would touch every row',
            f"Add {article} {missing} that picks the rows by a column of the table, for example "
            + ("ON t.id = s.id." if merge else "WHERE id = 1."),
        )


def overwrites_a_column(case: Case) -> Iterator[Refusal]:
    """ALTER COLUMN … TYPE … USING an expression that is not made of the column: every row gets another value."""
    for definition in case.statement.definitions:
        for part in definition.parts:
            if part.verb != "alter column type" or definition.object == "type":
                continue
            using = part.node.get("def", {}).get("ColumnDef", {}).get("raw_default")
            if using is not None and not _carries(using, part.name or ""):
                yield Refusal(
                    "whereless_write",
                    f'the USING of ALTER COLUMN "{part.name}" does not keep its value, and would overwrite every row',
                    f"Make the new value of the column itself, for example USING {part.name}::text.",
                )


#: Functions that give nothing of a text when they are told to give 0 characters of it.
_CUTTERS = frozenset(("left", "right", "repeat", "lpad", "rpad", "substr", "substring"))


def _carries(node: Any, column: str) -> bool:
    """Whether the value of an expression depends on a column, as far as its form tells.

    `v::int`, `CASE v WHEN 'yes' THEN true ELSE false END` -> yes; `''`, `CASE WHEN true THEN '' ELSE v END`, `left(v, 0)` -> no
    """
    if not isinstance(node, dict) or len(node) != 1:
        return False
    ((name, fields),) = node.items()
    if not isinstance(fields, dict):
        return False
    if name == "ColumnRef":
        return string_list(fields["fields"])[-1:] == [column]
    if name == "CaseExpr":
        return _case_carries(fields, column)
    if name == "CoalesceExpr":
        return _carries(fields["args"][0], column)
    if name == "A_Expr":
        left, right = fields.get("lexpr", {}), fields.get("rexpr", {})
        if _bare(left) == _bare(right) or (
            string_list(fields.get("name", ())) == ["*"] and (_is_zero(left) or _is_zero(right))
        ):
            return False  # NULLIF(v, v), v = v, v - v, v * 0
    if name == "FuncCall":
        arguments = fields.get("args", ())
        if string_list(fields.get("funcname", ()))[-1] in _CUTTERS and arguments and _is_zero(arguments[-1]):
            return False
        if len(arguments) > 1 and _bare(arguments[0]) == _bare(arguments[1]):
            return False  # replace(v, v, '')
    if name == "A_Indirection" and (element := _element(fields)) is not None:
        return _carries(element, column)
    return any(
        _carries(child, column)
        for value in fields.values()
        for child in (value if isinstance(value, list) else [value])
    )


def _case_carries(fields: Node, column: str) -> bool:
    given = _carries(fields.get("arg"), column)
    results = []
    for wrapped in fields.get("args", ()):
        arm = wrapped["CaseWhen"]
        if not (given or _carries(arm["expr"], column) or _carries(arm["result"], column)):
            return False  # taken whatever the value is
        results.append(arm["result"])
    results.append(fields.get("defresult", {}))
    return any(_carries(r, column) for r in results) or len({str(_bare(r)) for r in results}) > 1


def _element(fields: Node) -> Node | None:
    """What `(ARRAY['', v])[1]` is, where the index stands there."""
    elements = fields.get("arg", {}).get("A_ArrayExpr", {}).get("elements", ())
    index = fields.get("indirection", ({},))[0].get("A_Indices", {}).get("uidx", {}).get("A_Const", {})
    place = index.get("ival", {}).get("ival", 0)
    found: Node | None = elements[place - 1] if 0 < place <= len(elements) else None
    return found


def _is_zero(node: Node) -> bool:
    value = node.get("A_Const", {})
    return "ival" in value and not value["ival"].get("ival", 0)


def _bare(value: Any) -> Any:
    """A tree without its locations."""
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items() if key != "location"}
    return [_bare(item) for item in value] if isinstance(value, list) else value


def copy_files(case: Case) -> Refusal | None:
    """COPY to or from a file or a program of the server. No profile lifts this one."""
    for definition in _with_stored(case):
        fields = definition.fields
        if definition.verb == "copy" and (fields.get("is_program") or "filename" in fields):
            what = "a program" if fields.get("is_program") else "a file"
            return Refusal(
                "forbidden_function",
                f"COPY to or from {what} on the server is refused under every policy",
                "Use COPY … TO STDOUT or COPY … FROM STDIN.",
            )
    return None


#: The floor but for functions, in the order they are asked.
FLOOR: tuple[Callable[[Case], Iterator[Refusal]], ...] = (
    destructive_ddl,
    whereless_write,
    session_settings,
    anonymous_code,
)
#: Asked after the rules about relations and masks, which say more about the same statement.
LATE: tuple[Callable[[Case], Iterator[Refusal]], ...] = (
    overwrites_a_column,
    rights,
)
#: What no exception lifts.
ALWAYS: tuple[Callable[[Case], Refusal | None], ...] = (
    copy_files,
    closed_settings,
    superuser_settings,
    system_objects,
)


def floor(case: Case) -> Refusal | None:
    """The first rule of the floor that refuses the statement and that the profile does not lift.

    >>> import guarddb
    >>> writer = {"access_mode": "read_write"}
    >>> [guarddb.evaluate(sql, writer).rule for sql in ("DROP TABLE t", "DELETE FROM t", "SET ROLE x")]
    ['destructive_ddl', 'whereless_write', 'role_change']
    """
    found = _first(FLOOR, case)
    if found is not None:
        return found
    for always in ALWAYS:
        if (refusal_of := always(case)) is not None:
            return refusal_of
    return None


def late_floor(case: Case) -> Refusal | None:
    """The rest of the floor: what is about a definition's parts.

    >>> import guarddb
    >>> changes = "ALTER TABLE t ALTER a TYPE int USING 0", "ALTER TABLE t ALTER a TYPE bigint"
    >>> [guarddb.evaluate(sql, {"access_mode": "read_write"}).rule for sql in changes]
    ['whereless_write', 'ok']
    """
    return _first(LATE, case) if case.statement.definitions else None


def _first(rules: tuple[Callable[[Case], Iterator[Refusal]], ...], case: Case) -> Refusal | None:
    lifted = case.policy.floor_exceptions
    for rule in rules:
        # All of a rule's, for what the profile lifts may stand in front of what it does not.
        for refusal in rule(case):
            if refusal.rule not in lifted:
                return refusal
    return None
