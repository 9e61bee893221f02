"""Functions that the profile admits and that change settings, which row filters and hashes follow, or the catalog."""

from __future__ import annotations

from collections.abc import Iterator

from guarddb.decision.admitted import named, takes
from guarddb.decision.case import Case
from guarddb.decision.refusal import Refusal
from guarddb.decision.settings import is_protected
from guarddb.decision.view_calls import functions_unseen, views_read
from guarddb.sql.catalog import Function
from guarddb.sql.statement import WRITE_MODES


def sets_settings(case: Case) -> Refusal | None:
    """A call of a function whose text sets what the policy holds: it would be another while the statement still runs.

    With `function_allowlist: [as_tenant]` and a filter that reads app.tenant: `SELECT as_tenant(2), * FROM docs` -> refused
    """
    for function in _called(case):
        settings = case.governance.settings_of(function)
        shown = function.qualified_name
        held = sorted(name for name in settings.names if is_protected(name, case))
        if held:
            return Refusal(
                "protected_setting",
                f'the text of "{shown}" changes the setting "{held[0]}", which this policy holds',
                "Leave the call out.",
            )
        if settings.computed:
            return Refusal(
                "protected_setting",
                f'the text of "{shown}" calls set_config() with a name that does not stand there, perhaps of a setting that '
                "this policy holds",
                "Leave the call out.",
            )
    return None


def may_change_settings(case: Case) -> bool:
    """Whether the settings that the policy holds have to be set again when the statement has run."""
    if any(case.governance.settings_of(function).any for function in _called(case)):
        return True
    # (A trigger may be one of a table that a foreign key's action or another trigger writes.)
    writes = any(reference.mode in WRITE_MODES for reference in case.statement.references)
    return writes and case.governance.triggers_set_settings


def may_define(case: Case) -> bool:
    """Whether functions or triggers may change the catalog while the statement runs, which no look at it shows before COMMIT."""
    if any(case.governance.defines(function) for function in _called(case)):
        return True
    writes = any(reference.mode in WRITE_MODES for reference in case.statement.references)
    return writes and case.governance.triggers_define


def _called(case: Case) -> Iterator[Function]:
    """The functions of users that the profile lists and that run with the statement, views and operators included."""
    catalog, policy = case.catalog, case.policy
    if catalog is None or not policy.profile.function_patterns:
        return
    for statement in (case.statement, *(definition for _, definition in views_read(case))):
        for call in statement.calls:
            for function in catalog.functions_named(call.name, call.schema):
                if takes(function, call) and named(function.schema, function.name, policy):
                    yield function
        for qualified in sorted(functions_unseen(statement, catalog)):
            schema, _, name = qualified.rpartition(".")
            yield from catalog.functions_named(name, schema or None)
