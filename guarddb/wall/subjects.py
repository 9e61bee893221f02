"""What a profile says of each relation of a database: allowed, denied, masked, filtered."""

from __future__ import annotations

from dataclasses import dataclass, field

from guarddb.policy.patterns import RelationPattern
from guarddb.policy.predicate import Predicate
from guarddb.policy.profile import PolicyProfile
from guarddb.vocabulary import MaskKind, strictest
from guarddb.wall.database import Database, Relation


@dataclass(slots=True)
class Subject:
    """One relation under the profile.

    Attributes:
        masks: column name -> kind, with what its children, or what a generated column is made of, bring in.
        filters: the entries that hold for its rows, its parents' included.
        denied: the relation that denies it: itself, a parent, a child, or what a view reads.
        refused: why the wall cannot show it, or None.
        alone: what is denied or refused is a child, so that its own rows may be shown.
        reads: of a view, every relation that its definition reads, at any depth.
    """

    relation: Relation
    allowed: bool = False
    masks: dict[str, MaskKind] = field(default_factory=dict)
    filters: list[tuple[RelationPattern, Predicate]] = field(default_factory=list)
    denied: str | None = None
    refused: str | None = None
    alone: bool = False
    reads: dict[int, Relation] = field(default_factory=dict)

    @property
    def is_view(self) -> bool:
        return self.relation.kind in ("v", "m")


class Subjects:
    """Every relation under the profile, by OID."""

    def __init__(self, profile: PolicyProfile, database: Database) -> None:
        self.profile = profile
        self.database = database
        self.by_oid = {
            relation.oid: self._own(relation) for relation in database.relations if relation.kind != "S"
        }
        for subject in self.by_oid.values():
            self._made_of(subject)
        own = {oid: (dict(s.masks), list(s.filters)) for oid, s in self.by_oid.items()}
        for subject in self.by_oid.values():
            self._with_children(subject, own)
        for subject in self.by_oid.values():
            if subject.is_view:
                self._through(subject)
        for subject in self.by_oid.values():
            self._partition(subject)

    def __getitem__(self, oid: int) -> Subject:
        return self.by_oid[oid]

    def _identities(self, relation: Relation) -> list[Relation]:
        return [relation, *self.database.ancestors(relation)]

    def _own(self, relation: Relation) -> Subject:
        profile, subject = self.profile, Subject(relation)
        identities = self._identities(relation)
        named = bool(profile.allow_patterns) and any(
            pattern.matches(each.schema, each.name, bare="public", strict=True)
            for pattern in profile.allow_patterns
            for each in identities
        )
        # What an extension brought (statistics of statements, say) is for those who name it.
        subject.allowed = named or (not profile.allow_patterns and relation.extension is None)
        for each in identities:
            if self._denies(each):
                subject.denied = each.shown
            for pattern, rule in profile.masks:
                if pattern.matches(each.schema, each.name, bare="public", strict=False):
                    for column in relation.columns:
                        if rule.column_name.matches(column.name, strict=False):
                            kind = strictest(subject.masks.get(column.name), rule.kind)
                            assert kind is not None
                            subject.masks[column.name] = kind
            for entry in profile.filters:
                if entry[0].matches(each.schema, each.name, bare="public", strict=False):
                    if entry not in subject.filters:
                        subject.filters.append(entry)
        return subject

    def _denies(self, relation: Relation) -> bool:
        return any(
            pattern.matches(relation.schema, relation.name, bare="any", strict=False)
            for pattern in self.profile.deny_patterns
        )

    def _made_of(self, subject: Subject) -> None:
        """A generated column inherits the strictest mask of what it is made of, and a hash as `redact`.

        (A hash of something derived would tell as well whether a guess is right.)
        """
        relation = subject.relation
        for column in relation.columns:
            for number in column.sources if column.generated else ():
                source = relation.by_number.get(number)
                kind = subject.masks.get(source.name) if source is not None else None
                if kind is not None:
                    inherited = strictest(
                        subject.masks.get(column.name), "redact" if kind == "hash" else kind
                    )
                    assert inherited is not None
                    subject.masks[column.name] = inherited

    def _with_children(
        self,
        subject: Subject,
        own: dict[int, tuple[dict[str, MaskKind], list[tuple[RelationPattern, Predicate]]]],
    ) -> None:
        """Reading a parent reads its children: their masks hold there too, their own filters could not."""
        opened = subject.denied is None and subject.refused is None
        for child in self.database.descendants(subject.relation):
            masks, filters = own[child.oid]
            for column, kind in masks.items():
                merged = strictest(subject.masks.get(column), kind)
                assert merged is not None
                subject.masks[column] = merged
            mine = {(str(pattern), predicate.text) for pattern, predicate in subject.filters}
            if {(str(pattern), predicate.text) for pattern, predicate in filters} - mine:
                subject.refused = f'its partition or child "{child.shown}" has a row filter of its own'
            if self._denies(child):
                subject.denied = child.shown
        # (A partitioned table has no rows of its own.)
        subject.alone = opened and not self.is_open(subject) and subject.relation.kind == "r"

    @staticmethod
    def is_open(subject: Subject) -> bool:
        """Whether neither it nor what is read with it is denied or refused."""
        return subject.denied is None and subject.refused is None

    def _through(self, subject: Subject) -> None:
        queue = [oid for oid, _ in subject.relation.reads]
        while queue:
            read = self.by_oid.get(queue.pop())
            if read is None or read.relation.oid in subject.reads:
                continue
            subject.reads[read.relation.oid] = read.relation
            queue += [oid for oid, _ in read.relation.reads]
            if read.denied is not None:
                subject.denied = read.denied
            if read.refused is not None:
                subject.refused = f'it reads "{read.relation.shown}": {read.refused}'
            if read.relation.kind == "m" or subject.relation.kind == "m":
                # A stored result has the rows and values of when it was made.
                stored = subject if subject.relation.kind == "m" else None
                if stored is not None and (read.masks or read.filters):
                    subject.refused = (
                        f'it is a stored result over "{read.relation.shown}", which is masked or filtered'
                    )

    def _partition(self, subject: Subject) -> None:
        if not subject.relation.is_partition:
            return
        for parent in self.database.ancestors(subject.relation):
            masks = self.by_oid[parent.oid].masks
            keys = [parent.by_number.get(number) for number in parent.partition_key or ()]
            if masks and any(key is None or key.name in masks for key in keys):
                subject.refused = (
                    f'its name tells values of a masked column, the partition key of "{parent.shown}"'
                )
