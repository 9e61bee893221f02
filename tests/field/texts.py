"""Statements out of other people's .sql files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pglast import parser

#: psql's own commands and variables are not SQL.
_META = re.compile(r"^\s*\\.*$", re.MULTILINE)


def statements(path: Path) -> Iterator[str]:
    """The statements of a file, one by one; a file that does not scan is one text."""
    text = path.read_text(encoding="utf-8", errors="replace").replace("\0", "").lstrip("\ufeff")
    text = _META.sub("", text)
    try:
        parts = parser.split(text, with_parser=False)
    except parser.ParseError:
        parts = (text,)
    for part in parts:
        if part.strip():
            yield part.strip()


def files(directory: Path) -> list[Path]:
    """Every .sql file below a directory, in a fixed order."""
    return sorted(path for path in directory.rglob("*.sql") if ".git" not in path.parts)
