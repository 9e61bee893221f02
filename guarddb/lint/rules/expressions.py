"""What an expression of a definition is: volatile, provably true, the bare column."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from guarddb.facts.functions import builtin, builtin_operator
from guarddb.lint.script import Check, Script
from guarddb.sql.names import string_list
from guarddb.tree import Node, nodes

Volatility: TypeAlias = Literal["no", "yes", "unknown"]


def volatile(expression: Node, script: Script) -> Volatility:
    """Whether an expression has to be evaluated for every row (contain_volatile_functions).

    A function that nobody knows counts as unknown; CREATE FUNCTION makes VOLATILE ones unless it is told otherwise.
    """
    answer: Volatility = "no"
    for kind, fields in nodes(expression):
        if kind == "FuncCall":
            found = _function(string_list(fields.get("funcname", ())), len(fields.get("args", ())), script)
        elif kind == "A_Expr":
            found = _operator(string_list(fields.get("name", ())), script)
        elif kind in ("SubLink", "JsonFuncExpr"):
            found = "unknown"
        else:
            continue
        if found == "yes":
            return "yes"
        if found == "unknown":
            answer = "unknown"
    return answer


def _function(names: list[str], arguments: int, script: Script) -> Volatility:
    if not names:
        return "unknown"
    schema, name = (names[-2] if len(names) > 1 else None), names[-1]
    if schema in (None, "pg_catalog"):
        overloads = [each for each in builtin(name) if each.takes(arguments)]
        if overloads:
            return "yes" if any(each.volatility == "v" for each in overloads) else "no"
    if (made := script.now.made_functions.get(name)) is not None:
        return "yes" if made == "v" else "no"
    if script.catalog is not None:
        functions = script.catalog.functions_named(name, schema)
        if functions:
            return "yes" if any(each.volatility == "v" for each in functions) else "no"
    return "unknown"


def _operator(names: list[str], script: Script) -> Volatility:
    # No built-in operator is volatile but by the functions that its operands call, and these are nodes of their own.
    if not names or builtin_operator(names[-1]) or names[-1] in ("<>", "!="):
        return "no"
    return "unknown"


def conjuncts(condition: Node) -> list[Node]:
    """The parts of a condition that must all hold."""
    found: list[Node] = []
    stack = [condition]
    while stack:
        node = stack.pop()
        conjunction = node.get("BoolExpr")
        if conjunction is not None and conjunction.get("boolop") == "AND_EXPR":
            stack.extend(conjunction["args"])
        else:
            found.append(node)
    return found


def column_of(node: Any) -> str | None:
    """The name of a bare column reference."""
    fields: Any = node.get("ColumnRef", {}).get("fields", ()) if isinstance(node, dict) else ()
    return fields[-1]["String"]["sval"] if len(fields) == 1 and "String" in fields[-1] else None


def proves_not_null(condition: Node, column: str) -> bool:
    """Whether a condition that is known to be true or NULL says that a column is not NULL.

    PostgreSQL asks predicate_implied_by in its weak form: `c > 0` proves nothing, for it is NULL where c is.
    """
    for part in conjuncts(condition):
        test = part.get("NullTest")
        if (
            test is not None
            and test.get("nulltesttype") == "IS_NOT_NULL"
            and column_of(test.get("arg")) == column
        ):
            return True
        choice = part.get("BoolExpr")
        if choice is not None and choice.get("boolop") == "OR_EXPR":
            if all(proves_not_null(each, column) for each in choice["args"]):
                return True
    return False


def proved_not_null(checks: dict[str, Check], column: str) -> bool:
    """Whether a validated CHECK proves a column to be NOT NULL."""
    return any(check.valid and proves_not_null(check.condition, column) for check in checks.values())


def columns_of(expression: Any) -> set[str]:
    """The names of the columns in an expression."""
    return {
        name
        for kind, fields in nodes(expression)
        if kind == "ColumnRef" and (name := column_of({"ColumnRef": fields})) is not None
    }
