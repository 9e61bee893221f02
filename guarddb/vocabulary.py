"""The closed vocabularies that several rooms share: statement kinds, mask kinds, verdicts and rule tags.

They are plain strings on the wire, so they are `Literal` types here and not enum classes: a profile, a decision and a
log line all show the same spelling, and mypy still refuses one that is not in the set.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Kind: TypeAlias = Literal[
    "select", "insert", "update", "delete", "ddl", "copy", "set", "show", "explain", "transaction", "other"
]
MaskKind: TypeAlias = Literal["redact", "null", "hash"]
MaskUseKind: TypeAlias = Literal["join", "group", "equality"]
Verdict: TypeAlias = Literal["allow", "block", "mask", "row-filter"]
Rule: TypeAlias = Literal[
    "ok",
    "empty",
    "parse_error",
    "read_only",
    "destructive_ddl",
    "whereless_write",
    "search_path_change",
    "role_change",
    "protected_setting",
    "anonymous_code",
    "forbidden_function",
    "function_not_allowed",
    "locking_select",
    "statement_not_allowed",
    "statement_denied",
    "table_not_allowed",
    "table_denied",
    "row_filter_unsafe",
    "row_filter_violation",
    "masked_column_expression",
    "masked_column_rename",
    "masked_column_predicate",
    "masked_column_write",
    "migration_block",
    "max_affected_rows",
    "max_affected_rows_writable_cte",
    "query_budget_hour",
    "query_budget_day",
    "egress_budget",
    "approval_rejected",
    "approval_expired",
    "approval_unavailable",
    "action_blocked",
    "risk_denied",
    "content_scan",
    "policy_unavailable",
    "internal_error",
]

KINDS: tuple[Kind, ...] = get_args(Kind)
MASK_KINDS: tuple[MaskKind, ...] = get_args(MaskKind)
RULES: tuple[Rule, ...] = get_args(Rule)

#: Kinds that write rows; under a read-only profile these, definitions and COPY never run.
WRITE_KINDS: frozenset[Kind] = frozenset(("insert", "update", "delete"))
CLOSED_UNDER_READ_ONLY: frozenset[Kind] = WRITE_KINDS | {"ddl", "copy"}

#: Settings a session may never change, besides those that a profile's row filters read.
PROTECTED_SETTINGS: frozenset[str] = frozenset(
    (
        "statement_timeout",
        "transaction_timeout",
        "row_security",
        "session_replication_role",
        "transaction_read_only",
        "default_transaction_read_only",
    )
)

#: The rules of the floor, in the order they are asked; `guarddb.floor_exceptions` lifts one by its tag.
FLOOR_RULES: tuple[Rule, ...] = (
    "destructive_ddl",
    "whereless_write",
    "search_path_change",
    "role_change",
    "protected_setting",
    "anonymous_code",
    "forbidden_function",
    "function_not_allowed",
)

#: Where two masked sources meet in one output, the strictest kind wins.
MASK_STRENGTH: dict[MaskKind, int] = {"hash": 1, "redact": 2, "null": 3}


def strictest(first: MaskKind | None, second: MaskKind | None) -> MaskKind | None:
    """The stricter of two mask kinds; None is no mask at all."""
    if first is None or second is None:
        return first or second
    return first if MASK_STRENGTH[first] >= MASK_STRENGTH[second] else second
