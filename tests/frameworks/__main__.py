"""Run the suites of SQLAlchemy and Django from a checkout of theirs, plain and guarded, and count what differs.

    python -m tests.frameworks sqlalchemy --from DIR --dsn DSN [--way plugin …] [--profile open|restricting|P.yaml] [--json]
    python -m tests.frameworks django --from DIR [--dsn DSN] [-- backends.postgresql]

DIR holds a checkout (or an unpacked source distribution); nothing of it is copied, and the tests run on the library in it.
The plain run comes first, then each way of guarding it: SQLAlchemy by its dialect, its plugin and `guarddb.install()`, and below
its async driver; Django by its engine and `guarddb.install()`. Without --dsn a PostgreSQL of its own is started. What comes
behind `--` goes to the suite instead of the tests that it runs otherwise.

Exits with 1 when a test passes plain and not guarded, with 2 when the suite cannot be run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guarddb.vocabulary import FLOOR_RULES, KINDS
from tests.fix_server import roomy_memory, running_server, temporary_database
from tests.frameworks import django_suite, sqlalchemy_suite
from tests.frameworks.outcomes import Run

SUITES: dict[str, Any] = {"sqlalchemy": sqlalchemy_suite, "django": django_suite}

#: Nothing is left in it that a text could get around: it only traces.
OPEN: dict[str, Any] = {
    "name": "open",
    "access_mode": "read_write",
    "statement_rules": {"allow": [*KINDS]},
    "guarddb": {"floor_exceptions": [*FLOOR_RULES]},
}
#: The same with a mask and a row filter on tables that no test has, so that everything is read, judged and kept up with.
RESTRICTING: dict[str, Any] = {
    **OPEN,
    "name": "restricting",
    "masking_rules": [{"table": "guarddb_none.people", "column": "email", "kind": "redact"}],
    "row_filters": [{"table": "guarddb_none.orders", "predicate": "tenant = 1"}],
    "guarddb": {**OPEN["guarddb"], "on_unknown": "warn"},
}


@contextmanager
def server(dsn: str | None) -> Iterator[str]:
    if dsn is not None:
        yield dsn
        return
    with running_server(Path(roomy_memory()) / f"gdb-frameworks-{os.getpid()}" / "18", 18) as own:
        yield own


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.frameworks", description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--from", dest="checkout", type=Path, required=True)
    parser.add_argument("--dsn", help="a server, as superuser; databases of the run's own are made on it")
    parser.add_argument("--way", dest="ways", action="append", help="only this one, besides the plain run")
    parser.add_argument("--profile", default="open")
    parser.add_argument("--logs", type=Path, help="where the suite's own output is kept")
    parser.add_argument("--workers", type=int, default=1, help="processes, for SQLAlchemy's")
    parser.add_argument("--json", action="store_true")
    behind = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    own, tests = sys.argv[1:behind], sys.argv[behind + 1 :]
    options = parser.parse_args(own)
    suite = SUITES[options.suite]
    checkout = options.checkout.absolute()
    unknown = sorted(set(options.ways or ()) - set(suite.WAYS))
    if unknown or not (checkout / ("test" if options.suite == "sqlalchemy" else "tests")).is_dir():
        parser.error(
            f"there is no way {unknown[0]!r}" if unknown else f"{checkout} is no checkout of {options.suite}"
        )
    guarded = options.ways or [way for way in suite.WAYS if not way.startswith("plain")]
    runs: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as temporary, server(options.dsn) as found:
        logs = options.logs or Path(temporary)
        logs.mkdir(parents=True, exist_ok=True)
        policy = _policy(options.profile, Path(temporary))
        for way in dict.fromkeys([*(suite.BASE.get(way, "plain") for way in guarded), *guarded]):
            outcomes = logs / f"{options.suite}-{way.replace(' ', '-')}.jsonl"
            outcomes.unlink(missing_ok=True)
            log = outcomes.with_suffix(".log")
            with temporary_database(found, "frameworks") as dsn:
                if (missing := suite.prepare(dsn)) is not None:
                    print(missing, file=sys.stderr)
                    return 2
                code = suite.run(checkout, dsn, way, policy, outcomes, log, tests, options.workers)
            if not outcomes.exists():
                print(f"{way}: no test ran (exit code {code})\n{log.read_text()[-2000:]}", file=sys.stderr)
                return 2
            runs[way] = Run.read(outcomes)
            print(f"{way}: {runs[way].counts()}", file=sys.stderr)
    worse = {way: runs[way].worse_than(runs[suite.BASE.get(way, "plain")]) for way in guarded}
    counts = {way: run.counts() for way, run in runs.items()}
    for way in guarded:
        counts[way]["not for this driver"] = runs[way].left_out(runs[suite.BASE.get(way, "plain")])
    if options.json:
        print(json.dumps({"profile": options.profile, "counts": counts, "worse": worse}, indent=1))
    else:
        for way, numbers in counts.items():
            print(f"{way}: " + ", ".join(f"{number} {name}" for name, number in numbers.items()))
            for test, why in worse.get(way, {}).items():
                print(f"  {test}\n    {why.splitlines()[0] if why else ''}")
    return 1 if any(worse.values()) else 0


def _policy(name: str, directory: Path) -> Path:
    profiles = {"open": OPEN, "restricting": RESTRICTING}
    if name not in profiles:
        return Path(name).absolute()
    path = directory / f"{name}.json"
    path.write_text(json.dumps(profiles[name]))
    return path


if __name__ == "__main__":
    sys.exit(main())
