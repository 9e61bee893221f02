"""What of an expression takes no column and may raise when it is evaluated, told from its shape.

`Judge` knows more, and takes longer. What it says raises by itself is found here as well.
"""

from __future__ import annotations

from typing import Any

from guarddb.facts.functions import builtin, builtin_operator, is_volatile
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
_NOT_EVALUATED_EARLY = ("ParamRef", "SubLink")


def computes_alone(condition: Any) -> bool:
    """Whether something in a condition takes no column and may raise; what the planner evaluates for its estimates does so
    whatever the rows are.

    >>> from guarddb.tree import parse
    >>> def told(condition):
    ...     return computes_alone(parse(f"SELECT FROM t WHERE {condition}")[0]["stmt"]["SelectStmt"]["whereClause"])
    >>> told("a = $1 AND b > now() - interval '1 day' AND lower(c) = 'x' AND d IN (SELECT e FROM f)")
    False
    >>> told("a = 1 / $1"), told("a AND CASE WHEN b THEN now() - c.d > '1 day' ELSE 'x' || 'y' = 'z' END"), told("a = (SELECT b)")
    (True, True, True)
    """
    return _read(condition, estimated=True)[1]


def _read(value: Any, *, estimated: bool = False) -> tuple[int, bool]:
    """How many columns an expression takes, and whether something in it computes without any."""
    columns, alone = 0, False
    if type(value) is dict:
        for kind, fields in value.items():
            if type(fields) is dict or type(fields) is list:
                found, raises = _node(kind, fields, estimated=estimated)
                columns += found
                alone = alone or raises
    elif type(value) is list or type(value) is tuple:
        for item in value:
            found, raises = _read(item, estimated=estimated)
            columns += found
            alone = alone or raises
    return columns, alone


def _node(kind: str, fields: Any, *, estimated: bool) -> tuple[int, bool]:
    if kind == "ColumnRef":
        return 1, False
    if kind in ("A_Const", "ParamRef", "SQLValueFunction"):
        return 0, False
    if kind == "A_Expr":
        return _expression(fields, estimated=estimated)
    if kind == "BoolExpr":
        return _read(fields["args"], estimated=estimated)
    if kind == "TypeCast":
        columns, alone = _read(fields["arg"])
        return columns, alone or (not columns and fields["arg"].keys().isdisjoint(("A_Const", "ParamRef")))
    if kind == "FuncCall":
        return _call(fields)
    if kind == "SubLink":
        if fields.get("subLinkType") not in ("ANY_SUBLINK", "ALL_SUBLINK"):
            return 0, True
        # (A join, or of no kind that PostgreSQL takes for harmless.)
        columns, alone = _read(fields["testexpr"])
        return max(columns, 1), alone
    columns, alone = _read(fields)
    if kind == "CollateClause":
        return columns, True  # (that there are two may be the column's)
    return columns, alone or (not columns and kind[:1].isupper() and kind not in _QUIET)


def _expression(fields: Node, *, estimated: bool) -> tuple[int, bool]:
    sides = [fields[side] for side in ("lexpr", "rexpr") if side in fields]
    read = [_read(side) for side in sides]
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


def _is_builtin(fields: Node, name: str) -> bool:
    return fields.get("kind", "AEXPR_OP") not in ("AEXPR_OP", "AEXPR_OP_ANY", "AEXPR_OP_ALL") or bool(
        builtin_operator(name)
    )


def _is_evaluated_early(side: Node) -> bool:
    """Whether the planner computes something that it compares a column with."""
    return not below(side, _NOT_EVALUATED_EARLY) and not any(is_volatile(name) for name in calls_in(side))


def _call(fields: Node) -> tuple[int, bool]:
    names = string_list(fields["funcname"])
    arguments = fields.get("args", ())
    read = [_read(argument) for argument in arguments]
    columns, alone = sum(found for found, _ in read), any(raises for _, raises in read)
    for part in ("agg_filter", "agg_order", "over"):
        if part in fields:
            found, raises = _read(fields[part])
            columns, alone = columns + found, alone or raises
    if "agg_star" in fields:
        return max(columns, 1), alone  # (counts rows)
    if not columns:
        return 0, alone or bool(arguments) or names[-1] not in _CLOCKS
    # (A user's function of the language SQL may be put in place of its call.)
    return columns, alone or (not builtin(names[-1]) and not all(found for found, _ in read))
