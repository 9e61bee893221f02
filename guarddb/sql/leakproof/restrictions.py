"""The conditions of a statement that may not run on a row before its filter has been asked.

The planner takes a conjunction apart and runs its parts where it likes: at the scan of a relation, as an index condition,
as a join. A filter is asked at the scan of its relation. So what counts is each part of a condition that may be run there:
of WHERE, ON and HAVING, of the query itself, of a query around it (whose conditions are put into it), and of a sub-select
that becomes a join.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guarddb.facts import functions
from guarddb.sql.catalog import Catalog
from guarddb.sql.leakproof.judge import Judge
from guarddb.sql.leakproof.judged import Judged
from guarddb.sql.leakproof.parts import conjuncts, holds_aggregate
from guarddb.sql.names import calls_in, columns_in, holds_sublink, string_list
from guarddb.sql.statement import Clause, Link, Output, Query, Reference, Root, Statement, depends_on

#: Clauses that PostgreSQL makes part of a scan or a join.
_CONDITIONS: frozenset[Clause] = frozenset(("where", "on", "using", "having"))
#: Clauses of a sub-select that is run above the scan: on rows that came through.
_ABOVE: frozenset[Clause] = frozenset(
    (
        "target",
        "returning",
        "set",
        "order",
        "group",
        "distinct",
        "window",
        "limit",
        "values",
        "merge",
        "write",
    )
)
#: A longer conjunction is taken as one: telling its parts apart in the text takes time.
MANY_PARTS = 64


class Hazard:
    """A part of a condition that may tell of a row that its filter hides.

    Attributes:
        root, node: the condition, and the part of it.
        output: the column of a nested query in whose expression it is told; None for the part itself.
        raises_only: it takes no column of the row, and yet may raise when it runs; so it tells how far a row got.
    """

    __slots__ = ("node", "output", "raises_only", "reference", "root")

    def __init__(
        self, root: Root, node: Any, reference: Reference, output: Output | None, *, raises_only: bool
    ) -> None:
        self.root = root
        self.node = node
        self.reference = reference
        self.output = output
        self.raises_only = raises_only


class Restrictions:
    """The parts of all conditions of one statement, judged when first asked for."""

    def __init__(self, statement: Statement, catalog: Catalog | None) -> None:
        self.statement = statement
        self.judge = Judge(statement, catalog)
        #: queries of sub-selects that the planner makes a join
        self.joined: set[int] = set()
        self.parts: list[tuple[Root, Any, Judged]] = []
        self._hazards: dict[Reference, list[Hazard]] = {}
        conditions = [root for root in statement.roots if root.clause in _CONDITIONS]
        for root in conditions:
            for node in self._nodes(root):
                inside = self._becomes_join(root, node)
                if inside is not None:
                    self.joined.add(id(inside))
        for root in conditions:
            for node in self._nodes(root):
                self._add(root, node)
        self._add_functions()

    def hazards(self, reference: Reference) -> list[Hazard]:
        """What may tell of this reference's hidden rows."""
        return self._hazards.get(reference, [])

    @staticmethod
    def _nodes(root: Root) -> list[Any]:
        if root.clause == "using" or root.node is None:
            return [root.node]
        parts = conjuncts(root.node)
        return parts if len(parts) <= MANY_PARTS else [root.node]

    def _add(self, root: Root, node: Any) -> None:
        if root.query is not None and root.query.kind == "insert":
            return  # ON CONFLICT … WHERE is guarded by the check of the row in the way
        if root.clause == "using":
            judged = self.judge.using(root)
        elif root.clause == "having" and holds_aggregate(node):
            return
        else:
            judged = self.judge.condition(node, joins=self._becomes_join(root, node) is not None)
        self.parts.append((root, node, judged))
        told = {}
        for reference, output in judged.tells:
            if self._runs_at_scan(root, reference):
                told[reference] = True
                self._note(Hazard(root, node, reference, output, raises_only=False))
        if judged.raises or judged.tells:
            for reference in judged.uses:
                if reference not in told and self._runs_at_scan(root, reference):
                    self._note(Hazard(root, node, reference, None, raises_only=True))

    def _note(self, hazard: Hazard) -> None:
        self._hazards.setdefault(hazard.reference, []).append(hazard)

    def _add_functions(self) -> None:
        """A user's function in FROM may be put in place of its call: its conditions then meet its arguments."""
        for root in self.statement.roots:
            if root.clause != "function" or not root.uses:
                continue
            call = root.node.get("FuncCall") if isinstance(root.node, dict) else None
            if call is None or functions.builtin(string_list(call["funcname"])[-1]):
                continue
            for reference in self.judge.condition(root.node).uses:
                self._note(Hazard(root, root.node, reference, None, raises_only=False))

    def _runs_at_scan(self, root: Root, reference: Reference) -> bool:
        """Whether a condition may be run at the scan of a reference, and not only with an expression further out."""
        if root.query is reference.query or reference.query is None:
            return True
        query = root.query
        while query is not None and query is not reference.query:
            if query.parent is None:
                return True  # the reference is further in
            if query.clause in _ABOVE or (query.clause is not None and id(query) not in self.joined):
                # What a sub-select does is judged where the sub-select stands.
                return not self._is_around(reference.query, query)
            query = query.parent
        return True

    @staticmethod
    def _is_around(outer: Query, inner: Query) -> bool:
        query: Query | None = inner
        while query is not None:
            if query is outer:
                return True
            query = query.parent
        return False

    # ------------------------------------------------------------------ sub-selects that become joins

    def _becomes_join(self, root: Root, node: Any) -> Query | None:
        """The query of a sub-select that the planner takes into the join tree (pull_up_sublinks), or None."""
        if not isinstance(node, dict) or root.query is None or root.query.kind == "insert":
            return None
        if root.clause == "on" and not _is_inner(root):
            return None
        if root.clause not in ("where", "on"):
            return None
        negated = False
        inner = node.get("BoolExpr", {})
        if inner.get("boolop") == "NOT_EXPR":
            negated, node = True, inner["args"][0]
        fields = node.get("SubLink")
        if fields is None:
            return None
        query = self.judge.by_fields.get(id(next(iter(fields["subselect"].values()))))
        if query is None or query.kind not in ("select", "setop", "values"):
            return None
        kind = fields.get("subLinkType", "EXISTS_SUBLINK")
        outer = self._refers_outwards(query)
        if kind == "ANY_SUBLINK" and not negated:
            test = self.judge.condition(fields["testexpr"])
            return query if not outer and any(r.query is root.query for r in test.uses) else None
        if kind == "EXISTS_SUBLINK" and query.kind == "select" and self._is_simple(query):
            where = self.judge.roots.get(id(query), ())
            inside = any(r.clause == "where" and self.judge.root(r).uses & outer for r in where)
            elsewhere = any(r.clause != "where" and self.judge.root(r).uses & outer for r in where)
            nested = any(
                self.judge.query(child).uses & outer for child in self.judge.children.get(id(query), ())
            )
            return query if inside and not elsewhere and not nested else None
        return None

    def _refers_outwards(self, query: Query) -> frozenset[Reference]:
        return self.judge.query(query).uses

    @staticmethod
    def _is_simple(query: Query) -> bool:
        fields = query.fields
        return (
            bool(fields.get("fromClause"))
            and "whereClause" in fields
            and not fields.keys()
            & {
                "withClause",
                "havingClause",
                "windowClause",
                "limitCount",
                "limitOffset",
                "lockingClause",
                "groupClause",
            }
            and not holds_aggregate(fields.get("targetList", ()))
        )

    # ------------------------------------------------------------------ what goes into a fence

    def inside_fence(self, reference: Reference) -> Iterator[tuple[Query, int, dict[int, str]]]:
        """(query, index of a part of its WHERE, ColumnRef id -> attribute) of what tells nothing and asks for it alone.

        As below native row security these may run on every row, so that they find their index.
        """
        for root, node, judged in self.parts:
            query = root.query
            if (
                root.clause != "where"
                or query is None
                or query.kind not in ("select", "update", "delete")
                or judged.uses != {reference}
                or judged.tells
                or judged.raises
                or holds_sublink(node)
                or not self._reaches(query, reference)
            ):
                continue
            where = conjuncts(query.fields.get("whereClause"))
            index = next((i for i, part in enumerate(where) if part is node), None)
            if index is None:
                continue
            inside = columns_in(node)
            attributes: dict[int, str] = {}
            for link, column in root.uses:
                if column is None or id(column) not in inside:
                    continue
                attribute = _attribute(link, reference)
                if attribute is None or attributes.setdefault(id(column), attribute) != attribute:
                    break
            else:
                if len(attributes) == len(inside):
                    yield query, index, attributes

    @staticmethod
    def is_unindexed(reference: Reference, hazard: Hazard) -> bool:
        """Whether no index of a table could serve the columns that a part takes of it."""
        relation = reference.relation
        if relation is None or relation.kind != "r" or relation.descendants:
            return False
        inside = columns_in(hazard.node)
        taken = {
            _attribute(link, reference)
            for link, column in hazard.root.uses
            if column is not None and id(column) in inside and reference in depends_on(link)
        }
        served = {column for index in relation.indexes for column in (*index.columns, *index.reads)}
        served |= {column for constraint in relation.constraints for column in constraint.columns}
        return bool(taken) and None not in taken and taken.isdisjoint({*served, *relation.primary_key})

    @staticmethod
    def _reaches(query: Query, reference: Reference) -> bool:
        """Whether a condition of a query may as well be asked where the reference is read, in it or in a query in its FROM."""
        inner = reference.query
        while inner is not query:
            if (
                inner is None
                or inner.clause is not None
                or inner.null_extended
                or not _passes_conditions(inner)
            ):
                return False
            if inner.parent is not None and _is_cte(inner, inner.parent):
                return False  # it may be read a second time
            inner = inner.parent
        return True


