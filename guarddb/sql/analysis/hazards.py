"""Conditions that can raise an error, part by part, and the rows they may run on.

The planner takes a conjunction apart and runs its parts in an order of its own, so they are judged one by one: in
`o.placed_at > $1 AND lower(c.name) = 'x'` only the second can raise, and it touches only `c`.
"""

from __future__ import annotations

from typing import Any

from guarddb.facts import functions
from guarddb.sql.analysis.plain import cannot_raise
from guarddb.sql.names import columns_in, string_list
from guarddb.sql.statement import Clause, Link, Output, Query, Reference, Root, Statement, depends_on
from guarddb.tree import Node

#: Clauses that PostgreSQL makes part of a scan or a join, next to a row filter.
_CONDITIONS: frozenset[Clause] = frozenset(("where", "on", "using", "having", "conflict"))


_SORTED_EARLY: frozenset[Clause] = frozenset(("order", "group", "distinct", "window"))
#: A longer conjunction is taken as one: telling its parts apart takes time with their square.
_MANY_PARTS = 64


class Hazard:
    """One part of a condition (or one expression of a nested target list) that can raise, and what it depends on."""

    __slots__ = ("at_scan", "node", "references", "root")

    def __init__(self, root: Root, node: Any, references: set[Reference], *, at_scan: bool = True) -> None:
        #: it may run where the relation is scanned; otherwise only behind the scan, where a filter is asked that is no join
        self.at_scan = at_scan
        self.root = root
        self.node = node
        self.references = references


def conjuncts(node: Any) -> list[Any]:
    """The parts of a conjunction, as the parser gives them."""
    conjunction = node.get("BoolExpr", {}) if isinstance(node, dict) else {}
    return list(conjunction["args"]) if conjunction.get("boolop") == "AND_EXPR" else [node]


def hazards(statement: Statement) -> list[Hazard]:
    """Every part of the statement that can raise while a row has not passed its filter yet.

    Expressions of a target list run after the conditions of their query; those of a nested query count all the same when
    a condition further out uses the output, because the planner puts them together.
    """
    conditioned: set[int] | None = None
    tops = {id(q) for q in statement.queries if q.kind in ("insert", "update", "delete", "merge")}
    if statement.top is not None:
        tops |= {id(leaf) for leaf in statement.top.leaves()}
    found: list[Hazard] = []
    for root in statement.roots:
        clause = root.clause
        if not root.uses or clause == "ddl":
            continue
        if clause in _CONDITIONS:
            if root.node is None or not cannot_raise(root):
                found.extend(_after_targets(part, tops) for part in _parts(root))
            continue
        if root.node is not None and cannot_raise(root):
            if clause not in _SORTED_EARLY or not any(_computed(link) for link, _ in root.uses):
                continue
        references = _references(link for link, _ in root.uses)
        if clause in ("values", "function"):
            if not _inserted(root):
                # LATERAL VALUES is pulled up into whatever uses its columns; a function stays where it is.
                found.append(Hazard(root, root.node, references, at_scan=clause == "values"))
        elif clause == "target":
            # RETURNING runs on rows that were written, and a WITH query that writes is never merged into another.
            if conditioned is None:
                conditioned = _outputs_in_conditions(statement)
            if id(root) in conditioned and not _aggregates(root.node):
                # (What holds an aggregate or a window function is computed from rows that came through, and a condition on it
                # stays above them.)
                found.append(Hazard(root, root.node, references))
            elif is_null_extended(root.query):
                # Below an outer join the planner computes a subquery's column as early as it can: behind the scan, but before
                # a filter that became a join.
                found.append(Hazard(root, root.node, references, at_scan=False))
        elif clause in _SORTED_EARLY:
            # A filter with a sub-select may become a join, and PostgreSQL may sort below it (incremental sort).
            found.append(Hazard(root, root.node, references, at_scan=False))
        found.extend(_correlated(root, references))
    return found


def _computed(link: Link) -> bool:
    """ORDER BY 1 of an output that is an expression which can raise."""
    return isinstance(link, Output) and link.root is not None and not cannot_raise(link.root)


def _after_targets(hazard: Hazard, tops: set[int]) -> Hazard:
    """Leave out the rows that a sub-select in the statement's own target list, SET or RETURNING looks at: they came through."""
    root = hazard.root
    for reference in list(hazard.references):
        if root.query is reference.query or id(reference.query) not in tops:
            continue
        query = root.query
        while query is not None and query.parent is not None and query.parent is not reference.query:
            query = query.parent
        if query is not None and query.clause in ("target", "returning", "set"):
            hazard.references.discard(reference)
    return hazard


