"""Parts of conditions, as the parser gives them."""

from __future__ import annotations

from typing import Any

from guarddb.facts import functions
from guarddb.sql.names import string_list
from guarddb.tree import Node


def conjuncts(node: Any) -> list[Any]:
    """The parts of a conjunction, as the parser gives them."""
    if node is None:
        return []
    conjunction = node.get("BoolExpr", {})
    return list(conjunction["args"]) if conjunction.get("boolop") == "AND_EXPR" else [node]


def holds_aggregate(node: Any) -> bool:
    """Whether an expression holds an aggregate or a window function: then it runs on groups, and never becomes part of WHERE."""
    stack = [node]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            call = value.get("FuncCall")
            if "GroupingFunc" in value or "JsonObjectAgg" in value or "JsonArrayAgg" in value:
                return True
            if call is not None and (
                "over" in call or functions.is_aggregate(string_list(call["funcname"])[-1])
            ):
                return True
            stack.extend(v for k, v in value.items() if k != "SubLink")
        elif isinstance(value, list):
            stack.extend(value)
    return False


def is_equality(node: Node) -> bool:
    """Whether a part is an equality, which a hash or merge join can use."""
    fields = node.get("A_Expr", {})
    return fields.get("kind", "AEXPR_OP") == "AEXPR_OP" and string_list(fields.get("name", ()))[-1:] == ["="]
