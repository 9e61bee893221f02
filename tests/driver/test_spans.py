"""A span ends however its statement ends, and whoever watches cannot break one."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from opentelemetry import trace
from opentelemetry.metrics import _internal as metrics_state
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import guarddb
from guarddb import telemetry
from guarddb.driver import operator_log
from guarddb.driver.plans import PLANS_BYTES, SHARED, PlanCache
from tests.driver.conftest import Connect, block, collect, open_policy, run

LONG = "SELECT count(*) FROM generate_series(1, 10000000000)"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What has ended, in order."""
    exporter = InMemorySpanExporter()
    tracers, meters = TracerProvider(), MeterProvider(metric_readers=[InMemoryMetricReader()])
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", tracers)
    monkeypatch.setattr(metrics_state, "_METER_PROVIDER", meters)
    yield exporter
    meters.shutdown()
    tracers.shutdown()


def until_it_runs(dsn: str, pid: int) -> None:
    """Wait until the server is at LONG, or fetches from it."""
    question = (
        "SELECT state = 'active' AND (query LIKE '%%generate_series(1, 10000000000)%%' OR query LIKE 'FETCH %%')"
        " FROM pg_stat_activity WHERE pid = %s"
    )
    ends = time.monotonic() + 60
    with psycopg.connect(dsn, autocommit=True) as plain:
        while plain.execute(question, (pid,)).fetchone() != (True,):
            assert time.monotonic() < ends
            time.sleep(0.01)


@pytest.fixture
def interrupted(dsn: str) -> Iterator[Callable[[int], None]]:
    """Calling it makes a KeyboardInterrupt come when this backend is at LONG, as Ctrl-C does."""
    threads: list[threading.Thread] = []
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    def watch(pid: int) -> None:
        until_it_runs(dsn, pid)
        # psycopg waits for the server, and is not in one of its generators, whose end leaves the connection busy.
        while not sys._current_frames()[main].f_code.co_name.startswith("wait"):
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGUSR1)

    def begin(pid: int) -> None:
        threads.append(threading.Thread(target=watch, args=(pid,)))
        threads[-1].start()

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield begin
    for thread in threads:
        thread.join()
    signal.signal(signal.SIGUSR1, before)


def told(spans: InMemorySpanExporter) -> list[tuple[str, Any, Any]]:
    """Operation, rows and error of the spans that have ended, but for what the tests do besides."""
    found = []
    for span in spans.get_finished_spans():
        attributes = dict(span.attributes or {})
        assert attributes.get("guarddb.rows", 0) >= 0, span.name
        found.append(
            (
                attributes.get("db.operation.name"),
                attributes.get("guarddb.rows"),
                attributes.get("error.type"),
            )
        )
    spans.clear()
    return found


def test_a_ctrl_c_ends_the_span(guard: Any, spans: Any, interrupted: Callable[[int], None]) -> None:
    conn = guard(autocommit=True)
    spans.clear()
    interrupted(conn.info.backend_pid)
    with pytest.raises(KeyboardInterrupt):
        conn.execute(LONG)
    assert told(spans) == [("SELECT", None, "KeyboardInterrupt")]
    assert conn.execute("SELECT 1").fetchone() == (1,)
    assert told(spans) == [("SELECT", 1, None)]


async def test_a_task_that_is_cancelled_ends_the_span(dsn: str, spans: Any) -> None:
    async with await guarddb.AsyncConnection.connect(dsn, policy=open_policy(), autocommit=True) as conn:
        spans.clear()
        task = asyncio.create_task(conn.execute(LONG))
        await asyncio.to_thread(until_it_runs, dsn, conn.info.backend_pid)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ((operation, rows, error),) = told(spans)
        assert (operation, rows) == ("SELECT", None)
        assert "Cancel" in error or error == "57014"
        assert await (await conn.execute("SELECT 1")).fetchone() == (1,)


async def test_a_timeout_of_the_policys_ends_the_span(connect: Connect, spans: Any) -> None:
    conn = await connect(policy=open_policy(statement_timeout_ms=300), autocommit=True)
    spans.clear()
    with pytest.raises(psycopg.errors.QueryCanceled):
        await run(conn.execute(LONG))
    assert told(spans) == [("SELECT", None, "57014")]


