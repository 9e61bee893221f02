"""What connect() is told about the policy, checked before any connection is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from psycopg import NotSupportedError

from guarddb.decision.plan import Decision
from guarddb.driver.branches import provider_of
from guarddb.driver.budget_table import open_table
from guarddb.errors import PolicyUnavailable
from guarddb.policy.errors import PolicyError
from guarddb.policy.settings import callers_settings
from guarddb.risk.columns import Classifier, ColumnClasses
from guarddb.risk.history import History
from guarddb.risk.scoring import check_thresholds
from guarddb.runtime.action_policies import ActionPolicyOrSource, ActionPolicySource, open_action_policy
from guarddb.runtime.approvals import AnyApprover
from guarddb.runtime.approvers import as_approver
from guarddb.runtime.branches import Branch, BranchProvider
from guarddb.runtime.budgets import BudgetError, BudgetStore, open_store
from guarddb.runtime.decision_log import DecisionRecord, DecisionSink
from guarddb.runtime.policies import open_source
from guarddb.runtime.policy_source import PolicySource, PolicySourceError

#: Budgets in a table of PostgreSQL's.
_TABLE_URIS = ("postgresql://", "postgres://")
#: A function of (decision, sql), or a sink of records.
OnDecision = Callable[[Decision, str], object] | Callable[[DecisionRecord], object]
#: The connect() arguments that are guarddb's own.
ARGUMENTS = (
    "policy",
    "agent",
    "settings",
    "approver",
    "budgets",
    "branches",
    "enforcement",
    "on_decision",
    "action_policy",
    "classify_columns",
    "flag_at",
    "refuse_at",
    "action_history",
)


@dataclass(frozen=True, slots=True)
class Scored:
    """What connect() was told about the action policy."""

    source: ActionPolicySource
    classifier: Classifier | None
    flag_at: float = 60
    refuse_at: float = 85
    history: History | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """What connect() was told, checked before any connection is made."""

    source: PolicySource
    agent: str | None = None
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    observe: bool = False
    store: BudgetStore | None = None
    on_decision: OnDecision | None = None
    scored: Scored | None = None
    approver: AnyApprover | None = None
    #: who makes the branches of `write_mode: sandbox`; and the one that the connection is made to
    branches: BranchProvider | None = None
    branch: Branch | None = None
    #: of an async connection
    asynchronous: bool = False

    @classmethod
    def of(
        cls,
        *,
        policy: Any = None,
        agent: str | None = None,
        settings: Mapping[str, str] | None = None,
        approver: AnyApprover | None = None,
        budgets: str | BudgetStore | None = None,
        branches: Any = None,
        enforcement: str = "enforce",
        on_decision: OnDecision | None = None,
        action_policy: ActionPolicyOrSource | None = None,
        classify_columns: bool | ColumnClasses = True,
        flag_at: float = 60,
        refuse_at: float = 85,
        action_history: History | Mapping[str, int] | None = None,
    ) -> Attachment:
        """Check the arguments.

        Raises:
            PolicyError: there is no policy, it is not valid, or another argument is not what it should be.
            PolicyUnavailable: it cannot be fetched.
            psycopg.NotSupportedError: an argument asks for what this version cannot do.
        """
        if approver is not None:
            try:
                as_approver(approver)
            except TypeError as ex:
                raise NotSupportedError(str(ex)) from None
        if agent is not None and not isinstance(agent, str):
            raise PolicyError(
                f"must be a text that names the agent, not {type(agent).__name__}", path="agent"
            )
        if agent is not None and ("\0" in agent or (not agent.isascii() and _holds_surrogates(agent))):
            raise PolicyError("must be valid Unicode text without NUL characters", path="agent")
        if budgets is not None and not isinstance(budgets, str) and not isinstance(budgets, BudgetStore):
            raise PolicyError(
                f"must be a storage URI (memory://, redis://…, postgresql://…) or a store, not {type(budgets).__name__}",
                path="budgets",
            )
        if (
            on_decision is not None
            and not isinstance(on_decision, DecisionSink)
            and not callable(on_decision)
        ):
            raise PolicyError(
                f"must be a sink (JsonlSink, PostgresSink) or a function, not {type(on_decision).__name__}",
                path="on_decision",
            )
        if not isinstance(enforcement, str) or enforcement not in ("enforce", "observe"):
            raise NotSupportedError(f'enforcement is "enforce" or "observe", not {enforcement!r}')
        try:
            source = open_source(policy)
            source.current()
            scored = _scored(action_policy, classify_columns, flag_at, refuse_at, action_history)
        except PolicySourceError as ex:
            raise PolicyUnavailable(str(ex)) from None
        store: BudgetStore | None = None
        if isinstance(budgets, str):
            try:
                if budgets.startswith(_TABLE_URIS):
                    store = table = open_table(budgets)
                    if source.current()[0].guarddb.without_budget_store != "pass":
                        table.open()
                else:
                    store = open_store(budgets)
            except BudgetError as ex:
                raise PolicyUnavailable(str(ex)) from None
        elif budgets is not None:
            store = budgets
        given = MappingProxyType(callers_settings(settings))
        return cls(
            source,
            agent,
            given,
            enforcement == "observe",
            store,
            on_decision,
            scored,
            approver,
            provider_of(branches),
        )


def _holds_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _scored(
    action_policy: ActionPolicyOrSource | None,
    classify_columns: bool | ColumnClasses,
    flag_at: float,
    refuse_at: float,
    action_history: History | Mapping[str, int] | None,
) -> Scored | None:
    """The action policy, made ready; None without one."""
    check_thresholds(flag_at, refuse_at)
    classifier = Classifier.of(classify_columns)
    if action_history is not None and not isinstance(action_history, History):
        action_history = History(action_history)
    if action_policy is None:
        return None
    source = open_action_policy(action_policy)
    source.current()
    return Scored(source, classifier, flag_at, refuse_at, action_history)