def _correlated(root: Root, references: set[Reference]) -> list[Hazard]:
    """What a sub-select computes from a row further out: it runs where its own expression runs.

    In a condition that is at the scan of the outer row, whatever clause of the sub-select it stands in; LATERAL in FROM it
    is behind the scan.
    """
    behind: set[Reference] = set()
    at_scan: set[Reference] = set()
    for reference in references:
        query = root.query
        while query is not None and query.parent is not None and query.parent is not reference.query:
            query = query.parent
        if query is None or query.parent is None or root.query is reference.query:
            continue
        if query.clause in _CONDITIONS:
            at_scan.add(reference)
        elif query.clause is None:
            behind.add(reference)
    found = [Hazard(root, root.node, at_scan)] if at_scan else []
    return [*found, Hazard(root, root.node, behind, at_scan=False)] if behind else found


def _aggregates(node: Any) -> bool:
    """Whether an expression holds an aggregate: then it runs on groups, and never becomes part of WHERE."""
    stack = [node]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            call = value.get("FuncCall")
            if "GroupingFunc" in value:
                return True
            if call is not None and (
                "over" in call or functions.is_aggregate(string_list(call["funcname"])[-1])
            ):
                return True
            stack.extend(v for k, v in value.items() if k != "SubLink")
        elif isinstance(value, list):
            stack.extend(value)
    return False


def is_null_extended(query: Query | None) -> bool:
    """Whether a query, or one around it, stands where NULLs may be put in its place: its columns are then computed early."""
    while query is not None:
        if query.null_extended:
            return True
        query = query.parent
    return False


def _inserted(root: Root) -> bool:
    """The VALUES of an INSERT."""
    query = root.query
    return query is not None and query.parent is not None and query.parent.kind == "insert"


def _parts(root: Root) -> list[Hazard]:
    if root.clause == "using" or root.node is None:
        return [Hazard(root, root.node, _references(link for link, _ in root.uses))]
    found = []
    parts = conjuncts(root.node)
    if len(parts) > _MANY_PARTS:
        return [Hazard(root, root.node, _references(link for link, _ in root.uses))]
    for node in parts:
        if cannot_raise(root, node) or (root.clause == "having" and _aggregates(node)):
            continue
        inside = columns_in(node)
        # A use without a column is the output of a sub-select: it belongs to whichever part holds that.
        references = _references(link for link, column in root.uses if column is None or id(column) in inside)
        found.append(Hazard(root, node, references))
    return found


def _references(links: Any) -> set[Reference]:
    found: set[Reference] = set()
    for link in links:
        if type(link) is tuple:
            found.add(link[0])
        else:
            found |= depends_on(link)
    return found


def _outputs_in_conditions(statement: Statement) -> set[int]:
    """The ids of the roots of every output that some condition of the statement uses, however far in it is."""
    roots: set[int] = set()
    seen: set[int] = set()
    stack: list[Link] = [
        link for root in statement.roots if root.clause in _CONDITIONS for link, _ in root.uses
    ]
    while stack:
        item = stack.pop()
        if not isinstance(item, Output) or id(item) in seen:
            continue
        seen.add(id(item))
        stack.extend(item.links)
        stack.extend(item.opaque)
        if item.root is not None:
            roots.add(id(item.root))
            stack.extend(link for link, _ in item.root.uses)
    return roots


def plain_conjuncts(query: Query, statement: Statement, reference: Reference) -> list[tuple[int, Node]]:
    """(index, node) of each part of a query's WHERE that is plain and names columns of this reference alone."""
    where = query.fields.get("whereClause")
    root = next(
        (r for r in statement.roots if r.query is query and r.clause == "where" and r.node is where), None
    )
    if root is None or len(conjuncts(where)) > _MANY_PARTS:
        return []
    found = []
    for index, node in enumerate(conjuncts(where)):
        inside = columns_in(node)
        links = [link for link, column in root.uses if column is not None and id(column) in inside]
        if (
            inside
            and len(links) == len(inside)
            and all(isinstance(link, tuple) and link[0] is reference and link[1] != "*" for link in links)
            and not holds_sublink(node)
            and cannot_raise(root, node)
        ):
            found.append((index, node))
    return found


def holds_sublink(node: Any) -> bool:
    """Whether a sub-select stands below a node."""
    stack = [node]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if "SubLink" in value:
                return True
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return False
