"""Spans and metrics of guarded statements, by OpenTelemetry's database conventions.

Only the API package is imported: an application that installs an SDK gets one CLIENT span for each statement,
two counters and a duration histogram; one that does not pays two attribute reads for each statement. What is
exported are names (command, relations, columns, policy, rule) and counts. The text of a statement holds
literals, and a literal may be the very value a mask hides, so it is exported only when `GUARDDB_TRACE_SQL=1`
asks for it; error messages never are, for the same reason.

Attribute names: https://opentelemetry.io/docs/specs/semconv/database/postgresql/
"""

from __future__ import annotations

import logging
import os
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics, trace
from opentelemetry.metrics import _internal as metrics_state
from opentelemetry.trace import SpanKind, Status, StatusCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.metrics import Counter, Histogram, MeterProvider
    from opentelemetry.trace import Span, Tracer
    from psycopg.pq.abc import PGresult

    from guarddb.decision.plan import Decision, Plan
    from guarddb.risk.scoring import RiskResult

_SCOPE: Final = "guarddb"
_SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.34.0"

#: The buckets that the conventions ask for on `db.client.operation.duration`, in seconds.
_DURATION_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)

#: A summary is a grouping key: the conventions allow cutting it at 255 characters, between names and not
#: inside one.
_SUMMARY_LENGTH: Final = 255


@dataclass(frozen=True, slots=True)
class ConnectionFacts:
    """What a span says about the connection: database name, and where the server listens (port None for a
    socket)."""

    database: str | None = None
    host: str | None = None
    port: int | None = None


class StatementSpan:
    """One statement under way. This class itself is the span of a process without an SDK: it records
    nothing."""

    __slots__ = ()

    @property
    def open(self) -> bool:
        """Whether it has begun and not ended."""
        return False

    def end(
        self, rows: int | None = None, truncated: bool = False, error: BaseException | None = None
    ) -> None:
        """The statement is over: how many rows were handed out, whether `max_rows` cut them, what went
        wrong."""

    def note(self, risk: RiskResult) -> None:
        """What the action policy makes of the statement."""

    def decided(self, decision: Decision) -> None:
        """The decision with what came to it after judging."""

    def measure(self, results: Sequence[PGresult]) -> None:
        """The results have come from the server."""

    def taken_back(self) -> None:
        """What was sent has been undone, and the statement may go to the server once more."""


NO_SPAN: Final = StatementSpan()


class HeldSpan(StatementSpan):
    """The span of a statement that may run more than once, with a person asked in between: one from first to last.

    What ends each of its runs only says how it ends.
    """

    __slots__ = ("_end", "_inner", "_over")

    def __init__(self, inner: StatementSpan) -> None:
        self._inner = inner
        self._end: tuple[int | None, bool, BaseException | None] = (None, False, None)
        self._over = False

    @property
    def open(self) -> bool:
        return not self._over

    def end(
        self, rows: int | None = None, truncated: bool = False, error: BaseException | None = None
    ) -> None:
        self._end = (rows, truncated, error)

    def note(self, risk: RiskResult) -> None:
        self._inner.note(risk)

    def decided(self, decision: Decision) -> None:
        self._inner.decided(decision)

    def measure(self, results: Sequence[PGresult]) -> None:
        self._inner.measure(results)

    def taken_back(self) -> None:
        self._end = (None, False, None)
        self._inner.taken_back()

    def over(self, error: BaseException | None) -> None:
        """The statement is through."""
        rows, truncated, ended = self._end
        self._over = True
        self._inner.end(rows if error is None else None, truncated, error or ended)


_logger: Final = logging.getLogger("guarddb")
_MINUTE: Final = 60.0
_broke_at = -_MINUTE


def _say_it_broke(error: Exception) -> None:
    """Once a minute, not for each statement."""
    global _broke_at
    now = perf_counter()
    if now - _broke_at >= _MINUTE:
        _broke_at = now
        _logger.error("a span or a metric could not be reported", exc_info=error)


