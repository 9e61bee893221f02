"""What became of each test of a run, and what differs between two runs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["passed", "failed", "skipped"]

#: The environment variable with the file that the tests' process writes its outcomes to, a line of JSON each.
OUTCOMES = "GUARDDB_TEST_OUTCOMES"
_WORSE: dict[Outcome, int] = {"passed": 0, "skipped": 1, "failed": 2}


@dataclass(frozen=True, slots=True)
class Run:
    """The outcomes of one run, by test, and the last line of each failure."""

    outcomes: dict[str, Outcome]
    why: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Run:
        """A test with several outcomes (its set-up, its subtests) has the worst of them."""
        outcomes: dict[str, Outcome] = {}
        why: dict[str, str] = {}
        for line in path.read_text().splitlines():
            test, outcome, reason = json.loads(line)
            if _WORSE[outcome] >= _WORSE[outcomes.get(test, "passed")]:
                outcomes[test] = outcome
                why[test] = reason
        return cls(outcomes, why)

    def counts(self) -> dict[str, int]:
        found = Counter(self.outcomes.values())
        return {name: found[name] for name in ("passed", "failed", "skipped")}  # type: ignore[index]

    def worse_than(self, plain: Run) -> dict[str, str]:
        """Tests that pass in the plain run and fail in this one, with the reason."""
        return {
            test: self.why.get(test, "")
            for test, outcome in plain.outcomes.items()
            if outcome == "passed" and self.outcomes.get(test) == "failed"
        }

    def left_out(self, plain: Run) -> int:
        """How many tests pass in the plain run and are not run in this one: a suite chooses some by the driver's name."""
        return sum(
            outcome == "passed" and self.outcomes.get(test) in (None, "skipped")
            for test, outcome in plain.outcomes.items()
        )


def note(path: str, test: str, outcome: Outcome, why: str = "") -> None:
    """Write one outcome down."""
    with Path(path).open("a") as file:
        file.write(json.dumps([test, outcome, why[:500]]) + "\n")