async def test_a_copy_has_one_span_however_it_ends(connect: Connect, spans: Any) -> None:
    conn = await connect(autocommit=True)
    await run(conn.execute("CREATE TEMP TABLE copied (id int)"))
    cur = conn.cursor()
    spans.clear()
    async with block(cur.copy("COPY copied FROM STDIN")) as copy:
        for number in range(3):
            await run(copy.write_row((number,)))
    assert told(spans) == [("COPY", 3, None)]
    async with block(cur.copy("COPY copied TO STDOUT")) as copy:
        await collect(copy)
    assert told(spans) == [("COPY", 3, None)]
    with pytest.raises(RuntimeError):  # noqa: PT012 (the block is what is tested)
        async with block(cur.copy("COPY copied FROM STDIN")) as copy:
            await run(copy.write_row((4,)))
            raise RuntimeError
    ((operation, rows, error),) = told(spans)
    assert (operation, rows) == ("COPY", None)
    assert error is not None
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        async with block(cur.copy("COPY copied FROM STDIN")) as copy:
            await run(copy.write("x\n"))
    assert told(spans) == [("COPY", None, "22P02")]
    with pytest.raises(psycopg.ProgrammingError):
        async with block(cur.copy("SELECT 1")):
            pass
    assert [each[0] for each in told(spans)] == ["SELECT"]
    async with block(
        cur.copy("COPY (SELECT generate_series(1, 100000)) TO STDOUT")
    ) as copy:  # left before its end; psycopg cannot go on then
        await run(copy.read())
    ((operation, rows, error),) = told(spans)
    assert operation == "COPY"


def test_a_ctrl_c_in_a_copy_ends_its_span(guard: Any, spans: Any, interrupted: Callable[[int], None]) -> None:
    conn = guard(autocommit=True)
    spans.clear()
    interrupted(conn.info.backend_pid)
    with (
        pytest.raises(KeyboardInterrupt),
        conn.cursor().copy(f"COPY ({LONG}) TO STDOUT") as copy,
    ):
        list(copy)
    ((operation, rows, error),) = told(spans)
    assert (operation, rows) == ("COPY", None)
    assert error is not None


async def test_rows_of_a_cut_write_are_those_that_are_handed_out(connect: Connect, spans: Any) -> None:
    conn = await connect(policy=open_policy(max_rows=3, masking_rules=[]))
    await run(conn.execute("CREATE TEMP TABLE written (id int)"))
    spans.clear()
    cur = await run(conn.execute("INSERT INTO written SELECT generate_series(1, 5) RETURNING id"))
    (span,) = spans.get_finished_spans()
    assert (span.attributes["guarddb.rows"], span.attributes["guarddb.truncated"]) == (3, True)
    assert cur.rowcount == 5


async def test_every_fetch_of_a_named_cursor_has_a_span(connect: Connect, spans: Any) -> None:
    conn = await connect(policy=open_policy(max_rows=5, masking_rules=[]))
    async with block(conn.cursor("named")) as cur:
        spans.clear()
        await run(cur.execute("SELECT generate_series(1, 9)"))
        assert [each[0] for each in told(spans)] == ["DECLARE CURSOR"]
        await run(cur.fetchmany(2))
        assert told(spans) == [("FETCH", 2, None)]
        await run(cur.fetchone())
        assert told(spans) == [("FETCH", 1, None)]
        await run(cur.fetchall())
        (span,) = spans.get_finished_spans()
        assert (span.attributes["guarddb.rows"], span.attributes["guarddb.truncated"]) == (2, True)
        spans.clear()
        assert await run(cur.fetchall()) == []
        assert told(spans) == [("FETCH", 0, None)]
    await run(conn.execute("DECLARE text CURSOR FOR SELECT generate_series(1, 3)"))
    spans.clear()
    await run(conn.execute("FETCH 2 FROM text"))
    assert told(spans) == [("FETCH", 2, None)]


async def test_a_fetch_that_fails_ends_its_span(connect: Connect, spans: Any) -> None:
    conn = await connect()
    async with block(conn.cursor("failing")) as cur:
        await run(cur.execute("SELECT 1 / (2 - n) FROM generate_series(1, 3) AS n"))
        await run(cur.fetchone())
        spans.clear()
        with pytest.raises(psycopg.errors.DivisionByZero):
            await run(cur.fetchone())
        assert told(spans) == [("FETCH", None, "22012")]
        await run(conn.rollback())


def test_a_ctrl_c_in_a_fetch_ends_its_span(
    guard: Any, spans: Any, interrupted: Callable[[int], None]
) -> None:
    conn = guard()
    with conn.cursor("slow") as cur:
        cur.execute(LONG)
        spans.clear()
        interrupted(conn.info.backend_pid)
        with pytest.raises(KeyboardInterrupt):
            cur.fetchall()
        ((operation, rows, error),) = told(spans)
        assert (operation, rows) == ("FETCH", None)
        assert error in ("KeyboardInterrupt", "57014")  # psycopg has the server cancel it
        conn.rollback()


