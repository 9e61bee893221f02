"""Errors of the server under a policy: class and SQLSTATE as always, row data of governed relations cut out."""

from __future__ import annotations

import psycopg
import pytest

import guarddb
from tests.conformance.cases import FILTERS, MASKS
from tests.conformance.conftest import Guard

GOVERNED = {"access_mode": "read_write", "masking_rules": MASKS, "row_filters": FILTERS}
OPEN = {"access_mode": "read_write"}
ROW = "INSERT INTO customers (id, tenant_id, name, email, created_at) VALUES "

#: (statement, SQLSTATE, what of the data the plain error shows)
ERRORS = [
    ("SELECT name::int FROM customers WHERE id = 4", "22P02", "Customer 004"),
    ("SELECT name::date FROM customers WHERE id = 4", "22007", "Customer 004"),
    ("SELECT city::uuid FROM customers WHERE id = 4", "22P02", "laga"),
    ("SELECT payload::text::int FROM events WHERE id = 4", "22P02", "geo"),
    (ROW + "(4, 1, 'x', 'x@y', '2024-01-01')", "23505", "(id)=(4)"),
    (ROW + "(9999, 1, 'x', 'customer8@example.com', '2024-01-01')", "23505", "customer8"),
    (ROW + "(9999, 1, NULL, 'x@y', '2024-01-01')", "23502", "x@y"),
    ("UPDATE orders SET customer_id = 99999 WHERE id = 1", "23503", "99999"),
    ("DELETE FROM customers WHERE id = 8", "23503", "(id)=(8)"),
]


def error_of(conn: psycopg.Connection, sql: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught, conn.transaction(force_rollback=True):
        conn.execute(sql.encode())
    assert not isinstance(caught.value, guarddb.PolicyViolation)
    return caught.value


def everything(error: psycopg.Error) -> str:
    diag = error.diag
    return " ".join(
        str(part)
        for part in (
            error,
            *error.args,
            diag.message_primary,
            diag.message_detail,
            diag.message_hint,
            diag.context,
            diag.internal_query,
        )
    )


@pytest.mark.parametrize(("sql", "sqlstate", "data"), ERRORS)
def test_row_data_is_cut_out_of_errors(
    connect: Guard, plain_shop: psycopg.Connection, sql: str, sqlstate: str, data: str
) -> None:
    plain = error_of(plain_shop, sql)
    assert plain.sqlstate == sqlstate
    assert data in everything(plain)
    governed = error_of(connect(GOVERNED), sql)
    assert type(governed) is type(plain)
    assert governed.sqlstate == governed.diag.sqlstate == sqlstate
    assert data not in everything(governed)
    assert str(governed)
    # where nothing is governed, nothing is cut
    assert everything(error_of(connect(OPEN), sql)) == everything(plain)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'x'::int",
        "SELECT name::int FROM categories",
        "INSERT INTO settings VALUES ('theme', 'x')",
        "SELECT 1 / 0",
        "SELECT nothing FROM settings",
        "SELECT * FROM nowhere",
        "INSERT INTO categories VALUES (99, 98, 'x')",
    ],
)
def test_error_of_an_ungoverned_table_is_the_servers_own(
    connect: Guard, plain_shop: psycopg.Connection, sql: str
) -> None:
    assert everything(error_of(connect(GOVERNED), sql)) == everything(error_of(plain_shop, sql))


def test_message_about_names_stays_readable(connect: Guard) -> None:
    """What an agent needs to correct itself is no row data."""
    error = error_of(connect(GOVERNED), "SELECT no_such_column FROM customers")
    assert 'column "no_such_column" does not exist' in str(error)
    assert error.sqlstate == "42703"


def test_error_shows_nothing_of_what_the_text_became(connect: Guard) -> None:
    sql = "SELECT ssn, email, no_such_column FROM customers WHERE tenant_id > 0"
    error = error_of(connect(GOVERNED), sql)
    assert "no_such_column" in everything(error)
    assert "[redacted]" not in everything(error)
    assert "sha256" not in everything(error)
