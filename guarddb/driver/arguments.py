"""What connect() is told about the policy, checked before any connection is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from psycopg import NotSupportedError

from guarddb.decision.plan import Decision
from guarddb.errors import PolicyUnavailable
from guarddb.runtime.budgets import BudgetError, BudgetStore, open_store
from guarddb.runtime.policies import PolicySource, PolicySourceError, open_source

OnDecision = Callable[[Decision, str], object]
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
)


@dataclass(frozen=True, slots=True)
class Attachment:
    """What connect() was told, checked before any connection is made."""

    source: PolicySource
    agent: str | None = None
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    observe: bool = False
    store: BudgetStore | None = None
    on_decision: OnDecision | None = None

    @classmethod
    def of(
        cls,
        *,
        policy: Any = None,
        agent: str | None = None,
        settings: Mapping[str, str] | None = None,
        approver: Any = None,
        budgets: str | BudgetStore | None = None,
        branches: Any = None,
        enforcement: str = "enforce",
        on_decision: OnDecision | None = None,
    ) -> Attachment:
        """Check the arguments.

        Raises:
            PolicyError: there is no policy, or it is not valid.
            PolicyUnavailable: it cannot be fetched.
            psycopg.NotSupportedError: an argument asks for what this version cannot do.
        """
        if approver is not None:
            raise NotSupportedError("approver= is not supported by this version of guarddb: nothing is held")
        if branches is not None:
            raise NotSupportedError("branches= is not supported by this version of guarddb: no sandbox mode")
        if enforcement not in ("enforce", "observe"):
            raise NotSupportedError(f'enforcement is "enforce" or "observe", not {enforcement!r}')
        try:
            source = open_source(policy)
            source.current()
        except PolicySourceError as ex:
            raise PolicyUnavailable(str(ex)) from None
        store: BudgetStore | None = None
        if isinstance(budgets, str):
            try:
                store = open_store(budgets)
            except BudgetError as ex:
                raise PolicyUnavailable(str(ex)) from None
        elif budgets is not None:
            store = budgets
        given = MappingProxyType({str(name).lower(): str(value) for name, value in (settings or {}).items()})
        return cls(source, agent, given, enforcement == "observe", store, on_decision)
