"""Functions, in whatever clothes they are called: by name, as an attribute, behind an operator or a cast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

from guarddb.decision.case import Case
from guarddb.decision.on_catalog import CompiledPolicy
from guarddb.decision.refusal import Refusal
from guarddb.decision.relations import HIDDEN_SHOWN, user_relation
from guarddb.facts import functions as facts
from guarddb.facts.groups import GROUPS
from guarddb.sql.catalog import Cast, Catalog, Function, Relation
from guarddb.sql.statement import Call, Reference, Statement
from guarddb.tree import Node, SQLSyntaxError, parse

_BOTH = ("public", "pg_catalog")
#: What they do depends on the text of an argument, so that one call says nothing about the next.
_JUDGED_BY_ARGUMENT = (
    facts.INPUT_BY_TYPE_NAME
    | {"set_config"}
    | {name for group in GROUPS if group.named_relation for name in group.members}
)


def functions(case: Case) -> Refusal | None:
    """The first call that the profile does not admit."""
    statement, policy, catalog = case.statement, case.policy, case.catalog
    admitted_before = case.governance.admitted
    for call in statement.calls:
        key = (call.schema, call.name, call.arguments, call.how)
        if key in admitted_before:
            continue
        # All of a call's: one rule may be lifted and the other not.
        refusals = list(_call(call, policy, catalog))
        if not refusals and call.name not in _JUDGED_BY_ARGUMENT:
            admitted_before.add(key)
        for refusal in refusals:
            if refusal.rule not in policy.floor_exceptions:
                return refusal
    if not statement.operators <= admitted_before:
        unknown = _operators(statement, policy, catalog)
        if unknown is None:
            admitted_before |= statement.operators
        elif unknown.rule not in policy.floor_exceptions:
            return unknown
    if catalog is None:
        unknown = _unknown_types(statement)
    else:
        checks, casts = _not_admitted(policy, catalog)
        unknown = _types(statement, policy, catalog, checks, casts) if checks or casts else None
    return unknown if unknown is not None and unknown.rule not in policy.floor_exceptions else None


def _call(call: Call, policy: CompiledPolicy, catalog: Catalog | None) -> Iterator[Refusal]:
    schema, name = call.schema, call.name
    if call.how == "sample" and facts.is_sampling_method(name) and schema in (None, "pg_catalog"):
        return
    reason = facts.refused_by_name(name)
    if reason is not None:
        yield _forbidden(call, reason)
    builtin = facts.builtin(name) if schema in (None, "pg_catalog") else ()
    if builtin:
        if facts.needs_allowlist(name):
            refusal = _stateful(call, policy)
        else:
            refusal = _of_its_group(call, policy, catalog) or _argument(call)
        if refusal is not None:
            yield refusal
        if name == "set_config" and not _names_a_setting(call):
            yield Refusal(
                "protected_setting",
                "set_config() of a name that does not stand in the statement could be about a protected setting",
                "Write the name of the setting as a plain text, or use SET.",
            )
    if schema == "pg_catalog" or (schema == "information_schema" and name in facts.INFORMATION_SCHEMA):
        if not builtin and schema == "pg_catalog":
            yield _forbidden(call, "PostgreSQL has no built-in function of that name")
        return
    mine: tuple[Function, ...] = ()
    if catalog is not None:
        mine = tuple(catalog.functions_named(name, schema))
    for function in mine:
        if not _takes(function, call) or admitted(function, policy):
            continue
        yield _not_allowed(call, function.qualified_name, policy)
    if mine or builtin or call.how in ("field", "attribute"):
        # An attribute or a field that is no function at all is for PostgreSQL to complain about.
        return
    if schema is not None and _named(schema, name, policy):
        return
    if schema is None and _named("public", name, policy):
        return
    if catalog is None and schema != "information_schema":
        yield Refusal(
            "function_not_allowed",
            f'function "{call.shown}" is not a built-in one, and without a catalog nobody can say what it does',
            "Use a built-in function, or evaluate with the database's catalog.",
        )
    elif catalog is not None and (
        catalog.type_named(schema, name) is not None or catalog.resolve(schema, name) is not None
    ):
        # `type(x)` is a cast in the clothes of a call, and every relation is a type.
        yield _not_allowed(call, call.shown, policy)
    elif catalog is None or catalog.server_version >= _facts_end():
        yield _forbidden(call, "neither PostgreSQL nor this database has a function of that name")
    # Else there is no such function, and PostgreSQL says so itself (42883).


@cache
def _facts_end() -> int:
    """From this version on a server may have built-in functions that the facts do not know."""
    return (max(facts.facts().majors) + 1) * 10_000


def _of_its_group(call: Call, policy: CompiledPolicy, catalog: Catalog | None) -> Refusal | None:
    """What the policy makes of a built-in function that does more than compute; see docs/functions.md."""
    group = facts.group_for(call.name, call.arguments)
    if group is None:
        reason = facts.not_for_queries(call.name, call.arguments)
        return None if reason is None else _forbidden(call, reason)
    if group.standing == "passes" or group.name in policy.profile.guarddb.function_groups:
        return None
    if group.standing == "refused":
        if call.name == "set_config" and _sets_a_setting(call, policy):
            return None
        return _forbidden(call, f"it {group.what}")
    hidden = group.tells & policy.hides
    if not hidden or (group.named_relation and _about_an_open_relation(call, policy, catalog)):
        return None
    why = " and ".join(HIDDEN_SHOWN[what] for what in sorted(hidden))
    return _forbidden(call, f"it {group.what}, and this policy hides {why}")


def _about_an_open_relation(call: Call, policy: CompiledPolicy, catalog: Catalog | None) -> bool:
    """The relation is named by a constant, no list closes it and no filter hides rows of it."""
    if catalog is None or call.node is None or not call.node.get("args"):
        return False
    argument: Node = call.node["args"][0]
    while "TypeCast" in argument:
        argument = argument["TypeCast"]["arg"]
    text = argument.get("A_Const", {}).get("sval", {}).get("sval")
    if text is None:
        return False
    try:
        ((_, select),) = parse(f"TABLE {text}")[0]["stmt"].items()
        ((kind, fields),) = select["fromClause"][0].items()
    except (SQLSyntaxError, KeyError, ValueError, IndexError):
        return False
    if kind != "RangeVar" or len(select["fromClause"]) != 1:
        return False
    found = catalog.lookup(fields.get("schemaname"), fields["relname"])
    if found is None:
        return False
    if not isinstance(found, Relation):
        return True
    reference = Reference(found.schema, found.name, found, fields, "read", None, found.name)
    rules = policy.governance(catalog).rules(reference)
    if rules.filters or rules.needs_inlining or rules.unsafe:
        return False
    return user_relation(reference, policy, catalog) is None


def _takes(function: Function, call: Call) -> bool:
    """Whether a call with this many arguments can mean the function; attributes and casts always have one."""
    if function.variadic:
        return call.arguments >= function.required_arguments - 1
    return (
        function.required_arguments
        <= call.arguments
        <= max(len(function.arguments), function.required_arguments)
    )


def admitted(function: Function, policy: CompiledPolicy) -> bool:
    """Whether the agent may call a function from outside pg_catalog."""
    if function.is_trusted_extension_code:
        return True
    if function.kind == "a" and function.extension is not None and function.volatility != "v":
        # An extension's aggregate has no language of its own; whoever installed the extension chose what it runs.
        return True
    return _named(function.schema, function.name, policy)


def _named(schema: str, name: str, policy: CompiledPolicy) -> bool:
    return any(p.matches(schema, name) for p in policy.profile.function_patterns)


def _stateful(call: Call, policy: CompiledPolicy) -> Refusal | None:
    if policy.profile.access_mode == "read_write" and any(
        p.matches("pg_catalog", call.name, bare=_BOTH) for p in policy.profile.function_patterns
    ):
        return None
    return Refusal(
        "forbidden_function",
        f'function "{call.shown}" is refused: it changes a sequence or takes a lock that outlives a rollback, '
        "and this policy does not list it",
        "Leave the call out.",
    )


def _sets_a_setting(call: Call, policy: CompiledPolicy) -> bool:
    """set_config() of a constant name is a SET, where the policy lets SET through by name. The floor has seen the name."""
    profile = policy.profile
    allowed = profile.statement_rules.allow
    by_name = "set" in allowed or (profile.access_mode == "read_write" and not allowed)
    return by_name and "set" not in profile.statement_rules.deny and _names_a_setting(call)


def _names_a_setting(call: Call) -> bool:
    """Whether the floor could read which setting a set_config() is about."""
    if call.node is None:
        return False
    # A cast could make another name of the text, and names of arguments another argument of the first.
    arguments = call.node.get("args", ())
    return (
        len(arguments) == 3
        and "sval" in arguments[0].get("A_Const", {})
        and not any("NamedArgExpr" in argument for argument in arguments)
    )


def _argument(call: Call) -> Refusal | None:
    """A function that runs the input function of a type named by a string: the string must name a built-in type."""
    if call.name not in facts.INPUT_BY_TYPE_NAME or call.node is None:
        return None
    arguments = call.node.get("args", ())
    named = arguments[1].get("A_Const", {}).get("sval", {}).get("sval") if len(arguments) > 1 else None
    if named is not None and facts.builtin_type(str(named).strip().lower()) is not None:
        return None
    return _forbidden(call, "the type it reads by name is not a constant that names a built-in type")


def _forbidden(call: Call, reason: str) -> Refusal:
    return Refusal(
        "forbidden_function",
        f'function "{call.shown}" is refused: {reason}',
        "Leave the call out, or compute the value with another built-in function.",
    )


def _not_allowed(call: Call, shown: str, policy: CompiledPolicy) -> Refusal:
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


def _operators(statement: Statement, policy: CompiledPolicy, catalog: Catalog | None) -> Refusal | None:
    for schema, name in statement.operators:
        builtin = facts.builtin_operator(name) if schema in (None, "pg_catalog") else ()
        mine = tuple(catalog.operators_named(name)) if catalog is not None and schema != "pg_catalog" else ()
        for operator in mine:
            if schema is not None and operator.schema != schema:
                continue
            behind_schema, _, behind = operator.function.rpartition(".")
            if behind_schema in ("", "pg_catalog"):
                continue
            if not _all_admitted(behind_schema, behind, policy, catalog):
                return _not_allowed(Call(None, behind, 2, None, how="operator"), operator.function, policy)
        if not builtin and not mine:
            shown = f"{schema}.{name}" if schema else name
            without = " without a catalog" if catalog is None else ""
            return Refusal(
                "function_not_allowed",
                f'operator "{shown}" is not known{without}, so what it calls cannot be judged',
                "Use a built-in operator"
                + (", or evaluate with the database's catalog." if catalog is None else "."),
            )
    return None


def _all_admitted(schema: str, name: str, policy: CompiledPolicy, catalog: Catalog | None) -> bool:
    assert catalog is not None
    found = tuple(catalog.functions_named(name, schema))
    return bool(found) and all(admitted(function, policy) for function in found)


def _unknown_types(statement: Statement) -> Refusal | None:
    for use in statement.types:
        if use.schema in (None, "pg_catalog") and facts.builtin_type(use.name) is not None:
            continue
        shown = f"{use.schema}.{use.name}" if use.schema else use.name
        return Refusal(
            "function_not_allowed",
            f'type "{shown}" is not a built-in one, and without a catalog nobody can say what a cast to it runs',
            "Cast to a built-in type, or evaluate with the database's catalog.",
        )
    return None


def _not_admitted(policy: CompiledPolicy, catalog: Catalog) -> tuple[list[str], list[Cast]]:
    """The functions of domains' CHECKs and the casts that the agent may not call; worked out once a catalog."""
    governance = policy.governance(catalog)
    if governance.type_hazards is None:
        checks = [
            c for t in catalog.types for c in t.check_functions if not _qualified_admitted(c, policy, catalog)
        ]
        casts = [
            cast
            for cast in catalog.casts
            if cast.function is not None and not _qualified_admitted(cast.function, policy, catalog)
        ]
        governance.type_hazards = (checks, casts)
    return governance.type_hazards


