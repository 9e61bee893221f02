"""Fixtures every test may ask for; they live in `fix_*.py` by subject."""

from __future__ import annotations

import warnings

import pytest

pytest_plugins = ["tests.fix_server"]


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    # pytest-asyncio 1.x warns at start-up, before any test, when asyncio_default_fixture_loop_scope is not
    # configured; warnings are errors here, so the run would not even start. Its default is what we want.
    warnings.filterwarnings("ignore", message=r"\s*The configuration option \"asyncio_default_fixture")


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
    "tests/driver/test_same_as_plain.py",
    "tests/driver/test_streams.py",
    "tests/conformance/test_parity.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
