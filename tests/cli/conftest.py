"""The command line, called in this process: exit code, stdout and stderr."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest

from guarddb.cli import main

#: Reads orders and customers; e-mails are masked.
ANALYST = """
name: analyst
table_allowlist: [orders, customers]
masking_rules:
  - {table: customers, column: email, kind: redact}
max_rows: 100
statement_timeout_ms: 5000
"""


class Answer(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Run: TypeAlias = Callable[..., Answer]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("eval", "-p", path, stdin="SELECT 1")`."""

    def call(*arguments: object, stdin: str | bytes = "") -> Answer:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Answer(code, captured.out, captured.err)

    return call


@pytest.fixture
def analyst(tmp_path: Path) -> Path:
    path = tmp_path / "analyst.yaml"
    path.write_text(ANALYST)
    return path
