"""The conditions of a statement that may not run on a row before its filter has been asked.

The planner takes a conjunction apart and runs its parts where it likes: at the scan of a relation, as an index condition,
as a join. A filter is asked at the scan of its relation. So what counts is each part of a condition that may be run there:
of WHERE, ON and HAVING, of the query itself, of a query around it (whose conditions are put into it), and of a sub-select
that becomes a join.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from guarddb.facts import functions
from guarddb.sql.catalog import Catalog
from guarddb.sql.leakproof.equated import equated
from guarddb.sql.leakproof.judge import Judge
from guarddb.sql.leakproof.judged import Judged
from guarddb.sql.leakproof.parts import conjuncts, holds_aggregate
from guarddb.sql.leakproof.plain import tells_nothing
from guarddb.sql.names import calls_in, columns_in, holds_sublink, string_list
from guarddb.sql.statement import Call, Clause, Link, Output, Query, Reference, Root, Statement, depends_on
from guarddb.tree import Node, below

#: Clauses that PostgreSQL makes part of a scan or a join.
CONDITIONS: frozenset[Clause] = frozenset(("where", "on", "using", "having"))
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
#: VOLATILE, and nobody can tell afterwards how often they ran.
_LEAVES_NO_TRACE = frozenset(("clock_timestamp", "timeofday", "gen_random_uuid", "uuidv4", "uuidv7"))
#: STABLE, and the first call gives the transaction a number.
_LEAVES_A_TRACE = frozenset(("pg_current_xact_id", "txid_current"))
#: A longer conjunction is taken as one: telling its parts apart in the text takes time.
MANY_PARTS = 64


_COLUMNS_AND_SUBLINKS = frozenset(("ColumnRef", "SubLink"))


class Hazard:
    """A part of a condition that may tell of a row that its filter hides.

    Attributes:
        root, node: the condition, and the part of it.
        output: the column of a nested query in whose expression it is told; None for the part itself.
        raises_only: it takes no column of the row, and yet may raise when it runs; so it tells how far a row got.
        follows: it is about other relations, and PostgreSQL may ask the same of this one (see `equated`).
    """

    __slots__ = ("follows", "node", "output", "raises_only", "reference", "root")

    def __init__(
        self,
        root: Root,
        node: Any,
        reference: Reference,
        output: Output | None,
        *,
        raises_only: bool,
        follows: bool = False,
    ) -> None:
        self.root = root
        self.node = node
        self.reference = reference
        self.output = output
        self.raises_only = raises_only
        self.follows = follows


class Inside(NamedTuple):
    """A part of a condition that may stand in a fence: the `number`th of a query's WHERE, or of a join's ON.

    `attributes`: of each ColumnRef, by its id, the attribute of the relation that it means.
    """

    place: Query | Node
    number: int
    node: Node
    attributes: dict[int, str]


class Restrictions:
    """The parts of the conditions of one statement that may have to do with some of its relations.

    Attributes:
        about: these relations. A part that takes no column of theirs, however far round, is not looked at.
        joined: queries of sub-selects that the planner makes a join, by their id, and `anti` those of NOT EXISTS among them.
    """

    def __init__(self, statement: Statement, catalog: Catalog | None, about: Collection[Reference]) -> None:
        self.statement = statement
        self.catalog = catalog
        self.about = frozenset(about)
        self.joined: set[int] = set()
        self.anti: set[int] = set()
        self._hazards: dict[Reference, list[Hazard]] = {}
        #: outputs that go back to no relation that this is about
        self._of_others: set[int] = set()
        #: names of functions that leave a trace of each call: `random()` after `setseed()`, a sequence
        self._traced = traced(statement, catalog) if statement.calls else set()
        self._is_plain = not self._traced and self._all_plain()

    def _all_plain(self) -> bool:
        """Whether nothing has to be judged, for all conditions are of the commonest shape."""
        catalog = self.catalog
        if catalog is None:
            return False
        parameters = self.statement.command != "PrepareStmt"
        for root in self.statement.roots:
            clause = root.clause
            if clause in CONDITIONS:
                if not tells_nothing(root, catalog, parameters=parameters):
                    return False
            elif clause == "function" and root.uses:
                return False
        return True

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.statement, self.catalog)

    @cached_property
    def parts(self) -> list[tuple[Root, Any, Judged]]:
        """Each part of a condition that may have to do with these relations, and what it tells."""
        judged: list[tuple[Root, Any, Judged]] = []
        found: list[tuple[Root, Any, Query | None]] = []
        of_all = self.about.issuperset(self.statement.references)
        for root in self.statement.roots:
            if root.clause in CONDITIONS and (of_all or self._concerns(root)):
                found += [(root, node, self._becomes_join(root, node)) for node in self._nodes(root)]
        self.joined.update(id(inside) for _, _, inside in found if inside is not None)
        for root, node, inside in found:
            if (part := self._judged(root, node, joins=inside is not None)) is not None:
                judged.append((root, node, part))
                self._add(root, node, part)
        self._add_functions()
        self._add_equated()
        return judged

    def hazards(self, reference: Reference) -> list[Hazard]:
        """What may tell of this reference's hidden rows; it is one that this is about."""
        assert reference in self.about
        if self._is_plain:
            return []
        _ = self.parts  # which finds them
        return self._hazards.get(reference, [])

    def _concerns(self, root: Root) -> bool:
        """Whether a condition may take a column of a relation that this is about. Of a sub-select in it that is not asked.

        One that leaves a trace of having run concerns all of them: PostgreSQL runs it where it likes.
        """
        if self.is_traced(root.node):
            return True
        taken = self._taken(root)
        return taken is None or any(self._is_of(link) for link in taken)

    def _taken(self, root: Root) -> list[Link] | None:
        """The columns that an expression takes; None where a sub-select stands in it, which may take any."""
        taken = [link for link, _ in root.uses]
        for fields in below(root.node, _COLUMNS_AND_SUBLINKS):
            if "fields" not in fields:
                return None
            taken += self.judge.links.get(id(fields), ())
        return taken

    def _is_of(self, link: Link) -> bool:
        """Whether a link goes back to a relation that this is about, through whatever nested queries."""
        seen: set[int] = set()
        stack = [link]
        while stack:
            item = stack.pop()
            if isinstance(item, tuple):
                if item[0] in self.about:
                    return True
                continue
            if id(item) in seen or id(item) in self._of_others:
                continue
            seen.add(id(item))
            if not _is_of_columns(item):
                return True
            stack += item.links
            if item.root is not None:
                taken = self._taken(item.root)
                if taken is None:
                    return True
                stack += taken
        self._of_others |= seen
        return False

    def is_traced(self, node: Any) -> bool:
        """Whether it can be told afterwards how often an expression ran: before a filter it runs on hidden rows too."""
        return bool(self._traced) and not self._traced.isdisjoint(calls_in(node))

    @staticmethod
    def _nodes(root: Root) -> list[Any]:
        if root.clause == "using" or root.node is None:
            return [root.node]
        parts = conjuncts(root.node)
        return parts if len(parts) <= MANY_PARTS else [root.node]

    def _judged(self, root: Root, node: Any, *, joins: bool) -> Judged | None:
        """What a part of a condition tells; None where it tells of nothing here."""
        if root.query is not None and root.query.kind == "insert":
            return None  # ON CONFLICT … WHERE is guarded by the check of the row in the way
        if root.clause == "using":
            return self.judge.using(root)
        if root.clause == "having" and holds_aggregate(node):
            return None
        return self.judge.condition(node, joins=joins)

    def _add(self, root: Root, node: Any, judged: Judged) -> None:
        told = {}
        if self.is_traced(node):
            for reference in self.about:
                if (
                    self._runs_at_scan(root, reference)
                    if reference in judged.uses
                    else _meets(root, reference)
                ):
                    told[reference] = True
                    self._note(Hazard(root, node, reference, None, raises_only=False))
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

    def _add_equated(self) -> None:
        """What raises is asked of what is equal to what it is compared with."""
        parts = [
            (root, node)
            for root in self.statement.roots
            if root.clause in CONDITIONS
            for node in self._nodes(root)
            if node is not None or root.clause == "using"
        ]
        for root, node, references in equated(self.judge, parts):
            for reference in references & self.about:
                noted = self._hazards.get(reference, ())
                if not any(each.node is node for each in noted) and self._runs_at_scan(root, reference):
                    self._note(Hazard(root, node, reference, None, raises_only=True, follows=True))

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
        if root.clause not in ("where", "on"):
            return None
        negated = False
        inner = node.get("BoolExpr", {})
        if inner.get("boolop") == "NOT_EXPR":
            negated, node = True, inner["args"][0]
        fields = node.get("SubLink")
        if fields is None or (root.clause == "on" and not _is_inner(root)):
            return None
        query = self.judge.sub_select(fields)
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
            if not inside or elsewhere or nested:
                return None
            if negated:
                self.anti.add(id(query))
            return query
        return None

    def _refers_outwards(self, query: Query) -> frozenset[Reference]:
        return self.judge.query(query).uses

    def _is_simple(self, query: Query) -> bool:
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
            and not self.judge.has_groups(query)
        )

    def takes_only(self, node: Any, reference: Reference) -> bool:
        """Whether a condition takes columns of a reference and of nothing else in FROM: then the planner runs it at its scan.

        (What `Judged.uses` names are relations. A condition may take something of VALUES or of a function beside them.)
        """
        columns = [fields for fields in below(node, _COLUMNS_AND_SUBLINKS) if "fields" in fields]
        links = [self.judge.links.get(id(fields), ()) for fields in columns]
        return not holds_sublink(node) and all(
            each and all(isinstance(link, tuple) and link[0] is reference for link in each) for each in links
        )

    # ------------------------------------------------------------------ what goes into a fence

    def inside_fence(self, reference: Reference) -> Iterator[Inside]:
        """What tells nothing and asks for a reference alone.

        As below native row security these may run on every row, so that they find their index.
        """
        for root, node, judged in self.parts:
            if (
                judged.uses != {reference}
                or judged.tells
                or judged.raises
                or holds_sublink(node)
                or self.is_traced(node)
            ):
                continue
            place = self._place_inside(root, reference)
            if place is None:
                continue
            whole = place.fields.get("whereClause") if isinstance(place, Query) else place["quals"]
            index = next((i for i, part in enumerate(conjuncts(whole)) if part is node), None)
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
                    yield Inside(place, index, node, attributes)

    def _place_inside(self, root: Root, reference: Reference) -> Query | Node | None:
        """The query whose WHERE, or the join whose ON, a condition is, if it may as well be asked where a reference is read."""
        query = root.query
        if query is None:
            return None
        if root.clause == "where":
            reads = query.kind in ("select", "update", "delete") and all(
                _keeps(join, side) for join, side in reference.joins
            )
            return query if reads and self._reaches(query, reference) else None
        if root.clause != "on" or query is not reference.query:
            return None
        for depth, (join, side) in enumerate(reference.joins):
            if join.get("quals") is root.node:
                # A row for which it is not true finds no partner, and is kept by no other join on the way to this one.
                drops = not _keeps(join, side) or join.get("jointype", "JOIN_INNER") == "JOIN_INNER"
                full = join.get("jointype") == "JOIN_FULL"
                below = reference.joins[depth + 1 :]
                return join if drops and not full and all(_keeps(*each) for each in below) else None
        return None

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

    def _passes_conditions(self, query: Query) -> bool:
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
            and not self.judge.has_groups(query)
            and not any(functions.returns_set(name) for name in calls_in(fields.get("targetList", ())))
        )

    def _reaches(self, query: Query, reference: Reference) -> bool:
        """Whether a condition of a query may as well be asked where the reference is read, in it or in a query in its FROM."""
        inner = reference.query
        while inner is not query:
            if (
                inner is None
                or inner.clause is not None
                or inner.null_extended
                or not self._passes_conditions(inner)
            ):
                return False
            if inner.parent is not None and is_cte(inner, inner.parent):
                return False  # it may be read a second time
            inner = inner.parent
        return True


