"""What the guard stands on in psycopg, and that a foreign cursor is guarded from its first statement."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb.driver import adoption
from tests.driver.conftest import Connect, block, collect, run

DRIVER = Path(adoption.__file__).parent
#: Private names of our own that psycopg happens to have as well.
OURS = {"_lock"}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith(("__", "_guard", "_psycopgs"))


def names_in(path: Path) -> Iterator[str]:
    """Private names that a file defines or assigns, and those it uses."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Attribute(attr=name) | ast.Name(id=name):
                yield name
            case ast.ImportFrom(module=module) if module and module.startswith("psycopg._"):
                yield module


def psycopgs() -> set[str]:
    """Every private name that psycopg's own core defines or assigns."""
    found = set()
    for path in Path(psycopg.__file__).parent.rglob("*.py"):
        if not {"types", "crdb"} & set(path.parts):
            found |= {name for name in names_in(path) if private(name)}
    return found


def test_every_private_name_in_use_is_listed() -> None:
    listed = {name for names in adoption.PRIVATE_NAMES.values() for name in names}
    used = {name for path in DRIVER.glob("*.py") for name in names_in(path)}
    of_psycopg = {name for name in used if private(name)} & psycopgs() - OURS
    mine = {name for name in of_psycopg if name not in listed and not is_psycopgs_to_the_driver(name)}
    assert of_psycopg - mine == listed
    modules = {name for name in used if name.startswith("psycopg._")}
    assert modules <= {owner.rpartition(".")[0] for owner in adoption.PRIVATE_NAMES}


def is_psycopgs_to_the_driver(name: str) -> bool:
    """Whether the driver takes it off something that is not its own `self`, or overrides it in a class over psycopg's."""
    return name in taken_off_others()


@cache
def taken_off_others() -> frozenset[str]:
    return frozenset(
        node.attr
        for path in DRIVER.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    )


@pytest.mark.parametrize("owner", adoption.PRIVATE_NAMES)
def test_psycopg_has_what_is_listed(owner: str) -> None:
    module, _, name = owner.rpartition(".")
    found = importlib.import_module(module)
    text = Path(inspect.getfile(found)).read_text()
    for each in adoption.PRIVATE_NAMES[owner]:
        # Attributes of an object are only in the text of its class.
        assert hasattr(getattr(found, name), each) or each in text, (owner, each)


def test_the_installed_psycopg_is_one_they_hold_for() -> None:
    version = tuple(int(part) for part in psycopg.__version__.split(".")[:2])
    assert version in adoption.HOLDS_FOR, (
        "try the driver's tests and psycopg's own suite, then add it to HOLDS_FOR"
    )


def test_no_frame_of_a_caller_is_looked_at() -> None:
    for path in DRIVER.glob("*.py"):
        assert "_getframe" not in path.read_text()
        assert "currentframe" not in path.read_text()


async def test_the_first_statement_of_a_foreign_cursor_is_judged(connect: Connect) -> None:
    """By each of its methods, and nothing is sent: no transaction is begun either."""
    conn = await connect(
        policy={"name": "closed", "access_mode": "read_write", "table_denylist": ["pg_class"]}
    )
    sync = isinstance(conn, psycopg.Connection)
    plain: Any = psycopg.Cursor if sync else psycopg.AsyncCursor
    server: Any = psycopg.ServerCursor if sync else psycopg.AsyncServerCursor

    async def copied() -> None:
        async with block(plain(conn).copy("COPY (SELECT relname FROM pg_class) TO STDOUT")):
            pass

    text = "SELECT relname FROM pg_class"
    for way in (
        lambda: run(plain(conn).execute(text)),
        lambda: run(plain(conn).executemany(text, [()])),
        lambda: collect(plain(conn).stream(text)),
        copied,
    ):
        with pytest.raises(guarddb.PolicyViolation):
            await way()
        assert conn.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
    named = server(conn, "named")
    with pytest.raises(guarddb.PolicyViolation):
        await run(named.execute(text))
    assert conn.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
    await run(named.close())
    thief = server(conn, "nobody's")
    with pytest.raises(guarddb.PolicyViolation):
        await run(thief.fetchone())
    await run(thief.close())
