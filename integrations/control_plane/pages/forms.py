"""A profile as a form, and back: one field for each of the profile's, rows for its rules, JSON for the extension."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

from starlette.datastructures import FormData

from guarddb import PolicyProfile

from ..errors import InvalidRequest

KINDS = (
    "select",
    "insert",
    "update",
    "delete",
    "ddl",
    "copy",
    "set",
    "show",
    "explain",
    "transaction",
    "other",
)
LISTS = ("table_allowlist", "table_denylist")
#: Rule lists and the inputs of one row of each.
ROWS = {"masking_rules": ("table", "column", "kind"), "row_filters": ("table", "predicate")}
#: Empty rows that a form always has, for a browser without scripts.
SPARE_ROWS = 2


def choices(field: str) -> tuple[str, ...]:
    """The values that a field of the profile may have."""
    return get_args(PolicyProfile.model_fields[field].annotation)


def numbers() -> tuple[str, ...]:
    """The fields that hold a number."""
    return tuple(name for name, field in PolicyProfile.model_fields.items() if field.annotation is int)


def selects() -> tuple[str, ...]:
    """The fields that are one of a few words."""
    return tuple(
        name
        for name in PolicyProfile.model_fields
        if choices(name) and all(isinstance(each, str) for each in choices(name))
    )


def describe(field: str) -> str:
    """What the field means, in the profile's own words."""
    return PolicyProfile.model_fields[field].description or ""


def document(form: FormData) -> dict[str, Any]:
    """The profile's document in a form. Raises InvalidRequest when the extension is no JSON, or a number none."""
    found: dict[str, Any] = {"name": str(form.get("name", ""))}
    for name in selects():
        if (value := form.get(name)) not in (None, ""):
            found[name] = str(value)
    found["statement_rules"] = {
        side: [str(each) for each in form.getlist(f"statement_rules.{side}")] for side in ("allow", "deny")
    }
    for name in LISTS:
        found[name] = [line.strip() for line in str(form.get(name, "")).splitlines() if line.strip()]
    for name, inputs in ROWS.items():
        columns = [[str(each).strip() for each in form.getlist(f"{name}.{part}")] for part in inputs]
        rows = [dict(zip(inputs, values, strict=True)) for values in zip(*columns, strict=False)]
        # The kind has always a value; a row counts when somebody has written into it.
        found[name] = [row for row in rows if any(row[part] for part in inputs if part != "kind")]
    for name in numbers():
        text = str(form.get(name, "")).strip()
        if not text:
            continue
        if not re.fullmatch(r"-?[0-9]{1,19}", text):
            raise InvalidRequest(f"{name}: must be a whole number")
        found[name] = int(text)
    extension = str(form.get("guarddb", "")).strip()
    if extension:
        try:
            found["guarddb"] = json.loads(extension)
        except (ValueError, RecursionError):
            raise InvalidRequest("guarddb: is not JSON") from None
    return found


def fields(document: dict[str, Any]) -> dict[str, Any]:
    """What the template needs to show a document."""
    return {
        "document": document,
        "kinds": KINDS,
        "selects": [{"name": name, "choices": choices(name), "about": describe(name)} for name in selects()],
        "numbers": [{"name": name, "about": describe(name)} for name in numbers()],
        "mask_kinds": ("redact", "null", "hash"),
        "spare": range(SPARE_ROWS),
        "extension": json.dumps(document["guarddb"], indent=2) if document.get("guarddb") else "",
        "about": describe,
    }
