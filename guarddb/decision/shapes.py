"""The three shapes that a part of the policy can have.

A new rule is a function of one of these shapes and a line in its tuple in `decide.py`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from guarddb.decision.case import Case
from guarddb.decision.draft import Draft
from guarddb.decision.refusal import Finding, Refusal


class StatementRule(Protocol):
    """A rule about one statement. The first refusal ends the judgement; findings are collected; None is "nothing to say"."""

    def __call__(self, case: Case, /) -> Refusal | Finding | None: ...


class ScriptRule(Protocol):
    """A rule about how the statements of one text go together. Asked when each of them has passed by itself."""

    def __call__(self, cases: tuple[Case, ...], /) -> Refusal | Finding | None: ...


class Writer(Protocol):
    """Writes its part of the policy into the text of one statement that has passed. Where that has no place it refuses."""

    def __call__(self, case: Case, draft: Draft, /) -> Refusal | None: ...


class Writers(NamedTuple):
    """Writers in the order in which they have their turn. `announced`: those that write what `Draft.lists` and
    `Draft.limited` say there is, and nothing else."""

    always: tuple[Writer, ...]
    announced: tuple[Writer, ...]
