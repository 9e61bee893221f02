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
