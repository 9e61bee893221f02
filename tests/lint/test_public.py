"""`guarddb.lint` is a function, and the package of the same name can be imported from all the same."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys

import pytest

import guarddb
from guarddb.lint.finding import Finding


def test_lint_is_a_function_of_the_public_module() -> None:
    (index, timeout) = guarddb.lint("CREATE INDEX ON orders (total)")
    assert (index.severity, index.rule) == ("error", "missing_concurrently")
    assert index.to_dict() == {
        "severity": "error",
        "rule": "missing_concurrently",
        "message": "CREATE INDEX without CONCURRENTLY: a SHARE lock on orders blocks writes while PostgreSQL builds the index",
        "statement": "CREATE INDEX ON orders (total)",
        "hint": "CREATE INDEX CONCURRENTLY ON orders (total);",
    }
    assert timeout.rule == "missing_lock_timeout"


@pytest.mark.parametrize(
    "first",
    [
        "import guarddb.lint.profile",
        "import guarddb.lint.finding",
        "from guarddb.lint import migrations",
        "import guarddb, guarddb.lint.sizes",
        "import importlib; importlib.import_module('guarddb.lint.profile')",
    ],
)
def test_it_stays_one_whatever_is_imported_first(first: str) -> None:
    code = f"{first}\nimport guarddb\nfrom guarddb.lint.finding import Finding\nassert callable(guarddb.lint), guarddb.lint\n"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_modules_of_the_package_are_there() -> None:
    assert importlib.import_module("guarddb.lint.finding").Finding is Finding is guarddb.Finding


def test_a_finding_survives_pickle_and_the_wire() -> None:
    finding = Finding("info", "rule", "message", "statement", "hint")
    assert pickle.loads(pickle.dumps(finding)) == finding
    assert Finding.from_dict(finding.to_dict()) == finding
