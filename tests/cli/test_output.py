"""Output that nobody can take: a full disk, a closed stream, a reader that has gone. The exit code is no answer then."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

if not Path("/dev/full").exists():
    pytest.skip("there is no /dev/full here", allow_module_level=True)

COMMANDS = (
    "--help",
    "eval -p {policy} DROP+TABLE+t",
    "check {policy} --json",
    "lint {sql} --json",
    "eval -p {missing} --json SELECT+1",
)


@pytest.fixture
def line(tmp_path: Path) -> dict[str, Path]:
    """The files that the commands name."""
    files = {name: tmp_path / name for name in ("policy", "sql", "event", "actions", "missing")}
    files["policy"] = tmp_path / "policy.yaml"
    files["policy"].write_text("name: p")
    files["sql"].write_text("ALTER TABLE t ALTER COLUMN a TYPE bigint;\n" * 200)
    files["event"].write_text(json.dumps({"action": "a:b:read", "timestamp": "2026-03-01T00:00:00Z"}))
    files["actions"].write_text("{}")
    return files


def run(command: str, line: dict[str, Path], redirection: str) -> subprocess.CompletedProcess[str]:
    words = [word.format(**line).replace("+", " ") for word in command.split()]
    shell = f'"$@" {redirection}'
    start = [sys.executable, "-m", "guarddb.cli"]
    return subprocess.run(
        ["bash", "-c", shell, "-", *start, *words], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", ">/dev/full 2>/dev/full"])
@pytest.mark.parametrize("command", COMMANDS)
def test_what_cannot_be_written_is_one_sentence_and_no_answer(
    command: str, line: dict[str, Path], redirection: str
) -> None:
    done = run(command, line, redirection)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if "2>" not in redirection:
        assert done.stderr.startswith("guarddb: ")
        assert len(done.stderr.splitlines()) <= (2 if "missing" in command else 1)


@pytest.mark.parametrize("command", ["lint {sql} --json", "lint {sql}", "schema"])
def test_a_reader_that_leaves_early_gets_no_yes(command: str, line: dict[str, Path]) -> None:
    """`guarddb lint … | head -1` under pipefail must not say that there are no errors."""
    done = run(command, line, '| head -c 1; exit "${PIPESTATUS[0]}"')
    assert "Traceback" not in done.stderr
    assert done.returncode in (141, 1 if "lint" in command else 0)


def test_a_short_answer_is_one_whether_it_is_read_or_not(line: dict[str, Path]) -> None:
    done = run("eval -p {policy} DROP+TABLE+t", line, '| true; exit "${PIPESTATUS[0]}"')
    assert done.returncode in (1, 141)
