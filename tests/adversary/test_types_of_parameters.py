"""A parameter comes with a type of the program's, and a column beside it is converted to that: no hidden value may be asked to.

Every hidden row holds values that have no place in the other type: a numeric too large for a float, a date past the last
timestamp. What an agent may see converts without an error, so an error here is a hidden row.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.numeric import Oid

import guarddb
from tests.adversary.ground import filters
from tests.fix_server import temporary_database

NOW = dt.datetime(2024, 1, 2, tzinfo=dt.UTC)
SCHEMA = """
CREATE TABLE orders (id int PRIMARY KEY, tenant_id int, amount numeric, big bigint, d date, ts timestamp);
INSERT INTO orders SELECT i, 1, i, i, date '2024-01-01' + i, '2024-01-01' FROM generate_series(1, 3) AS i;
INSERT INTO orders SELECT i, 2, '1e400', 9223372036854775807, '5874897-12-31', '294276-12-31 23:59:59'
  FROM generate_series(4, 6) AS i;
CREATE INDEX ON orders (amount);
CREATE INDEX ON orders (d);
CREATE TABLE allowed (tenant_id int);
INSERT INTO allowed VALUES (1);
ANALYZE;
"""
#: column, and a parameter to whose type it would be converted
PAIRS: list[tuple[str, Any]] = [("amount", 1.5), ("d", NOW), ("ts", NOW), ("big", Oid(5))]
CONDITIONS = [
    "coalesce({c}, %s) IS NOT NULL",
    "coalesce(%s, {c}) IS NOT NULL",
    "greatest({c}, %s) IS NOT NULL",
    "CASE WHEN true THEN {c} ELSE %s END IS NOT NULL",
    "CASE WHEN id > 0 THEN {c} ELSE coalesce(%s, NULL) END IS NOT NULL",
    "ARRAY[{c}, %s] IS NOT NULL",
    "{c} = ANY (ARRAY[{c}, %s])",
    "{c} IN ({c}, %s)",
    "nullif({c}, %s) IS NOT NULL OR true",
    "coalesce({c}, (SELECT %s)) IS NOT NULL",
    "(VALUES ({c}), (%s) LIMIT 1) IS NOT NULL",
    "(SELECT {c} UNION ALL SELECT %s LIMIT 1) IS NOT NULL",
]
#: What takes a numeric to a float by an expression around the parameter.
AROUND = [
    "amount > -abs(%s)",
    "amount > coalesce(%s, 0) - 9",
    "amount <> -(%s)",
    "amount > (SELECT -abs(%s))",
    "amount > id - %s - 9",
]
#: The same without a parameter: two items that are merged have one type.
MERGED = [
    "SELECT count(*) FROM orders AS o NATURAL LEFT JOIN (SELECT now() AS d) AS p WHERE d IS NOT NULL",
    "SELECT count(*) FROM orders AS o LEFT JOIN (SELECT 1::float8 AS amount) AS p USING (amount) WHERE amount IS NOT NULL",
    "SELECT count(*) FROM (SELECT amount AS x FROM orders UNION ALL SELECT NULL::float8) AS q WHERE x IS NOT NULL",
    "SELECT count(*) FROM orders WHERE (VALUES (amount), (1::float8) LIMIT 1) IS NOT NULL",
]
STATEMENTS: list[tuple[str, tuple[Any, ...] | None]] = [
    *(
        (f"SELECT count(*) FROM orders WHERE {c.format(c=column)}", (value,))
        for column, value in PAIRS
        for c in CONDITIONS
    ),
    *((f"SELECT count(*) FROM orders WHERE {condition}", (1.5,)) for condition in AROUND),
    *((sql, None) for sql in MERGED),
]
POLICIES = {
    "cheap": filters("tenant_id = 1"),
    "costly": filters("tenant_id = 1 AND (tenant_id < 9 OR tenant_id = 11) AND tenant_id <> 12"),
    "in": filters("tenant_id IN (SELECT tenant_id FROM allowed)"),
}


@pytest.fixture(scope="module")
def database(server_dsn: str) -> Iterator[str]:
    with temporary_database(server_dsn, "parameters") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SCHEMA)
        yield dsn


@pytest.mark.parametrize(
    "planner", ["-c enable_seqscan=off", "-c enable_indexscan=off -c enable_bitmapscan=off"]
)
@pytest.mark.parametrize("policy", POLICIES)
def test_no_hidden_value_is_converted(database: str, policy: str, planner: str) -> None:
    seen = {}
    with guarddb.connect(database, policy=POLICIES[policy], options=planner, autocommit=True) as conn:
        for sql, params in STATEMENTS:
            try:
                seen[sql] = str(conn.execute(sql, params).fetchone())
            except psycopg.DataError as ex:
                seen[sql] = str(ex)
            except (psycopg.errors.UndefinedFunction, psycopg.errors.DatatypeMismatch):
                continue  # types that do not go together
    assert len(seen) > 40
    assert {sql: answer for sql, answer in seen.items() if answer != "(3,)"} == {}
