"""What the views of a statement call: whose functions may read, with their owner's rights, what the policy hides."""

from __future__ import annotations

import re
from collections.abc import Iterator

from guarddb.decision.case import Case
from guarddb.sql.catalog import Function
from guarddb.sql.statement import Reference, Statement

_WORD = re.compile(r"[A-Za-z_\u0080-\U0010ffff][\w$]*")


def views_read(case: Case) -> Iterator[tuple[Reference, Statement]]:
    """The definitions of the views that a statement reads, at any depth, each with the view that it names."""
    for reference in case.statement.references:
        if reference.mode == "ddl":
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


def hidden_relation_named_in(function: Function, case: Case) -> str | None:
    """The first relation with a rule, or denied, that a function's text names, or that of a function named there."""
    assert case.catalog is not None
    governance, denied = case.governance, case.policy.profile.deny_patterns
    words: set[str] = set()
    seen: set[str] = set()
    stack = [function]
    while stack:
        found = {word for each in _WORD.findall(stack.pop().body or "") for word in (each, each.lower())}
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
