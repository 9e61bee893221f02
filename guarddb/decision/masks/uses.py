"""What a clause does with a column, in the words of `guarddb.mask_uses`: join, group, equality."""

from __future__ import annotations

from typing import Any

from guarddb.sql.statement import Link, Root
from guarddb.vocabulary import MaskUseKind


def use_kinds(root: Root, link: Link) -> frozenset[MaskUseKind]:
    """What a clause does with a column, in the words of `mask_uses`; empty when none of them fits."""
    if root.clause == "using":
        return frozenset(("join",))
    if root.clause == "conflict":
        return frozenset(("equality",))
    if root.clause == "distinct":
        return frozenset(("group",))
    if root.clause == "group":
        node = root.node
        bare = isinstance(node, dict) and ("ColumnRef" in node or "A_Const" in node)
        return frozenset(("group",)) if bare else frozenset()
    if root.clause not in ("where", "on", "having", "filter"):
        return frozenset()
    wanted = {id(column) for used, column in root.uses if used is link or used == link}
    if any(column is None for used, column in root.uses if used is link or used == link):
        return frozenset()
    found: set[MaskUseKind] = set()
    stack: list[Any] = [root.node]
    while stack:
        node = stack.pop()
        if "BoolExpr" in node:
            stack.extend(node["BoolExpr"]["args"])
            continue
        comparison = node.get("A_Expr")
        if comparison is None or comparison["name"][-1]["String"]["sval"] != "=":
            continue
        kind = comparison.get("kind", "AEXPR_OP")
        left, right = comparison.get("lexpr", {}), comparison.get("rexpr", {})
        for side, other in ((left, right), (right, left)):
            column = side.get("ColumnRef") if isinstance(side, dict) else None
            if column is None or id(column) not in wanted:
                continue
            if kind == "AEXPR_OP" and "ColumnRef" in other:
                found.add("join")
                wanted.discard(id(column))
            elif (kind == "AEXPR_OP" and _constant(other)) or (
                kind in ("AEXPR_IN", "AEXPR_OP_ANY") and side is left and _constants(other)
            ):
                found.add("equality")
                wanted.discard(id(column))
    return frozenset() if wanted else frozenset(found)


def _constant(node: Any) -> bool:
    while "TypeCast" in node:
        node = node["TypeCast"]["arg"]
    return "A_Const" in node or "ParamRef" in node


def _constants(node: Any) -> bool:
    """What stands behind IN and = ANY: a list, an ARRAY or a parameter, of values that are known before any row is read."""
    if "List" in node:
        return all(_constant(item) for item in node["List"].get("items", ()))
    while "TypeCast" in node:
        node = node["TypeCast"]["arg"]
    if "A_ArrayExpr" in node:
        return all(_constants(item) for item in node["A_ArrayExpr"].get("elements", ()))
    return _constant(node)
