"""What has to wait for a filter, and how it does.

A filter is ANDed to the query's WHERE or to the join's ON, so that the planner asks it at the scan of its relation as it asks
a native policy. What may tell of hidden rows before that (see `guarddb.sql.leakproof`) is

- *guarded*: `CASE WHEN filter THEN condition END` in its own place. Nothing else of the plan changes: as below native row
  security a condition that is not leakproof is no index condition, and is asked of rows that came through;
- *evaluated first*, where it takes no column of the row and could only raise: once more, in a condition without columns, which
  is asked before any row is read and raises whatever the rows are; so the condition itself keeps its index. Where no index
  could serve it, it is enough that the filter stands in a form which the planner asks before it;
- *kept outside a fence*, where neither has a place: the relation becomes a subquery with OFFSET 0, which holds the filter, every
  condition that tells nothing, and the columns that are needed.

What fits none of them is refused: `row_filter_unsafe`.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from guarddb.decision.filters.conditions import Conditions
from guarddb.decision.filters.placing import Placing, alias_twice, aliases_in, join_place
from guarddb.decision.masks.writing import Targets
from guarddb.decision.relation_rules import RelationRules
from guarddb.facts import functions
from guarddb.sql.analysis.classify import read_statement
from guarddb.sql.leakproof.judged import FREE, ROW
from guarddb.sql.leakproof.parts import is_equality
from guarddb.sql.leakproof.restrictions import Hazard
from guarddb.sql.names import calls_in, holds_sublink, string_list, sub_selects
from guarddb.sql.rewriting.rewriter import Rewriter
from guarddb.sql.rewriting.trees import HOLE, around_holes
from guarddb.sql.statement import Output, Query, Reference, origins
from guarddb.tree import Node, parse


class Guards(NamedTuple):
    """What keeps the hazards of one relation behind its filter.

    `conditions`: parts of conditions that get a guard. `outputs`: columns of nested queries that get one. `gates`: what is
    evaluated before any row is read. `held`: parts about other relations, from which nothing may follow for this one. `first`:
    the filter has to stand in the form that is asked before all else. `holding`: a guarded part takes nothing but this relation,
    so that it runs at its scan, and the filter in its guard is all that is needed of it. (Of a part that runs at a join the
    filter would come late: sort keys of a parallel plan, and columns of what is pulled up below an outer join, are computed
    where the relation is scanned.)
    """

    conditions: list[tuple[Conditions, int]]
    outputs: list[Output]
    gates: list[tuple[Conditions, str]]
    held: list[tuple[Conditions, int]]
    first: bool
    holding: bool


class Guarding(Placing):
    """The part of the writer that keeps conditions behind the filters."""

    def guards(self, reference: Reference, rules: RelationRules, hazards: list[Hazard]) -> Guards | None:
        """Where each hazard gets its guard; None when one has no place for it."""
        if reference.hidden_by_join_alias or alias_twice(reference):
            return None
        found = Guards([], [], [], [], first=False, holding=False)
        for hazard in hazards:
            if hazard.raises_only and self._waits(reference, rules, hazard):
                found = found._replace(first=True)
            elif hazard.raises_only and (gates := self._gates(hazard)):
                found.gates.extend(gates)
            elif hazard.follows:
                place = self._own_place(hazard)
                if place is None:
                    return None
                found.held.append(place)
            elif (gate := self._pattern_gate(hazard)) is not None:
                found.gates.append(gate)
            elif hazard.output is not None:
                if not self._has_target(reference, hazard.output):
                    return None
                if hazard.output not in found.outputs:
                    found.outputs.append(hazard.output)
            else:
                places = self._places(reference, hazard)
                if not places:
                    return None
                found.conditions.extend(places)
                root = hazard.root
                if root.clause == "where" and root.query is reference.query and places[0][1] >= 0:
                    # (Parts that are not told apart in the text get one guard together, which may take other relations.)
                    alone = self.restrictions.takes_only(hazard.node, reference) and (
                        len(places[0][0].parts) == 1
                        or (root.query is not None and self.rewriter.tells_apart(root.query))
                    )
                    found = found._replace(holding=found.holding or alone)
        return found

    def set_guards(self, guards: Guards, condition: str) -> None:
        """Guard all of these by a filter's condition."""
        for conditions, part in guards.conditions:
            conditions.guard(part, condition)
        for conditions, gate in guards.gates:
            if gate not in conditions.gates:
                conditions.gates.append(gate)
        for conditions, part in guards.held:
            conditions.held.add(part)
        for output in guards.outputs:
            self.around.append(partial(self._guard_target, output, condition))

    def _guard_target(self, output: Output, condition: str) -> None:
        assert output.target is not None
        assert output.query is not None
        form = f"CASE WHEN ({condition}) THEN ({HOLE}) END"
        key = id(output.target)
        if key in self.targets.columns:
            *_, expression = self.targets.columns[key]
            self.targets.columns[key] = (output.query, output.target, output, form.replace(HOLE, expression))
            return
        if key in self.targets.wraps:
            form = form.replace(HOLE, HOLE.join(around_holes(self.targets.wraps[key][3])))
        self.targets.wraps[key] = (output.query, output.target, output, form)

    def shield(self, hazards: list[Hazard]) -> bool:
        """Hide what stays outside a fence from the planner's estimates; False where one would be made that can raise.

        OFFSET 0 keeps a condition from the rows, and not from their statistics: LIKE is tried on the most common values, hidden
        ones among them (patternsel). Equalities of a join are left as they are; no built-in type's raises.
        """
        for hazard in hazards:
            if hazard.raises_only or hazard.output is not None or hazard.node is None:
                continue
            if is_equality(hazard.node) and self.joins(hazard.node):
                continue
            place = self._own_place(hazard)
            if place is not None:
                place[0].shielded.add(place[1])
            elif hazard.root.clause != "function" and not _asks_no_statistics(hazard.node):
                return False
        return True

    def joins(self, node: Node) -> bool:
        """Whether an equality has a relation of its own on either side."""
        fields = node["A_Expr"]
        one, other = (self.restrictions.judge.condition(fields[side]) for side in ("lexpr", "rexpr"))
        return one.level == other.level == ROW and not one.uses & other.uses

    def _own_place(self, hazard: Hazard) -> tuple[Conditions, int] | None:
        """The part of a WHERE or ON that a hazard is."""
        root, query = hazard.root, hazard.root.query
        if query is None:
            return None
        if root.clause == "where" and query.kind in ("select", "update", "delete"):
            conditions = self.where_of(query)
            return conditions, _index(conditions, hazard.node)
        if root.clause == "on":
            if query.kind == "merge" and query.fields.get("joinCondition") is root.node:
                conditions = self.on_of(query.fields)
                return conditions, _index(conditions, hazard.node)
            for reference in query.references:
                for join, _ in reference.joins:
                    if join.get("quals") is root.node:
                        conditions = self.on_of(join)
                        return conditions, _index(conditions, hazard.node)
        return None

    def _waits(self, reference: Reference, rules: RelationRules, hazard: Hazard) -> bool:
        """Whether a part that may only raise runs behind a filter that is asked first.

        It has to cost as much, at least, and to stay a condition of the scan: what could be an index condition is evaluated
        when the index is asked, or not at all where another index (BitmapAnd) has found nothing.
        """
        if (
            not all(predicate.cheap for predicate in rules.filters)
            or hazard.root.clause != "where"
            or join_place(reference) != "where"
            or is_equality(hazard.node)
            or not costs_an_operator(hazard.node)
            or not self.restrictions.is_unindexed(reference, hazard)
        ):
            return False
        query: Query | None = reference.query
        while query is not None and query is not hazard.root.query:
            query = query.parent
        return query is not None

    def _gates(self, hazard: Hazard) -> list[tuple[Conditions, str]]:
        """What of a comparison takes no column and may raise, as conditions that are always true and evaluate it.

        A condition without columns and VOLATILE functions is asked once, before any row is read (create_gating_plan): if it
        raises, it raises whatever the rows are. Empty when something else of the part may raise.
        """
        query = hazard.root.query
        fields = hazard.node.get("A_Expr", {})
        if (
            hazard.root.clause != "where"
            or query is None
            or query.kind not in ("select", "update", "delete")
            or fields.get("kind", "AEXPR_OP") not in ("AEXPR_OP", "AEXPR_OP_ANY", "AEXPR_BETWEEN")
            or "lexpr" not in fields
            or (
                holds_sublink(hazard.node)
                and not hazard.follows
                and not self.restrictions.judge.finds_index(fields)
            )
        ):
            return []  # (a sub-select is evaluated a second time only for the sake of an index)
        judge = self.restrictions.judge
        right = fields["rexpr"]
        bounds = right["List"]["items"] if "List" in right else [right]
        conditions, gated = self.where_of(query), self._gated(query)
        if gated is None:
            return []
        index = _index(conditions, hazard.node)
        found: list[tuple[Conditions, str]] = []
        for place, node in enumerate((fields["lexpr"], *bounds)):
            judged = judge.condition(node)
            if not judged.raises and not judged.tells:
                continue
            text = self.rewriter.operand_text(query, index, place) if index >= 0 else None
            if judged.level > FREE or judged.tells or text is None or "RowExpr" in node:
                return []  # (of a row IS NULL is asked field by field, and where one is known not at all)
            text = self._evaluated_twice(node, text)
            if text is None:
                return []
            found.append((gated, f"CASE WHEN ({text}) IS NULL THEN true ELSE true END"))
        return found

    def _gated(self, query: Query) -> Conditions | None:
        """The WHERE in which a condition without columns is asked before any row of a query is read.

        What NOT EXISTS asks becomes the condition of an anti-join, asked of pairs of rows: so it is asked around it.
        """
        while id(query) in self.restrictions.anti:
            if query.parent is None:
                return None
            query = query.parent
        return self.where_of(query) if query.kind in ("select", "update", "delete") else None

    def _pattern_gate(self, hazard: Hazard) -> tuple[Conditions, str] | None:
        """The question whether the pattern of a LIKE ends in its escape character, which is all that LIKE raises for.

        The planner tries a pattern on the statistics of the column. So it has to know at that time what the question is about:
        constants, parameters and what is IMMUTABLE. Where it evaluates the question, it does so before it looks at statistics.
        """
        query = hazard.root.query
        fields = hazard.node.get("A_Expr", {}) if isinstance(hazard.node, dict) else {}
        if (
            hazard.root.clause != "where"
            or hazard.output is not None
            or query is None
            or query.kind not in ("select", "update", "delete")
            or fields.get("kind") not in ("AEXPR_LIKE", "AEXPR_ILIKE")
            or not self.restrictions.judge.is_like(fields)
            or not _is_immutable(fields["rexpr"])
        ):
            return None
        conditions, gated = self.where_of(query), self._gated(query)
        index = _index(conditions, hazard.node)
        pattern = self.rewriter.operand_text(query, index, 1) if index >= 0 else None
        if pattern is None or gated is None:
            return None
        pattern = f"({pattern})::pg_catalog.text"
        left = f"pg_catalog.length({pattern}) - pg_catalog.length(pg_catalog.rtrim({pattern}, pg_catalog.chr(92)))"
        # (It raises what LIKE raises, and depends on the pattern, so that it is not evaluated ahead of time.)
        return (
            gated,
            f"CASE WHEN ({left}) % 2 = 1 THEN 'x' LIKE pg_catalog.right({pattern}, 1) ELSE true END",
        )

    def _evaluated_twice(self, node: Node, text: str) -> str | None:
        """An operand as it has to stand in a second place, with the filters of what its sub-selects read; None when it cannot."""
        if not is_evaluated_alike(node):
            return None
        judge = self.restrictions.judge
        queries = [q for wrapped in sub_selects(node) if (q := judge.by_fields.get(id(wrapped))) is not None]
        references = [r for query in queries for each in judge.subtree(query) for r in each.references]
        rules = [self.governance.rules(reference) for reference in references]
        if not any(each.governed for each in rules):
            return text
        if any(each.unsafe for each in rules) or self._shows_masked(queries):
            return None
        sql = f"SELECT {text}"
        raws = parse(sql, checked=False)
        statement = read_statement(raws[0], self.catalog, {"prepared": {}, "portals": {}})
        if sorted(r.qualified_name for r in statement.references) != sorted(
            r.qualified_name for r in references
        ):
            return None  # a WITH query of the statement around it
        rewriter = Rewriter(sql, raws)
        inner = type(self)(statement, self.policy, self.governance, rewriter, Targets(rewriter), self.catalog)
        if inner.write() is not None:
            return None
        inner.targets.write()
        return rewriter.finish().removeprefix("SELECT ")

    def _shows_masked(self, queries: list[Query]) -> bool:
        """Whether sub-selects take a masked column, or may: what is written for it is not written a second time."""
        judge = self.restrictions.judge
        inside = [each for query in queries for each in judge.subtree(query)]
        if any(output.open is not None for each in inside for output in each.outputs):
            return True
        links = [link for each in inside for root in judge.roots.get(id(each), ()) for link, _ in root.uses]
        links += [link for each in inside for o in each.outputs for link in (*o.links, *o.opaque)]
        return any(
            name == "*" or name in masks
            for link in links
            for reference, name in origins(link)
            if (masks := self.governance.rules(reference).masks)
        )

    def _places(self, reference: Reference, hazard: Hazard) -> list[tuple[Conditions, int]]:
        """The part of a condition that gets the guard: the hazard's own, or one around it. Empty when there is none."""
        root, query = hazard.root, reference.query
        if query is None or root.query is None:
            return []
        if root.clause == "on":
            return self._places_on(reference, hazard)
        if root.clause != "where" or join_place(reference) != "where":
            return []
        if root.query is query or (
            root.query.references and root.query.kind == "select" and _sees(root.query, reference)
        ):
            conditions = self.where_of(root.query)
            return [(conditions, _index(conditions, hazard.node))]
        if _inside_where(root.query, query):
            conditions = self.where_of(query)
            return [(conditions, i) for i, part in enumerate(conditions.parts) if holds_sublink(part)]
        return []

    def _places_on(self, reference: Reference, hazard: Hazard) -> list[tuple[Conditions, int]]:
        root, query = hazard.root, hazard.root.query
        assert query is not None
        if query.kind == "merge" and query.fields.get("joinCondition") is root.node:
            if query.target is not reference:
                return []
            conditions = self.on_of(query.fields)
            return [(conditions, _index(conditions, hazard.node))]
        if query is reference.query:
            for depth, (join, _) in enumerate(reference.joins):
                if join.get("quals") is root.node:
                    below = reference.joins[depth + 1 :]
                    if any(_is_nullable(each, side) for each, side in below):
                        return []  # a row that found no partner has no columns to ask the filter of
                    conditions = self.on_of(join)
                    index = _index(conditions, hazard.node)
                    if join.get("jointype") == "JOIN_FULL" and (index < 0 or is_equality(hazard.node)):
                        return []  # FULL JOIN lives by an equality that can be hashed
                    return [(conditions, index)]
            return []
        if join_place(reference) != "where" or not _sees(query, reference):
            return []
        for other in query.references:
            for join, _ in other.joins:
                if join.get("quals") is root.node and join.get("jointype", "JOIN_INNER") == "JOIN_INNER":
                    conditions = self.on_of(join)
                    return [(conditions, _index(conditions, hazard.node))]
        return []

    def _has_target(self, reference: Reference, output: Output) -> bool:
        """Whether a column of a nested query can get a guard: the filter can be asked there, and nothing refers to its text."""
        query, target = output.query, output.target
        return (
            query is not None
            and target is not None
            and query is reference.query
            and query.kind == "select"
            and not output.star
            and join_place(reference) == "where"
            and not query.fields.keys()
            & {"groupClause", "distinctClause", "windowClause", "sortClause", "havingClause"}
            and not self.restrictions.judge.has_groups(query)
            and id(target) not in self.targets.columns
            and id(target) not in self.targets.stars
            and not target["val"].get("TypeCast", {}).get("typeName", {}).get("typmods")
        )


