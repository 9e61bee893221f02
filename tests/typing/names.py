"""What mypy knows of guarded connections and cursors. It is read by mypy and never run: `python -m mypy`."""

from __future__ import annotations

from typing import Any, assert_type

from psycopg.rows import TupleRow, dict_row

import guarddb
from guarddb import Decision, Finding


def sync() -> None:
    with guarddb.connect("", policy="analyst.yaml") as conn:
        assert_type(conn, guarddb.Connection[TupleRow])
        cur = conn.cursor()
        assert_type(cur, guarddb.Cursor[TupleRow])
        assert_type(cur.decision, Decision | None)
        assert_type(cur.truncated, bool)
        assert_type(conn.cursor("portal"), guarddb.ServerCursor[TupleRow])
        assert_type(conn.cursor(row_factory=dict_row), guarddb.Cursor[dict[str, Any]])
        assert_type(conn.execute("SELECT 1").decision, Decision | None)
        assert_type(cur.execute("SELECT 1").fetchone(), TupleRow | None)
        with conn.cursor() as inner:
            assert_type(inner.truncated, bool)


def linted() -> None:
    assert_type(guarddb.lint("DROP TABLE t", None, in_transaction=True), list[Finding])


def decisions() -> None:
    catalog = guarddb.Catalog.from_json("{}")
    decision = guarddb.evaluate("SELECT 1", {"name": "p"}, catalog)
    assert_type(decision, Decision)
    assert_type(guarddb.evaluate("SELECT 1", guarddb.load_policy("analyst.yaml")), Decision)
    assert_type(decision.blocked, bool)
    assert_type(decision.deciding, str | None)
    assert_type(decision.try_sql, str | None)
    assert_type(decision.needs_catalog, bool)
    assert_type(decision.to_dict(), dict[str, Any])
    assert_type(guarddb.load_policy({"name": "p"}), guarddb.PolicyProfile)
    assert_type(guarddb.__all__, list[str])


def rows() -> None:
    assert_type(guarddb.connect("", row_factory=dict_row), guarddb.Connection[dict[str, Any]])
    assert_type(guarddb.Connection.connect(""), guarddb.Connection[TupleRow])
    assert_type(guarddb.Connection.connect("", row_factory=dict_row), guarddb.Connection[dict[str, Any]])


async def other() -> None:
    async with await guarddb.AsyncConnection.connect("", policy={"name": "p"}) as conn:
        assert_type(conn, guarddb.AsyncConnection[TupleRow])
        cur = conn.cursor()
        assert_type(cur, guarddb.AsyncCursor[TupleRow])
        assert_type(cur.decision, Decision | None)
        assert_type(conn.cursor("portal").truncated, bool)
        assert_type(conn.cursor(row_factory=dict_row), guarddb.AsyncCursor[dict[str, Any]])
        assert_type((await conn.execute("SELECT 1")).decision, Decision | None)
