"""What an expression tells of the rows it runs on: PostgreSQL's contain_leaked_vars, asked of the parser's tree.

A condition may run on a row that a filter hides when every function and operator in it *that takes a column of that row* is
leakproof for the types of its operands, with no conversion in between that is not (clauses.c). Two things go beyond
PostgreSQL's rule, which lets both through:

- what takes no column, and yet may raise when it runs (a parameter's arithmetic, a scalar sub-select with two rows), tells
  whether a row got as far as that;
- what PostgreSQL calls leaky by the node alone (COALESCE, a correlated sub-select) is looked into.

What cannot be typed tells everything.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from guarddb.facts import functions
from guarddb.facts.functions import builtin_type
from guarddb.sql.catalog import Catalog
from guarddb.sql.leakproof.calls import LIKES, Calls, Found
from guarddb.sql.leakproof.types import BOOL, COLLATABLE, RECORD, UNKNOWN, Type, Types
from guarddb.sql.names import calls_in, string_list, type_name
from guarddb.sql.statement import Link, Output, Query, Reference, Root, Statement
from guarddb.tree import Node

#: How much an expression's value can change: not at all, from statement to statement, from call to call, from row to row.
CONSTANT, STABLE, FREE, ROW = range(4)

#: Deeper than this an expression is not typed. (PostgreSQL's own limit is its stack.)
_DEPTH = 120
#: VOLATILE, and they return.
_CLOCKS = frozenset(("random", "clock_timestamp", "gen_random_uuid", "uuidv4", "uuidv7"))
_QUIET_AGGREGATES = frozenset(("count", "bool_and", "bool_or", "every"))
_COMPARING_AGGREGATES = frozenset(("max", "min"))
_INTEGERS = frozenset(("pg_catalog.int2", "pg_catalog.int4"))
_WHOLE_NUMBERS = frozenset(("pg_catalog.int2", "pg_catalog.int4", "pg_catalog.int8"))
_NUMERIC = "pg_catalog.numeric"
_HARMLESS_COLLATIONS = frozenset(("C", "POSIX", "default", "ucs_basic"))
_SYSTEM_COLUMNS = {
    "ctid": "tid",
    "tableoid": "oid",
    "xmin": "xid",
    "xmax": "xid",
    "cmin": "cid",
    "cmax": "cid",
}
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


class Judged:
    """What is known of one expression.

    Attributes:
        type: its type, or None.
        uses: the references whose columns its value depends on.
        tells: of these, those whose values reach something that may tell of them; with the output of a nested query in
            which that happens, or None for the expression itself.
        level: CONSTANT … ROW.
        raises: evaluating it may raise whatever the row (a free part of it may).
        collations: those of its columns that are not the database's; `explicit` when COLLATE gave it.
        digits: of a number, the most that it can have in front of the point; 0 when nobody knows.
    """

    __slots__ = ("collations", "digits", "explicit", "level", "raises", "tells", "type", "uses")

    def __init__(
        self,
        type_: Type | None,
        level: int = CONSTANT,
        uses: frozenset[Reference] = frozenset(),
        tells: frozenset[tuple[Reference, Output | None]] = frozenset(),
        *,
        raises: bool = False,
        collations: frozenset[str] = frozenset(),
    ) -> None:
        self.type = type_
        self.level = level
        self.uses = uses
        self.tells = tells
        self.raises = raises
        self.collations = collations
        self.explicit = False
        self.digits = 19 if type_ in _WHOLE_NUMBERS else 0


class Judge:
    """Judges the expressions of one statement; each is judged once."""

    def __init__(self, statement: Statement, catalog: Catalog | None) -> None:
        self.statement = statement
        self.catalog = catalog
        self.types = Types(catalog)
        self.calls = Calls(self.types)
        self.links: dict[int, list[Link]] = {}
        self.roots: dict[int, list[Root]] = {}
        self.children: dict[int, list[Query]] = {}
        self.by_fields: dict[int, Query] = {}
        self.parameters = _declared(statement, self.types)
        self._outputs: dict[int, Judged] = {}
        self._queries: dict[int, Judged] = {}
        self._open: set[int] = set()
        for root in statement.roots:
            self.roots.setdefault(id(root.query), []).append(root)
            for link, column in root.uses:
                if column is not None:
                    found = self.links.setdefault(id(column), [])
                    if link not in found:
                        found.append(link)
        for query in statement.queries:
            self.by_fields[id(query.fields)] = query
            self.children.setdefault(id(query.parent), []).append(query)
            for output in query.outputs:
                if output.target is not None and not output.star:
                    column = output.target["val"].get("ColumnRef")
                    if column is not None and id(column) not in self.links:
                        self.links[id(column)] = [*output.links, *output.opaque]

    # ------------------------------------------------------------------ whole roots

    def condition(self, node: Any, *, joins: bool = False) -> Judged:
        """Judge a conjunct. `joins`: its sub-select becomes a join, so that what is inside runs above the scan."""
        if joins:
            fields = node.get("SubLink", {})
            if "testexpr" not in fields:
                return Judged(BOOL, ROW)  # EXISTS: its own conditions are judged where they stand
            judged = self._any(fields, 0)
            judged.raises = False
            return judged
        return self._node(node, 0, estimated=True)

    def using(self, root: Root) -> Judged:
        """Judge the equalities of USING or NATURAL."""
        if root.node is None:
            return self._lost([self._link(link) for link, _ in root.uses])
        by_name: dict[str, list[Judged]] = {}
        for link, _ in root.uses:
            by_name.setdefault(link[1] if isinstance(link, tuple) else link.name, []).append(self._link(link))
        parts = []
        for sides in by_name.values():
            # More than two of a name: merged columns of a join further in.
            parts += [self._operator(None, "=", one, other) for one, other in itertools.pairwise(sides)]
            if len(sides) < 2:
                parts.append(self._lost(sides))
        return self._all(BOOL, parts)

    def root(self, root: Root) -> Judged:
        if root.clause == "using":
            return self.using(root)
        if root.node is None or root.clause in ("group", "order", "distinct", "window", "setop"):
            parts = [self._link(link) for link, _ in root.uses]
            if root.node is not None and not isinstance(root.node, str):
                parts.append(self._node(root.node, 0))
            judged = self._all(None, parts)
            if any(self.calls.comparison_tells(part.type) for part in parts if part.level > CONSTANT):
                judged.raises = True
                judged.tells |= frozenset((reference, None) for reference in judged.uses)
            return judged
        return self._node(root.node, 0)

    # ------------------------------------------------------------------ queries

    def subtree(self, query: Query) -> Iterator[Query]:
        stack = [query]
        while stack:
            found = stack.pop()
            yield found
            stack.extend(self.children.get(id(found), ()))

    def query(self, query: Query) -> Judged:
        """What a sub-select takes of the rows around it, and whether anything in it may raise. Its type is its first column's."""
        key = id(query)
        if key in self._queries:
            return self._queries[key]
        if key in self._open:
            return Judged(None, FREE, raises=True)
        self._open.add(key)
        inside = list(self.subtree(query))
        own = {reference for each in inside for reference in each.references}
        own |= {each.target for each in inside if each.target is not None}
        parts: list[Judged] = []
        for each in inside:
            parts += [self.root(root) for root in self.roots.get(id(each), ())]
            for output in each.outputs:
                if output.root is None:
                    parts.append(self.output(output))
        uses = frozenset(r for part in parts for r in part.uses if r not in own)
        tells = frozenset((r, None) for part in parts for r, _ in part.tells if r not in own)
        judged = Judged(query_type(self, query), ROW if uses else FREE, uses, tells)
        judged.raises = any(part.raises or part.tells for part in parts) or any(
            each.kind not in ("select", "values", "setop") for each in inside
        )
        self._open.discard(key)
        self._queries[key] = judged
        return judged

    def at_most_one_row(self, query: Query) -> bool:
        """Whether a scalar sub-select can never have two rows."""
        fields = query.fields
        limit = fields.get("limitCount", {}).get("A_Const", {}).get("ival")
        if (
            limit is not None
            and limit.get("ival", 0) <= 1
            and "WITH_TIES" not in fields.get("limitOption", "")
        ):
            return True
        if query.kind == "values":
            return len(fields.get("valuesLists", ())) == 1
        if query.kind != "select" or any(
            functions.returns_set(call) for call in calls_in(fields.get("targetList", ()))
        ):
            return False
        if not fields.get("fromClause"):
            return True
        if not fields.get("groupClause") and any(holds_aggregate(t) for t in fields.get("targetList", ())):
            return True
        return self._by_key(query)

    def _by_key(self, query: Query) -> bool:
        """Whether WHERE gives every column of a key of the only table a value."""
        items = query.fields.get("fromClause", ())
        if len(items) != 1 or "RangeVar" not in items[0] or len(query.references) != 1:
            return False
        (reference,) = query.references
        relation = reference.relation
        if relation is None or relation.kind not in ("r", "p") or relation.descendants:
            return False
        given = set()
        for node in conjuncts(query.fields.get("whereClause")):
            fields = node.get("A_Expr", {})
            if fields.get("kind", "AEXPR_OP") != "AEXPR_OP" or string_list(fields.get("name", ())) != ["="]:
                continue
            sides = fields.get("lexpr"), fields.get("rexpr")
            for column, other in (sides, sides[::-1]):
                if column is None or other is None or "ColumnRef" not in column:
                    continue
                links = self.links.get(id(column["ColumnRef"]), [])
                if (
                    len(links) == 1
                    and isinstance(links[0], tuple)
                    and links[0][0] is reference
                    and reference not in self._node(other, 0).uses
                ):
                    given.add(links[0][1])
        keys = [relation.primary_key, *(c.columns for c in relation.constraints if c.kind == "u")]
        return any(key and given.issuperset(key) for key in keys)

    # ------------------------------------------------------------------ columns

    def _link(self, link: Link) -> Judged:
        return self._base(*link) if isinstance(link, tuple) else self.output(link)

    def _base(self, reference: Reference, name: str) -> Judged:
        uses = frozenset((reference,))
        relation = reference.relation
        if name == "*":
            return Judged(RECORD, ROW, uses)
        if relation is None:
            # Without a catalog nothing is sent: the answer is about the shape of the condition.
            return Judged(UNKNOWN if self.catalog is None else None, ROW, uses)
        for attribute in relation.attributes:
            if attribute.name != name:
                continue
            judged = Judged(attribute.base_type, ROW, uses)
            if attribute.virtual or (not attribute.plain and attribute.base_type in COLLATABLE):
                # A virtual column is an expression; a nondeterministic collation asks a library.
                return self._lost([judged])
            if attribute.base_type == _NUMERIC and attribute.typmod >= 0:
                judged.digits = (
                    2000  # numeric(p, s): a precision of 1,000 at the most, a scale down to -1,000
                )
            if attribute.collation is not None:
                judged.collations = frozenset((attribute.collation,))
            return judged
        if name in _SYSTEM_COLUMNS:
            return Judged(f"pg_catalog.{_SYSTEM_COLUMNS[name]}", ROW, uses)
        return Judged(None, ROW, uses)

    def output(self, output: Output) -> Judged:
        """A column of a nested query, as a condition outside meets it: the planner may put the expression in its place."""
        key = id(output)
        found = self._outputs.get(key)
        if found is not None:
            return found
        self._outputs[key] = Judged(None, ROW)  # a recursive term meets itself
        judged = self._output(output)
        query = output.query
        if query is not None and ("limitCount" in query.fields or "limitOffset" in query.fields):
            # Nothing is put below a LIMIT.
            judged = Judged(judged.type, ROW)
        self._outputs[key] = judged
        return judged

    def _output(self, output: Output) -> Judged:
        query = output.query
        if output.open is not None:
            uses = frozenset((output.open.reference,)) if output.open.reference is not None else frozenset()
            return self._lost([Judged(None, ROW, uses)])
        if output.call is not None:
            return Judged(self._call_type(output.call), ROW)  # a function in FROM runs by itself
        if query is not None and query.kind == "values" and output.root is not None:
            index = query.outputs.index(output)
            parts = [
                self._node(row["List"]["items"][index], 0)
                for row in query.fields["valuesLists"]
                if index < len(row["List"].get("items", ()))
            ]
            judged = self._all(self.types.common([part.type for part in parts]), parts)
            judged.level = ROW
            return _inside(judged, output)
        if output.root is not None:
            node = output.root.node
            if holds_aggregate(node):
                return Judged(self._node(node, 0).type, ROW)
            judged = _copy(self._node(node, 0))
            judged.level = ROW
            return _inside(judged, output)
        if output.links:
            parts = [self._link(link) for link in output.links]
            judged = self._all(self.types.common([part.type for part in parts]), parts)
            judged.level = ROW
            return judged
        if output.target is not None:
            judged = _copy(self._node(output.target["val"], 0))
            judged.level = ROW
            return _inside(judged, output)
        return Judged(None, ROW)

    def _call_type(self, call: Node) -> Type | None:
        """The type of the single column of a function in FROM."""
        fields = call.get("FuncCall")
        if fields is None:
            return None
        names = string_list(fields["funcname"])
        parts = [self._node(argument, 0) for argument in fields.get("args", ())]
        given = [part.type for part in parts]
        if any(each is None for each in given):
            return None
        found = self.calls.function(
            names[-2] if len(names) > 1 else None, names[-1], [each for each in given if each is not None]
        )
        return found.result if found is not None else None

    # ------------------------------------------------------------------ nodes

    def _node(self, node: Any, depth: int, *, estimated: bool = False) -> Judged:
        if depth > _DEPTH or not isinstance(node, dict) or len(node) != 1:
            return self._lost(self._columns(node))
        ((kind, fields),) = node.items()
        depth += 1
        if kind == "ColumnRef":
            links = self.links.get(id(fields))
            if not links:
                return Judged(None, ROW)
            if len(links) == 1:
                return self._link(links[0])
            parts = [self._link(link) for link in links]
            return self._all(self.types.common([part.type for part in parts]), parts)
        if kind == "A_Const":
            judged = Judged(_constant_type(fields))
            text = fields.get("fval", {}).get("fval", "e")
            if judged.type == _NUMERIC and "e" not in text.lower():
                judged.digits = len(text)
            return judged
        if kind == "ParamRef":
            number = fields.get("number", 0)
            declared = self.parameters[number - 1] if 0 < number <= len(self.parameters) else UNKNOWN
            return Judged(declared, FREE)
        if kind == "A_Expr":
            return self._expression(fields, depth, estimated=estimated)
        if kind == "BoolExpr":
            return self._all(BOOL, [self._node(arg, depth, estimated=estimated) for arg in fields["args"]])
        if kind in ("NullTest", "BooleanTest"):
            return self._all(BOOL, [self._node(fields["arg"], depth)])
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
            return self._lost([judged], judged.type) if self.calls.comparison_tells(judged.type) else judged
        if kind == "CaseExpr":
            return self._case(fields, depth)
        if kind == "A_ArrayExpr":
            judged = self._same(fields.get("elements", ()), depth)
            judged.type = self.types.array_of(judged.type)
            return judged
        if kind == "RowExpr":
            return self._all(RECORD, [self._node(arg, depth) for arg in fields.get("args", ())])
        if kind == "CollateClause":
            judged = _copy(self._node(fields["arg"], depth))
            names = string_list(fields.get("collname", ()))
            judged.collations, judged.explicit = frozenset(names[-1:]), True
            return (
                judged if names and names[-1] in _HARMLESS_COLLATIONS else self._lost([judged], judged.type)
            )
        if kind == "GroupingFunc":
            return Judged("pg_catalog.int4", ROW)
        if kind == "CurrentOfExpr":
            return Judged(BOOL, ROW)
        if kind == "A_Indirection":
            return self._indirection(fields, depth)
        return self._lost(self._columns(node))

    def _columns(self, node: Any) -> list[Judged]:
        """Every column below a node, and that a sub-select may stand there."""
        found: list[Judged] = [Judged(None, CONSTANT)]
        stack = [node]
        while stack:
            value = stack.pop()
            if isinstance(value, dict):
                if "ColumnRef" in value:
                    found += [self._link(link) for link in self.links.get(id(value["ColumnRef"]), ())]
                elif "SubLink" in value and "subselect" in value["SubLink"]:
                    inside = next(iter(value["SubLink"]["subselect"].values()))
                    query = self.by_fields.get(id(inside))
                    found.append(self.query(query) if query is not None else Judged(None, FREE, raises=True))
                    stack.append(value["SubLink"].get("testexpr", {}))
                elif "ParamRef" in value:
                    found.append(Judged(UNKNOWN, FREE))
                else:
                    stack.extend(value.values())
            elif isinstance(value, list):
                stack.extend(value)
        return found

    def _all(self, type_: Type | None, parts: Sequence[Judged]) -> Judged:
        """An expression that does nothing of its own with its parts."""
        if len(parts) == 1:
            judged = _copy(parts[0])
            judged.type = type_
            return judged
        judged = Judged(type_)
        if parts and all(part.digits for part in parts):
            judged.digits = max(part.digits for part in parts)
        for part in parts:
            judged.level = max(judged.level, part.level)
            judged.uses |= part.uses
            judged.tells |= part.tells
            judged.raises = judged.raises or part.raises
            judged.collations |= part.collations
        return judged

    def _lost(self, parts: Sequence[Judged], type_: Type | None = None, *, folds: bool = False) -> Judged:
        """An expression that may tell of every column in it. `folds`: the planner evaluates it when all of it is constant."""
        judged = self._all(type_, parts)
        judged.tells |= frozenset((reference, None) for reference in judged.uses)
        if not judged.uses and not (folds and judged.level == CONSTANT):
            judged.raises = True
            judged.level = max(judged.level, STABLE if folds else FREE)
        return judged

    def _same(self, nodes: Sequence[Any], depth: int) -> Judged:
        """Operands that become one type."""
        parts = [self._node(node, depth) for node in nodes]
        type_ = self.types.common([part.type for part in parts])
        if type_ is None:
            return self._lost(parts)
        return self._all(type_, [self._converted(part, type_) for part in parts])

    def _converted(self, part: Judged, target: Type) -> Judged:
        if part.type is None:
            return self._lost([part], target)
        if not self.types.conversion_tells(part.type, target):
            return part
        return self._lost([part], target, folds=part.level == CONSTANT)

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
            return self._lost([*parts, *results])
        return self._all(type_, [*parts, *(self._converted(result, type_) for result in results)])

    def _indirection(self, fields: Node, depth: int) -> Judged:
        steps = fields.get("indirection", ())
        judged = self._node(fields["arg"], depth)
        element = self.types.element_of(judged.type)
        if element is not None and len(steps) == 1 and "A_Indices" in steps[0]:
            indices = steps[0]["A_Indices"]
            if not indices.get("is_slice", False) and "uidx" in indices:
                index = self._converted(self._node(indices["uidx"], depth), "pg_catalog.int4")
                return self._all(element, [judged, index])
        return self._lost([judged, *self._columns(list(steps))])

    # ------------------------------------------------------------------ operators

    def _expression(self, fields: Node, depth: int, *, estimated: bool) -> Judged:
        kind = fields.get("kind", "AEXPR_OP")
        left = fields.get("lexpr")
        right = fields.get("rexpr")
        if right is None:
            return self._lost(self._columns(fields))
        if "BETWEEN" in kind:
            items = right["List"]["items"]
            value = self._node(left, depth)
            bounds = [self._node(item, depth) for item in items]
            return self._all(
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
            return self._all(BOOL, parts)
        if kind in ("AEXPR_OP_ANY", "AEXPR_OP_ALL"):
            return self._array(schema, name, left, right, depth, estimated=estimated)
        if kind in ("AEXPR_DISTINCT", "AEXPR_NOT_DISTINCT"):
            return self._pair(None, "=", left, right, depth, estimated)
        if kind == "AEXPR_NULLIF":
            value = self._node(left, depth)
            return self._all(value.type, [self._operator(None, "=", value, self._node(right, depth))])
        if kind in ("AEXPR_LIKE", "AEXPR_ILIKE") and name in LIKES and _harmless_pattern(right):
            value = self._node(left, depth)
            if value.type in (*COLLATABLE, UNKNOWN) and len(value.collations) < 2:
                return self._all(BOOL, [value])
        if kind not in ("AEXPR_OP", "AEXPR_LIKE", "AEXPR_ILIKE"):
            return self._lost(self._columns(fields), BOOL)
        if left is None:
            value = self._node(right, depth)
            if value.type is None:
                return self._lost([value])
            return self._applied(self.calls.operator(schema, name, None, value.type), [value])
        return self._pair(schema, name, left, right, depth, estimated)

    def _pair(
        self, schema: str | None, name: str, left: Any, right: Any, depth: int, estimated: bool
    ) -> Judged:
        if "RowExpr" in left or "RowExpr" in right:
            ones, others = left.get("RowExpr"), right.get("RowExpr")
            if ones is None or others is None:
                return self._lost([*self._columns(left), *self._columns(right)], BOOL)
            pairs = zip(ones.get("args", ()), others.get("args", ()), strict=False)
            return self._all(
                BOOL, [self._pair(schema, name, one, other, depth + 1, False) for one, other in pairs]
            )
        one, other = self._node(left, depth), self._node(right, depth)
        return self._operator(schema, name, one, other, estimated=estimated)

    def _operator(
        self, schema: str | None, name: str, one: Judged, other: Judged, *, estimated: bool = False
    ) -> Judged:
        if one.type is None or other.type is None or RECORD in (one.type, other.type):
            return self._lost([one, other], BOOL if name in _BOOLEAN else None)
        for this, that in ((one, other), (other, one)):
            if (
                this.type == "pg_catalog.numeric"
                and that.type == UNKNOWN
                and that.level == FREE
                and this.uses
            ):
                # A parameter may turn out to be a float, and the column would be converted to that.
                return self._lost([one, other], BOOL)
        found = self.calls.operator(schema, name, one.type, other.type)
        digits = _digits(name, one, other)
        if digits and found is not None and found.result == _NUMERIC:
            found = found._replace(tells=False)
        judged = self._applied(found, [one, other])
        judged.digits = digits
        if estimated and judged.raises and not judged.tells and judged.type == BOOL:
            # The planner evaluates a stable operand of a comparison with one relation's columns, for its estimate: if it
            # raises, it raises whatever the rows are.
            for this, that in ((one, other), (other, one)):
                if len(this.uses) == 1 and not this.raises and that.level <= STABLE and not that.uses:
                    judged.raises = False
        return judged

    def _applied(self, found: Found | None, parts: Sequence[Judged]) -> Judged:
        """A function or operator, once it is known which."""
        if found is None:
            return self._lost(parts)
        collations = frozenset(c for part in parts for c in part.collations)
        conflict = len(collations) > 1 and not any(part.explicit for part in parts)
        tells = (
            found.tells
            or conflict
            or any(
                part.type is None
                or (part.level > CONSTANT and self.types.conversion_tells(part.type, wanted))
                for part, wanted in zip(parts, found.wanted, strict=False)
            )
        )
        if tells:
            judged = self._lost(parts, found.result, folds=found.volatility != "v")
            if not judged.uses and found.volatility == "s":
                judged.level, judged.raises = max(judged.level, STABLE), True
            return judged
        judged = self._all(found.result, parts)
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
            return self._lost([*self._columns(left), *self._columns(right)], BOOL)
        one, other = self._node(left, depth), _copy(self._node(right, depth))
        if other.type != UNKNOWN:
            other.type = self.types.element_of(other.type)
        return self._operator(schema, name, one, other, estimated=estimated)

    # ------------------------------------------------------------------ casts and calls

    def _cast(self, fields: Node, depth: int) -> Judged:
        names = type_name(fields["typeName"])
        target = self.types.named(*names) if names is not None else None
        part = self._node(fields["arg"], depth)
        if target is None or names is None or self._is_domain(names):
            return self._lost([part], target)
        if fields["typeName"].get("arrayBounds"):
            target = self.types.array_of(target)
            if target is None:
                return self._lost([part])
        if part.type is None:
            return self._lost([part], target)
        narrowed = bool(fields["typeName"].get("typmods")) and target not in _CUTTING
        if part.type == UNKNOWN:
            # A constant is converted when the statement is read, a parameter is of that type.
            return self._lost([part], target) if part.uses else Judged(target, part.level, raises=part.raises)
        if target == "pg_catalog.text" and part.type == "pg_catalog.regclass" and _is_tableoid(fields["arg"]):
            return self._all(target, [part])  # the name of a table that is there
        if not narrowed and not self.types.conversion_tells(part.type, target, explicit=True):
            return self._all(target, [part])
        # Text input and output follow settings for some types, so that they are not folded.
        judged = self._lost([part], target, folds=True)
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
        return self._applied(found, parts)

    def _aggregate(self, schema: str | None, name: str, fields: Node, parts: list[Judged]) -> Judged:
        known = [part.type for part in parts if part.type is not None]
        found = self.calls.function(schema, name, known) if len(known) == len(parts) else None
        result = found.result if found is not None else self.calls.result_of(schema, name, len(parts))[0]
        judged = self._all(result, parts)
        judged.level = ROW
        judged.digits += 20 if judged.digits else 0  # so many rows there are not
        quiet = "over" not in fields and (
            name in _QUIET_AGGREGATES
            or (name in _COMPARING_AGGREGATES and not any(self.calls.comparison_tells(t) for t in known))
            or (name in ("sum", "avg") and all(t in _INTEGERS for t in known))
            or (name in ("sum", "avg") and result == _NUMERIC and 0 < judged.digits < _FEW_DIGITS)
        )
        if not quiet or "agg_order" in fields or "agg_filter" in fields or len(known) < len(parts):
            judged.raises = True
            judged.tells |= frozenset((reference, None) for reference in judged.uses)
        return judged

    # ------------------------------------------------------------------ sub-selects

    def _sublink(self, fields: Node, depth: int) -> Judged:
        kind = fields.get("subLinkType", "EXISTS_SUBLINK")
        if kind in ("ANY_SUBLINK", "ALL_SUBLINK"):
            return self._any(fields, depth)
        query = self.by_fields.get(id(next(iter(fields["subselect"].values()))))
        if query is None:
            return self._lost(self._columns(fields))
        inside = self.query(query)
        raises = inside.raises
        type_: Type | None = BOOL
        if kind == "EXPR_SUBLINK":
            type_ = inside.type
            raises = raises or not self.at_most_one_row(query)
        elif kind == "ARRAY_SUBLINK":
            type_ = self.types.array_of(inside.type)
        elif kind != "EXISTS_SUBLINK":
            return self._lost([inside])
        return self._placed(type_, inside, raises=raises)

    @staticmethod
    def _placed(type_: Type | None, inside: Judged, *, raises: bool) -> Judged:
        """A sub-select in an expression: what raises in it tells of whatever row it was run for."""
        judged = Judged(type_, inside.level, inside.uses, inside.tells, raises=raises and not inside.uses)
        if raises:
            judged.tells |= frozenset((reference, None) for reference in inside.uses)
        return judged

    def _any(self, fields: Node, depth: int) -> Judged:
        query = self.by_fields.get(id(next(iter(fields["subselect"].values()))))
        names = string_list(fields.get("operName", ())) or ["="]
        test = fields["testexpr"]
        if query is None or "RowExpr" in test or len(query.outputs) != 1:
            row = test.get("RowExpr", {}).get("args", ())
            if query is None or len(row) != len(query.outputs):
                return self._lost(self._columns({"SubLink": fields}), BOOL)
            pairs = [(self._node(one, depth), o) for one, o in zip(row, query.outputs, strict=True)]
        else:
            pairs = [(self._node(test, depth), query.outputs[0])]
        inside = self.query(query)
        placed = self._placed(BOOL, inside, raises=inside.raises)
        parts = [placed]
        for one, output in pairs:
            column = Judged(output_type(self, output), FREE)
            parts.append(self._operator(names[-2] if len(names) > 1 else None, names[-1], one, column))
        return self._all(BOOL, parts)


_BOOLEAN = frozenset(("=", "<>", "!=", "<", ">", "<=", ">=", *LIKES))


def output_type(judge: Judge, output: Output) -> Type | None:
    return judge.output(output).type


def query_type(judge: Judge, query: Query) -> Type | None:
    """The type of a sub-select's only column."""
    return output_type(judge, query.outputs[0]) if len(query.outputs) == 1 else None


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


def _copy(judged: Judged) -> Judged:
    made = Judged(
        judged.type,
        judged.level,
        judged.uses,
        judged.tells,
        raises=judged.raises,
        collations=judged.collations,
    )
    made.explicit = judged.explicit
    made.digits = judged.digits
    return made


def _inside(judged: Judged, output: Output) -> Judged:
    """Say of what is told in an output's own expression that it is told there."""
    if any(site is None for _, site in judged.tells):
        judged.tells = frozenset((reference, site or output) for reference, site in judged.tells)
    return judged


def _constant_type(fields: Node) -> Type:
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


def _harmless_pattern(node: Any) -> bool:
    """A constant LIKE pattern that does not end in the escape character, on which LIKE raises for some rows."""
    text = node.get("A_Const", {}).get("sval", {}).get("sval")
    return text is not None and (len(text) - len(text.rstrip("\\"))) % 2 == 0


def _is_tableoid(node: Any) -> bool:
    while "TypeCast" in node:
        node = node["TypeCast"]["arg"]
    return string_list(node.get("ColumnRef", {}).get("fields", ()))[-1:] == ["tableoid"]


#: numeric has 131,072 digits in front of the point.
_FEW_DIGITS = 100_000


def _digits(name: str, one: Judged, other: Judged) -> int:
    """The most digits that a sum or product of two numbers can have; 0 when it could reach numeric's limits."""
    if not one.digits or not other.digits or name not in ("+", "-", "*"):
        return 0
    digits = one.digits + other.digits if name == "*" else max(one.digits, other.digits) + 1
    return digits if digits < _FEW_DIGITS else 0


#: Types whose text follows no setting: casts between these and text are folded.
_FIXED_TEXT = frozenset(
    f"pg_catalog.{name}"
    for name in ("int2", "int4", "int8", "numeric", "bool", "text", "varchar", "bpchar", "uuid")
)


def _folds(source: Type, target: Type) -> bool:
    return source in _FIXED_TEXT and target in _FIXED_TEXT


def _declared(statement: Statement, types: Types) -> list[Type | None]:
    """The parameter types that PREPARE gives."""
    if statement.command != "PrepareStmt":
        return []
    found: list[Type | None] = []
    for wrapped in statement.fields.get("argtypes", ()):
        fields = wrapped["TypeName"]
        names = type_name(fields)
        type_ = types.named(*names) if names is not None else None
        found.append(types.array_of(type_) if fields.get("arrayBounds") else type_)
    return found
