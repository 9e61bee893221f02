"""One walk over a query's tree: names resolved, every column followed, every call and every expression written down.

`Analysis` reads SELECT, VALUES, set operations, INSERT, UPDATE, DELETE and MERGE at any depth and fills a `Statement`.
It follows PostgreSQL's parse analysis (analyze.c, parse_clause.c, parse_relation.c): the same scopes in the same order.
A node that it does not know stops the walk with `UnknownNode`: what is not understood is not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from guarddb.sql import functions
from guarddb.sql.catalog import Catalog, Relation
from guarddb.sql.names import column_name, string_list, type_name
from guarddb.sql.scope import (
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
from guarddb.sql.statement import Call, Clause, Link, Mode, Output, Query, Reference, Root, Statement, TypeUse
from guarddb.tree import Node


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
_SELECT_FIELDS = frozenset(
    [
        "distinctClause",
        "intoClause",
        "targetList",
        "fromClause",
        "whereClause",
        "groupClause",
        "groupDistinct",
        "havingClause",
        "windowClause",
        "valuesLists",
        "sortClause",
        "limitOffset",
        "limitCount",
        "limitOption",
        "lockingClause",
        "withClause",
        "op",
        "all",
        "larg",
        "rarg",
    ]
)
_DML_FIELDS = frozenset(
    [
        "relation",
        "cols",
        "selectStmt",
        "onConflictClause",
        "returningClause",
        "withClause",
        "override",
        "targetList",
        "whereClause",
        "fromClause",
        "usingClause",
        "sourceRelation",
        "joinCondition",
        "mergeWhenClauses",
    ]
)
_JOIN_CLAUSE: Clause = "using"


class Analysis:
    """The walk over one statement. `catalog` is None for a decision without one: every relation is then unknown."""

    def __init__(self, statement: Statement, catalog: Catalog | None) -> None:
        self.statement = statement
        self.catalog = catalog

    # ------------------------------------------------------------------ queries

    def query(
        self, wrapped: Node, scope: Scope | None, parent: Query | None, *, cte: CTE | None = None
    ) -> Query:
        """Read a wrapped query (`{"SelectStmt": {...}}`, or a DML statement)."""
        ((name, fields),) = wrapped.items()
        if name == "SelectStmt":
            return self.select(fields, scope, parent, cte=cte)
        reader = _DML.get(name)
        if reader is None:
            raise UnknownNode(name)
        return reader(self, fields, scope, parent)

    def select(
        self, fields: Node, scope: Scope | None, parent: Query | None, *, cte: CTE | None = None
    ) -> Query:
        if not fields.keys() <= _SELECT_FIELDS:
            raise UnknownNode(f"SelectStmt with {sorted(fields.keys() - _SELECT_FIELDS)}")
        statement = self.statement
        operation = fields.get("op", "SETOP_NONE")
        outer = Scope(scope, None)
        if "withClause" in fields:
            self._with(fields["withClause"], outer, parent)
        if operation != "SETOP_NONE":
            return self._set_operation(fields, outer, parent, cte)
        if "valuesLists" in fields:
            return self._values(fields, outer, parent)
        query = Query("select", fields, parent)
        statement.queries.append(query)
        inner = Scope(outer, query)
        for node in fields.get("fromClause", ()):
            inner.items.append(self._from_item(node, inner, outer, query, ()))
        self._targets(fields.get("targetList", ()), inner, query, "target")
        if "whereClause" in fields:
            self.expression(fields["whereClause"], inner, query, "where")
        self._grouping(fields, inner, query)
        self._ordering(fields, inner, query)
        return query

    def _values(self, fields: Node, scope: Scope, parent: Query | None) -> Query:
        query = Query("values", fields, parent)
        self.statement.queries.append(query)
        for row, values in enumerate(fields["valuesLists"]):
            for i, node in enumerate(values["List"].get("items", ())):
                root = self.expression(node, scope, query, "values")
                if row == 0:
                    output = Output(f"column{i + 1}", query=query)
                    output.root = root
                    query.outputs.append(output)
                elif i < len(query.outputs) and root.uses:
                    first = query.outputs[i].root
                    assert first is not None
                    first.uses.extend(root.uses)
        self._ordering(fields, scope, query)
        return query

    def _set_operation(self, fields: Node, scope: Scope, parent: Query | None, cte: CTE | None) -> Query:
        query = Query("setop", fields, parent)
        statement = self.statement
        statement.queries.append(query)
        left = self.select(fields["larg"], scope, query)
        # The recursive term sees the columns of the first term under the CTE's name, so they exist before it is read.
        query.outputs = [_merged(output, query) for output in left.outputs]
        if cte is not None:
            cte.outputs = query.outputs
        right = self.select(fields["rarg"], scope, query)
        query.branches = (left, right)
        self._merge_branches(query, left, right)
        if not fields.get("all", False):
            root = Root(query, "setop", None)
            root.uses = [(output, None) for output in query.outputs]
            statement.roots.append(root)
        self._ordering(fields, scope, query)
        return query

    @staticmethod
    def _merge_branches(query: Query, left: Query, right: Query) -> None:
        if any(o.open is not None for o in left.outputs) or any(o.open is not None for o in right.outputs):
            # Columns cannot be paired by position when one side's are unknown: each may be any of the other's.
            for output in query.outputs:
                output.links.extend(right.outputs)
            return
        for output, other in zip(query.outputs, right.outputs, strict=False):
            output.links.append(other)

    # ------------------------------------------------------------------ WITH

    def _with(self, clause: Node, scope: Scope, parent: Query | None) -> None:
        ctes: list[CTE] = []
        recursive = clause.get("recursive", False)
        for wrapped in clause.get("ctes", ()):
            fields = wrapped["CommonTableExpr"]
            cte = CTE(fields["ctename"], fields, tuple(string_list(fields.get("aliascolnames", ()))))
            cte.scope = scope
            cte.query = parent
            ctes.append(cte)
            if recursive:
                scope.ctes[cte.name] = cte
        for cte in ctes:
            self._read_cte(cte)
            # Without RECURSIVE a query sees the ones before it only; its own name is still the table's.
            scope.ctes[cte.name] = cte

    def _read_cte(self, cte: CTE) -> None:
        if cte.state != "waiting":
            return
        cte.state = "open"
        fields: Node = cte.fields
        parent, scope = cte.query, cte.scope
        query = self.query(fields["ctequery"], scope, parent, cte=cte)
        if not cte.outputs:
            cte.outputs = query.outputs
        if "search_clause" in fields:
            self._added_columns(
                cte, fields["search_clause"], "search_col_list", ("search_seq_column",), query
            )
        if "cycle_clause" in fields:
            clause = fields["cycle_clause"]
            self._added_columns(
                cte, clause, "cycle_col_list", ("cycle_mark_column", "cycle_path_column"), query
            )
        cte.state = "done"

    def _added_columns(
        self, cte: CTE, clause: Node, listed: str, added: tuple[str, ...], query: Query
    ) -> None:
        """SEARCH and CYCLE compare the listed columns and put them, whole, into a column of their own."""
        names = set(string_list(clause.get(listed, ())))
        shown = [cte.names[i] if i < len(cte.names) else o.name for i, o in enumerate(cte.outputs)]
        root = Root(query, "order", None)
        root.uses = [(o, None) for name, o in zip(shown, cte.outputs, strict=True) if name in names or o.open]
        self.statement.roots.append(root)
        outputs = list(cte.outputs)
        for key in added:
            output = Output(clause.get(key, "?"), query=query)
            output.root = root
            outputs.append(output)
        cte.outputs = outputs

    # ------------------------------------------------------------------ FROM

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
            if aliases and any(o.open is not None for o in inside.outputs):
                self._unmapped(inside.outputs)
            return Derived(alias, inside.outputs, aliases)
        if name == "RangeFunction":
            return self._range_function(fields, scope, query, alias, aliases)
        if name == "RangeTableSample":
            item = self._from_item(fields["relation"], scope, outer, query, joins)
            if isinstance(item, Table | Unknown) and item.reference is not None:
                item.reference.sampled = True
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
            names = self._table_function_columns(fields, scope, query)
            return Derived(alias, [Output(n, query=query) for n in names], aliases)
        raise UnknownNode(name)

    def _range_var(
        self, wrapper: Node, fields: Node, scope: Scope, query: Query, joins: tuple[tuple[Node, str], ...]
    ) -> Source:
        alias, aliases = _alias(fields)
        if "schemaname" not in fields and (cte := scope.cte(fields["relname"])) is not None:
            self._read_cte(cte)
            names = tuple(
                (aliases[i] if i < len(aliases) else cte.names[i] if i < len(cte.names) else output.name)
                for i, output in enumerate(cte.outputs)
            )
            if (aliases or cte.names) and any(o.open is not None for o in cte.outputs):
                self._unmapped(cte.outputs)
            return Derived(alias or cte.name, cte.outputs, names)
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

    @staticmethod
    def source(reference: Reference) -> Table | Unknown:
        """The FROM item of a reference."""
        schema = None if "alias" in reference.node else reference.schema
        relation = reference.relation
        aliases = reference.alias_columns
        if relation is None:
            system = functions.system_relation(reference.schema, reference.name)
            if system is not None and system.columns and not aliases:
                return Table(reference, {c: c for c in system.columns}, schema)
            reference.unmapped_alias = aliases is not None
            return Unknown(reference.alias, reference, schema)
        names = attribute_names(relation)
        if aliases:
            names = {(aliases[i] if i < len(aliases) else a): a for i, a in enumerate(names)}
        return Table(reference, names, schema)

    def _unmapped(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if output.open is not None and output.open.reference is not None:
                output.open.reference.unmapped_alias = True

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
                root.uses.extend((link, None) for link in links)
        if "quals" in fields:
            on = Scope(outer, query)
            on.items = [left, right]
            self.expression(fields["quals"], on, query, "on")
        join: Join
        if "join_using_alias" in fields:
            join = AliasedUsing(
                left, right, merged, MergedAlias(fields["join_using_alias"]["aliasname"], merged)
            )
        else:
            join = Join(left, right, merged)
        alias, aliases = _alias(fields)
        if alias is None:
            return join
        for source in join.sources():
            if isinstance(source, Table | Unknown) and source.reference is not None:
                source.reference.hidden_by_join_alias = True
        return JoinAlias(alias, join, aliases)

    def _natural_names(self, left: Item, right: Item, query: Query) -> list[str]:
        unknown = [o for o in left.opens() + right.opens() if o.reference is not None]
        if left.opens() or right.opens():
            # Which columns are compared nobody knows: it may be any of them.
            root = Root(query, _JOIN_CLAUSE, None)
            root.uses = [((o.reference, "*"), None) for o in unknown if o.reference is not None]
            root.uses += [
                (link, None) for item in (left, right) for _, links, _ in item.columns() for link in links
            ]
            self.statement.roots.append(root)
        right_names = {name for name, _, _ in right.columns()}
        return [name for name, _, _ in left.columns() if name in right_names and name != "*"]

    def _range_function(
        self, fields: Node, scope: Scope, query: Query, alias: str | None, aliases: tuple[str, ...]
    ) -> Source:
        names: list[str] | None = []
        for entry in fields.get("functions", ()):
            items = entry["List"]["items"]
            call = items[0]
            self.expression(call, scope, query, "function")
            found = self._function_columns(call, items[1:], alias, fields)
            names = None if names is None or found is None else names + found
        if "coldeflist" in fields:
            names = [self._column_definition(c["ColumnDef"]) for c in fields["coldeflist"]]
        if names is not None and fields.get("ordinality", False):
            names.append("ordinality")
        if names is None:
            # A function of unknown result: its alias list may name some of the columns, and there may be more.
            if aliases:
                return Derived(alias, [Output(n, query=query) for n in aliases])
            name = alias or _call_name(fields["functions"][0]["List"]["items"][0])
            return Unknown(name, None)
        shown = alias or _call_name(fields["functions"][0]["List"]["items"][0])
        return Derived(shown, [Output(n, query=query) for n in names], aliases)

    def _column_definition(self, fields: Node) -> str:
        if "typeName" in fields:
            self._type(fields["typeName"])
        name: str = fields["colname"]
        return name

    def _function_columns(
        self, call: Node, rest: list[Any], alias: str | None, fields: Node
    ) -> list[str] | None:
        """The column names of a function in FROM, or None when its result is not known."""
        definitions = [c for item in rest if item for c in item.get("List", {}).get("items", ())]
        if definitions:
            return [self._column_definition(c["ColumnDef"]) for c in definitions]
        name = _call_name(call)
        if name is None:
            return None
        single = alias if alias is not None and len(fields["functions"]) == 1 else name
        if "FuncCall" not in call:
            return [single]  # SQL-standard function syntax (COALESCE, CURRENT_DATE, CAST …): one scalar
        parts = string_list(call["FuncCall"]["funcname"])
        known = functions.builtin(parts[-1]) if len(parts) == 1 or parts[0] == "pg_catalog" else ()
        mine = self.catalog.functions_named(parts[-1], None) if self.catalog is not None else ()
        if known and not mine:
            shapes = {
                tuple(o.output_names) if o.output_names else (o.returns in ("record", "anyelement"),)
                for o in known
            }
            if len(shapes) == 1:
                (shape,) = shapes
                if shape == (False,):
                    return [single]
                if shape and isinstance(shape[0], str):
                    names = [str(n) for n in shape]
                    return [single] if len(names) == 1 else names
        return None

    def _table_function_columns(self, fields: Node, scope: Scope, query: Query) -> list[str]:
        """XMLTABLE and JSON_TABLE: the expressions they take and the columns they make."""
        names: list[str] = []
        root = Root(query, "function", fields)
        self.statement.roots.append(root)
        stack: list[Any] = [fields]
        while stack:
            value = stack.pop()
            if isinstance(value, list):
                stack.extend(reversed(value))
                continue
            if not isinstance(value, dict):
                continue
            for key, child in value.items():
                if key in ("RangeTableFuncCol", "JsonTableColumn"):
                    if (column := child.get("colname") or child.get("name")) and child.get(
                        "coltype"
                    ) != "JTC_NESTED":
                        names.append(column)
                    if "typeName" in child:
                        self._type(child["typeName"])
                    stack.append({k: v for k, v in child.items() if k not in ("typeName",)})
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
                    stack.append(child)
        return names

    # ------------------------------------------------------------------ target lists

    def _targets(self, targets: Iterable[Node], scope: Scope, query: Query, clause: Clause) -> None:
        outputs = query.outputs
        for wrapped in targets:
            target = wrapped["ResTarget"]
            node = target["val"]
            column = node.get("ColumnRef")
            if column is not None:
                fields = column["fields"]
                if "A_Star" in fields[-1]:
                    outputs.extend(self._star(fields, scope, query, target))
                    continue
                links, whole = self.resolve(column, scope)
                name = target.get("name") or fields[-1]["String"]["sval"]
                output = Output(name, target=target, query=query)
                if whole:
                    output.opaque = links
                else:
                    output.links = links
                outputs.append(output)
                continue
            output = Output(target.get("name") or column_name(node), target=target, query=query)
            outputs.append(output)
            sublink = node.get("SubLink")
            if sublink is not None and sublink.get("subLinkType") == "EXPR_SUBLINK":
                inside = self.query(sublink["subselect"], scope, query)
                output.opaque = list(inside.outputs)
                continue
            output.root = self.expression(node, scope, query, clause)

    def _star(self, fields: list[Node], scope: Scope, query: Query, target: Node) -> list[Output]:
        parts = string_list(fields[:-1])
        if parts:
            source = scope.source(parts[-1], parts[-2] if len(parts) > 1 else None)
            if source is None:
                return [self._unresolved_star(scope, query, target)]
            columns = source.columns()
        else:
            columns = [column for item in scope.items for column in item.columns()]
        outputs = []
        for name, links, qualifier in columns:
            output = Output(name, links, target, query)
            output.star = True
            output.qualifier = qualifier
            if len(links) == 1 and isinstance(links[0], Output) and links[0].open is not None:
                output.open = links[0].open
            outputs.append(output)
        return outputs

    def _unresolved_star(self, scope: Scope, query: Query, target: Node) -> Output:
        output = Output("*", self._any_column("*", scope), target, query)
        output.star = True
        return output

    # ------------------------------------------------------------------ GROUP BY, ORDER BY and the like

    def _grouping(self, fields: Node, scope: Scope, query: Query) -> None:
        stack = list(reversed(fields.get("groupClause", ())))
        while stack:
            node = stack.pop()
            if "GroupingSet" in node:
                stack.extend(reversed(node["GroupingSet"].get("content", ())))
                continue
            if "RowExpr" in node:
                stack.extend(reversed(node["RowExpr"].get("args", ())))
                continue
            root = self._by_name(node, scope, query, "group", output_first=False)
            query.group_by.extend(link for link, _ in root.uses if "ColumnRef" in node or "A_Const" in node)
        if "havingClause" in fields:
            self.expression(fields["havingClause"], scope, query, "having")
        for window in fields.get("windowClause", ()):
            self._window(window["WindowDef"], scope, query)

    def _ordering(self, fields: Node, scope: Scope, query: Query) -> None:
        for node in fields.get("sortClause", ()):
            sort = node["SortBy"]
            for part in sort.get("useOp", ()):
                self.statement.operators.add((None, part["String"]["sval"]))
            self._by_name(sort["node"], scope, query, "order", output_first=True)
        if "distinctClause" in fields:
            keys = [node for node in fields["distinctClause"] if node]
            for node in keys:
                self._by_name(node, scope, query, "distinct", output_first=True)
            if not keys:
                root = Root(query, "distinct", None)
                root.uses = [(output, None) for output in query.outputs]
                self.statement.roots.append(root)
        for key in ("limitCount", "limitOffset"):
            if key in fields:
                self.expression(fields[key], scope, query, "limit")
        if "lockingClause" in fields:
            self.statement.locks_rows = True

    def _by_name(self, node: Node, scope: Scope, query: Query, clause: Clause, *, output_first: bool) -> Root:
        """An item of ORDER BY, GROUP BY or DISTINCT ON: an output's position or name, an input column, an expression."""
        outputs: list[Output] = []
        constant = node.get("A_Const")
        if constant is not None and "ival" in constant:
            position = constant["ival"].get("ival", 0)
            if any(output.open is not None for output in query.outputs):
                outputs = query.outputs
            elif 0 < position <= len(query.outputs):
                outputs = [query.outputs[position - 1]]
        column = node.get("ColumnRef")
        if column is not None and len(column["fields"]) == 1 and "String" in column["fields"][0]:
            name = column["fields"][0]["String"]["sval"]
            # ORDER BY looks at output names first, GROUP BY at input columns first (findTargetlistEntrySQL92).
            if output_first or not any(item.find(name) for item in scope.items):
                outputs = [output for output in query.outputs if output.name == name and output.open is None]
        if not outputs:
            return self.expression(node, scope, query, clause)
        root = Root(query, clause, node)
        root.uses = [(output, column) for output in outputs]
        self.statement.roots.append(root)
        return root

    def _window(self, window: Node, scope: Scope, query: Query) -> None:
        for node in window.get("partitionClause", ()):
            self.expression(node, scope, query, "window")
        for node in window.get("orderClause", ()):
            self.expression(node["SortBy"]["node"], scope, query, "window")
        for key in ("startOffset", "endOffset"):
            if key in window:
                self.expression(window[key], scope, query, "window")

    # ------------------------------------------------------------------ expressions

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
                self._column(fields, scope, root)
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
            elif name == "TypeCast":
                self._type(fields["typeName"])
                stack.append(fields["arg"])
            elif name == "SubLink":
                self._sublink(fields, scope, query, root)
                if "testexpr" in fields:
                    stack.append(fields["testexpr"])
            elif name in _PLAIN_NODES:
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
            clause: Clause = "order" if root.clause in ("target", "returning") else root.clause
            self.expression(node["SortBy"]["node"], scope, query, clause)
        if "agg_filter" in fields:
            clause = "filter" if root.clause in ("target", "returning") else root.clause
            self.expression(fields["agg_filter"], scope, query, clause)

    def _sublink(self, fields: Node, scope: Scope, query: Query | None, root: Root) -> None:
        inside = self.query(fields["subselect"], scope, query)
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
        root.uses.extend((output, None) for output in inside.outputs)
        if "output" in fields:
            stack.append(fields["output"])

    def _json_aggregate(
        self, fields: Node, scope: Scope, query: Query | None, root: Root, stack: list[Any]
    ) -> None:
        constructor = fields.get("constructor", {})
        self._call(_as_call(constructor), scope, query, root)
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
            links = source.find(name) or [
                (o.reference, name) for o in source.opens() if o.reference is not None
            ]
            if not links:
                self._attribute_call(name, source, root)
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

    def _attribute_call(self, name: str, source: Source, root: Root) -> None:
        self.statement.calls.append(Call(None, name, 1, None, how="attribute"))
        root.uses.extend((link, None) for link in source.whole_row())

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

    def _column(self, column: Node, scope: Scope, root: Root) -> None:
        if "A_Star" in column["fields"][-1]:
            # count(t.*), row_to_json(t.*): the whole row
            parts = string_list(column["fields"][:-1])
            source = scope.source(parts[-1], parts[-2] if len(parts) > 1 else None) if parts else None
            links = source.whole_row() if source is not None else self._any_column("*", scope)
        else:
            links, _ = self.resolve(column, scope, root)
        root.uses.extend([(link, column) for link in links])

    def resolve(self, column: Node, scope: Scope, root: Root | None = None) -> tuple[list[Link], bool]:
        """What a ColumnRef means: its links, and whether it is a whole row."""
        fields = column["fields"]
        if len(fields) == 1:
            name = fields[0]["String"]["sval"]
            links = scope.column(name)
            source = scope.source(name)
            if links is not None:
                if source is None or scope.has_column(name):
                    return links, False
                # Where columns are unknown, a table's name may be a column's or stand for its row: it counts as both.
                return links + source.whole_row(), True
            if source is not None:
                return source.whole_row(), True
            return self._any_column(name, scope), False
        parts = string_list(fields)
        source = scope.source(parts[-2], parts[-3] if len(parts) > 2 else None)
        if source is None:
            return self._any_column(parts[-1], scope), False
        found = source.find(parts[-1])
        if found is not None:
            return found, False
        opens = source.opens()
        if opens:
            return [(o.reference, parts[-1]) for o in opens if o.reference is not None], False
        # No such column: PostgreSQL now tries the function parts[-1](row).
        self.statement.calls.append(Call(None, parts[-1], 1, None, how="attribute"))
        return source.whole_row(), True

    def _any_column(self, name: str, scope: Scope) -> list[Link]:
        """A name that resolves to nothing we know: it counts as a column of every relation in sight."""
        links: list[Link] = []
        walk: Scope | None = scope
        while walk is not None:
            for item in walk.items:
                for source in item.sources():
                    if isinstance(source, Table | Unknown) and source.reference is not None:
                        links.append((source.reference, name))
            walk = walk.parent
        return links

    # ------------------------------------------------------------------ INSERT, UPDATE, DELETE, MERGE

    def _dml(
        self, kind: Any, fields: Node, scope: Scope | None, parent: Query | None
    ) -> tuple[Query, Scope, Table | Unknown]:
        if not fields.keys() <= _DML_FIELDS:
            raise UnknownNode(f"{kind} with {sorted(fields.keys() - _DML_FIELDS)}")
        outer = Scope(scope, None)
        if "withClause" in fields:
            self._with(fields["withClause"], outer, parent)
        query = Query(kind, fields, parent)
        self.statement.queries.append(query)
        reference = self.reference(fields["relation"], kind, query)
        query.target = reference
        return query, outer, self.source(reference)

    def insert(self, fields: Node, scope: Scope | None, parent: Query | None) -> Query:
        self.statement.kinds.add("insert")
        query, outer, target = self._dml("insert", fields, scope, parent)
        columns = [c["ResTarget"]["name"] for c in fields.get("cols", ())]
        for wrapped in fields.get("cols", ()):
            self._indices(wrapped["ResTarget"], outer, query)
        source_wrapped = fields.get("selectStmt")
        if source_wrapped is not None:
            source = self.query(source_wrapped, outer, query)
            root = Root(query, "write", source_wrapped)
            root.uses = [(output, None) for output in source.outputs]
            self.statement.roots.append(root)
        names = columns or [c[0] for c in target.columns()]
        query.written.update(names)
        if "onConflictClause" in fields:
            self._on_conflict(fields["onConflictClause"], target, outer, query)
        self._returning(fields, [target], outer, query)
        return query

    def _on_conflict(self, clause: Node, target: Table | Unknown, outer: Scope, query: Query) -> None:
        scope = Scope(outer, query)
        scope.items = [target]
        infer = clause.get("infer", {})
        for wrapped in infer.get("indexElems", ()):
            element = wrapped["IndexElem"]
            if "name" in element:
                links = target.find(element["name"])
                root = Root(query, "conflict", element)
                root.uses = [(link, None) for link in (links or self._any_column(element["name"], scope))]
                self.statement.roots.append(root)
            if "expr" in element:
                self.expression(element["expr"], scope, query, "conflict")
        if "whereClause" in infer:
            self.expression(infer["whereClause"], scope, query, "conflict")
        # EXCLUDED is the row the agent proposed: nothing of it was in the table.
        proposed = Derived(
            "excluded", [Output(name, query=query) for name, _, _ in target.columns() if name != "*"]
        )
        update = Scope(outer, query)
        update.items = [target, proposed if proposed.outputs else Unknown("excluded", None)]
        if clause.get("action") == "ONCONFLICT_UPDATE":
            self.statement.kinds.add("update")
            self._assignments(clause.get("targetList", ()), update, query)
            if "whereClause" in clause:
                self.expression(clause["whereClause"], update, query, "where")

    def _assignments(self, targets: Iterable[Node], scope: Scope, query: Query) -> None:
        for wrapped in targets:
            target = wrapped["ResTarget"]
            query.written.add(target["name"])
            self._indices(target, scope, query)
            self.expression(target["val"], scope, query, "set")

    def _indices(self, target: Node, scope: Scope, query: Query) -> None:
        for step in target.get("indirection", ()):
            if "A_Indices" in step:
                self.expression(step, scope, query, "set")

    def update(self, fields: Node, scope: Scope | None, parent: Query | None) -> Query:
        self.statement.kinds.add("update")
        query, outer, target = self._dml("update", fields, scope, parent)
        inner = self._dml_from(fields.get("fromClause", ()), target, outer, query)
        self._assignments(fields.get("targetList", ()), inner, query)
        self._condition(fields, inner, query)
        self._returning(fields, inner.items, outer, query)
        return query

    def delete(self, fields: Node, scope: Scope | None, parent: Query | None) -> Query:
        self.statement.kinds.add("delete")
        query, outer, target = self._dml("delete", fields, scope, parent)
        inner = self._dml_from(fields.get("usingClause", ()), target, outer, query)
        self._condition(fields, inner, query)
        self._returning(fields, inner.items, outer, query)
        return query

    def _dml_from(self, items: Iterable[Node], target: Source, outer: Scope, query: Query) -> Scope:
        inner = Scope(outer, query)
        inner.items = [target]
        for node in items:
            inner.items.append(self._from_item(node, inner, outer, query, ()))
        return inner

    def _condition(self, fields: Node, scope: Scope, query: Query) -> None:
        if "whereClause" in fields:
            root = self.expression(fields["whereClause"], scope, query, "where")
            query.filters_rows = self._mentions(fields["whereClause"], scope) or any(
                isinstance(link, tuple) and link[0] is query.target for link, _ in root.uses
            )

    def _mentions(self, node: Any, scope: Scope) -> bool:
        """Whether a condition holds a column of the relations in `scope` itself (a sub-select's own columns do not count)."""
        stack = [node]
        while stack:
            value = stack.pop()
            if isinstance(value, list):
                stack.extend(value)
            elif isinstance(value, dict):
                if "ColumnRef" in value and self._is_own_column(value["ColumnRef"], scope):
                    return True
                if "SubLink" in value:
                    # a correlated sub-select names the outer relation by its alias, or by a column that only it has
                    stack.extend(v for k, v in value["SubLink"].items() if k == "testexpr")
                    if self._correlated(value["SubLink"]["subselect"], scope):
                        return True
                    continue
                stack.extend(v for v in value.values() if isinstance(v, dict | list))
        return False

    def _is_own_column(self, column: Node, scope: Scope) -> bool:
        parts = [f["String"]["sval"] for f in column["fields"] if "String" in f]
        if len(parts) != len(column["fields"]):
            return False
        if len(parts) > 1:
            return any(s.alias == parts[-2] for item in scope.items for s in item.sources())
        return any(item.find(parts[0]) or item.opens() for item in scope.items)

    def _correlated(self, subselect: Node, scope: Scope) -> bool:
        aliases = {s.alias for item in scope.items for s in item.sources()}
        stack: list[Any] = [subselect]
        while stack:
            value = stack.pop()
            if isinstance(value, list):
                stack.extend(value)
            elif isinstance(value, dict):
                if "ColumnRef" in value:
                    parts = [f["String"]["sval"] for f in value["ColumnRef"]["fields"] if "String" in f]
                    if len(parts) > 1 and parts[-2] in aliases:
                        return True
                else:
                    stack.extend(v for v in value.values() if isinstance(v, dict | list))
        return False

    def merge(self, fields: Node, scope: Scope | None, parent: Query | None) -> Query:
        self.statement.kinds.update(("insert", "update", "delete"))
        query, outer, target = self._dml("merge", fields, scope, parent)
        inner = self._dml_from([fields["sourceRelation"]], target, outer, query)
        join = fields["joinCondition"]
        self.expression(join, inner, query, "on")
        query.filters_rows = self._mentions(join, inner)
        for wrapped in fields.get("mergeWhenClauses", ()):
            clause = wrapped["MergeWhenClause"]
            if "condition" in clause:
                self.expression(clause["condition"], inner, query, "merge")
            if clause.get("commandType") == "CMD_UPDATE":
                self._assignments(clause.get("targetList", ()), inner, query)
            elif clause.get("commandType") == "CMD_INSERT":
                columns = [c["ResTarget"]["name"] for c in clause.get("targetList", ())]
                query.written.update(columns or [c[0] for c in target.columns()])
                for node in clause.get("values", ()):
                    self.expression(node, inner, query, "set")
        # RETURNING of MERGE sees the source first, then the target (transformMergeStmt).
        self._returning(fields, [*inner.items[1:], inner.items[0]], outer, query)
        return query

    def _returning(self, fields: Node, items: list[Item], outer: Scope, query: Query) -> None:
        clause = fields.get("returningClause")
        if clause is None:
            return
        scope = Scope(outer, query)
        scope.items = list(items)
        # PostgreSQL 18: old.x and new.x, or other names given by WITH (OLD AS o, NEW AS n). Both are the target's columns.
        names = {"RETURNING_OPTION_OLD": "old", "RETURNING_OPTION_NEW": "new"}
        for wrapped in clause.get("options", ()):
            option = wrapped["ReturningOption"]
            names[option.get("option", "RETURNING_OPTION_OLD")] = option["value"]
        targets = scope.items
        self._targets(
            clause.get("exprs", ()), _ReturningScope(outer, query, targets, names, self), query, "returning"
        )


