"""Guarded connections for the driver's tests, sync and async with one test text, and an engine to say what it likes."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import psycopg
import pytest
from msgspec import structs

import guarddb
from guarddb.decision import decide as engine
from guarddb.decision.plan import Decision, Facts, Handling, Plan, StatementPlan
from guarddb.driver import watch

_numbers = count()


def statement(kind: Any, operation: str, *relations: str, **fields: Any) -> StatementPlan:
    """A plan of one statement of which only what a test is about is said."""
    facts: dict[str, Any] = {
        "kinds": frozenset({kind}),
        "returns_rows": False,
        "transaction": None,
        "session_verb": None,
        "session_name": None,
        "holds": False,
        "chains": False,
    }
    handling: dict[str, Any] = {
        "row_cap": None,
        "hidden_returning": False,
        "keyed_hashes": (),
        "output_kinds": {},
        "sensitive": False,
        "changes_catalog": False,
        "changes_settings": False,
        "checks_rows": False,
        "affected_cap": None,
        "waits": False,
        "countable": False,
        "masked": (),
        "predicates": (),
    }
    plan = StatementPlan(
        Facts(kind=kind, operation=operation, relations=relations, **facts), Handling(**handling)
    )
    return changed(plan, **fields)


def changed(plan: StatementPlan, **fields: Any) -> StatementPlan:
    """The plan with other facts or another handling."""
    of_facts = {name: fields.pop(name) for name in tuple(fields) if name in Facts.__slots__}
    return StatementPlan(structs.replace(plan.facts, **of_facts), structs.replace(plan.handling, **fields))


SELECT = statement("select", "SELECT", returns_rows=True)


def open_policy(**fields: Any) -> dict[str, Any]:
    """A profile with a name of its own, so that no test meets another's plans."""
    return {"name": f"test {next(_numbers)}", "access_mode": "read_write", **fields}


async def run(value: Any) -> Any:
    """What an async method gives after waiting, what a sync one gives at once."""
    return await value if inspect.isawaitable(value) else value


async def collect(rows: Any) -> list[Any]:
    """The items of an iterator, async or not."""
    if hasattr(rows, "__aiter__"):
        return [row async for row in rows]
    return list(rows)


class block:
    """`async with` for sync context managers too."""

    def __init__(self, manager: Any) -> None:
        self.manager = manager

    async def __aenter__(self) -> Any:
        if hasattr(self.manager, "__aenter__"):
            return await self.manager.__aenter__()
        return self.manager.__enter__()

    async def __aexit__(self, *error: Any) -> Any:
        if hasattr(self.manager, "__aexit__"):
            return await self.manager.__aexit__(*error)
        return self.manager.__exit__(*error)


#: What `as_new` has made: (database, table) -> the row of pg_class that it had then.
_MADE: dict[tuple[str, str], tuple[Any, ...]] = {}


def as_new(plain: psycopg.Connection, **tables: str) -> None:
    """Each table, with the columns that are given for it, empty.

    One that is still as it was made is only emptied: after a new one every connection has to read the catalog again, which is
    most of what a short test costs. Who makes tables so drops them at the end of the file.
    """
    for name, columns in tables.items():
        found = "SELECT oid, xmin::text FROM pg_class WHERE oid = to_regclass(%s)"
        row = plain.execute(found, (name,)).fetchone()
        made = _MADE.get((plain.info.dbname, name))
        if row is not None and row == made:
            plain.execute(f"DELETE FROM {name}".encode())
            # (Rows lie in the order in which they come, as in a new table.)
            plain.execute(f"VACUUM {name}".encode())
            continue
        plain.execute(f"DROP TABLE IF EXISTS {name}".encode())
        plain.execute(f"CREATE TABLE {name} ({columns})".encode())
        row = plain.execute(found, (name,)).fetchone()
        assert row is not None
        _MADE[plain.info.dbname, name] = row


def look_is_due(conn: Any) -> None:
    """As if the time had passed for which a look at the catalog does, this connection's and any other's.

    (A quick server makes a table within that millisecond.)
    """
    conn._guard.freshness.check_at = conn._guard.freshness.overdue_at = 0.0
    conn._guard.freshness._fingerprint_at = 0.0
    watch._LOOKED.clear()


Connect = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["sync", "async"])
async def connect(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[Connect]:
    """connect(**arguments) -> a guarded connection of the worker's database, once sync and once async."""
    opened: list[Any] = []

    async def open_one(conninfo: str = dsn, **arguments: Any) -> Any:
        arguments.setdefault("policy", open_policy())
        if request.param == "sync":
            conn: Any = guarddb.connect(conninfo, **arguments)
        else:
            conn = await guarddb.AsyncConnection.connect(conninfo, **arguments)
        opened.append(conn)
        return conn

    yield open_one
    for conn in opened:
        with suppress(psycopg.Error):
            await run(conn.close())


@pytest.fixture
def guard(dsn: str) -> Iterator[Callable[..., guarddb.Connection[Any]]]:
    """guard(**arguments) -> a guarded sync connection of the worker's database."""
    opened: list[guarddb.Connection[Any]] = []

    def open_one(conninfo: str = dsn, **arguments: Any) -> guarddb.Connection[Any]:
        arguments.setdefault("policy", open_policy())
        opened.append(guarddb.connect(conninfo, **arguments))
        return opened[-1]

    yield open_one
    for conn in opened:
        conn.close()


class Engine:
    """Decides by exact text what a test wants decided, and lets the real engine see to the rest."""

    def __init__(self, real: Callable[..., Plan]) -> None:
        self.real = real
        self.plans: dict[str, Plan | Exception | Callable[..., Plan]] = {}
        self.asked: list[str] = []

    def allow(self, text: str, *statements: StatementPlan, sql: str | None = None, **changes: Any) -> None:
        """Let `text` pass, sent as `sql`, with these plans or one SELECT's with `changes`."""
        uses_session = changes.pop("uses_session", False)
        chosen = statements or (changed(SELECT, **changes),)
        sent = text if sql is None else sql
        self.plans[text] = Plan(Decision("allow", rewritten_sql=sent), sent, chosen, uses_session)

    def block(
        self, text: str, rule: Any = "table_denied", reason: str = "no", hint: str | None = None
    ) -> None:
        """Refuse `text`."""
        self.plans[text] = Plan(Decision("block", rule, reason, hint))

    def __call__(self, sql: str, policy: Any, catalog: Any, names: Any = None) -> Plan:
        self.asked.append(sql)
        plan = self.plans.get(sql)
        if isinstance(plan, Exception):
            raise plan
        if plan is None:
            return self.real(sql, policy, catalog, names)
        return plan if isinstance(plan, Plan) else plan(sql, policy, catalog, names)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine in front of the real one, for what only some policies make it answer."""
    fake = Engine(engine.decide)
    monkeypatch.setattr(engine, "decide", fake)
    return fake
