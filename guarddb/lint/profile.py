"""What is odd about a profile that loads: rules that protect nothing, rules that can never fire, gaps.

An `error` is a rule that does not do what it says (its table or column does not exist, so nothing is
protected); a `warning` is a rule without effect or a gap; `advice` is what a careful operator would add.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

from guarddb.lint.unknown import named, unknown_rules
from guarddb.policy.patterns import RelationPattern
from guarddb.policy.profile import PolicyProfile
from guarddb.sql.analysis.scope import SYSTEM_COLUMNS
from guarddb.sql.bodies import settings_of
from guarddb.sql.catalog import Catalog, Relation
from guarddb.tree import Node, SQLSyntaxError, nodes, parse
from guarddb.vocabulary import CLOSED_UNDER_READ_ONLY

Level: TypeAlias = Literal["error", "warning", "advice"]
Bare: TypeAlias = Literal["public", "any"]

#: Column names whose values have so few possibilities that a plain hash of one can be looked up in a
#: dictionary.
GUESSABLE = re.compile(
    r"ssn|social_?sec|e_?mail|phone|mobile|tax_?id|passport|birth|dob|iban|card|zip|postcode", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark: how bad, where in the profile (`masking_rules[2].column`), and what."""

    level: Level
    path: str
    message: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def _error(path: str, message: str) -> Finding:
    return Finding("error", path, message)


def _warning(path: str, message: str) -> Finding:
    return Finding("warning", path, message)


def _advice(path: str, message: str) -> Finding:
    return Finding("advice", path, message)


def lint(profile: PolicyProfile, catalog: Catalog | None = None) -> list[Finding]:
    """Every remark on a profile, errors first. Without a catalog, names of tables and columns are not looked
    up."""
    findings = [finding for check in CHECKS for finding in check(profile, catalog)]
    order = {"error": 0, "warning": 1, "advice": 2}
    return sorted(findings, key=lambda finding: order[finding.level])


def statement_kinds(profile: PolicyProfile, catalog: Catalog | None) -> Iterator[Finding]:
    """Kinds that are allowed in vain: denied as well, or closed by the access mode."""
    rules = profile.statement_rules
    allow, deny = list(rules.allow or ()), set(rules.deny or ())
    for index, kind in enumerate(allow):
        path = f"statement_rules.allow[{index}]"
        if kind in deny:
            yield _warning(path, f"{kind} is denied as well, and deny wins: this entry never fires")
        elif profile.access_mode == "read_only" and kind in CLOSED_UNDER_READ_ONLY:
            yield _warning(
                path,
                f"access_mode read_only never lets {kind} through: this entry never fires",
            )
    yield from _repeated("statement_rules.allow", allow)
    yield from _repeated("statement_rules.deny", list(rules.deny or ()))
    closed = deny | (CLOSED_UNDER_READ_ONLY if profile.access_mode == "read_only" else set())
    if allow and set(allow) <= closed:
        yield _error("statement_rules", "no kind of statement is left: the profile refuses everything")


def relation_lists(profile: PolicyProfile, catalog: Catalog | None) -> Iterator[Finding]:
    """Allow and deny lists: entries that are repeated, cover each other, or name nothing."""
    yield from _repeated("table_allowlist", profile.table_allowlist)
    yield from _repeated("table_denylist", profile.table_denylist)
    allowed = profile.allow_patterns
    for index, entry in enumerate(allowed):
        path = f"table_allowlist[{index}]"
        if _denied(entry, profile):
            yield _warning(path, f"{entry} is denied as well, and deny wins: this entry never fires")
    if allowed and all(_denied(entry, profile) for entry in allowed):
        yield _error("table_allowlist", "the denylist covers every allowed table: no table is left")


def unknown(profile: PolicyProfile, catalog: Catalog | None) -> Iterator[Finding]:
    """Entries that match nothing of the database. Only an allowlist may name what is yet to come."""
    for each in unknown_rules(profile, catalog) if catalog is not None else ():
        level = _warning if each.path.startswith(("table_allowlist", "guarddb.")) else _error
        yield level(each.path, each.message + (": it protects nothing" if each.protects else ""))


def masks(profile: PolicyProfile, catalog: Catalog | None) -> Iterator[Finding]:
    """Masking rules: targets that are not there or not reached, rules said twice, hashes that can be
    reversed."""
    seen: dict[tuple[str, str], int] = {}
    for index, rule in enumerate(profile.masking_rules):
        path = f"masking_rules[{index}]"
        yield from _target(rule.pattern, path, profile, catalog)
        key = (str(rule.pattern).lower(), str(rule.column_name).lower())
        if key in seen:
            yield _warning(path, f"masking_rules[{seen[key]}] has the same column; the stricter kind applies")
        seen.setdefault(key, index)
        if rule.kind == "hash" and not profile.guarddb.hash_key_env and GUESSABLE.search(rule.column):
            yield _warning(
                f"{path}.kind",
                f'a plain SHA-256 of "{rule.column}" can be reversed with a dictionary; '
                "set guarddb.hash_key_env to make it an HMAC, or use redact",
            )
    for index, use in enumerate(profile.guarddb.mask_uses):
        path = f"guarddb.mask_uses[{index}]"
        covered = any(
            _covers(rule.pattern, use.pattern, "public", strict=False)
            and rule.column_name.matches(use.column_name.text, strict=False)
            for rule in profile.masking_rules
        )
        if not covered:
            yield _warning(path, f"no masking rule covers {use.table}.{use.column}: it never fires")
        elif "equality" in use.allow:
            yield _advice(path, "equality lets an agent confirm a value that it guesses, one at a time")


