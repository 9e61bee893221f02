"""Functions, in whatever clothes they are called: by name, as an attribute, behind an operator or a cast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from guarddb.decision.admitted import admitted, named, not_allowed, takes
from guarddb.decision.case import Case
from guarddb.decision.casts import casts
from guarddb.decision.on_catalog import CompiledPolicy
from guarddb.decision.operators import operators
from guarddb.decision.refusal import Refusal
from guarddb.decision.relations import user_relation
from guarddb.decision.setting_functions import sets_settings
from guarddb.decision.system_columns import HIDDEN_SHOWN
from guarddb.decision.view_calls import functions_unseen, hidden_relation_named_in, views_read
from guarddb.facts import functions as facts
from guarddb.facts.groups import GROUPS
from guarddb.sql.catalog import Catalog, Function, Relation
from guarddb.sql.leakproof.judge import Judge
from guarddb.sql.names import type_name
from guarddb.sql.statement import Call, Reference
from guarddb.tree import Node, SQLSyntaxError, parse

_BOTH = ("public", "pg_catalog")
#: What they do depends on the text of an argument, so that one call says nothing about the next.
_JUDGED_BY_ARGUMENT = (
    facts.INPUT_BY_TYPE_NAME
    | {"set_config"}
    | {name for group in GROUPS if group.named_relation for name in group.members}
)


def functions(case: Case) -> Refusal | None:
    """The first call that the profile does not admit.

    >>> import guarddb
    >>> guarddb.evaluate("SELECT pg_sleep(10)", {}).rule
    'forbidden_function'
    >>> guarddb.evaluate("SELECT upper('x')", {}).rule
    'ok'
    """
    statement, policy, catalog = case.statement, case.policy, case.catalog
    admitted_before = case.governance.admitted
    for call in statement.calls:
        key = (call.schema, call.name, call.arguments, call.how)
        if key in admitted_before:
            continue
        # All of a call's: one rule may be lifted and the other not.
        refusals = list(_call(call, policy, catalog))
        if refusals and _means_the_built_in(call, case):
            refusals = [refusal for refusal in refusals if refusal.rule != "function_not_allowed"]
        elif not refusals and call.name not in _JUDGED_BY_ARGUMENT:
            admitted_before.add(key)
        for refusal in refusals:
            if refusal.rule not in policy.floor_exceptions:
                return refusal
    for rule in (operators, casts, behind_views, sets_settings):
        unknown = rule(case)
        if unknown is not None and unknown.rule not in policy.floor_exceptions:
            return unknown
    return None


def behind_views(case: Case) -> Refusal | None:
    """A call in a view's definition that tells what the policy hides: a built-in that would be refused, or a function that
    names a governed relation in its text, whether it is called by name, by an operator, a cast or the CHECK of a domain."""
    policy, catalog = case.policy, case.catalog
    if catalog is None or policy.profile.forbids_nothing:
        return None
    for reference, definition in views_read(case):
        for call in definition.calls:
            key = ("in a view", call.schema, call.name, call.arguments, call.how)
            if key in case.governance.admitted:
                continue
            if call.schema in (None, "pg_catalog") and facts.builtin(call.name):
                refusal = next(_builtin(call, policy, catalog), None)
            else:
                refusal = _reads_what_is_hidden(call, case)
            if refusal is not None:
                shown = f'view "{reference.qualified_name}" calls a function: '
                return Refusal(refusal.rule, shown + refusal.reason, "Read the tables themselves.")
            if call.name not in _JUDGED_BY_ARGUMENT:
                case.governance.admitted.add(key)
        for function in sorted(functions_unseen(definition, catalog)):
            unseen = ("unseen in a view", function)
            if unseen in case.governance.admitted:
                continue
            schema, _, name = function.rpartition(".")
            refusal = _names_what_is_hidden(catalog.functions_named(name, schema or None), case)
            if refusal is not None:
                shown = f'view "{reference.qualified_name}" has an operator or a cast: '
                return Refusal(refusal.rule, shown + refusal.reason, "Read the tables themselves.")
            case.governance.admitted.add(unseen)
    return None


def _reads_what_is_hidden(call: Call, case: Case) -> Refusal | None:
    assert case.catalog is not None
    found = case.catalog.functions_named(call.name, call.schema)
    return _names_what_is_hidden([each for each in found if takes(each, call)], case)


def _names_what_is_hidden(functions: Iterable[Function], case: Case) -> Refusal | None:
    mine = [each for each in functions if not admitted(each, case.policy)]
    for function in mine:
        if (named_there := hidden_relation_named_in(function, case)) is not None:
            return Refusal(
                "function_not_allowed",
                f'the text of "{function.qualified_name}" names "{named_there}", and no rule reaches what it reads there',
                "Read the tables themselves.",
            )
    return None


def _means_the_built_in(call: Call, case: Case) -> bool:
    """Whether PostgreSQL takes a built-in function for the types of the arguments, and not a user's of the same name.

    With public.lower(varchar): `lower(a_text)` is pg_catalog's, `lower(a_varchar)` is not.
    """
    catalog, name = case.catalog, call.name
    if catalog is None or call.node is None or call.how != "call" or not facts.builtin(name):
        return False
    arguments = call.node.get("args", ())
    if "func_variadic" in call.node or any("NamedArgExpr" in argument for argument in arguments):
        return False
    refused = [
        each
        for each in catalog.functions_named(name, call.schema)
        if takes(each, call) and not admitted(each, case.policy)
    ]
    if not refused or any(catalog.is_domain(type_) for each in refused for type_ in each.arguments):
        return False  # an argument of a domain's type is only known by its base
    judge = Judge(case.statement, catalog, undeclared=None)
    given = [judge.condition(argument).type for argument in arguments]
    if any(
        type_ is None or any(c.source == type_ and c.context == "i" for c in catalog.casts) for type_ in given
    ):
        return False
    found = judge.calls.function(call.schema, name, [type_ for type_ in given if type_ is not None])
    return found is not None and found.wanted not in {each.arguments[: len(given)] for each in refused}


def _call(call: Call, policy: CompiledPolicy, catalog: Catalog | None) -> Iterator[Refusal]:
    schema, name = call.schema, call.name
    if _samples(call):
        return
    reason = facts.refused_by_name(name)
    if reason is not None:
        yield _forbidden(call, reason)
    builtin = facts.builtin(name) if schema in (None, "pg_catalog") else ()
    if builtin:
        yield from _builtin(call, policy, catalog)
    if schema == "pg_catalog" or (schema == "information_schema" and name in facts.INFORMATION_SCHEMA):
        if not builtin and schema == "pg_catalog":
            yield _forbidden(call, "PostgreSQL has no built-in function of that name")
        return
    mine: tuple[Function, ...] = ()
    if catalog is not None:
        mine = tuple(catalog.functions_named(name, schema))
    for function in mine:
        if not takes(function, call) or admitted(function, policy):
            continue
        yield not_allowed(call, function.qualified_name, policy)
    if mine or builtin or call.how in ("field", "attribute"):
        # An attribute or a field that is no function at all is for PostgreSQL to complain about.
        return
    if schema is not None and named(schema, name, policy):
        return
    if schema is None and named("public", name, policy):
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
        yield not_allowed(call, call.shown, policy)
    elif catalog is None or catalog.server_version >= facts.end_of_facts():
        yield _forbidden(call, "neither PostgreSQL nor this database has a function of that name")
    # Else there is no such function, and PostgreSQL says so itself (42883).


def _samples(call: Call) -> bool:
    return (
        call.how == "sample" and facts.is_sampling_method(call.name) and call.schema in (None, "pg_catalog")
    )


def _builtin(call: Call, policy: CompiledPolicy, catalog: Catalog | None) -> Iterator[Refusal]:
    """What the policy says of a call of a built-in function, in a statement or in a view that it reads."""
    if _samples(call):
        return
    if facts.needs_allowlist(call.name):
        refusal = _stateful(call, policy)
    else:
        refusal = _of_its_group(call, policy, catalog) or _argument(call, catalog)
    if refusal is not None:
        yield refusal
    if call.name == "set_config" and not _names_a_setting(call):
        yield Refusal(
            "protected_setting",
            "set_config() of a name that does not stand in the statement could be about a protected setting",
            "Write the name of the setting as a plain text, or use SET.",
        )


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
    hidden = group.tells & policy.governance(catalog).hides
    if not hidden or (group.named_relation and _about_an_open_relation(call, policy, catalog)):
        return None
    why = " and ".join(HIDDEN_SHOWN[what] for what in sorted(hidden))
    return _forbidden(call, f"it {group.what}, and this policy hides {why}")


def _about_an_open_relation(call: Call, policy: CompiledPolicy, catalog: Catalog | None) -> bool:
    """The relation is named by a constant, no list closes it, no filter hides rows of it and no mask whose they are."""
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
    if rules.filters or rules.needs_inlining or rules.unsafe or rules.partition_of is not None:
        return False
    return user_relation(reference, policy, catalog) is None


def _stateful(call: Call, policy: CompiledPolicy) -> Refusal | None:
    if policy.profile.access_mode == "read_write" and any(
        p.matches("pg_catalog", call.name, bare=_BOTH) for p in policy.profile.function_patterns
    ):
        return None
    group = facts.group_for(call.name, call.arguments)
    what = group.what if group is not None else "changes a sequence or takes a lock"
    return Refusal(
        "forbidden_function", f'function "{call.shown}" is refused: it {what}', "Leave the call out."
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


def _argument(call: Call, catalog: Catalog | None) -> Refusal | None:
    """A function that runs the input function of a type named by a string: the string must name a built-in type."""
    if call.name not in facts.INPUT_BY_TYPE_NAME or call.node is None:
        return None
    arguments = call.node.get("args", ())
    named = arguments[1].get("A_Const", {}).get("sval", {}).get("sval") if len(arguments) > 1 else None
    if named is not None and _is_built_in(str(named), catalog):
        return None
    return _forbidden(call, "the type it reads by name is not a constant that names a built-in type")


def _is_built_in(type_: str, catalog: Catalog | None) -> bool:
    """Whether a text is the name of a built-in type, as PostgreSQL's grammar reads it: `integer`, `numeric(10, 2)`, `text[]`."""
    try:
        (statement,) = parse(f"SELECT CAST(NULL AS {type_})")
        select = statement["stmt"]["SelectStmt"]
        (target,) = select["targetList"]
        fields = target["ResTarget"]["val"]["TypeCast"]["typeName"]
    except (SQLSyntaxError, KeyError, ValueError):
        return False
    found = type_name(fields)
    if found is None or not select.keys() <= {"targetList", "limitOption", "op"}:
        return False
    if fields.get("setof") or fields.get("pct_type") or found[0] not in (None, "pg_catalog"):
        return False
    mine = catalog.type_named(*found) if catalog is not None else None
    return facts.builtin_type(found[1]) is not None and mine is None


def _forbidden(call: Call, reason: str) -> Refusal:
    return Refusal(
        "forbidden_function",
        f'function "{call.shown}" is refused: {reason}',
        "Leave the call out, or compute the value with another built-in function.",
    )
