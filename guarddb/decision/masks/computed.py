"""Writes that let the server compute with a masked value: an error, or none, tells how it compares with what the agent wrote.

With `CHECK (salary <= budget)`, or a generated column `price * pieces`, an UPDATE of `budget` or `pieces` fails or succeeds by
the masked value beside it in the row, which is found by halving. So does a row filter that compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator

from guarddb.decision.case import Case
from guarddb.decision.referential import behind, below, written
from guarddb.decision.refusal import Refusal
from guarddb.sql.catalog import Relation


def computed_with(case: Case) -> Refusal | None:
    """The first column that is written where a CHECK, a generated column or an index compares it with a masked one.

    >>> import guarddb
    >>> from guarddb.sql.catalog import Attribute, Constraint, Relation
    >>> columns = [Attribute(n, i, "pg_catalog.int4", "pg_catalog.int4", "N") for i, n in enumerate(("id", "salary", "budget"))]
    >>> check = Constraint("affordable", "c", columns=("salary", "budget"), expression="salary <= budget")
    >>> staff = Relation(1, "public", "staff", "r", tuple(columns), constraints=(check,))
    >>> catalog = guarddb.Catalog("1", 180000, relations={1: staff})
    >>> masked = [{"table": "staff", "column": "salary", "kind": "null"}]
    >>> policy = {"access_mode": "read_write", "masking_rules": masked}
    >>> guarddb.evaluate("UPDATE staff SET budget = 5 WHERE id = 1", policy, catalog).rule
    'masked_column_predicate'
    >>> guarddb.evaluate("UPDATE staff SET salary = 4, budget = 5 WHERE id = 1", policy, catalog).rule
    'ok'
    """
    governance, catalog = case.governance, case.catalog
    if catalog is None or not governance.masks:
        return None
    for query in case.statement.queries:
        target = query.target
        if target is None or target.relation is None:
            continue
        updated, _ = written(query)
        if not updated:
            continue
        for table in below(target, governance, catalog):
            masks = governance.rules_for(table).masks
            columns = updated
            if masks and target.relation.kind == "v":
                near = (table.oid, *table.ancestors, *table.descendants)
                found = behind(target, updated, governance)
                columns = {column for oid in near for column in found.get(oid, ())}
            filters = [("its row filter", set(p.columns)) for p in governance.rules_for(table).filters]
            for what, together in (*_together(table), *filters) if masks else ():
                mine = sorted(together & columns)
                masked = sorted((together & masks.keys()) - columns)
                if mine and masked:
                    return Refusal(
                        "masked_column_predicate",
                        f'writing "{table.schema}.{table.name}.{mine[0]}" alone is refused: {what} computes with it and with the '
                        f'masked column "{masked[0]}", and whether that fails would tell its value',
                        "Write the masked column in the same statement, or leave this one as it is.",
                    )
    return None


def _together(table: Relation) -> Iterator[tuple[str, set[str]]]:
    """What of a table is computed of several columns when a row is written, and the columns."""
    made_of = {a.name: set(a.reads) for a in table.attributes if a.generated}
    every = {a.name for a in table.attributes}

    def stored(columns: set[str]) -> set[str]:
        # (A generated column stands for what it is made of.)
        return {c for column in columns for c in (made_of.get(column) or {column})}

    for constraint in table.constraints:
        if constraint.kind == "c":
            yield f'the constraint "{constraint.name}"', stored(set(constraint.columns) or every)
    for name, columns in made_of.items():
        yield f'the generated column "{name}"', columns or every
    for index in table.indexes:
        if set(index.reads) - set(index.columns):
            yield f'the index "{index.name}"', stored(set(index.reads))
