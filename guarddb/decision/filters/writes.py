"""Filters of relations that are written, and the order in which all filters of a statement are placed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from guarddb.decision.filters.placing import joined, unsafe
from guarddb.decision.filters.proposed import MARKER, Proposals
from guarddb.decision.refusal import Refusal
from guarddb.decision.relation_rules import RelationRules
from guarddb.sql.names import literal, quote
from guarddb.sql.rewriting.trees import HOLE, around_holes
from guarddb.sql.statement import Output, Query, Reference
from guarddb.tree import Node, nodes

_RETURNING_FOR_MERGE = 170000


class FilterWriter(Proposals):
    """Writes the filters of one statement. What finds no safe place is a refusal."""

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
        for put in self.around:
            refusal = put()
            if refusal is not None:
                return refusal
        if "explain" in self.statement.kinds and self.shown:
            # Estimates come from statistics over all rows, the hidden ones among them.
            self.rewriter.explain_quietly(self.statement.fields, self.statement.location)
        self.write_conditions()
        return None

    def _place(self, reference: Reference, rules: RelationRules) -> Refusal | None:
        self.show(rules)
        if reference.mode == "read":
            if rules.needs_inlining:
                return self.inline(reference, rules)
            return self.read(reference, rules)
        if reference.mode in ("update", "delete"):
            return self._target(reference, rules)
        if reference.mode == "insert":
            return self._check_new_row(reference, rules)
        if reference.mode == "merge":
            return self._merge(reference, rules)
        return unsafe(reference, f"it is used for {reference.mode}")

    def _target(self, reference: Reference, rules: RelationRules) -> Refusal | None:
        query = reference.query
        assert query is not None
        condition = self.condition(reference, rules)
        where = query.fields.get("whereClause", {})
        if condition is None or "CurrentOfExpr" in where:
            return unsafe(reference, "the filter has no place in this WHERE")
        guards = self.guards(reference, rules, self.restrictions.hazards(reference))
        if guards is None:
            return unsafe(reference, "a condition that can raise an error would run on hidden rows")
        placed = self.condition(reference, rules, first=guards.first)
        assert placed is not None
        self.where_of(query).texts.append(placed)
        self.set_guards(guards, condition)
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
        condition = self.condition(reference, rules)
        if condition is None:
            return unsafe(reference, "the filter cannot be asked of the rows this writes")
        check = _check(condition, reference, rules)
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
        names = {a.name for a in relation.attributes}
        for predicate in rules.filters:
            if predicate.has_sublink or not predicate.bound:
                return True
            if not predicate.columns <= names:
                return True  # a system column: a row that moves to another partition has another tableoid
            if predicate.columns & (query.written | generated):
                return True
        return False

    def _check_written(self, reference: Reference, query: Query, check: str) -> Refusal | None:
        """Ask `check` of every row written: in a RETURNING of our own, or in the first column of the agent's."""
        self.checks_rows = True
        if "returningClause" not in query.fields:
            self.rewriter.add_returning(query, self.statement.end, check)
            if query.top:
                self.hidden_returning = True
            return None
        self.around.append(partial(self._check_returned, reference, query, check))
        return None

    def _check_returned(self, reference: Reference, query: Query, check: str) -> Refusal | None:
        form = f"CASE WHEN ({check}) THEN ({HOLE}) END"
        # In whichever column can be named: all of them are evaluated.
        for wrapped in query.fields["returningClause"]["exprs"]:
            target = wrapped["ResTarget"]
            outputs = [o for o in query.outputs if o.target is target]
            if not outputs or any(o.open is not None for o in outputs):
                return unsafe(reference, "the columns of RETURNING * are not known without a catalog")
            if self._ask_in(query, target, outputs, form):
                return None
        return unsafe(reference, "two columns of RETURNING * have one name")

    def _ask_in(self, query: Query, target: Node, outputs: list[Output], form: str) -> bool:
        """Put one target of RETURNING into a form; whether it could be."""
        targets, key = self.targets, id(target)
        if key in targets.columns:
            owner, node, output, expression = targets.columns[key]
            targets.columns[key] = (owner, node, output, _filled(form, expression))
        elif key in targets.wraps:
            owner, node, output, inner = targets.wraps[key]
            targets.wraps[key] = (owner, node, output, _filled(form, HOLE.join(around_holes(inner))))
        elif key in targets.stars or outputs[0].star:
            if key in targets.stars:
                _, _, entries, names = targets.stars[key]
            else:
                written = [(_written(o, whole=o.whole_item), o.whole_item) for o in outputs]
                entries = [
                    e for i, (e, whole) in enumerate(written) if not whole or written.index((e, whole)) == i
                ]
                names = [""] * len(entries)
            place = _spelled_out((entries, names), outputs)
            if place is None:
                return False
            entries[place[0]] = _filled(form, entries[place[0]])
            names[place[0]] = names[place[0]] or place[1]
            targets.stars[key] = (query, target, entries, names)
        else:
            targets.wraps[key] = (query, target, outputs[0], form)
        return True

    def _conflict(self, reference: Reference, rules: RelationRules, query: Query) -> Refusal | None:
        """ON CONFLICT: a proposed row that may not be written, or a hidden row in the way of DO UPDATE, is an error."""
        clause = query.fields.get("onConflictClause")
        if clause is None:
            return None
        if clause.get("action") != "ONCONFLICT_UPDATE":
            return self.check_proposed(reference, rules, query)
        condition = self.condition(reference, rules)
        if condition is None or reference.alias == "excluded":
            return unsafe(reference, "the filter cannot be asked of the conflicting row")
        # Native row security asks WITH CHECK of the proposed row before it looks for a conflict.
        proposed = joined([p.text("excluded") for p in rules.filters])
        check = _check(f"({condition}) AND ({proposed})", reference, rules)
        self.rewriter.guard_conflict(query, check)
        return None

    def _merge(self, reference: Reference, rules: RelationRules) -> Refusal | None:
        query = reference.query
        assert query is not None
        version = self.catalog.server_version if self.catalog is not None else 0
        if version < _RETURNING_FOR_MERGE:
            return unsafe(
                reference,
                "before PostgreSQL 17 the rows that MERGE writes cannot be checked",
                "Use INSERT … ON CONFLICT, UPDATE or DELETE.",
            )
        clauses = [w["MergeWhenClause"] for w in query.fields.get("mergeWhenClauses", ())]
        if any(c.get("matchKind") == "MERGE_WHEN_NOT_MATCHED_BY_SOURCE" for c in clauses):
            return unsafe(reference, "WHEN NOT MATCHED BY SOURCE would meet hidden rows")
        if any(name == reference.alias for name in _seen(query.fields["sourceRelation"])):
            return unsafe(reference, f'its name "{reference.alias}" means a part of the source as well')
        condition = self.condition(reference, rules)
        guards = self.guards(reference, rules, self.restrictions.hazards(reference))
        if condition is None or guards is None:
            return unsafe(
                reference, "a condition of this MERGE that can raise an error would run on hidden rows"
            )
        self.on_of(query.fields).texts.append(condition)
        self.set_guards(guards, condition)
        if all(c.get("commandType") in ("CMD_DELETE", "CMD_NOTHING") for c in clauses):
            return None
        check = _check(condition, reference, rules)
        if any(c.get("commandType") == "CMD_DELETE" for c in clauses):
            # RETURNING of a deleted row shows what was deleted: that was visible, and need not stay so.
            check = f"CASE WHEN merge_action() = 'DELETE' THEN true ELSE {check} END"
        return self._check_written(reference, query, check)


