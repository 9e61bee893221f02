"""Traces of a guarded session, printed to the console: what an application's OpenTelemetry SDK gets.

SALES_HASH_KEY=… DATABASE_URL=postgresql://agent@localhost/shop python examples/traces.py
"""

from __future__ import annotations

import os
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

import guarddb

PROFILE = Path(__file__).parent / "profiles" / "sales.yaml"


def main() -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    trace.set_tracer_provider(provider)
    with guarddb.connect(
        os.environ["DATABASE_URL"], policy=PROFILE, settings={"app.tenant": "1"}, autocommit=True
    ) as conn:
        conn.execute("SELECT id, email FROM customers")
        try:
            conn.execute("DELETE FROM orders")
        except guarddb.PolicyViolation as ex:
            print("refused:", ex.rule)
    provider.shutdown()


if __name__ == "__main__":
    main()