class _RecordingSpan(StatementSpan):
    __slots__ = ("_borrowed", "_decision", "_ended", "_facts", "_span", "_started")

    def __init__(
        self, span: Span | None, decision: Decision | None, facts: dict[str, Any], *, borrowed: bool = False
    ) -> None:
        self._span = span
        #: another instrumentation's, who ends it
        self._borrowed = borrowed
        self._decision = decision
        self._facts = facts
        self._ended = False
        self._started = perf_counter()

    def end(
        self, rows: int | None = None, truncated: bool = False, error: BaseException | None = None
    ) -> None:
        if self._ended:  # a cursor may be closed after its statement failed; the first report is the true one
            return
        self._ended = True
        try:
            self._end(rows, truncated, error)
        except Exception as ex:
            # A processor or exporter of the application's: what it does wrong must change nothing.
            _say_it_broke(ex)

    def _end(self, rows: int | None, truncated: bool, error: BaseException | None) -> None:
        seconds = perf_counter() - self._started
        # A budget or an approval refuses what the engine allowed: the error then knows better than the
        # decision.
        decision: Decision | None = getattr(error, "decision", None) or self._decision
        verdict: str | None = decision.verdict if decision is not None else None
        rule: str | None = decision.rule if decision is not None else None
        if (raised := getattr(error, "rule", None)) is not None:
            verdict, rule = "block", raised
        failure: dict[str, Any] = {}
        if error is not None:
            sqlstate = getattr(error, "sqlstate", None)
            if sqlstate:
                failure["db.response.status_code"] = sqlstate
            failure["error.type"] = sqlstate or _qualified_name(error)
        if self._span is not None:
            _finish(self._span, decision, verdict, rule, rows, truncated, failure)
            if not self._borrowed:
                self._span.end()
        if (meters := _state.meters) is not None:
            labels = {"verdict": verdict or "none", "rule": rule or "none"}
            meters.statements.add(1, labels)
            if rows:
                meters.rows.add(rows)
            meters.duration.record(seconds, {**self._facts, **failure})

    @property
    def open(self) -> bool:
        return not self._ended

    def note(self, risk: RiskResult) -> None:
        if self._span is not None and self._span.is_recording():
            self._span.set_attributes(
                {
                    "guarddb.risk.score": risk.score,
                    "guarddb.risk.level": risk.risk_level,
                    "guarddb.risk.verdict": risk.verdict,
                }
            )


#: Instrumentations that make a span for each statement of psycopg's.
_OTHERS: Final = ("opentelemetry.instrumentation.psycopg", "opentelemetry.instrumentation.sqlalchemy")
_next: ContextVar[Span | None] = ContextVar("guarddb_next_span", default=None)


def stands_for_next(span: Span) -> None:
    """Say which span stands for the statement that is sent next in this context, where it is not the current one."""
    _next.set(span)


def _of_another() -> Span | None:
    """The span that another instrumentation has begun for this statement: one statement is to have one span."""
    told = _next.get()
    if told is not None:
        _next.set(None)
    for span in (told, trace.get_current_span()):
        scope = getattr(span, "instrumentation_scope", None)
        if span is not None and scope is not None and scope.name in _OTHERS and span.is_recording():
            return span
    return None


def listens() -> bool:
    """Whether anything in this process would take a span or a metric now."""
    # The global providers are read anew each time (an SDK may be installed at any moment), but as the module
    # variables that they are: the public getters look into os.environ first, which alone costs more than the
    # budget of this call.
    state = _state
    if (
        trace._TRACER_PROVIDER is not state.tracer_provider
        or metrics_state._METER_PROVIDER is not state.meter_provider
    ):
        state.refresh()
    return state.listens


def start(
    info: ConnectionFacts,
    plan: Plan | None,
    policy_name: str | None,
    policy_version: str | None,
    text: str | None = None,
    *,
    stale: bool = False,
) -> StatementSpan:
    """Begin the span of a statement. `text` is what the agent wrote; it leaves the process only with
    GUARDDB_TRACE_SQL=1. `stale`: the control plane does not confirm the policy any more.

    Where opentelemetry-instrumentation-psycopg or -sqlalchemy has begun one for it, that one gets the attributes. Else the span's
    parent is the caller's current span; the span itself is never made current, because the
    driver's generators are resumed in whatever context the caller happens to be in.
    """
    if not listens():
        return NO_SPAN
    tracer = _state.tracer
    decision = plan.decision if plan is not None else None
    facts: dict[str, Any] = {"db.system.name": "postgresql"}
    if info.database:
        facts["db.namespace"] = info.database
    if info.host:
        facts["server.address"] = info.host
    if info.port:
        facts["server.port"] = info.port
    statements = plan.statements if plan is not None else ()
    if statements:
        operations = {statement.facts.operation for statement in statements}
        operation = operations.pop() if len(operations) == 1 else ""
        name = operation if len(statements) == 1 else f"BATCH {operation}".rstrip()
        if name:  # none when the text was passed on unread
            facts["db.operation.name"] = name
        relations = {relation for statement in statements for relation in statement.facts.relations}
        if len(relations) == 1:
            facts["db.collection.name"] = next(iter(relations))
    if tracer is None:
        return _RecordingSpan(None, decision, facts)
    attributes = dict(facts)
    summary = _summary(plan)
    if summary:
        attributes["db.query.summary"] = summary
    if plan is not None and plan.warnings:
        attributes["guarddb.migration.rules"] = tuple(dict.fromkeys(rule for rule, _ in plan.warnings))
    if len(statements) > 1:
        attributes["db.operation.batch.size"] = len(statements)
    if policy_name is not None:
        attributes["guarddb.policy.name"] = policy_name
    if policy_version is not None:
        attributes["guarddb.policy.version"] = policy_version
    if decision is not None and decision.policy_id is not None:
        attributes["guarddb.policy.id"] = decision.policy_id
    if stale:
        attributes["guarddb.policy.stale"] = True
    if text is not None and os.environ.get("GUARDDB_TRACE_SQL") == "1":
        attributes["db.query.text"] = text
    if (there := _of_another()) is not None:
        there.set_attributes(attributes)
        return _RecordingSpan(there, decision, facts, borrowed=True)
    span = tracer.start_span(summary or "postgresql", kind=SpanKind.CLIENT, attributes=attributes)
    if not span.is_recording() and _state.meters is None:
        return NO_SPAN
    return _RecordingSpan(span, decision, facts)


