"""What a rule may answer: a refusal, a finding that goes along with the decision, or nothing."""

from __future__ import annotations

from dataclasses import dataclass

from guarddb.vocabulary import Rule


@dataclass(frozen=True, slots=True)
class Refusal:
    """One rule said no. `reason` and `hint` are read by people and by the model that wrote the statement.

    `deciding` is the entry of the profile that decided, by its place there: `masking_rules[2]`, `table_denylist[0]`, `floor`.
    `try_sql` is a statement that serves the same purpose and that the engine has found to pass.
    """

    rule: Rule
    reason: str
    hint: str | None = None
    deciding: str | None = None
    try_sql: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule has something to say that does not stop the statement; it becomes a note of the decision."""

    rule: Rule
    note: str
