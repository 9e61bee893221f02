"""Which conditions cannot raise an error and run nobody's code, so that they may run on a row that a filter hides.

A row filter that is ANDed to such a condition is as good as a barrier, and the planner keeps every index. PostgreSQL
calls the functions behind such conditions leakproof; the list here is by the shape of the condition and the types of its
columns. What is not on it is not dangerous, it is only put behind a fence.
"""

from __future__ import annotations

import re
from typing import Any

from guarddb.facts import functions
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
        if not all(_plain_link(link) for link, _ in root.uses):
            return False
        # Which column meets which is not written down: all of them have to be comparable with each other, or of one name.
        by_name: dict[str, list[str | None]] = {}
        for link, _ in root.uses:
            name = link[1] if isinstance(link, tuple) else link.name
            by_name.setdefault(name, []).append(_link_family(link))
        return all(_comparable(*families) for families in by_name.values())
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
        families = [_family(item, links) for item in (left, *items)]
        return _comparable(*families) and all(_operand(item, links) for item in (left, *items))
    names = string_list(fields["name"])
    if len(names) != 1:
        return False
    name = names[0]
    if kind in ("AEXPR_LIKE", "AEXPR_ILIKE"):
        return name in _LIKE and _text_column(left, links) and _pattern(right)
    if kind in ("AEXPR_OP_ANY", "AEXPR_OP_ALL"):
        return name in _COMPARISONS and _operand(left, links) and _array(left, right, links)
    if kind in ("AEXPR_OP", "AEXPR_DISTINCT", "AEXPR_NOT_DISTINCT"):
        if name not in _COMPARISONS or not (_operand(left, links) and _operand(right, links)):
            return False
        if "RowExpr" in left and "RowExpr" in right:
            pairs = zip(left["RowExpr"].get("args", ()), right["RowExpr"].get("args", ()), strict=False)
            return all(_comparable(_family(a, links), _family(b, links)) for a, b in pairs)
        return _comparable(_family(left, links), _family(right, links))
    return False


_FAMILIES = {
    name: family
    for family, names in {
        "int": "int2 int4",
        "int8": "int8",
        "numeric": "numeric",
        "float": "float4 float8",
        "oid": "oid regclass regproc regprocedure regtype regrole regnamespace regoper regoperator regconfig",
        "text": "text varchar bpchar name char",
        "time": "date timestamp timestamptz",
        "clock": "time timetz",
    }.items()
    for name in names.split()
}
#: Families that PostgreSQL compares without a conversion that could raise. Left out: numeric with float (out of range,
#: with the value in the message), int8 with oid, text with regclass.
_COMPARABLE = frozenset(
    frozenset(pair)
    for pair in (
        ("int", "int8"),
        ("int", "numeric"),
        ("int8", "numeric"),
        ("int", "float"),
        ("int8", "float"),
        ("int", "oid"),
    )
)


_COMPUTED = "computed"


def _comparable(*sides: str | None) -> bool:
    """Whether operands of these families can be compared without raising; None is one that takes the other's type."""
    known = {side for side in sides if side is not None}
    if _COMPUTED in known:
        # An expression of unknown type: only these could be converted to it by a cast that raises.
        known.discard(_COMPUTED)
        if known & {"numeric", "int8", "text"}:
            return False
    if len(known) <= 1:
        return True
    return all(
        first == second or frozenset((first, second)) in _COMPARABLE for first in known for second in known
    )


def _family(node: Any, links: dict[int, list[Link]]) -> str | None:
    """The type family of an operand; None for an unknown type (a string constant, a parameter, no catalog)."""
    ((kind, fields),) = node.items()
    if kind == "A_Const":
        return "int" if "ival" in fields else "numeric" if "fval" in fields else None
    if kind == "TypeCast":
        names = string_list(fields["typeName"].get("names", ()))
        return _FAMILIES.get(names[-1], names[-1]) if names else None
    if kind == "SQLValueFunction" or kind == "FuncCall" or kind == "A_Expr":
        return "time"
    if kind == "ColumnRef":
        for link in links.get(id(fields), ()):
            if (family := _link_family(link)) is not None:
                return family
    return None


def _link_family(link: Link) -> str | None:
    if isinstance(link, Output) and link.root is not None:
        return _COMPUTED
    for reference, name in origins(link):
        if reference.relation is not None:
            for attribute in reference.relation.attributes:
                if attribute.name == name:
                    base = attribute.base_type.rpartition(".")[2]
                    return _FAMILIES.get(base, base)
    return None


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


def _array(left: Any, node: Any, links: dict[int, list[Link]]) -> bool:
    if "A_ArrayExpr" in node:
        items = node["A_ArrayExpr"].get("elements", ())
        families = [_family(item, links) for item in (left, *items)]
        return _comparable(*families) and all(_operand(item, links) for item in items)
    return _operand(node, links) and _comparable(_family(left, links), _family(node, links))


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


def _plain_link(link: Link, only: frozenset[str] | None = None) -> bool:
    """Whether a column is of a type that can be compared without raising; unknown types (no catalog) pass for it."""
    for reference, name in origins(link):
        if name == "*":
            return False
        relation = reference.relation
        if relation is None:
            continue
        for attribute in relation.attributes:
            if attribute.name == name and (
                not attribute.plain or (only is not None and attribute.base_type not in only)
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
