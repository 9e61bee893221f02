"""Parts of conditions, as the parser gives them."""

from __future__ import annotations

from typing import Any

from guarddb.facts import functions
from guarddb.sql.names import string_list
from guarddb.tree import Node, below

AGGREGATES = frozenset(("FuncCall", "GroupingFunc", "JsonObjectAgg", "JsonArrayAgg"))


def conjuncts(node: Any) -> list[Any]:
    """The parts of a conjunction, as the parser gives them."""
    if node is None:
        return []
    conjunction = node.get("BoolExpr", {})
    return list(conjunction["args"]) if conjunction.get("boolop") == "AND_EXPR" else [node]


def holds_aggregate(node: Any) -> bool:
    """Whether an expression holds an aggregate or a window function: then it runs on groups, and never becomes part of WHERE."""
    return any("over" in fields or is_aggregate(fields) for fields in below(node, AGGREGATES, ("SubLink",)))


def is_aggregate(fields: Node) -> bool:
    """Whether the fields of one of AGGREGATES are an aggregate's and not a function's."""
    names = fields.get("funcname")
    return names is None or functions.is_aggregate(string_list(names)[-1])


def is_equality(node: Node) -> bool:
    """Whether a part is an equality, which a hash or merge join can use."""
    fields = node.get("A_Expr", {})
    return fields.get("kind", "AEXPR_OP") == "AEXPR_OP" and string_list(fields.get("name", ()))[-1:] == ["="]