def row_filters(profile: PolicyProfile, catalog: Catalog | None) -> Iterator[Finding]:
    """Row filters: tables and columns that are not there or not reached, repetitions, settings to give."""
    seen: dict[tuple[str, str], int] = {}
    for index, rule in enumerate(profile.row_filters):
        path = f"row_filters[{index}]"
        yield from _target(rule.pattern, path, profile, catalog)
        key = (str(rule.pattern).lower(), " ".join(rule.predicate.split()))
        if key in seen:
            yield _warning(path, f"row_filters[{seen[key]}] says the same")
        seen.setdefault(key, index)
        predicate = rule.parsed
        relations = named(rule.pattern, catalog, "public", strict=False) if catalog is not None else []
        for relation in relations:
            known = {attribute.name for attribute in relation.attributes} | SYSTEM_COLUMNS.keys()
            for column in sorted(_predicate_columns(predicate.tree) - known):
                yield _error(
                    f"{path}.predicate", f'"{relation.schema}.{relation.name}" has no column "{column}"'
                )
        for setting in sorted(predicate.settings - set(profile.guarddb.settings)):
            yield _advice(
                f"{path}.predicate",
                f'reads the setting "{setting}": a connection that is not given it by '
                f'settings={{"{setting}": …}} is refused every statement on {rule.table}',
            )


def writing(profile: PolicyProfile, catalog: Catalog | None) -> Iterator[Finding]:
    """A profile that may write and says neither where nor how much."""
    if profile.access_mode != "read_write":
        return
    if not profile.table_allowlist:
        yield _warning("table_allowlist", "read_write without an allowlist: every table may be written")
    if not (profile.budget_queries_per_hour or profile.budget_queries_per_day):
        yield _warning(
            "access_mode",
            "read_write without a cap: set budget_queries_per_hour or budget_queries_per_day",
        )


def cascades(profile: PolicyProfile, catalog: Catalog | None) -> Iterator[Finding]:
    """Foreign keys by which a write of an allowed table writes another one: no cap counts these rows, no list closes them."""
    if profile.access_mode != "read_write" or catalog is None:
        return
    rules = profile.statement_rules
    kinds = {kind for kind in ("update", "delete") if (not rules.allow or kind in rules.allow)} - set(
        rules.deny or ()
    )
    capped = profile.max_affected_rows or profile.approval_auto_max_rows
    for table in catalog.relations.values():
        for key in table.constraints:
            written = catalog.by_oid(key.references) if key.kind == "f" else None
            if written is None or not _allows(profile, written):
                continue
            actions = {"delete": key.on_delete, "update": key.on_update}
            acts = [kind for kind in sorted(kinds) if actions[kind] in _ACTIONS]
            closed = not _allows(profile, table)
            if not acts or not (capped or closed):
                continue
            said = " and ".join(f"ON {kind.upper()} {_ACTIONS[actions[kind]]}" for kind in acts)
            why = "the agent may not touch that table" if closed else "these rows are in no count"
            yield _warning(
                "max_affected_rows" if capped else "table_allowlist",
                f'"{written.schema}.{written.name}" may be written, and the foreign key "{key.name}" of '
                f'"{table.schema}.{table.name}" ({said}) then writes rows there: {why}',
            )


#: Referential actions that write rows, by pg_constraint's letter.
_ACTIONS = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def functions(profile: PolicyProfile, catalog: Catalog | None) -> Iterator[Finding]:
    """Functions that change settings of the session, which the rules of the profile may follow."""
    for index, pattern in enumerate(profile.function_patterns):
        for function in catalog.functions if catalog is not None else ():
            if not pattern.matches(function.schema, function.name):
                continue
            path, shown = f"guarddb.function_allowlist[{index}]", function.qualified_name
            settings = settings_of([function], catalog) if catalog is not None else None
            if settings is None or not settings.any:
                continue
            if settings.names:
                named_there = ", ".join(sorted(settings.names))
                yield _warning(
                    path,
                    f"{shown} changes settings of the session ({named_there}); a call is refused where the profile holds one",
                )
            elif settings.computed:
                yield _warning(path, f"{shown} changes settings by computed names; its calls are refused")
            else:
                yield _advice(
                    path,
                    f"what {shown} runs does not stand in its text: if it changes a setting that a filter or a hash "
                    "follows, the rest of the same statement sees that",
                )


def _allows(profile: PolicyProfile, relation: Relation) -> bool:
    name = (relation.schema, relation.name)
    if any(entry.matches(*name, bare="any", strict=False) for entry in profile.deny_patterns):
        return False
    allowed = profile.allow_patterns
    return not allowed or any(entry.matches(*name, bare="public", strict=True) for entry in allowed)


