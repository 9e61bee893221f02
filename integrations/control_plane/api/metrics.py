"""What /metrics tells: requests, evaluations, streams, approvals; OpenTelemetry instruments as Prometheus text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import get_args, get_type_hints

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from guarddb import Decision

_WORDS = get_type_hints(Decision)
_VERDICTS, _RULES = (frozenset(get_args(_WORDS[name])) for name in ("verdict", "rule"))


class Metrics:
    """The instruments of one server."""

    def __init__(self, streams: Callable[[], int], pending: Callable[[], int]) -> None:
        # The exporter knows the process's registry only; one of our own keeps servers in one process apart.
        reader = PrometheusMetricReader()
        REGISTRY.unregister(reader._collector)
        self._registry = CollectorRegistry()
        self._registry.register(reader._collector)
        self._provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
        meter = self._provider.get_meter("guarddb.control_plane")
        self._requests = meter.create_counter("guarddb_http_requests", description="Requests answered.")
        self._seconds = meter.create_histogram(
            "guarddb_http_request_duration", unit="s", description="Time from request to answer."
        )
        self._evaluations = meter.create_counter("guarddb_evaluations", description="Statements judged.")
        self._decisions = meter.create_counter(
            "guarddb_reported_decisions", description="Decisions that agents' sessions reported."
        )

        def observed(read: Callable[[], int]) -> Callable[[CallbackOptions], Iterable[Observation]]:
            return lambda _: [Observation(read())]

        meter.create_observable_gauge(
            "guarddb_event_streams", [observed(streams)], description="Open event streams."
        )
        meter.create_observable_gauge(
            "guarddb_pending_approvals", [observed(pending)], description="Statements that wait for a person."
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        labels = {"method": method, "route": route, "status": str(status)}
        self._requests.add(1, labels)
        self._seconds.record(seconds, {"method": method, "route": route})

    def evaluation(self, verdict: str, rule: str) -> None:
        """A statement was judged."""
        self._evaluations.add(1, {"verdict": verdict, "rule": rule})

    def decision(self, verdict: str, rule: str) -> None:
        """A session reported a decision. What it makes up must not become a time series."""
        labels = {
            "verdict": verdict if verdict in _VERDICTS else "other",
            "rule": rule if rule in _RULES else "other",
        }
        self._decisions.add(1, labels)

    def text(self) -> bytes:
        """The present figures in Prometheus's text format."""
        return generate_latest(self._registry)
