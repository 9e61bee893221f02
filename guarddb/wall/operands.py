"""Which operators of a filter are surely PostgreSQL's own, by the types of their operands.

A policy is made with pg_catalog first in the search path, where an operator for exactly these types comes before any other of
that name (binary_oper_exact, and func_select_candidate for domains). What is not certain counts as perhaps a user's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from guarddb.facts.functions import builtin_operator, builtin_type
from guarddb.sql.names import string_list
from guarddb.tree import Node, nodes
from guarddb.wall.database import Relation

#: What these words run.
_WORDS = {
    "BETWEEN": (">=", "<="),
    "NOT BETWEEN": ("<", ">"),
    "BETWEEN SYMMETRIC": (">=", "<="),
    "NOT BETWEEN SYMMETRIC": ("<", ">"),
}
TYPE_NAMES = {"integer": "int4", "int": "int4", "bigint": "int8", "smallint": "int2", "boolean": "bool"}
#: Comparisons of one operand with another.
_OF_TWO = frozenset(("AEXPR_OP", "AEXPR_DISTINCT", "AEXPR_NOT_DISTINCT", "AEXPR_LIKE", "AEXPR_ILIKE"))
_COMPARES = ("=", "<>", "<", ">")
#: Sub-selects that are compared with nothing.
_BY_THEMSELVES = frozenset(("EXISTS_SUBLINK", "EXPR_SUBLINK", "ARRAY_SUBLINK"))
#: Whatever gives columns other names, or brings columns of types that are not known here.
_RENAMES = frozenset(("RangeSubselect", "RangeFunction", "CommonTableExpr", "RangeTableFunc", "JsonTable"))

_Use = tuple[str, Node, Node]


def operators(tree: Node, relations: Sequence[Relation]) -> tuple[set[str], set[str]]:
    """The operators of an expression by name, those that are written as words among them: all, and those of them that may be
    others than PostgreSQL's own for types of its own.

    Args:
        relations: the filtered table, and those that sub-selects read.
    """
    named: set[str] = set()
    open_: set[str] = set()
    columns = {} if _renames(tree, relations) else _columns(relations)
    for kind, node in nodes(tree):
        if kind not in ("A_Expr", "SubLink", "CaseExpr", "JoinExpr", "MinMaxExpr"):
            continue
        uses = _uses(kind, node)
        names = _names(kind, node) if uses is None else {operator for operator, _, _ in uses}
        named |= names
        if uses is None:
            open_ |= names
        else:
            open_ |= {
                operator for operator, left, right in uses if not _is_own(operator, left, right, columns)
            }
    return named, open_


def _names(kind: str, node: Node) -> set[str]:
    if kind == "A_Expr":
        names = string_list(node.get("name", ()))[-1:]
        return set(_WORDS.get(names[0], tuple(names)) if names else ("=",))
    return set(string_list(node.get("operName", ())) or _COMPARES)


def _uses(kind: str, node: Node) -> list[_Use] | None:
    """Each operator with its operands; None where they cannot be told apart."""
    if kind == "JoinExpr":
        return None if "usingClause" in node or "isNatural" in node else []
    if kind == "CaseExpr":
        if "arg" not in node:
            return []
        return [("=", node["arg"], when["CaseWhen"]["expr"]) for when in node.get("args", ())]
    if kind == "SubLink":
        if node.get("subLinkType", "EXISTS_SUBLINK") in _BY_THEMSELVES:
            return []
        compared = string_list(node.get("operName", ())) or ["="]
        targets = node["subselect"].get("SelectStmt", {}).get("targetList", ())
        if len(compared) != 1 or len(targets) != 1 or "testexpr" not in node:
            return None
        return [(compared[0], node["testexpr"], targets[0]["ResTarget"]["val"])]
    names = string_list(node.get("name", ())) if kind == "A_Expr" else []
    if len(names) != 1 or "lexpr" not in node or "rexpr" not in node:
        return None
    operator, left, right = names[0], node["lexpr"], node["rexpr"]
    how = node.get("kind", "AEXPR_OP")
    if how in _OF_TWO:
        return _of_rows(operator, left, right)
    if how in ("AEXPR_OP_ANY", "AEXPR_OP_ALL"):
        element = _element(left, right)
        return None if element is None else [(operator, left, element)]
    if "List" not in right:
        return None
    items = right["List"]["items"]
    if how == "AEXPR_IN":
        if "RowExpr" in left:
            return _all(_of_rows(operator, left, item) for item in items)
        # As one array, of the type that all of them have in common.
        return [(operator, left, item) for item in (*items, left)]
    if operator in _WORDS:
        return [(each, left, item) for each in _WORDS[operator] for item in items]
    return None


def _of_rows(operator: str, left: Node, right: Node) -> list[_Use] | None:
    """A comparison; of two rows, field by field."""
    if "RowExpr" not in left and "RowExpr" not in right:
        return [(operator, left, right)]
    mine, theirs = (side.get("RowExpr", {}).get("args", ()) for side in (left, right))
    if len(mine) != len(theirs) or any("RowExpr" in field for field in (*mine, *theirs)):
        return None
    return [(operator, one, other) for one, other in zip(mine, theirs, strict=True)]


def _all(parts: Iterable[list[_Use] | None]) -> list[_Use] | None:
    found: list[_Use] = []
    for part in parts:
        if part is None:
            return None
        found += part
    return found


def _element(left: Node, array: Node) -> Node | None:
    """Something of the type of an array's elements, or None where that is not certain."""
    if "A_Const" in array:
        # (A text without a type becomes an array of what it is compared with.)
        return left if "sval" in array["A_Const"] else None
    if "TypeCast" in array:
        target = array["TypeCast"]["typeName"]
        if len(target.get("arrayBounds", ())) != 1:
            return None
        return _cast({key: value for key, value in target.items() if key != "arrayBounds"})
    elements = array.get("A_ArrayExpr", {}).get("elements", ())
    types = {_type(element, {}) for element in elements}
    if len(types) != 1 or None in types:
        return None
    return _cast({"names": [{"String": {"sval": "text"}}]}) if types == {"unknown"} else elements[0]


