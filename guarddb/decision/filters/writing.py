"""Row filters written into a statement: a filtered relation shows only the rows for which the predicate is true.

Three ways to write a filter into a statement, from the cheapest:

- *plainly*, ANDed to the query's WHERE or to the join's ON, where none of the statement's own conditions on that relation can
  raise an error. Indexes, GROUP BY on a primary key, ctid and whole rows keep working.
- *fenced*, as a subquery with OFFSET 0 in the relation's place: PostgreSQL evaluates nothing of the outside below it.
- *guarded*, as `CASE WHEN predicate THEN condition END` around the conditions that could raise, where the relation cannot
  become a subquery: the target of UPDATE and DELETE, a query that groups by the primary key or asks for ctid.

What fits none of them is refused: `row_filter_unsafe`.
"""

from __future__ import annotations

from guarddb.decision.filters.rule import unsafe as _unsafe
from guarddb.decision.masks.writing import Targets
from guarddb.decision.on_catalog import CompiledPolicy, Governance, RelationRules
from guarddb.decision.refusal import Refusal
from guarddb.sql.analysis.classify import read_statement
from guarddb.sql.analysis.hazards import (
    Hazard,
    conjuncts,
    hazards,
    holds_sublink,
    is_null_extended,
    plain_conjuncts,
)
from guarddb.sql.catalog import Catalog, Relation
from guarddb.sql.names import literal, quote
from guarddb.sql.rewriting.rewriter import RewriteError, Rewriter
from guarddb.sql.statement import Link, Output, Query, Reference, Root, Statement, origins
from guarddb.tree import Node, parse

MARKER = "guarddb:row_filter_violation:"
_RETURNING_FOR_MERGE = 170000


