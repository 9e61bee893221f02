"""FROM: relations, CTEs, subqueries, functions and joins, and the columns each brings into scope."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from guarddb.facts import functions
from guarddb.facts.columns import columns_of
from guarddb.sql.analysis.expressions import Expressions, NotJudged, UnknownNode
from guarddb.sql.analysis.item_types import POLYMORPHIC, ItemTypes
from guarddb.sql.analysis.scope import (
    CTE,
    AliasedUsing,
    Derived,
    Item,
    Join,
    JoinAlias,
    MergedAlias,
    Scope,
    Source,
    Table,
    Unknown,
)
from guarddb.sql.catalog import Function, Relation
from guarddb.sql.names import column_name, string_list
from guarddb.sql.statement import Call, Link, Mode, Open, Output, Query, Reference, Root, origins
from guarddb.tree import Node

#: The type of WITH ORDINALITY's column.
_BIGINT: Node = {"names": [{"String": {"sval": "pg_catalog"}}, {"String": {"sval": "int8"}}]}


class FromClause(Expressions):
    """The part of the analysis that reads FROM lists and resolves relation names."""

    @abstractmethod
    def _read_cte(self, cte: CTE) -> None:
        """Read a WITH query that is referred to before its turn."""

    def _from_item(
        self, node: Node, scope: Scope, outer: Scope, query: Query, joins: tuple[tuple[Node, str], ...]
    ) -> Item:
        ((name, fields),) = node.items()
        if name == "RangeVar":
            return self._range_var(node, fields, scope, query, joins)
        if name == "JoinExpr":
            return self._join(fields, scope, outer, query, joins)
        alias, aliases = _alias(fields)
        if name == "RangeSubselect":
            # Only LATERAL sees the items to its left.
            inside = self.query(fields["subquery"], scope if fields.get("lateral") else outer, query)
            inside.null_extended = _null_extended(joins, query)
            inside.joins = joins
            return self._mapped(Derived(alias, inside.outputs, aliases))
        if name == "RangeFunction":
            return self._range_function(fields, scope, query, alias, aliases)
        if name == "RangeTableSample":
            item = self._from_item(fields["relation"], scope, outer, query, joins)
            if isinstance(item, Table | Unknown) and item.reference is not None:
                item.reference.sample = node
            method = string_list(fields.get("method", ()))
            if method:
                self.statement.calls.append(
                    Call(method[-2] if len(method) > 1 else None, method[-1], 1, None, how="sample")
                )
            for argument in [
                *fields.get("args", ()),
                *([fields["repeatable"]] if "repeatable" in fields else ()),
            ]:
                self.expression(argument, outer, query, "sample")
            return item
        if name in ("RangeTableFunc", "JsonTable"):
            columns = self._table_function_columns(fields, scope, query)
            # (addRangeTableEntryForTableFunc)
            shown = alias or ("xmltable" if name == "RangeTableFunc" else "json_table")
            return self._mapped(Derived(shown, _typed(columns, query), aliases))
        raise UnknownNode(name)

    def _range_var(
        self, wrapper: Node, fields: Node, scope: Scope, query: Query, joins: tuple[tuple[Node, str], ...]
    ) -> Source:
        alias, aliases = _alias(fields)
        if "schemaname" not in fields and (cte := scope.cte(fields["relname"])) is not None:
            self._read_cte(cte)
            if (
                cte.read is not None
                and cte.read.target is not None
                and "returningClause" not in cte.read.fields
            ):
                # (What a filter checks of a written row it checks in RETURNING: then there would be something to read.)
                raise NotJudged(
                    f'the WITH query "{cte.name}" has no RETURNING clause, so that it cannot be read from',
                    "Write RETURNING behind it, or leave out what reads from it.",
                )
            if cte.read is not None and _null_extended(joins, query):
                cte.read.null_extended = True
            names = (*aliases, *cte.names[len(aliases) :])
            return self._mapped(Derived(alias or cte.name, cte.outputs, names))
        reference = self.reference(fields, "read", query, wrapper)
        reference.joins = joins
        query.references.append(reference)
        return self.source(reference)

    def reference(
        self, fields: Node, mode: Mode, query: Query | None, wrapper: Node | None = None
    ) -> Reference:
        """Write down one mention of a relation and resolve its name as the session would."""
        relation: Relation | None = None
        schema: str | None = fields.get("schemaname")
        name: str = fields["relname"]
        if mode == "ddl" and schema is None and fields.get("relpersistence") == "t":
            schema = "pg_temp"  # CREATE TEMP …, which no search path decides about
        found = (
            self.catalog.lookup(schema, name)
            if self.catalog is not None
            else functions.system_relation(schema, name)
        )
        if found is not None:
            schema, name = found.schema, found.name
            relation = found if isinstance(found, Relation) else None
        schema = schema or "public"
        alias, aliases = _alias(fields)
        reference = Reference(
            schema, name, relation, fields, mode, query, alias or fields["relname"], wrapper
        )
        reference.alias_columns = aliases or None
        self.statement.references.append(reference)
        return reference

    def source(self, reference: Reference) -> Table | Unknown:
        """The FROM item of a reference."""
        schema = None if "alias" in reference.node else reference.schema
        relation = reference.relation
        aliases = reference.alias_columns
        exact = True
        if relation is not None:
            names, kind = attribute_names(relation), str(relation.kind)
        else:
            system = functions.system_relation(reference.schema, reference.name)
            columns = None
            if system is not None and self.catalog is not None:
                columns = columns_of(system, self.catalog.server_version)
            exact = columns is not None
            if system is None or not system.columns or (aliases and not exact):
                reference.unmapped_alias = aliases is not None
                return Unknown(reference.alias, reference, schema)
            names, kind = {c: c for c in columns or system.columns}, system.kind
        reference.exact = exact
        pairs = None
        if aliases:
            pairs = [(aliases[i] if i < len(aliases) else a, a) for i, a in enumerate(names)]
        return Table(reference, names, schema, pairs, kind, exact=exact)

    @staticmethod
    def _mapped(source: Derived) -> Derived:
        """The same source; what its alias list may give another name, nobody knows which, is written down."""
        for link in source.unmapped():
            for reference, _ in origins(link):
                reference.unmapped_alias = True
        return source

    def _join(
        self, fields: Node, scope: Scope, outer: Scope, query: Query, joins: tuple[tuple[Node, str], ...]
    ) -> Item:
        left = self._from_item(fields["larg"], scope, outer, query, (*joins, (fields, "l")))
        scope.items.append(left)
        right = self._from_item(fields["rarg"], scope, outer, query, (*joins, (fields, "r")))
        scope.items.pop()
        merged: dict[str, list[Link]] = {}
        names = string_list(fields.get("usingClause", ()))
        if fields.get("isNatural", False):
            names = self._natural_names(left, right, query)
        if names:
            root = Root(query, "using", fields)
            self.statement.roots.append(root)
            self.statement.operators.add((None, "="))
            for column in names:
                links = [link for item in (left, right) for link in _links_of(item, column)]
                merged[column] = links
                root.compared.append(links)
                root.uses.extend((link, None) for link in links)
        if "quals" in fields:
            on = Scope(outer, query)
            on.items = [left, right]
            self.expression(fields["quals"], on, query, "on")
        kind = fields.get("jointype", "JOIN_INNER")
        join: Join
        if "join_using_alias" in fields:
            merged_alias = MergedAlias(fields["join_using_alias"]["aliasname"], merged)
            join = AliasedUsing(left, right, merged, kind, merged_alias)
        else:
            join = Join(left, right, merged, kind)
        join.unordered = fields.get("isNatural", False) and bool(left.opens() or right.opens())
        alias, aliases = _alias(fields)
        if alias is None:
            return join
        for source in join.sources():
            if isinstance(source, Table | Unknown) and source.reference is not None:
                source.reference.hidden_by_join_alias = True
        return self._mapped(JoinAlias(alias, join, aliases))

    def _natural_names(self, left: Item, right: Item, query: Query) -> list[str]:
        unknown = [o for o in left.opens() + right.opens() if o.reference is not None]
        if left.opens() or right.opens():
            # Which columns are compared nobody knows: it may be any of them.
            root = Root(query, "using", None)
            root.uses = [((o.reference, "*"), None) for o in unknown if o.reference is not None]
            root.uses += [
                (link, None) for item in (left, right) for _, links, _ in item.columns() for link in links
            ]
            self.statement.roots.append(root)
        right_names = {name for name, _, _ in right.visible()}
        names = [name for name, _, _ in left.visible() if name in right_names and name != "*"]
        return list(dict.fromkeys(names))

    def _range_function(
        self, fields: Node, scope: Scope, query: Query, alias: str | None, aliases: tuple[str, ...]
    ) -> Source:
        outputs: list[Output] = []
        for entry in fields.get("functions", ()):
            items = entry["List"]["items"]
            call = items[0]
            self.expression(call, scope, query, "function")
            found = self._function_columns(call, items[1:], alias, fields, scope)
            outputs += self._of_call(call, items[1:], found, query)
            if found is not None and (alias is not None or found != [_call_name(call)]):
                # Named by the alias, or by the type or the function itself: there certainly are such columns.
                for output in outputs[-len(found) :]:
                    output.guessed = False
        if "coldeflist" in fields:
            outputs = _typed([self._column_definition(c["ColumnDef"]) for c in fields["coldeflist"]], query)
        if fields.get("ordinality", False):
            outputs.append(Output("ordinality", query=query))  # certainly of this name, but for an alias list
            outputs[-1].type_name = _BIGINT
        shown = alias or _call_name(fields["functions"][0]["List"]["items"][0])
        if aliases and len(outputs) == 1 and outputs[0].open is not None:
            # Its alias list names the first of its columns, and there may be more.
            outputs = [*_guessed(aliases, query), *outputs]
        for output in outputs[: len(aliases)]:
            if output.open is not None:
                break
            output.guessed = False  # under this name there certainly is a column
        return self._mapped(Derived(shown, outputs, aliases))

    def _column_definition(self, fields: Node) -> tuple[str, Node | None]:
        if "typeName" in fields:
            self._type(fields["typeName"])
        return fields["colname"], fields.get("typeName")

    def _of_call(self, call: Node, rest: list[Any], found: list[str] | None, query: Query) -> list[Output]:
        """The columns of one function in FROM, with what tells their types."""
        if found is None:
            return [unknown_columns(query)]
        outputs = _guessed(found, query)
        definitions = _definitions(rest)
        if definitions:
            for output, definition in zip(outputs, definitions, strict=True):
                output.type_name = definition.get("typeName")
            return outputs
        fields = call.get("FuncCall", {})
        arguments = fields.get("args", ())
        for place, output in enumerate(outputs):
            output.call, output.place = call, place
            if self._is_several(fields) and len(arguments) == len(outputs):
                output.call, output.place = {"FuncCall": {**fields, "args": [arguments[place]]}}, 0
        return outputs

    def _is_several(self, fields: Node) -> bool:
        """unnest(a, b), which is written for ROWS FROM (unnest(a), unnest(b)) (transformRangeFunction)."""
        return (
            string_list(fields.get("funcname", ())) == ["unnest"]
            and len(fields.get("args", ())) > 1
            and not self.has_function("unnest")
        )

    def _function_columns(
        self, call: Node, rest: list[Any], alias: str | None, fields: Node, scope: Scope
    ) -> list[str] | None:
        """The column names of a function in FROM, or None when its result is not known."""
        definitions = _definitions(rest)
        if definitions:
            return [self._column_definition(each)[0] for each in definitions]
        name = column_name(call)
        single = alias if alias is not None and len(fields["functions"]) == 1 else name
        if "FuncCall" not in call:
            return self._expression_columns(call, single, scope)
        parts = string_list(call["FuncCall"]["funcname"])
        arguments = call["FuncCall"].get("args", ())
        if self._is_several(call["FuncCall"]):
            each = [self._unnested(argument, scope) for argument in arguments]
            return None if None in each else [name for names in each if names is not None for name in names]
        known = functions.builtin(parts[-1]) if len(parts) == 1 or parts[0] == "pg_catalog" else ()
        mine: Sequence[Function] = ()
        if self.catalog is not None and parts[0] != "pg_catalog":
            mine = self.catalog.functions_named(parts[-1], parts[-2] if len(parts) > 1 else None)
        shapes = {tuple(o.output_names) if o.output_names else (o.returns in POLYMORPHIC,) for o in known} | {
            self._shape(function) for function in mine
        }
        shape = next(iter(shapes)) if len(shapes) == 1 else (True,)
        if shape == (False,):
            return [single]
        if shape == (True,):
            return self._columns_of_type(self._types(scope).of(call), single)
        if not shape or not isinstance(shape[0], str) or "" in shape:
            return None
        if known and parts[-1].startswith("pg_"):
            return None  # what these tell differs between versions
        # One OUT parameter names the column as well, over the alias (chooseScalarFunctionAlias).
        return [str(n) for n in shape]

    def _shape(self, function: Function) -> tuple[str | bool, ...]:
        """The names of a user function's columns; (False,) for one scalar, (True,) where nobody knows."""
        if function.output_names:
            return function.output_names
        names = self._composite(function.returns)
        if names is not None:
            return names
        return (self._is_scalar(function.returns) is not True,)

    def _composite(self, type: str) -> tuple[str, ...] | None:
        """The attributes of a row type, by the qualified name of the type; of a domain over one as well."""
        if self.catalog is None:
            return None
        schema, _, name = type.partition(".")
        found = self.catalog.type_named(schema, name)
        if found is not None and found.kind == "d":
            schema, _, name = found.base_type.partition(".")
        relation = self.catalog.relation(schema, name)
        return None if relation is None else tuple(a.name for a in relation.attributes)

    def _is_scalar(self, type: str) -> bool | None:
        """Whether a type, by its qualified name, certainly is none that has columns."""
        schema, _, name = type.partition(".")
        if schema == "pg_catalog":
            return name not in POLYMORPHIC
        found = self.catalog.type_named(schema, name) if self.catalog is not None else None
        return found is not None and found.kind in "bermd" and self._composite(type) is None

    def _expression_columns(self, call: Node, single: str, scope: Scope) -> list[str] | None:
        """The columns of what stands in FROM in the syntax of a function: CAST, COALESCE, CURRENT_DATE …"""
        ((kind, _),) = call.items()
        if kind in ("SQLValueFunction", "XmlExpr", "XmlSerialize"):
            return [single]
        return self._columns_of_type(self._types(scope).of(call), single)

    def _columns_of_type(self, type: str | None, single: str) -> list[str] | None:
        """The columns of a FROM item of this type; None where nobody knows."""
        if type is None or type == "pg_catalog.record":
            return None
        composite = self._composite(type)
        if composite is not None:
            return list(composite)
        return [single] if type.endswith("[]") or self._is_scalar(type) else None

    def _unnested(self, array: Node, scope: Scope) -> list[str] | None:
        """The columns of one array of several that unnest() is given."""
        type = self._types(scope).of(array)
        if type is None or not type.endswith("[]"):
            return None
        return self._columns_of_type(type.removesuffix("[]"), "unnest")

    def _types(self, scope: Scope) -> ItemTypes:
        return ItemTypes(self.catalog, lambda column: self._type_of_column(column, scope))

    def _type_of_column(self, column: Node, scope: Scope) -> str | None:
        """The type of a column that is a bare copy of one of a table, or of a table's row."""
        links, _ = self.resolve(column, scope)
        while len(links) == 1 and isinstance(output := links[0], Output):
            if output.root is not None or output.opaque or output.open is not None or output.guessed:
                return None
            links = output.links
        if len(links) != 1 or not isinstance(link := links[0], tuple) or not link[0].exact:
            return None
        reference, name = link
        relation = reference.relation
        if relation is None:
            return None
        if name == "*":
            return f"{relation.schema}.{relation.name}"
        found = next((a.type for a in relation.attributes if a.name == name), None)
        return None if found is None else self._types(scope).of_attribute(found)

    def _table_function_columns(
        self, fields: Node, scope: Scope, query: Query
    ) -> list[tuple[str, Node | None]]:
        """XMLTABLE and JSON_TABLE: the expressions they take and the columns they make, with their types."""
        names: list[tuple[str, Node | None]] = []
        nested: list[tuple[str, Node | None]] = []
        root = Root(query, "function", fields)
        self.statement.roots.append(root)
        stack: list[tuple[Any, list[tuple[str, Node | None]]]] = [(fields, names)]
        while stack:
            value, into = stack.pop()
            if isinstance(value, list):
                stack.extend((item, into) for item in reversed(value))
                continue
            if not isinstance(value, dict):
                continue
            for key, child in value.items():
                if key in ("RangeTableFuncCol", "JsonTableColumn"):
                    is_nested = child.get("coltype") == "JTC_NESTED"
                    if (column := child.get("colname") or child.get("name")) and not is_nested:
                        into.append((column, child.get("typeName")))
                    if "typeName" in child:
                        self._type(child["typeName"])
                    # The columns of NESTED PATH come behind the plain ones (transformJsonTableColumns).
                    inner = {k: v for k, v in child.items() if k not in ("typeName",)}
                    stack.append((inner, nested if is_nested else into))
                elif key in ("alias", "coldeflist"):
                    continue
                elif key[0].isupper() and key not in (
                    "List",
                    "ResTarget",
                    "JsonTablePathSpec",
                    "JsonArgument",
                ):
                    self._walk({key: child}, scope, query, root)
                else:
                    stack.append((child, into))
        return names + nested


