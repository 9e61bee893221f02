"""A name that PostgreSQL reads otherwise than it looks, and copies of a masked value under another name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb import Catalog, evaluate

SCHEMA = """
CREATE TABLE customers (
  id int PRIMARY KEY, name text, ssn text, email text NOT NULL, low text GENERATED ALWAYS AS (lower(email)) STORED,
  dashed text GENERATED ALWAYS AS ('#' || ssn) STORED
);
INSERT INTO customers (id, name, ssn, email) SELECT i, 'n' || i, 'RAW-ssn-' || i, 'RAW-mail-' || i FROM generate_series(1, 3) i;
CREATE TABLE plain (id int, name text, n int);
INSERT INTO plain SELECT i, 'p' || i, i FROM generate_series(1, 3) i;
CREATE TABLE docs (id int, owner int);
INSERT INTO docs VALUES (1, 1), (2, 2);
CREATE TABLE visits (id int, ssn text) PARTITION BY LIST (ssn);
CREATE TABLE visits_a PARTITION OF visits FOR VALUES IN ('RAW-a');
CREATE TABLE visits_rest PARTITION OF visits DEFAULT;
INSERT INTO visits VALUES (1, 'RAW-a'), (2, 'RAW-b');
CREATE VIEW where_it_is AS SELECT id, tableoid AS place FROM visits;
CREATE VIEW of_a AS SELECT id FROM visits_a;
CREATE TYPE pair AS (id int, ssn text);
"""
MASKS: dict[str, Any] = {
    "name": "readings",
    "access_mode": "read_write",
    "masking_rules": [
        {"table": "customers", "column": "ssn", "kind": "redact"},
        {"table": "customers", "column": "email", "kind": "hash"},
        {"table": "visits", "column": "ssn", "kind": "null"},
    ],
}

#: Texts in which a masked column stands where an inner name seems to be.
DISGUISED = (
    "SELECT id, (SELECT xmin FROM pg_roles LIMIT 1) FROM customers AS c(id, name, xmin)",
    "SELECT (SELECT daticulocale FROM pg_database LIMIT 1) FROM customers AS c(id, name, daticulocale)",
    "SELECT (SELECT ctid FROM (docs d CROSS JOIN plain p) LIMIT 1) FROM customers AS c(id, name, ctid)",
    "SELECT (SELECT cmin FROM (docs d JOIN plain p ON true) AS j LIMIT 1) FROM customers AS c(id, name, cmin)",
    "SELECT (SELECT tableoid FROM generate_series(1, 1) g LIMIT 1) FROM customers AS c(id, name, tableoid)",
    "SELECT (SELECT pair FROM CAST(ROW(1, 'x') AS pair) LIMIT 1) FROM customers AS c(id, name, pair)",
    "SELECT (SELECT f FROM unnest(ARRAY[ROW(1, 'x')::pair]) AS f(a, b) LIMIT 1) FROM customers AS c(id, name, f)",
    'SELECT (SELECT "coalesce" FROM COALESCE(ROW(1, \'x\')::pair, NULL) LIMIT 1) FROM customers AS c(id, name, "coalesce")',
    "UPDATE customers SET name = name WHERE id = 1 RETURNING (SELECT old)",
    "UPDATE customers SET name = name WHERE id = 1 RETURNING (SELECT old.ssn)",
    "UPDATE customers SET name = name WHERE id = 1 RETURNING (SELECT x FROM (SELECT new AS x) y)",
    "UPDATE customers SET name = name WHERE id = 1 RETURNING WITH (OLD AS o) (SELECT (o).ssn)",
    "SELECT raw || '' FROM (SELECT * FROM (customers c CROSS JOIN unnest(ARRAY['a']) f) AS j) q(a, b, raw, d, e, g, h)",
    "SELECT raw || '' FROM (SELECT * FROM (pg_roles r CROSS JOIN customers c)) q(a,b,c,d,e,f,g,h,i,j,k,l,m,id,name,raw)",
    "SELECT low FROM customers",
    "SELECT dashed || '' FROM customers",
    "SELECT id FROM customers ORDER BY low",
    "SELECT id, tableoid::regclass FROM visits",
    "SELECT id FROM visits_a",
    "SELECT * FROM of_a",
    "SELECT * FROM where_it_is",
    "COPY visits_a (id) TO STDOUT",
    "INSERT INTO visits_a VALUES (3, 'RAW-a')",
    "EXPLAIN (ANALYZE) SELECT id FROM visits WHERE id = 1",
    "SELECT count(DISTINCT customers) FROM customers",
    "SELECT attmissingval FROM pg_attribute",
    "CLUSTER",
)
#: Ordinary texts beside them, and what they give.
ORDINARY: tuple[tuple[str, object], ...] = (
    ("SELECT count(customers.*), count(c) FROM customers CROSS JOIN customers c", [(9, 9)]),
    ("SELECT c.count FROM customers c", [(3,)]),
    ("SELECT count(c) FROM docs d LEFT JOIN customers c ON c.id = d.owner AND c.id = 1", [(1,)]),
    (
        "SELECT ssn FROM customers WHERE id = 1 UNION ALL SELECT name FROM plain WHERE id = 1",
        [("[redacted]",), ("p1",)],
    ),
    ("SELECT id FROM visits ORDER BY id", [(1,), (2,)]),
    (
        "SELECT * FROM customers JOIN plain USING (id) JOIN docs ON docs.owner = plain.n WHERE plain.n = 1",
        None,
    ),
    ("SELECT count(*) FROM (SELECT * FROM customers c, pg_class k WHERE k.relname = 'customers') x", [(3,)]),
    (
        "SELECT c.id, g FROM customers c, generate_series(1, 2) AS g WHERE c.id = g ORDER BY 1",
        [(1, 1), (2, 2)],
    ),
    ("SELECT EXISTS (SELECT * FROM customers WHERE id = 2)", [(True,)]),
)
UNKNOWN = (
    "SELECT c.emial FROM customers c",
    "SELECT emial FROM customers",
    "SELECT s.phone FROM plain s JOIN customers c ON c.id = s.id",
    "SELECT id FROM customers WHERE emial = 'x'",
    "SELECT count(emial) FROM customers",
    "SELECT id FROM customers ORDER BY emial",
    "SELECT id, c.text FROM customers c",
    "UPDATE customers SET name = emial WHERE id = 1",
)


@pytest.fixture(scope="module")
def readings(server_dsn: str) -> Iterator[str]:
    from tests.fix_server import temporary_database

    with temporary_database(server_dsn, "readings") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SCHEMA)
        yield dsn


@pytest.fixture(scope="module")
def catalog(readings: str) -> Catalog:
    with psycopg.connect(readings) as conn:
        return Catalog.from_connection(conn)


@pytest.fixture(scope="module")
def guarded(readings: str) -> Iterator[guarddb.Connection[Any]]:
    with guarddb.connect(readings, policy=MASKS, autocommit=True) as conn:
        yield conn


@pytest.mark.parametrize("sql", DISGUISED)
def test_a_masked_value_does_not_come_out_in_disguise(guarded: guarddb.Connection[Any], sql: str) -> None:
    said = ""
    guarded.execute("BEGIN")
    try:
        cursor = guarded.execute(sql.encode())
        said = str(cursor.fetchall()) if cursor.description else ""
    except psycopg.Error as error:
        said = str(error)
    finally:
        guarded.rollback()
    assert "RAW" not in said.replace('"RAW-a"', "")


@pytest.mark.parametrize(("sql", "rows"), ORDINARY)
def test_ordinary_neighbours_run(guarded: guarddb.Connection[Any], sql: str, rows: object) -> None:
    found = guarded.execute(sql.encode()).fetchall()
    assert rows is None or found == rows
    assert "RAW" not in str(found)


@pytest.mark.parametrize("sql", UNKNOWN)
def test_an_unknown_column_is_postgresqls_to_refuse(guarded: guarddb.Connection[Any], sql: str) -> None:
    with pytest.raises(psycopg.errors.UndefinedColumn):
        guarded.execute(sql.encode())


def test_a_generated_column_inherits_the_mask(guarded: guarddb.Connection[Any]) -> None:
    """Redacted, and never a hash of its own: that would tell whether a guess is right."""
    assert guarded.execute("SELECT low, dashed FROM customers WHERE id = 1").fetchone() == (
        "[redacted]",
        "[redacted]",
    )


def test_what_comes_as_null_is_said(catalog: Catalog) -> None:
    for sql in ("SELECT (SELECT ssn FROM customers LIMIT 1)", "SELECT c FROM customers c"):
        assert any("comes as NULL" in note for note in evaluate(sql, MASKS, catalog).notes), sql
    assert not any(
        "comes as NULL" in note for note in evaluate("SELECT ssn FROM customers", MASKS, catalog).notes
    )


def test_the_token_stands_for_null_too(readings: str) -> None:
    """`redact_nulls`: whether there is a value is not told, and the text does not ask."""
    policy = {**MASKS, "guarddb": {"redact_nulls": True}}
    with guarddb.connect(readings, policy=policy, autocommit=True) as conn:
        conn.execute("BEGIN")
        conn.execute("INSERT INTO customers (id, email) VALUES (9, 'x')")
        cursor = conn.execute("SELECT ssn FROM customers WHERE id IN (1, 9)")
        assert cursor.fetchall() == [("[redacted]",), ("[redacted]",)]
        assert cursor.decision is not None
        assert "IS NOT NULL" not in (cursor.decision.rewritten_sql or "")
        conn.rollback()


def test_a_column_that_cannot_be_null_is_not_asked(catalog: Catalog) -> None:
    policy = {**MASKS, "masking_rules": [{"table": "customers", "column": "email", "kind": "redact"}]}
    sent = evaluate("SELECT email FROM customers", policy, catalog).rewritten_sql
    assert sent == 'SELECT \'[redacted]\'::"pg_catalog"."text" AS "email" FROM customers'
    joined = evaluate(
        "SELECT c.email FROM docs d LEFT JOIN customers c ON c.id = d.owner", policy, catalog
    ).rewritten_sql
    assert joined is not None
    assert '"c"."id" IS NOT NULL' in joined
