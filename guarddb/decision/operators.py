"""Operators, judged by identity: the schema, and the types of the operands.

A user's operator is in reach of a use when PostgreSQL could take it there (parse_oper.c). So a user's `=` for a type of its own
refuses no `=` between texts, and `OPERATOR(other.=)` is the one of that schema whatever the search path holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guarddb.decision.admitted import not_allowed, qualified_admitted
from guarddb.decision.case import Case
from guarddb.decision.refusal import Refusal
from guarddb.facts import functions as facts
from guarddb.sql.catalog import Catalog, Operator
from guarddb.sql.leakproof.judge import Judge
from guarddb.sql.leakproof.types import UNKNOWN, Type
from guarddb.sql.names import string_list
from guarddb.sql.statement import Call, Statement
from guarddb.tree import Node, nodes

Use = tuple["Type | None", "Type | None", bool]


def operators(case: Case) -> Refusal | None:
    """The first operator that nobody knows, or behind which a function is that the profile does not admit.

    >>> import guarddb
    >>> [guarddb.evaluate(f"SELECT 1 {operator} 1", {}).rule for operator in ("=", "OPERATOR(shop.=)")]
    ['ok', 'function_not_allowed']
    """
    statement, catalog, known = case.statement, case.catalog, case.governance.admitted
    if statement.operators <= known:
        return None
    judge: Judge | None = None
    for used in statement.operators:
        if used in known:
            continue
        schema, name = used
        builtin = facts.builtin_operator(name) if schema in (None, "pg_catalog") else ()
        mine = catalog.operators_named(name, schema) if catalog is not None and schema != "pg_catalog" else ()
        if not builtin and not mine:
            if schema is None and catalog is not None and catalog.server_version < facts.end_of_facts():
                continue  # there is no such operator, and PostgreSQL says so itself (42883)
            return _unknown(schema, name, catalog)
        refused = [
            each
            for each in mine
            if catalog is not None and not qualified_admitted(each.function, case.policy, catalog)
        ]
        if not refused:
            known.add(used)
            continue
        assert catalog is not None
        judge = judge or Judge(statement, catalog, undeclared=None)
        found = _in_reach(schema, name, refused, statement, catalog, judge)
        if found is not None:
            behind = found.function.rpartition(".")[2]
            return not_allowed(Call(None, behind, 2, None, how="operator"), found.function, case.policy)
    return None


def _unknown(schema: str | None, name: str, catalog: Catalog | None) -> Refusal:
    shown = f"{schema}.{name}" if schema else name
    without = " without a catalog" if catalog is None else ""
    return Refusal(
        "function_not_allowed",
        f'operator "{shown}" is not known{without}, so what it calls cannot be judged',
        "Use a built-in operator"
        + (", or evaluate with the database's catalog." if catalog is None else "."),
    )


def _in_reach(
    schema: str | None,
    name: str,
    refused: list[Operator],
    statement: Statement,
    catalog: Catalog,
    judge: Judge,
) -> Operator | None:
    """The first of these operators that PostgreSQL could take for a use of the name in the statement."""
    present = types_present(statement, catalog)
    near = [each for each in refused if _is_near(each, present)]
    if not near:
        return None
    if _hidden_use(name, statement):
        return near[0]
    for left, right, prefix in _uses(schema, name, statement, judge):
        for each in near:
            if (each.left is None) != prefix or each.right is None:
                continue
            if each.left is not None and not _takes(left, each.left, catalog, judge):
                continue
            if not _takes(right, each.right, catalog, judge):
                continue
            if any(type_ is not None and catalog.is_domain(type_) for type_ in (each.left, each.right)):
                return each  # a column of a domain's type is only known by its base
            if left is not None or prefix:
                chosen = (
                    judge.calls.operator(schema, name, None if prefix else left, right)
                    if right is not None
                    else None
                )
                # A result that is known is a built-in operator's.
                if chosen is not None and chosen.result is not None:
                    continue
            return each
    return None


def _is_near(operator: Operator, present: set[Type]) -> bool:
    """Whether the types of users that it takes are in the statement at all."""
    return all(
        type_ is None or type_.startswith("pg_catalog.") or type_ in present
        for type_ in (operator.left, operator.right)
    )


def _takes(given: Type | None, wanted: Type, catalog: Catalog, judge: Judge) -> bool:
    """Whether an operand could be taken for what an operator asks for. None is a type that nobody can tell."""
    if given is None or given in (UNKNOWN, wanted) or judge.types.converts(given, wanted):
        return True
    if catalog.is_domain(wanted):
        known = catalog.type_named(*wanted.split(".", 1))
        return known is not None and given == known.base_type
    return any(c.source == given and c.target == wanted and c.context == "i" for c in catalog.casts)


#: Clauses that compare with `=` without an expression that says so.
def _hidden_use(name: str, statement: Statement) -> bool:
    if name != "=":
        return False
    return any(root.clause == "using" for root in statement.roots) or any(
        (kind == "SubLink" and "operName" not in node and node.get("subLinkType") == "ANY_SUBLINK")
        or (kind == "CaseExpr" and "arg" in node)
        for kind, node in nodes(statement.fields)
    )


def _uses(schema: str | None, name: str, statement: Statement, judge: Judge) -> Iterator[Use]:
    """The types of the operands, (left, right, whether it is a prefix operator), of each use of an operator."""
    for kind, node in nodes(statement.fields):
        if kind == "SubLink" and string_list(node.get("operName", ()))[-1:] == [name]:
            yield None, None, False
        if kind == "SortBy" and string_list(node.get("useOp", ()))[-1:] == [name]:
            type_ = _type(node.get("node"), judge)
            yield type_, type_, False
        if kind != "A_Expr" or not _is_use(schema, name, node):
            continue
        left, right = node.get("lexpr"), node.get("rexpr")
        how = node.get("kind", "AEXPR_OP")
        if left is None:
            yield None, _type(right, judge), True
            continue
        for one, other in _pairs(left, right):
            if how in ("AEXPR_OP_ANY", "AEXPR_OP_ALL"):
                array = _type(other, judge)
                element = array if array in (None, UNKNOWN) else judge.types.element_of(array)
                yield _type(one, judge), element, False
            else:
                yield _type(one, judge), _type(other, judge), False


def _is_use(schema: str | None, name: str, node: Node) -> bool:
    parts = string_list(node.get("name", ()))
    if node.get("kind", "").startswith(("AEXPR_BETWEEN", "AEXPR_NOT_BETWEEN")):
        return schema is None and name in (">=", "<=")
    return parts[-1:] == [name] and (parts[-2] if len(parts) > 1 else None) == schema


def _pairs(left: Any, right: Any) -> Iterator[tuple[Any, Any]]:
    """What is compared with what: a list item by item, a row column by column."""
    if isinstance(right, list) or "List" in (right or {}):
        for item in right if isinstance(right, list) else right["List"].get("items", ()):
            yield from _pairs(left, item)
    elif "RowExpr" in left and "RowExpr" in (right or {}):
        yield from zip(left["RowExpr"].get("args", ()), right["RowExpr"].get("args", ()), strict=False)
    else:
        yield left, right


def _type(node: Node | None, judge: Judge) -> Type | None:
    return judge.condition(node).type if node else None


def types_present(statement: Statement, catalog: Catalog) -> set[Type]:
    """The types of users that values in the statement may have: of the columns of its relations, of its casts and calls, and
    what is inside of these."""
    found: set[Type] = set()
    for reference in statement.references:
        if reference.relation is not None:
            found.add(f"{reference.relation.schema}.{reference.relation.name}")
            for attribute in reference.relation.attributes:
                found.update((attribute.type, attribute.base_type))
    for use in statement.types:
        known = catalog.type_named(use.schema, use.name)
        if known is not None:
            found.update((f"{known.schema}.{known.name}", known.base_type))
        elif use.schema is not None:
            found.add(f"{use.schema}.{use.name}")
    for call in statement.calls:
        found.update(function.returns for function in catalog.functions_named(call.name, call.schema))
        known = catalog.type_named(call.schema, call.name)
        if known is not None:
            found.add(f"{known.schema}.{known.name}")
    inside = {each for type_ in found for each in catalog.types_inside(type_)}
    return inside | found
