"""Hypothesis, as the suite searches with it: every run tries the same examples, and none is measured.

A run on a busy machine, or of a change that has nothing to do with it, is to give the same answer. Who wants to find something
new sets `GUARDDB_SEARCH` to how many times as many examples are drawn at random.
"""

from __future__ import annotations

import os
from typing import Any

import hypothesis
from hypothesis import HealthCheck, example, given, strategies as st

__all__ = ["example", "given", "settings", "st"]

SEARCH = int(os.environ.get("GUARDDB_SEARCH", "0"))


def settings(*, max_examples: int = 100) -> Any:
    """Hypothesis' settings for one test; the fixtures of a function are for all of its examples."""
    return hypothesis.settings(
        max_examples=max_examples * max(1, SEARCH),
        derandomize=not SEARCH,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        **({} if SEARCH else {"database": None}),
    )
