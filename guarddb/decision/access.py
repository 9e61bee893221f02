"""Access mode and statement rules: which kinds of statement a profile admits."""

from __future__ import annotations

from guarddb.decision.case import Case
from guarddb.decision.on_catalog import CompiledPolicy
from guarddb.decision.refusal import Refusal
from guarddb.sql.statement import Statement
from guarddb.vocabulary import CLOSED_UNDER_READ_ONLY, KINDS, Kind

_READ_ONLY: frozenset[Kind] = frozenset(("select", "show", "explain", "transaction"))
#: What psycopg calls the statements that it prepares by itself, and what SQL can do with such a name.
_DRIVERS_NAMES = "_pg3_"
_OF_PREPARED = frozenset(("prepare", "execute", "deallocate"))


def access(case: Case) -> Refusal | None:
    """The ceiling first, then what the profile denies, then what it admits.

    >>> import guarddb
    >>> guarddb.evaluate("INSERT INTO notes VALUES (1)", {}).rule
    'read_only'
    >>> guarddb.evaluate("EXPLAIN SELECT 1", {"statement_rules": {"deny": ["explain"]}}).rule
    'statement_denied'
    """
    statement, policy = case.statement, case.policy
    profile = policy.profile
    rules = profile.statement_rules
    kinds = statement.kinds
    allowed = rules.allow
    read_only = profile.access_mode == "read_only"
    if read_only:
        refusal = _read_only(statement, allowed)
        if refusal is not None:
            return refusal
    for kind in KINDS:
        if kind not in kinds:
            continue
        if kind in rules.deny:
            return Refusal(
                "statement_denied",
                f"statements of kind {kind} are denied by this policy; allowed kinds: {_shown(policy)}",
                "Use another kind of statement.",
                f"statement_rules.deny[{rules.deny.index(kind)}]",
            )
        if (allowed and kind not in allowed) or (kind == "other" and kind not in allowed):
            what = statement.operation if kind == "other" else f"a statement of kind {kind}"
            return Refusal(
                "statement_not_allowed",
                f"{what} is not allowed by this policy; allowed kinds: {_shown(policy)}",
                "Use a statement of an allowed kind.",
                "statement_rules.allow",
            )
    if statement.session_verb in _OF_PREPARED and (statement.session_name or "").startswith(_DRIVERS_NAMES):
        return Refusal(
            "statement_not_allowed",
            f'the name "{statement.session_name}" is one of the driver\'s own, which would take one statement for another',
            f"Use a name that does not begin with {_DRIVERS_NAMES}.",
        )
    if statement.command == "TransactionStmt" and statement.transaction in (
        "prepare",
        "commit_prepared",
        "rollback_prepared",
        "unknown",
    ):
        return Refusal(
            "statement_not_allowed",
            f"{statement.operation} is refused: a prepared transaction outlives the session that this policy watches",
            "Use BEGIN … COMMIT.",
        )
    return None


def _read_only(statement: Statement, allowed: tuple[Kind, ...]) -> Refusal | None:
    if not CLOSED_UNDER_READ_ONLY.isdisjoint(statement.kinds):
        writes = [kind for kind in KINDS if kind in statement.kinds and kind in CLOSED_UNDER_READ_ONLY]
        what = (
            statement.operation if statement.kind in writes else f"a statement that does {', '.join(writes)}"
        )
        return Refusal(
            "read_only",
            f"{what} is refused: this policy is read only; allowed kinds: select, show, explain, transaction",
            "Read the data with SELECT; changes have to be made by somebody with write access.",
        )
    if "set" in statement.kinds and "set" not in allowed:
        return Refusal(
            "read_only",
            f"{statement.operation} is refused: under a read-only policy settings are left alone unless it allows kind set",
            "Leave the session's settings as they are.",
            "statement_rules.allow",
        )
    if statement.transaction in ("begin", "set") and asks_for_read_write(statement):
        return Refusal(
            "read_only",
            "a READ WRITE transaction is refused: this policy is read only",
            "Begin the transaction without READ WRITE.",
        )
    if statement.locks_rows:
        return Refusal(
            "locking_select",
            "SELECT … FOR UPDATE or FOR SHARE locks rows and is refused: this policy is read only",
            "Leave out the FOR UPDATE or FOR SHARE clause.",
        )
    return None


def asks_for_read_write(statement: Statement) -> bool:
    """BEGIN READ WRITE, START TRANSACTION READ WRITE, SET TRANSACTION READ WRITE."""
    fields = statement.fields
    for option in [*fields.get("options", ()), *fields.get("args", ())]:
        element = option.get("DefElem", {})
        if element.get("defname") == "transaction_read_only":
            value = element.get("arg", {}).get("A_Const", {})
            if not value.get("ival", {}).get("ival", 0):
                return True
    return False


def _shown(policy: CompiledPolicy) -> str:
    rules = policy.profile.statement_rules
    kinds = rules.allow or tuple(
        k for k in KINDS if k != "other" and (policy.profile.access_mode == "read_write" or k in _READ_ONLY)
    )
    return ", ".join(k for k in kinds if k not in rules.deny) or "none"
