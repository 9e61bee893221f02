"""What PostgreSQL refuses of a masked column where it stands: there it has to stand still, or the mask would be answered.

A column beside groups that it is none of (42803), and one that a LATERAL item takes across a FULL or RIGHT JOIN (42P10).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guarddb.facts import functions
from guarddb.sql.leakproof.restrictions import is_cte
from guarddb.sql.names import columns_in, string_list
from guarddb.sql.statement import Clause, Link, Output, Query, Reference, Statement
from guarddb.tree import Node, below

#: What is evaluated when the groups are made; a sub-select there looks at groups too.
_BEHIND_GROUPS: frozenset[Clause | None] = frozenset(("target", "having", "order", "distinct", "window"))
_ACROSS = frozenset(("JOIN_FULL", "JOIN_RIGHT"))


class RefusedByServer:
    """Asks of an output that is a bare column, or a whole row, whether PostgreSQL certainly refuses it there.

    `SELECT ssn, count(*) FROM people` -> yes; `SELECT ssn, count(*) OVER () FROM people` -> no
    """

    def __init__(self, statement: Statement) -> None:
        self._statement = statement
        self._made: set[int] | None = None

    def __call__(self, output: Output) -> bool:
        links = output.links or output.opaque
        query = output.query
        levels = {id(level): level for link in links if (level := _level(link)) is not None}
        if query is None or len(levels) != 1 or (output.links and len(links) > 1):
            return False
        (level,) = levels.values()
        if (
            isinstance(link := links[0], tuple)
            and level is not query
            and _reaches_across(query, link[0], level)
        ):
            return True
        return id(level) in self._groups and self._is_behind(query, level) and _is_ungrouped(links, level)

    @property
    def _groups(self) -> set[int]:
        """The queries, by id, whose rows are groups."""
        if self._made is None:
            self._made = set(self._grouped())
        return self._made

    def _grouped(self) -> Iterator[int]:
        statement = self._statement
        for query in statement.queries:
            if query.kind == "select" and query.fields.keys() & {"groupClause", "havingClause"}:
                yield id(query)
        counted: dict[int, Reference] = {}
        for node, reference, form in statement.row_counts:
            counted[id(node.get("ColumnRef"))] = reference
            if form != "{}":
                yield id(reference.query)  # `t.count`
        if not any(functions.is_aggregate(call.name) for call in statement.calls):
            return
        links: dict[int, list[Link]] = {}
        for root in statement.roots:
            for link, column in root.uses:
                if column is not None:
                    links.setdefault(id(column), []).append(link)
        for root in statement.roots:
            if root.query is None:
                continue
            for call in _aggregates(root.node):
                # (Those of FILTER and ORDER BY count as well.)
                columns = columns_in(call)
                taken = [_level(link) for column in columns for link in links.get(column, ())]
                taken += [counted[column].query for column in columns if column in counted]
                yield id(_innermost(root.query, taken))
            for column in _row_aggregates(root.node):
                for link in links.get(id(column), ()):
                    yield id(_level(link))

    def _is_behind(self, query: Query, level: Query) -> bool:
        """Whether a query stands where its outer one `level` has groups already."""
        below = _child(query, level)
        if below is level:
            return True
        if below is None or below.clause not in _BEHIND_GROUPS:
            return False
        return not any(
            _holds(call, below)
            for root in self._statement.roots
            if root.query is level
            for call in _aggregates(root.node)
        )


def _level(link: Link) -> Query | None:
    """The query among whose FROM items a column stands; None for a column of a WITH query, which may stand in any below."""
    if isinstance(link, tuple):
        return link[0].query
    query = link.query
    if query is None or query.parent is None or is_cte(query, query.parent):
        return None
    return query.parent


def _child(query: Query, level: Query) -> Query | None:
    """The query just below `level` on the way to `query`; `level` itself when they are the same."""
    if query is level:
        return level
    walk: Query | None = query
    while walk is not None and walk.parent is not level:
        walk = walk.parent
    return walk


def _innermost(query: Query, levels: list[Query | None]) -> Query:
    """The level that an aggregate belongs to: the innermost of what its arguments are columns of, or the query it stands in."""
    meant = {id(level) for level in levels if level is not None}
    walk: Query | None = query
    while walk is not None:
        if id(walk) in meant:
            return walk
        walk = walk.parent
    return query


def _aggregates(node: Any) -> Iterator[Node]:
    """The calls of aggregates in an expression, without those of its sub-selects and those over a window."""
    # (A root of a join, or of what is written, holds whole queries.)
    for call in below(node, ("FuncCall",), ("SubLink", "SelectStmt")):
        *schema, name = string_list(call["funcname"])
        if "over" not in call and schema in ([], ["pg_catalog"]) and functions.is_aggregate(name):
            yield call


def _row_aggregates(node: Any) -> Iterator[Node]:
    """The rows of which `(t).json_agg` is an aggregate."""
    for fields in below(node, ("A_Indirection",), ("SubLink", "SelectStmt")):
        column = fields["arg"].get("ColumnRef")
        name = fields["indirection"][0].get("String", {}).get("sval", "")
        if column is not None and functions.is_aggregate(name):
            yield column


def _holds(node: Any, query: Query) -> bool:
    stack = [node]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if value is query.fields:
                return True
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return False


def _is_ungrouped(links: list[Link], level: Query) -> bool:
    grouped = level.group_by
    if any(isinstance(each, Output) and (each.open is not None or each.guessed) for each in grouped):
        return False
    if all(any(link == each for each in grouped) for link in links):
        return False
    (link, *more) = links
    if more or not isinstance(link, tuple):
        return True
    # The primary key says what the other columns are.
    relation = link[0].relation
    names = {each[1] for each in grouped if isinstance(each, tuple) and each[0] is link[0]}
    if relation is None:
        return False
    if not relation.primary_key or not names.issuperset(relation.primary_key):
        return True
    # Among grouping sets only where each of them has it.
    return is_grouping_sets(level) and all(
        "GroupingSet" in node for node in level.fields.get("groupClause", ())
    )


def is_grouping_sets(query: Query) -> bool:
    return any("GroupingSet" in node for node in query.fields.get("groupClause", ()))


def _reaches_across(query: Query, reference: Reference, level: Query) -> bool:
    """Whether a LATERAL item takes a column of the other side of a FULL or RIGHT JOIN."""
    below = _child(query, level)
    if below is None or below.clause is not None:
        return False
    for (join, side), (other, beside) in zip(reference.joins, below.joins, strict=False):
        if join is not other:
            return False
        if side != beside:
            return side == "l" and join.get("jointype") in _ACROSS
    return False
