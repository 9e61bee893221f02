"""Fixtures every test may ask for; they live in `fix_*.py` by subject."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Generator

import pytest

pytest_plugins = ["tests.fix_server", "tests.fix_guard"]

if sys.dont_write_bytecode:
    # PYTHONDONTWRITEBYTECODE, as containers set it: every worker would rewrite all assertions anew, and every Python that a
    # test starts would compile guarddb again, which is a second each.
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    # pytest-asyncio 1.x warns at start-up, before any test, when asyncio_default_fixture_loop_scope is not
    # configured; warnings are errors here, so the run would not even start. Its default is what we want.
    warnings.filterwarnings("ignore", message=r"\s*The configuration option \"asyncio_default_fixture")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    # Whoever is done takes over from who is not; until then each has whole folders, whose databases are made once.
    # (In pyproject.toml it would be an error without -n.)
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


#: The longest test takes a tenth of it on a busy machine.
LONGEST_S = 400


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test that waits for what never comes fails, and does not hold the whole run."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"{item.nodeid} was not done after {LONGEST_S} seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LONGEST_S)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: one more than there are cores, for much of a run waits for servers."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """The tests themselves are here to stay: the collector need not look at them, their names and modules, again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        # (Hypothesis takes trio's random numbers over, where both are there, and warns of those whose owner is frozen.)
        if "trio" in sys.modules:
            importlib.import_module("hypothesis")
        gc.collect()
        gc.freeze()


#: What takes most of a run's time; the rest is the loop for people: `pytest -n auto -m "not slow"`.
SLOW = (
    "tests/oracles",
    "tests/control_plane",
    "tests/integrations",
    "tests/wall",
    "tests/lint",
    "tests/field",
    "tests/cli/test_demo.py",
    "tests/adversary/test_size.py",
    "tests/driver/test_freshness.py::test_two_servers",
    "tests/driver/test_random_sequences.py",
    "tests/driver/test_same_as_plain.py",
    "tests/driver/test_server_faults.py",
    "tests/driver/test_standby.py",
    "tests/driver/test_streams.py",
    "tests/conformance/test_parity.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    # The longest first: at the end one process would run them alone.
    items.sort(key=lambda item: not item.nodeid.startswith("tests/oracles"))
