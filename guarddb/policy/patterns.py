"""Names in a profile: which relations, functions and columns an entry means.

An entry is judged against names as PostgreSQL stores them, after resolution. Its own spelling is forgiving
about case, and always to the safe side: an entry that *admits* something means the spelling typed or its
folded form, an entry that *restricts* something means every spelling. Double quotes make a part exact on both
sides.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from guarddb.policy.errors import PolicyError, quoted

#: PostgreSQL cuts identifiers at NAMEDATALEN - 1 bytes: no object has a longer name, so a longer entry would
#: never match.
MAX_IDENTIFIER_BYTES = 63


def fold(identifier: str) -> str:
    """An unquoted identifier as PostgreSQL's scanner stores it: ASCII letters in lower case, nothing else
    changed."""
    return "".join(c.lower() if "A" <= c <= "Z" else c for c in identifier)


@lru_cache(maxsize=4096)
def _any_case(identifier: str) -> str:
    # NFC first: two encodings of one accented letter are two names to PostgreSQL and one to whoever wrote the
    # rule.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", identifier).casefold())


@dataclass(frozen=True, slots=True)
class NamePart:
    """One identifier of an entry. `exact` is whether it was double-quoted."""

    text: str
    exact: bool = False

    def matches(self, name: str, *, strict: bool) -> bool:
        """Whether `name`, as stored, is meant. `strict` is the admitting side: the spelling typed or its
        folded form."""
        if self.exact or strict:
            return name == self.text or (not self.exact and name == fold(self.text))
        return _any_case(name) == _any_case(self.text)

    def __str__(self) -> str:
        return '"' + self.text.replace('"', '""') + '"' if self.exact else self.text


@dataclass(frozen=True, slots=True)
class RelationPattern:
    """An entry that names a relation (`orders`, `public.orders`) or every relation of a schema (`public.*`).

    Attributes:
        schema: the schema part; None for a bare entry.
        name: the relation part; None for `schema.*`.
    """

    schema: NamePart | None
    name: NamePart | None

    @classmethod
    def parse(cls, text: str) -> RelationPattern:
        """Read an entry.

        Raises:
            PolicyError: the entry is not `name`, `schema.name` or `schema.*`.
        """
        parts = _parts(text, "a table is named as table, schema.table or schema.*")
        if len(parts) == 1:
            if parts[0] is None:
                raise PolicyError(
                    f"{quoted(text)} names no table; write schema.* for every table of a schema"
                )
            return cls(None, parts[0])
        return cls(parts[0], parts[1])

    def matches(self, schema: str, name: str, *, bare: Literal["public", "any"], strict: bool) -> bool:
        """Whether the relation `schema`.`name` (as PostgreSQL stores it) is meant.

        `bare` says what an entry without a schema stands for: `public` (allowlist, masks, row filters) or
        that name in any schema (denylist). `strict` is the admitting side, see `NamePart.matches`.
        """
        if self.name is not None and not self.name.matches(name, strict=strict):
            return False
        if self.schema is None:
            return bare == "any" or schema == "public"
        return self.schema.matches(schema, strict=strict)

    def __str__(self) -> str:
        name = "*" if self.name is None else str(self.name)
        return name if self.schema is None else f"{self.schema}.{name}"


@dataclass(frozen=True, slots=True)
class FunctionPattern:
    """An entry of `function_allowlist`: `f`, `schema.f`, `schema.*` or `*`. It only ever admits, so it is
    always strict.

    Attributes:
        schema: the schema part; None for a bare entry and for `*`.
        name: the function part; None for `schema.*` and `*`.
    """

    schema: NamePart | None
    name: NamePart | None

    @classmethod
    def parse(cls, text: str) -> FunctionPattern:
        """Read an entry.

        Raises:
            PolicyError: the entry is not `f`, `schema.f`, `schema.*` or `*`.
        """
        form = "a function is named as function, schema.function, schema.* or *, without its arguments"
        parts = _parts(text, form)
        return cls(None, parts[0]) if len(parts) == 1 else cls(parts[0], parts[1])

    def matches(self, schema: str, name: str, *, bare: tuple[str, ...] = ("public",)) -> bool:
        """Whether the function `schema`.`name` (as PostgreSQL stores it) is admitted.

        `bare` lists the schemas that an entry without one stands for. `*` is every schema of the user's: the
        built-in functions of pg_catalog and information_schema are reached only by naming their schema.
        """
        if self.name is not None and not self.name.matches(name, strict=True):
            return False
        if self.schema is not None:
            return self.schema.matches(schema, strict=True)
        if self.name is None:
            return schema not in {"pg_catalog", "information_schema"}
        return schema in bare

    def __str__(self) -> str:
        name = "*" if self.name is None else str(self.name)
        return name if self.schema is None else f"{self.schema}.{name}"


@lru_cache(maxsize=1024)
def parse_column(text: str) -> NamePart:
    """Read the `column` of a rule: one identifier, quoted or not.

    Raises:
        PolicyError: it is not one identifier.
    """
    form = "a column is named alone, without its table, and a rule is about one column"
    parts = _parts(text, form)
    if len(parts) != 1 or parts[0] is None:
        raise PolicyError(f"{quoted(text)} is not a column's name; {form}")
    return parts[0]


def column_matches(rule_column: str, attribute_name: str) -> bool:
    """Whether a rule's `column` means the attribute of that name, in any case unless the rule quotes it.

    Raises:
        PolicyError: `rule_column` is not one identifier (a loaded profile holds none such).
    """
    return parse_column(rule_column).matches(attribute_name, strict=False)


def _parts(text: str, form: str) -> list[NamePart | None]:
    """The one or two parts of an entry; None is the star, which only the last part can be."""
    parts: list[NamePart | None] = []
    rest = text
    while True:
        part: NamePart | None
        if rest.startswith('"'):
            part, rest = _quoted_part(text, rest, form)
        else:
            plain, dot, after = rest.partition(".")
            rest = dot + after
            part = _plain_part(text, plain, form)
        parts.append(part)
        if not rest:
            break
        if not rest.startswith("."):
            raise PolicyError(f"{quoted(text)} has something after a closing quote; {form}")
        if part is None:
            raise PolicyError(f"{quoted(text)} has a star that is not its last part; {form}")
        rest = rest[1:]
    if len(parts) > 2:
        raise PolicyError(f"{quoted(text)} has {len(parts)} parts; {form}")
    return parts


def _quoted_part(text: str, rest: str, form: str) -> tuple[NamePart, str]:
    name, index = "", 1
    while True:
        end = rest.find('"', index)
        if end < 0:
            raise PolicyError(f"{quoted(text)} has an opening quote without its closing one; {form}")
        name += rest[index:end]
        if rest[end + 1 : end + 2] != '"':
            break
        name, index = name + '"', end + 2
    return NamePart(_checked(text, name, form), exact=True), rest[end + 1 :]


def _plain_part(text: str, plain: str, form: str) -> NamePart | None:
    if plain == "*":
        return None
    # Anything else would silently never match as an identifier typed without quotes: `orders_%`, `order
    # items`.
    strange = next(
        (c for c in plain if not (c.isalnum() or c in "_$-" or unicodedata.category(c)[0] == "M")), None
    )
    if strange is not None:
        raise PolicyError(
            f"{quoted(text)} has a {quoted(strange)} outside double quotes; {form}, "
            "and a name with other characters than letters, digits, _, $ and - stands in double quotes"
        )
    return NamePart(_checked(text, plain, form))


def _checked(text: str, name: str, form: str) -> str:
    if not name:
        raise PolicyError(f"{quoted(text)} has an empty name in it; {form}" if text else f"is empty; {form}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise PolicyError("must be valid Unicode text") from None
    if "\0" in name:
        raise PolicyError(f"{quoted(text)} contains a NUL character")
    if size > MAX_IDENTIFIER_BYTES:
        raise PolicyError(
            f"{quoted(text)} has a name of {size} bytes; PostgreSQL cuts names at {MAX_IDENTIFIER_BYTES}, "
            "so write it as it is stored"
        )
    return name
