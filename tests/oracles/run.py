"""Running an oracle over many statements, and shrinking what it finds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection
from typing import Protocol

from tests.oracles.draws import Draws, Span, shrink
from tests.oracles.grammar import Generated
from tests.oracles.result import Finding, Report, Verdict, shape


class Oracle(Protocol):
    name: str

    def make(self, draws: Draws, number: int) -> Generated: ...

    def check(self, generated: Generated, number: int) -> Verdict: ...

    def place(self, number: int) -> str: ...


def statement(oracle: Oracle, seed: int, number: int) -> Generated:
    """The statement of this number: each has a source of its own, so that it can be made again alone."""
    return oracle.make(Draws(random.Random(seed * 1_000_003 + number)), number)


def run(
    oracle: Oracle,
    *,
    seed: int,
    first: int = 0,
    statements: int = 5000,
    step: int = 1,
    shrinks: int = 3,
    settled: Collection[str] = (),
    progress: Callable[[Report], None] | None = None,
    until: Callable[[Report], bool] = lambda report: False,
) -> Report:
    """Check the statements `first`, `first + step` …; up to `shrinks` findings of each cause are shrunk, but those `settled`.

    It ends before them all where `until` says so of what was found.
    """
    report = Report(oracle.name, seed)
    shrunk: Counter[tuple[str, str]] = Counter()
    known: dict[tuple[str, str], Finding] = {}
    for number in range(first, first + statements * step, step):
        generated = statement(oracle, seed, number)
        verdict = oracle.check(generated, number)
        report.statements += 1
        report.verdicts[verdict.kind] += 1
        if verdict.kind != "invalid":
            report.features.update(set(generated.features))
        if verdict.kind == "reviewed":
            report.reviewed[verdict.cause] += 1
        if verdict.kind in ("invalid", "refused", "reviewed"):
            report.examples.setdefault(f"{verdict.kind}: {verdict.cause}", generated.sql)
        if verdict.kind in ("mismatch", "blocked"):
            (report.causes if verdict.kind == "mismatch" else report.blocks)[verdict.cause] += 1
            key = (verdict.kind, verdict.cause)
            if shrunk[key] < shrinks and verdict.cause not in settled:
                shrunk[key] += 1
                finding = _shrunk(oracle, generated, verdict, number)
                report.examples.setdefault(verdict.cause, finding.sql)
                same = (finding.verdict.cause, shape(finding.sql))
                if same in known:
                    known[same].count += 1
                else:
                    known[same] = finding
                    report.findings.append(finding)
        if progress is not None and report.statements % 500 == 0:
            progress(report)
        if until(report):
            break
    return report


def _shrunk(oracle: Oracle, generated: Generated, verdict: Verdict, number: int) -> Finding:
    """The simplest statement found that fails for the same cause."""
    last: tuple[Generated, Verdict] = (generated, verdict)

    def fails(made: list[int]) -> bool:
        nonlocal last
        smaller = oracle.make(Draws(made), number)
        found = oracle.check(smaller, number)
        if found.kind == verdict.kind and found.cause == verdict.cause:
            last = (smaller, found)
            return True
        return False

    def spans(made: list[int]) -> list[Span]:
        draws = Draws(made)
        oracle.make(draws, number)
        return draws.spans

    shrink(generated.made, fails, spans, tries=600)
    return Finding(last[1], last[0].sql, last[0].params, oracle.place(number), number)
