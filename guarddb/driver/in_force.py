"""The policy in force on a connection: one value, built completely and then put in the place of the one before.

A policy that cannot be made ready (its key is missing, say) raises while it is built, and so changes nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from guarddb.driver import operator_log, plans, settings as session_settings
from guarddb.errors import PolicyUnavailable, refusal_message
from guarddb.runtime.budgets import Budget, BudgetLimits, open_store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from guarddb.driver.arguments import Attachment
    from guarddb.driver.plans import Compiled
    from guarddb.policy.profile import PolicyProfile


@dataclass(frozen=True, slots=True, eq=False)
class PolicyInForce:
    """A profile made ready for one connection.

    Attributes:
        compiled: what the engine judges by.
        restricts: it matters where rows come from: the policy closes, masks, filters or caps something.
        forbids_nothing: there is nothing to protect, so the server is never asked about its catalog.
        observe: decide and report, and change nothing.
        budget: the counters of this policy and agent; `counts` says whether statements are counted, `egress` whether bytes are.
        surrounds: some statements may have to be taken back after they have run.
        rolls_back: every transaction is rolled back where it would commit.
        counted_elsewhere: an event loop must not be held up by the budget store, so it is asked as `waits.py` asks.
        asks: a statement may have to wait for somebody else than the server, see `waits.py`.
        scans: texts are scanned as they are handed out.
        hash_key: the key of its hashes, or None.
        held: the PostgreSQL settings that the session must have under it.
    """

    profile: PolicyProfile
    version: str
    compiled: Compiled
    restricts: bool
    forbids_nothing: bool
    observe: bool
    budget: Budget
    counts: bool
    egress: bool
    rolls_back: bool
    surrounds: bool
    counted_elsewhere: bool
    asks: bool
    scans: bool
    hash_key: bytes | None
    held: Mapping[str, str | None]

    @property
    def name(self) -> str:
        """The profile's name."""
        return self.profile.name


def policy_in_force(attachment: Attachment, profile: PolicyProfile, version: str) -> PolicyInForce:
    """Make a profile ready for a connection.

    Raises:
        PolicyUnavailable: something that the profile needs is not there.
    """
    if profile.write_mode == "sandbox" and attachment.branch is None and not attachment.observe:
        # A policy that became one under the connection. What it lifts is lifted for branches alone.
        reason = "write_mode has become sandbox, and this connection was not made to a branch; connect again"
        raise PolicyUnavailable(refusal_message(profile.name, reason))
    settings = {**profile.guarddb.settings, **attachment.settings}
    compiled = plans.compiled(profile, version, settings)
    limits = BudgetLimits(
        profile.budget_queries_per_hour, profile.budget_queries_per_day, profile.egress_bytes_per_day
    )
    # One agent has one budget in each policy, whatever version of it is in force.
    owner = getattr(profile, "id", None) or profile.name
    observe = attachment.observe
    store = attachment.store or open_store()
    counted_elsewhere = attachment.asynchronous and getattr(store, "remote", False)
    return PolicyInForce(
        profile=profile,
        version=version,
        compiled=compiled,
        restricts=compiled.policy.restricts_data or profile.max_rows > 0,
        forbids_nothing=profile.forbids_nothing,
        observe=observe,
        budget=Budget(store, _budget_key(owner, attachment.agent), limits),
        counts=bool(limits.queries_per_hour or limits.queries_per_day),
        egress=bool(limits.egress_bytes_per_day) and not observe,
        rolls_back=profile.write_mode == "rollback" and not observe,
        surrounds=not observe
        and bool(
            profile.write_mode == "rollback"
            or profile.max_affected_rows
            or profile.approval_mode != "off"
            or profile.row_filters
        ),
        counted_elsewhere=counted_elsewhere,
        asks=(profile.approval_mode != "off" and not observe)
        or counted_elsewhere
        or (attachment.asynchronous and getattr(attachment.on_decision, "remote", False)),
        scans=profile.content_scan_mode != "off",
        hash_key=_hash_key(profile),
        held={} if observe or profile.forbids_nothing else session_settings.held_by(profile, settings),
    )


def _hash_key(profile: PolicyProfile) -> bytes | None:
    variable = profile.guarddb.hash_key_env
    if variable is None:
        return None
    if key := os.environ.get(variable):
        operator_log.short_key(variable, len(key.encode()))
        return key.encode()
    reason = f"the environment variable {variable}, which holds the key of its hashes, is not set"
    raise PolicyUnavailable(refusal_message(profile.name, reason))


def _budget_key(owner: str, agent: str | None) -> str:
    """Who a budget is counted for; no two pairs share one."""
    return f"{quote(owner, safe='')}/{quote(agent or '', safe='')}"