class _Conditions:
    """What one WHERE or ON gets: conditions that are ANDed to it, and guards for its parts (-1: for all of it)."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.guards: dict[int, list[str]] = {}

    def guard(self, part: int, condition: str) -> None:
        found = self.guards.setdefault(part, [])
        if condition not in found:
            found.append(condition)

    @property
    def condition(self) -> str | None:
        return _joined(self.texts) if self.texts else None


class FilterWriter:
    """Writes the filters of one statement. `refusal` is set when one finds no safe place."""

    def __init__(
        self,
        statement: Statement,
        policy: CompiledPolicy,
        governance: Governance,
        rewriter: Rewriter,
        targets: Targets,
        catalog: Catalog | None,
    ) -> None:
        self.statement = statement
        self.policy = policy
        self.governance = governance
        self.rewriter = rewriter
        self.targets = targets
        self.catalog = catalog
        self.where: dict[int, tuple[Query, _Conditions]] = {}
        self.on: dict[int, tuple[Node, _Conditions]] = {}
        self.shown: list[str] = []
        self.hidden_returning = False
        self._hazards: list[Hazard] | None = None

    def write(self) -> Refusal | None:
        """Place every filter, then make the edits."""
        # MODE ddl: CREATE VIEW stores the text as it is; what reads the view later is seen through.
        if self.statement.command == "ViewStmt":
            return None
        for reference in self.statement.references:
            rules = self.governance.rules(reference)
            if reference.mode == "ddl" or not (rules.filters or rules.needs_inlining):
                continue
            if reference.mode == "copy":
                continue  # the caller turns COPY table into COPY (query)
            refusal = self._place(reference, rules)
            if refusal is not None:
                return refusal
        if "explain" in self.statement.kinds and self.shown:
            # Estimates come from statistics over all rows, the hidden ones among them.
            self.rewriter.explain_without_costs(self.statement.fields, self.statement.location)
        for query, conditions in self.where.values():
            guards = {part: _joined(texts) for part, texts in conditions.guards.items()}
            self.rewriter.add_condition(query, conditions.condition, guards)
        for join, conditions in self.on.values():
            guard = _joined(conditions.guards[-1]) if conditions.guards else None
            self.rewriter.add_on(join, conditions.condition, guard)
        return None

    def _show(self, rules: RelationRules) -> None:
        for predicate in rules.filters:
            if predicate.shown not in self.shown:
                self.shown.append(predicate.shown)

    def _place(self, reference: Reference, rules: RelationRules) -> Refusal | None:
        self._show(rules)
        if reference.mode == "read":
            if rules.needs_inlining:
                return self._inline(reference, rules)
            return self._read(reference, rules)
        if reference.mode in ("update", "delete"):
            return self._target(reference, rules)
        if reference.mode == "insert":
            return self._check_new_row(reference, rules)
        if reference.mode == "merge":
            return self._merge(reference, rules)
        return _unsafe(reference, f"it is used for {reference.mode}")

    # ------------------------------------------------------------------ reads

    def _read(self, reference: Reference, rules: RelationRules) -> Refusal | None:
        unsafe = self._unsafe(reference)
        if not unsafe and self._plainly(reference, rules):
            return None
        needs_base = self._needs_base(reference)
        if not needs_base and self._fence(reference, rules, fence=bool(unsafe)):
            return None
        if self._guarded(reference, rules, unsafe):
            return None
        if (
            reference.whole_row
            and not reference.system_columns
            and not self._grouped_by_key(reference)
            and self._fence(reference, rules, fence=bool(unsafe))
        ):
            return None
        return _unsafe(
            reference,
            "a condition that can raise an error would run on hidden rows",
            "Compare columns with constants only, or put the condition into an outer query over a subquery.",
        )

    def _unsafe(self, reference: Reference) -> list[Hazard]:
        """What could raise on a row of the relation that its filter hides."""
        if self._hazards is None:
            self._hazards = hazards(self.statement)
        mine = [hazard for hazard in self._hazards if reference in hazard.references]
        if self._becomes_a_join(self.governance.rules(reference)):
            return mine
        # A predicate without a sub-select is asked at the scan; what is LATERAL in FROM comes after that.
        return [hazard for hazard in mine if hazard.at_scan]

    def _becomes_a_join(self, rules: RelationRules) -> bool:
        """Whether a filter of the relation, or of what a view reads, has a sub-select: the planner may make it a join."""
        if any(predicate.has_sublink for predicate in rules.filters):
            return True
        for schema, name in rules.seen_through if self.catalog is not None else ():
            assert self.catalog is not None
            below = self.catalog.relation(schema, name)
            if below is not None and any(p.has_sublink for p in self.governance.rules_for(below).filters):
                return True
        return False

    def _needs_base(self, reference: Reference) -> bool:
        """ctid and other system columns, whole rows, GROUP BY on the primary key, TABLESAMPLE: only a table has these."""
        if reference.system_columns or reference.whole_row or reference.wrapper is None:
            return True
        return self._grouped_by_key(reference)

    def _grouped_by_key(self, reference: Reference) -> bool:
        """GROUP BY on the primary key lets the other columns stand ungrouped, of a table only."""
        query, relation = reference.query, reference.relation
        if query is None or relation is None or not relation.primary_key:
            return False
        grouped = {link[1] for link in query.group_by if isinstance(link, tuple) and link[0] is reference}
        if not grouped or not grouped >= set(relation.primary_key):
            return False
        used = [link for output in query.outputs for link in (*output.links, *output.opaque)]
        used += [
            link
            for root in self.statement.roots
            if root.query is not query or root.clause in ("target", "having", "order", "window", "distinct")
            for link, _ in root.uses
        ]
        # A sub-select of the target list looks at the row as well.
        used += [
            k
            for q in self.statement.queries
            if q is not query
            for o in q.outputs
            for k in (*o.links, *o.opaque)
        ]
        return any(
            isinstance(link, tuple) and link[0] is reference and link[1] not in grouped for link in used
        )

    def _condition(self, reference: Reference, rules: RelationRules) -> str | None:
        """The filter as a condition on the reference's alias; None where a name in it could be captured."""
        names: dict[str, str] | None = None
        if reference.alias_columns:
            relation = reference.relation
            if relation is None:
                return None
            aliases = reference.alias_columns
            names = {a.name: aliases[i] for i, a in enumerate(relation.attributes) if i < len(aliases)}
            seen = [names.get(a.name, a.name) for a in relation.attributes]
            if any(seen.count(names.get(c, c)) > 1 for p in rules.filters for c in p.columns):
                return None  # two columns of one name: PostgreSQL would call it ambiguous
        for predicate in rules.filters:
            if not predicate.bound or reference.alias in predicate.inner_names:
                return None
        return _joined([p.text(reference.alias, names) for p in rules.filters])

    def _plainly(self, reference: Reference, rules: RelationRules, *, only_where: bool = False) -> bool:
        """AND the filter to the query's WHERE, or to the ON below which the relation may be null-extended."""
        query = reference.query
        condition = self._condition(reference, rules)
        if (
            condition is None
            or query is None
            or reference.hidden_by_join_alias
            or self._alias_twice(reference, query)
        ):
            return False
        place = _join_place(reference)
        if place is None:
            return False
        if place == "where":
            if query.kind not in ("select", "update", "delete"):
                return False
            self._where(query).texts.append(condition)
            return True
        if only_where:
            return False
        assert isinstance(place, dict)
        self._join(place).texts.append(condition)
        return True

    @staticmethod
    def _renamed_row(reference: Reference) -> bool:
        """A whole row under an alias list: a table's keeps the attributes' names, a subquery's takes the aliases."""
        return reference.whole_row and reference.alias_columns is not None

    @staticmethod
    def _attributes(reference: Reference) -> dict[str, str]:
        """The name a column has under the reference's alias -> its attribute."""
        relation = reference.relation
        if relation is None or not reference.alias_columns:
            return {}
        return dict(zip(reference.alias_columns, (a.name for a in relation.attributes), strict=False))

    @staticmethod
    def _alias_twice(reference: Reference, query: Query) -> bool:
        """PostgreSQL refuses the same alias twice in one FROM, but not inside an aliased join."""
        return sum(1 for other in query.references if other.alias == reference.alias) > 1 or (
            query.target is not None and query.target.alias == reference.alias
        )

    def _where(self, query: Query) -> _Conditions:
        return self.where.setdefault(id(query), (query, _Conditions()))[1]

    def _join(self, join: Node) -> _Conditions:
        return self.on.setdefault(id(join), (join, _Conditions()))[1]

    def _fence(self, reference: Reference, rules: RelationRules, *, fence: bool) -> bool:
        """Put `(SELECT * FROM relation WHERE predicate OFFSET 0)` in the relation's place."""
        if reference.wrapper is None or self._renamed_row(reference):
            return False
        name = self.rewriter.relation_text(reference)
        alias = rules.filters[0].own_name
        for predicate in rules.filters:
            if not predicate.bound and predicate.own_name != alias:
                return False
        texts = [p.text(alias) if p.bound else p.source.text for p in rules.filters]
        offset = " OFFSET 0" if fence else ""
        if fence and reference.query is not None and _join_place(reference) == "where":
            # As below native row security: plain conditions go in as well, so that they find their index.
            for index, _ in plain_conjuncts(reference.query, self.statement, reference):
                texts += self.rewriter.copied_conjunct(
                    reference.query, index, alias, self._attributes(reference)
                )
        rest = f"WHERE {_joined(texts)}{offset}"
        if reference.sample is not None:
            self.rewriter.replace_sample(reference, alias, rest)
        else:
            self.rewriter.replace_relation(reference, f"SELECT * FROM {name} AS {quote(alias)} {rest}")
        return True

    def _guarded(self, reference: Reference, rules: RelationRules, unsafe: list[Hazard]) -> bool:
        """AND the filter to WHERE, and let what can raise run only where it is true."""
        query = reference.query
        condition = self._condition(reference, rules)
        if query is None or condition is None or _join_place(reference) != "where":
            return False
        guards = self._guards(reference, query, unsafe)
        if guards is None or not self._plainly(reference, rules, only_where=True):
            return False
        for conditions, part in guards:
            conditions.guard(part, condition)
        return True

    def _guards(
        self, reference: Reference, query: Query, unsafe: list[Hazard]
    ) -> list[tuple[_Conditions, int]] | None:
        """Where each hazard gets its guard; None when one has no place for it."""
        found: list[tuple[_Conditions, int]] = []
        where = query.fields.get("whereClause")
        parts = conjuncts(where) if where is not None else []
        for hazard in unsafe:
            root = hazard.root
            if root.query is query and root.clause == "where":
                own = [i for i, part in enumerate(parts) if part is hazard.node]
                found += [(self._where(query), i) for i in own or [-1]]
            elif root.query is query and root.clause == "on":
                join = next((j for j, _ in reference.joins if j.get("quals") is root.node), None)
                if join is None or join.get("jointype", "JOIN_INNER") != "JOIN_INNER":
                    return None
                found.append((self._join(join), -1))
            elif self._inside_where(root, query):
                found += [(self._where(query), i) for i, part in enumerate(parts) if holds_sublink(part)]
            elif root.clause == "where" and root.query is not None and self._sees(root.query, reference):
                # LATERAL in FROM: the row is in scope in there, by its alias.
                inner = conjuncts(root.query.fields.get("whereClause"))
                own = [i for i, part in enumerate(inner) if part is hazard.node]
                found += [(self._where(root.query), i) for i in own or [-1]]
            else:
                return None
        return found

    @staticmethod
    def _sees(inner: Query, reference: Reference) -> bool:
        """Whether a query inside the reference's own reaches it by its alias, with no other of that name in between."""
        query: Query | None = inner
        while query is not None and query is not reference.query:
            if query.kind != "select" or not query.references:
                return False
            aliases = query.fields.get("fromClause", ())
            if any(name == reference.alias for name in _aliases(aliases)):
                return False
            query = query.parent
        return query is not None

    @staticmethod
    def _inside_where(root: Root, query: Query) -> bool:
        """Whether an expression stands in a sub-select of the query's own WHERE."""
        inner = root.query
        while inner is not None and inner.parent is not query:
            inner = inner.parent
        return inner is not None and inner.clause == "where"

    # ------------------------------------------------------------------ views

    def _inline(self, reference: Reference, rules: RelationRules) -> Refusal | None:
        """Put a view's definition in its place, with the filters inside."""
        if reference.wrapper is None or reference.sample is not None or reference.system_columns:
            return _unsafe(reference, "the view cannot be replaced by its definition here")
        if self._renamed_row(reference):
            return _unsafe(
                reference,
                "its whole row is used under other column names",
                "Leave out the alias column list.",
            )
        relation = reference.relation
        assert relation is not None
        try:
            text = inlined_view(relation, self.policy, self.catalog)
        except RewriteError as ex:
            return _unsafe(reference, str(ex))
        early = _join_place(reference) != "where" or is_null_extended(reference.query)
        if (
            self._unsafe(reference)
            or self._asks_for_computed(reference, rules)
            # Below an outer join the view's own expressions may be computed before a filter that became a join.
            or (early and self._becomes_a_join(rules))
        ):
            text = f"SELECT * FROM ({text}) AS {quote(relation.name)} OFFSET 0"
        if rules.filters:
            alias = rules.filters[0].own_name
            if any(not p.bound for p in rules.filters):
                return _unsafe(reference, "its own filter has a sub-select that cannot be tied to the view")
            condition = _joined([p.text(alias) for p in rules.filters])
            text = f"SELECT * FROM ({text}) AS {quote(alias)} WHERE {condition} OFFSET 0"
        below = self.governance
        for schema, name in rules.seen_through:
            found = self.catalog.relation(schema, name) if self.catalog is not None else None
            if found is not None:
                self._show(below.rules_for(found))
        self.rewriter.replace_relation(reference, text)
        return None

    def _asks_for_computed(self, reference: Reference, rules: RelationRules) -> bool:
        """Whether a condition uses a column that the view computes: pulled up, it is the expression itself."""
        relation, definition = reference.relation, rules.definition
        if relation is None or definition is None or definition.top is None:
            return True
        copied = {
            attribute.name
            for attribute, output in zip(relation.attributes, definition.top.outputs, strict=False)
            if self._is_copy(output)
        }
        return any(
            origin[0] is reference and origin[1] not in copied
            for root in self.statement.roots
            if root.clause not in ("target", "returning", "write", "set")
            for link, _ in root.uses
            for origin in origins(link)
        )

    def _is_copy(self, output: Output) -> bool:
        """Whether a view's column is a bare column of a table, through whatever views and subqueries."""
        stack: list[Link] = [output]
        seen: set[int] = set()
        while stack:
            item = stack.pop()
            if not isinstance(item, tuple):
                if id(item) in seen:
                    continue
                seen.add(id(item))
                if item.root is not None or item.opaque or not item.links:
                    return False
                stack.extend(item.links)
                continue
            relation = item[0].relation
            if relation is not None and relation.definition is not None:
                below = self.governance.rules(item[0]).definition
                if below is None or below.top is None:
                    return False
                names = [a.name for a in relation.attributes]
                if item[1] not in names or len(below.top.outputs) != len(names):
                    return False
                stack.append(below.top.outputs[names.index(item[1])])
        return True

    # ------------------------------------------------------------------ writes

    def _target(self, reference: Reference, rules: RelationRules) -> Refusal | None:
        query = reference.query
        assert query is not None
        condition = self._condition(reference, rules)
        where = query.fields.get("whereClause", {})
        if condition is None or "CurrentOfExpr" in where:
            return _unsafe(reference, "the filter has no place in this WHERE")
        guards = self._guards(reference, query, self._unsafe(reference))
        if guards is None:
            return _unsafe(reference, "a condition that can raise an error would run on hidden rows")
        self._where(query).texts.append(condition)
        for conditions, part in guards:
            conditions.guard(part, condition)
        if reference.mode == "update":
            return self._check_new_row(reference, rules)
        return None

    def _check_new_row(self, reference: Reference, rules: RelationRules) -> Refusal | None:
        """Let RETURNING raise for a written row that the filter would hide: the server undoes the statement."""
        query = reference.query
        assert query is not None
        if query.kind == "insert":
            refusal = self._conflict(reference, rules, query)
            if refusal is not None:
                return refusal
        if query.kind == "update" and not self._may_leave(reference, rules, query):
            return None
        condition = self._condition(reference, rules)
        if condition is None:
            return _unsafe(reference, "the filter cannot be asked of the rows this writes")
        check = _check(condition, reference)
        return self._check_written(reference, query, check)

    def _may_leave(self, reference: Reference, rules: RelationRules, query: Query) -> bool:
        """Whether an UPDATE could make a row leave the filter."""
        relation = reference.relation
        if relation is None or relation.kind not in ("r", "p") or self.catalog is None:
            return True
        children = [child for oid in relation.descendants if (child := self.catalog.by_oid(oid)) is not None]
        if any(each.has_row_triggers for each in (relation, *children)):
            return True
        generated = {a.name for a in relation.attributes if a.generated}
        for predicate in rules.filters:
            if predicate.has_sublink or not predicate.bound:
                return True
            if predicate.columns & (query.written | generated):
                return True
        return False

    def _check_written(self, reference: Reference, query: Query, check: str) -> Refusal | None:
        """Ask `check` of every row written: in a RETURNING of our own, or in the first column of the agent's."""
        if "returningClause" not in query.fields:
            self.rewriter.add_returning(query, self.statement.end, check)
            if query.top:
                self.hidden_returning = True
            return None
        target = query.fields["returningClause"]["exprs"][0]["ResTarget"]
        form = f"CASE WHEN ({check}) THEN ({{}}) END"
        key = id(target)
        if key in self.targets.columns:
            owner, node, output, expression = self.targets.columns[key]
            self.targets.columns[key] = (owner, node, output, form.format(expression))
            return None
        if key in self.targets.wraps:
            owner, node, output, inner = self.targets.wraps[key]
            self.targets.wraps[key] = (owner, node, output, form.format(inner))
            return None
        outputs = [o for o in query.outputs if o.target is target]
        if not outputs or any(o.open is not None for o in outputs):
            return _unsafe(reference, "the columns of RETURNING * are not known without a catalog")
        if key not in self.targets.stars and outputs[0].star:
            entries = [
                f"{quote(o.qualifier)}.{quote(o.name)}" if o.qualifier is not None else quote(o.name)
                for o in outputs
            ]
            self.targets.stars[key] = (query, target, entries, [""] * len(entries))
        if key in self.targets.stars:
            owner, node, entries, names = self.targets.stars[key]
            entries[0] = form.format(entries[0])
            names[0] = names[0] or outputs[0].name
            return None
        self.targets.wraps[key] = (query, target, outputs[0], form)
        return None

    def _conflict(self, reference: Reference, rules: RelationRules, query: Query) -> Refusal | None:
        """ON CONFLICT DO UPDATE on a row that the filter hides: an error, as with native row security."""
        clause = query.fields.get("onConflictClause")
        if clause is None or clause.get("action") != "ONCONFLICT_UPDATE":
            return None
        condition = self._condition(reference, rules)
        if condition is None:
            return _unsafe(reference, "the filter cannot be asked of the conflicting row")
        # Native row security asks WITH CHECK of the proposed row before it looks for a conflict.
        proposed = _joined([p.text("excluded") for p in rules.filters])
        check = _check(f"({condition}) AND ({proposed})", reference)
        self.rewriter.guard_conflict(query, check)
        return None

    def _merge(self, reference: Reference, rules: RelationRules) -> Refusal | None:
        query = reference.query
        assert query is not None
        version = self.catalog.server_version if self.catalog is not None else 0
        if version < _RETURNING_FOR_MERGE:
            return _unsafe(
                reference,
                "before PostgreSQL 17 the rows that MERGE writes cannot be checked",
                "Use INSERT … ON CONFLICT, UPDATE or DELETE.",
            )
        clauses = [w["MergeWhenClause"] for w in query.fields.get("mergeWhenClauses", ())]
        if any(c.get("matchKind") == "MERGE_WHEN_NOT_MATCHED_BY_SOURCE" for c in clauses):
            return _unsafe(reference, "WHEN NOT MATCHED BY SOURCE would meet hidden rows")
        condition = self._condition(reference, rules)
        if condition is None or self._unsafe(reference):
            return _unsafe(
                reference, "a condition of this MERGE that can raise an error would run on hidden rows"
            )
        self._join(query.fields).texts.append(condition)
        if all(c.get("commandType") in ("CMD_DELETE", "CMD_NOTHING") for c in clauses):
            return None
        check = _check(condition, reference)
        if any(c.get("commandType") == "CMD_DELETE" for c in clauses):
            # RETURNING of a deleted row shows what was deleted: that was visible, and need not stay so.
            check = f"CASE WHEN merge_action() = 'DELETE' THEN true ELSE {check} END"
        return self._check_written(reference, query, check)


