"""What a policy makes of one relation: the masks and filters that apply to it, and what else has to be known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from guarddb.decision.filters.predicates import BoundPredicate
from guarddb.decision.plan import MaskedColumn
from guarddb.facts.system_relations import ClosedColumns
from guarddb.sql.statement import Statement
from guarddb.vocabulary import MaskKind

NO_MASKS: Mapping[str, MaskKind] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ClosedColumn:
    """Where a column of a view comes from: a closed column of the relation of this name."""

    relation: str
    closed: ClosedColumns


class RelationRules:
    """What applies to one relation.

    Attributes:
        identities: every (schema, name) it counts as: itself, then what it is a partition or child of.
        columns: the names of its attributes, where they are known.
        masks: attribute name -> kind. For a view: by where its columns come from. `masked` are the same as a decision says them.
        filters: the row filters of its identities.
        filter_entry: the entry of the profile of the first of them, or of one of a relation that it is seen through.
        seen_through: of a view, every relation its definition reads, at any depth.
        predicate_masks: of a view, masked columns (`schema.table.column`) that its definition filters, joins or sorts by.
        unsafe: why rows of it cannot be filtered at all, or None.
        needs_inlining: a view over a filtered relation.
        definition: the facts of a view's definition.
        closed: of a view, what comes from columns of the server's own relations that the policy closes, by the view's
            columns (None: which rows it has); None until somebody has asked.
        collations: the collations of its columns that are not the database's; None until somebody has asked.
        masked_key: of a partitioned table, a masked column that decides to which partition a row belongs.
        partition_of: of a partition, the masked column (`schema.table.column`) whose values its name tells.
    """

    __slots__ = (
        "_masked",
        "_readable",
        "_shown",
        "closed",
        "collations",
        "columns",
        "definition",
        "filter_entry",
        "filters",
        "identities",
        "masked_key",
        "masks",
        "needs_inlining",
        "partition_of",
        "predicate_masks",
        "seen_through",
        "unsafe",
    )

    def __init__(self) -> None:
        self.identities: list[tuple[str, str]] = []
        self.columns: frozenset[str] = frozenset()
        self.masks: Mapping[str, MaskKind] = NO_MASKS
        self.filters: list[BoundPredicate] = []
        self.seen_through: set[tuple[str, str]] = set()
        self.predicate_masks: list[str] = []
        self.unsafe: str | None = None
        self.needs_inlining = False
        self.definition: Statement | None = None
        self.closed: dict[str | None, ClosedColumn] | None = None
        self.collations: frozenset[str] | None = None
        self.masked_key: str | None = None
        self.partition_of: str | None = None
        self.filter_entry: str | None = None
        self._masked: tuple[MaskedColumn, ...] | None = None
        self._shown: tuple[str, ...] | None = None
        self._readable: bool | None = None

    @property
    def masked(self) -> tuple[MaskedColumn, ...]:
        if self._masked is None:
            self._masked = tuple(MaskedColumn(column, kind) for column, kind in self.masks.items())
        return self._masked

    @property
    def shown(self) -> tuple[str, ...]:
        """The predicates of its filters as a decision shows them, each once."""
        if self._shown is None:
            self._shown = tuple(dict.fromkeys(predicate.shown for predicate in self.filters))
        return self._shown

    @property
    def readable(self) -> bool:
        """Whether nothing about the filters themselves forbids to read it."""
        if self._readable is None:
            self._readable = self.unsafe is None and all(p.missing is None for p in self.filters)
        return self._readable

    @property
    def governed(self) -> bool:
        return bool(self.masks or self.filters or self.needs_inlining or self.unsafe)
