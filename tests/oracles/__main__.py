"""Run an oracle at any size: `python -m tests.oracles --oracle rls --statements 200000 --seed 1 --jobs 2`.

Starts a PostgreSQL of its own. Prints what it found and the seed to find it again; exits with 1 when something differs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.fix_server import running_server
from tests.oracles.share import ORACLES, worker
from tests.oracles.texts import texts_report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracles", description=__doc__)
    parser.add_argument("--oracle", choices=[*ORACLES, "all"], default="all")
    parser.add_argument("--statements", type=int, default=20_000, help="of each oracle")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--shrinks", type=int, default=2, help="findings of each cause to shrink, in each job"
    )
    parser.add_argument("--live", action="store_true", help="through guarddb.connect, not the engine alone")
    parser.add_argument(
        "--from",
        dest="texts",
        type=Path,
        help="with --oracle analyzer: the files of SQL in a directory instead",
    )
    parser.add_argument("--postgres", type=int, choices=(16, 18), default=18)
    options = parser.parse_args()
    directory = Path(tempfile.gettempdir()) / f"gdb-oracles-{os.getpid()}" / str(options.postgres)
    failed = False
    with running_server(directory, options.postgres) as server:
        if options.texts is not None:
            report = texts_report(server, options.texts)
            print(report.shown())
            return 1 if report.mismatches else 0
        for name in ORACLES if options.oracle == "all" else [options.oracle]:
            started = time.monotonic()
            live = options.live and name not in ("reparse", "analyzer", "changes")
            tasks = [
                (
                    server,
                    name,
                    live,
                    options.seed,
                    options.statements,
                    job,
                    options.jobs,
                    options.shrinks,
                )
                for job in range(options.jobs)
            ]
            if options.jobs == 1:
                reports = [worker(tasks[0])]
            else:
                with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
                    reports = pool.map(worker, tasks)
            report = reports[0]
            for other in reports[1:]:
                report.add(other)
            print(report.shown())
            print(f"{time.monotonic() - started:.0f} s", flush=True)
            failed = failed or report.mismatches > 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
