"""Where a profile comes from: a mapping, a YAML, JSON or TOML file, or the URL of a stored one."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeGuard

import yaml

from guarddb.policy.errors import PolicyError, quoted
from guarddb.policy.profile import PolicyProfile
from guarddb.policy.remote import fetch_once

#: What `load_policy` takes.
PolicyLike: TypeAlias = PolicyProfile | Mapping[str, Any] | str | os.PathLike[str]

#: A larger policy file is refused unread.
MAX_FILE_BYTES = 1 << 20

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_TOML_LINE = re.compile(r"\s*(\[|[A-Za-z0-9_.\"'-]+\s*=)")


def load_policy(source: PolicyLike) -> PolicyProfile:
    """The profile in `source`: a profile (given back as it is), a mapping, the path of a file, or the URL of a stored
    one, which is fetched once with the key in GUARDDB_API_KEY.

    The suffix says the format: .yaml, .yml, .json or .toml; with any other the text does. Fields mean the
    same in each.

    Raises:
        PolicyError: there is no such file, it is not readable as its format, or the profile in it is not
            valid. The
            message names the file and the place in it.
    """
    if isinstance(source, PolicyProfile):
        return source
    if isinstance(source, Mapping):
        return PolicyProfile.model_validate(source)
    if is_url(source):
        return fetch_once(source)
    path = policy_path(source)
    return parse_policy(read_policy_file(path), path)


def is_url(source: object) -> TypeGuard[str]:
    """Whether `source` is an http(s) URL."""
    url = _URL.match(source) if isinstance(source, str) else None
    return url is not None and url[1].lower() in {"http", "https"}


def policy_path(source: object) -> str:
    """`source` as the path of a policy file.

    Raises:
        PolicyError: it is no path: another type, or a URL.
    """
    if not isinstance(source, str | os.PathLike):
        raise PolicyError(
            f"a policy is a PolicyProfile, a mapping or the path of a file; this is {quoted(source)}"
        )
    path = os.fsdecode(os.fspath(source))
    url = _URL.match(path)
    if url and isinstance(source, str):
        raise PolicyError(f"{quoted(path)} is a URL; here it takes the path of a file")
    if not path:
        raise PolicyError("the path of the policy file is empty")
    return path


def read_policy_file(path: str) -> bytes:
    """The bytes of a policy file, at most `MAX_FILE_BYTES` of them.

    Raises:
        PolicyError: it cannot be read, or is too large.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        hint = (
            "; a policy text is parsed first, then passed as a mapping" if "\n" in path or "{" in path else ""
        )
        raise PolicyError(f"the file does not exist{hint}", source=path) from None
    except IsADirectoryError:
        raise PolicyError("this is a directory", source=path) from None
    except OSError as ex:
        raise PolicyError(
            f"the file cannot be read ({ex.strerror or type(ex).__name__})", source=path
        ) from None
    except ValueError:  # a NUL or a lone surrogate in the path
        raise PolicyError("this is not a possible file name", source=path) from None
    if len(data) > MAX_FILE_BYTES:
        raise PolicyError(f"the file is larger than {MAX_FILE_BYTES} bytes", source=path)
    return data


def parse_policy(data: bytes, path: str) -> PolicyProfile:
    """The profile in the bytes of the policy file at `path`.

    Raises:
        PolicyError: see `load_policy`.
    """
    try:
        return PolicyProfile.model_validate(parse_document(data, path))
    except PolicyError as ex:
        raise ex.in_file(path) from None


def parse_document(data: bytes, path: str) -> dict[str, Any]:
    """The mapping in the bytes of the YAML, JSON or TOML file at `path`.

    Raises:
        PolicyError: they hold none. The message does not name the file; `PolicyError.in_file` does.
    """
    suffix = Path(path).suffix.lower()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as ex:
        raise PolicyError(f"the file is not UTF-8 text (byte {ex.start + 1})") from None
    parse = {".json": _json, ".toml": _toml, ".yaml": _yaml, ".yml": _yaml}.get(suffix) or _sniff(text)
    try:
        document = parse(text)
    except RecursionError:
        raise PolicyError("the document nests too deeply") from None
    except PolicyError:
        raise
    except (
        ValueError
    ) as ex:  # out of the parsers' own conversions: a number of a million digits, a 13th month
        raise PolicyError(f"the document cannot be read: {_line(ex)}") from None
    if not isinstance(document, dict):
        found = "nothing" if document is None else quoted(document)
        raise PolicyError(f"the document must be a mapping of fields; it holds {found}")
    return document


def _sniff(text: str) -> Any:
    if text.lstrip().startswith("{"):
        return _json
    first = next(
        (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), ""
    )
    return _toml if _TOML_LINE.match(first) else _yaml


def _line(error: object) -> str:
    return quoted(" ".join(str(error).split()), 200)[1:-1]


def _toml(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as ex:
        raise PolicyError(f"this is not TOML: {_line(ex)}") from None


def _json(text: str) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                raise PolicyError(f"the key {quoted(key)} stands twice in one mapping")
            found[key] = value
        return found

    def constant(name: str) -> NoReturn:
        raise PolicyError(f"{name} is not a JSON number")

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except json.JSONDecodeError as ex:
        raise PolicyError(f"this is not JSON: {ex.msg} (line {ex.lineno}, column {ex.colno})") from None


def _yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_PolicyLoader)  # noqa: S506  (a SafeLoader with fewer types)
    except yaml.MarkedYAMLError as ex:
        mark = ex.problem_mark or ex.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise PolicyError(f"this is not YAML: {_line(ex.problem or ex.context)}{where}") from None
    except yaml.reader.ReaderError as ex:
        line = text.count("\n", 0, ex.position) + 1
        raise PolicyError(f"this is not YAML: a character that YAML does not allow (line {line})") from None
    except yaml.YAMLError as ex:
        raise PolicyError(f"this is not YAML: {_line(ex)}") from None
    except (LookupError, TypeError):
        # PyYAML on an explicit tag that does not fit its value: `!!bool x`, `!!int ''`.
        raise PolicyError("this is not YAML: a tag does not fit its value") from None


class _PolicyLoader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema, and no duplicate keys.

    YAML 1.1 reads `approval_mode: off` as false, `010` as 8, `1:30` as 90 and `2024-01-01` as a date. Merge
    keys (`<<`) are left out as well: nested ones multiply, and a policy should say what it says in one place.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    # The others are no part of a policy, and some of them fail on odd input (`!!timestamp x` is an
    # AttributeError).
    yaml_constructors = {  # noqa: RUF012
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in {"null", "bool", "int", "float", "str", "seq", "map"}
    }

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Where SafeLoader carries merge keys out, also explicit ones (`!!merge`)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            # The constructor itself reports a key that is a list or a mapping.
            if isinstance(key_node, yaml.ScalarNode):
                key = self.construct_object(key_node)
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {quoted(key)} stands twice in one mapping", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)", list("-+0123456789")),
):
    _PolicyLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)