def is_evaluated_alike(node: Node) -> bool:
    """Whether an expression that takes no column has the same value a second time in one statement."""
    return not any(functions.is_volatile(name) for name in calls_in(node))


def _index(conditions: Conditions, node: Node) -> int:
    return next((i for i, part in enumerate(conditions.parts) if part is node), -1)


def _is_immutable(pattern: Node) -> bool:
    """A parameter, or constants and parameters put together with ||."""
    stack = [pattern]
    parameters = False
    while stack:
        node = stack.pop()
        fields = node.get("A_Expr", {})
        if "ParamRef" in node:
            parameters = True
        elif "TypeCast" in node:
            names = string_list(node["TypeCast"]["typeName"].get("names", ()))
            if (
                names[-1:] not in (["text"], ["varchar"])
                or not {"ParamRef", "A_Const"} & node["TypeCast"]["arg"].keys()
            ):
                return False
            stack.append(node["TypeCast"]["arg"])
        elif fields.get("kind", "AEXPR_OP") == "AEXPR_OP" and string_list(fields.get("name", ())) == ["||"]:
            if "lexpr" not in fields:
                return False
            stack += (fields["lexpr"], fields["rexpr"])
        elif "sval" not in node.get("A_Const", {}):
            return False
    return parameters


def _asks_no_statistics(part: Node) -> bool:
    """Whether no operator of a part is tried on a column's common values, but those that cannot raise."""
    stack: list[object] = [part]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            fields = value.get("A_Expr")
            if fields is not None and fields.get("kind", "AEXPR_OP") in (
                "AEXPR_LIKE",
                "AEXPR_ILIKE",
                "AEXPR_SIMILAR",
            ):
                return False
            if fields is not None and string_list(fields.get("name", ()))[-1:] not in [
                [n] for n in _ORDINARY
            ]:
                return False
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return True