def traced(statement: Statement, catalog: Catalog | None) -> set[str]:
    """The names of what a statement calls of which it can be told afterwards how often it ran."""
    return {call.name for call in statement.calls if _leaves_a_trace(call, catalog)}


def _leaves_a_trace(call: Call, catalog: Catalog | None) -> bool:
    mine = catalog.functions_named(call.name, call.schema) if catalog is not None else ()
    if mine and any(function.volatility == "v" for function in mine):
        return True
    return _builtin_leaves_a_trace(call.name)


@lru_cache(maxsize=4096)
def _builtin_leaves_a_trace(name: str) -> bool:
    if name in _LEAVES_A_TRACE:
        return True
    return name not in _LEAVES_NO_TRACE and any(each.volatility == "v" for each in functions.builtin(name))


def _keeps(join: Node, side: str) -> bool:
    """Whether a row on one side of a join is what its rows are made from: without it there are no such rows."""
    kind = join.get("jointype", "JOIN_INNER")
    return kind == "JOIN_INNER" or (kind, side) in (("JOIN_LEFT", "l"), ("JOIN_RIGHT", "r"))


def _meets(root: Root, reference: Reference) -> bool:
    """Whether a condition that takes no column of a relation may run on its rows: in its query, or around it with nothing
    between that rows wait for."""
    query = reference.query
    while query is not None and query is not root.query:
        if query.clause is not None or not query.fields.keys().isdisjoint(("limitCount", "limitOffset")):
            return False
        query = query.parent
    return query is not None


def is_cte(query: Query, parent: Query) -> bool:
    return any(
        next(iter(wrapped["CommonTableExpr"]["ctequery"].values())) is query.fields
        for wrapped in parent.fields.get("withClause", {}).get("ctes", ())
    )


def _is_of_columns(output: Output) -> bool:
    """Whether an output is made of what its links and its expression say; a scalar sub-select may take a column around it."""
    if output.opaque or output.open is not None or output.call is not None:
        return False
    if output.query is not None and output.query.kind == "values":
        return False  # whose other rows have expressions of their own
    return output.root is not None or bool(output.links)


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
