"""What may be written through the wall, and why the rest may not.

The owner of the wall's views writes with its own rights and under row security. What row security does not see is closed
here: actions of foreign keys, what a filter stands on, code that shows the row that was there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from guarddb.policy.profile import PolicyProfile
from guarddb.wall.database import Database, ForeignKey, Relation
from guarddb.wall.predicates import FilterText
from guarddb.wall.subjects import Subjects

_ACTIONS = {"c": "cascades", "n": "sets null", "d": "sets the default"}


def admitted_kinds(profile: PolicyProfile) -> frozenset[str]:
    """Which of select, insert, update and delete the profile lets through."""
    kinds = {"select", "insert", "update", "delete"}
    if profile.access_mode == "read_only":
        kinds = {"select"}
    rules = profile.statement_rules
    if rules.allow:
        kinds &= set(rules.allow)
    return frozenset(kinds - set(rules.deny))


class Writes:
    """Answers for one profile and database what can be written where.

    Attributes:
        frozen: OIDs of relations that filters read, with the filter's table.
        opaque: code of the users' in a filter, which may read anything; then nothing is written.
        filters: what each filter is in its table's policy, by the table's OID.
    """

    def __init__(
        self,
        subjects: Subjects,
        database: Database,
        reads: Iterable[tuple[Relation, Relation]],
        opaque: str | None,
        filters: Mapping[int, FilterText | None],
    ) -> None:
        self.subjects = subjects
        self.filters = filters
        self.keyed = subjects.profile.guarddb.hash_key_env is not None
        self.database = database
        self.opaque = opaque
        self.frozen: dict[int, Relation] = {}
        for filtered, read in reads:
            self._freeze(filtered, read)
        self._keys: dict[int, list[ForeignKey]] = {}
        for key in database.foreign_keys:
            self._keys.setdefault(key.parent, []).append(key)

    def _freeze(self, filtered: Relation, read: Relation) -> None:
        queue, seen = [read], set[int]()
        while queue:
            relation = queue.pop()
            if relation.oid in seen:
                continue
            seen.add(relation.oid)
            if not self._may_change(relation):
                self.frozen.setdefault(relation.oid, filtered)
            queue += self.database.descendants(relation) + self.database.ancestors(relation)
            queue += [self.database.by_oid[oid] for oid, _ in relation.reads if oid in self.database.by_oid]

    def _may_change(self, relation: Relation) -> bool:
        return any(
            pattern.matches(relation.schema, relation.name, bare="public", strict=True)
            for pattern in self.subjects.profile.may_change_patterns
        )

    def closed(self, relation: Relation) -> str | None:
        """Why nothing of the relation can be written, or None. A parent writes its children."""
        for each in [relation, *self.database.descendants(relation)]:
            reason = self._closed(each)
            if reason is not None:
                return reason if each is relation else f'its child "{each.shown}": {reason}'
        return None

    def _closed(self, relation: Relation) -> str | None:
        subject = self.subjects[relation.oid]
        if self.opaque is not None:
            return f"a row filter runs {self.opaque}, which may read any table"
        if relation.oid in self.frozen:
            return f'the row filter on "{self.frozen[relation.oid].shown}" reads it'
        if subject.masks and relation.triggers:
            return f'its trigger "{relation.triggers[0]}" sees masked values, and runs as whoever writes'
        if relation.has_rules:
            return "its rules make other statements of a write"
        if relation.kind == "f" and subject.filters:
            return "a foreign table has no row security"
        if relation.kind not in ("r", "p", "f"):
            return "views are read only"
        return None

    def no_delete(self, relation: Relation) -> str | None:
        """Why no row may be deleted, or None."""
        for each in [relation, *self.database.descendants(relation), *self.database.ancestors(relation)]:
            found = self._reaches(each, "delete", set(), set())
            if found is not None:
                return found
        return None

    def locked_columns(self, relation: Relation) -> dict[str, str]:
        """Columns that may not be updated, each with its reason."""
        locked: dict[str, str] = {}
        for each in [relation, *self.database.descendants(relation), *self.database.ancestors(relation)]:
            for key in self._keys.get(each.oid, ()):
                if key.on_update not in _ACTIONS:
                    continue
                reason = self._of_child(key, key.on_update, "update", set())
                if reason is not None:
                    for number in key.parent_columns:
                        if number in each.by_number:
                            locked[each.by_number[number].name] = reason
        for each in [relation, *self.database.descendants(relation)]:
            for what, columns in self._compared(each):
                for name in columns:
                    locked.setdefault(name, what)
        return {**self.guesses(relation), **locked}

    def guesses(self, relation: Relation) -> dict[str, str]:
        """Columns that may not be written at all: whether a value is taken would tell of masked values elsewhere."""
        found: dict[str, str] = {}
        for each in [relation, *self.database.descendants(relation)]:
            for key in self.database.foreign_keys:
                parent = self.database.by_oid.get(key.parent)
                if key.child != each.oid or parent is None:
                    continue
                masks = self.subjects[parent.oid].masks
                for mine, theirs in zip(key.child_columns, key.parent_columns, strict=False):
                    column = parent.by_number.get(theirs)
                    if column is None or mine not in each.by_number:
                        continue
                    # (Whoever guesses can hash the guess, where no key is needed for it.)
                    if masks.get(column.name, "hash") != "hash" or (column.name in masks and self.keyed):
                        found[each.by_number[mine].name] = (
                            f'the foreign key "{key.name}" looks for it in the masked column "{parent.shown}.{column.name}"'
                        )
            bound = self.filters.get(each.oid)
            if bound is None:
                continue
            for schema, name in bound.reads:
                read = self.database.by_name.get((schema, name))
                masked = bound.named & set(self.subjects[read.oid].masks) if read is not None else set()
                for column in bound.columns if masked else ():
                    found[column.name] = (
                        f'its row filter compares it with the masked column "{schema}.{name}.{min(masked)}"'
                    )
        return found

    def _compared(self, relation: Relation) -> Iterable[tuple[str, set[str]]]:
        """Columns that the server computes with together with a masked one when a row is written."""
        masks = self.subjects[relation.oid].masks
        if not masks:
            return
        every = {column.name for column in relation.columns}
        made_of = {
            column.name: {relation.by_number[n].name for n in column.sources if n in relation.by_number}
            for column in relation.columns
            if column.generated
        }
        together = []
        for item in relation.computed:
            known = bool(item.columns) and all(number in relation.by_number for number in item.columns)
            names = {relation.by_number[n].name for n in item.columns} if known else every
            together.append((item.what, names))
        bound = self.filters.get(relation.oid)
        if bound is not None:
            together.append(("its row filter", {column.name for column in bound.columns}))
        for key in self.database.foreign_keys:
            if key.child == relation.oid:
                names = {relation.by_number[n].name for n in key.child_columns if n in relation.by_number}
                together.append((f'the foreign key "{key.name}"', names))
        for what, names in together:
            names = {part for name in names for part in (name, *made_of.get(name, ()))}
            masked = names & set(masks)
            if masked and names - masked:
                yield f'{what} computes with it and with the masked column "{min(masked)}"', names - masked

    def _reaches(
        self, relation: Relation, what: str, columns: set[int], seen: set[tuple[int, str]]
    ) -> str | None:
        """What of the hidden or frozen an action would write, following chains."""
        if (relation.oid, what) in seen:
            return None
        seen.add((relation.oid, what))
        for key in self._keys.get(relation.oid, ()):
            action = key.on_delete if what == "delete" else key.on_update
            if action not in _ACTIONS or (what == "update" and not columns & set(key.parent_columns)):
                continue
            reason = self._of_child(key, action, what, seen)
            if reason is not None:
                return reason
        return None

    def _of_child(self, key: ForeignKey, action: str, what: str, seen: set[tuple[int, str]]) -> str | None:
        child = self.database.by_oid.get(key.child)
        if child is None:
            return f'the foreign key "{key.name}" {_ACTIONS[action]} in a table that is not known'
        subject = self.subjects[child.oid]
        how = f'the foreign key "{key.name}" {_ACTIONS[action]} in "{child.shown}"'
        if subject.filters or subject.refused is not None:
            return f"{how}, which has a row filter"
        if subject.denied is not None or not subject.allowed:
            return f"{how}, which the profile does not open"
        if child.oid in self.frozen:
            return f"{how}, which a row filter reads"
        if any(
            number in child.by_number and child.by_number[number].name in subject.masks
            for number in key.child_columns
        ):
            return f"{how}, by a masked column"
        if action == "c" and what == "delete":
            return self._reaches(child, "delete", set(), seen)
        return self._reaches(child, "update", set(key.child_columns), seen)
