"""What whoever keeps the policy should hear of, as log lines. No literals and no values are in them.

`guarddb.decision`: a WARNING for every refusal. `guarddb.policy`: a WARNING for every rule that matches nothing in the
database, once for each version of the policy and of the catalog.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from cachetools import LRUCache

from guarddb.content.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from guarddb.decision.on_catalog import CompiledPolicy
    from guarddb.decision.plan import Decision, Plan
    from guarddb.lint.unknown import UnknownRule
    from guarddb.sql.catalog import Catalog

decisions = logging.getLogger("guarddb.decision")
policies = logging.getLogger("guarddb.policy")
# Whoever configures logging gets the refusals; where nobody does they stay off stderr, for each is an error already. What is
# wrong with a policy has no other way to be heard.
decisions.addHandler(logging.NullHandler())

_told: LRUCache[object, bool] = LRUCache(1024)
_lock = threading.Lock()


def refused(decision: Decision, policy: str | None, agent: str | None, operation: str = "") -> None:
    """A statement was refused: by which rule and which entry of which policy. The reason may quote the text, so it stays out."""
    decisions.warning(
        "refused: rule=%s deciding=%s policy=%s agent=%s%s",
        decision.rule,
        decision.deciding or "-",
        visible(policy or "-", lines=False),
        visible(agent or "-", lines=False),
        f" operation={operation}" if operation else "",
    )


def operation_of(plan: Plan) -> str:
    """The commands of a text, as telemetry names them."""
    return ", ".join(dict.fromkeys(s.facts.operation for s in plan.statements if s.facts.operation))


def unknown_rules(policy: CompiledPolicy, catalog: Catalog) -> None:
    """Say which entries of a policy match nothing of a catalog."""
    key = (policy.profile.name, policy.version, catalog.version)
    with _lock:
        if key in _told:
            return
        _told[key] = True
    refuses = policy.profile.guarddb.on_unknown == "refuse"
    for unknown in policy.governance(catalog).unknown:
        what = ""
        if unknown.protects:
            what = ": it protects nothing" + (", so statements on tables are refused" if refuses else "")
        policies.warning(
            "policy %s: %s: %s%s",
            visible(policy.profile.name, lines=False),
            unknown.path,
            visible(unknown.message, lines=False),
            what,
        )


def unreadable_filters(policy: CompiledPolicy, faults: Iterable[UnknownRule]) -> None:
    """Say which filters PostgreSQL cannot read."""
    refuses = policy.profile.guarddb.on_unknown == "refuse"
    for fault in faults:
        policies.warning(
            "policy %s: %s: %s: %s",
            visible(policy.profile.name, lines=False),
            fault.path,
            visible(fault.message, lines=False),
            "statements on tables are refused" if refuses else "every statement on the table will fail",
        )


#: Bytes. A key that can be guessed makes the hash one that can be looked up.
SHORTEST_KEY = 16


def short_key(variable: str, length: int) -> None:
    """Say once that a hash key is too short to be one."""
    if length >= SHORTEST_KEY:
        return
    with _lock:
        if (variable, length) in _told:
            return
        _told[variable, length] = True
    policies.warning(
        "the key of hashes in %s has %d byte%s: fewer than %d can be guessed",
        variable,
        length,
        "" if length == 1 else "s",
        SHORTEST_KEY,
    )


_MINUTE = 60.0
_faults = logging.getLogger("guarddb")


class _Silence:
    """When something was last said about one thing that is broken."""

    __slots__ = ("__weakref__", "until")

    def __init__(self) -> None:
        self.until: dict[str, float] = {}


_about_nothing = _Silence()
_about: WeakKeyDictionary[Any, _Silence] = WeakKeyDictionary()


def once_a_minute(what: str, error: BaseException, about: object = None) -> None:
    """What every statement meets is broken: said with its traceback, and not again at once. `about`: which one it is."""
    now = time.monotonic()
    with _lock:
        try:
            silence = _about_nothing if about is None else _about.setdefault(about, _Silence())
        except TypeError:  # nothing can be kept about this one
            silence = _about_nothing
        if now < silence.until.get(what, 0.0):
            return
        silence.until[what] = now + _MINUTE
    _faults.error("%s", what, exc_info=error)
