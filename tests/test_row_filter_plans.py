"""A row filter costs no plan: the statements of the benchmark have the nodes and indexes that native row-level security has."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import guarddb
from tests.fix_server import temporary_database

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
try:
    benchmark = importlib.import_module("row_filters")
    queries = importlib.import_module("row_filter_queries")
finally:
    sys.path.pop(0)

#: Enough for the server to prefer indexes where it does over a million.
ROWS = 40_000


class Twins:
    """The same tables, seen through native security and by somebody for whom that does not hold."""

    def __init__(self, dsn: str) -> None:
        role = dict(part.split("=", 1) for part in dsn.split())["dbname"] + "_native"
        self.role = role
        self.admin = psycopg.connect(dsn, autocommit=True)
        self.admin.execute(f"CREATE ROLE {role} LOGIN NOBYPASSRLS")
        self.admin.execute(benchmark.SCHEMA.format(rows=ROWS, tenants=benchmark.TENANTS, role=role))
        self.admin.execute("VACUUM ANALYZE")
        self.admin.execute("SET max_parallel_workers_per_gather = 0")
        self.catalog = guarddb.Catalog.from_connection(self.admin)
        self.native = psycopg.connect(
            make_conninfo(dsn, user=role, options="-c max_parallel_workers_per_gather=0 -c app.tenant=1"),
            autocommit=True,
        )
        self.predicate = ""

    def under(self, name: str) -> Twins:
        if self.predicate != benchmark.PREDICATES[name]:
            self.predicate = benchmark.PREDICATES[name]
            self.admin.execute(benchmark.policies(self.predicate, self.role))
        return self

    def close(self) -> None:
        self.native.close()
        self.admin.execute(f"DROP OWNED BY {self.role}")
        self.admin.execute(f"DROP ROLE {self.role}")
        self.admin.close()

    def sent(self, sql: str) -> str:
        text: str = benchmark.rewritten(sql, self.catalog, self.predicate)
        return text


@pytest.fixture(scope="module")
def twins(server_dsn: str) -> Iterator[Twins]:
    with temporary_database(server_dsn, "plans") as dsn:
        twins = Twins(dsn)
        try:
            yield twins
        finally:
            twins.close()


#: Not leakproof to PostgreSQL, which therefore finds no index for it; we know that these return for every input.
BETTER = {
    "a range of amounts": "numbers",
    "EXISTS": "numbers",
    "IN a sub-select": "numbers",
    "UPDATE of a day": "numbers",
    "LIKE 'abc%'": "a pattern that cannot raise",
    "timestamp against date": "dates with timestamps",
}


# (A native policy that reads a setting is planned without its value, and so on other estimates.)
@pytest.mark.parametrize("title", [t for t in queries.QUERIES if t not in BETTER])
@pytest.mark.parametrize("name", ["constant", "sub-select"])
def test_the_indexes_are_those_of_native_row_security(twins: Twins, name: str, title: str) -> None:
    sql = queries.QUERIES[title]
    ours = benchmark.shape(twins.under(name).admin, twins.sent(sql))
    native = benchmark.shape(twins.native, sql)
    assert set(benchmark.indexes(ours)) == set(benchmark.indexes(native)), (
        f"{benchmark.shown(ours)}\n{benchmark.shown(native)}\n{twins.sent(sql)}"
    )


@pytest.mark.parametrize("title", BETTER)
def test_an_index_is_found_where_native_row_security_finds_none(twins: Twins, title: str) -> None:
    assert benchmark.indexes(
        benchmark.shape(twins.under("constant").admin, twins.sent(queries.QUERIES[title]))
    )


@pytest.mark.parametrize("title", queries.QUERIES)
@pytest.mark.parametrize("name", benchmark.PREDICATES)
def test_the_statements_give_the_same(twins: Twins, name: str, title: str) -> None:
    sql = queries.QUERIES[title]
    answers: list[tuple[list[Any], int]] = []
    for conn, text in ((twins.under(name).admin, twins.sent(sql)), (twins.native, sql)):
        with conn.transaction(force_rollback=True):
            cursor = conn.execute(text)
            rows = cursor.fetchall() if cursor.description and sql.startswith(("SELECT", "WITH")) else []
            answers.append((sorted(map(repr, rows)), cursor.rowcount))
    assert answers[0] == answers[1]


#: For these as well an index is found where native row security finds none: patterns, and dates with timestamps.
BETTER_PREPARED = {"$: ILIKE and a join", "$: a part of a name", "$: since a day"}


@pytest.mark.parametrize("title", queries.PARAMETERS)
@pytest.mark.parametrize("name", ["constant", "sub-select"])
def test_a_generic_plan_has_the_indexes_of_native_row_security(twins: Twins, name: str, title: str) -> None:
    sql = queries.PARAMETERS[title][0]
    twins.under(name)
    text = twins.sent(sql)
    shapes, answers = [], []
    for conn, each in ((twins.admin, text), (twins.native, sql)):
        call = benchmark.prepared(conn, title, each)
        shapes.append(benchmark.shape(conn, call))
        with conn.transaction(force_rollback=True):
            cursor = conn.execute(call)
            rows = cursor.fetchall() if cursor.description and sql.startswith("SELECT") else []
            answers.append((sorted(map(repr, rows)), cursor.rowcount))
    assert answers[0] == answers[1]
    if title not in BETTER_PREPARED:
        assert set(benchmark.indexes(shapes[0])) == set(benchmark.indexes(shapes[1])), text
