"""Errors speak of the agent's text: its positions, its lines, and nothing of what was written into it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

import guarddb
from guarddb.driver.positions import quoted_line
from tests.conformance.cases import FILTERS, MASKS

POLICY = {"name": "positions", "masking_rules": MASKS, "row_filters": FILTERS, "max_rows": 100}
WRONG = (
    "SELECT email, ssn, nmae FROM customers",
    "SELECT c.ssn, o.id\nFROM customers c\nJOIN orders o ON o.customer_id = c.idd",
    "SELECT ssn, upper(name) || 1 + 'x'::date FROM customers WHERE lower(name) = 'x'",
    "SELECT *, nothing FROM customers WHERE 1 / id > 0",
    "SELECT ssn FROM customers, no_such_table",
    "SELECT 'ääää', ssn, \"ö\" FROM customers",
    "SELECT ssn, email, name, "
    + ", ".join(f"{i} AS number_{i}" for i in range(30))
    + ", nmae FROM customers",
    "SELECT (SELECT ssn FROM customers LIMIT 1), nmae",
)


def error_of(conn: psycopg.Connection[Any], sql: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(sql.encode())
    return caught.value


@pytest.mark.parametrize("sql", WRONG)
def test_position_and_line_are_those_of_plain_psycopg(
    guarded: guarddb.Connection[Any], plain_shop: psycopg.Connection, sql: str
) -> None:
    mine, theirs = error_of(guarded, sql), error_of(plain_shop, sql)
    assert type(mine) is type(theirs)
    assert mine.diag.statement_position == theirs.diag.statement_position
    assert theirs.diag.statement_position is not None
    assert "tenant_id = 1" not in str(mine)
    # What may have been meant is said after it.
    assert str(mine).startswith(str(theirs).partition("\nHINT")[0])


def test_a_line_is_cut_as_libpq_cuts_it() -> None:
    assert quoted_line("SELECT 1\nFROM x", 9) == "\nLINE 2: FROM x\n        ^"
    long = quoted_line("x" * 200, 150)
    assert long.startswith("\nLINE 1: ...")
    assert long.splitlines()[1].endswith("...")
