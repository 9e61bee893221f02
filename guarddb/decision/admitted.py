"""Which functions from outside pg_catalog a profile admits."""

from __future__ import annotations

from guarddb.decision.on_catalog import CompiledPolicy
from guarddb.decision.refusal import Refusal
from guarddb.sql.catalog import Catalog, Function
from guarddb.sql.statement import Call


def admitted(function: Function, policy: CompiledPolicy) -> bool:
    """Whether the agent may call a function from outside pg_catalog."""
    if function.is_trusted_extension_code:
        return True
    if function.kind == "a" and function.extension is not None and function.volatility != "v":
        # An extension's aggregate has no language of its own; whoever installed the extension chose what it runs.
        return True
    return named(function.schema, function.name, policy)


def named(schema: str, name: str, policy: CompiledPolicy) -> bool:
    return any(p.matches(schema, name) for p in policy.profile.function_patterns)


def all_admitted(schema: str, name: str, policy: CompiledPolicy, catalog: Catalog | None) -> bool:
    assert catalog is not None
    found = tuple(catalog.functions_named(name, schema))
    return bool(found) and all(admitted(function, policy) for function in found)


def qualified_admitted(function: str, policy: CompiledPolicy, catalog: Catalog) -> bool:
    schema, _, name = function.rpartition(".")
    return schema in ("", "pg_catalog") or all_admitted(schema, name, policy, catalog)


def not_allowed(call: Call, shown: str, policy: CompiledPolicy) -> Refusal:
    allowed = policy.profile.guarddb.function_allowlist
    listed = ", ".join(allowed) if allowed else "none"
    how = {
        "attribute": " (an attribute that is a function)",
        "operator": " (behind an operator)",
        "cast": " (behind a cast)",
    }
    return Refusal(
        "function_not_allowed",
        f'function "{shown}"{how.get(call.how, "")} is not allowed by this policy; allowed user functions: {listed}',
        "Use built-in functions instead.",
    )


def takes(function: Function, call: Call) -> bool:
    """Whether a call with this many arguments can mean the function; attributes and casts always have one."""
    if function.variadic:
        return call.arguments >= function.required_arguments - 1
    return (
        function.required_arguments
        <= call.arguments
        <= max(len(function.arguments), function.required_arguments)
    )
