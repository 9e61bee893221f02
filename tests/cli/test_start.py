"""The command on a machine where guarddb cannot be imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter, with the command's module at hand."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


RUN = "import sys, guarddb_command; sys.argv[:] = ['guarddb', '--help']; sys.exit(guarddb_command.main())"

#: (Of a job in the background the shell has SIGINT ignored.)
AT_A_TERMINAL = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "


def test_console_script_is_the_module_outside_of_the_package() -> None:
    """Anything inside of it imports psycopg before a line of ours is run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"guarddb": "guarddb_command:main"}
    assert project["tool"]["setuptools"]["py-modules"] == ["guarddb_command"]


def test_it_runs_the_command() -> None:
    done = start(RUN)
    assert done.returncode == 0
    assert "A policy guard for the SQL" in done.stdout


def test_without_libpq_it_says_one_sentence() -> None:
    done = start(RUN, PSYCOPG_IMPL="c")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("guarddb: cannot start: ")
    assert "psycopg[binary]" in line


def test_without_another_module_it_names_it() -> None:
    done = start("import sys; sys.modules['typer'] = None; " + RUN)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "typer" in line
    assert "libpq" not in line


def test_ctrl_c_while_it_starts_shows_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    done = start(AT_A_TERMINAL + RUN, PYTHONPATH=str(tmp_path))
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""


def test_ctrl_c_later_is_130_and_an_ignored_one_stays_ignored() -> None:
    interrupted = "import os, signal; from guarddb import cli; cli._command = lambda: os.kill(os.getpid(), signal.SIGINT); "
    done = start(AT_A_TERMINAL + interrupted + RUN)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    ignored = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    done = start(ignored + RUN)
    assert done.returncode == 0
