"""Where a filter goes in a statement: the state that its readers and writers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from guarddb.decision.filters.conditions import Conditions, joined
from guarddb.decision.filters.rule import unsafe
from guarddb.decision.masks.writing import Targets
from guarddb.decision.on_catalog import CompiledPolicy, Governance
from guarddb.decision.refusal import Refusal
from guarddb.decision.relation_rules import RelationRules
from guarddb.sql.catalog import Catalog
from guarddb.sql.leakproof.restrictions import Restrictions
from guarddb.sql.rewriting.rewriter import Rewriter
from guarddb.sql.statement import Query, Reference, Statement
from guarddb.tree import Node

__all__ = ["Placing", "alias_twice", "aliases_in", "join_place", "joined", "unsafe"]


class Placing(ABC):
    """The state of one statement whose filters are being placed, and what its readers and writers share."""

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
        self.where: dict[int, tuple[Query, Conditions]] = {}
        self.on: dict[int, tuple[Node, Conditions]] = {}
        self.shown: list[str] = []
        self.hidden_returning = False
        #: a row that is written may raise our own error
        self.checks_rows = False
        #: what goes around targets as they stand when every relation has its place: a fence that hashes a column itself takes
        #: the hash out of the target, and what is asked there has to stay
        self.around: list[Callable[[], Refusal | None]] = []
        self._restrictions: Restrictions | None = None

    @property
    def restrictions(self) -> Restrictions:
        """What the conditions of the statement may tell; worked out when the first filter asks."""
        if self._restrictions is None:
            rules_of = self.governance.rules
            about = [
                reference
                for reference in self.statement.references
                if (rules := rules_of(reference)).filters or rules.needs_inlining
            ]
            self._restrictions = Restrictions(self.statement, self.catalog, about)
        return self._restrictions

    def show(self, rules: RelationRules) -> None:
        for predicate in rules.filters:
            if predicate.shown not in self.shown:
                self.shown.append(predicate.shown)

    def write_conditions(self) -> None:
        """Make the edits to WHERE and ON."""
        for query, conditions in self.where.values():
            if conditions.changed or conditions.gates:
                self.rewriter.add_condition(
                    query, conditions.condition, conditions.forms(), tuple(conditions.gates)
                )
        for join, conditions in self.on.values():
            if conditions.changed:
                self.rewriter.add_on(join, conditions.condition, conditions.forms())

    def where_of(self, query: Query) -> Conditions:
        return self.where.setdefault(id(query), (query, Conditions(query.fields.get("whereClause"))))[1]

    def on_of(self, join: Node) -> Conditions:
        quals = join.get("quals") or join.get("joinCondition")
        return self.on.setdefault(id(join), (join, Conditions(quals)))[1]

    def condition(self, reference: Reference, rules: RelationRules, *, first: bool = False) -> str | None:
        """The filter as a condition on the reference's alias; None where a name in it could be captured.

        `first`: with the form of it that is asked before all else.
        """
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
        texts = [p.text(reference.alias, names) for p in rules.filters]
        if first:
            texts += [p.first(reference.alias, names) for p in rules.filters]
        return joined(texts)

    @abstractmethod
    def write(self) -> Refusal | None:
        """Place every filter of the statement."""


def alias_twice(reference: Reference) -> bool:
    """PostgreSQL refuses the same alias twice in one FROM, but not inside an aliased join."""
    query = reference.query
    if query is None:
        return False
    same = [each for each in query.references if each.alias == reference.alias and each is not reference]
    return bool(same) or (
        query.target is not None and query.target is not reference and query.target.alias == reference.alias
    )


def join_place(reference: Reference) -> str | Node | None:
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
            continue  # preserved: a row that the filter drops would be dropped above as well
        if kind == "JOIN_FULL":
            return inner_on
        # The nullable side of LEFT or RIGHT: the join's own ON decides which rows count as matching.
        return inner_on or (join if has_on else None)
    return "where"


def aliases_in(tree: object) -> set[str]:
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
