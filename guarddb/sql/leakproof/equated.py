"""What PostgreSQL may ask of a row of one table, for another table's column that is equal to one of it is compared with it.

From `r.id = s.k AND s.k = 1 / $1` follows `r.id = 1 / $1`, and the planner asks that where it reads r (its equivalence classes):
perhaps of rows that a filter hides, and what raises there tells of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

from guarddb.sql.leakproof.judge import Judge
from guarddb.sql.leakproof.judged import Judged
from guarddb.sql.names import string_list
from guarddb.sql.statement import Link, Reference, Root, depends_on
from guarddb.tree import Node, below

#: Operators of equalities, and those that are one under NOT.
_EQUAL = frozenset(("=", "<>", "!="))
_EQUALITIES = frozenset(("AEXPR_OP", "AEXPR_IN", "AEXPR_NOT_DISTINCT"))
#: What may stand around a column and be nothing to the planner.
_AROUND = frozenset(("TypeCast", "CollateClause"))
#: A column of a relation; the tables that an expression is computed from; a column of a nested query, by its id.
_Key: TypeAlias = tuple[Reference, str] | frozenset[Reference] | int


class Equated(NamedTuple):
    """A part of a condition that compares something which takes no column and may raise; and the relations of which the planner
    may ask it.
    """

    root: Root
    node: Any
    references: frozenset[Reference]


def equated(judge: Judge, parts: Iterable[tuple[Root, Any]]) -> Iterator[Equated]:
    """The equalities one side of which may raise by itself, with the relations that have a column equal to the other side.

    Args:
        parts: the parts of all conditions of the statement, whatever relations they are about.
    """
    equal = _Equal()
    raising: list[tuple[Root, Any, _Key]] = []
    for root, node in parts:
        for sides, keys in _equalities(judge, root, node):
            if keys:
                equal.unite(keys)
                if any(judged.raises and not judged.uses for judged in sides):
                    raising.append((root, node, keys[0]))
    for root, node, key in raising:
        yield Equated(root, node, frozenset(equal.references(key)))


def _equalities(judge: Judge, root: Root, node: Any) -> Iterator[tuple[list[Judged], list[_Key]]]:
    """What is compared for equality somewhere in a condition, and what the planner knows it by.

    Wherever they stand: of `CASE WHEN true THEN a = b END` and `NOT (a <> b OR c)` an equality is left.
    """
    if root.clause == "using":
        for links in root.compared:
            yield [judge.link(link) for link in links], [key for link in links for key in _of_link(link)]
        return
    for fields in below(node, ("A_Expr",), ("SubLink",)):
        if (
            fields.get("kind", "AEXPR_OP") not in _EQUALITIES
            or string_list(fields.get("name", ()))[-1] not in _EQUAL
            or "lexpr" not in fields
        ):
            continue
        left, right = fields["lexpr"], fields["rexpr"]
        for sides in _pairs(left, right):
            yield [judge.condition(side) for side in sides], [k for side in sides for k in _keys(judge, side)]
    for fields in below(node, ("SubLink",)):
        query = judge.sub_select(fields) if fields.get("subLinkType") == "ANY_SUBLINK" else None
        if query is not None:
            test = fields["testexpr"]
            outer = test["RowExpr"]["args"] if "RowExpr" in test else [test]
            for side, output in zip(outer, query.outputs, strict=False):
                yield (
                    [judge.condition(side), judge.link(output)],
                    [*_keys(judge, side), *_of_link(output)],
                )


def _pairs(left: Node, right: Node) -> Iterable[list[Node]]:
    """What an equality compares: of rows, field by field."""
    if "List" in right:
        return [[left, *right["List"]["items"]]]
    if "RowExpr" in left and "RowExpr" in right:
        return map(list, zip(left["RowExpr"]["args"], right["RowExpr"]["args"], strict=False))
    if "RowExpr" in left:
        return [[*left["RowExpr"]["args"], right]]
    return [[left, right]]


def _keys(judge: Judge, node: Node) -> list[_Key]:
    """What the planner knows one side of an equality by: the column that it is, or the tables that it is computed from."""
    inner = node
    while (kind := next(iter(inner))) in _AROUND:
        inner = inner[kind]["arg"]
    if "ColumnRef" in inner:
        return [key for link in judge.links.get(id(inner["ColumnRef"]), ()) for key in _of_link(link)]
    uses = judge.condition(node).uses
    return [uses] if uses else []


def _of_link(link: Link) -> list[_Key]:
    """The same of a column: those that it is a copy of, too."""
    found: list[_Key] = []
    seen: set[int] = set()
    stack = [link]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            found.append(item)
        elif id(item) not in seen:
            seen.add(id(item))
            found.append(id(item))
            stack += (*item.links, *item.opaque)
            if item.root is not None and (uses := frozenset(depends_on(item))):
                found.append(uses)
    return found


class _Equal:
    """What is equal to what."""

    def __init__(self) -> None:
        self._to: defaultdict[_Key, list[_Key]] = defaultdict(list)

    def unite(self, keys: list[_Key]) -> None:
        for key in keys[1:]:
            self._to[keys[0]].append(key)
            self._to[key].append(keys[0])

    def references(self, key: _Key) -> Iterator[Reference]:
        """The relations of everything that is equal to this, itself too."""
        seen = {key}
        stack = [key]
        while stack:
            item = stack.pop()
            if isinstance(item, tuple):
                yield item[0]
            elif isinstance(item, frozenset):
                yield from item
            for other in self._to[item]:
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
