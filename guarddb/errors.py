"""
The errors guarddb adds to psycopg's. All are psycopg errors, so `except psycopg.Error` still catches them.

    psycopg.Error
     |__ DatabaseError
         |__ ProgrammingError
         |   |__ errors.InsufficientPrivilege (42501)
         |       |__ PolicyViolation          the policy refuses a statement; nothing of it was sent
         |           |__ ApprovalRejected     a person said no
         |           |__ ApprovalExpired      nobody said anything in time
         |           |__ PolicyUnavailable    the policy or what it needs cannot be read
         |__ OperationalError
             |__ errors.ConfigurationLimitExceeded (53400)
                 |__ BudgetExceeded           a budget of the policy is used up; `resets_at` says until when
    ValueError
     |__ PolicyError                          the profile itself is wrong, found when it loads
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from psycopg import OperationalError
from psycopg.errors import ConfigurationLimitExceeded, InsufficientPrivilege
from psycopg.pq import DiagnosticField

from guarddb.content.visible import visible
from guarddb.policy.errors import PolicyError

if TYPE_CHECKING:
    # Under `import guarddb as psycopg` this module is psycopg's `errors` too; guarddb/__init__.py sees to that.
    from psycopg.errors import *  # noqa: F403

    from guarddb.decision.plan import Decision
    from guarddb.vocabulary import Rule

__all__ = [
    "ApprovalExpired",
    "ApprovalRejected",
    "BudgetExceeded",
    "PolicyError",
    "PolicyUnavailable",
    "PolicyViolation",
]


def _diagnostics(sqlstate: str, message: str, hint: str | None) -> dict[int, bytes | None]:
    # psycopg's Diagnostic reads a PGresult, or the dict that a pickled error carries: the dict is all that a
    # refusal needs for `ex.diag`, and for the tools that print psycopg errors with their hint.
    fields: dict[int, bytes | None] = {
        DiagnosticField.SEVERITY: b"ERROR",
        DiagnosticField.SEVERITY_NONLOCALIZED: b"ERROR",
        DiagnosticField.SQLSTATE: sqlstate.encode(),
        DiagnosticField.MESSAGE_PRIMARY: message.encode("utf-8", "replace"),
    }
    if hint:
        fields[DiagnosticField.MESSAGE_HINT] = hint.encode("utf-8", "replace")
    return fields


def refusal_message(policy_name: str | None, reason: str) -> str:
    """`blocked by policy "<name>": <reason>`, in one line: names in it are the agent's, and it goes to logs and terminals."""
    return visible(f'blocked by policy "{policy_name or "(none)"}": {reason}', lines=False)


class PolicyViolation(InsufficientPrivilege):
    """The policy refuses a statement; SQLSTATE 42501.

    Attributes:
        decision: the whole `Decision`, or None when none was reached.
        rule: the tag of the rule that decided, `masked_column_predicate` for instance.
        hint: how to rewrite the statement so that it passes, or None.

    `diag` carries the message, the hint and the SQLSTATE; a traceback shows the hint as well. The error survives pickling.
    """

    def __init__(
        self,
        message: str = "",
        decision: Decision | None = None,
        *,
        rule: Rule | None = None,
        hint: str | None = None,
    ) -> None:
        self.decision = decision
        self.rule: Rule = rule or (decision.rule if decision is not None else "internal_error")
        self.hint = hint if hint is not None or decision is None else decision.hint
        super().__init__(message, info=_diagnostics("42501", message, self.hint))
        if self.hint:
            self.add_note(f"HINT:  {self.hint}")


class ApprovalRejected(PolicyViolation):
    """The person who was asked refused the statement."""


class ApprovalExpired(PolicyViolation):
    """Nobody approved the statement within `approval_timeout_seconds`."""


class PolicyUnavailable(PolicyViolation, OperationalError):
    """The policy, the key of its hashes or its budget store cannot be read, so the statement is refused.

    Also an `OperationalError`: the statement may well pass when tried again later.
    """

    def __init__(
        self,
        message: str = "",
        decision: Decision | None = None,
        *,
        rule: Rule | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, decision, rule=rule or "policy_unavailable", hint=hint)


class BudgetExceeded(ConfigurationLimitExceeded):
    """A budget of the policy is used up; SQLSTATE 53400.

    Attributes:
        rule: `query_budget_hour`, `query_budget_day` or `egress_budget`.
        resets_at: when there is room again, an aware datetime in UTC.
        decision: the whole `Decision`, which blocks, or None when none was reached.
        hint: what to do about it.
    """

    def __init__(
        self,
        message: str = "",
        decision: Decision | None = None,
        *,
        rule: Rule = "query_budget_hour",
        resets_at: datetime | None = None,
    ) -> None:
        self.decision = decision
        self.rule: Rule = rule
        self.resets_at = resets_at if resets_at is not None else datetime.now(UTC)
        self.hint: str | None = f"try again after {rfc3339(self.resets_at)}"
        super().__init__(message, info=_diagnostics("53400", message, self.hint))


def rfc3339(moment: datetime) -> str:
    """`2026-03-01T00:00:00Z`, in whole seconds.

    >>> rfc3339(datetime(2026, 3, 1, tzinfo=UTC))
    '2026-03-01T00:00:00Z'
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def violation(kind: type[PolicyViolation], policy_name: str | None, decision: Decision) -> PolicyViolation:
    """The error that reports a blocking decision."""
    return kind(refusal_message(policy_name, decision.reason), decision)
