"""The conditions of the commonest shape, told without judging them: columns compared with constants and with each other.

What is of another shape is judged (`Judge`), however harmless.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, TypeAlias

from guarddb.sql.catalog import Catalog
from guarddb.sql.leakproof.calls import Calls
from guarddb.sql.leakproof.expressions import constant_type
from guarddb.sql.leakproof.types import COLLATABLE, RECORD, UNKNOWN, Type, Types
from guarddb.sql.statement import Link, Root
from guarddb.tree import Node

_BUILTIN = "pg_catalog."
_NUMERIC = "pg_catalog.numeric"
#: What stands on one side of a comparison.
_Operand: TypeAlias = "tuple[Type, Literal['column', 'constant', 'parameter']]"
#: Of each kind of A_Expr, the operators between the left side and the right, or each item on the right; None: as it is written.
_OPERATORS: dict[str, tuple[str, ...] | None] = {
    "AEXPR_OP": None,
    "AEXPR_IN": None,
    "AEXPR_BETWEEN": (">=", "<="),
    "AEXPR_NOT_BETWEEN": (">=", "<="),
}


def tells_nothing(root: Root, catalog: Catalog, *, parameters: bool = True) -> bool:
    """Whether a condition is made of such comparisons, and every one by a function that is leakproof for these types.

    Args:
        parameters: a parameter is of no type before it meets a column. (PREPARE may say of which it is.)

    >>> from guarddb.sql.analysis.classify import read_statement
    >>> from guarddb.sql.catalog import Attribute, Catalog, Relation
    >>> from guarddb.tree import parse
    >>> id_ = Attribute("id", 1, "pg_catalog.int4", "pg_catalog.int4", "N", plain=True)
    >>> catalog = Catalog("1", 180000, relations={1: Relation(1, "public", "t", "r", (id_,))})
    >>> def told(condition):
    ...     statement = read_statement(parse(f"SELECT FROM t WHERE {condition}")[0], catalog, {})
    ...     return tells_nothing(statement.roots[0], catalog)
    >>> told("id = 1 AND id BETWEEN 2 AND 3 OR id IS NULL"), told("10 / id = 1"), told("id % 2 = 0")
    (True, False, False)
    """
    columns: dict[int, Link] = {}
    for link, column in root.uses:
        if column is None or columns.setdefault(id(column), link) is not link:
            return False
    stack: list[Any] = [root.node]
    while stack:
        node = stack.pop()
        if type(node) is not dict or len(node) != 1:
            return False
        ((kind, fields),) = node.items()
        if kind == "A_Expr":
            if not _compares(fields, columns, catalog, parameters=parameters):
                return False
        elif kind == "BoolExpr":
            stack += fields["args"]
        elif kind == "NullTest":
            if _operand(fields["arg"], columns, parameters=parameters) is None:
                return False
        else:
            return False
    return True


def _compares(fields: Node, columns: dict[int, Link], catalog: Catalog, *, parameters: bool) -> bool:
    kind = fields.get("kind", "AEXPR_OP")
    written = fields.get("name", ())
    if kind not in _OPERATORS or len(written) != 1 or "lexpr" not in fields:
        return False
    left = _operand(fields["lexpr"], columns, parameters=parameters)
    if left is None:
        return False
    right = fields["rexpr"]
    sides = right["List"]["items"] if kind != "AEXPR_OP" and "List" in right else (right,)
    for name in _OPERATORS[kind] or (written[0]["String"]["sval"],):
        if catalog.operators_named(name):
            return False
        for side in sides:
            other = _operand(side, columns, parameters=parameters)
            if other is None or not _is_quiet(name, left, other):
                return False
    return True


def _operand(node: Node, columns: dict[int, Link], *, parameters: bool) -> _Operand | None:
    """A column or a constant with its type, which is a built-in one; None for all else."""
    column = node.get("ColumnRef")
    if column is None:
        constant = node.get("A_Const")
        if constant is not None:
            return constant_type(constant), "constant"
        return (UNKNOWN, "parameter") if parameters and "ParamRef" in node else None
    link = columns.get(id(column))
    if type(link) is not tuple or link[0].relation is None:
        return None
    for attribute in link[0].relation.attributes:
        if attribute.name == link[1]:
            type_ = attribute.base_type
            if (
                attribute.virtual
                or attribute.collation is not None
                or (not attribute.plain and type_ in COLLATABLE)
                or not type_.startswith(_BUILTIN)
            ):
                return None
            return type_, "column"
    return None


@lru_cache(maxsize=4096)
def _is_quiet(name: str, one: _Operand, other: _Operand) -> bool:
    """Whether a built-in operator tells nothing of such operands, where no user's operator has its name."""
    for (type_, what), (_, beside) in ((one, other), (other, one)):
        # A parameter may turn out to be a float, and the column would be converted to that.
        if type_ == RECORD or (type_ == _NUMERIC and what == "column" and beside == "parameter"):
            return False
    types = Types(None)
    found = Calls(types).operator(None, name, one[0], other[0])
    return (
        found is not None
        and not found.tells
        and found.volatility == "i"
        and not any(
            what == "column" and type_ != wanted and types.conversion_tells(type_, wanted)
            for (type_, what), wanted in zip((one, other), found.wanted, strict=True)
        )
    )
