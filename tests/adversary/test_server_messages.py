"""What the server says beside its answer, for its developers and its log: `client_min_messages` lets the agent read along.

The same statements run on two databases that differ in hidden rows and masked values only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import guarddb
from tests.fix_server import temporary_database

SCHEMA = """
CREATE TABLE people (id int PRIMARY KEY, name text, ssn text);
INSERT INTO people SELECT i, 'n' || i, repeat('x', 1 + 500 * {v}) FROM generate_series(1, 20) AS i;
CREATE TABLE orders (id int PRIMARY KEY, tenant_id int, n int);
INSERT INTO orders SELECT i, 1, i FROM generate_series(1, 20) AS i;
INSERT INTO orders SELECT i, 2, 0 FROM generate_series(100, 101 + 3000 * {v}) AS i;
CREATE TABLE free (id int PRIMARY KEY);
"""
OPEN: dict[str, Any] = {
    "name": "open",
    "access_mode": "read_write",
    "statement_rules": {"allow": ["select", "ddl", "set", "other"]},
}
POLICY: dict[str, Any] = {
    **OPEN,
    "name": "messages",
    "masking_rules": [{"table": "people", "column": "ssn", "kind": "redact"}],
    "row_filters": [{"table": "orders", "predicate": "tenant_id = 1"}],
}
LOUD = (
    "SET client_min_messages = debug5",
    "SELECT set_config('client_min_messages', 'debug2', false)",
    "SET client_min_messages = log; SET trace_sort = on",
)
TELLING = (
    "ANALYZE",
    "ANALYZE orders",
    "ANALYZE people, orders",
    "VACUUM",
    "VACUUM FULL orders",
    "CREATE INDEX ON orders (n)",
    "REINDEX TABLE orders",
    "REINDEX SCHEMA public",
    "SELECT id FROM orders ORDER BY n",
    "SELECT id, ssn FROM people ORDER BY name",
    "SELECT count(DISTINCT n) FROM orders",
)


@pytest.fixture(scope="module")
def variants(server_dsn: str) -> Iterator[list[str]]:
    with temporary_database(server_dsn, "messages") as one, temporary_database(server_dsn, "messages") as two:
        for variant, dsn in enumerate((one, two)):
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute(SCHEMA.replace("{v}", str(variant)))
        yield [one, two]


def heard(dsn: str, policy: dict[str, Any], *texts: str) -> list[tuple[str | None, str | None]]:
    """The notices of a connection's last statement."""
    with guarddb.connect(dsn, policy=policy, autocommit=True) as conn:
        found: list[tuple[str | None, str | None]] = []
        conn.add_notice_handler(lambda said: found.append((said.severity_nonlocalized, said.message_primary)))
        for text in texts:
            found.clear()
            conn.execute(text.encode())
    return found


@pytest.mark.parametrize("loud", LOUD)
@pytest.mark.parametrize("text", TELLING)
def test_what_the_server_says_to_itself_is_not_passed_on(variants: list[str], loud: str, text: str) -> None:
    for dsn in variants:
        assert heard(dsn, POLICY, loud, text) == []


def test_without_anything_hidden_it_is(variants: list[str]) -> None:
    assert ("DEBUG", 'analyzing "public.free"') in heard(variants[0], OPEN, LOUD[0], "ANALYZE free")


def test_notices_and_warnings_are(variants: list[str]) -> None:
    (said,) = heard(variants[0], POLICY, LOUD[0], "CREATE TABLE IF NOT EXISTS free (id int)")
    assert said == ("NOTICE", 'relation "free" already exists, skipping')
