"""SELECT, VALUES and set operations: WITH, target lists, GROUP BY, ORDER BY and what belongs to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from guarddb.sql.analysis.expressions import NotJudged, UnknownNode
from guarddb.sql.analysis.from_clause import FromClause, unknown_columns
from guarddb.sql.analysis.scope import CTE, Scope, is_sure
from guarddb.sql.names import column_name, string_list
from guarddb.sql.statement import Clause, Open, Output, Query, QueryKind, Root
from guarddb.tree import Node

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


def _expands(node: Node) -> bool:
    """`t.*` or `(row).*` in a list of values: it becomes as many of them as the row has."""
    if "ColumnRef" in node:
        return "A_Star" in node["ColumnRef"]["fields"][-1]
    return "A_Indirection" in node and "A_Star" in node["A_Indirection"]["indirection"][-1]


#: PostgreSQL's own limit (MaxTupleAttributeNumber): stars over stars multiply, and must stop somewhere.
_MAX_COLUMNS = 1664


class Selects(FromClause):
    """The part of the analysis that reads queries which only read."""

    def select(
        self, fields: Node, scope: Scope | None, parent: Query | None, *, cte: CTE | None = None
    ) -> Query:
        if not fields.keys() <= _SELECT_FIELDS:
            raise UnknownNode(f"SelectStmt with {sorted(fields.keys() - _SELECT_FIELDS)}")
        operation = fields.get("op", "SETOP_NONE")
        kind: QueryKind = (
            "setop" if operation != "SETOP_NONE" else "values" if "valuesLists" in fields else "select"
        )
        query = Query(kind, fields, parent)
        self.statement.queries.append(query)
        outer = Scope(scope, None)
        if "withClause" in fields:
            self._with(fields["withClause"], outer, query)
        if kind == "setop":
            return self._set_operation(query, outer, cte)
        if kind == "values":
            return self._values(query, outer)
        inner = Scope(outer, query)
        for node in fields.get("fromClause", ()):
            inner.items.append(self._from_item(node, inner, outer, query, ()))
        self._targets(fields.get("targetList", ()), inner, query, "target")
        if "whereClause" in fields:
            self.expression(fields["whereClause"], inner, query, "where")
        self._grouping(fields, inner, query)
        self._ordering(fields, inner, query)
        return query

    def _values(self, query: Query, scope: Scope) -> Query:
        fields = query.fields
        for row, values in enumerate(fields["valuesLists"]):
            for i, node in enumerate(values["List"].get("items", ())):
                if row and "A_Const" in node:
                    continue  # it takes nothing and calls nothing, and there may be thousands
                root = self.expression(node, scope, query, "values")
                if row == 0:
                    output = Output(f"column{i + 1}", query=query)
                    if _expands(node):
                        output.name, output.open = "*", Open(None)
                    output.root = root
                    query.outputs.append(output)
                elif i < len(query.outputs) and root.uses:
                    first = query.outputs[i].root
                    assert first is not None
                    first.uses.extend(root.uses)
        self._ordering(fields, scope, query)
        return query

    def _set_operation(self, query: Query, scope: Scope, cte: CTE | None) -> Query:
        fields, statement = query.fields, self.statement
        operation = fields["op"]
        left = self.select(fields["larg"], scope, query)
        # The recursive term sees the columns of the first term under the CTE's name, so they exist before it is read.
        query.outputs = [_merged(output, query) for output in left.outputs]
        if cte is not None:
            cte.outputs = query.outputs
        right = self.select(fields["rarg"], scope, query)
        query.branches = (left, right)
        self._merge_branches(query, left, right)
        if not fields.get("all", False) or operation != "SETOP_UNION":
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
        cte.read = query
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
        cte.scope = None  # which holds the CTE: a circle less for Python's collector

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
                    if len(outputs) > _MAX_COLUMNS:
                        raise NotJudged(
                            f"a target list may have {_MAX_COLUMNS} columns at the most, and this one has more"
                        )
                    continue
                links, whole = self.resolve(column, scope)
                name = target.get("name") or fields[-1]["String"]["sval"]
                output = Output(name, target=target, query=query)
                if whole and len(fields) > 1:
                    output.root = self.expression(node, scope, query, clause)  # the function `name` of a row
                elif whole:
                    output.opaque = list(links)
                else:
                    output.links = list(links)
                    if len(links) > 1:
                        # (What USING merges is one column.)
                        *prefix, last = string_list(fields)
                        source = scope.source(prefix[-1]) if prefix else None
                        items = [source] if source is not None else scope.level_of(last)
                        output.spelled = (
                            sum(max(item.many(last), bool(item.find(last))) for item in items) <= 1
                        )
                reached = string_list(fields[:-1] or (fields if whole else ()))
                if reached and scope.is_ambiguous(*_qualifier(reached)):
                    output.spelled = False
                outputs.append(output)
                continue
            if (rows := self._row_star(node, scope, query, clause, target)) is not None:
                outputs.extend(rows)
                continue
            output = Output(target.get("name") or column_name(node), target=target, query=query)
            output.guessed = "name" not in target
            outputs.append(output)
            sublink = node.get("SubLink")
            if sublink is not None and sublink.get("subLinkType") == "EXPR_SUBLINK":
                inside = self.query(sublink["subselect"], scope, query)
                inside.clause = clause
                output.opaque = list(inside.outputs)
                continue
            output.root = self.expression(node, scope, query, clause)

    def _star(self, fields: list[Node], scope: Scope, query: Query, target: Node) -> list[Output]:
        parts = string_list(fields[:-1])
        if parts:
            source = scope.source(*_qualifier(parts))
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
                if output.open.reference is not None:
                    output.links = [(output.open.reference, "*")]
            outputs.append(output)
        self._spell(outputs, scope)
        if parts and scope.is_ambiguous(*_qualifier(parts)):
            for output in outputs:
                output.spelled = output.whole_item = False
        return outputs

    @staticmethod
    def _spell(outputs: list[Output], scope: Scope) -> None:
        """Find out how the columns of a star can be written one by one, or item by item."""
        counts = Counter(output.qualifier for output in outputs)
        reached = [source for item in scope.items for source in item.sources()]
        for qualifier, count in counts.items():
            named = [source for source in reached if source.alias == qualifier]
            if qualifier is None or len(named) > 1:
                continue
            # (OLD and NEW of RETURNING, and what a query further out has, are no items of this scope.)
            source = named[0] if named else scope.source(qualifier)
            partial = any(o.open is not None and o.open.partial for o in outputs if o.qualifier == qualifier)
            if source is not None and not partial and len(source.columns()) == count:
                for output in outputs:
                    output.whole_item = output.whole_item or output.qualifier == qualifier
        for output in outputs:
            if output.qualifier is not None:
                output.spelled = sum(source.alias == output.qualifier for source in reached) <= 1
                continue
            # A merged column: its bare name may mean another one as well.
            name = output.name
            meant = sum(max(item.many(name), bool(item.find(name))) for item in scope.items)
            if meant == 1 and not any(i.opens() for i in scope.items):
                continue
            merging = [join for item in scope.items for join in item.merging(name)]
            holder = merging[0].holder(name) if len(merging) == 1 else None
            output.spelled = holder is not None
            output.qualifier = holder.alias if holder is not None else None

    def _row_star(
        self, node: Node, scope: Scope, query: Query, clause: Clause, target: Node | None
    ) -> list[Output] | None:
        """`(row).*`: a column for each field of the row; all of them are made of it. None when the node is none."""
        indirection = node.get("A_Indirection", {})
        if not indirection or "A_Star" not in indirection["indirection"][-1]:
            return None
        root = self.expression(node, scope, query, clause)
        column = indirection["arg"].get("ColumnRef")
        source = None
        if column is not None and len(indirection["indirection"]) == 1:
            source = self._row_source(column, scope)
        if source is not None:
            columns = source.columns()
        else:
            columns = [("*", [unknown_columns(query)], None)]
        outputs = []
        for name, links, _ in columns:
            output = Output(name, target=target, query=query)
            output.root = root
            output.star = True
            if len(links) == 1 and isinstance(links[0], Output) and links[0].open is not None:
                output.open = Open(links[0].open.reference)
                output.open.made_of = output
                output.guessed = True
            outputs.append(output)
        return outputs

    def _unresolved_star(self, scope: Scope, query: Query, target: Node) -> Output:
        output = Output("*", self._unresolved("*", scope), target, query)
        output.star = True
        return output

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
            if "ColumnRef" in node or "A_Const" in node:
                for link, _ in root.uses:
                    # By its position or name an output stands for the column that it is a copy of.
                    own = isinstance(link, Output) and link.query is query
                    query.group_by.extend(link.links if own and isinstance(link, Output) else [link])
        if "havingClause" in fields:
            self.expression(fields["havingClause"], scope, query, "having")
        for window in fields.get("windowClause", ()):
            self._window(window["WindowDef"], scope, query)

    def _ordering(self, fields: Node, scope: Scope, query: Query) -> None:
        for node in fields.get("sortClause", ()):
            sort = node["SortBy"]
            self._sort_operator(sort)
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
        both = False
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
            matching = [output for output in query.outputs if output.name == name and output.open is None]
            # ORDER BY looks at output names first, GROUP BY at input columns first (findTargetlistEntrySQL92).
            if output_first:
                outputs, both = matching, all(output.guessed for output in matching)
            else:
                found = [link for item in scope.items for link in item.find(name) or ()]
                outputs = [] if any(map(is_sure, found)) else matching
                both = bool(found) or any(item.opens() for item in scope.items)
        if not outputs:
            return self.expression(node, scope, query, clause)
        root = Root(query, clause, node)
        root.uses = [(output, column) for output in outputs]
        if both and column is not None:
            # What the name means is not sure: it counts as the input column as well.
            root.uses += [(link, column) for link in self.resolve(column, scope)[0]]
        self.statement.roots.append(root)
        return root


def _qualifier(parts: list[str]) -> tuple[str, str | None]:
    """What stands before a column or a star: the item's name, and its schema."""
    return parts[-1], parts[-2] if len(parts) > 1 else None


def _merged(output: Output, query: Query) -> Output:
    merged = Output(output.name, [output], query=query)
    merged.open = output.open
    return merged
