"""Beside other instrumentations each statement has one span; log lines of refusals belong to the caller's trace."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import sqlalchemy as sa
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import guarddb

POLICY = {"name": "traced"}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def shown(spans: InMemorySpanExporter) -> list[tuple[str, Any, Any]]:
    """Instrumentation, verdict and rule of each span."""
    found = []
    for span in spans.get_finished_spans():
        assert span.instrumentation_scope is not None
        attributes = dict(span.attributes or {})
        told = (attributes.get("guarddb.verdict"), attributes.get("guarddb.rule"))
        found.append((span.instrumentation_scope.name.rpartition(".")[2], *told))
    spans.clear()
    return found


EXPECTED = [("allow", "ok"), ("block", "read_only")]


def test_one_span_beside_psycopgs_instrumentation(spans: InMemorySpanExporter, dsn: str) -> None:
    pytest.importorskip("opentelemetry.instrumentation.psycopg")
    from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor

    instrumentor = PsycopgInstrumentor()
    instrumentor.instrument(skip_dep_check=True)
    guarddb.install(policy=POLICY)
    try:
        for connect in (psycopg.connect, lambda dsn: guarddb.connect(dsn, policy=POLICY)):
            with connect(dsn) as conn:
                spans.clear()
                conn.cursor().execute("SELECT 1")
                with pytest.raises(guarddb.PolicyViolation):
                    conn.cursor().execute("CREATE TABLE t ()")
            assert shown(spans) == [("psycopg", *each) for each in EXPECTED]
    finally:
        guarddb.uninstall()
        instrumentor.uninstrument()


def test_one_span_beside_sqlalchemys_instrumentation(spans: InMemorySpanExporter, dsn: str) -> None:
    pytest.importorskip("opentelemetry.instrumentation.sqlalchemy")
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    url = f"postgresql+psycopg://{parts['user']}@/{parts['dbname']}?host={quote(str(parts['host']))}"
    engine = sa.create_engine(url, plugins=["guarddb"], guarddb_policy=POLICY)
    instrumentor = SQLAlchemyInstrumentor()
    instrumentor.instrument(engine=engine, skip_dep_check=True)  # (it says that it knows no SQLAlchemy 2.1)
    try:
        with engine.connect() as conn:
            spans.clear()
            conn.execute(sa.text("SELECT 1"))
            with pytest.raises(sa.exc.ProgrammingError):
                conn.execute(sa.text("CREATE TABLE t ()"))
        assert shown(spans) == [("sqlalchemy", *each) for each in EXPECTED]
        raw = engine.raw_connection()
        raw.cursor().execute("SELECT 1")  # goes around SQLAlchemy, so nobody else has a span for it
        raw.close()
        assert ("guarddb", "allow", "ok") in shown(spans)
    finally:
        instrumentor.uninstrument()
        engine.dispose()


def test_the_log_line_of_a_refusal_belongs_to_the_trace(
    spans: InMemorySpanExporter, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is written while the caller's span is the current one, which is where logging integrations take the ids from."""
    seen: list[int] = []

    class Correlating(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            seen.append(trace.get_current_span().get_span_context().trace_id)
            return True

    logger = logging.getLogger("guarddb.decision")
    correlating = Correlating()
    logger.addFilter(correlating)
    try:
        with (
            guarddb.connect(dsn, policy=POLICY) as conn,
            trace.get_tracer("app").start_as_current_span("request") as span,
        ):
            with pytest.raises(guarddb.PolicyViolation):
                conn.execute("CREATE TABLE t ()")
            assert seen == [span.get_span_context().trace_id]
    finally:
        logger.removeFilter(correlating)


def test_a_broken_processor_breaks_no_statement(monkeypatch: pytest.MonkeyPatch, dsn: str) -> None:
    class Broken(SimpleSpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            raise RuntimeError("broken")

        def on_end(self, span: Any) -> None:
            raise RuntimeError("broken")

    provider = TracerProvider()
    provider.add_span_processor(Broken(InMemorySpanExporter()))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    with guarddb.connect(dsn, policy=POLICY) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(guarddb.PolicyViolation):
            conn.execute("CREATE TABLE t ()")
    provider.shutdown()
