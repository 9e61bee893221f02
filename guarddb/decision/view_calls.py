"""What the views of a statement call: whose functions may read, with their owner's rights, what the policy hides."""

from __future__ import annotations

import re
from collections.abc import Iterator

from guarddb.decision.case import Case
from guarddb.decision.operators import types_present
from guarddb.facts.system_relations import secret_named_in
from guarddb.sql.catalog import Catalog, Function
from guarddb.sql.statement import Reference, Statement

_WORD = re.compile(r"[A-Za-z_\u0080-\U0010ffff][\w$]*")


def views_read(case: Case) -> Iterator[tuple[Reference, Statement]]:
    """The definitions of the views that a statement reads, at any depth, each with the view that it names."""
    for reference, rules in case.ruled:
        if rules.definition is None or reference.mode == "ddl":
            continue
        seen: set[tuple[str, str]] = set()
        stack = [reference]
        while stack:
            below = stack.pop()
            definition = case.governance.rules(below).definition
            if definition is None or (below.schema, below.name) in seen:
                continue
            seen.add((below.schema, below.name))
            yield reference, definition
            stack.extend(definition.references)


def functions_unseen(definition: Statement, catalog: Catalog) -> set[str]:
    """The functions of users (`schema.name`) behind the operators, the casts and the domains of a view's definition.

    Generous: every operator of a name counts, and every cast from or to a type that is there.
    """
    found = {
        each.function
        for schema, name in definition.operators
        if schema != "pg_catalog"
        for each in catalog.operators_named(name, schema)
    }
    present = types_present(definition, catalog)
    found |= {
        cast.function
        for cast in catalog.casts
        if cast.function is not None and (cast.source in present or cast.target in present)
    }
    for type_ in present:
        known = catalog.type_named(*type_.split(".", 1)) if "." in type_ else None
        found |= set(known.check_functions) if known is not None else set()
    return {function for function in found if not function.startswith("pg_catalog.")}


def hidden_relation_named_in(function: Function, case: Case) -> str | None:
    """The first relation that a function's text names, or that of a function named there, and that has a rule, is denied, or
    holds secrets of the server's."""
    assert case.catalog is not None
    governance, denied = case.governance, case.policy.profile.deny_patterns
    words: set[str] = set()
    seen: set[str] = set()
    stack = [function]
    while stack:
        body = stack.pop().body or ""
        found = {word for each in _WORD.findall(body) for word in (each, each.lower())}
        if (secret := secret_named_in(found, body)) is not None:
            return secret
        words |= found
        for other in case.catalog.functions:
            if other.name in found and other.name not in seen:
                seen.add(other.name)
                stack += case.catalog.functions_named(other.name, None)
    for relation in case.catalog.relations.values():
        if relation.name not in words or relation.kind == "c":
            continue
        names = (relation.schema, relation.name)
        if governance.rules_for(relation).governed or any(
            pattern.matches(*names, bare="any", strict=False) for pattern in denied
        ):
            return ".".join(names)
    return None
