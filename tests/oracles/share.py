"""One share of an oracle's run, importable by the processes that share it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from tests.oracles.analyzer import analyzer_oracle
from tests.oracles.changes import changes_oracle
from tests.oracles.masks import mask_oracle
from tests.oracles.reparse import reparse_oracle
from tests.oracles.result import Report
from tests.oracles.rls import rls_oracle
from tests.oracles.run import Oracle, run
from tests.oracles.twin import behind_wall_oracle, twin_oracle
from tests.oracles.variants import variants_oracle

ORACLES: dict[str, Callable[..., AbstractContextManager[Any]]] = {
    "rls": rls_oracle,
    "masks": mask_oracle,
    "variants": variants_oracle,
    "changes": changes_oracle,
    "reparse": reparse_oracle,
    "twin": twin_oracle,
    "walled": behind_wall_oracle,
    "analyzer": analyzer_oracle,
}


def worker(task: tuple[str, str, bool, int, int, int, int, int]) -> Report:
    """One share of a run: every `jobs`-th statement."""
    server, name, live, seed, statements, job, jobs, shrinks = task
    started = time.monotonic()

    said = 0

    def progress(report: Report) -> None:
        nonlocal said
        for finding in report.findings[said:]:
            if finding.verdict.kind == "mismatch":
                print(finding.shown(), file=sys.stderr, flush=True)
        said = len(report.findings)
        if job == 0 and report.statements % 5000 == 0:
            rate = report.statements / (time.monotonic() - started)
            done = report.statements * jobs
            print(
                f"{done} statements, {rate * jobs:.0f}/s, {dict(report.verdicts)}",
                file=sys.stderr,
                flush=True,
            )

    oracle: Oracle
    with ORACLES[name](server, live=True) if live else ORACLES[name](server) as oracle:
        return run(
            oracle,
            seed=seed,
            first=job,
            statements=statements // jobs,
            step=jobs,
            shrinks=shrinks,
            progress=progress,
        )
