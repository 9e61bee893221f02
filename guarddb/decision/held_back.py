"""What PostgreSQL would run on hidden rows behind a wall, taking it to be harmless, and how that is held back.

Conditions that are leakproof to PostgreSQL are asked together with a wall's filter, the cheaper first, and may be asked of an
index. It looks at functions that take a column, and no further: a sub-select, a parameter's arithmetic or a conflict of two
collations raises, where a hidden row has come so far, and `random()` after `setseed()` counts how many did. Such a part of a
condition

- waits: `COALESCE(part, false)` is of no kind that PostgreSQL knows to be harmless, so that it is asked of rows that came
  through;
- or is evaluated first, where an index could serve it: see `guarddb.decision.filters.guards`.

What PostgreSQL holds back by itself stays as it is.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from guarddb.decision import behind_wall
from guarddb.decision.case import case_of, stores_text
from guarddb.decision.draft import Draft
from guarddb.decision.filters.guards import Guarding, costs_an_operator, is_evaluated_alike
from guarddb.decision.refusal import Refusal
from guarddb.sql.analysis.classify import read_statement
from guarddb.sql.catalog import Attribute
from guarddb.sql.leakproof.alone import computes_alone, is_of_groups, is_plain, keeps_columns
from guarddb.sql.leakproof.restrictions import CONDITIONS, Hazard, Restrictions, traced
from guarddb.sql.leakproof.types import COLLATABLE
from guarddb.sql.names import holds_sublink, string_list
from guarddb.sql.rewriting.edits import RewriteError
from guarddb.sql.rewriting.wording import Wording
from guarddb.sql.statement import Output, Query, Reference
from guarddb.tree import Node, below, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guarddb.decision.case import Case
    from guarddb.decision.relation_rules import RelationRules

#: In place of the name of a collation that is not known.
_UNKNOWN = "?"
#: Conditions that an index may serve as they stand, or a part of which it may.
_SERVED_BY_INDEXES = frozenset(("A_Expr", "BoolExpr", "ColumnRef", "NullTest", "BooleanTest", "SubLink"))


def hold_back(case: Case, draft: Draft) -> Refusal | None:
    """Let what may raise on hidden rows wait for the wall's filter.

    >>> from guarddb.decision.decide import compile_policy, decide
    >>> from guarddb.policy.profile import PolicyProfile, RowFilter
    >>> from guarddb.sql.catalog import Attribute, Catalog, Relation
    >>> from guarddb.decision.wall_in_force import Wall
    >>> flag = Attribute("flag", 1, "pg_catalog.bool", "pg_catalog.bool", "B", plain=True)
    >>> catalog = Catalog("1", 180000, relations={1: Relation(1, "public", "notes", "r", (flag,))})
    >>> filters = (RowFilter(table="notes", predicate="flag OR NOT flag"),)
    >>> policy = PolicyProfile(name="shop", row_filters=filters)
    >>> wall = Wall("w", {("public", "notes"): "notes"}, "checksum")
    >>> sql = "SELECT FROM notes WHERE CASE WHEN flag THEN 1 / $1 = 1 END"
    >>> decide(sql, compile_policy(policy), catalog, wall=wall).sql
    'SELECT FROM "w"."notes" WHERE COALESCE((CASE WHEN flag THEN 1 / $1 = 1 END), false)'
    """
    statement = case.statement
    if case.wall is None or stores_text(statement):
        return None
    if not (_may_raise(case) or (statement.calls and traced(statement, case.catalog))):
        return None
    about = [r for r, rules in case.ruled if r.mode != "ddl" and (rules.filters or rules.needs_inlining)]
    if not about:
        return None
    restrictions = Restrictions(statement, case.catalog, about)
    if not any(restrictions.hazards(reference) for reference in about):
        return None
    try:
        return _HeldBack(case, draft, restrictions).write()
    except RewriteError as ex:
        return Refusal(
            "row_filter_unsafe",
            f"a condition that can raise an error would run on hidden rows, and found no other place: {ex}",
            "Write the statement in a simpler way.",
        )


def _may_raise(case: Case) -> bool:
    """Whether something takes no column and may raise, or two collations may meet: else there is nothing to judge."""
    collations: frozenset[str] = frozenset()
    for reference, rules in case.ruled:
        if rules.collations is None:
            attributes = reference.relation.attributes if reference.relation is not None else ()
            rules.collations = frozenset(own for each in attributes if (own := _own_collation(each)))
        if rules.collations:
            collations |= rules.collations
    if collations and (len(collations) > 1 or _UNKNOWN in collations):
        return True
    statement = case.statement
    nested = len(statement.queries) > 1
    for root in statement.roots:
        clause, query = root.clause, root.query
        if clause in CONDITIONS or (
            # PostgreSQL may put a column of a nested query in place of its name.
            nested
            and clause == "target"
            and query is not None
            and query.parent is not None
            and not is_of_groups(root.node)
        ):
            if not is_plain(root.node) and computes_alone(root.node, partial(_takes_rows, query, case)):
                return True
        elif clause == "function" and root.uses and _takes_values(root.node):
            return True
    if not nested:
        return False
    for query in statement.queries:
        if query.parent is None:
            continue
        if query.kind == "values" and computes_alone(query.fields["valuesLists"]):
            return True
        for output in query.outputs:
            if output.root is None:
                if output.call is not None:
                    if computes_alone(output.call):
                        return True
                elif output.links:
                    continue  # a bare column
                elif (target := output.target) is not None and not output.star and "SubLink" in target["val"]:
                    if computes_alone(target["val"]):
                        return True
    return False


def _takes_values(call: Any) -> bool:
    """Whether a function in FROM takes what is not known before it runs, nor comes from a row."""
    return bool(below(call, ("ParamRef", "SubLink")))


def _made_of(output: Output) -> Iterator[Any]:
    """The expressions of an output that PostgreSQL may put in place of it."""
    if output.query is not None and output.query.kind == "values":
        yield output.query.fields["valuesLists"]
    elif output.root is not None:
        yield output.root.node
    elif output.call is not None:
        yield output.call
    elif output.target is not None and not output.star and "SubLink" in output.target["val"]:
        yield output.target["val"]


def _takes_rows(around: Query | None, case: Case, fields: Node) -> bool:
    """Whether a sub-select takes a column of a table of the query around it, whatever PostgreSQL finds out about constants.

    What does not depend on a row is computed once and for all, when it is first needed; and PostgreSQL looks for columns after
    it has taken away what `CASE WHEN false`, `coalesce(2, …)` and `OR true` leave of an expression, and of a WHERE what stands
    beside a false or NULL. So a WHERE counts of which nothing can be taken away.
    """
    within = next(iter(fields["subselect"].values()))
    where = within.get("whereClause")
    if where is None or not keeps_columns(where):
        return False
    stored = {r: _stored(r, rules) for r, rules in case.ruled}
    links = [link for root in case.statement.roots if root.node is where for link, _ in root.uses]
    # (A column of a nested query, or under a mask, may turn out to be NULL.)
    return all(type(link) is tuple and link[1] in stored.get(link[0], ()) for link in links) and any(
        type(link) is tuple and link[0].query is around for link in links
    )


def _stored(reference: Reference, rules: RelationRules) -> set[str]:
    """The columns of a table that come from its rows as they are."""
    relation = reference.relation
    if relation is None or relation.kind not in ("r", "p"):
        return set()
    return {each.name for each in relation.attributes if not each.generated} - rules.masks.keys()


class _HeldBack(Guarding):
    """Behind a wall the filters are the server's. What is written is what has to wait for them."""

    def __init__(self, case: Case, draft: Draft, restrictions: Restrictions) -> None:
        super().__init__(
            case.statement, case.policy, case.governance, draft.rewriter, draft.targets, case.catalog
        )
        self.case = case
        self._restrictions = restrictions

    def write(self) -> Refusal | None:
        for reference, _ in self.case.ruled:
            if reference not in self.restrictions.about:
                continue
            for hazard in self.restrictions.hazards(reference):
                if not self._hold(reference, hazard):
                    return Refusal(
                        "row_filter_unsafe",
                        f'the row filter on "{reference.qualified_name}" cannot be kept here: a condition that can raise'
                        " an error, or leaves a trace of each call, would run on hidden rows",
                        "Write the condition into WHERE or ON (no USING, no HAVING), or compare columns with constants only.",
                    )
        self.write_conditions()
        return None

    def _hold(self, reference: Reference, hazard: Hazard) -> bool:
        if not self._is_harmless_to_postgres(hazard) or not self._is_put_in_place(hazard):
            return True
        served = self._may_be_served(reference, hazard)
        if not served and self._is_asked_first(reference, hazard):
            return True
        if self._depends_on_nothing_else(reference, hazard):
            return True
        if served and hazard.raises_only and (gates := self._gates(hazard)):
            for conditions, gate in gates:
                if gate not in conditions.gates:
                    conditions.gates.append(gate)
            return True
        place = self._own_place(hazard)
        if place is None:
            return False
        place[0].held.add(place[1])
        return True

    def _is_put_in_place(self, hazard: Hazard) -> bool:
        """Of a function in FROM, whether PostgreSQL may put its body in place of the call, with the conditions in it."""
        call = hazard.node.get("FuncCall") if hazard.root.clause == "function" else None
        if call is None or self.catalog is None:
            return True
        *schema, name = string_list(call["funcname"])
        found = self.catalog.functions_named(name, schema[-1] if schema else None)
        return any(function.language == "sql" for function in found) and _takes_values(call)

    def _is_asked_first(self, reference: Reference, hazard: Hazard) -> bool:
        """Whether the filter of a table comes before a condition, whatever that costs.

        Of what costs the same PostgreSQL asks first what came first, and to a branch of UNION ALL that is what was asked of all.
        """
        wall = self.case.wall
        assert wall is not None
        query = reference.query
        while query is not None and query is not hazard.root.query:
            if query.kind == "setop":
                return False
            query = query.parent
        return (reference.schema, reference.name) in wall.asked_first

    def _depends_on_nothing_else(self, reference: Reference, hazard: Hazard) -> bool:
        """Whether a condition runs on rows that the filter shows, or of an index, whatever the rows are.

        An index is asked for what it serves all at once. Where two are asked in turn (BitmapAnd), the second one is if the first
        one has found anything, hidden or not: so there must be no second that the agent chooses, and none of the filter's parts.
        """
        wall = self.case.wall
        assert wall is not None
        return (
            hazard.raises_only
            and hazard.root.clause == "where"
            and hazard.root.query is reference.query
            and (reference.schema, reference.name) in wall.asked_by_one
            and costs_an_operator(hazard.node)
            and not any(
                reference in judged.uses
                and node is not hazard.node
                and self._may_be_served(reference, Hazard(root, node, reference, None, raises_only=False))
                for root, node, judged in self.restrictions.parts
            )
        )

    def _may_be_served(self, reference: Reference, hazard: Hazard) -> bool:
        """Whether an index may serve a part of a condition: whether it is evaluated then may depend on what another one found."""
        node = hazard.node
        return (
            isinstance(node, dict)
            and not _SERVED_BY_INDEXES.isdisjoint(node)
            and not self.restrictions.is_unindexed(reference, hazard)
        )

    def _is_harmless_to_postgres(self, hazard: Hazard) -> bool:
        """Whether PostgreSQL may take something that tells of a row for harmless.

        What tells by a function of a row it holds back itself. Not so what compares collations, and what a function of a
        user's, whose body it puts in place of the call, does with something that takes no column.
        """
        if id(self._sub_select(hazard.node)) in self.restrictions.joined:
            return False
        stack: list[Any] = [hazard.node]
        links = [link for link, _ in hazard.root.uses]
        seen: set[int] = set()
        while stack or links:
            if links:
                link = links.pop()
                if isinstance(link, Output):
                    if id(link) not in seen:
                        seen.add(id(link))
                        links += (*link.links, *link.opaque)
                        links += [each for each, _ in link.root.uses] if link.root is not None else ()
                        stack += _made_of(link)
                elif _is_collated(*link):
                    return True
                continue
            if computes_alone(stack.pop()):
                return True
        return False

    def _sub_select(self, node: Any) -> object:
        """The query of a condition that is a sub-select, negated or not."""
        if isinstance(node, dict) and "BoolExpr" in node:
            node = node["BoolExpr"]["args"][0]
        fields = node.get("SubLink") if isinstance(node, dict) else None
        return self.restrictions.judge.sub_select(fields) if fields else None

    def _evaluated_twice(self, node: Node, text: str) -> str | None:
        """An operand as it has to stand in a second place, over the wall's views; None when it cannot."""
        if not is_evaluated_alike(node):
            return None
        if not holds_sublink(node):
            return text
        sql = f"SELECT {text}"
        raws = parse(sql, checked=False)
        case = self.case
        statement = read_statement(raws[0], case.catalog, {"prepared": {}, "portals": {}})
        judge = self.restrictions.judge
        queries = [q for fields in below(node, ("SubLink",)) if (q := judge.sub_select(fields)) is not None]
        there = {id(r): r for query in queries for each in judge.subtree(query) for r in each.references}
        if sorted(r.qualified_name for r in statement.references) != sorted(
            r.qualified_name for r in there.values()
        ):
            return None  # a WITH query of the statement around it
        inner = case_of(statement, case.policy, case.catalog, case.wall)
        draft = Draft(Wording(sql, raws), governed=True, limited=False)
        for write in (behind_wall.names, hold_back):
            if write(inner, draft) is not None:
                return None
        return draft.wording.finish()[0].removeprefix("SELECT ")


def _own_collation(attribute: Attribute) -> str | None:
    """The collation of a column that is not the database's: comparing it may raise where that of other columns would not."""
    if attribute.collation is not None:
        return attribute.collation
    return _UNKNOWN if not attribute.plain and attribute.base_type in COLLATABLE else None


def _is_collated(reference: Reference, name: str) -> bool:
    relation = reference.relation
    attributes = relation.attributes if relation is not None else ()
    return any(_own_collation(each) is not None for each in attributes if name in (each.name, "*"))
