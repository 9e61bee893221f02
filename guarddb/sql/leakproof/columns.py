"""Columns: of relations, and of nested queries, which the planner may put in place of what refers to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from guarddb.sql.analysis.scope import SYSTEM_COLUMNS
from guarddb.sql.catalog import Catalog
from guarddb.sql.leakproof.calls import Calls
from guarddb.sql.leakproof.judged import ROW, Judged, copied, lost, together, told_in
from guarddb.sql.leakproof.parts import holds_aggregate
from guarddb.sql.leakproof.types import COLLATABLE, RECORD, UNKNOWN, Type, Types
from guarddb.sql.names import string_list, type_name
from guarddb.sql.statement import Link, Output, Query, Reference, Root, Statement
from guarddb.tree import Node

_NUMERIC = "pg_catalog.numeric"


class Columns(ABC):
    """The part of the judge that knows what each column is. Each output is judged once."""

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

    @abstractmethod
    def _node(self, node: Any, depth: int, *, estimated: bool = False) -> Judged:
        """Judge one node of the tree. `estimated`: the planner evaluates its stable operands for an estimate."""

    def subtree(self, query: Query) -> Iterator[Query]:
        stack = [query]
        while stack:
            found = stack.pop()
            yield found
            stack.extend(self.children.get(id(found), ()))

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
                return lost([judged])
            if attribute.base_type == _NUMERIC and attribute.typmod >= 0:
                judged.digits = (
                    2000  # numeric(p, s): a precision of 1,000 at the most, a scale down to -1,000
                )
            if attribute.collation is not None:
                judged.collations = frozenset((attribute.collation,))
            return judged
        if name in SYSTEM_COLUMNS:
            return Judged(f"pg_catalog.{SYSTEM_COLUMNS[name]}", ROW, uses)
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
            return lost([Judged(None, ROW, uses)])
        if output.call is not None:
            return Judged(self._call_type(output.call), ROW)  # a function in FROM runs by itself
        if query is not None and query.kind == "values" and output.root is not None:
            index = query.outputs.index(output)
            parts = [
                self._node(row["List"]["items"][index], 0)
                for row in query.fields["valuesLists"]
                if index < len(row["List"].get("items", ()))
            ]
            judged = together(self.types.common([part.type for part in parts]), parts)
            judged.level = ROW
            return told_in(judged, output)
        if output.root is not None:
            node = output.root.node
            if holds_aggregate(node):
                return Judged(self._node(node, 0).type, ROW)
            judged = copied(self._node(node, 0))
            judged.level = ROW
            return told_in(judged, output)
        if output.links:
            parts = [self._link(link) for link in output.links]
            judged = together(self.types.common([part.type for part in parts]), parts)
            judged.level = ROW
            return judged
        if output.target is not None:
            judged = copied(self._node(output.target["val"], 0))
            judged.level = ROW
            return told_in(judged, output)
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
