"""Filters below a view: its definition goes into the view's place, with the filters of what it reads inside."""

from __future__ import annotations

from guarddb.decision.filters.placing import joined, unsafe
from guarddb.decision.filters.reads import Reads
from guarddb.decision.masks.rule import is_missing_side
from guarddb.decision.masks.writing import Targets, mask_expression
from guarddb.decision.refusal import Refusal
from guarddb.decision.relation_rules import RelationRules
from guarddb.sql.analysis.classify import read_statement
from guarddb.sql.catalog import Relation
from guarddb.sql.names import quote, quote_qualified
from guarddb.sql.rewriting.rewriter import RewriteError, Rewriter
from guarddb.sql.statement import Link, Output, Reference, Statement, origins
from guarddb.tree import parse


class Views(Reads):
    """The part of the writer that sees through views."""

    def inline(self, reference: Reference, rules: RelationRules) -> Refusal | None:
        """Put a view's definition in its place, with the filters inside."""
        if reference.wrapper is None or reference.sample is not None or reference.system_columns:
            return unsafe(reference, "the view cannot be replaced by its definition here")
        if not self._keep_rows(reference) and self.renamed_row(reference):
            return unsafe(
                reference,
                "its whole row is used under other column names",
                "Leave out the alias column list.",
            )
        relation = reference.relation
        assert relation is not None
        try:
            hashed = self.hashed_below(reference)
            text = self.inlined(relation, hashed, self._unused(reference))
        except RewriteError as ex:
            return unsafe(reference, str(ex))
        for name in hashed:
            self.targets.hash_below(reference, name)
        hazards = self.restrictions.hazards(reference)
        if hazards or self._asks_for_computed(reference, rules):
            if not self.shield(hazards):
                return unsafe(
                    reference, "a condition that can raise an error would meet statistics of hidden rows"
                )
            copied = self._copied(reference, rules)
            kept = self.inside(reference, relation.name, copied)
            where = f" WHERE {joined(kept)}" if kept else ""
            text = f"SELECT * FROM ({text}) AS {quote(relation.name)}{where} OFFSET 0"
        if rules.filters:
            alias = rules.filters[0].own_name
            if any(not p.bound for p in rules.filters):
                return unsafe(reference, "its own filter has a sub-select that cannot be tied to the view")
            condition = joined([p.text(alias) for p in rules.filters])
            text = f"SELECT * FROM ({text}) AS {quote(alias)} WHERE {condition} OFFSET 0"
        for schema, name in rules.seen_through:
            found = self.catalog.relation(schema, name) if self.catalog is not None else None
            if found is not None:
                self.show(self.governance.rules_for(found))
        self.rewriter.replace_relation(reference, text)
        return None

    def _keep_rows(self, reference: Reference) -> bool:
        """Give a whole row of the view that is selected the view's row type, which a row of its definition has not.

        Whether that is all that is done with its rows.
        """
        relation, row = reference.relation, (reference, "*")
        if relation is None or reference.hidden_by_join_alias:
            return False
        listed = reference.alias_columns or ()
        names = [*listed, *(a.name for a in relation.attributes[len(listed) :])]
        if len(set(names)) < len(names):
            return False
        alias = quote(reference.alias)
        fields = ", ".join(f"{alias}.{quote(name)}" for name in names)
        made = f"ROW({fields})::{quote_qualified(relation.schema, relation.name)}"
        if is_missing_side(reference):
            made = f"CASE WHEN {alias} IS DISTINCT FROM NULL THEN {made} END"
        for query in self.statement.queries:
            for output in query.outputs:
                target = output.target
                if output.opaque != [row] or target is None or "ColumnRef" not in target["val"]:
                    continue
                if id(target) not in self.targets.columns:
                    self.targets.columns[id(target)] = (query, target, output, made)
        return not any(link == row for root in self.statement.roots for link, _ in root.uses)

    def _asks_for_computed(self, reference: Reference, rules: RelationRules) -> bool:
        """Whether a condition uses a column that the view computes: pulled up, it is the expression itself."""
        copied = self._copied(reference, rules)
        return any(
            origin[0] is reference and origin[1] not in copied
            for root in self.statement.roots
            if root.clause in ("where", "on", "using", "having")
            for link, _ in root.uses
            for origin in origins(link)
        )

    def _copied(self, reference: Reference, rules: RelationRules) -> set[str]:
        """The columns of a view that are bare columns of tables."""
        relation, definition = reference.relation, rules.definition
        if relation is None or definition is None or definition.top is None:
            return set()
        return {
            attribute.name
            for attribute, output in zip(relation.attributes, definition.top.outputs, strict=False)
            if self._is_copy(output)
        }

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
            if relation is not None and any(a.virtual and a.name == item[1] for a in relation.attributes):
                return False  # reading it computes it
            if relation is not None and relation.definition is not None:
                below = self.governance.rules(item[0]).definition
                if below is None or below.top is None:
                    return False
                names = [a.name for a in relation.attributes]
                if item[1] not in names or len(below.top.outputs) != len(names):
                    return False
                stack.append(below.top.outputs[names.index(item[1])])
        return True

    def _unused(self, reference: Reference) -> set[str]:
        """The columns of a view under a hash that the statement does not name: nothing of them is needed."""
        used = self._used(reference)
        masks = self.governance.rules(reference).masks
        return set() if "*" in used else {name for name, kind in masks.items() if kind == "hash"} - used

    def inlined(self, view: Relation, hashed: set[str], unused: set[str]) -> str:
        """A view's definition with the filters of what it reads written in. Its own scope, its own check.

        Args:
            hashed: the columns whose hash is made in the definition, and `unused` those of which nothing is needed.

        Raises:
            RewriteError: a filter finds no place in it.
        """
        assert self.catalog is not None
        assert view.definition is not None
        definition = view.definition.strip().removesuffix(";")
        raw = parse(definition, checked=False)
        statement = read_statement(raw[0], self.catalog.for_definitions(), {"prepared": {}, "portals": {}})
        rewriter = Rewriter(definition, raw)
        inner = type(self)(statement, self.policy, self.governance, rewriter, Targets(rewriter), self.catalog)
        for reference in statement.references:
            rules = self.governance.rules(reference)
            if rules.unsafe is not None:
                raise RewriteError(
                    f'"{view.schema}.{view.name}" reads "{reference.qualified_name}": {rules.unsafe}'
                )
            if (missing := next((p.missing for p in rules.filters if p.missing), None)) is not None:
                raise RewriteError(
                    f'a filter below it reads the setting "{missing}", for which no value was given'
                )
        self._mask_inside(view, statement, inner.targets, hashed, unused)
        refusal = inner.write()
        if refusal is not None:
            raise RewriteError(refusal.reason)
        inner.targets.write()
        for reference in statement.references:
            # A bare name could be captured by a WITH query of the statement around it.
            if (
                reference.wrapper is not None
                and "RangeVar" in reference.wrapper
                and "schemaname" not in reference.node
            ):
                rewriter.qualify(reference)
        return rewriter.finish() if rewriter.edited else definition

    def _mask_inside(
        self, view: Relation, statement: Statement, targets: Targets, hashed: set[str], unused: set[str]
    ) -> None:
        """Put masks into the definition: NULL and the token of redacted columns, of which nothing goes out of it, and the hash
        where nobody needs the value itself."""
        masks = self.governance.rules_for(view).masks
        top = statement.top
        if not masks or self.policy.profile.guarddb.mask_uses:
            return
        if top is None or len(top.outputs) != len(view.attributes):
            return
        for index, attribute in enumerate(view.attributes):
            kind = masks.get(attribute.name)
            if kind == "hash" and attribute.name in unused:
                kind = "null"
            if kind is None or (kind == "hash" and attribute.name not in hashed):
                continue
            for leaf in top.leaves():
                output = leaf.outputs[index]
                # (What shares an output with a hash is hashed as well.)
                if output.target is None or (kind != "hash" and self.governance.mask_of(output) is None):
                    continue
                form = mask_expression(kind, "({})", attribute)
                if kind == "hash" and len(output.links) == 1 and isinstance(link := output.links[0], tuple):
                    targets.hashed.setdefault(link, []).append((id(output.target), None, ""))
                targets.wraps[id(output.target)] = (leaf, output.target, output, form)
                if "{}" not in form:
                    targets.gone.add(id(output))
