"""A refusal: which rule, why, and how to write the statement so that it passes."""

from __future__ import annotations

from dataclasses import dataclass

from guarddb.vocabulary import Rule


@dataclass(frozen=True, slots=True)
class Refusal:
    """One rule said no. `reason` and `hint` are read by people and by the model that wrote the statement."""

    rule: Rule
    reason: str
    hint: str | None = None
