"""What every rule is asked about."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from msgspec import Struct, field

from guarddb.decision.masks.marks import Marks

if TYPE_CHECKING:
    from guarddb.decision.on_catalog import CompiledPolicy, Governance
    from guarddb.decision.relation_rules import RelationRules
    from guarddb.decision.wall_in_force import Wall
    from guarddb.sql.catalog import Catalog
    from guarddb.sql.statement import Reference, Statement


class Case(Struct, frozen=True):
    """One statement of a text, before one policy.

    Attributes:
        statement: the facts of the statement.
        policy: the profile, with the settings of its row filters.
        catalog: what the database holds, or None for a decision without one.
        governance: what the policy makes of the catalog's relations.
        ruled: each mention of a relation, in order, with the rules for the relation.
        marks: what the masking rules note for those that write the masks.
        wall: the views through which PostgreSQL itself masks and filters, or None where guarddb does.
    """

    statement: Statement
    policy: CompiledPolicy
    catalog: Catalog | None
    governance: Governance
    ruled: list[tuple[Reference, RelationRules]]
    marks: Marks = field(default_factory=Marks)
    wall: Wall | None = None


def case_of(
    statement: Statement, policy: CompiledPolicy, catalog: Catalog | None, wall: Wall | None = None
) -> Case:
    """A statement before a policy, with nothing noted yet."""
    governance = policy.governance(catalog)
    return Case(statement, policy, catalog, governance, governance.ruled(statement.references), wall=wall)


def is_governed(case: Case) -> bool:
    """Whether a statement mentions a relation with masks or filters."""
    for _, rules in case.ruled:  # noqa: SIM110 (asked of every statement: a generator takes twice as long)
        if rules.governed:
            return True
    return False


def filters_of(case: Case) -> tuple[str, ...]:
    """The predicates of every filtered relation that a statement reads or writes, each once."""
    if len(case.ruled) == 1:
        ((reference, rules),) = case.ruled
        return rules.shown if reference.mode != "ddl" else ()
    shown = [rules.shown for reference, rules in case.ruled if rules.filters and reference.mode != "ddl"]
    return tuple(dict.fromkeys(chain.from_iterable(shown)))


def stores_text(statement: Statement) -> bool:
    """A definition that keeps its queries as they are written: a view, a policy. Whoever reads it later is judged then."""
    return statement.ddl is not None and statement.ddl[0] not in ("CreateTableAsStmt", "CopyStmt")
