"""docs/compatibility.md names every public method and attribute of psycopg's classes."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

import guarddb

TEXT = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
CONNECTIONS, CURSORS = TEXT.split("## Cursors")


def listed(text: str) -> set[str]:
    """The names in the first column of a table."""
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize("name", ["Connection", "AsyncConnection"])
def test_every_public_name_of_connections_is_listed(name: str) -> None:
    assert public(getattr(psycopg, name)) - listed(CONNECTIONS) == set()
    assert public(getattr(guarddb, name)) - listed(CONNECTIONS) == set()


@pytest.mark.parametrize("kind", ["Cursor", "ServerCursor", "ClientCursor", "RawCursor", "RawServerCursor"])
@pytest.mark.parametrize("prefix", ["", "Async"])
def test_every_public_name_of_cursors_is_listed(kind: str, prefix: str) -> None:
    assert public(getattr(psycopg, prefix + kind)) - listed(CURSORS) == set()
    assert public(getattr(guarddb, prefix + kind)) - listed(CURSORS) == set()


def test_nothing_is_listed_that_does_not_exist() -> None:
    instance = {"cursor_factory", "server_cursor_factory", "lock", "row_factory", "pgconn"}
    assert listed(CONNECTIONS) - instance <= public(guarddb.Connection)
    known: set[str] = {"arraysize", "format", "pgresult", "itersize"}
    for name in ("Cursor", "ServerCursor", "ClientCursor"):
        known |= public(getattr(guarddb, name))
    assert listed(CURSORS) <= known
