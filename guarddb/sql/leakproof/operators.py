"""Operators: the function behind each, and what its operands tell by it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from guarddb.facts.functions import Volatility
from guarddb.sql.leakproof.calls import LIKES, Found
from guarddb.sql.leakproof.columns import Columns
from guarddb.sql.leakproof.judged import (
    ANY,
    CONSTANT,
    FEW_DIGITS,
    FREE,
    STABLE,
    Judged,
    copied,
    digits_of,
    lost,
    together,
)
from guarddb.sql.leakproof.types import BOOL, COLLATABLE, RECORD, UNKNOWN
from guarddb.sql.names import string_list
from guarddb.tree import Node

_NUMERIC = "pg_catalog.numeric"
#: Numbers that a division rounds or cuts, and never makes too small or too large for their type.
_EXACT = frozenset(("pg_catalog.int2", "pg_catalog.int4", "pg_catalog.int8", _NUMERIC))
_DIVISIONS = frozenset(("/", "%"))
_BOOLEAN = frozenset(("=", "<>", "!=", "<", ">", "<=", ">=", *LIKES))


class Operators(Columns):
    """The part of the judge that reads A_Expr."""

    @abstractmethod
    def _columns(self, node: Any) -> list[Judged]:
        """Every column below a node that is not read any further."""

    def _expression(self, fields: Node, depth: int, *, estimated: bool) -> Judged:
        kind = fields.get("kind", "AEXPR_OP")
        left = fields.get("lexpr")
        right = fields.get("rexpr")
        if right is None:
            return lost(self._columns(fields))
        if "BETWEEN" in kind:
            items = right["List"]["items"]
            value = self._node(left, depth)
            bounds = [self._node(item, depth) for item in items]
            return together(
                BOOL,
                [
                    self._operator(None, name, value, bound, estimated=estimated)
                    for name, bound in zip((">=", "<=") * (len(bounds) // 2), bounds, strict=False)
                ]
                + (
                    [
                        self._operator(None, name, value, bound, estimated=estimated)
                        for name, bound in zip((">=", "<="), bounds[::-1], strict=False)
                    ]
                    if "SYM" in kind
                    else []
                ),
            )
        names = string_list(fields.get("name", ()))
        schema = names[-2] if len(names) > 1 else None
        name = names[-1] if names else ""
        if kind == "AEXPR_IN":
            parts = [
                self._pair(schema, name, left, item, depth, estimated) for item in right["List"]["items"]
            ]
            return together(BOOL, parts)
        if kind in ("AEXPR_OP_ANY", "AEXPR_OP_ALL"):
            return self._array(schema, name, left, right, depth, estimated=estimated)
        if kind in ("AEXPR_DISTINCT", "AEXPR_NOT_DISTINCT"):
            return self._pair(None, "=", left, right, depth, estimated)
        if kind == "AEXPR_NULLIF":
            value = self._node(left, depth)
            return together(value.type, [self._operator(None, "=", value, self._node(right, depth))])
        if kind in ("AEXPR_LIKE", "AEXPR_ILIKE") and name in LIKES and _harmless_pattern(right):
            value = self._node(left, depth)
            if value.type in (*COLLATABLE, UNKNOWN) and len(value.collations) < 2:
                return together(BOOL, [value])
        if kind not in ("AEXPR_OP", "AEXPR_LIKE", "AEXPR_ILIKE"):
            return lost(self._columns(fields), BOOL)
        if left is None:
            value = self._node(right, depth)
            if value.type is None:
                return lost([value])
            return self._applied(self.calls.operator(schema, name, None, value.type), [value])
        return self._pair(schema, name, left, right, depth, estimated)

    def is_like(self, fields: Node) -> bool:
        """Whether a LIKE is PostgreSQL's own over a text that tells nothing by itself, and a pattern without columns."""
        name = string_list(fields.get("name", ()))
        if len(name) != 1 or name[0] not in LIKES or self.calls.is_users(name[0]):
            return False
        value, pattern = self._node(fields["lexpr"], 0), self._node(fields["rexpr"], 0)
        return (
            value.type in (*COLLATABLE, UNKNOWN)
            and not value.tells
            and not value.raises
            and len(value.collations) < 2
            and not pattern.uses
            and pattern.type in (UNKNOWN, "pg_catalog.text", "pg_catalog.varchar")
        )

    def _pair(
        self, schema: str | None, name: str, left: Any, right: Any, depth: int, estimated: bool
    ) -> Judged:
        if "RowExpr" in left or "RowExpr" in right:
            ones, others = left.get("RowExpr"), right.get("RowExpr")
            if ones is None or others is None:
                return lost([*self._columns(left), *self._columns(right)], BOOL)
            pairs = zip(ones.get("args", ()), others.get("args", ()), strict=False)
            return together(
                BOOL, [self._pair(schema, name, one, other, depth + 1, False) for one, other in pairs]
            )
        one, other = self._node(left, depth), self._node(right, depth)
        if name in _DIVISIONS and one.type in _EXACT and other.type in _EXACT and _divides(right, name):
            return self._divided(schema, name, one, other, right)
        return self._operator(schema, name, one, other, estimated=estimated)

    def _divided(self, schema: str | None, name: str, one: Judged, other: Judged, divisor: Any) -> Judged:
        """A division by a constant other than zero, which returns for every number."""
        assert one.type is not None
        assert other.type is not None
        found = self.calls.operator(schema, name, one.type, other.type)
        if found is None or found.result not in _EXACT:
            return self._operator(schema, name, one, other)
        digits = one.digits + len(divisor["A_Const"].get("fval", {}).get("fval", "")) if one.digits else 0
        if found.result == _NUMERIC and not 0 < digits < FEW_DIGITS:
            return self._operator(schema, name, one, other)
        judged = self._applied(found._replace(tells=False), [one, other])
        judged.digits = digits if found.result == _NUMERIC else judged.digits
        return judged

    def finds_index(self, fields: Node) -> bool:
        """Whether a comparison of a column is leakproof to PostgreSQL itself: an index may serve it under a native policy."""
        names = string_list(fields.get("name", ()))
        kind = fields.get("kind", "AEXPR_OP")
        if kind not in ("AEXPR_OP", "AEXPR_OP_ANY", "AEXPR_BETWEEN") or len(names) != 1:
            return False
        value = self._node(fields["lexpr"], 0)
        return value.type not in (None, _NUMERIC) and self.types.kind(value.type) != "e"

    def _operator(
        self, schema: str | None, name: str, one: Judged, other: Judged, *, estimated: bool = False
    ) -> Judged:
        if one.type is None or other.type is None or RECORD in (one.type, other.type):
            return lost([one, other], BOOL if name in _BOOLEAN else None)
        for this, that in ((one, other), (other, one)):
            if this.type == _NUMERIC and that.others and this.uses:
                # A parameter may turn out to be a float, and the column would be converted to that.
                return lost([one, other], BOOL)
        found = self.calls.operator(schema, name, one.type, other.type)
        if found is None and _of_some(one) != _of_some(other):
            found = self._of_others(schema, name, one, other)
        digits = digits_of(name, one, other)
        if digits and found is not None and found.result == _NUMERIC:
            found = found._replace(tells=False)
        judged = self._applied(found, [one, other])
        judged.digits = digits
        if judged.others and not judged.uses and schema is None:
            for this, that in ((one, other), (other, one)):
                if this.type == UNKNOWN and this.level == FREE and that.type != UNKNOWN:
                    sides = (None, that.type) if this is one else (that.type, None)
                    judged.others = self.calls.results(name, *sides) or ANY
        if estimated and judged.raises and not judged.tells and judged.type == BOOL:
            # The planner evaluates a stable operand of a comparison with one relation's columns, for its estimate: if it
            # raises, it raises whatever the rows are.
            for this, that in ((one, other), (other, one)):
                if len(this.uses) == 1 and not this.raises and that.level <= STABLE and not that.uses:
                    judged.raises = False
        return judged

    def _of_others(self, schema: str | None, name: str, one: Judged, other: Judged) -> Found | None:
        """An operator with an operand of several types: of none but those for which PostgreSQL finds one."""
        assert one.type is not None
        assert other.type is not None
        volatility: set[Volatility] = set()
        mine = _of_some(one)
        for type_ in one.others if mine else other.others:
            sides = (type_, other.type) if mine else (one.type, type_)
            found = self.calls.operator(schema, name, *sides)
            if found is None:
                if self.calls.may_mean(name, *sides):
                    return None
                continue
            known = 1 if mine else 0
            given, wanted = sides[known], found.wanted[known]
            if (
                found.tells
                or found.result != BOOL
                or (given != wanted and self.types.conversion_tells(given, wanted))
            ):
                return None
            volatility.add(found.volatility)
        return (
            Found(BOOL, False, max(volatility, key="isv".index), (one.type, other.type))
            if volatility
            else None
        )

    def _applied(self, found: Found | None, parts: Sequence[Judged]) -> Judged:
        """A function or operator, once it is known which."""
        if found is None:
            return lost(parts)
        collations = frozenset().union(*(part.collations for part in parts))
        conflict = len(collations) > 1 and not any(part.explicit for part in parts)
        tells = (
            found.tells
            or conflict
            or any(
                part.type is None
                or (
                    part.type != wanted
                    and part.level > CONSTANT
                    and self.types.conversion_tells(part.type, wanted)
                )
                for part, wanted in zip(parts, found.wanted, strict=False)
            )
        )
        if tells:
            judged = lost(parts, found.result, folds=found.volatility != "v")
            if not judged.uses and found.volatility == "s":
                judged.level, judged.raises = max(judged.level, STABLE), True
            return judged
        judged = together(found.result, parts)
        if found.volatility != "i":
            judged.level = max(judged.level, STABLE if found.volatility == "s" else FREE)
        if found.result not in COLLATABLE:
            judged.collations = frozenset()
        return judged

    def _array(
        self, schema: str | None, name: str, left: Any, right: Any, depth: int, *, estimated: bool
    ) -> Judged:
        """`x = ANY (array)`: the operator between x and an element."""
        if "RowExpr" in left:
            return lost([*self._columns(left), *self._columns(right)], BOOL)
        one, other = self._node(left, depth), copied(self._node(right, depth))
        if other.type != UNKNOWN:
            other.type = self.types.element_of(other.type)
        return self._operator(schema, name, one, other, estimated=estimated)

    def _same(self, nodes: Sequence[Any], depth: int) -> Judged:
        """Operands that become one type."""
        parts = [self._node(node, depth) for node in nodes]
        type_ = self.types.common([part.type for part in parts])
        if type_ is None:
            return lost(parts)
        return self._of_one_type(type_, parts, parts)


def _divides(node: Node, name: str) -> bool:
    """A constant other than zero. (Of the smallest number, what -1 divides it to is too large.)"""
    constant = node.get("A_Const", {})
    if "ival" in constant:
        return bool(constant["ival"].get("ival", 0) not in (0, -1))
    text = constant.get("fval", {}).get("fval", "0")
    return (
        name == "/"
        and "e" not in text.lower()
        and any(digit in "123456789" for digit in text)
        and "-" not in text
    )


def _harmless_pattern(node: Any) -> bool:
    """A constant LIKE pattern that does not end in the escape character, on which LIKE raises for some rows."""
    text = node.get("A_Const", {}).get("sval", {}).get("sval")
    return text is not None and (len(text) - len(text.rstrip("\\"))) % 2 == 0


def _of_some(judged: Judged) -> bool:
    """Whether it is known of which other types it may be."""
    return bool(judged.others) and judged.others is not ANY
