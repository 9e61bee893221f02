"""Rules of a profile that name what a database does not have. Such a rule protects nothing, and nothing shows it.

The commonest mistake of all is a bare name: `customers` means `public.customers`, and the table is `app.customers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Literal

from guarddb.facts.functions import builtin
from guarddb.policy.patterns import NamePart, RelationPattern

if TYPE_CHECKING:
    from guarddb.policy.profile import PolicyProfile
    from guarddb.sql.catalog import Catalog, Relation


@dataclass(frozen=True, slots=True)
class UnknownRule:
    """An entry of a profile without anything in the database that it is about.

    Attributes:
        path: its place in the profile: `masking_rules[2].column`.
        message: what is not there, with the nearest name that is.
        protects: it is a mask or a filter, so that something is unprotected while it matches nothing.
    """

    path: str
    message: str
    protects: bool
    #: what of it an agent is told, where that is less
    shown: str = ""


def unknown_rules(profile: PolicyProfile, catalog: Catalog) -> Iterator[UnknownRule]:
    """Every entry of a profile that matches nothing of a catalog, masks and filters first."""
    for index, rule in enumerate(profile.masking_rules):
        yield from _target(rule.pattern, rule.column_name, f"masking_rules[{index}]", catalog)
    for index, filter_ in enumerate(profile.row_filters):
        yield from _target(filter_.pattern, None, f"row_filters[{index}]", catalog)
    lists: tuple[tuple[str, tuple[RelationPattern, ...], Literal["public", "any"]], ...] = (
        ("table_denylist", tuple(profile.deny_patterns), "any"),
        ("table_allowlist", tuple(profile.allow_patterns), "public"),
    )
    for name, patterns, bare in lists:
        for index, pattern in enumerate(patterns):
            if not named(pattern, catalog, bare, strict=name == "table_allowlist") and not _elsewhere(
                pattern
            ):
                yield UnknownRule(f"{name}[{index}]", f"{_no_relation(pattern, catalog)}", protects=False)
    for index, use in enumerate(profile.guarddb.mask_uses):
        path = f"guarddb.mask_uses[{index}]"
        yield from _target(use.pattern, use.column_name, path, catalog, protects=False)
    for index, pattern in enumerate(profile.may_change_patterns):
        if not named(pattern, catalog, "public", strict=True) and not _elsewhere(pattern):
            yield UnknownRule(f"guarddb.may_change[{index}]", _no_relation(pattern, catalog), protects=False)
    yield from _functions(profile, catalog)


def _functions(profile: PolicyProfile, catalog: Catalog) -> Iterator[UnknownRule]:
    """Entries of `function_allowlist` that name no function. (Of the server's own the facts know.)"""
    for index, pattern in enumerate(profile.function_patterns):
        name = pattern.name.text if pattern.name is not None else None
        if name is None or any(pattern.matches(each.schema, each.name) for each in catalog.functions):
            continue
        if builtin(name.lower()) and pattern.matches("pg_catalog", name.lower()):
            continue
        near = nearest(name, {each.name for each in catalog.functions})
        yield UnknownRule(
            f"guarddb.function_allowlist[{index}]",
            f"{pattern} names no function of this database" + (f"; nearest is {near}" if near else ""),
            protects=False,
        )


def _target(
    pattern: RelationPattern, column: NamePart | None, path: str, catalog: Catalog, *, protects: bool = True
) -> Iterator[UnknownRule]:
    if _elsewhere(pattern):
        return
    found = named(pattern, catalog, "public", strict=False)
    if not found:
        yield UnknownRule(f"{path}.table", _no_relation(pattern, catalog), protects)
    elif column is not None and not any(
        column.matches(a.name, strict=False) for r in found for a in r.attributes
    ):
        columns = {a.name for r in found for a in r.attributes}
        near = nearest(column.text, columns)
        shown = f'"{found[0].schema}.{found[0].name}"' if len(found) == 1 else f"no table of {pattern}"
        has = f"{shown} has no column" if len(found) == 1 else f"{shown} has a column"
        yield UnknownRule(
            f"{path}.column", f'{has} "{column}"' + (f'; nearest is "{near}"' if near else ""), protects
        )


def _elsewhere(pattern: RelationPattern) -> bool:
    """Temporary tables are a session's own, and come and go; the system's relations are no user's."""
    schema = pattern.schema.text.lower() if pattern.schema is not None else ""
    return schema.startswith("pg_") or schema == "information_schema"


def _no_relation(pattern: RelationPattern, catalog: Catalog) -> str:
    names = {f"{r.schema}.{r.name}": r.name for r in catalog.relations.values() if r.kind not in "cS"}
    wanted = pattern.name.text if pattern.name is not None else None
    if wanted is None:
        near = nearest(str(pattern).partition(".")[0], {r.partition(".")[0] for r in names})
        return f"{pattern} names no relation of this database" + (f"; nearest is {near}.*" if near else "")
    # (Of two that are equally near, the one in the schema that was meant.)
    schema = pattern.schema.text.lower() if pattern.schema is not None else "public"
    scored = sorted(
        names, key=lambda full: (-likeness(names[full], wanted), not full.startswith(f"{schema}."), full)
    )
    near = scored[0] if scored and likeness(names[scored[0]], wanted) >= ALIKE else None
    bare = ' (a bare name means schema "public")' if pattern.schema is None else ""
    return f"{pattern} names no relation of this database{bare}" + (f"; nearest is {near}" if near else "")


def named(
    pattern: RelationPattern, catalog: Catalog, bare: Literal["public", "any"], *, strict: bool
) -> list[Relation]:
    """The relations of a catalog that a pattern names."""
    return [
        relation
        for relation in catalog.relations.values()
        if relation.kind != "c" and pattern.matches(relation.schema, relation.name, bare=bare, strict=strict)
    ]


#: Below this two names have nothing to do with each other.
ALIKE = 0.6


def likeness(one: str, other: str) -> float:
    """How alike two names are, 0 to 1; a plural or a prefix counts more than shared letters.

    >>> likeness("films", "film") > likeness("films", "files")
    True
    """
    one, other = one.lower(), other.lower()
    if one == other:
        return 1.0
    ratio = SequenceMatcher(None, one, other).ratio()
    if one.startswith(other) or other.startswith(one) or one.rstrip("s") == other.rstrip("s"):
        ratio = max(ratio, 0.85)
    return ratio


def nearest(name: str, names: set[str]) -> str | None:
    """The name that somebody who wrote `name` most likely meant, or None."""
    best = max(sorted(names), key=lambda each: likeness(each, name), default=None)
    return best if best is not None and likeness(best, name) >= ALIKE else None