def _cast(target: Node) -> Node:
    return {"TypeCast": {"arg": {}, "typeName": target}}


def _is_own(operator: str, left: Node, right: Node, columns: dict[str, str | None]) -> bool:
    one, other = _type(left, columns), _type(right, columns)
    if one is None or other is None:
        return False
    if one == "unknown":
        one = "text" if other == "unknown" else other
    if other == "unknown":
        other = one
    return any(each.left == one and each.right == other for each in builtin_operator(operator))


def _type(node: Node, columns: dict[str, str | None]) -> str | None:
    """The type of an operand as pg_type has it (of a domain, its base); `unknown` for a text without a type."""
    if "ColumnRef" in node:
        fields = node["ColumnRef"].get("fields", ())
        parts = string_list(fields)
        return columns.get(parts[-1]) if len(parts) == len(fields) and len(parts) <= 2 else None
    if "A_Const" in node:
        constant = node["A_Const"]
        for key, type_ in (("ival", "int4"), ("boolval", "bool"), ("sval", "unknown"), ("isnull", "unknown")):
            if key in constant:
                return type_
        return None
    if "TypeCast" in node:
        target = node["TypeCast"]["typeName"]
        *schema, name = string_list(target.get("names", ()))
        if schema not in ([], ["pg_catalog"]) or "arrayBounds" in target:
            return None
        name = TYPE_NAMES.get(name, name)
        return name if builtin_type(name) is not None else None
    if "FuncCall" in node and string_list(node["FuncCall"].get("funcname", ())) == ["current_setting"]:
        return "text"
    return None


def _columns(relations: Iterable[Relation]) -> dict[str, str | None]:
    """The type of each column by its name; None where it is no type of PostgreSQL's own, or two columns have two types."""
    found: dict[str, str | None] = {}
    for relation in relations:
        for column in relation.columns:
            type_ = column.type_name or None
            found[column.name] = type_ if found.get(column.name, type_) == type_ else None
    return found


def _renames(tree: Node, relations: Sequence[Relation]) -> bool:
    """Whether a name may mean another column than one of these relations."""
    read = 0
    for kind, node in nodes(tree):
        if kind in _RENAMES or (kind in ("alias", "Alias") and "colnames" in node):
            return True
        read += kind == "RangeVar"
    return read != len(relations) - 1
