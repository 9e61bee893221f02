"""The core install is small: extras are imported only where they are used, and a missing one is named."""

from __future__ import annotations

import subprocess
import sys

import pytest

EXTRAS = {
    "sqlalchemy": ("guarddb.integrations.sqlalchemy", "sqlalchemy"),
    "django": ("guarddb.integrations.django.base", "django"),
    "mcp": ("guarddb.integrations.mcp", "mcp"),
}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_core_imports_no_extra() -> None:
    heavy = ["sqlalchemy", "django", "mcp", "fastapi", "httpx", "alembic", "redis", "jinja2", "cryptography"]
    done = python(f"import guarddb, sys; print([name for name in {heavy!r} if name in sys.modules])")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_extra_is_named(extra: str) -> None:
    module, needed = EXTRAS[extra]
    done = python(f"import sys; sys.modules[{needed!r}] = None; import {module}")
    assert done.returncode == 1
    assert f"guarddb[{extra}]" in done.stderr.splitlines()[-1]


def test_the_command_names_the_extra_of_the_control_plane() -> None:
    done = python(
        "import sys; sys.modules['fastapi'] = None\n"
        "from guarddb.cli import main; sys.exit(main(['serve', '--port', '0']))"
    )
    assert done.returncode == 2
    assert "guarddb[server]" in done.stderr
    assert "Traceback" not in done.stderr