_ORDINARY = ("=", "<>", "!=", "<", ">", "<=", ">=", "+", "-", "*", "/", "%", "||", "BETWEEN", "NOT BETWEEN")


def costs_an_operator(part: Node) -> bool:
    """Whether evaluating a part costs the planner's price of one operator at least."""
    fields = part.get("A_Expr")
    if fields is None:
        return False
    kind = fields.get("kind", "AEXPR_OP")
    if kind in ("AEXPR_OP_ANY", "AEXPR_OP_ALL"):
        array = fields.get("rexpr", {}).get("A_ArrayExpr")
        return array is None or len(array.get("elements", ())) > 1
    return (
        kind in ("AEXPR_OP", "AEXPR_DISTINCT", "AEXPR_NOT_DISTINCT", "AEXPR_LIKE", "AEXPR_ILIKE")
        or "BETWEEN" in kind
    )


def _is_nullable(join: Node, side: str) -> bool:
    kind = join.get("jointype", "JOIN_INNER")
    return kind == "JOIN_FULL" or (kind, side) in (("JOIN_LEFT", "r"), ("JOIN_RIGHT", "l"))


def _sees(inner: Query, reference: Reference) -> bool:
    """Whether a query inside the reference's own reaches it by its alias, with no other of that name in between."""
    query: Query | None = inner
    while query is not None and query is not reference.query:
        if query.kind != "select" or not query.references:
            return False
        if any(name == reference.alias for name in aliases_in(query.fields.get("fromClause", ()))):
            return False
        query = query.parent
    return query is not None


def _inside_where(inner: Query, query: Query) -> bool:
    """Whether a query stands in a sub-select of another's own WHERE."""
    found: Query | None = inner
    while found is not None and found.parent is not query:
        found = found.parent
    return found is not None and found.clause == "where"
