"""Filters of relations that are read: in the query's own conditions, or as a subquery in the relation's place."""

from __future__ import annotations

from guarddb.decision.filters.guards import Guarding
from guarddb.decision.filters.placing import alias_twice, join_place, joined, unsafe
from guarddb.decision.masks.writing import mask_expression
from guarddb.decision.refusal import Refusal
from guarddb.decision.relation_rules import RelationRules
from guarddb.sql.leakproof.parts import is_equality
from guarddb.sql.leakproof.restrictions import Hazard
from guarddb.sql.names import quote
from guarddb.sql.statement import Link, Output, Query, Reference
from guarddb.vocabulary import MaskKind


class Reads(Guarding):
    """The part of the writer that places the filters of relations in FROM."""

    def read(self, reference: Reference, rules: RelationRules) -> Refusal | None:
        hazards = self.restrictions.hazards(reference)
        if not hazards:
            if self._plainly(reference, rules):
                return None
            if not self._needs_base(reference) and self._fence(reference, rules, []):
                return None
        ways = (self._guarded, self._fenced)
        for way in ways[::-1] if self._better_fenced(reference, hazards) else ways:
            if way(reference, rules, hazards):
                return None
        if (
            reference.whole_row
            and not reference.system_columns
            and not self._grouped_by_key(reference)
            and self._fence(reference, rules, hazards)
        ):
            return None
        return unsafe(
            reference,
            "a condition that can raise an error would run on hidden rows",
            "Compare columns with constants only, or put the condition into an outer query over a subquery.",
        )

    def _better_fenced(self, reference: Reference, hazards: list[Hazard]) -> bool:
        """Whether a guard would cost more than a fence.

        A guard takes an equality between two relations from the hash join that lives by it, unless there is another.
        """
        if not any(is_equality(h.node) and self.joins(h.node) for h in hazards if h.node is not None):
            return False
        mine = {id(hazard.node) for hazard in hazards}
        return not any(
            id(node) not in mine and is_equality(node) and reference in judged.uses and len(judged.uses) > 1
            for _, node, judged in self.restrictions.parts
            if node is not None
        )

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
        grouped = {
            base[1] for link in query.group_by if (base := _bare(link)) is not None and base[0] is reference
        }
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

    def _plainly(
        self, reference: Reference, rules: RelationRules, *, only_where: bool = False, first: bool = False
    ) -> bool:
        """AND the filter to the query's WHERE, or to the ON below which the relation may be null-extended."""
        query = reference.query
        condition = self.condition(reference, rules, first=first)
        if condition is None or query is None or reference.hidden_by_join_alias or alias_twice(reference):
            return False
        place = join_place(reference)
        if place is None:
            return False
        if place == "where":
            if query.kind not in ("select", "update", "delete"):
                return False
            self.where_of(query).texts.append(condition)
            return True
        if only_where:
            return False
        assert isinstance(place, dict)
        self.on_of(place).texts.append(condition)
        return True

    @staticmethod
    def renamed_row(reference: Reference) -> bool:
        """A whole row under an alias list: a table's keeps the attributes' names, a subquery's takes the aliases."""
        return reference.whole_row and reference.alias_columns is not None

    def _guarded(self, reference: Reference, rules: RelationRules, hazards: list[Hazard]) -> bool:
        """AND the filter, and let what may tell of hidden rows run only where it is true."""
        condition = self.condition(reference, rules)
        if condition is None or not hazards:
            return False
        guards = self.guards(reference, rules, hazards)
        if guards is None:
            return False
        # A filter with a sub-select is not asked twice where a guard asks it anyway.
        held = guards.holding and not guards.outputs and any(p.has_sublink for p in rules.filters)
        if not held and not self._plainly(reference, rules, first=guards.first):
            return False
        self.set_guards(guards, condition)
        return True

    def _fenced(self, reference: Reference, rules: RelationRules, hazards: list[Hazard]) -> bool:
        return not self._needs_base(reference) and self._fence(reference, rules, hazards)

    def _fence(self, reference: Reference, rules: RelationRules, hazards: list[Hazard]) -> bool:
        """Put `(SELECT … FROM relation WHERE predicate OFFSET 0)` in the relation's place."""
        if reference.wrapper is None or self.renamed_row(reference):
            return False
        name = self.rewriter.relation_text(reference)
        alias = rules.filters[0].own_name
        for predicate in rules.filters:
            if not predicate.bound and predicate.own_name != alias:
                return False
        fence = bool(hazards)
        if not self.shield(hazards):
            return False
        texts = [p.text(alias) if p.bound else p.source.text for p in rules.filters]
        if fence:
            texts += self.inside(reference, alias)
        columns = self._columns(reference, alias)
        rest = f"WHERE {joined(texts)}{' OFFSET 0' if fence else ''}"
        if reference.sample is not None:
            self.rewriter.replace_sample(reference, columns, alias, rest)
        else:
            self.rewriter.replace_relation(
                reference, f"SELECT {columns} FROM {name} AS {quote(alias)} {rest}"
            )
        return True

    def inside(self, reference: Reference, alias: str, only: set[str] | None = None) -> list[str]:
        """The conditions that tell nothing, over another alias of the relation: inside a fence they find their index.

        `only`: those that ask for no other columns than these.
        """
        texts = []
        for place, index, node, attributes in self.restrictions.inside_fence(reference):
            if only is not None and not only.issuperset(attributes.values()):
                continue
            text = self.rewriter.copied_conjunct(place, index, alias, attributes)
            if text is None:
                continue
            texts.append(text)
            # (What follows from an equality for the tables that it is joined with follows from that outside.)
            if not is_equality(node):
                conditions = self.where_of(place) if isinstance(place, Query) else self.on_of(place)
                conditions.inside.add(index)
        return texts

    def _columns(self, reference: Reference, alias: str) -> str:
        """What a fence has to select: nothing that the sent text does not ask for, so that a grant of columns will do."""
        relation = reference.relation
        if relation is None:
            return "*"
        used = self._used(reference)
        if not used <= {attribute.name for attribute in relation.attributes}:
            return "*"
        # Where columns are known by their place, something has to stand there.
        places = reference.alias_columns is not None or reference.hidden_by_join_alias
        tested = self._only_shown(reference, "redact")
        hashed = self.hashed_below(reference)
        columns = []
        for attribute in relation.attributes:
            column = f"{quote(alias)}.{quote(attribute.name)}"
            if attribute.name in tested:
                # All that goes on of it is whether it is NULL.
                columns.append(f"{mask_expression('redact', column, attribute)} AS {quote(attribute.name)}")
            elif attribute.name in hashed:
                self.targets.hash_below(reference, attribute.name)
                columns.append(f"{mask_expression('hash', column, attribute)} AS {quote(attribute.name)}")
            elif attribute.name in used:
                columns.append(column)
            elif places:
                columns.append(f"NULL AS {quote(attribute.name)}")
        return ", ".join(columns)

    def hashed_below(self, reference: Reference) -> set[str]:
        """The columns whose hash can be made where the relation is read."""
        return {
            name for name in self._only_shown(reference, "hash") if (reference, name) in self.targets.hashed
        }

    def _only_shown(self, reference: Reference, kind: MaskKind) -> set[str]:
        """The columns under a kind of mask of which the statement wants nothing but what stands in their place."""
        masks = self.governance.rules(reference).masks
        found = {column for column, each in masks.items() if each == kind} & self._used(reference)
        if not found:
            return found
        for root in self.statement.roots:
            for link, _ in root.uses:
                # ORDER BY 1 names an output of its own query and means the column itself.
                own = isinstance(link, Output) and link.query is root.query
                for below in link.links if own and isinstance(link, Output) else (link,):
                    if isinstance(below, tuple) and below[0] is reference:
                        found.discard(below[1])
        return found - {name for raw, name in self.targets.raw if raw is reference}

    def _used(self, reference: Reference) -> set[str]:
        """The columns of a relation that the sent text names; `*` its row, or what nobody knows."""
        gone = self.targets.gone
        links: list[Link] = [link for root in self.statement.roots for link, _ in root.uses]
        links += [(counted, "*") for node, counted, _ in self.statement.row_counts if id(node) not in gone]
        for query in self.statement.queries:
            links += query.group_by
            for output in query.outputs:
                if id(output) not in gone:
                    links += (*output.links, *output.opaque)
        used = {link[1] for link in links if isinstance(link, tuple) and link[0] is reference}
        return used | {name for needed, name in self.targets.needed if needed is reference}


def _bare(link: Link) -> tuple[Reference, str] | None:
    """The column that a link is a bare copy of: GROUP BY 1 and GROUP BY name go by the output."""
    while isinstance(link, Output):
        if link.root is not None or link.opaque or len(link.links) != 1:
            return None
        link = link.links[0]
    return link
