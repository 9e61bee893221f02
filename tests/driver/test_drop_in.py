"""`import guarddb as psycopg`: names, classes, foreign cursors, pools, install()."""

from __future__ import annotations

import asyncio
import copy as copying
import functools
import gc
import importlib
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.types import TypeInfo

import guarddb
from guarddb.driver.cursors import CURSORS, guarded
from tests.driver.conftest import Connect, Engine, block, collect, open_policy, run


def test_psycopgs_public_names_are_all_here() -> None:
    missing = [name for name in psycopg.__all__ if not hasattr(guarddb, name)]
    assert missing == []
    assert guarddb.paramstyle == "pyformat"
    assert guarddb.errors.UniqueViolation is psycopg.errors.UniqueViolation
    assert vars(guarddb.sql)["SQL"] is psycopg.sql.SQL
    assert guarddb.rows.dict_row is psycopg.rows.dict_row
    assert guarddb.types is psycopg.types


def test_own_names_win() -> None:
    assert guarddb.Connection is not psycopg.Connection
    assert guarddb.connect is not psycopg.connect
    assert issubclass(guarddb.Cursor, psycopg.Cursor)


def test_no_attribute_is_called_psycopg() -> None:
    """SQLAlchemy's async adapter copies a driver module's dict over its own attributes."""
    assert not hasattr(guarddb, "psycopg")
    for name in ("guarddb.driver.connection", "guarddb.driver.cursors", "guarddb.driver.install"):
        assert not isinstance(getattr(importlib.import_module(name), "psycopg", None), ModuleType)


@pytest.mark.parametrize(
    "cls", [*CURSORS, guarddb.Connection, guarddb.AsyncConnection], ids=lambda cls: cls.__name__
)
def test_class_says_whose_it_is(cls: type[Any]) -> None:
    """In logs and tracebacks, by the name that people import it by, as psycopg's own classes do."""
    assert f"{cls.__module__}.{cls.__qualname__}" == f"guarddb.{cls.__name__}"
    assert pickle.loads(pickle.dumps(cls)) is cls


@pytest.mark.parametrize("cls", CURSORS, ids=lambda cls: cls.__name__)
async def test_type_of_a_cursor_is_the_exported_class(dsn: str, cls: type[Any]) -> None:
    assert getattr(guarddb, cls.__name__) is cls
    plain = getattr(psycopg, cls.__name__)
    assert guarded(plain) is cls
    assert guarded(cls) is cls
    conn: Any
    if "Async" in cls.__name__:
        conn = await guarddb.AsyncConnection.connect(dsn, policy=open_policy())
    else:
        conn = guarddb.connect(dsn, policy=open_policy())
    try:
        name = ("c",) if "Server" in cls.__name__ else ()
        classes: Any = (cls, plain)
        for make in classes:
            cur = make(conn, *name)
            await run(cur.execute("SELECT 1"))
            made: object = type(cur)  # mypy would take the cursor itself for a bare mixin
            assert (
                made is cls
            )  # one that psycopg's own class made, since it has asked the connection for something
            assert await run(cur.fetchone()) == (1,)
            assert cur.decision is not None
            await run(cur.close())
    finally:
        await run(conn.close())


async def test_cursor_factory_is_guarded_whatever_it_is(connect: Connect, answers: Engine) -> None:
    answers.block("SELECT 'x'")
    conn = await connect()
    base: Any = psycopg.AsyncCursor if isinstance(conn, guarddb.AsyncConnection) else psycopg.Cursor

    class Mine(base):  # type: ignore[misc]
        def hello(self) -> str:
            return "hello"

    class Slotted(base):  # type: ignore[misc]
        __slots__ = ("mine",)

    for cls in (base, Mine, Slotted):
        conn.cursor_factory = cls
        with pytest.raises(guarddb.PolicyViolation):
            await run(conn.execute("SELECT 'x'"))
        cur = cls(conn)
        assert isinstance(cur, cls)
        await run(cur.execute("SELECT 1"))
        assert cur.decision.verdict == "allow"
    conn.cursor_factory = Mine
    assert conn.cursor().hello() == "hello"


