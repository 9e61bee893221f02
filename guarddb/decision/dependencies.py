"""What the operator of a policy should know about the database: what the row filters stand on, the keys whose referential actions
write filtered rows, the foreign keys that repeat a masked value, and the indexes that lay rows in the order of one."""

from __future__ import annotations

from collections.abc import Iterator

from guarddb.decision.on_catalog import CompiledPolicy, Governance
from guarddb.lint.profile import Finding
from guarddb.policy.profile import PolicyProfile
from guarddb.sql.catalog import Catalog

_ACTIONS = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def dependencies(profile: PolicyProfile, catalog: Catalog) -> list[Finding]:
    """Remarks on a profile that take a look at what the database ties together."""
    governance = CompiledPolicy(profile, profile.version, {}).governance(catalog)
    return [*_copies(governance), *_orders(governance), *_actions(governance), *_foundations(governance)]


def _foundations(governance: Governance) -> Iterator[Finding]:
    found = governance.foundation
    for index, (pattern, _) in enumerate(governance.filters):
        table = str(pattern)
        lists = {
            "tables": sorted(f"{s}.{n}" for (s, n), of in found.relations.items() if of == table),
            "functions": sorted(
                name
                for name, of in found.functions.items()
                if of == table
                and governance.catalog is not None
                and any(f.name == name for f in governance.catalog.functions)
            ),
            "types": sorted(
                name
                for name, of in found.types.items()
                if of == table
                and governance.catalog is not None
                and any(t.name == name for t in governance.catalog.types)
            ),
        }
        told = "; ".join(f"{what} {', '.join(names)}" for what, names in lists.items() if names)
        if told:
            yield Finding(
                "advice",
                f"row_filters[{index}].predicate",
                f"depends on {told}: agents may read them and not change them (guarddb.may_change admits tables by name)",
            )
    if found.settings:
        yield Finding(
            "advice",
            "",
            f"what row filters and hashes give follows {', '.join(sorted(found.settings))}: agents may not set them",
        )


def _actions(governance: Governance) -> Iterator[Finding]:
    """Keys whose UPDATE or DELETE writes filtered rows, or rows that a filter reads."""
    assert governance.catalog is not None
    for relation in governance.catalog.relations.values():
        filtered = relation.kind in ("r", "p") and bool(governance.rules_for(relation).filters)
        if not filtered and not governance.is_stood_on(relation):
            continue
        for constraint in relation.constraints:
            acts = [
                f"ON {event} {_ACTIONS[action]}"
                for event, action in (("UPDATE", constraint.on_update), ("DELETE", constraint.on_delete))
                if constraint.kind == "f" and action in _ACTIONS
            ]
            other = governance.catalog.by_oid(constraint.references)
            if acts and other is not None:
                why = "has a row filter" if filtered else "is read by a row filter"
                yield Finding(
                    "warning",
                    "row_filters",
                    f'"{relation.schema}.{relation.name}" {why}, and its foreign key "{constraint.name}" '
                    f"({', '.join(acts)}) would write its rows: agents are refused such writes of "
                    f'"{other.schema}.{other.name}" ({", ".join(constraint.referenced_columns)})',
                )


def _copies(governance: Governance) -> Iterator[Finding]:
    """Foreign keys of columns that are not masked to ones that are: the same values under another name."""
    assert governance.catalog is not None
    for relation in governance.governed_tables:
        masks = governance.rules_for(relation).masks
        for other, constraint in governance.referencing(relation.oid) if masks else ():
            own = governance.rules_for(other).masks
            for column, referenced in zip(constraint.columns, constraint.referenced_columns, strict=False):
                if referenced in masks and column not in own:
                    yield Finding(
                        "warning",
                        "masking_rules",
                        f'"{other.schema}.{other.name}.{column}" repeats the masked '
                        f'"{relation.schema}.{relation.name}.{referenced}" and has no mask of its own',
                    )


def _orders(governance: Governance) -> Iterator[Finding]:
    """Indexes by which a statement that does not name a masked column may be given rows in its order.

    PostgreSQL reads an index on (tenant, email) for `WHERE tenant = 1` or `ORDER BY tenant`, and one on (email) alone for
    nothing but the column itself: as hashes in the order of the values.
    """
    for relation in governance.governed_tables:
        masks = governance.rules_for(relation).masks
        for index in relation.indexes if masks else ():
            masked = [column for column in index.columns if column in masks]
            if masked and (len(index.columns) > len(masked) or "hash" in {masks[each] for each in masked}):
                yield Finding(
                    "warning",
                    "masking_rules",
                    f'rows that are read by the index "{index.name}" of "{relation.schema}.{relation.name}" come in the order '
                    f'of the masked "{masked[0]}"',
                )
