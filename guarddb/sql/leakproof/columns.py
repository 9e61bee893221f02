"""Columns: of relations, and of nested queries, which the planner may put in place of what refers to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from guarddb.facts import functions
from guarddb.sql.analysis.scope import SYSTEM_COLUMNS
from guarddb.sql.catalog import Catalog
from guarddb.sql.leakproof.calls import Calls
from guarddb.sql.leakproof.judged import ANY, CONSTANT, ROW, Judged, any_of, copied, lost, together, told_in
from guarddb.sql.leakproof.parts import holds_aggregate
from guarddb.sql.leakproof.types import COLLATABLE, RECORD, UNKNOWN, Type, Types
from guarddb.sql.names import string_list, type_name
from guarddb.sql.statement import Link, Output, Query, Reference, Root, Statement
from guarddb.tree import Node, below

_PREFIX = "pg_catalog."
_NUMERIC = f"{_PREFIX}numeric"
_CALLS = frozenset(("FuncCall",))

#: Types with values that have no place in another one which an operand of the same category may have: floats, oid, timestamps.
NARROWED = frozenset(f"pg_catalog.{name}" for name in ("numeric", "int8", "date", "timestamp"))


class Columns(ABC):
    """The part of the judge that knows what each column is. Each output is judged once."""

    def __init__(
        self, statement: Statement, catalog: Catalog | None, *, undeclared: Type | None = UNKNOWN
    ) -> None:
        #: the type of a parameter that no PREPARE declares. With the program's parameters comes any type (None), but one that an
        #: operator takes for a column tells no more of the column than a constant does (UNKNOWN).
        self.undeclared = undeclared
        self.statement = statement
        self.catalog = catalog
        self.types = Types(catalog)
        self.calls = Calls(self.types)
        self.links: dict[int, list[Link]] = {}
        self.by_fields: dict[int, Query] = {}
        self.parameters = _declared(statement, self.types)
        self._outputs: dict[int, Judged] = {}
        self._queries: dict[int, Judged] = {}
        self._open: set[int] = set()
        links = self.links
        for root in statement.roots:
            for link, column in root.uses:
                if column is not None:
                    found = links.get(id(column))
                    if found is None:
                        links[id(column)] = [link]
                    elif link not in found:
                        found.append(link)
        for query in statement.queries:
            self.by_fields[id(query.fields)] = query
            for output in query.outputs:
                if output.target is not None and not output.star:
                    column = output.target["val"].get("ColumnRef")
                    if column is not None and id(column) not in self.links:
                        self.links[id(column)] = [*output.links, *output.opaque]

    def sub_select(self, fields: Node) -> Query | None:
        """The query of a SubLink, by the SubLink's fields; None where the analysis read none there."""
        return self.by_fields.get(id(next(iter(fields["subselect"].values()))))

    @abstractmethod
    def _node(self, node: Any, depth: int, *, estimated: bool = False) -> Judged:
        """Judge one node of the tree. `estimated`: the planner evaluates its stable operands for an estimate."""

    def _of_one_type(self, type_: Type | None, parts: Sequence[Judged], operands: Sequence[Judged]) -> Judged:
        """`parts`, of which `operands` become one type: by a parameter it may be one that not all values have a place in."""
        if type_ is None:
            return together(None, parts)
        varies = any(operand.others for operand in operands)
        if varies and any(operand.uses and operand.type in NARROWED for operand in operands):
            return lost(parts, type_)
        return together(type_, [self._converted(p, type_) if p in operands else p for p in parts])

    def _converted(self, part: Judged, target: Type) -> Judged:
        if part.type is None:
            return lost([part], target)
        if not self.types.conversion_tells(part.type, target):
            return part
        return lost([part], target, folds=part.level == CONSTANT)

    @cached_property
    def roots(self) -> dict[int, list[Root]]:
        """The expressions of each query, by its id."""
        found: dict[int, list[Root]] = {}
        for root in self.statement.roots:
            found.setdefault(id(root.query), []).append(root)
        return found

    @cached_property
    def children(self) -> dict[int, list[Query]]:
        """The queries right below each query, by its id."""
        found: dict[int, list[Query]] = {}
        for query in self.statement.queries:
            found.setdefault(id(query.parent), []).append(query)
        return found

    def subtree(self, query: Query) -> Iterator[Query]:
        stack = [query]
        while stack:
            found = stack.pop()
            yield found
            stack.extend(self.children.get(id(found), ()))

    def link(self, link: Link) -> Judged:
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
        judged.explicit = False  # (COLLATE says so of its own query.)
        query = output.query
        if judged.type == UNKNOWN and _is_constant(output):
            judged.type = f"{_PREFIX}text"  # (resolveTargetListUnknowns)
        if query is not None and ("limitCount" in query.fields or "limitOffset" in query.fields):
            # Nothing is put below a LIMIT. But what it takes of the rows around it (LATERAL) stays of these.
            own = {reference for each in self.subtree(query) for reference in each.references}
            tells = frozenset((reference, site) for reference, site in judged.tells if reference not in own)
            inside = judged
            judged = Judged(inside.type, ROW, inside.uses - own, tells, collations=inside.collations)
            judged.others = any_of(inside)
        self._outputs[key] = judged
        return judged

    def _output(self, output: Output) -> Judged:
        query = output.query
        if output.open is not None:
            uses = frozenset((output.open.reference,)) if output.open.reference is not None else frozenset()
            return lost([Judged(None, ROW, uses)])
        if output.type_name is not None:
            return Judged(type_of_name(output.type_name, self.types), ROW)
        if output.call is not None:
            judged = self._of_call(output.call, output.place)
            if below(output.call, ("ParamRef",)):
                judged.others = ANY
            return judged
        if query is not None and query.kind == "values" and output.root is not None:
            index = query.outputs.index(output)
            parts = [
                self._node(row["List"]["items"][index], 0)
                for row in query.fields["valuesLists"]
                if index < len(row["List"].get("items", ()))
            ]
            judged = self._of_one_type(self.types.common([part.type for part in parts]), parts, parts)
            judged.level = ROW
            return told_in(judged, output)
        if output.root is not None:
            node = output.root.node
            if holds_aggregate(node) or self._makes_rows(node):
                # No condition outside meets the expression: the query around it is not taken apart (is_simple_subquery), and
                # nothing about this column is put into it (check_output_expressions).
                inside = self._node(node, 0)
                judged = Judged(inside.type, ROW, collations=inside.collations)
                judged.others = any_of(inside)
                return judged
            judged = copied(self._node(node, 0))
            judged.level = ROW
            return told_in(judged, output)
        if output.links:
            parts = [self.link(link) for link in output.links]
            judged = self._of_one_type(self.types.common([part.type for part in parts]), parts, parts)
            judged.level = ROW
            return told_in(judged, output)
        if output.target is not None:
            judged = copied(self._node(output.target["val"], 0))
            judged.level = ROW
            return told_in(judged, output)
        return Judged(None, ROW)

    def _makes_rows(self, node: Any) -> bool:
        """Whether an output has a function that returns a set, of PostgreSQL's own, outside its sub-selects."""
        for fields in below(node, _CALLS, ("SubLink",)):
            *schema, name = string_list(fields["funcname"])
            overloads = functions.builtin(name) if schema in ([], ["pg_catalog"]) else ()
            if not overloads or not all(overload.returns_set for overload in overloads):
                continue
            if self.catalog is None or not self.catalog.functions_named(name, None):
                return True
        return False

    def _of_call(self, call: Node, place: int) -> Judged:
        """A column of a function in FROM, which runs by itself; but an SQL function is put in place of its call."""
        fields = call.get("FuncCall")
        if fields is None:
            return Judged(None, ROW)
        *qualifier, name = string_list(fields["funcname"])
        schema = qualifier[-1] if qualifier else None
        mine = self.catalog.functions_named(name, schema) if self.catalog is not None else ()
        if mine and not functions.builtin(name):
            types = {function.returns for function in mine}
            type_ = self.types.named(*next(iter(types)).split(".", 1)) if len(types) == 1 else None
            known = place == 0 and all(len(function.output_names) <= 1 for function in mine)
            judged = Judged(type_ if known and self._is_scalar(type_) else None, ROW)
            judged.raises = any(function.language == "sql" for function in mine)
            return judged
        parts = [self._node(argument, 0) for argument in fields.get("args", ())]
        given = [part.type for part in parts if part.type is not None]
        if len(given) < len(parts):
            return Judged(None, ROW)
        type_ = self.calls.column(schema, name, given, place)
        return Judged(type_ if self._is_scalar(type_) else None, ROW)

    def _is_scalar(self, type_: Type | None) -> bool:
        """Whether a value of a type is one column: no row, and nothing that the call decides."""
        return type_ is not None and self.types.kind(type_) in ("a", "b", "e", "r", "m")


def _is_constant(output: Output) -> bool:
    """Whether it is a constant by itself, and not one of a set operation, where the other branches say of which type it is."""
    if output.target is None or (output.query is not None and _is_branch(output.query)):
        return False
    return "A_Const" in output.target["val"]


def _is_branch(query: Query) -> bool:
    return query.parent is not None and query.parent.kind == "setop" and query.clause is None


def _declared(statement: Statement, types: Types) -> list[Type | None]:
    """The parameter types that PREPARE gives."""
    if statement.command != "PrepareStmt":
        return []
    return [type_of_name(wrapped["TypeName"], types) for wrapped in statement.fields.get("argtypes", ())]


def type_of_name(fields: Node, types: Types) -> Type | None:
    """The type that a TypeName means, domains followed down; None where nobody knows."""
    names = type_name(fields)
    type_ = types.named(*names) if names is not None else None
    return types.array_of(type_) if fields.get("arrayBounds") else type_