class _ReturningScope(Scope):
    """The scope of RETURNING: the statement's items, and OLD and NEW by qualified name only."""

    __slots__ = ("_aliases",)

    def __init__(
        self, parent: Scope, query: Query, items: list[Item], names: dict[str, str], analysis: Analysis
    ) -> None:
        super().__init__(parent, query)
        self.items = items
        target = query.target
        assert target is not None
        self._aliases: dict[str, Source] = {}
        for alias in names.values():
            source = analysis.source(target)
            source.alias = alias
            source.schema = None
            self._aliases[alias] = source

    def source(self, alias: str, schema: str | None = None) -> Source | None:
        for item in self.items:
            for source in item.sources():
                if source.alias == alias and (schema is None or source.schema == schema):
                    return source
        if schema is None and alias in self._aliases:
            return self._aliases[alias]
        return self.parent.source(alias, schema) if self.parent is not None else None


_DML: dict[str, Callable[[Analysis, Node, Scope | None, Query | None], Query]] = {
    "InsertStmt": Analysis.insert,
    "UpdateStmt": Analysis.update,
    "DeleteStmt": Analysis.delete,
    "MergeStmt": Analysis.merge,
}

_SPECIAL: dict[str, Callable[[Analysis, Node, Scope, Query | None, Root, list[Any]], None]] = {
    "A_Indirection": Analysis._indirection,
    "CurrentOfExpr": Analysis._current_of,
    "MultiAssignRef": Analysis._assignment_source,
    "JsonArrayQueryConstructor": Analysis._array_query,
    "JsonObjectAgg": Analysis._json_aggregate,
    "JsonArrayAgg": Analysis._json_aggregate,
}


def attribute_names(relation: Relation) -> dict[str, str]:
    """Visible name -> attribute name of a relation without an alias list; shared, not to be changed."""
    return {a.name: a.name for a in relation.attributes}


def _alias(fields: Node) -> tuple[str | None, tuple[str, ...]]:
    alias = fields.get("alias")
    if alias is None:
        return None, ()
    return alias.get("aliasname"), tuple(string_list(alias.get("colnames", ())))


def _merged(output: Output, query: Query) -> Output:
    merged = Output(output.name, [output], query=query)
    merged.open = output.open
    return merged


def _links_of(item: Item, name: str) -> list[Link]:
    found = item.find(name)
    if found is not None:
        return found
    return [(o.reference, name) for o in item.opens() if o.reference is not None]


def _call_name(call: Node) -> str | None:
    return column_name(call) if call else None


def _as_call(constructor: Node) -> Node:
    """A JSON aggregate's constructor, seen as the FuncCall whose FILTER, ORDER BY and OVER it has."""
    return {"funcname": [{"String": {"sval": "json_agg"}}], **constructor}