def _passes_conditions(query: Query) -> bool:
    """A query whose rows are its tables' rows, one by one."""
    fields = query.fields
    return (
        query.kind == "select"
        and not fields.keys()
        & {
            "groupClause",
            "havingClause",
            "windowClause",
            "limitCount",
            "limitOffset",
            "distinctClause",
            "lockingClause",
        }
        and not holds_aggregate(fields.get("targetList", ()))
        and not any(functions.returns_set(name) for name in calls_in(fields.get("targetList", ())))
    )


def _is_cte(query: Query, parent: Query) -> bool:
    return any(
        next(iter(wrapped["CommonTableExpr"]["ctequery"].values())) is query.fields
        for wrapped in parent.fields.get("withClause", {}).get("ctes", ())
    )


def _attribute(link: Link, reference: Reference) -> str | None:
    """The reference's own attribute that a link is a bare copy of."""
    while isinstance(link, Output):
        if link.root is not None or link.opaque or len(link.links) != 1:
            return None
        link = link.links[0]
    return link[1] if link[0] is reference and link[1] != "*" else None


def _is_inner(root: Root) -> bool:
    """Whether an ON is that of an inner join below inner joins only."""
    query = root.query
    assert query is not None
    for reference in query.references:
        for position, (join, _) in enumerate(reference.joins):
            if join.get("quals") is root.node:
                return all(
                    above.get("jointype", "JOIN_INNER") == "JOIN_INNER"
                    for above, _ in reference.joins[: position + 1]
                )
    return False
