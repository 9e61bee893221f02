"""Which conditions cannot raise an error and run nobody's code, so that they may run on a row that a filter hides.

A row filter that is ANDed to such a condition is as good as a barrier, and the planner keeps every index. PostgreSQL
calls the functions behind such conditions leakproof; the list here is by the shape of the condition and the types of its
columns. What is not on it is not dangerous, it is only put behind a fence.
"""

from __future__ import annotations

import re
from typing import Any

from guarddb.sql import functions
from guarddb.sql.names import string_list
from guarddb.sql.statement import Link, Output, Root, origins
from guarddb.tree import Node

_COMPARISONS = frozenset(("=", "<>", "!=", "<", ">", "<=", ">="))
_LIKE = frozenset(("~~", "!~~", "~~*", "!~~*"))
#: now() - interval '7 days' cannot leave the range of timestamps; interval '200000000 years' can.
_SMALL_INTERVAL = re.compile(
    r"\s*\d{1,4}\s*(second|sec|minute|min|hour|day|week|month|mon|year)s?\s*", re.IGNORECASE
)
_LIKE_TYPES = frozenset(("pg_catalog.text", "pg_catalog.varchar"))


def cannot_raise(root: Root, node: Any = None) -> bool:
    """Whether a condition (or the part `node` of it) is plain: it cannot raise whatever row it runs on."""
    if root.clause == "using":
        return all(_plain_link(link) for link, _ in root.uses)
    links: dict[int, list[Link]] = {}
    outputs: list[Link] = []
    for link, column in root.uses:
        if column is None:
            outputs.append(link)
        else:
            links.setdefault(id(column), []).append(link)
    return _condition(root.node if node is None else node, links, outputs)


def _condition(node: Any, links: dict[int, list[Link]], outputs: list[Link]) -> bool:
    stack: list[Any] = [node]
    while stack:
        value = stack.pop()
        if not isinstance(value, dict) or len(value) != 1:
            return False
        ((kind, fields),) = value.items()
        if kind == "BoolExpr":
            stack.extend(fields["args"])
        elif kind in ("NullTest", "BooleanTest"):
            if not _operand(fields["arg"], links):
                return False
        elif kind == "A_Expr":
            if not _comparison(fields, links):
                return False
        elif kind == "SubLink":
            if not _sublink(fields, links, outputs):
                return False
        elif not _operand(value, links):
            return False
    return True


def _comparison(fields: Node, links: dict[int, list[Link]]) -> bool:
    kind = fields.get("kind", "AEXPR_OP")
    left, right = fields.get("lexpr"), fields.get("rexpr")
    if left is None or right is None:
        return False
    if "BETWEEN" in kind or kind == "AEXPR_IN":
        items = right["List"].get("items", ()) if "List" in right else [right]
        return _operand(left, links) and all(_operand(item, links) for item in items)
    names = string_list(fields["name"])
    if len(names) != 1:
        return False
    name = names[0]
    if kind in ("AEXPR_LIKE", "AEXPR_ILIKE"):
        return name in _LIKE and _text_column(left, links) and _pattern(right)
    if kind in ("AEXPR_OP_ANY", "AEXPR_OP_ALL"):
        return name in _COMPARISONS and _operand(left, links) and _array(right, links)
    if _numeric_to_float(left, right, links):
        return False
    if kind in ("AEXPR_OP", "AEXPR_DISTINCT", "AEXPR_NOT_DISTINCT"):
        return name in _COMPARISONS and _operand(left, links) and _operand(right, links)
    return False


def _numeric_to_float(left: Any, right: Any, links: dict[int, list[Link]]) -> bool:
    """numeric against a float: the column is converted, and a value above 1e308 raises with itself in the message."""
    for side, other in ((left, right), (right, left)):
        names = string_list(other.get("TypeCast", {}).get("typeName", {}).get("names", ()))
        floats = bool(names) and names[-1] in ("float4", "float8")
        column = side.get("ColumnRef")
        if floats and column is not None:
            for link in links.get(id(column), ()):
                if not _plain_link(link, but="pg_catalog.numeric"):
                    return True
    return False