def inlined_view(view: Relation, policy: CompiledPolicy, catalog: Catalog | None) -> str:
    """A view's definition with the filters of what it reads written in. Its own scope, its own check.

    Raises:
        RewriteError: a filter finds no place in it.
    """
    assert catalog is not None
    assert view.definition is not None
    definition = view.definition.strip().removesuffix(";")
    raw = parse(definition, checked=False)
    statement = read_statement(raw[0], catalog.for_definitions(), {"prepared": {}, "portals": {}})
    governance = policy.governance(catalog)
    rewriter = Rewriter(definition, raw)
    targets = Targets(rewriter)
    writer = FilterWriter(statement, policy, governance, rewriter, targets, catalog)
    for reference in statement.references:
        rules = governance.rules(reference)
        if rules.unsafe is not None:
            raise RewriteError(
                f'"{view.schema}.{view.name}" reads "{reference.qualified_name}": {rules.unsafe}'
            )
        if (missing := next((p.missing for p in rules.filters if p.missing), None)) is not None:
            raise RewriteError(
                f'a filter below it reads the setting "{missing}", for which no value was given'
            )
    refusal = writer.write()
    if refusal is not None:
        raise RewriteError(refusal.reason)
    for reference in statement.references:
        # A bare name could be captured by a WITH query of the statement around it.
        if (
            reference.wrapper is not None
            and "RangeVar" in reference.wrapper
            and "schemaname" not in reference.node
        ):
            rewriter.qualify(reference)
    return rewriter.finish() if rewriter.edited else definition


