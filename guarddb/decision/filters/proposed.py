"""Rows that INSERT … ON CONFLICT DO NOTHING proposes: asked the filter's question before a conflict is looked for.

Native row security asks WITH CHECK of every proposed row. Asked of written rows only, a row that may not be written would tell
by its silence that its key is taken, by a hidden row too. So the question goes into the value of a column of the filter, where
it is answered when the row is made.
"""

from __future__ import annotations

from guarddb.decision.filters.placing import joined, unsafe
from guarddb.decision.filters.views import Views
from guarddb.decision.refusal import Refusal
from guarddb.decision.relation_rules import RelationRules
from guarddb.facts import functions
from guarddb.sql.names import calls_in, holds_sublink, literal, quote, string_list
from guarddb.sql.rewriting.trees import HOLE, columns_below
from guarddb.sql.statement import Query, Reference
from guarddb.tree import Node

_CHANGES = "a value of its columns is DEFAULT, masked, a sub-select or VOLATILE"
MARKER = "guarddb:row_filter_violation:"


class Proposals(Views):
    """The part of the writer that checks proposed rows."""

    def check_proposed(self, reference: Reference, rules: RelationRules, query: Query) -> Refusal | None:
        relation = reference.relation
        if relation is None:
            return None
        asked = sorted({column for predicate in rules.filters for column in predicate.columns})
        if not asked:
            return None
        columns = [target["ResTarget"]["name"] for target in query.fields.get("cols", ())] or [
            attribute.name for attribute in relation.attributes
        ]
        source = query.fields.get("selectStmt", {}).get("SelectStmt", {})
        missing = ", ".join(column for column in asked if column not in columns)
        if missing or not all(predicate.bound for predicate in rules.filters):
            return _unproved(reference, f"the rows give no value to {missing}, by which it chooses")
        places = {column: columns.index(column) for column in asked}
        types = {a.name: ".".join(quote(part) for part in a.type.split(".", 1)) for a in relation.attributes}
        if "valuesLists" in source:
            return self._values(reference, rules, query, places, types)
        return self._targets(reference, rules, source, places, types)

    def _values(
        self,
        reference: Reference,
        rules: RelationRules,
        query: Query,
        places: dict[str, int],
        types: dict[str, str],
    ) -> Refusal | None:
        rows = query.fields["selectStmt"]["SelectStmt"]["valuesLists"]
        last = max(places, key=lambda column: places[column])
        for number, row in enumerate(rows):
            items = row["List"].get("items", ())
            if any(
                place >= len(items) or not _is_same_twice(items[place], rules) for place in places.values()
            ):
                return _unproved(reference, _CHANGES)
            texts = {c: self.rewriter.value_text(query, number, place) for c, place in places.items()}
            form = self._form(reference, rules, texts, types, items[places[last]], last)
            self.rewriter.wrap_value(query, number, places[last], form)
        return None

    def _targets(
        self,
        reference: Reference,
        rules: RelationRules,
        source: Node,
        places: dict[str, int],
        types: dict[str, str],
    ) -> Refusal | None:
        query = self.restrictions.judge.by_fields.get(id(source))
        targets = [wrapped["ResTarget"] for wrapped in source.get("targetList", ())]
        if query is None or query.kind != "select" or len(query.outputs) != len(targets):
            return _unproved(reference, "the columns of the source are not listed one by one")
        chosen = {
            column: targets[place] if place < len(targets) else None for column, place in places.items()
        }
        written = self.targets.columns.keys() | self.targets.wraps.keys() | self.targets.stars.keys()
        texts: dict[str, str] = {}
        for column, target in chosen.items():
            if target is None or id(target) in written or not _is_same_twice(target["val"], rules):
                return _unproved(reference, _CHANGES)
            texts[column] = self.rewriter.target_text(target)[2]
        last = max(places, key=lambda column: places[column])
        target, output = targets[places[last]], query.outputs[places[last]]
        self.targets.wraps[id(target)] = (
            query,
            target,
            output,
            self._form(reference, rules, texts, types, target["val"], last),
        )
        return None

    @staticmethod
    def _form(
        reference: Reference,
        rules: RelationRules,
        texts: dict[str, str],
        types: dict[str, str],
        node: Node,
        column: str,
    ) -> str:
        values = {name: f"({text})::{types[name]}" for name, text in texts.items()}
        condition = joined([predicate.over(values) for predicate in rules.filters])
        marker = literal(MARKER + reference.qualified_name)
        # concat() is STABLE, so that the planner does not evaluate the failing cast ahead of time.
        check = f"CASE WHEN ({condition}) THEN true ELSE pg_catalog.concat({marker})::pg_catalog.bool END"
        cast = f"::{types[column]}" if "A_Const" in node or "ParamRef" in node else ""
        return f"CASE WHEN ({check}) THEN ({HOLE}){cast} END"


def _is_same_twice(node: Node, rules: RelationRules) -> bool:
    """Whether a value may be evaluated a second time, inside the predicate."""
    if "SetToDefault" in node or holds_sublink(node):
        return False
    inside = {name for predicate in rules.filters if predicate.has_sublink for name in predicate.inner_names}
    for column in columns_below(node) if inside else ():
        names = string_list(column.get("fields", ()))
        if len(names) < 2 or names[0] in inside:
            return False  # it could be captured by a name in the predicate's sub-select
    return not any(functions.is_volatile(name) for name in calls_in(node))


def _unproved(reference: Reference, why: str) -> Refusal:
    return unsafe(
        reference,
        f"{why}, so that a row cannot be checked before a conflict is looked for",
        "Give the filter's columns their values as constants or parameters, or leave out ON CONFLICT DO NOTHING.",
    )