async def test_foreign_server_cursor_fetches_by_the_portals_plan(connect: Connect, answers: Engine) -> None:
    text = 'DECLARE "c" CURSOR FOR SELECT generate_series(1, 9)'
    answers.allow(text, row_cap=2)
    conn = await connect()
    cls: Any = (
        psycopg.AsyncServerCursor if isinstance(conn, guarddb.AsyncConnection) else psycopg.ServerCursor
    )
    async with block(cls(conn, "c")) as cur:
        await run(cur.execute("SELECT generate_series(1, 9)"))
        assert await run(cur.fetchall()) == [(1,), (2,)]


async def test_type_info_is_fetched_through_the_guard(connect: Connect) -> None:
    conn = await connect()
    await run(conn.execute("CREATE TYPE pg_temp.mood AS ENUM ('sad', 'ok')"))
    info = await run(TypeInfo.fetch(conn, "mood"))
    assert info.name == "mood"


async def test_copying_in_and_out(connect: Connect) -> None:
    conn = await connect()
    await run(conn.execute("CREATE TEMP TABLE copied (a int, b text)"))
    async with block(conn.cursor().copy("COPY copied FROM STDIN")) as copy:
        await run(copy.write_row((1, "one")))
    async with block(conn.cursor().copy("COPY copied FROM STDIN")) as copy:
        await run(copy.write("2\ttwo\n"))
    cur = conn.cursor()
    async with block(cur.copy("COPY (SELECT * FROM copied WHERE a > %s) TO STDOUT", (0,))) as copy:
        copy.set_types(["int4", "text"])
        assert await collect(copy.rows()) == [(1, "one"), (2, "two")]
    assert cur.rowcount == 2
    with pytest.raises(psycopg.ProgrammingError, match="COPY cannot be used with this method"):
        await run(conn.execute("COPY copied TO STDOUT"))


#: Where psycopg says so when the server has begun to copy already, and the connection can do nothing any more.
NO_WAYS_TO_COPY = {
    "execute": lambda conn, sql: run(conn.execute(sql)),
    "prepared": lambda conn, sql: run(conn.execute(sql, prepare=True)),
    "executemany": lambda conn, sql: run(conn.cursor().executemany(sql, [(), ()])),
    "returning": lambda conn, sql: run(conn.cursor().executemany(sql, [(), ()], returning=True)),
    "stream": lambda conn, sql: collect(conn.cursor().stream(sql)),
    "raw": lambda conn, sql: run(factory(conn, "Raw")(conn).execute(sql)),
    "client": lambda conn, sql: run(factory(conn, "Client")(conn).execute(sql)),
}


def factory(conn: Any, kind: str) -> Any:
    return getattr(guarddb, f"{'Async' if isinstance(conn, psycopg.AsyncConnection) else ''}{kind}Cursor")


@pytest.mark.parametrize("way", NO_WAYS_TO_COPY)
async def test_copy_by_another_method_leaves_the_connection_usable(connect: Connect, way: str) -> None:
    policies = (
        open_policy(),
        open_policy(max_affected_rows=1),
        open_policy(max_rows=1, budget_queries_per_day=4, egress_bytes_per_day=100),
    )
    for policy in policies:
        conn = await connect(policy=policy)
        await run(conn.execute("CREATE TEMP TABLE copied (a int)"))
        for sql in (
            "COPY (SELECT 1) TO STDOUT",
            "COPY copied FROM STDIN",
            "SELECT 1; COPY (SELECT 1) TO STDOUT",
            "COPY (SELECT 1) TO STDOUT; SELECT 1",
        ):
            with pytest.raises(psycopg.Error, match="COPY cannot be used with this method"):
                await NO_WAYS_TO_COPY[way](conn, sql)
            assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        cur = await run(conn.execute("SELECT 1"))
        assert await run(cur.fetchall()) == [(1,)]


async def test_refused_copy(connect: Connect, answers: Engine) -> None:
    answers.block("COPY (SELECT 7) TO STDOUT")
    conn = await connect()
    with pytest.raises(guarddb.PolicyViolation):
        async with block(conn.cursor().copy("COPY (SELECT %s) TO STDOUT", (7,))):
            pass