def _joined(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else " AND ".join(f"({t})" for t in texts)


def _check(condition: str, reference: Reference) -> str:
    """A boolean that is true for a row the filter shows, and raises for any other.

    The text depends on a column, so that the planner cannot evaluate the failing cast ahead of time.
    """
    column = f"{quote(reference.alias)}.tableoid"
    marker = literal(MARKER + reference.qualified_name)
    failure = f"pg_catalog.concat({marker}, NULLIF({column}, {column}))::pg_catalog.bool"
    return f"CASE WHEN ({condition}) THEN true ELSE {failure} END"


def _join_place(reference: Reference) -> str | Node | None:
    """Where a plain condition on a joined relation goes: `where`, the fields of a join whose ON takes it, or None."""
    inner_on: Node | None = None
    for join, side in reversed(reference.joins):
        kind = join.get("jointype", "JOIN_INNER")
        has_on = "quals" in join
        if kind == "JOIN_INNER":
            if has_on and inner_on is None:
                inner_on = join
            continue
        if (kind == "JOIN_LEFT" and side == "l") or (kind == "JOIN_RIGHT" and side == "r"):
            # Preserved: a row that the filter drops would be dropped above as well.
            inner_on = None if inner_on is None else inner_on
            continue
        if kind == "JOIN_FULL":
            return inner_on
        # The nullable side of LEFT or RIGHT: the join's own ON decides which rows count as matching.
        return inner_on or (join if has_on else None)
    return "where"


def _aliases(tree: object) -> set[str]:
    """Every alias and relation name in a FROM list, sub-selects included."""
    found: set[str] = set()
    stack = [tree]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            for key in ("aliasname", "relname"):
                if isinstance(name := value.get(key), str):
                    found.add(name)
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return found
