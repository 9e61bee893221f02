"""What an oracle says of one statement, and the count over all of them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

#: same: they agree. error: both raise the same. refused: guarddb refuses, and may. blocked: it refuses and may not.
#: invalid: PostgreSQL itself refuses the text (the generator's fault). plan: they differ in an error that only visible rows
#: raise, which PostgreSQL leaves to the plan. slow: cut off by the timeout. mismatch: everything else.
Kind: TypeAlias = Literal["same", "error", "refused", "blocked", "invalid", "plan", "slow", "mismatch"]


@dataclass(slots=True)
class Verdict:
    """What an oracle found. `cause` is short and the same for findings that look alike; `detail` is for people."""

    kind: Kind
    cause: str = ""
    detail: str = ""


@dataclass(slots=True)
class Finding:
    """A mismatch or an over-block, shrunk."""

    verdict: Verdict
    sql: str
    params: list[str | None]
    place: str
    number: int
    count: int = 1

    def shown(self) -> str:
        """The statement and what is wrong with it, as lines."""
        return "\n".join(
            (
                f"--- {self.verdict.kind} (statement {self.number}, {self.place}): {self.verdict.cause}",
                f"  {self.sql}" + (f"   -- {self.params}" if self.params else ""),
                *("  " + line for line in self.verdict.detail.splitlines()),
            )
        )


@dataclass(slots=True)
class Report:
    """What a run found."""

    oracle: str
    seed: int
    statements: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    features: Counter[str] = field(default_factory=Counter)
    blocks: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    reviewed: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, other: Report) -> None:
        """Take in the report of another worker."""
        self.statements += other.statements
        for mine, theirs in (
            (self.verdicts, other.verdicts),
            (self.features, other.features),
            (self.blocks, other.blocks),
            (self.causes, other.causes),
            (self.reviewed, other.reviewed),
        ):
            mine.update(theirs)
        self.findings += other.findings
        self.examples = {**other.examples, **self.examples}

    @property
    def mismatches(self) -> int:
        return self.verdicts["mismatch"]

    def shown(self) -> str:
        lines = [
            f"oracle {self.oracle}, seed {self.seed}: {self.statements} statements, "
            + ", ".join(f"{k} {n}" for k, n in sorted(self.verdicts.items()))
        ]
        for reason, n in self.blocks.most_common():
            lines += [f"  refused {n}: {reason}", f"      {self.examples.get(reason, '')}"]
        for cause, n in self.reviewed.most_common():
            lines += [f"  reviewed {n}: {cause}", f"      {self.examples.get(f'reviewed: {cause}', '')}"]
        for cause, n in self.causes.most_common():
            lines.append(f"  mismatch {n}: {cause}")
        lines += [finding.shown() for finding in self.findings]
        return "\n".join(lines)


def general(reason: str) -> str:
    """A refusal's reason without the names in it."""
    return re.sub(r'"[^"]*"', '"…"', reason)


def shape(sql: str) -> str:
    """A statement without its names and numbers: what a cause is told by after shrinking."""
    return re.sub(r"\b\w*\d+\w*\b", "#", sql)
