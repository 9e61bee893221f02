"""Values of PostgreSQL settings that row filters read, from a profile or from the caller of connect()."""

from __future__ import annotations

import math
from collections.abc import Mapping

from guarddb.policy.errors import PolicyError, join_path, quoted
from guarddb.policy.predicate import SETTING_NAME
from guarddb.vocabulary import PROTECTED_SETTINGS

#: Settings that are guarddb's own walls; a profile may not hand out values for them.
GUARDED_SETTINGS = PROTECTED_SETTINGS | {"search_path", "role", "session_authorization", "is_superuser"}


def checked_settings(value: Mapping[object, object]) -> dict[str, str]:
    """Names in lower case, values as text.

    Raises:
        PolicyError: every name and value that will not do, each with what is wrong.
    """
    settings: dict[str, str] = {}
    problems: list[tuple[str, str]] = []
    for name, given in value.items():
        try:
            setting, text = setting_name(name), setting_value(given)
        except PolicyError as ex:
            shown = name if isinstance(name, str) else quoted(name)
            problems.append((join_path(shown), ex.problems[0][1]))
            continue
        if setting in settings:
            problems.append((setting, "is given twice (setting names do not depend on case)"))
        settings[setting] = text
    if problems:
        raise PolicyError(problems=problems)
    return settings


def callers_settings(value: object) -> dict[str, str]:
    """The `settings=` of connect(): checked as a profile's, and only names with a dot.

    PostgreSQL's own settings are not the caller's to give: they go into `options=` of the connection string.

    Raises:
        PolicyError: what is wrong, by name.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise PolicyError(
            "must be a mapping of setting names to values, as in {'app.tenant': '42'}", path="settings"
        )
    try:
        settings = checked_settings(value)
    except PolicyError as ex:
        raise PolicyError(problems=[(f"settings.{path}", what) for path, what in ex.problems]) from None
    undotted = [
        (f"settings.{name}", "is a name without a dot: the settings of an application are named app.tenant")
        for name in settings
        if "." not in name
    ]
    if undotted:
        raise PolicyError(problems=undotted)
    return settings


def setting_name(name: object) -> str:
    if not isinstance(name, str) or not SETTING_NAME.fullmatch(name):
        raise PolicyError(
            "is not the name of a PostgreSQL setting (identifiers joined by dots, as in app.tenant)"
        )
    setting = name.lower()
    if setting in GUARDED_SETTINGS:
        raise PolicyError("is a setting that guarddb itself keeps; a profile's settings are for row filters")
    return setting


def setting_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise PolicyError("must be valid Unicode text") from None
        if "\0" in value:
            raise PolicyError("contains a NUL character")
        return value
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        try:
            return str(value)
        except ValueError:  # more digits than Python is willing to print
            raise PolicyError("is too large a number") from None
    # The value itself is not shown: a setting may hold what should not be in a log.
    raise PolicyError("must be a text, a finite number, true or false")
