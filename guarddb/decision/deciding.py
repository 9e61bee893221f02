"""Which entry of the profile decided, by its place in the document: `masking_rules[2]`, `table_denylist[0]`, `floor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guarddb.decision.case import Case
from guarddb.decision.refusal import Refusal
from guarddb.sql.statement import Reference, origins
from guarddb.vocabulary import FLOOR_RULES, Rule

if TYPE_CHECKING:
    from guarddb.decision.on_catalog import Governance

#: Rules that one field of the profile stands for.
_FIELDS: dict[Rule, str] = {
    "read_only": "access_mode",
    "locking_select": "access_mode",
    "table_not_allowed": "table_allowlist",
    "max_affected_rows": "max_affected_rows",
    "max_affected_rows_writable_cte": "max_affected_rows",
    **dict.fromkeys(FLOOR_RULES, "floor"),
}


def of_refusal(refusal: Refusal, case: Case | None) -> str | None:
    """The entry behind a refusal; None where it is the engine's own limit and no field's."""
    if refusal.deciding is not None:
        return refusal.deciding
    if refusal.rule in _FIELDS:
        return _FIELDS[refusal.rule]
    if case is None:
        return None
    if refusal.rule.startswith("masked_column"):
        return of_masks(case)
    if refusal.rule.startswith("row_filter"):
        return of_filters(case)
    return None


def of_masks(case: Case) -> str | None:
    """The masking rule of the first masked column that the statement uses, or else touches."""
    governance = case.governance
    for root in case.statement.roots:
        for link, _ in root.uses:
            for reference, column in sorted(origins(link), key=lambda o: (o[0].qualified_name, o[1])):
                if (found := _mask_entry(governance, reference, column)) is not None:
                    return found
    if case.statement.top is not None:
        for output in case.statement.top.outputs:
            for reference, column in sorted(origins(output), key=lambda o: (o[0].qualified_name, o[1])):
                if (found := _mask_entry(governance, reference, column)) is not None:
                    return found
    for reference, rules in case.ruled:
        for column in rules.masks:
            if (found := _mask_entry(governance, reference, column)) is not None:
                return found
    return None


def _mask_entry(governance: Governance, reference: Reference, column: str) -> str | None:
    rules = governance.rules(reference)
    kind = rules.masks.get(column)
    if kind is None:
        return None
    identities = [*rules.identities, *sorted(rules.seen_through)]
    entries = [
        (index, rule)
        for index, (pattern, rule) in enumerate(governance.masks)
        if any(pattern.matches(*identity, bare="public", strict=False) for identity in identities)
    ]
    # A view may have given the column another name, and a child may have a rule of its own.
    exact = [e for e in entries if e[1].column_name.matches(column, strict=False)] or entries
    for index, rule in exact:
        if rule.kind == kind:
            return f"masking_rules[{index}]"
    return f"masking_rules[{exact[0][0]}]" if exact else None


def of_filters(case: Case) -> str | None:
    """The row filter of the first filtered relation that the statement touches."""
    for _, rules in case.ruled:
        if rules.filter_entry is not None:
            return rules.filter_entry
    return None
