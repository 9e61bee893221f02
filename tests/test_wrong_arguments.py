"""What is given to a public name and is not what belongs there is refused where it is given, by a sentence about it.

Never by what some line further in happened to try with it (`'int' object has no attribute 'items'`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb.runtime.branches import BranchError

#: Sentences of Python's, about a line of ours.
_PYTHONS = re.compile(
    r"object has no attribute|is not iterable|bytes-like object is required|codec can't encode|embedded null"
    r"|not supported between|update sequence|str expected|is not subscriptable|takes .* positional|\(unnamed\)\("
)
_REFUSED = (guarddb.PolicyError, guarddb.risk.EventError, TypeError, ValueError, psycopg.Error, BranchError)
_OPEN = {"name": "open", "access_mode": "read_write"}
_EVENT = {"action": "a:b:c", "timestamp": "2026-01-01T00:00:00Z"}

NO_TEXTS: list[Any] = [0, 1, 3.5, True, b"", b"\xff", [], [1], {}, {"a": 1}, (), {1}, object(), len]
NO_NUMBERS: list[Any] = ["", "x", True, b"x", [], [1], {}, object(), -1, float("nan"), None]
STRANGE: list[Any] = ["\0", "\ud800"]

Door = Callable[[Any], object]
DOORS: list[tuple[str, Door, list[Any]]] = [
    ("evaluate: sql", lambda v: guarddb.evaluate(v, _OPEN), [None, *NO_TEXTS]),
    ("evaluate: catalog", lambda v: guarddb.evaluate("SELECT 1", _OPEN, v), ["", "x", *NO_TEXTS]),
    ("lint: sql", guarddb.lint, [None, *NO_TEXTS]),
    ("lint: catalog", lambda v: guarddb.lint("CREATE INDEX ON t (id)", v), ["", "x", *NO_TEXTS]),
    ("Catalog.from_json", guarddb.Catalog.from_json, [None, "", "x", "[]", *STRANGE, *NO_TEXTS]),
    ("Catalog.from_connection", guarddb.Catalog.from_connection, [None, "", "x", *NO_TEXTS]),
    ("History", guarddb.risk.History, [None, "", "x", *(v for v in NO_TEXTS if v != {})]),
    ("History: agents", lambda v: guarddb.risk.History({}, agents=v), [0, *NO_NUMBERS]),
    (
        "guard_tool: parameters",
        lambda v: guarddb.risk.guard_tool("a:b:c", policy={}, parameters=v),
        ["x", *(v for v in NO_TEXTS if not isinstance(v, dict))],
    ),
    (
        "guard_tool: fields",
        lambda v: guarddb.risk.guard_tool("a:b:c", policy={}, fields=v),
        ["x", b"x", 1, 3.5, True, object()],
    ),
    ("risk.score: policy", lambda v: guarddb.risk.score(_EVENT, v), [None, "", *STRANGE, 1, [1], b"x"]),
    ("JsonlSink: path", guarddb.JsonlSink, [None, "", "\0", *NO_TEXTS]),
    ("PostgresSink: conninfo", guarddb.PostgresSink, [None, *NO_TEXTS]),
    ("PostgresSink: table", lambda v: guarddb.PostgresSink("", table=v), [None, "", "a.", "\0", *NO_TEXTS]),
    ("PostgresSink: queue", lambda v: guarddb.PostgresSink("", queue=v), [0, *NO_NUMBERS]),
    ("PostgresSink: key", lambda v: guarddb.PostgresSink("", key=v), ["", *NO_TEXTS[:5]]),
    ("PostgresSink: key_env", lambda v: guarddb.PostgresSink("", key_env=v), ["", *NO_TEXTS]),
    ("DatabaseBranches: admin", guarddb.DatabaseBranches, ["nonsense", *NO_TEXTS]),
    (
        "DatabaseBranches: limit_bytes",
        lambda v: guarddb.DatabaseBranches(limit_bytes=v),
        NO_NUMBERS,
    ),
    ("DatabaseBranches: method", lambda v: guarddb.DatabaseBranches(method=v), ["", "x", None, *NO_TEXTS]),
]


@pytest.mark.parametrize(("door", "values"), [door[1:] for door in DOORS], ids=[door[0] for door in DOORS])
def test_is_refused_by_a_sentence(door: Door, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(_REFUSED) as caught:
            door(value)
        assert not _PYTHONS.search(str(caught.value)), (value, caught.value)


@pytest.mark.parametrize("name", ["max_bytes", "keep", "fsync", "key", "key_env"])
def test_the_decision_logs_options(tmp_path: Path, name: str) -> None:
    wrong = {"key": ["", *NO_TEXTS[:5]], "key_env": ["", *NO_TEXTS], "fsync": ["x", True, -1, float("nan")]}
    for value in wrong.get(name, NO_NUMBERS):
        with pytest.raises(guarddb.PolicyError) as caught:
            guarddb.JsonlSink(tmp_path / "log.jsonl", **{name: value})
        assert not _PYTHONS.search(str(caught.value)), value
    assert not list(tmp_path.iterdir())


CONNECTING: list[tuple[str, list[Any]]] = [
    ("policy", [None, "", *STRANGE, *NO_TEXTS]),
    ("agent", [*STRANGE, *NO_TEXTS]),
    ("settings", ["x", {"a": 1}, {"a.b": None}, {"a.b": "\ud800"}, {1: "x"}, 1]),
    ("approver", ["x", 1, [], {}]),
    ("budgets", [" ", "x", *STRANGE, "foo://", *NO_TEXTS]),
    ("branches", ["nonsense", *STRANGE[1:], *NO_TEXTS]),
    ("enforcement", [None, "", "x", *NO_TEXTS]),
    ("on_decision", ["x", 1, [], {}]),
    ("action_policy", ["", *STRANGE, 1, [1], b"x", True]),
    ("action_history", ["x", 1, [1], {"nope": 1}, {"first_seen": "x"}]),
    ("classify_columns", ["x", 1, [1], {1: "pii"}]),
    ("flag_at", ["x", None, True, float("nan"), [1]]),
]


@pytest.mark.parametrize(("name", "values"), CONNECTING, ids=[name for name, _ in CONNECTING])
def test_what_connect_takes(dsn: str, name: str, values: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GUARDDB_POLICY", raising=False)
    given = {"policy": _OPEN, **({"action_policy": {}} if name != "action_policy" else {})}
    for value in values:
        with pytest.raises(_REFUSED) as caught:
            guarddb.connect(dsn, **{**given, name: value}).close()
        assert not _PYTHONS.search(str(caught.value)), (value, caught.value)


async def test_an_async_connection_of_psycopgs_reads_no_catalog(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        with pytest.raises(TypeError, match="not by AsyncConnection"):
            guarddb.Catalog.from_connection(conn)


def test_the_tools_of_agents(dsn: str) -> None:
    from guarddb.integrations.agent_tools import AgentTools

    for conninfo in [None, "nonsense", *NO_TEXTS]:
        with pytest.raises(_REFUSED) as caught:
            AgentTools(conninfo, _OPEN)
        assert not _PYTHONS.search(str(caught.value)), conninfo
    for rows in [0, *NO_NUMBERS]:
        with pytest.raises(ValueError, match="max_rows is a whole number"):
            AgentTools(dsn, _OPEN, max_rows=rows)
    tools = AgentTools(dsn, _OPEN)
    for value in [None, *NO_TEXTS]:
        for tool in (tools.query, tools.validate_sql, tools.propose_fix, tools.explain, tools.describe_table):
            answer = tool(value)
            assert answer["status"] == "error"
            assert " is " in answer["reason"]
    for rows in ["x", 1.5, True, []]:
        assert tools.query("SELECT 1", rows)["reason"].startswith("max_rows is a whole number")
    tools.close()


@pytest.mark.parametrize("engine", [None, "x", 1, object()])
def test_what_guard_takes(engine: Any) -> None:
    from guarddb.integrations.sqlalchemy import guard

    with pytest.raises(TypeError, match="takes an engine"):
        guard(engine, policy=_OPEN)
