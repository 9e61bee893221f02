"""Expressions: every column they use, every function, operator and type in them.

The walk is iterative and knows its nodes: one that it has not heard of stops it with `UnknownNode`, because what is not
understood is not judged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from guarddb.facts import functions
from guarddb.sql.analysis.scope import CTE, Scope, Source, Table, Unknown, is_sure, of_open
from guarddb.sql.catalog import Catalog
from guarddb.sql.names import string_list, type_name
from guarddb.sql.statement import Call, Clause, Link, Output, Query, Reference, Root, Statement, TypeUse
from guarddb.tree import Node

#: Among so many relations a name that none of them has is not looked for further: it would take time with their product.
_MANY_SOURCES = 64


#: Types of arguments that take a row of any relation.
_ROWS_OF_ANY = frozenset(
    f"pg_catalog.{name}"
    for name in ("record", "any", "anyelement", "anynonarray", "anycompatible", "anycompatiblenonarray")
)


class NotJudged(Exception):
    """A statement that is understood and cannot be judged. `args`: why, and what to write instead if that can be said."""


class UnknownNode(Exception):
    """The tree holds a node that the analysis does not know."""


#: Expression nodes that need no treatment of their own: their children are walked, whatever they are.
_PLAIN_NODES = frozenset(
    [
        "BoolExpr",
        "CaseExpr",
        "CaseWhen",
        "CoalesceExpr",
        "MinMaxExpr",
        "NullTest",
        "BooleanTest",
        "A_ArrayExpr",
        "RowExpr",
        "XmlExpr",
        "XmlSerialize",
        "GroupingFunc",
        "CollateClause",
        "NamedArgExpr",
        "JsonObjectConstructor",
        "JsonArrayConstructor",
        "JsonKeyValue",
        "JsonValueExpr",
        "JsonFuncExpr",
        "JsonArgument",
        "JsonBehavior",
        "JsonParseExpr",
        "JsonScalarExpr",
        "JsonSerializeExpr",
        "JsonIsPredicate",
        "JsonOutput",
        "JsonFormat",
        "JsonReturning",
        "JsonTablePathSpec",
        "List",
        "A_Indices",
        "ResTarget",
        "SortBy",
        "GroupingSet",
    ]
)
#: SQL/JSON constructors render values as JSON, by a type's own cast to json where it has one.
_JSON_CONSTRUCTORS = frozenset(
    ("JsonObjectConstructor", "JsonArrayConstructor", "JsonScalarExpr", "JsonSerializeExpr")
)
_LEAVES = frozenset(
    [
        "A_Const",
        "ParamRef",
        "SQLValueFunction",
        "SetToDefault",
        "MergeSupportFunc",
        "A_Star",
        "String",
        "Integer",
        "Float",
        "Boolean",
        "BitString",
    ]
)
#: Struct fields that stand unwrapped in a node, under the field's own name.
_PLAIN_STRUCTS = frozenset(
    [
        "output",
        "format",
        "returning",
        "raw_expr",
        "formatted_expr",
        "context_item",
        "pathspec",
        "on_empty",
        "on_error",
        "constructor",
        "arg",
        "typeName",
    ]
)


class Expressions(ABC):
    """The part of the analysis that reads expressions. `catalog` is None for a decision without one."""

    def __init__(self, statement: Statement, catalog: Catalog | None) -> None:
        self.statement = statement
        self.catalog = catalog
        self._counting: set[int] = set()

    @abstractmethod
    def query(
        self, wrapped: Node, scope: Scope | None, parent: Query | None, *, cte: CTE | None = None
    ) -> Query:
        """Read a query inside an expression; the whole analysis knows how."""

    def expression(self, node: Any, scope: Scope, query: Query | None, clause: Clause) -> Root:
        """Walk one expression; every column it uses is written to its Root."""
        root = Root(query, clause, node)
        self.statement.roots.append(root)
        self._walk(node, scope, query, root)
        return root

    def _walk(self, node: Any, scope: Scope, query: Query | None, root: Root) -> None:
        stack: list[Any] = [node]
        while stack:
            value = stack.pop()
            if type(value) is list:
                stack.extend(value)
                continue
            if len(value) != 1:
                # A struct without a wrapper, reached by its field: its children count.
                for key, child in value.items():
                    if key == "typeName":
                        self._type(child)
                    elif type(child) is dict or type(child) is list:
                        stack.append(child)
                continue
            ((name, fields),) = value.items()
            if name in _LEAVES:
                continue
            if name == "ColumnRef":
                self._column(value, fields, scope, root)
            elif name == "A_Expr":
                self._operator(fields)
                if "lexpr" in fields:
                    stack.append(fields["lexpr"])
                if "rexpr" in fields:
                    stack.append(fields["rexpr"])
            elif name == "FuncCall":
                self._call(fields, scope, query, root)
                if "args" in fields:
                    stack.extend(fields["args"])
                    self._note_count(fields)
            elif name == "TypeCast":
                self._type(fields["typeName"])
                stack.append(fields["arg"])
            elif name == "SubLink":
                self._sublink(fields, scope, query, root)
                if "testexpr" in fields:
                    stack.append(fields["testexpr"])
            elif name in _PLAIN_NODES:
                if name == "CaseExpr" and "arg" in fields:
                    self.statement.operators.add((None, "="))  # CASE x WHEN y compares them
                elif name in _JSON_CONSTRUCTORS:
                    self.statement.types.append(TypeUse("pg_catalog", "json"))
                for key, child in fields.items():
                    if key == "typeName":
                        self._type(child)
                    elif type(child) is dict or type(child) is list:
                        stack.append(child)
            elif name in _SPECIAL:
                _SPECIAL[name](self, fields, scope, query, root, stack)
            elif name in _PLAIN_STRUCTS and type(fields) is dict:
                if name == "typeName":
                    self._type(fields)
                else:
                    stack.append(fields)
            elif name[0].islower():
                if type(fields) in (dict, list):
                    stack.append(fields)
            else:
                raise UnknownNode(name)

    def _operator(self, fields: Node) -> None:
        kind = fields.get("kind", "AEXPR_OP")
        operators = self.statement.operators
        if kind.endswith(("BETWEEN", "BETWEEN_SYM")):
            operators.update(((None, ">="), (None, "<=")))
            return
        parts = string_list(fields["name"])
        operators.add((parts[-2] if len(parts) > 1 else None, parts[-1]))

    def _call(self, fields: Node, scope: Scope, query: Query | None, root: Root) -> None:
        parts = string_list(fields["funcname"])
        arguments = fields.get("args", ())
        self.statement.calls.append(
            Call(parts[-2] if len(parts) > 1 else None, parts[-1], len(arguments), fields)
        )
        if "over" in fields and query is not None:
            self._window(fields["over"], scope, query)
        for node in fields.get("agg_order", ()):
            self._sort_operator(node["SortBy"])
            clause: Clause = "order" if root.clause in ("target", "returning") else root.clause
            self.expression(node["SortBy"]["node"], scope, query, clause)
        if "agg_filter" in fields:
            clause = "filter" if root.clause in ("target", "returning") else root.clause
            self.expression(fields["agg_filter"], scope, query, clause)

    def _note_count(self, fields: Node) -> None:
        """Remember the argument of a count() that is PostgreSQL's own and asks for nothing else."""
        arguments = fields["args"]
        if (
            string_list(fields["funcname"]) in (["count"], ["pg_catalog", "count"])
            and len(arguments) == 1
            and "ColumnRef" in arguments[0]
            and not fields.get("agg_distinct", False)
            and "agg_order" not in fields
            and not self.has_function("count")
        ):
            self._counting.add(id(arguments[0]["ColumnRef"]))

    def _sort_operator(self, sort: Node) -> None:
        """ORDER BY … USING names an operator."""
        parts = string_list(sort.get("useOp", ()))
        if parts:
            self.statement.operators.add((parts[-2] if len(parts) > 1 else None, parts[-1]))

    def _window(self, window: Node, scope: Scope, query: Query) -> None:
        for node in window.get("partitionClause", ()):
            self.expression(node, scope, query, "window")
        for node in window.get("orderClause", ()):
            self._sort_operator(node["SortBy"])
            self.expression(node["SortBy"]["node"], scope, query, "window")
        for key in ("startOffset", "endOffset"):
            if key in window:
                self.expression(window[key], scope, query, "window")

    def _sublink(self, fields: Node, scope: Scope, query: Query | None, root: Root) -> None:
        inside = self.query(fields["subselect"], scope, query)
        inside.clause = root.clause
        for part in fields.get("operName", ()):
            self.statement.operators.add((None, part["String"]["sval"]))
        if fields.get("subLinkType") == "ANY_SUBLINK" and "operName" not in fields:
            self.statement.operators.add((None, "="))
        if fields.get("subLinkType", "EXISTS_SUBLINK") == "EXISTS_SUBLINK":
            inside.in_exists = True
            return
        root.uses.extend((output, None) for output in inside.outputs)

    def _array_query(
        self, fields: Node, scope: Scope, query: Query | None, root: Root, stack: list[Any]
    ) -> None:
        inside = self.query(fields["query"], scope, query)
        inside.clause = root.clause
        self.statement.types.append(TypeUse("pg_catalog", "json"))
        root.uses.extend((output, None) for output in inside.outputs)
        if "output" in fields:
            stack.append(fields["output"])

    def _json_aggregate(
        self, fields: Node, scope: Scope, query: Query | None, root: Root, stack: list[Any]
    ) -> None:
        constructor = fields.get("constructor", {})
        self._call(_as_call(constructor), scope, query, root)
        self.statement.types.append(TypeUse("pg_catalog", "json"))
        stack.extend(v for k, v in fields.items() if k != "constructor" and type(v) in (dict, list))
        if "output" in constructor:
            stack.append(constructor["output"])

    def _indirection(
        self, fields: Node, scope: Scope, query: Query | None, root: Root, stack: list[Any]
    ) -> None:
        argument = fields["arg"]
        column = argument.get("ColumnRef")
        steps = fields.get("indirection", ())
        rest = steps
        links: list[Link] = []
        if (
            column is not None
            and (source := self._row_source(column, scope)) is not None
            and "String" in steps[0]
        ):
            # (u).x is u.x; and when u has no x, it is x(u).
            name = steps[0]["String"]["sval"]
            links, _ = self._member(source, name)
            root.uses.extend((link, column) for link in links)
            rest = steps[1:]
        else:
            stack.append(argument)
        for step in rest:
            if "String" in step:
                self.statement.calls.append(Call(None, step["String"]["sval"], 1, None, how="field"))
            elif "A_Indices" in step:
                stack.append(step)

    def _row_source(self, column: Node, scope: Scope) -> Source | None:
        """The FROM item when a ColumnRef is a whole row of it."""
        fields = column["fields"]
        if len(fields) != 1 or "String" not in fields[0]:
            return None
        name = fields[0]["String"]["sval"]
        if scope.column(name):
            return None
        return scope.source(name)

    def has_function(self, name: str) -> bool:
        """Whether the database has a function of its users' of this name."""
        return self.catalog is not None and bool(self.catalog.functions_named(name, None))

    def _may_take_a_row(self, name: str, source: Source) -> bool:
        """Whether `row.name`, where the row has no such column, may be name(row): a function or a cast."""
        if self.catalog is None or functions.takes_a_row(name):
            return True
        relation = source.reference.relation if isinstance(source, Table) else None
        type = self.catalog.type_named(None, name)
        if relation is None:
            return self.has_function(name) or (type is not None and type.kind in "cd")
        # The types that a row of the relation is of: its own, and those of what it inherits from.
        above = [each for oid in relation.ancestors if (each := self.catalog.by_oid(oid)) is not None]
        rows = {f"{each.schema}.{each.name}" for each in (relation, *above)}
        if any(cast.source in rows for cast in self.catalog.casts):
            return True
        for function in self.catalog.functions_named(name, None):
            takes = function.arguments[0] if function.arguments else ""
            if takes in rows or takes in _ROWS_OF_ANY or self._is_domain(takes):
                return True
        # A cast to its own type, or to a domain over that; to a built-in type there is none in this form (func_get_detail).
        return type is not None and (type.kind == "d" or f"{type.schema}.{type.name}" in rows)

    def _is_domain(self, type: str) -> bool:
        assert self.catalog is not None
        schema, _, name = type.partition(".")
        found = self.catalog.type_named(schema, name) if schema != "pg_catalog" else None
        return found is not None and found.kind == "d"

    def _member(self, source: Source, name: str) -> tuple[list[Link], bool]:
        """What `source.name` means: its column, or else the function `name` of its row; and whether it is the row.

        Nothing where it certainly is neither: PostgreSQL says so, and it knows the names that are near.
        """
        found = source.find(name)
        if found is not None and not _is_guessed(found):
            return found, False
        opens = source.opens()
        # Whether it is a column nobody knows for certain; if it is none, it is a function of the row.
        self.statement.calls.append(Call(None, name, 1, None, how="attribute"))
        maybe = [of_open(o, name) for o in opens if o.reference is not None or o.made_of is not None]
        maybe += found or []
        if not self._may_take_a_row(name, source):
            return maybe, False
        return maybe + source.whole_row(), True

    def _current_of(
        self, fields: Node, scope: Scope, query: Query | None, root: Root, stack: list[Any]
    ) -> None:
        # WHERE CURRENT OF names one row: the target's own.
        if query is not None and query.target is not None:
            root.uses.append(((query.target, "ctid"), None))
            query.target.system_columns = True

    def _assignment_source(
        self, fields: Node, scope: Scope, query: Query | None, root: Root, stack: list[Any]
    ) -> None:
        # (a, b) = (SELECT …) stands once for each column; once is enough.
        if fields.get("colno", 1) == 1:
            stack.append(fields["source"])

    def _type(self, fields: Node) -> None:
        names = type_name(fields)
        if names is not None:
            self.statement.types.append(TypeUse(*names))

    def _column(self, node: Node, column: Node, scope: Scope, root: Root) -> None:
        if "A_Star" in column["fields"][-1]:
            # count(t.*), row_to_json(t.*): the whole row
            parts = string_list(column["fields"][:-1])
            source = scope.source(parts[-1], parts[-2] if len(parts) > 1 else None) if parts else None
            links = source.whole_row() if source is not None else self._unresolved("*", scope)
        else:
            links, _ = self.resolve(column, scope, root)
        if (
            len(links) == 1
            and isinstance(links[0], tuple)
            and links[0][1] == "*"
            and links[0][0].query is root.query
            # (An aggregate over a row further out belongs to the query of that row.)
            and self._is_counted(node, column, links[0][0])
        ):
            return
        root.uses.extend([(link, column) for link in links])

    def _is_counted(self, node: Node, column: Node, reference: Reference) -> bool:
        """Write down where rows of a relation are only counted: count(t), count(t.*), and t.count, which is count(t).

        How many rows there are says nothing of what is in them: it is no use of the row.
        """
        name = column["fields"][-1].get("String", {}).get("sval")
        if id(column) in self._counting:
            self.statement.row_counts.append((node, reference, "{}"))
            return True
        if name == "count" and len(column["fields"]) > 1 and not self.has_function("count"):
            self.statement.row_counts.append((node, reference, "pg_catalog.count({})"))
            return True
        return False

    def resolve(self, column: Node, scope: Scope, root: Root | None = None) -> tuple[list[Link], bool]:
        """What a ColumnRef means: its links, and whether it is a whole row."""
        fields = column["fields"]
        if len(fields) == 1:
            name = fields[0]["String"]["sval"]
            links = scope.column(name)
            if links and is_sure(links[0]):
                return links, False
            source = scope.source(name)
            if links is not None:
                if source is None or scope.has_column(name):
                    return links, False
                # Where columns are unknown, a table's name may be a column's or stand for its row: it counts as both.
                return links + source.whole_row(), True
            if source is not None:
                return source.whole_row(), True
            return self._unresolved(name, scope), False
        parts = string_list(fields)
        source = scope.source(parts[-2], parts[-3] if len(parts) > 2 else None)
        if source is None:
            return self._unresolved(parts[-1], scope), False
        return self._member(source, parts[-1])

    def _unresolved(self, name: str, scope: Scope) -> list[Link]:
        """A name that nothing in sight has. With a catalog it is PostgreSQL's to say so (42703, 42P01): it means nothing."""
        return self._any_column(name, scope) if self.catalog is None else []

    def _any_column(self, name: str, scope: Scope) -> list[Link]:
        """A name that resolves to nothing we know: it counts as a column of every relation in sight."""
        links: list[Link] = []
        walk: Scope | None = scope
        if sum(1 for item in scope.items for _ in item.sources()) > _MANY_SOURCES:
            raise NotJudged(f'none of the many relations is known to have a column "{name}"')
        while walk is not None:
            links.extend(
                (source.reference, name)
                for item in walk.items
                for source in item.sources()
                if isinstance(source, Table | Unknown) and source.reference is not None
            )
            walk = walk.parent
        return links


_SPECIAL: dict[str, Callable[[Expressions, Node, Scope, Query | None, Root, list[Any]], None]] = {
    "A_Indirection": Expressions._indirection,
    "CurrentOfExpr": Expressions._current_of,
    "MultiAssignRef": Expressions._assignment_source,
    "JsonArrayQueryConstructor": Expressions._array_query,
    "JsonObjectAgg": Expressions._json_aggregate,
    "JsonArrayAgg": Expressions._json_aggregate,
}


def _is_guessed(links: list[Link]) -> bool:
    for link in links:  # noqa: SIM110 (asked of every column: a generator would cost as much as the rest)
        if isinstance(link, Output) and link.guessed:
            return True
    return False


def _as_call(constructor: Node) -> Node:
    """A JSON aggregate's constructor, seen as the FuncCall whose FILTER, ORDER BY and OVER it has."""
    return {"funcname": [{"String": {"sval": "json_agg"}}], **constructor}