def _finish(
    span: Span,
    decision: Decision | None,
    verdict: str | None,
    rule: str | None,
    rows: int | None,
    truncated: bool,
    failure: dict[str, Any],
) -> None:
    if span.is_recording():
        attributes: dict[str, Any] = {"guarddb.truncated": truncated, **failure}
        if verdict is not None:
            attributes["guarddb.verdict"] = verdict
        if rule is not None:
            attributes["guarddb.rule"] = rule
        if decision is not None and decision.masked_columns:
            attributes["guarddb.masked_columns"] = sorted(
                {masked.column for masked in decision.masked_columns}
            )
        if rows is not None:
            attributes["guarddb.rows"] = rows
            attributes["db.response.returned_rows"] = rows
        span.set_attributes(attributes)
        if failure:
            # No description: PostgreSQL's messages quote row values, and a refusal quotes what the agent
            # wrote.
            span.set_status(Status(StatusCode.ERROR))


def _summary(plan: Plan | None) -> str:
    """Command and relations of each statement (`SELECT shop.orders shop.customers`), cut between names."""
    if plan is None:
        return ""
    words = [
        word
        for facts in (statement.facts for statement in plan.statements)
        for word in (facts.operation, *sorted(facts.relations))
    ]
    summary = ""
    for word in words:
        longer = f"{summary} {word}" if summary else word
        if len(longer) > _SUMMARY_LENGTH:
            break
        summary = longer
    return summary


def _qualified_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class _Meters:
    """The instruments of one meter provider."""

    __slots__ = ("duration", "rows", "statements")

    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter(_SCOPE, schema_url=_SCHEMA_URL)
        self.statements: Counter = meter.create_counter(
            "guarddb.statements", "{statement}", "Statements judged, by verdict and rule"
        )
        self.rows: Counter = meter.create_counter("guarddb.rows", "{row}", "Rows handed out")
        name, unit, description = (
            "db.client.operation.duration",
            "s",
            "Duration of database client operations",
        )
        try:
            self.duration: Histogram = meter.create_histogram(
                name, unit, description, explicit_bucket_boundaries_advisory=_DURATION_BUCKETS
            )
        except TypeError:  # an API older than 1.30 has no advisory; the SDK's default buckets then apply
            self.duration = meter.create_histogram(name, unit, description)


class _State:
    """The providers last seen, and what was made from them; None where they would record nothing."""

    __slots__ = ("listens", "meter_provider", "meters", "tracer", "tracer_provider")

    def __init__(self) -> None:
        self.tracer_provider: object = _UNSEEN
        self.meter_provider: object = _UNSEEN
        self.tracer: Tracer | None = None
        self.meters: _Meters | None = None
        self.listens = False

    def refresh(self) -> None:
        # The public getters also load what OTEL_PYTHON_TRACER_PROVIDER and OTEL_PYTHON_METER_PROVIDER name.
        tracers, meters = trace.get_tracer_provider(), metrics.get_meter_provider()
        self.tracer_provider, self.meter_provider = trace._TRACER_PROVIDER, metrics_state._METER_PROVIDER
        silent = isinstance(tracers, trace.NoOpTracerProvider | trace.ProxyTracerProvider)
        self.tracer = None if silent else tracers.get_tracer(_SCOPE, schema_url=_SCHEMA_URL)
        silent = isinstance(meters, metrics.NoOpMeterProvider | metrics_state._ProxyMeterProvider)
        self.meters = None if silent else _Meters(meters)
        self.listens = self.tracer is not None or self.meters is not None


_UNSEEN: Final = object()


_state: Final = _State()