async def test_loaders_and_row_factories_may_change_after_execute(connect: Connect) -> None:
    conn = await connect()
    cur = await run(conn.execute("SELECT 1 AS a UNION ALL SELECT 2"))
    cur.row_factory = psycopg.rows.dict_row
    assert await run(cur.fetchone()) == {"a": 1}
    cur.adapters.register_loader("int4", psycopg.types.string.TextLoader)
    assert await run(cur.fetchone()) == {"a": "2"}


async def test_listen_and_notifies(connect: Connect) -> None:
    conn = await connect(autocommit=True, enforcement="observe")
    await run(conn.execute("LISTEN chan"))
    await run(conn.execute("NOTIFY chan, 'hello'"))
    got = await collect(conn.notifies(timeout=30, stop_after=1))
    assert got[0].payload == "hello"


def test_nothing_leaks(guard: Any) -> None:
    conn = guard()
    cur = conn.execute("SELECT 1")
    cur.fetchone()
    ref = weakref.ref(cur)
    del cur
    gc.collect()
    assert ref() is None


def test_pool_hands_out_guarded_connections(dsn: str, answers: Engine) -> None:
    answers.block("SELECT 'x'")
    policy = {"name": "pooled", "statement_timeout_ms": 5000}
    with psycopg_pool.ConnectionPool(
        dsn,
        min_size=1,
        max_size=2,
        connection_class=guarddb.Connection,
        kwargs={"policy": policy, "settings": {"app.tenant": "1"}},
        check=psycopg_pool.ConnectionPool.check_connection,
        reset=lambda conn: conn.pgconn.exec_(b"DISCARD ALL"),  # type: ignore[arg-type]
    ) as pool:
        for _ in range(3):
            with pool.connection() as conn:
                assert type(conn) is guarddb.Connection
                with pytest.raises(guarddb.PolicyViolation):
                    conn.execute("SELECT 'x'")
                conn._guard.freshness.check_at = 0.0
                cur = conn.execute(
                    "SELECT current_setting('app.tenant'), current_setting('statement_timeout')"
                )
                assert cur.fetchone() == ("1", "5s")
                assert conn.pgconn.parameter_status(b"default_transaction_read_only") == b"on"


async def test_async_pool_hands_out_guarded_connections(dsn: str) -> None:
    async with (
        psycopg_pool.AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=4,
            connection_class=guarddb.AsyncConnection,
            kwargs={"policy": open_policy()},
            check=psycopg_pool.AsyncConnectionPool.check_connection,
            open=False,
        ) as pool,
        pool.connection() as conn,
    ):
        assert type(conn) is guarddb.AsyncConnection
        assert await (await conn.execute("SELECT 1")).fetchone() == (1,)


@pytest.fixture
def installed() -> Iterator[dict[str, Any]]:
    policy = open_policy()
    guarddb.install(policy=policy)
    yield policy
    guarddb.uninstall()


async def test_installed_guard_is_behind_psycopgs_own_names(dsn: str, installed: dict[str, Any]) -> None:
    with psycopg.connect(dsn) as conn:
        assert type(conn) is guarddb.Connection
        assert conn.policy is not None
        assert conn.policy.name == installed["name"]
    with psycopg.Connection.connect(dsn) as conn:
        assert type(conn) is guarddb.Connection
    async with await psycopg.AsyncConnection.connect(dsn) as aconn:
        assert type(aconn) is guarddb.AsyncConnection
    with psycopg_pool.ConnectionPool(dsn, min_size=1) as pool, pool.connection() as conn:
        assert type(conn) is guarddb.Connection

    class Mine(psycopg.Connection[Any]):
        pass

    with Mine.connect(dsn) as conn:
        assert isinstance(conn, Mine)
        assert isinstance(conn, guarddb.Connection)


def test_uninstall_gives_psycopg_back(dsn: str) -> None:
    before = (
        vars(psycopg)["connect"],
        vars(psycopg.Connection)["connect"],
        vars(psycopg.AsyncConnection)["connect"],
    )
    guarddb.install(policy=open_policy())
    guarddb.uninstall()
    after = (
        vars(psycopg)["connect"],
        vars(psycopg.Connection)["connect"],
        vars(psycopg.AsyncConnection)["connect"],
    )
    assert before == after
    with psycopg.connect(dsn) as conn:
        assert type(conn) is psycopg.Connection


