"""The benchmarks start, by their path and as modules: whoever wants to see a figure of README's types either."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHARED = {"__init__", "common", "row_filter_queries"}
NAMES = sorted({path.stem for path in (ROOT / "benchmarks").glob("*.py")} - SHARED)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["path", "module"])
def test_a_benchmark_starts_either_way(name: str, way: str) -> None:
    what = [f"benchmarks/{name}.py"] if way == "path" else ["-m", f"benchmarks.{name}"]
    # (What is imported from elsewhere on this machine must not help.)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *what, "--help"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
