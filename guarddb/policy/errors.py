"""`PolicyError`: what a bad profile raises, whichever way the profile came in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

#: Problems spelt out in the message; `PolicyError.problems` holds all of them.
MAX_SPELT_OUT = 20

#: A scalar from the document is quoted in a message up to this many characters.
_MAX_QUOTED = 60


class PolicyError(ValueError):
    """A profile that cannot be used: unreadable, misspelt, out of bounds, or asking for what does not work
    yet.

    The message is made of sentences, each opening with the place in the document (`masking_rules[0].kind:
    …`).

    Attributes:
        path: the place of the first problem; empty when it is the document as a whole.
        problems: every problem as (path, message), in document order.
        source: the name of the file the profile was read from, or None.
    """

    def __init__(
        self,
        message: str = "",
        path: str = "",
        *,
        problems: Iterable[tuple[str, str]] | None = None,
        source: str | None = None,
    ) -> None:
        self.problems: list[tuple[str, str]] = list(problems) if problems is not None else [(path, message)]
        self.path: str = self.problems[0][0] if self.problems else path
        self.source = source
        super().__init__(_spell_out(self.problems, source))

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException would pickle the finished text and spell it out a second time.
        return _rebuild, (self.problems, self.source)

    def in_file(self, source: str) -> PolicyError:
        """The same error, its message opening with the file's name."""
        return PolicyError(problems=self.problems, source=source)


def _rebuild(problems: list[tuple[str, str]], source: str | None) -> PolicyError:
    return PolicyError(problems=problems, source=source)


def _spell_out(problems: list[tuple[str, str]], source: str | None) -> str:
    sentences = []
    for path, message in problems[:MAX_SPELT_OUT]:
        text = f"{path}: {message}" if path else message
        sentences.append(text if text.endswith((".", "!", "?")) else text + ".")
    if len(problems) > MAX_SPELT_OUT:
        sentences.append(f"There are {len(problems) - MAX_SPELT_OUT} more problems.")
    told = " ".join(sentences)
    return f"policy file {quoted(source, 400)}: {told}" if source is not None else told


def quoted(value: object, limit: int = _MAX_QUOTED) -> str:
    """A scalar as a message shows it: in double quotes when it is text, shortened, control characters
    escaped.

    A collection is named by its type only: a YAML alias can make it exponentially larger than its file.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        short = value if len(value) <= limit else value[: limit - 1] + "…"
        return '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in short) + '"'
    if isinstance(value, int | float):
        try:
            text = str(value)
        except ValueError:  # more digits than Python is willing to print
            return "a very large number"
        return text if len(text) <= limit else text[: limit - 1] + "…"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple | set | frozenset):
        return "a list"
    return f"a {type(value).__name__}"


def join_path(*parts: str | int) -> str:
    """A place in the document: `join_path("masking_rules", 0, "kind")` is `masking_rules[0].kind`.

    >>> join_path("a", 0, "b")
    'a[0].b'
    """
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part:
            shown = quoted(part)[1:-1]
            path += shown if not path or shown.startswith("[") else f".{shown}"
    return path


def one_of(choices: Iterable[str]) -> str:
    """The allowed values, as a message lists them."""
    return ", ".join(f'"{choice}"' for choice in choices)


def from_validation(error: ValidationError, describe_unknown: Any) -> PolicyError:
    """A pydantic error as a PolicyError.

    `describe_unknown(location)` gives the sentence for an unknown field, which needs the models to know its
    neighbours.
    """
    problems: list[tuple[str, str]] = []
    for detail in error.errors(include_url=False):
        location = tuple(detail["loc"])
        # A validator of ours raises PolicyError itself; its path is relative to where pydantic was.
        inner = detail.get("ctx", {}).get("error")
        if isinstance(inner, PolicyError):
            problems.extend((join_path(*location, path), message) for path, message in inner.problems)
            continue
        if detail["type"] == "extra_forbidden":
            problems.append((join_path(*location), describe_unknown(location)))
            continue
        message = _MESSAGES.get(detail["type"], "")
        if message:
            message = message.format(**detail.get("ctx", {}))
        else:
            message = detail["msg"][:1].lower() + detail["msg"][1:]
        if detail["type"] == "literal_error":
            expected = detail.get("ctx", {}).get("expected", "").replace(" or ", ", ").replace("'", '"')
            message = f"must be one of {expected}"
        if detail["type"] not in _UNQUOTED:
            message += f"; it is {quoted(detail['input'])}"
        elif detail["type"] == "greater_than_equal":
            message += f"; it is {quoted(detail['input'])} (0 means no limit)"
        problems.append((join_path(*location), message))
    return PolicyError(problems=problems)


#: Errors whose message is complete without the value.
_UNQUOTED = frozenset({"missing", "value_error", "greater_than_equal", "string_unicode", "json_invalid"})

_LIST = "must be a list"
_MAPPING = "must be a mapping of fields"
_MESSAGES = {
    "missing": "is required and missing",
    "string_type": "must be a text",
    "string_unicode": "must be valid Unicode text",
    "string_too_short": "must have at least {min_length} character",
    "string_too_long": "must have at most {max_length} characters",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a whole number of at most 64 bits",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "tuple_type": _LIST,
    "list_type": _LIST,
    "too_short": "must have at least {min_length} entry",
    "dict_type": "must be a mapping of setting names to values",
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "literal_error": "",
    "datetime_type": "must be a date and time with a zone (RFC 3339)",
    "datetime_parsing": "must be a date and time with a zone (RFC 3339)",
    "datetime_from_date_parsing": "must be a date and time with a zone (RFC 3339)",
    "timezone_aware": "must be a date and time with a zone (RFC 3339)",
    "string_pattern_mismatch": "must match {pattern}",
    "json_invalid": "this is not JSON: {error}",
    "invalid_key": "must have text keys only",
}
