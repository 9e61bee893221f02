"""What of an expression takes no column and may raise when it is evaluated, told from its shape.

`Judge` knows more, and takes longer. What it says raises by itself is found here as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guarddb.facts.functions import builtin, builtin_operator, is_volatile
from guarddb.sql.leakproof.parts import is_aggregate
from guarddb.sql.names import calls_in, string_list
from guarddb.tree import Node, below

#: Without arguments, and they return.
_CLOCKS = frozenset(
    ("now", "transaction_timestamp", "statement_timestamp", "clock_timestamp", "random", "current_database")
)
_COMPARISONS = frozenset(("=", "<>", "!=", "<", ">", "<=", ">=", "BETWEEN"))
#: Expressions that do nothing of their own with their parts.
_QUIET = frozenset(
    ("BoolExpr", "NullTest", "BooleanTest", "CaseExpr", "CaseWhen", "CoalesceExpr", "RowExpr", "A_ArrayExpr", "List",
     "A_Indirection", "A_Indices", "ResTarget", "MinMaxExpr")
)  # fmt: skip
#: Fields of a FuncCall beside its arguments that say nothing of what it computes with.
_OF_A_CALL = frozenset(("funcname", "args", "funcformat", "location"))
_NOTHING: Node = {}
_NOT_EVALUATED_EARLY = ("ParamRef", "SubLink")


def computes_alone(condition: Any, takes_rows: Callable[[Node], bool] | None = None) -> bool:
    """Whether something in a condition takes no column and may raise; what the planner evaluates for its estimates does so
    whatever the rows are.

    Args:
        takes_rows: whether a sub-select (the fields of its SubLink) surely takes a column of the query around it, so that it is
            computed anew for each row, which PostgreSQL does not take for harmless. None: nobody knows of any.

    >>> from guarddb.tree import parse
    >>> def told(condition):
    ...     return computes_alone(parse(f"SELECT FROM t WHERE {condition}")[0]["stmt"]["SelectStmt"]["whereClause"])
    >>> told("a = $1 AND b > now() - interval '1 day' AND lower(c) = 'x' AND d IN (SELECT e FROM f)")
    False
    >>> told("a = 1 / $1"), told("a AND CASE WHEN b THEN now() - c.d > '1 day' ELSE 'x' || 'y' = 'z' END"), told("a = (SELECT b)")
    (True, True, True)
    """
    return _Reader(takes_rows).read(condition, estimated=True)[1]


def keeps_columns(condition: Any) -> bool:
    """Whether a condition is made of comparisons of columns with columns and constants: of none of them PostgreSQL knows the
    answer before it has a row.

    >>> from guarddb.tree import parse
    >>> def told(condition):
    ...     return keeps_columns(parse(f"SELECT FROM t WHERE {condition}")[0]["stmt"]["SelectStmt"]["whereClause"])
    >>> told("a.b = c.d AND c.e > 1"), told("a.b = c.d AND false"), told("a.b = c.d OR a.b = NULL"), told("a.b = c.d AND e = $1")
    (True, False, False, False)
    """
    if (both := condition.get("BoolExpr")) is not None:
        return both.get("boolop") != "NOT_EXPR" and all(map(keeps_columns, both["args"]))
    comparison = condition.get("A_Expr", _NOTHING)
    sides = comparison.get("lexpr", _NOTHING), comparison.get("rexpr", _NOTHING)
    names = comparison.get("name", ())
    return (
        comparison.get("kind") == "AEXPR_OP"
        and len(names) == 1
        and names[0]["String"].get("sval") in _COMPARISONS
        and any("ColumnRef" in side for side in sides)
        and all(
            "ColumnRef" in side or not side.get("A_Const", {"isnull": True}).get("isnull") for side in sides
        )
    )


def is_plain(condition: Any) -> bool:
    """Whether it compares columns with constants, parameters or columns, as most do: nothing in it computes alone.

    >>> from guarddb.tree import parse
    >>> def told(condition):
    ...     return is_plain(parse(f"SELECT FROM t WHERE {condition}")[0]["stmt"]["SelectStmt"]["whereClause"])
    >>> told("a = 1 AND (b < $1 OR c IN (1, 2))"), told("a = 1 / $1"), told("a OPERATOR(mine.=) 1")
    (True, False, False)
    """
    if type(condition) is not dict:
        return False
    if (comparison := condition.get("A_Expr")) is not None:
        left, right = comparison.get("lexpr", _NOTHING), comparison.get("rexpr", _NOTHING)
        if "ColumnRef" not in left:
            if "ColumnRef" not in right:
                return False
            right = left
        if len(names := comparison["name"]) > 1:
            return False
        return names[0]["String"]["sval"] in _COMPARISONS and (
            "A_Const" in right
            or "ColumnRef" in right
            or "ParamRef" in right
            or ("TypeCast" in right and "A_Const" in right["TypeCast"]["arg"])
            or ("List" in right and all("A_Const" in each for each in right["List"]["items"]))
        )
    if (both := condition.get("BoolExpr")) is not None:
        return all(map(is_plain, both["args"]))
    if (call := condition.get("FuncCall")) is not None:
        arguments = call.get("args", ())
        return (
            bool(arguments) and call.keys() <= _OF_A_CALL and all("ColumnRef" in each for each in arguments)
        )
    return "ColumnRef" in condition


def is_of_groups(expression: Any) -> bool:
    """Whether it is an aggregate or a window function as a whole, so that no condition outside of its query meets its value.

    >>> from guarddb.tree import parse
    >>> def told(column):
    ...     return is_of_groups(parse(f"SELECT {column}")[0]["stmt"]["SelectStmt"]["targetList"][0]["ResTarget"]["val"])
    >>> told("count(*)"), told("sum(a / $1)"), told("rank() OVER ()"), told("abs(a)"), told("1 + count(*)")
    (True, True, True, False, False)
    """
    call = expression.get("FuncCall") if type(expression) is dict else None
    return call is not None and ("over" in call or is_aggregate(call))


class _Reader:
    """Reads an expression: how many columns it takes, and whether something in it computes without any."""

    __slots__ = ("_takes_rows",)

    def __init__(self, takes_rows: Callable[[Node], bool] | None) -> None:
        self._takes_rows = takes_rows

    def read(self, value: Any, *, estimated: bool = False) -> tuple[int, bool]:
        columns, alone = 0, False
        if type(value) is dict:
            for kind, fields in value.items():
                if type(fields) is dict or type(fields) is list:
                    found, raises = self._node(kind, fields, estimated=estimated)
                    columns += found
                    alone = alone or raises
        elif type(value) is list or type(value) is tuple:
            for item in value:
                found, raises = self.read(item, estimated=estimated)
                columns += found
                alone = alone or raises
        return columns, alone

    def _node(self, kind: str, fields: Any, *, estimated: bool) -> tuple[int, bool]:
        if kind == "ColumnRef":
            return 1, False
        if kind in ("A_Const", "ParamRef", "SQLValueFunction"):
            return 0, False
        if kind == "A_Expr":
            return self._expression(fields, estimated=estimated)
        if kind == "BoolExpr":
            return self.read(fields["args"], estimated=estimated)
        if kind == "TypeCast":
            columns, alone = self.read(fields["arg"])
            return columns, alone or (
                not columns and fields["arg"].keys().isdisjoint(("A_Const", "ParamRef"))
            )
        if kind == "FuncCall":
            return self._call(fields)
        if kind == "SubLink":
            return self._sub_select(fields)
        columns, alone = self.read(fields)
        if kind == "CollateClause":
            return columns, True  # (that there are two may be the column's)
        return columns, alone or (not columns and kind[:1].isupper() and kind not in _QUIET)

    def _sub_select(self, fields: Node) -> tuple[int, bool]:
        if fields.get("subLinkType") in ("ANY_SUBLINK", "ALL_SUBLINK"):
            # (A join, or of no kind that PostgreSQL takes for harmless.)
            columns, alone = self.read(fields["testexpr"])
            return max(columns, 1), alone
        return (1, False) if self._takes_rows is not None and self._takes_rows(fields) else (0, True)

    def _expression(self, fields: Node, *, estimated: bool) -> tuple[int, bool]:
        sides = [fields[side] for side in ("lexpr", "rexpr") if side in fields]
        read = [self.read(side) for side in sides]
        columns, alone = sum(found for found, _ in read), any(raises for _, raises in read)
        names = string_list(fields.get("name", ()))
        if not columns:
            return 0, alone or not all("A_Const" in side and "sval" not in side["A_Const"] for side in sides)
        if not alone and len(sides) == 2 and not all(found for found, _ in read):
            # A user's operator may be a function whose body is put in place of it.
            alone = len(names) != 1 or (names[0] not in _COMPARISONS and not _is_builtin(fields, names[0]))
        if estimated and alone and len(sides) == 2 and names and names[-1] in _COMPARISONS:
            for (found, raises), (beside, _), side in zip(read, read[::-1], sides[::-1], strict=True):
                if found == 1 and not raises and not beside and _is_evaluated_early(side):
                    return columns, False
        return columns, alone

    def _call(self, fields: Node) -> tuple[int, bool]:
        names = string_list(fields["funcname"])
        arguments = fields.get("args", ())
        read = [self.read(argument) for argument in arguments]
        columns, alone = sum(found for found, _ in read), any(raises for _, raises in read)
        for part in ("agg_filter", "agg_order", "over"):
            if part in fields:
                found, raises = self.read(fields[part])
                columns, alone = columns + found, alone or raises
        if "agg_star" in fields:
            return max(columns, 1), alone  # (counts rows)
        if not columns:
            return 0, alone or bool(arguments) or names[-1] not in _CLOCKS
        # (A user's function of the language SQL may be put in place of its call.)
        return columns, alone or (not builtin(names[-1]) and not all(found for found, _ in read))


def _is_builtin(fields: Node, name: str) -> bool:
    return fields.get("kind", "AEXPR_OP") not in ("AEXPR_OP", "AEXPR_OP_ANY", "AEXPR_OP_ALL") or bool(
        builtin_operator(name)
    )


def _is_evaluated_early(side: Node) -> bool:
    """Whether the planner computes something that it compares a column with."""
    return not below(side, _NOT_EVALUATED_EARLY) and not any(is_volatile(name) for name in calls_in(side))