def _seen(item: Node) -> Iterator[str]:
    """The names by which parts of a FROM item are reached, those inside its sub-selects included."""
    for _, node in nodes(item):
        if "relname" in node and "alias" not in node:
            yield node["relname"]
        if "aliasname" in node:
            yield node["aliasname"]


def _written(output: Output, *, whole: bool = False) -> str:
    """A column of a star, or the star over its item."""
    name = "*" if whole else quote(output.name)
    return name if output.qualifier is None else f"{quote(output.qualifier)}.{name}"


def _spelled_out(star: tuple[list[str], list[str]], outputs: list[Output]) -> tuple[int, str] | None:
    """Where in a star that is written out a column stands by itself, and its name; an item's star is taken apart for it.

    None where no column can be named.
    """
    entries, names = star
    alone = [(o.qualifier, o.name) for o in outputs if not o.whole_item]
    if len(set(alone)) < len(alone):
        return None
    at = 0
    for place, entry in enumerate(entries):
        if not entry.endswith(".*"):
            return (place, outputs[at].name) if outputs[at].spelled else None
        qualifier = outputs[at].qualifier
        item = [o for o in outputs if o.qualifier == qualifier]
        if all(o.spelled for o in item) and len({o.name for o in item}) == len(item):
            entries[place : place + 1] = [_written(o) for o in item]
            names[place : place + 1] = [""] * len(item)
            return place, item[0].name
        at += len(item)
    return None


def _filled(form: str, text: str) -> str:
    return form.replace(HOLE, text)


def _check(condition: str, reference: Reference, rules: RelationRules) -> str:
    """A boolean that is true for a row the filter shows, and raises for any other.

    The text depends on a column, so that the planner cannot evaluate the failing cast ahead of time: on one that the filter
    reads anyway, for which a grant is there.
    """
    relation = reference.relation
    columns = {c for p in rules.filters for c in p.columns}
    known = [a.name for a in relation.attributes if a.name in columns] if relation is not None else []
    column = f"{quote(reference.alias)}.{quote(known[0]) if known else 'tableoid'}"
    marker = literal(MARKER + reference.qualified_name)
    failure = f"pg_catalog.concat({marker}, CASE WHEN {column} IS NULL THEN '' END)::pg_catalog.bool"
    return f"CASE WHEN ({condition}) THEN true ELSE {failure} END"
