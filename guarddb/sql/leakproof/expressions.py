"""Expressions: every node of the parser's tree that is known; what is not tells of every column in it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from guarddb.facts import functions
from guarddb.facts.functions import builtin_type
from guarddb.sql.leakproof.calls import Found
from guarddb.sql.leakproof.columns import NARROWED
from guarddb.sql.leakproof.judged import (
    ANY,
    CONSTANT,
    FEW_DIGITS,
    FREE,
    NO_OTHERS,
    ROW,
    STABLE,
    Judged,
    copied,
    lost,
    together,
)
from guarddb.sql.leakproof.operators import Operators
from guarddb.sql.leakproof.types import BOOL, RECORD, UNKNOWN, Type
from guarddb.sql.names import string_list, type_name
from guarddb.sql.statement import Query
from guarddb.tree import Node

#: Deeper than this an expression is not typed. (PostgreSQL's own limit is its stack.)
_DEPTH = 120
#: VOLATILE, and they return.
_CLOCKS = frozenset(("random", "clock_timestamp", "gen_random_uuid", "uuidv4", "uuidv7"))
_QUIET_AGGREGATES = frozenset(("count", "bool_and", "bool_or", "every"))
_COMPARING_AGGREGATES = frozenset(("max", "min"))
_INTEGERS = frozenset(("pg_catalog.int2", "pg_catalog.int4"))
_NUMERIC = "pg_catalog.numeric"
_HARMLESS_COLLATIONS = frozenset(("C", "POSIX", "default", "ucs_basic"))
_VALUE_FUNCTIONS = {
    "SVFOP_CURRENT_DATE": "date",
    "SVFOP_CURRENT_TIME": "timetz",
    "SVFOP_CURRENT_TIME_N": "timetz",
    "SVFOP_CURRENT_TIMESTAMP": "timestamptz",
    "SVFOP_CURRENT_TIMESTAMP_N": "timestamptz",
    "SVFOP_LOCALTIME": "time",
    "SVFOP_LOCALTIME_N": "time",
    "SVFOP_LOCALTIMESTAMP": "timestamp",
    "SVFOP_LOCALTIMESTAMP_N": "timestamp",
}
#: Casts with a length or precision that cut silently.
_CUTTING = frozenset(("pg_catalog.varchar", "pg_catalog.bpchar"))

#: Types whose text follows no setting: casts between these and text are folded.
_FIXED_TEXT = frozenset(
    f"pg_catalog.{name}"
    for name in ("int2", "int4", "int8", "numeric", "bool", "text", "varchar", "bpchar", "uuid")
)


class Expressions(Operators):
    """The part of the judge that reads everything but sub-selects."""

    @abstractmethod
    def query(self, query: Query) -> Judged:
        """What a sub-select takes of the rows around it."""

    @abstractmethod
    def _sublink(self, fields: Node, depth: int) -> Judged:
        """A sub-select in an expression."""

    def _node(self, node: Any, depth: int, *, estimated: bool = False) -> Judged:
        if depth > _DEPTH or not isinstance(node, dict) or len(node) != 1:
            return lost(self._columns(node))
        ((kind, fields),) = node.items()
        depth += 1
        if kind == "ColumnRef":
            links = self.links.get(id(fields))
            if not links:
                return Judged(None, ROW)
            if len(links) == 1:
                return self.link(links[0])
            parts = [self.link(link) for link in links]
            return self._of_one_type(self.types.common([part.type for part in parts]), parts, parts)
        if kind == "A_Const":
            judged = Judged(constant_type(fields))
            text = fields.get("fval", {}).get("fval", "e")
            if judged.type == _NUMERIC and "e" not in text.lower():
                judged.digits = len(text)
            return judged
        if kind == "ParamRef":
            number = fields.get("number", 0)
            declared = self.parameters[number - 1] if 0 < number <= len(self.parameters) else self.undeclared
            judged = Judged(declared, FREE)
            judged.others = ANY if declared == UNKNOWN else NO_OTHERS
            return judged
        if kind == "A_Expr":
            return self._expression(fields, depth, estimated=estimated)
        if kind == "BoolExpr":
            return together(BOOL, [self._node(arg, depth, estimated=estimated) for arg in fields["args"]])
        if kind in ("NullTest", "BooleanTest"):
            return together(BOOL, [self._node(fields["arg"], depth)])
        if kind == "TypeCast":
            return self._cast(fields, depth)
        if kind == "FuncCall":
            return self._call(fields, depth)
        if kind == "SubLink":
            return self._sublink(fields, depth)
        if kind == "SQLValueFunction":
            type_ = _VALUE_FUNCTIONS.get(fields.get("op", "SVFOP_CURRENT_DATE"), "name")
            return Judged(f"pg_catalog.{type_}", STABLE)
        if kind == "CoalesceExpr":
            return self._same(fields.get("args", ()), depth)
        if kind == "MinMaxExpr":
            judged = self._same(fields.get("args", ()), depth)
            return lost([judged], judged.type) if self.calls.comparison_tells(judged.type) else judged
        if kind == "CaseExpr":
            return self._case(fields, depth)
        if kind == "A_ArrayExpr":
            elements = fields.get("elements", ())
            judged = self._same(elements, depth)
            if self.types.element_of(judged.type) is None:
                judged.type = self.types.array_of(judged.type)
            elif _shape(fields) is None:
                # Arrays of different lengths make no array of arrays: an error that PostgreSQL calls leakproof all the same.
                return lost([judged], judged.type)
            return judged
        if kind == "RowExpr":
            return together(RECORD, [self._node(arg, depth) for arg in fields.get("args", ())])
        if kind == "CollateClause":
            judged = copied(self._node(fields["arg"], depth))
            names = string_list(fields.get("collname", ()))
            judged.collations, judged.explicit = frozenset(names[-1:]), True
            harmless = names[:-1] in ([], ["pg_catalog"]) and names[-1:] and names[-1] in _HARMLESS_COLLATIONS
            return judged if harmless else lost([judged], judged.type)
        if kind == "GroupingFunc":
            return Judged("pg_catalog.int4", ROW)
        if kind == "CurrentOfExpr":
            return Judged(BOOL, ROW)
        if kind == "A_Indirection":
            return self._indirection(fields, depth)
        return lost(self._columns(node))

    def _columns(self, node: Any) -> list[Judged]:
        """Every column below a node, and that a sub-select may stand there."""
        found: list[Judged] = [Judged(None, CONSTANT)]
        stack = [node]
        while stack:
            value = stack.pop()
            if isinstance(value, dict):
                if "ColumnRef" in value:
                    found += [self.link(link) for link in self.links.get(id(value["ColumnRef"]), ())]
                elif "SubLink" in value and "subselect" in value["SubLink"]:
                    inside = next(iter(value["SubLink"]["subselect"].values()))
                    query = self.by_fields.get(id(inside))
                    found.append(self.query(query) if query is not None else Judged(None, FREE, raises=True))
                    stack.append(value["SubLink"].get("testexpr", {}))
                elif "ParamRef" in value:
                    found.append(Judged(self.undeclared, FREE))
                else:
                    stack.extend(value.values())
            elif isinstance(value, list):
                stack.extend(value)
        return found

    def _case(self, fields: Node, depth: int) -> Judged:
        parts: list[Judged] = []
        results: list[Judged] = []
        tested = self._node(fields["arg"], depth) if "arg" in fields else None
        for wrapped in fields.get("args", ()):
            when = wrapped["CaseWhen"]
            condition = self._node(when["expr"], depth)
            parts.append(condition if tested is None else self._operator(None, "=", tested, condition))
            results.append(self._node(when["result"], depth))
        if "defresult" in fields:
            results.append(self._node(fields["defresult"], depth))
        type_ = self.types.common([result.type for result in results])
        if type_ is None:
            return lost([*parts, *results])
        return self._of_one_type(type_, [*parts, *results], results)

    def _indirection(self, fields: Node, depth: int) -> Judged:
        steps = fields.get("indirection", ())
        judged = self._node(fields["arg"], depth)
        element = self.types.element_of(judged.type)
        if element is not None and len(steps) == 1 and "A_Indices" in steps[0]:
            indices = steps[0]["A_Indices"]
            if not indices.get("is_slice", False) and "uidx" in indices:
                index = self._converted(self._node(indices["uidx"], depth), "pg_catalog.int4")
                return together(element, [judged, index])
        return lost([judged, *self._columns(list(steps))])

    def _cast(self, fields: Node, depth: int) -> Judged:
        names = type_name(fields["typeName"])
        target = self.types.named(*names) if names is not None else None
        part = self._node(fields["arg"], depth)
        if target is None or names is None or self._is_domain(names):
            return lost([part], target)
        if fields["typeName"].get("arrayBounds"):
            target = self.types.array_of(target)
            if target is None:
                return lost([part])
        if part.type is None:
            return lost([part], target)
        narrowed = bool(fields["typeName"].get("typmods")) and target not in _CUTTING
        if part.type == UNKNOWN:
            # A constant is converted when the statement is read, a parameter is of that type.
            return lost([part], target) if part.uses else Judged(target, part.level, raises=part.raises)
        if target == "pg_catalog.text" and part.type == "pg_catalog.regclass" and _is_tableoid(fields["arg"]):
            return together(target, [part])  # the name of a table that is there
        if not narrowed and not self.types.conversion_tells(part.type, target, explicit=True):
            judged = together(target, [part])
            judged.others = NO_OTHERS
            return judged
        # Text input and output follow settings for some types, so that they are not folded.
        judged = lost([part], target, folds=True)
        judged.others = NO_OTHERS
        if not judged.uses and not _folds(part.type, target):
            judged.level, judged.raises = max(judged.level, STABLE), True
        return judged

    def _is_domain(self, names: tuple[str | None, str]) -> bool:
        user = self.catalog.type_named(*names) if self.catalog is not None else None
        return user is not None and user.kind == "d"

    def _call(self, fields: Node, depth: int) -> Judged:
        names = string_list(fields["funcname"])
        schema, name = (names[-2] if len(names) > 1 else None), names[-1]
        arguments = fields.get("args", ())
        parts = [self._node(argument, depth) for argument in arguments if "NamedArgExpr" not in argument]
        named = [a["NamedArgExpr"] for a in arguments if "NamedArgExpr" in a]
        if "over" in fields or functions.is_aggregate(name):
            return self._aggregate(schema, name, fields, parts)
        if named or fields.get("func_variadic", False):
            parts += [self._node(a["arg"], depth) for a in named]
            result, volatility = self.calls.result_of(schema, name, len(arguments))
            return self._applied(Found(result, True, volatility, ()), parts)
        given = [part.type for part in parts]
        known = [each for each in given if each is not None]
        if len(known) < len(given):
            result, volatility = self.calls.result_of(schema, name, len(arguments))
            return self._applied(Found(result, True, volatility, ()), parts)
        found = self.calls.function(schema, name, known)
        if found is None:
            result, volatility = self.calls.result_of(schema, name, len(arguments))
            if len(parts) == 1 and result is None and builtin_type(name) is not None:
                return self._cast({"typeName": {"names": fields["funcname"]}, "arg": arguments[0]}, depth)
            return self._applied(Found(result, True, volatility, ()), parts)
        if name in _CLOCKS and schema in (None, "pg_catalog") and not parts:
            return Judged(found.result, FREE)
        if any(part.others for part in parts) and any(part.uses and part.type in NARROWED for part in parts):
            return lost(parts, found.result)  # it may be another function
        return self._applied(found, parts)

    def _aggregate(self, schema: str | None, name: str, fields: Node, parts: list[Judged]) -> Judged:
        known = [part.type for part in parts if part.type is not None]
        found = self.calls.function(schema, name, known) if len(known) == len(parts) else None
        result = found.result if found is not None else self.calls.result_of(schema, name, len(parts))[0]
        judged = together(result, parts)
        judged.level = ROW
        judged.digits += 20 if judged.digits else 0  # so many rows there are not
        quiet = "over" not in fields and (
            name in _QUIET_AGGREGATES
            or (name in _COMPARING_AGGREGATES and not any(self.calls.comparison_tells(t) for t in known))
            or (name in ("sum", "avg") and all(t in _INTEGERS for t in known))
            or (name in ("sum", "avg") and result == _NUMERIC and 0 < judged.digits < FEW_DIGITS)
        )
        if not quiet or "agg_order" in fields or "agg_filter" in fields or len(known) < len(parts):
            judged.raises = True
            judged.tells |= frozenset((reference, None) for reference in judged.uses)
        return judged


def constant_type(fields: Node) -> Type:
    if "ival" in fields:
        return "pg_catalog.int4"
    if "fval" in fields:
        text = fields["fval"].get("fval", "")
        if text.isdigit() and int(text) < 1 << 63:
            return "pg_catalog.int8"
        return "pg_catalog.numeric"
    if "boolval" in fields:
        return BOOL
    if "bsval" in fields:
        return "pg_catalog.bit"
    return UNKNOWN


def _shape(array: Node) -> tuple[int, ...] | None:
    """The lengths of an ARRAY[…] and the ones in it, where all is written out and fits."""
    elements = array.get("elements", ())
    inner = [each.get("A_ArrayExpr") for each in elements]
    if not any(each is not None for each in inner):
        return (len(elements),)
    shapes = {None if each is None else _shape(each) for each in inner}
    shape = shapes.pop() if len(shapes) == 1 else None
    return None if shape is None else (len(elements), *shape)


def _is_tableoid(node: Any) -> bool:
    while "TypeCast" in node:
        node = node["TypeCast"]["arg"]
    return string_list(node.get("ColumnRef", {}).get("fields", ()))[-1:] == ["tableoid"]


def _folds(source: Type, target: Type) -> bool:
    return source in _FIXED_TEXT and target in _FIXED_TEXT
