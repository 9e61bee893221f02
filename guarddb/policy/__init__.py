"""What is allowed: the profile, its name patterns and predicates, and where it is loaded from."""

from __future__ import annotations

from guarddb.policy.errors import PolicyError
from guarddb.policy.load import PolicyLike, load_policy
from guarddb.policy.patterns import FunctionPattern, NamePart, RelationPattern, column_matches
from guarddb.policy.predicate import Predicate, parse_predicate
from guarddb.policy.profile import (
    GuarddbExtension,
    MaskingRule,
    MaskUse,
    PolicyProfile,
    RowFilter,
    StatementRules,
    json_schema,
)

__all__ = [
    "FunctionPattern",
    "GuarddbExtension",
    "MaskUse",
    "MaskingRule",
    "NamePart",
    "PolicyError",
    "PolicyLike",
    "PolicyProfile",
    "Predicate",
    "RelationPattern",
    "RowFilter",
    "StatementRules",
    "column_matches",
    "json_schema",
    "load_policy",
    "parse_predicate",
]