def _operand(node: Any, links: dict[int, list[Link]]) -> bool:
    """A column of a plain type, a constant, a parameter, or a moment near now."""
    ((kind, fields),) = node.items()
    if kind in ("A_Const", "ParamRef", "SQLValueFunction"):
        return True
    if kind == "ColumnRef":
        return all(_plain_link(link) for link in links.get(id(fields), ()))
    if kind == "RowExpr":
        return all(_operand(item, links) for item in fields.get("args", ()))
    if kind == "TypeCast":
        # A constant is converted when the statement is parsed, a parameter once for the statement.
        names = string_list(fields["typeName"].get("names", ()))
        if names and names[-1] in ("regclass", "oid", "text") and _is_tableoid(fields["arg"]):
            return True  # the name of a table that is there; no number of a table cannot be printed
        builtin = (
            bool(names)
            and (len(names) == 1 or names[0] == "pg_catalog")
            and functions.builtin_type(names[-1])
        )
        return bool(builtin) and ("A_Const" in fields["arg"] or "ParamRef" in fields["arg"])
    if kind == "FuncCall":
        names = string_list(fields["funcname"])
        return names[-1] in ("now", "transaction_timestamp", "statement_timestamp") and not fields.get("args")
    if kind == "A_Expr" and string_list(fields.get("name", ())) in (["+"], ["-"]):
        return _moment(fields)
    return False


def _is_tableoid(node: Any) -> bool:
    while "TypeCast" in node:
        names = string_list(node["TypeCast"]["typeName"].get("names", ()))
        if not names or names[-1] not in ("regclass", "oid"):
            return False
        node = node["TypeCast"]["arg"]
    return string_list(node.get("ColumnRef", {}).get("fields", ()))[-1:] == ["tableoid"]


def _moment(fields: Node) -> bool:
    """now() - interval '7 days'."""
    left, right = fields.get("lexpr", {}), fields.get("rexpr", {})
    is_now = "SQLValueFunction" in left or ("FuncCall" in left and _operand(left, {}))
    cast = right.get("TypeCast", {})
    if not is_now or string_list(cast.get("typeName", {}).get("names", ()))[-1:] != ["interval"]:
        return False
    text = cast.get("arg", {}).get("A_Const", {}).get("sval", {}).get("sval", "")
    return _SMALL_INTERVAL.fullmatch(text) is not None


def _array(node: Any, links: dict[int, list[Link]]) -> bool:
    if "A_ArrayExpr" in node:
        return all(_operand(item, links) for item in node["A_ArrayExpr"].get("elements", ()))
    return _operand(node, links)


def _pattern(node: Any) -> bool:
    """A constant LIKE pattern that does not end in the escape character, on which LIKE raises for some rows."""
    text = node.get("A_Const", {}).get("sval", {}).get("sval")
    if text is None:
        return False
    return (len(text) - len(text.rstrip("\\"))) % 2 == 0


def _text_column(node: Any, links: dict[int, list[Link]]) -> bool:
    column = node.get("ColumnRef")
    if column is None:
        return False
    return all(_plain_link(link, only=_LIKE_TYPES) for link in links.get(id(column), ()))


def _plain_link(link: Link, only: frozenset[str] | None = None, but: str | None = None) -> bool:
    """Whether a column is of a type that can be compared without raising; unknown types (no catalog) pass for it."""
    for reference, name in origins(link):
        if name == "*":
            return False
        relation = reference.relation
        if relation is None:
            continue
        for attribute in relation.attributes:
            if attribute.name == name and (
                not attribute.plain
                or attribute.base_type == but
                or (only is not None and attribute.base_type not in only)
            ):
                return False
    return True


def _sublink(fields: Node, links: dict[int, list[Link]], outputs: list[Link]) -> bool:
    kind = fields.get("subLinkType", "EXISTS_SUBLINK")
    if kind == "EXISTS_SUBLINK":
        return True  # what is asked inside is judged by itself
    if kind != "ANY_SUBLINK" or "testexpr" not in fields:
        return False
    operator = string_list(fields.get("operName", ()))
    if operator not in ([], ["="]):
        return False
    return _operand(fields["testexpr"], links) and all(
        isinstance(output, Output) and output.root is None and not output.opaque and _plain_link(output)
        for output in outputs
    )
