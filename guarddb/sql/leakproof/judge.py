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

from itertools import pairwise
from typing import Any

from guarddb.facts import functions
from guarddb.sql.keys import constant_tells_apart, tells_apart
from guarddb.sql.leakproof.expressions import Expressions
from guarddb.sql.leakproof.judged import CONSTANT, FREE, NO_OTHERS, ROW, Judged, any_of, lost, together
from guarddb.sql.leakproof.parts import AGGREGATES, conjuncts, is_aggregate
from guarddb.sql.leakproof.types import BOOL, Type
from guarddb.sql.names import calls_in, string_list, sub_selects
from guarddb.sql.statement import Query, Root
from guarddb.tree import Node, below


class Judge(Expressions):
    """Judges the conditions of one statement, and the sub-selects in them."""

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
            return lost([self.link(link) for link, _ in root.uses])
        parts = []
        for links in root.compared:
            sides = [self.link(link) for link in links]
            # More than two of a name: merged columns of a join further in.
            parts += [self._operator(None, "=", one, other) for one, other in pairwise(sides)]
            if len(sides) < 2:
                parts.append(lost(sides))
        return together(BOOL, parts)

    def root(self, root: Root) -> Judged:
        if root.clause == "using":
            return self.using(root)
        if root.node is None or root.clause in ("group", "order", "distinct", "window", "setop"):
            parts = [self.link(link) for link, _ in root.uses]
            if root.node is not None and not isinstance(root.node, str):
                parts.append(self._node(root.node, 0))
            judged = together(None, parts)
            if any(self.calls.comparison_tells(part.type) for part in parts if part.level > CONSTANT):
                judged.raises = True
                judged.tells |= frozenset((reference, None) for reference in judged.uses)
            return judged
        return self._node(root.node, 0)

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
        judged = Judged(
            self.output(query.outputs[0]).type if len(query.outputs) == 1 else None,
            ROW if uses else FREE,
            uses,
            tells,
        )
        if len(query.outputs) == 1:
            judged.others = any_of(self.output(query.outputs[0]))
            judged.collations = self.output(query.outputs[0]).collations
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
        if not fields.get("groupClause") and self._has_one_group(query):
            return True
        return self._by_key(query)

    def _has_one_group(self, query: Query) -> bool:
        """Whether an aggregate that surely is the query's own stands in its columns."""
        inside = list(self.subtree(query))
        references = {reference for each in inside for reference in each.references}
        for fields in below(query.fields.get("targetList", ()), AGGREGATES, ("SubLink",)):
            if "over" in fields or not is_aggregate(fields) or self._users(fields, "fpw"):
                continue
            columns = below(fields, ("ColumnRef",), ("SubLink",))
            links = [link for column in columns for link in self.links.get(id(column), ())]
            if not columns and not below(fields, ("SubLink",)):
                return True
            if any(k[0] in references if isinstance(k, tuple) else k.query in inside for k in links):
                return True
        return False

    def _users(self, call: Node, kinds: str) -> bool:
        """Whether a call may mean a function that is not built in, of one of these kinds (pg_proc.prokind)."""
        names = string_list(call.get("funcname", ()))
        if self.catalog is None or not names or names[:-1] == ["pg_catalog"]:
            return False
        found = self.catalog.functions_named(names[-1], names[-2] if len(names) > 1 else None)
        return any(function.kind in kinds for function in found)

    def _may_aggregate(self, call: Node) -> bool:
        return is_aggregate(call) or self._users(call, "a")

    def has_groups(self, query: Query) -> bool:
        """Whether a query runs on groups, or on windows, by what its columns hold.

        An aggregate belongs to the query whose columns it takes: `SELECT (SELECT max(a.id) FROM b) FROM a` has one row.
        """
        columns = [query.fields.get(clause, ()) for clause in ("targetList", "sortClause", "distinctClause")]
        if any("over" in f or self._may_aggregate(f) for f in below(columns, AGGREGATES, ("SubLink",))):
            return True
        nested = [q for fields in sub_selects(columns) if (q := self.by_fields.get(id(fields))) is not None]
        own = {reference for each in nested for q in self.subtree(each) for reference in q.references}
        for query_inside in nested:
            for fields in below(query_inside.fields, AGGREGATES):
                if "over" in fields or not self._may_aggregate(fields):
                    continue
                uses = frozenset(r for judged in self._columns(fields) for r in judged.uses)
                if uses and not uses & own:
                    return True
        return False

    def _by_key(self, query: Query) -> bool:
        """Whether WHERE gives every column of a key of the only table a value."""
        items = query.fields.get("fromClause", ())
        if len(items) != 1 or "RangeVar" not in items[0] or len(query.references) != 1:
            return False
        (reference,) = query.references
        relation = reference.relation
        if relation is None or relation.kind not in ("r", "p") or relation.descendants:
            return False
        types = {a.name: a.base_type for a in relation.attributes}
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
                    and (value := self._node(other, 0)).uses.isdisjoint((reference,))
                    and (key := types.get(links[0][1])) is not None
                    and ("ParamRef" not in other or constant_tells_apart(key, other))
                    and "CollateClause" not in other
                    and tells_apart(key, value.type)
                ):
                    given.add(links[0][1])
        keys = [relation.primary_key, *(c.columns for c in relation.constraints if c.kind == "u")]
        return any(key and given.issuperset(key) for key in keys)

    def _sublink(self, fields: Node, depth: int) -> Judged:
        kind = fields.get("subLinkType", "EXISTS_SUBLINK")
        if kind in ("ANY_SUBLINK", "ALL_SUBLINK"):
            return self._any(fields, depth)
        query = self.sub_select(fields)
        if query is None:
            return lost(self._columns(fields))
        inside = self.query(query)
        raises = inside.raises
        type_: Type | None = BOOL
        if kind == "EXPR_SUBLINK":
            type_ = inside.type
            raises = raises or not self.at_most_one_row(query)
        elif kind == "ARRAY_SUBLINK":
            type_ = self.types.array_of(inside.type)
            # (Arrays of different lengths make no array of arrays.)
            raises = raises or inside.type is None or self.types.element_of(inside.type) is not None
        elif kind != "EXISTS_SUBLINK":
            return lost([inside])
        return self._placed(type_, inside, raises=raises)

    @staticmethod
    def _placed(type_: Type | None, inside: Judged, *, raises: bool) -> Judged:
        """A sub-select in an expression: what raises in it tells of whatever row it was run for."""
        judged = Judged(type_, inside.level, inside.uses, inside.tells, raises=raises and not inside.uses)
        judged.others = any_of(inside) if type_ != BOOL else NO_OTHERS
        judged.collations = inside.collations if type_ != BOOL else frozenset()
        if raises:
            judged.tells |= frozenset((reference, None) for reference in inside.uses)
        return judged

    def _any(self, fields: Node, depth: int) -> Judged:
        query = self.sub_select(fields)
        names = string_list(fields.get("operName", ())) or ["="]
        test = fields["testexpr"]
        if query is None or "RowExpr" in test or len(query.outputs) != 1:
            row = test.get("RowExpr", {}).get("args", ())
            if query is None or len(row) != len(query.outputs):
                return lost(self._columns({"SubLink": fields}), BOOL)
            pairs = [(self._node(one, depth), o) for one, o in zip(row, query.outputs, strict=True)]
        else:
            pairs = [(self._node(test, depth), query.outputs[0])]
        inside = self.query(query)
        placed = self._placed(BOOL, inside, raises=inside.raises)
        parts = [placed]
        for one, output in pairs:
            column = Judged(self.output(output).type, FREE)
            column.others = any_of(self.output(output))
            column.collations = self.output(output).collations
            parts.append(self._operator(names[-2] if len(names) > 1 else None, names[-1], one, column))
        return together(BOOL, parts)