def gaps(profile: PolicyProfile, catalog: Catalog | None) -> Iterator[Finding]:
    """What the profile leaves open, and what a profile cannot do."""
    if profile.access_mode == "read_only" and not profile.table_allowlist:
        yield _advice(
            "table_allowlist", "without an allowlist every new table is readable on the day it is made"
        )
    if not profile.statement_timeout_ms:
        yield _advice(
            "statement_timeout_ms", "without a timeout one statement can keep the server busy for hours"
        )
    if not profile.max_rows and not profile.egress_bytes_per_day:
        yield _advice(
            "max_rows", "neither max_rows nor egress_bytes_per_day: a SELECT * hands out everything"
        )
    for index, rule in enumerate(profile.guarddb.floor_exceptions):
        yield _warning(f"guarddb.floor_exceptions[{index}]", f"lifts {rule} for every statement")
    yield _advice(
        "",
        "guarddb guards SQL and the documented API, not Python: connect as a role that owns nothing, is no "
        "superuser, and is granted no more than this profile allows (README, the role to pair it with)",
    )


#: In the order in which the profile's fields are described.
CHECKS: tuple[Callable[[PolicyProfile, Catalog | None], Iterable[Finding]], ...] = (
    statement_kinds,
    unknown,
    relation_lists,
    masks,
    row_filters,
    writing,
    cascades,
    functions,
    gaps,
)


def _repeated(path: str, entries: Iterable[str]) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, entry in enumerate(entries):
        key = entry.lower()
        if key in seen:
            yield _warning(f"{path}[{index}]", f'"{entry}" repeats {path}[{seen[key]}]')
        seen.setdefault(key, index)


def _target(
    pattern: RelationPattern,
    path: str,
    profile: PolicyProfile,
    catalog: Catalog | None,
) -> Iterator[Finding]:
    """Whether a rule's table can be reached by the agent."""
    found = named(pattern, catalog, "public", strict=False) if catalog is not None else []
    if _denied(pattern, profile):
        yield _warning(path, f"{pattern} is denied: this rule never fires")
    elif profile.table_allowlist and not _reachable(pattern, found, profile, catalog):
        yield _warning(path, f"{pattern} is outside the allowlist: this rule never fires")


def _covers(wide: RelationPattern, narrow: RelationPattern, bare: Bare, *, strict: bool) -> bool:
    """Whether every relation that `narrow` names is one that `wide` names."""
    if narrow.name is not None:
        schema = narrow.schema.text if narrow.schema is not None else "public"
        return wide.matches(schema, narrow.name.text, bare=bare, strict=strict)
    return (
        wide.name is None
        and wide.schema is not None
        and narrow.schema is not None
        and wide.schema.matches(narrow.schema.text, strict=strict)
    )


def _denied(pattern: RelationPattern, profile: PolicyProfile) -> bool:
    return any(_covers(entry, pattern, "any", strict=False) for entry in profile.deny_patterns)


def _reachable(
    pattern: RelationPattern, found: list[Relation], profile: PolicyProfile, catalog: Catalog | None
) -> bool:
    """Allowed itself, or through a parent, a child, or a view that is allowed and reads it."""
    allowed = profile.allow_patterns
    if pattern.name is None:
        # A rule for a whole schema fires as soon as anything of that schema is allowed.
        assert pattern.schema is not None
        schema = pattern.schema
        if any(a.schema is not None and schema.matches(a.schema.text, strict=False) for a in allowed):
            return True
    elif any(_covers(entry, pattern, "public", strict=True) for entry in allowed):
        return True
    if catalog is None:
        return False
    related = {oid for r in found for oid in (r.oid, *r.ancestors, *r.descendants)}
    names = {(r.schema, r.name) for oid, r in catalog.relations.items() if oid in related}
    views = [(v, _read_by(v.definition)) for v in catalog.relations.values() if v.definition is not None]
    while more := {(v.schema, v.name) for v, reads in views if reads & names} - names:
        names |= more
    return any(
        entry.matches(schema, name, bare="public", strict=True) for entry in allowed for schema, name in names
    )


def _read_by(definition: str) -> set[tuple[str, str]]:
    """The relations that a view's query names; the catalog's definitions have every name qualified."""
    try:
        tree = parse(definition)
    except SQLSyntaxError:
        return set()
    return {
        (node.get("schemaname", "public"), node["relname"]) for _, node in nodes(tree) if "relname" in node
    }


def _predicate_columns(tree: Node) -> set[str]:
    """The columns that a predicate names outside of sub-selects: in there only a resolver can tell whose they
    are."""
    columns: set[str] = set()
    stack: list[object] = [tree]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, dict):
            if "ColumnRef" in value and (
                name := value["ColumnRef"]["fields"][-1].get("String", {}).get("sval")
            ):
                columns.add(name)
            stack.extend(item for key, item in value.items() if key not in ("SubLink", "ColumnRef"))
    return columns