async def test_a_stream_has_one_span_with_its_rows(connect: Connect, spans: Any) -> None:
    conn = await connect(autocommit=True)
    spans.clear()
    await collect(conn.cursor().stream("SELECT generate_series(1, 4)"))
    assert told(spans) == [("SELECT", 4, None)]
    gen = conn.cursor().stream("SELECT generate_series(1, 100000)")
    if hasattr(gen, "__aiter__"):
        await anext(gen)
        await gen.aclose()
    else:
        next(gen)
        gen.close()
    ((operation, rows, _),) = told(spans)
    assert operation == "SELECT"
    assert rows is None or rows >= 1
    with pytest.raises(psycopg.errors.DivisionByZero):
        await collect(conn.cursor().stream("SELECT 1 / (3 - n) FROM generate_series(1, 5) AS n"))
    assert told(spans) == [("SELECT", None, "22012")]


class BrokenProcessor(SpanProcessor):
    """One that fails where it is told to."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.asked = 0

    def _fail(self, where: str) -> None:
        if self.where == where:
            self.asked += 1
            raise RuntimeError(f"broken at {where}")

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self._fail("start")

    def on_end(self, span: ReadableSpan) -> None:
        self._fail("end")


class BrokenExporter(SpanExporter):
    """One that cannot send."""

    asked = 0

    def export(self, spans: Any) -> Any:
        self.asked += 1
        raise RuntimeError("broken at export")


@pytest.fixture
def not_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_broke_at", -telemetry._MINUTE)
    monkeypatch.setattr(operator_log, "_about_nothing", operator_log._Silence())


@pytest.mark.parametrize("where", ["start", "end", "export"])
async def test_a_broken_processor_or_exporter_breaks_no_statement(
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    not_said_yet: None,
    where: str,
) -> None:
    tracers = TracerProvider()
    broken: Any = BrokenExporter() if where == "export" else BrokenProcessor(where)
    tracers.add_span_processor(SimpleSpanProcessor(broken) if where == "export" else broken)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", tracers)
    conn = await connect(autocommit=True)
    for number in range(20):
        cur = await run(conn.execute("SELECT %s::int", (number,)))
        assert await run(cur.fetchone()) == (number,)
    await collect(conn.cursor().stream("SELECT 1"))
    with pytest.raises(psycopg.errors.DivisionByZero):
        await run(conn.execute("SELECT 1/0"))
    assert broken.asked >= 20
    said = [record for record in caplog.records if record.name == "guarddb"]
    assert len(said) <= 1  # (the SDK itself logs what an exporter raises)
    assert where == "export" or len(said) == 1


async def test_an_on_decision_that_raises_breaks_no_statement_and_is_logged_once(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def on_decision(decision: Any, text: str) -> None:
        asked.append(text)
        raise RuntimeError("broken callback")

    conn = await connect(
        autocommit=True, policy=open_policy(table_denylist=["pg_class"]), on_decision=on_decision
    )
    caplog.clear()
    for number in range(20):
        cur = await run(conn.execute("SELECT %s::int", (number,)))
        assert await run(cur.fetchone()) == (number,)
        with pytest.raises(guarddb.PolicyViolation):
            await run(conn.execute("SELECT * FROM pg_class"))
    assert len(asked) == 40
    said = [
        record for record in caplog.records if record.name == "guarddb" and record.levelno >= logging.ERROR
    ]
    assert len(said) == 1
    assert "on_decision" in said[0].getMessage()


def test_the_plan_cache_is_bounded_by_bytes(guard: Any) -> None:
    """2,048 texts of 99 KB were 790 MB once."""
    conn = guard(autocommit=True)
    padding = "x" * 99_000
    for number in range(400):
        conn.execute(f"SELECT {number} /* {padding} */")
    assert SHARED._plans.currsize <= PLANS_BYTES
    assert sum(len(judged.original) for judged in SHARED._plans.values()) <= PLANS_BYTES
    assert sum(map(len, conn._guard.plans)) <= 512 * 8_192
    small = PlanCache(100_000)
    judged = next(iter(SHARED._plans.values()))
    for number in range(10):
        small.put(b"%d" % number, None, judged)  # larger than all there is room for: not kept, and no error
    assert small._plans.currsize <= 100_000


async def test_span_names_the_stored_profile(connect: Connect, spans: InMemorySpanExporter) -> None:
    conn = await connect(policy=open_policy(id="pol_1", project_id="prj_1"), autocommit=True)
    spans.clear()
    await run(conn.execute("SELECT 1"))
    assert [dict(span.attributes or {})["guarddb.policy.id"] for span in spans.get_finished_spans()] == [
        "pol_1"
    ]
