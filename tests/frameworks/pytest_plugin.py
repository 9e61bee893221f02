"""A plugin for somebody else's pytest run: it notes the outcomes, and guards psycopg itself where the run asks for that."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from tests.frameworks.outcomes import OUTCOMES, Outcome, note

#: Install guarddb under psycopg's own names, with the policy that GUARDDB_POLICY names.
INSTALL = "GUARDDB_TEST_INSTALL"

if os.environ.get(INSTALL):
    import guarddb

    guarddb.install()

#: SQLAlchemy puts the dialect's name and the server's version into the names of its tests.
_DIALECT = re.compile(r"_postgresql\+[a-z_]+[0-9_]*(?=::)")


def pytest_runtest_logreport(report: Any) -> None:
    """Note a test when it was called, or when its set-up or end went wrong."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        return  # the process that started the workers hears of it too
    if report.when == "call" or not report.passed:
        outcome: Outcome = report.outcome
        why = getattr(getattr(report.longrepr, "reprcrash", None), "message", "") or ""
        note(os.environ[OUTCOMES], _DIALECT.sub("", report.nodeid), outcome, why)


@pytest.hookimpl(tryfirst=True)
def pytest_report_header() -> str:
    """Say in the run's own output what is below it."""
    import psycopg

    return f"psycopg.connect of {psycopg.connect.__module__}"
