"""ON CONFLICT over a masked unique key: which rows conflict tells whether a guessed value is there."""

from __future__ import annotations

from guarddb.decision.case import Case
from guarddb.decision.refusal import Refusal
from guarddb.sql.catalog import Relation
from guarddb.sql.statement import Reference


def conflicts(case: Case) -> Refusal | None:
    """ON CONFLICT ON CONSTRAINT of a masked key, and ON CONFLICT without a target where there is such a key.

    (A target that names columns is a use of these columns like any other.)

    >>> import guarddb
    >>> policy = {"access_mode": "read_write", "masking_rules": [{"table": "p", "column": "ssn", "kind": "null"}]}
    >>> guarddb.evaluate("INSERT INTO p VALUES (1) ON CONFLICT ON CONSTRAINT p_ssn_key DO NOTHING", policy).rule
    'masked_column_predicate'
    """
    if not case.governance.masks:
        return None
    for query in case.statement.queries:
        clause = query.fields.get("onConflictClause") if query.kind == "insert" else None
        if clause is None or query.target is None:
            continue
        infer = clause.get("infer", {})
        if infer.get("indexElems"):
            continue
        shown = _masked_key(query.target, infer.get("conname"), case)
        if shown is not None:
            return Refusal(
                "masked_column_predicate",
                f'masked column "{shown}" may be selected, but not used to find a conflicting row',
                "Name the columns of a key that is not masked: ON CONFLICT (id).",
            )
    return None


def _masked_key(target: Reference, constraint: str | None, case: Case) -> str | None:
    """The masked column of a key that may decide, or None."""
    governance, catalog = case.governance, case.catalog
    rules = governance.rules(target)
    if catalog is None or target.relation is None:
        # Which columns the constraint is of, nobody knows.
        masked = next(iter(rules.masks), None)
        return f"{target.qualified_name}.{masked}" if masked is not None and constraint is not None else None
    tables: list[Relation] = [target.relation]
    tables += [r for identity in sorted(rules.seen_through) if (r := catalog.relation(*identity)) is not None]
    # A partition has keys of its own, and only a constraint's name says which is meant.
    for table in list(tables):
        tables += [
            child
            for oid in (*table.descendants, *table.ancestors)
            if (child := catalog.by_oid(oid)) is not None
        ]
    for table in tables:
        masks = governance.rules_for(table).masks
        if not masks:
            continue
        for index in table.indexes:
            if not (index.unique or index.exclusion) or (constraint is not None and index.name != constraint):
                continue
            reads = set(index.reads) or set(masks)  # an expression over the whole row names no column
            for column in sorted(reads & masks.keys()):
                if "equality" not in governance.uses_of(table, column):
                    return f"{table.schema}.{table.name}.{column}"
    return None
