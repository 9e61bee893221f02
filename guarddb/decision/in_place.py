"""A mask or a filter that matches nothing protects nothing: tables stay closed until somebody has looked at it."""

from __future__ import annotations

from guarddb.decision.case import Case
from guarddb.decision.on_catalog import is_system
from guarddb.decision.refusal import Refusal


def in_place(case: Case) -> Refusal | None:
    """A statement that touches tables, under a profile with a mask or filter that this database has no use for.

    >>> import guarddb
    >>> from guarddb.sql.catalog import Relation
    >>> catalog = guarddb.Catalog("1", 180000, relations={1: Relation(1, "app", "customers", "r")})
    >>> policy = {"masking_rules": [{"table": "customers", "column": "ssn", "kind": "null"}]}  # which means public.customers
    >>> guarddb.evaluate("SELECT * FROM app.customers", policy, catalog).rule
    'policy_unavailable'
    """
    if case.policy.profile.guarddb.on_unknown == "warn":
        return None
    for unknown in (*case.governance.unknown, *case.governance.faults):
        if not unknown.protects:
            continue
        # What is about to be made is not there yet, and the system's relations are no rule's concern.
        if all(r.mode == "ddl" or _own(r.schema) for r in case.statement.references):
            return None
        return Refusal(
            "policy_unavailable",
            f"{unknown.path} of the policy protects nothing in this database: {unknown.shown or unknown.message}",
            "Tell whoever keeps the policy; until it is corrected no table can be read or written.",
            unknown.path.partition(".")[0],
        )
    return None


def _own(schema: str) -> bool:
    """The system's, or the session's own temporary relations."""
    return is_system(schema) or schema.startswith("pg_temp")