def test_install_lives_with_a_tracer_in_either_order(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry and ddtrace wrap the same names, before or after, and may stay longer."""
    calls: list[str] = []

    def trace(label: str) -> None:
        inner = vars(psycopg.Connection)["connect"]

        def connect(cls: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(label)
            return inner.__get__(None, cls)(*args, **kwargs)

        monkeypatch.setattr(psycopg.Connection, "connect", classmethod(connect))

    trace("before")
    guarddb.install(policy=open_policy())
    try:
        with psycopg.connect(dsn) as conn:
            assert type(conn) is guarddb.Connection
        assert calls == ["before"]
        trace("after")
        calls.clear()
        with psycopg.Connection.connect(dsn) as conn:
            assert type(conn) is guarddb.Connection
        assert calls == ["after", "before"]
    finally:
        guarddb.uninstall()
    with psycopg.connect(dsn) as conn:
        assert type(conn) is psycopg.Connection
    calls.clear()
    with guarddb.connect(dsn, policy=open_policy()) as conn:
        assert type(conn) is guarddb.Connection
    assert "before" in calls


def bound(before: Any) -> Any:
    """A wrapper around what `psycopg.Connection.connect` gives: the class that is asked for is lost."""
    inner = before.__get__(None, psycopg.Connection)
    return lambda *args, **kwargs: inner(*args, **kwargs)


def as_classmethod(before: Any) -> Any:
    def connect(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return before.__get__(None, cls)(*args, **kwargs)

    return classmethod(connect)


WAYS: dict[str, Callable[[str], Any]] = {
    "psycopg.connect": lambda dsn: psycopg.connect(dsn),
    "Connection.connect": lambda dsn: psycopg.Connection.connect(dsn),
    "guarddb.connect": lambda dsn: guarddb.connect(dsn, policy=open_policy(name="own")),
}


@pytest.mark.parametrize("wrap", [bound, as_classmethod])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("way", list(WAYS))
def test_install_and_somebody_elses_function(
    dsn: str, monkeypatch: pytest.MonkeyPatch, wrap: Any, when: str, way: str
) -> None:
    if when == "before":
        monkeypatch.setattr(psycopg.Connection, "connect", wrap(vars(psycopg.Connection)["connect"]))
    guarddb.install(policy=open_policy(name="installed"))
    try:
        if when == "after":
            monkeypatch.setattr(psycopg.Connection, "connect", wrap(vars(psycopg.Connection)["connect"]))
        with WAYS[way](dsn) as conn:
            assert isinstance(conn, guarddb.Connection)
            assert conn.policy is not None
            assert conn.policy.name == ("own" if way == "guarddb.connect" else "installed")
            assert conn.execute("SELECT 1").fetchone() == (1,)
    finally:
        guarddb.uninstall()


def test_somebody_elses_function_without_install(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg.Connection, "connect", bound(vars(psycopg.Connection)["connect"]))
    with guarddb.connect(dsn, policy=open_policy()) as conn:
        assert type(conn) is guarddb.Connection


async def test_somebody_elses_async_function(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = psycopg.AsyncConnection.connect

    async def connect(*args: Any, **kwargs: Any) -> Any:
        return await inner(*args, **kwargs)

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", connect)
    async with await guarddb.AsyncConnection.connect(dsn, policy=open_policy()) as conn:
        assert type(conn) is guarddb.AsyncConnection
    guarddb.install(policy=open_policy())
    try:
        async with await psycopg.AsyncConnection.connect(dsn) as other:
            assert isinstance(other, guarddb.AsyncConnection)
    finally:
        guarddb.uninstall()


def test_install_again_where_somebody_put_psycopgs_own_back(dsn: str) -> None:
    """A tracer that gives back what it once saved, or a mock that ends."""
    saved = vars(psycopg.Connection)["connect"]
    guarddb.install(policy=open_policy())
    try:
        psycopg.Connection.connect = saved  # type: ignore[method-assign]
        guarddb.install(policy=open_policy())
        for way in WAYS.values():
            with way(dsn) as conn:
                assert isinstance(conn, guarddb.Connection)
    finally:
        guarddb.uninstall()
    assert vars(psycopg.Connection)["connect"] is saved
    with psycopg.connect(dsn) as plain:
        assert type(plain) is psycopg.Connection


def test_install_twice_guards_once(dsn: str) -> None:
    before = [vars(owner)["connect"] for owner in (psycopg, psycopg.Connection, psycopg.AsyncConnection)]
    decisions: list[str] = []
    for _ in range(2):
        guarddb.install(policy=open_policy(), on_decision=lambda decision, sql: decisions.append(sql))
    try:
        with psycopg.connect(dsn) as conn:
            conn.execute("SELECT 1")
    finally:
        guarddb.uninstall()
    assert decisions == ["SELECT 1"]
    after = [vars(owner)["connect"] for owner in (psycopg, psycopg.Connection, psycopg.AsyncConnection)]
    assert before == after


def test_install_and_a_subclass_that_connects_in_its_own_way(dsn: str) -> None:
    """Its connect() runs once, and may use the connection at once."""
    runs: list[Any] = []

    class Mine(psycopg.Connection[Any]):
        @classmethod
        def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:  # type: ignore[override]
            conn = super().connect(conninfo, **kwargs)
            runs.append(conn.execute("SELECT 1").fetchone())
            return conn

    with Mine.connect(dsn) as plain:
        assert type(plain) is Mine
    guarddb.install(policy=open_policy(name="installed"))
    try:
        with Mine.connect(dsn) as conn:
            assert isinstance(conn, guarddb.Connection)
            assert isinstance(conn, Mine)
            assert conn.policy.name == "installed"
    finally:
        guarddb.uninstall()
    assert runs == [(1,), (1,)]


@pytest.mark.parametrize("first", ["tracer", "install"])
@pytest.mark.parametrize("way", list(WAYS))
def test_a_tracer_that_subclasses_cursors_sees_each_statement_once(
    dsn: str, monkeypatch: pytest.MonkeyPatch, first: str, way: str
) -> None:
    """As OpenTelemetry's and ddtrace's do: both names are wrapped, and the cursor class is replaced."""
    seen: list[str] = []

    def wrap(inner: Any) -> Any:
        @functools.wraps(inner)
        def connect(*args: Any, **kwargs: Any) -> Any:
            base = kwargs.pop("cursor_factory", None) or psycopg.Cursor

            class Traced(base):  # type: ignore[misc, valid-type]
                def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
                    seen.append(query)
                    return super().execute(query, *args, **kwargs)

            return inner(*args, cursor_factory=Traced, **kwargs)

        return connect

    def trace() -> None:
        of_class = vars(psycopg.Connection)["connect"]

        def connect(cls: Any, *args: Any, **kwargs: Any) -> Any:
            return wrap(of_class.__get__(None, cls))(*args, **kwargs)

        monkeypatch.setattr(psycopg, "connect", wrap(vars(psycopg)["connect"]))
        monkeypatch.setattr(psycopg.Connection, "connect", classmethod(connect))

    if first == "tracer":
        trace()
    guarddb.install(policy=open_policy())
    try:
        if first == "install":
            trace()
        with WAYS[way](dsn) as conn:
            conn.execute("SELECT 1")
        assert isinstance(conn, guarddb.Connection)
        assert seen == ["SELECT 1"]
    finally:
        guarddb.uninstall()


def test_install_takes_guarddbs_arguments_only() -> None:
    with pytest.raises(TypeError, match="host"):
        guarddb.install(policy=open_policy(), host="x")


def test_one_connection_from_many_threads(guard: Any, answers: Engine) -> None:
    """No count is lost and no decision crosses over to another thread's cursor."""
    policy = open_policy(budget_queries_per_day=10_000)
    conn = guard(policy=policy, autocommit=True)
    for number in range(0, 8, 2):
        answers.block(f"SELECT {number}", reason=f"no {number}")
    wrong: list[object] = []

    def work(number: int) -> None:
        for _ in range(60):
            cur = conn.cursor()
            try:
                cur.execute(f"SELECT {number}")
            except guarddb.PolicyViolation as ex:
                if number % 2 or f"no {number}" not in str(ex) or cur.decision is not ex.decision:
                    wrong.append(ex)
            else:
                if not number % 2 or cur.fetchone() != (number,) or cur.decision.blocked:
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert conn.budget.queries_today == 10_000 - 4 * 60


async def test_many_tasks_on_a_pool(dsn: str, answers: Engine) -> None:
    policy = open_policy(budget_queries_per_hour=100_000)
    for number in range(0, 100, 2):
        answers.block(f"SELECT {number}", reason=f"no {number}")
    async with psycopg_pool.AsyncConnectionPool(
        dsn,
        min_size=4,
        max_size=4,
        connection_class=guarddb.AsyncConnection,
        kwargs={"policy": policy, "agent": "tasks"},
        open=False,
    ) as pool:

        async def work(number: int) -> int:
            refused = 0
            for _ in range(5):
                async with pool.connection() as conn:
                    try:
                        cur = await conn.execute(f"SELECT {number}")
                        assert await cur.fetchone() == (number,)
                    except guarddb.PolicyViolation as ex:
                        refused += str(ex).endswith(f"no {number}")
            return refused

        refused = await asyncio.gather(*(work(number) for number in range(100)))
        assert refused == [5 if number % 2 == 0 else 0 for number in range(100)]
        async with pool.connection() as conn:
            assert conn.budget is not None
            assert conn.budget.queries_this_hour == 100_000 - 250


def test_errors_can_be_copied() -> None:
    ex = guarddb.PolicyViolation("m", rule="table_denied", hint="h")
    again = copying.copy(ex)
    assert (again.rule, again.hint, str(again)) == ("table_denied", "h", "m")


class ProxyOfAFunction:
    """As wrapt's and ddtrace's wrappers: a descriptor that says what it wraps."""

    def __init__(self, wrapped: Any, seen: list[str]) -> None:
        self.__wrapped__ = wrapped
        self.seen = seen

    def __get__(self, instance: Any, owner: Any) -> Any:
        return ProxyOfAFunction(type(self.__wrapped__).__get__(self.__wrapped__, instance, owner), self.seen)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.seen.append("traced")
        return self.__wrapped__(*args, **kwargs)


def test_a_tracer_that_takes_itself_out_leaves_the_guard(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what `__wrapped__` of what it finds says, which is the guard's by then (ddtrace)."""
    seen: list[str] = []
    for owner in (psycopg, psycopg.Connection):
        monkeypatch.setattr(owner, "connect", ProxyOfAFunction(vars(owner)["connect"], seen))
    guarddb.install(policy=open_policy())
    try:
        with psycopg.connect(dsn) as conn:
            assert isinstance(conn, guarddb.Connection)
        assert seen == ["traced"]
        for owner in (psycopg, psycopg.Connection):
            owner.connect = owner.connect.__wrapped__  # type: ignore[attr-defined]
        seen.clear()
        for way in WAYS.values():
            with way(dsn) as conn:
                assert isinstance(conn, guarddb.Connection)
        assert seen == []
        guarddb.install(policy=open_policy(name="again"))
        with psycopg.Connection.connect(dsn) as again:
            assert again.policy.name == "again"  # type: ignore[attr-defined]
    finally:
        guarddb.uninstall()
    with psycopg.connect(dsn) as plain:
        assert type(plain) is psycopg.Connection


def test_a_tracer_that_leaves_a_bound_method_behind(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenTelemetry's does when it is taken out: the class of the caller is lost on the way."""
    monkeypatch.setattr(psycopg.Connection, "connect", psycopg.Connection.connect)
    for way in ("guarddb.connect", "Connection.connect", "psycopg.connect"):
        if way != "guarddb.connect":
            guarddb.install(policy=open_policy())
        try:
            with WAYS[way](dsn) as conn:
                assert type(conn) is guarddb.Connection
        finally:
            guarddb.uninstall()
