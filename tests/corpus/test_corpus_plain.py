"""The corpus is sound: every statement runs on plain PostgreSQL, gives the same twice, and uses only what may
be called."""

from __future__ import annotations

import psycopg
import pytest

from guarddb import tree
from guarddb.facts import functions
from guarddb.sql.catalog import Catalog
from tests.corpus import Case, load_ordinary

CASES = load_ordinary()


def run(plain_shop: psycopg.Connection, sql: str) -> object:
    """The result of `sql` in a transaction that is undone, whatever `sql` itself does to the transaction."""
    plain_shop.execute("BEGIN")
    try:
        cursor = plain_shop.execute(sql.encode())
        return cursor.fetchall() if cursor.description is not None else cursor.rowcount
    finally:
        plain_shop.execute("ROLLBACK")
        plain_shop.execute("RESET ALL")


def test_there_are_enough_and_their_names_are_unique() -> None:
    assert len(CASES) >= 170
    assert len({str(case) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_runs_on_plain_postgresql_and_gives_the_same_twice(
    plain_shop: psycopg.Connection, case: Case
) -> None:
    assert run(plain_shop, case.sql) == run(plain_shop, case.sql)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_calls_only_what_the_floor_lets_through(catalog: Catalog, case: Case) -> None:
    for name, node in tree.nodes(tree.parse(case.sql)):
        if name != "FuncCall":
            continue
        called = node["funcname"][-1]["String"]["sval"]
        if functions.builtin(called):
            assert functions.forbidden(called, len(node.get("args", []))) is None
        else:
            assert all(each.is_trusted_extension_code for each in catalog.functions_named(called))
            assert catalog.functions_named(called)
