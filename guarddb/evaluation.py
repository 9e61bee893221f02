"""`guarddb.evaluate`: the engine's answer without a database.

A policy is read here, from wherever it is; the engine itself reads nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from guarddb.decision import decide as engine
from guarddb.decision.on_catalog import CompiledPolicy
from guarddb.decision.plan import Decision
from guarddb.policy.load import load_policy
from guarddb.policy.profile import PolicyProfile
from guarddb.sql.catalog import Catalog, check_catalog


def evaluate(
    sql: str,
    policy: PolicyProfile | Mapping[str, Any] | str | os.PathLike[str],
    catalog: Catalog | None = None,
) -> Decision:
    """What would happen to a statement under a policy. Nothing is sent anywhere.

    The live session asks the very same engine, so that with the same catalog this is the live answer. Without a catalog
    an answer under a policy that restricts data may be looser than the live one where the database holds what nobody can
    see from here; `needs_catalog` says so. One difference: a session lets a truly empty text through as the no-op that it is.

    Args:
        sql: one or more statements.
        policy: a profile, the document of one (its `name` may be missing), or a path to one.
        catalog: what the database holds, see `Catalog.from_connection`.

    Raises:
        PolicyError: the policy cannot be read.
        TypeError: the statement is no text, or the catalog none of guarddb's.
    """
    if not isinstance(sql, str):
        raise TypeError(f"the statement to judge is a text (str), not {type(sql).__name__}")
    check_catalog(catalog)
    if isinstance(policy, Mapping):
        policy = PolicyProfile.draft(policy)
    profile = load_policy(policy)
    return engine.decide(sql, _compiled(profile), catalog).decision


@lru_cache(maxsize=64)
def _compiled(profile: PolicyProfile) -> CompiledPolicy:
    return engine.compile_policy(profile)
