"""What a sandboxed session may not do although its branch is its own: reach what the branch shares with its source.

A branch on the same server has tables of its own, and the roles, databases, tablespaces and settings of the server that everybody
has.
"""

from __future__ import annotations

from collections.abc import Iterator

from guarddb.decision.case import Case
from guarddb.decision.refusal import Refusal
from guarddb.sql.catalog import Relation
from guarddb.sql.statement import WRITE_MODES, Reference

#: Objects of the whole server. (`owned` is DROP OWNED and REASSIGN OWNED, which are also about databases; a subscription is
#: kept for the whole server, and takes from another one.)
_SHARED = frozenset(("database", "owned", "parameter acl", "role", "subscription", "system", "tablespace"))
_HINT = (
    "Do it to the tables, views and schemas of the branch; the rest is for a person, on the database itself."
)


def on_a_branch(case: Case) -> Refusal | None:
    """In a sandbox: definitions of what the whole server shares, and writes that leave the branch.

    >>> import guarddb
    >>> policy = {"access_mode": "read_write", "write_mode": "sandbox"}
    >>> guarddb.evaluate("DROP DATABASE shop", policy).rule
    'statement_not_allowed'
    >>> guarddb.evaluate("DROP TABLE orders", policy).verdict  # which is the branch's own
    'allow'
    """
    if case.policy.profile.write_mode != "sandbox":
        return None
    for definition in case.statement.definitions:
        if definition.object in _SHARED:
            return Refusal(
                "statement_not_allowed",
                f"{definition.shown} is about the whole server, which the branch shares with the database it was made from",
                _HINT,
            )
    for reference in case.statement.references:
        if reference.mode not in WRITE_MODES:
            continue
        if any(relation.kind == "f" for relation in _written(reference, case)):
            what = f'"{reference.qualified_name}" is, or has a part that is, a table of another server'
        elif reference.schema == "pg_catalog":
            what = f"\"{reference.qualified_name}\" is PostgreSQL's own, and may be the whole server's"
        else:
            continue
        return Refusal(
            "statement_not_allowed", f"{what}: what is written there does not stay on the branch", _HINT
        )
    return None


def _written(reference: Reference, case: Case) -> Iterator[Relation]:
    """The relations that a write may reach: the one that is named, what is below it, and what a view reads."""
    catalog, relation = case.catalog, reference.relation
    if relation is None or catalog is None:
        return
    through = case.governance.rules_for(relation).seen_through if relation.definition is not None else ()
    for each in (relation, *(catalog.relation(*name) for name in through)):
        if each is not None:
            yield each
            yield from filter(None, map(catalog.by_oid, each.descendants))
