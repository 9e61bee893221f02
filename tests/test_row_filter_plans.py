"""A row filter costs no plan: the queries of the benchmark have the nodes that native row-level security gives them."""

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
finally:
    sys.path.pop(0)

#: Enough for the server to prefer indexes where it does over a million.
ROWS = 50_000


class Twins:
    """One table, seen through native security and by somebody for whom that does not hold."""

    def __init__(self, dsn: str) -> None:
        role = dict(part.split("=", 1) for part in dsn.split())["dbname"] + "_native"
        self.role = role
        self.admin = psycopg.connect(dsn, autocommit=True)
        self.admin.execute(f"CREATE ROLE {role} LOGIN NOBYPASSRLS")
        self.admin.execute(benchmark.SCHEMA.format(rows=ROWS, tenants=benchmark.TENANTS, role=role))
        self.admin.execute("VACUUM ANALYZE")
        self.catalog = guarddb.Catalog.from_connection(self.admin)
        self.native = psycopg.connect(make_conninfo(dsn, user=role))

    def close(self) -> None:
        self.native.close()
        self.admin.execute(f"DROP OWNED BY {self.role}")
        self.admin.execute(f"DROP ROLE {self.role}")
        self.admin.close()

    def shapes(self, sql: str) -> tuple[Any, Any]:
        sent = benchmark.rewritten(sql, self.catalog)
        return benchmark.shape(self.admin, sent), benchmark.shape(self.native, sql)


@pytest.fixture(scope="module")
def twins(server_dsn: str) -> Iterator[Twins]:
    with temporary_database(server_dsn, "plans") as dsn:
        twins = Twins(dsn)
        try:
            yield twins
        finally:
            twins.close()


@pytest.mark.parametrize("title", benchmark.PLAIN)
def test_plain_comparisons_have_the_plan_of_native_row_security(twins: Twins, title: str) -> None:
    ours, native = twins.shapes(benchmark.PLAIN[title])
    assert benchmark.shown(ours) == benchmark.shown(native)


@pytest.mark.parametrize("title", ["LIKE 'abc%'", "can raise, beside an indexed one"])
def test_an_index_is_found_where_native_row_security_may_find_none(twins: Twins, title: str) -> None:
    ours, _ = twins.shapes(benchmark.OTHERS[title])
    assert "Index" in benchmark.shown(ours)


@pytest.mark.parametrize("title", [*benchmark.PLAIN, *benchmark.OTHERS])
def test_the_queries_give_the_same(twins: Twins, title: str) -> None:
    sql = {**benchmark.PLAIN, **benchmark.OTHERS}[title]
    answers = []
    for conn, text in ((twins.admin, benchmark.rewritten(sql, twins.catalog)), (twins.native, sql)):
        with conn.transaction(force_rollback=True):
            cursor = conn.execute(text)
            rows = cursor.fetchall() if cursor.description and sql.startswith("SELECT") else []
            answers.append((sorted(rows), cursor.rowcount))
    assert answers[0] == answers[1]
    assert answers[0][1] > 0
