"""The control plane under schemathesis: all that its OpenAPI document says is asked for, in order and out of order.

    python -m tests.control_plane [arguments of `schemathesis run`]

It starts a server of its own on a SQLite file. Takes minutes; the suite has a short one (`test_schema.py`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from guarddb.integrations.control_plane.api import rates
from guarddb.integrations.control_plane.settings import rate

from tests.control_plane.conftest import running

CONFIG = Path(__file__).parent / "schemathesis.toml"


def schemathesis(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it against a new server. `options`: of `subprocess.run`."""
    with (
        # It shows many wrong keys, and wants to hear each time that they are wrong.
        mock.patch.object(rates, "_WRONG_KEYS", rate("1000000/minute")),
        tempfile.TemporaryDirectory() as directory,
        running(f"{directory}/plane.sqlite3", rate_limit="100000000/minute") as plane,
    ):
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
        command += [f"{plane.url}/openapi.json", "--header", f"Authorization: Bearer {plane.key}"]
        return subprocess.run([*command, *arguments], check=False, text=True, **options)


if __name__ == "__main__":
    sys.exit(schemathesis(*sys.argv[1:]).returncode)
