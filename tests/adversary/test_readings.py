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
CREATE VIEW all_customers AS SELECT id, ssn FROM customers;
CREATE TABLE people (id int, born date);
INSERT INTO people VALUES (1, '1970-01-01');
CREATE TABLE letters (id int, ssn text);
CREATE TYPE pair AS (id int, ssn text);
"""
MASKS: dict[str, Any] = {
    "name": "readings",
    "access_mode": "read_write",
    "masking_rules": [
        {"table": "customers", "column": "ssn", "kind": "redact"},
        {"table": "customers", "column": "email", "kind": "hash"},
        {"table": "visits", "column": "ssn", "kind": "null"},
        {"table": "people", "column": "born", "kind": "hash"},
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
    "SELECT id, ctid FROM visits",
    "SELECT id FROM visits WHERE ctid = '(0,1)'",
    "UPDATE visits SET id = id WHERE id = 1 RETURNING ctid",
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
    ("SELECT count(*) FROM (SELECT * FROM customers c, pg_type k WHERE k.typname = 'customers') x", [(3,)]),
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


#: PostgreSQL refuses these for a column in whose place a mask stands.
UNGROUPED = (
    "SELECT (plain).count, customers.ssn FROM plain, customers",
    "SELECT (p).json_agg, c.ssn FROM plain p, customers c",
    "SELECT x.n, count(*), x AS more FROM (plain p(p_id, p_name, n) JOIN customers ON true) AS x GROUP BY x.n",
    "SELECT name, ssn, count(*) FROM customers GROUP BY name",
    "SELECT name, dashed, count(*) FROM customers GROUP BY name",
    "SELECT email, count(*) FROM customers",
    "SELECT low, max(id) FROM customers",
    "SELECT *, count(*) FROM customers",
    "SELECT ssn FROM visits HAVING true",
    "SELECT v.ssn, count(*) FROM visits v GROUP BY v.id",
    "WITH w AS (SELECT ssn, count(*) FROM visits) SELECT * FROM w",
    "SELECT x.ssn FROM (SELECT v.ssn, count(*) FROM visits v) x",
    "SELECT v, count(*) FROM visits v",
    "SELECT c.id, c AS whole, count(*) FROM all_customers c GROUP BY c.id",
    "WITH w AS (SELECT v.count, v.ssn FROM visits v) SELECT 1 FROM w",
    "WITH w AS (SELECT max(v.id), v.ssn FROM visits v) SELECT 1 FROM w",
    "SELECT max(v.id), (SELECT v.ssn) FROM visits v",
    "SELECT max(v.id), (SELECT v) FROM visits v",
    "SELECT (SELECT count(v.id)), v.ssn FROM visits v",
    "SELECT EXISTS (SELECT v.* FROM plain), count(*) FROM visits v GROUP BY v.id",
    "SELECT ssn, count(*) FROM customers GROUP BY ROLLUP (id)",
)
#: And these it takes.
GROUPED = (
    "SELECT id, ssn, low, count(*) FROM customers GROUP BY id",
    "SELECT ssn, count(*) OVER () FROM customers",
    "SELECT v.ssn, (SELECT count(*) FROM docs) FROM visits v",
    "SELECT max(id), (SELECT v.ssn FROM visits v LIMIT 1) FROM docs",
    "SELECT c.id, c, count(*) FROM customers c GROUP BY c.id",
    "SELECT c.id, (SELECT c.ssn), count(*) FROM customers c GROUP BY c.id",
    "SELECT v, count(v) OVER () FROM visits v",
    "SELECT v.ssn, (SELECT count(v.id + p.id) FROM plain p) FROM visits v",
    "SELECT id, ssn, count(*) FROM customers GROUP BY id, ROLLUP (name)",
    "SELECT count(*) FILTER (WHERE EXISTS (SELECT v.ssn)) FROM visits v",
    "SELECT v, v.ssn, x.n FROM visits v, LATERAL (SELECT count(v.id) FILTER (WHERE p.n > 1) AS n FROM plain p) x",
    "WITH r AS (SELECT 1 AS a) SELECT v.ssn, x.n FROM visits v, LATERAL (SELECT count(r) AS n FROM r) x",
    "SELECT c.ssn, x.n FROM customers c JOIN (SELECT count(*)::int AS id, 1 AS n FROM plain) x USING (id)",
    "SELECT v.ssn, (SELECT string_agg(v.id::text, '' ORDER BY p.n) FROM plain p) FROM visits v",
    "SELECT max(CASE WHEN EXISTS (SELECT v.ssn) THEN 1 END) FROM visits v",
    "SELECT count(*), (SELECT x.ssn FROM plain p JOIN LATERAL (SELECT v.ssn FROM visits v) x ON true LIMIT 1) FROM docs",
)

#: So are these: a name that is not in reach, one that is two, types that do not match.
REFUSED_BY_THE_SERVER = (
    "SELECT q.* FROM visits v RIGHT JOIN LATERAL (SELECT v.ssn) q ON true",
    "SELECT 1 FROM visits v FULL JOIN LATERAL (SELECT v) q ON true",
    "SELECT 1 FROM (visits v JOIN plain p ON true) RIGHT JOIN (docs d LEFT JOIN LATERAL (SELECT v.ssn) q ON true) ON true",
    "INSERT INTO visits AS excluded (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 1 WHERE EXISTS (SELECT excluded.ssn)",
    "INSERT INTO visits AS excluded VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 1 WHERE EXISTS (SELECT excluded.*)",
    "INSERT INTO visits AS excluded VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 1 WHERE EXISTS (SELECT excluded)",
    "SELECT oid FROM pg_class UNION ALL SELECT email FROM customers",
    "SELECT email FROM customers UNION ALL SELECT oid FROM pg_class",
    "SELECT born FROM people UNION ALL SELECT name FROM plain",
    "SELECT born FROM people UNION ALL SELECT name || '' FROM plain",
    "SELECT born FROM people UNION ALL SELECT 'x'",
    "SELECT born FROM people UNION ALL SELECT email FROM customers",
    "SELECT q.born FROM (SELECT born FROM people) q UNION ALL SELECT * FROM (SELECT email FROM customers) r",
    "(SELECT id FROM plain UNION ALL SELECT n FROM plain) UNION ALL SELECT born FROM people",
    "MERGE INTO customers c USING plain p ON c.id = p.id WHEN NOT MATCHED AND c.ssn = 'x' THEN DO NOTHING",
    "MERGE INTO customers c USING plain p ON c.id = p.id WHEN NOT MATCHED THEN INSERT (id, name) VALUES (p.id, ssn)",
)
#: And these not.
TAKEN_BY_THE_SERVER = (
    "SELECT q.* FROM visits v LEFT JOIN LATERAL (SELECT v.ssn) q ON true",
    "SELECT q.* FROM plain p RIGHT JOIN (visits v CROSS JOIN LATERAL (SELECT v.ssn) q) ON true",
    "SELECT born FROM people UNION ALL SELECT NULL UNION ALL SELECT '2020-01-01' UNION ALL SELECT now()",
    "SELECT q.born FROM (SELECT born FROM people) q UNION ALL SELECT born FROM people",
    "SELECT email FROM customers UNION ALL SELECT name FROM plain UNION ALL SELECT 'x'",
    "MERGE INTO customers c USING plain p ON c.id = p.id WHEN NOT MATCHED AND name = 'x' THEN DO NOTHING",
    "MERGE INTO customers c USING letters l ON c.id = l.id WHEN NOT MATCHED AND ssn = '' THEN INSERT (id, email) VALUES (id, '')",
    "MERGE INTO letters l USING customers c ON c.id = l.id WHEN NOT MATCHED BY SOURCE AND ssn = 'x' THEN DELETE",
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


@pytest.mark.parametrize("column", ["ctid", "tableoid", "v.ctid"])
def test_where_a_row_lies_is_not_told(catalog: Catalog, column: str) -> None:
    """Two rows in the same place are in different partitions, and these are made of masked values."""
    for sql in (
        "SELECT {} FROM visits v",
        "DELETE FROM visits v WHERE id = 1 RETURNING {}",
        "SELECT 1 FROM visits v ORDER BY {}",
    ):
        assert evaluate(sql.format(column), MASKS, catalog).rule == "masked_column_predicate"


@pytest.mark.parametrize(("sql", "rows"), ORDINARY)
def test_ordinary_neighbours_run(guarded: guarddb.Connection[Any], sql: str, rows: object) -> None:
    found = guarded.execute(sql.encode()).fetchall()
    assert rows is None or found == rows
    assert "RAW" not in str(found)


@pytest.mark.parametrize("sql", UNKNOWN)
def test_an_unknown_column_is_postgresqls_to_refuse(guarded: guarddb.Connection[Any], sql: str) -> None:
    with pytest.raises(psycopg.errors.UndefinedColumn):
        guarded.execute(sql.encode())


@pytest.mark.parametrize("sql", UNGROUPED)
def test_a_masked_column_beside_groups_is_postgresqls_to_refuse(
    guarded: guarddb.Connection[Any], readings: str, sql: str
) -> None:
    with psycopg.connect(readings) as plain, pytest.raises(psycopg.errors.GroupingError) as expected:
        plain.execute(sql.encode())
    with pytest.raises(psycopg.errors.GroupingError) as caught:
        guarded.execute(sql.encode())
    assert caught.value.diag.message_primary == expected.value.diag.message_primary
    assert caught.value.diag.statement_position == expected.value.diag.statement_position


@pytest.mark.parametrize("sql", GROUPED)
def test_a_masked_column_beside_its_own_groups_is_answered(
    guarded: guarddb.Connection[Any], readings: str, sql: str
) -> None:
    with psycopg.connect(readings) as plain:
        there = plain.execute(sql.encode())
    shown = guarded.execute(sql.encode())
    assert shown.rowcount == there.rowcount
    assert [c.type_code for c in shown.description or ()] == [c.type_code for c in there.description or ()]


@pytest.mark.parametrize("sql", REFUSED_BY_THE_SERVER)
def test_what_the_server_refuses_of_the_text_it_refuses_of_what_is_sent(
    guarded: guarddb.Connection[Any], readings: str, sql: str
) -> None:
    """By the same SQLSTATE; or guarddb refuses it."""
    with psycopg.connect(readings) as plain, pytest.raises(psycopg.Error) as expected:
        plain.execute(sql.encode())
    with pytest.raises(psycopg.Error) as caught:
        guarded.execute(sql.encode())
    assert (
        isinstance(caught.value, guarddb.PolicyViolation) or caught.value.sqlstate == expected.value.sqlstate
    )


@pytest.mark.parametrize("sql", TAKEN_BY_THE_SERVER)
def test_what_the_server_takes_beside_it_is_answered(
    guarded: guarddb.Connection[Any], readings: str, sql: str
) -> None:
    with psycopg.connect(readings) as plain:
        there = plain.execute(sql.encode())
        plain.rollback()
    guarded.execute("BEGIN")
    try:
        shown = guarded.execute(sql.encode())
        assert shown.rowcount == there.rowcount
        assert not shown.description or "RAW" not in str(shown.fetchall())
    finally:
        guarded.rollback()


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


@pytest.mark.parametrize(
    "sql",
    [
        "MERGE INTO customers c USING plain p ON c.id = p.id WHEN MATCHED THEN UPDATE SET name = 'x' RETURNING *",
        "UPDATE customers c SET name = 'x' FROM plain p WHERE c.id = p.id RETURNING *",
        "UPDATE customers c SET name = 'x' FROM plain p WHERE c.id = p.id RETURNING p.*, c.*",
        "INSERT INTO customers (id, name, email) VALUES (9, 'x', 'e') RETURNING *",
        "INSERT INTO customers (id, name, email) VALUES (9, 'x', 'e') RETURNING new.*, old.*",
        "MERGE INTO customers USING ROWS FROM (now(), now()) AS f ON id = 1 WHEN MATCHED THEN UPDATE SET name = 'x' RETURNING *",
        "UPDATE customers SET name = 'x' FROM ROWS FROM (now(), now()) AS f WHERE id = 1 RETURNING f.*, *",
    ],
)
def test_the_check_of_a_written_row_leaves_the_columns_of_returning(readings: str, sql: str) -> None:
    policy = {**MASKS, "row_filters": [{"table": "customers", "predicate": "id > 0 AND name <> 'hidden'"}]}
    with psycopg.connect(readings) as plain:
        there = plain.execute(sql.encode())
        names, count = [column.name for column in there.description or ()], there.rowcount
        plain.rollback()
    with guarddb.connect(readings, policy=policy) as conn:
        shown = conn.execute(sql.encode())
        assert [column.name for column in shown.description or ()] == names
        assert shown.rowcount == count
        assert "RAW" not in str(shown.fetchall())
        conn.rollback()