def unknown_columns(query: Query) -> Output:
    """All the columns of a function whose result nobody knows."""
    output = Output("*", query=query)
    output.open = Open(None)
    return output


def attribute_names(relation: Relation) -> dict[str, str]:
    """Visible name -> attribute name of a relation without an alias list; shared, not to be changed."""
    return {a.name: a.name for a in relation.attributes}


def _alias(fields: Node) -> tuple[str | None, tuple[str, ...]]:
    alias = fields.get("alias")
    if alias is None:
        return None, ()
    return alias.get("aliasname"), tuple(string_list(alias.get("colnames", ())))


def _null_extended(joins: tuple[tuple[Node, str], ...], query: Query) -> bool:
    """Whether a join on the way to a FROM item, or the grouping sets of its query, may put NULLs in its place."""
    if any("GroupingSet" in node for node in query.fields.get("groupClause", ())):
        return True
    nullable = {("JOIN_LEFT", "r"), ("JOIN_RIGHT", "l"), ("JOIN_FULL", "l"), ("JOIN_FULL", "r")}
    return any((join.get("jointype", "JOIN_INNER"), side) in nullable for join, side in joins)


def _links_of(item: Item, name: str) -> list[Link]:
    found = item.find(name)
    if found is not None:
        return found
    return [(o.reference, name) for o in item.opens() if o.reference is not None]


def _guessed(names: Iterable[str], query: Query) -> list[Output]:
    """The columns of a function, named by our reading of PostgreSQL's rules."""
    outputs = [Output(name, query=query) for name in names]
    for output in outputs:
        output.guessed = True
    return outputs


def _typed(columns: Iterable[tuple[str, Node | None]], query: Query) -> list[Output]:
    """Columns of a function whose types stand beside their names."""
    outputs = []
    for name, type_name in columns:
        output = Output(name, query=query)
        output.guessed, output.type_name = True, type_name
        outputs.append(output)
    return outputs


def _definitions(rest: list[Any]) -> list[Node]:
    """The column definitions of one function of ROWS FROM."""
    return [c["ColumnDef"] for item in rest if item for c in item.get("List", {}).get("items", ())]


def _call_name(call: Node) -> str | None:
    return column_name(call) if call else None