def _types(
    statement: Statement, policy: CompiledPolicy, catalog: Catalog, checks: list[str], casts: list[Cast]
) -> Refusal | None:
    """Casts that call user functions, and domains whose CHECK does."""
    named: set[str] = set()
    for use in statement.types:
        found = catalog.type_named(use.schema, use.name)
        if found is None:
            named.add(f"pg_catalog.{use.name}" if use.schema is None else f"{use.schema}.{use.name}")
        else:
            named.add(f"{found.schema}.{found.name}")
        if checks and (found is None or found.kind in "cdrm" or found.category == "A"):
            builtin = (
                found is None
                and use.schema in (None, "pg_catalog")
                and facts.builtin_type(use.name) is not None
            )
            mine = found.check_functions if found is not None and found.kind == "d" else checks
            # A composite, an array or a range of a domain runs its CHECK as well; which one holds which is not asked.
            guilty = [c for c in mine if c in checks]
            if guilty and not builtin:
                return _not_allowed(Call(None, guilty[0], 1, None, how="cast"), guilty[0], policy)
    if checks and any(call.name in _POPULATES for call in statement.calls):
        return _not_allowed(Call(None, checks[0], 1, None, how="cast"), checks[0], policy)
    if not casts:
        return None
    if any(call.name in facts.RUNS_JSON_CAST for call in statement.calls):
        named.update(("pg_catalog.json", "pg_catalog.jsonb"))
    touched = named | set(_column_types(statement))
    for cast in casts:
        # A built-in type is in reach of every expression; a user's only by a column or by name.
        source = cast.source in touched or (cast.context != "e" and cast.source.startswith("pg_catalog."))
        target = cast.target in named or (
            cast.context != "e" and (cast.target in touched or cast.target.startswith("pg_catalog."))
        )
        if source and target and cast.function is not None:
            return _not_allowed(Call(None, cast.function, 1, None, how="cast"), cast.function, policy)
    return None


#: They make rows of a type that comes with a value: its domains' CHECKs run.
_POPULATES = frozenset(
    (
        "json_populate_record",
        "jsonb_populate_record",
        "json_populate_recordset",
        "jsonb_populate_recordset",
        "jsonb_populate_record_valid",
    )
)


def _qualified_admitted(function: str, policy: CompiledPolicy, catalog: Catalog) -> bool:
    schema, _, name = function.rpartition(".")
    return schema in ("", "pg_catalog") or _all_admitted(schema, name, policy, catalog)


def _column_types(statement: Statement) -> Iterable[str]:
    for reference in statement.references:
        if reference.relation is not None:
            for attribute in reference.relation.attributes:
                yield attribute.type
                yield attribute.base_type
