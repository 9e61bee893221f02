"""One walk over a query's tree: names resolved, every column followed, every call and every expression written down.

`Analysis` reads SELECT, VALUES, set operations, INSERT, UPDATE, DELETE and MERGE at any depth and fills a `Statement`.
It follows PostgreSQL's parse analysis (analyze.c, parse_clause.c, parse_relation.c): the same scopes in the same order. It is
built in layers, each on the one before: expressions, FROM, SELECT, and here the statements that write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from guarddb.sql.analysis.expressions import UnknownNode
from guarddb.sql.analysis.scope import CTE, Derived, Item, Scope, Source, Table, Unknown
from guarddb.sql.analysis.selects import Selects
from guarddb.sql.names import columns_in
from guarddb.sql.statement import Clause, Link, Output, Query, Root
from guarddb.tree import Node

__all__ = ["Analysis", "UnknownNode"]

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


class Analysis(Selects):
    """The walk over one statement."""

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

    def _dml(
        self, kind: Any, fields: Node, scope: Scope | None, parent: Query | None
    ) -> tuple[Query, Scope, Table | Unknown]:
        if not fields.keys() <= _DML_FIELDS:
            raise UnknownNode(f"{kind} with {sorted(fields.keys() - _DML_FIELDS)}")
        outer = Scope(scope, None)
        query = Query(kind, fields, parent)
        self.statement.queries.append(query)
        if "withClause" in fields:
            self._with(fields["withClause"], outer, query)
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
        names = [name for name, _, _ in target.columns() if name != "*"]
        proposed = Derived("excluded", [Output(name, query=query) for name in names])
        update = Scope(outer, query)
        update.items = [target, proposed if names else Unknown("excluded", None)]
        if clause.get("action") == "ONCONFLICT_UPDATE":
            self.statement.kinds.add("update")
            self._assignments(clause.get("targetList", ()), update, query)
            if "whereClause" in clause:
                self.expression(clause["whereClause"], update, query, "where")

    def _assignments(self, targets: Iterable[Node], scope: Scope, query: Query) -> None:
        source: Node | None = None
        for wrapped in targets:
            target = wrapped["ResTarget"]
            query.written.add(target["name"])
            if (assignment := target["val"].get("MultiAssignRef")) is not None:
                # (a, b) = (…): the JSON repeats the right side for each column. It is one, and is edited once.
                if assignment.get("colno", 1) == 1 or source is None:
                    source = assignment["source"]
                assignment["source"] = source
            if "indirection" in target:
                query.in_part.add(target["name"])
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
            query.filters_rows = self._picks_rows(fields["whereClause"], scope, query, "where")

    def _picks_rows(self, node: Node, scope: Scope, query: Query, clause: Clause) -> bool:
        """Read a condition; whether it holds a column of the statement's own relations, a correlated sub-select's included."""
        statement = self.statement
        roots, queries = len(statement.roots), len(statement.queries)
        root = self.expression(node, scope, query, clause)
        own = {id(query.target), *(id(reference) for reference in query.references)}
        derived = {
            id(link)
            for item in scope.items
            for source in item.sources()
            if isinstance(source, Derived)
            for _, found, _ in source.columns()
            for link in found
        }
        links: dict[int, list[Link]] = {}
        for each in statement.roots[roots:]:
            for link, column in each.uses:
                if column is not None:
                    links.setdefault(id(column), []).append(link)
        for inner in statement.queries[queries:]:
            for output in inner.outputs:
                if output.target is not None and "ColumnRef" in output.target["val"] and not output.star:
                    found = links.setdefault(id(output.target["val"]["ColumnRef"]), [])
                    found += (*output.links, *output.opaque)
        # A column counts when it can be nothing but the statement's own; of a name that is only guessed nobody knows.
        certain = {
            column
            for column, found in links.items()
            if found and all(id(k[0]) in own if isinstance(k, tuple) else id(k) in derived for k in found)
        }
        if any(isinstance(link, tuple) and column is None for link, column in root.uses):
            return True  # WHERE CURRENT OF
        return _asks_for(node, certain)

    def merge(self, fields: Node, scope: Scope | None, parent: Query | None) -> Query:
        self.statement.kinds.update(("insert", "update", "delete"))
        query, outer, target = self._dml("merge", fields, scope, parent)
        # A LATERAL source does not see the target, not even to be told so (transformMergeStmt).
        inner = Scope(outer, query)
        inner.items.append(self._from_item(fields["sourceRelation"], inner, outer, query, ()))
        inner.items.insert(0, target)
        join = fields["joinCondition"]
        query.filters_rows = self._picks_rows(join, inner, query, "on")
        # Where one side has no row, the clause does not see it (setNamespaceForMergeWhen).
        sides = {
            "MERGE_WHEN_NOT_MATCHED_BY_TARGET": inner.items[1:],
            "MERGE_WHEN_NOT_MATCHED_BY_SOURCE": inner.items[:1],
        }
        for wrapped in fields.get("mergeWhenClauses", ()):
            clause = wrapped["MergeWhenClause"]
            seen = Scope(outer, query)
            seen.items = list(sides.get(clause.get("matchKind", ""), inner.items))
            if "condition" in clause:
                self.expression(clause["condition"], seen, query, "merge")
            if clause.get("commandType") == "CMD_UPDATE":
                self._assignments(clause.get("targetList", ()), seen, query)
            elif clause.get("commandType") == "CMD_INSERT":
                columns = [c["ResTarget"]["name"] for c in clause.get("targetList", ())]
                query.written.update(columns or [c[0] for c in target.columns()])
                for node in clause.get("values", ()):
                    self.expression(node, seen, query, "set")
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

    def own_source(self, alias: str, schema: str | None) -> Source | None:
        # A sub-select of RETURNING sees them as well: they belong to this query and not to its target list.
        found = super().own_source(alias, schema)
        return found or (self._aliases.get(alias) if schema is None else None)


def _asks_for(node: Any, columns: set[int]) -> bool:
    """Whether a condition holds one of these columns in every way to be true: each arm of an OR needs one."""
    arms = node.get("BoolExpr", {})
    if arms.get("boolop") == "OR_EXPR":
        return all(_asks_for(arm, columns) for arm in arms["args"])
    if arms:
        return any(_asks_for(arm, columns) for arm in arms["args"])
    return bool(columns_in(node) & columns)


_DML: dict[str, Callable[[Analysis, Node, Scope | None, Query | None], Query]] = {
    "InsertStmt": Analysis.insert,
    "UpdateStmt": Analysis.update,
    "DeleteStmt": Analysis.delete,
    "MergeStmt": Analysis.merge,
}
