"""Calls, settings, transactions and whereless writes in every disguise they have.

A user function says EVIL when it runs, so that a call nobody saw is noticed by its effect and not by its spelling.
"""

from __future__ import annotations

import pytest

from guarddb import evaluate
from tests.adversary.ground import ONE_MASK, Ground, writing

PLAIN = {"name": "plain"}
CALLS = [
    "SELECT evil(1)",
    "SELECT public.evil(1)",
    'SELECT "evil"(1)',
    'SELECT U&"\\0065vil"(1)',
    "SELECT (1).evil",
    "SELECT (id).evil FROM other",
    "SELECT o.id.evil FROM other o",
    "SELECT x.evil FROM generate_series(1, 1) x",
    "SELECT x.evil FROM unnest(ARRAY[1]) x",
    "SELECT (x.y).evil FROM unnest(ARRAY[1]) x(y)",
    "SELECT ((ARRAY[1])[1]).evil",
    "SELECT (SELECT 1).evil",
    "SELECT * FROM evil(1)",
    "SELECT * FROM ROWS FROM (evil(1))",
    "SELECT 1 FROM other, LATERAL evil(id)",
    "SELECT 1 FROM other WHERE evil(id)",
    "SELECT 1 FROM other ORDER BY evil(id)",
    "SELECT 1 FROM other GROUP BY evil(1)",
    "SELECT count(*) FILTER (WHERE evil(id)) FROM other",
    "SELECT 1 LIMIT (SELECT evil(1)::int)",
    "SELECT CASE WHEN evil(1) THEN 1 END",
    "SELECT ARRAY[evil(1)]",
    "SELECT JSON_OBJECT('a' : evil(1))",
    "SELECT * FROM JSON_TABLE('1', '$' PASSING evil(1) AS x COLUMNS (a int PATH '$'))",
    "SELECT u.leak FROM users u",
    "SELECT (u).leak FROM users u",
    "SELECT leak(u) FROM users u",
    "SELECT leak(u.*) FROM users u",
    "SELECT x.leak FROM (SELECT u FROM users u) q, LATERAL (SELECT (q.u).*) x",
    "SELECT 'a' === 1",
    "SELECT 'a' OPERATOR(public.===) 1",
    "SELECT 'a' === ANY (ARRAY[1])",
    "SELECT 1 FROM other WHERE val === id",
    "SELECT 1 FROM other a JOIN other b ON a.val === b.id",
    "SELECT evil_sum(id) FROM other",
    "SELECT evil_sum(id) OVER () FROM other",
    "SELECT o.evil_sum FROM other o",
    "SELECT 1::picky",
    "SELECT CAST(1 AS picky)",
    "SELECT picky '1'",
    "SELECT picky(1)",
    "SELECT '{1}'::picky[]",
    "SELECT * FROM json_to_record('{\"a\": 1}') AS x(a picky)",
    "SELECT * FROM json_to_record('{\"a\": [1]}') AS x(a picky[])",
    "SELECT JSON_VALUE('1', '$' RETURNING picky)",
    "SELECT * FROM JSON_TABLE('1', '$' COLUMNS (a picky PATH '$'))",
    "SELECT '(1,2)'::wrapped",
    "SELECT ROW(1, 2)::wrapped",
    "SELECT json_populate_record(NULL::wrapped, '{\"a\": 1}')",
    "SELECT pg_input_is_valid('1', 'picky')",
    "SELECT pg_input_is_valid('1', 'pic' || 'ky')",
    "INSERT INTO other (id) VALUES (evil(1)::int)",
    "UPDATE other SET val = evil(1) WHERE id = 1",
    "DELETE FROM other WHERE evil(id)",
    "DELETE FROM other WHERE id = 1 RETURNING evil(1)",
    "INSERT INTO other VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET n = 1 WHERE evil(1)",
    "MERGE INTO other o USING users u ON o.id = u.id AND evil(1) WHEN MATCHED THEN DELETE",
    "EXPLAIN SELECT evil(1)",
    "EXPLAIN ANALYZE SELECT evil(1)",
    "PREPARE p AS SELECT evil($1)",
    "DECLARE c CURSOR FOR SELECT evil(1)",
    "COPY (SELECT evil(1)) TO STDOUT",
    "CREATE TABLE t AS SELECT evil(1)",
    "CREATE VIEW t AS SELECT evil(1)",
    "CALL evil(1)",
    "WITH x AS (SELECT evil(1)) SELECT * FROM x",
    "VALUES (evil(1))",
]
BUILTINS = [
    "SELECT pg_sleep(0)",
    "SELECT a.pg_sleep FROM unnest(ARRAY[0::float8]) a",
    "SELECT a.pg_read_file FROM unnest(ARRAY['PG_VERSION'::text]) a",
    "SELECT (a).pg_read_file FROM unnest(ARRAY['PG_VERSION'::text]) a",
    "SELECT a.pg_read_file FROM (SELECT 'PG_VERSION'::text) a",
    "SELECT (a.x).pg_read_file FROM unnest(ARRAY['PG_VERSION'::text]) a(x)",
    "SELECT a.pg_ls_dir FROM ROWS FROM (unnest(ARRAY['.'::text])) a",
    "SELECT (SELECT 'PG_VERSION'::text).pg_read_file",
    "SELECT (ARRAY['PG_VERSION'::text])[1].pg_read_file",
    "WITH a AS (SELECT 'PG_VERSION'::text x) SELECT (a.x).pg_read_file FROM a",
    "SELECT a.pg_read_file FROM json_array_elements_text('[\"PG_VERSION\"]') a",
    "SELECT query_to_xml('SELECT 1', true, true, '')",
    "SELECT table_to_xml('users', true, true, '')",
    "SELECT database_to_xml(true, true, '')",
    "SELECT * FROM ts_stat('SELECT to_tsvector(ssn) FROM users')",
    "SELECT set_config('search_path', 'x', false)",
    "SELECT set_config(new_value => 'x', setting_name => 'search_path', is_local => false)",
    "SELECT lo_import('/etc/hostname')",
    "SELECT nextval('x')",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_notify('a', 'b')",
    "SELECT pg_logical_emit_message(false, 'a', 'b')",
    "SELECT pg_terminate_backend(1)",
    "SELECT dblink('', 'SELECT 1')",
    "SELECT no_such_function(1)",
    "COPY other TO '/tmp/x'",
    "COPY other TO PROGRAM 'cat'",
    "DO $$ BEGIN END $$",
]


@pytest.mark.parametrize("sql", [*CALLS, *BUILTINS])
def test_a_call_is_a_call_in_whatever_clothes(ground: Ground, sql: str) -> None:
    """Refused; and what is answered all the same, because it is no call after all, ran nobody's function."""
    attempt = ground.attempt(sql, writing(ONE_MASK))
    assert attempt.blocked or (attempt.error is not None and not attempt.leaks), attempt.answer


#: Names of types as texts, and whether they mean PostgreSQL's own.
TYPE_NAMES = {
    "integer": True,
    "INT": True,
    "double precision": True,
    "timestamp with time zone": True,
    "numeric(3, 2)": True,
    "character varying(5)": True,
    "int[]": True,
    " date ": True,
    "pg_catalog.int4": True,
    "interval day to second": True,
    "picky": False,
    "public.picky": False,
    "picky[]": False,
    "wrapped": False,
    "users": False,
    "setof int": False,
    "users.id%TYPE": False,
    "int) FROM users WHERE ((true)": False,
    "int), CAST(NULL AS picky": False,
    "int); SELECT (1": False,
    "nothing": False,
    "": False,
    "int) --": True,  # which the function itself cannot read
}


@pytest.mark.parametrize("name", TYPE_NAMES)
def test_a_type_is_read_by_the_name_of_a_built_in_one(ground: Ground, name: str) -> None:
    attempt = ground.attempt(f"SELECT pg_input_is_valid('1', '{name}')", ONE_MASK)
    assert attempt.blocked is not TYPE_NAMES[name]
    if TYPE_NAMES[name] and "--" not in name:
        assert attempt.error is None
    assert not attempt.leaks


#: Calls stored in a definition: attribute notation is a call there too.
STORED = [
    "ALTER TABLE other ADD CHECK (evil(id))",
    "ALTER TABLE other ADD CHECK ((id).evil)",
    "ALTER TABLE other ALTER COLUMN val TYPE text USING (id).evil::text",
    "ALTER TABLE other ALTER COLUMN val TYPE text USING ('PG_VERSION'::text).pg_read_file",
    "ALTER TABLE other ALTER COLUMN n SET DEFAULT (1).evil::int",
    "ALTER TABLE other ADD COLUMN q text DEFAULT ('PG_VERSION'::text).pg_read_file",
    "CREATE TABLE t (a text DEFAULT ('PG_VERSION'::text).pg_read_file)",
    "CREATE TABLE t (a int CHECK ((a).evil))",
    "CREATE TABLE t (a int) PARTITION BY RANGE (((a).evil))",
    "CREATE INDEX ON other (((id).evil))",
    "CREATE POLICY p ON other USING ((id).evil)",
    "CREATE DOMAIN d AS int CHECK ((value).evil)",
    "CREATE SCHEMA z CREATE VIEW v AS SELECT (1).evil",
    "COPY other FROM STDIN WHERE (id).evil",
    "COPY other (id) FROM STDIN WHERE ('PG_VERSION'::text).pg_read_file <> ''",
]


@pytest.mark.parametrize("sql", STORED)
def test_a_definition_stores_no_call(ground: Ground, sql: str) -> None:
    """Under a profile that restricts nothing but functions, and under one with masks."""
    for policy in (PLAIN, ONE_MASK):
        assert evaluate(sql, writing(policy), ground.catalog).rule in (
            "function_not_allowed",
            "forbidden_function",
        )


ROWS_STORED = [
    "ALTER TABLE users ALTER COLUMN note TYPE text USING (users.row_to_json)::text",
    "ALTER TABLE users ALTER COLUMN note TYPE text USING (users.to_json)->>'ssn'",
    "ALTER TABLE users ALTER COLUMN note TYPE text USING users.leak",
    "ALTER TABLE users ADD CHECK (users.leak <> 'x')",
    "ALTER TABLE users ADD CHECK ((users).ssn <> 'x')",
    "CREATE UNIQUE INDEX ON users ((users.leak))",
    "CREATE POLICY p ON other USING (EXISTS (SELECT 1 FROM users u WHERE u::text = val))",
    "CREATE POLICY p ON other USING (EXISTS (SELECT 1 FROM users WHERE ssn = val))",
    "CREATE POLICY p ON other USING (EXISTS (SELECT 1 FROM users u NATURAL JOIN users v))",
]


@pytest.mark.parametrize("sql", ROWS_STORED)
def test_a_definition_stores_no_masked_row(ground: Ground, sql: str) -> None:
    """The row of a masked table, as an attribute's argument or in a sub-select, is the masked columns too."""
    assert evaluate(sql, writing(ONE_MASK), ground.catalog).blocked


SESSION = {
    "BEGIN READ WRITE": "read_only",
    "BEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE": "read_only",
    "BEGIN READ ONLY, READ WRITE": "read_only",
    "START TRANSACTION READ ONLY, READ WRITE": "read_only",
    "SET TRANSACTION READ WRITE": "read_only",
    "SET TRANSACTION READ ONLY, READ WRITE": "read_only",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE": "protected_setting",
    "SET transaction_read_only = off": "protected_setting",
    "SET LOCAL transaction_read_only TO off": "protected_setting",
    "RESET transaction_read_only": "protected_setting",
    "SET default_transaction_read_only = off": "protected_setting",
    'SET "STATEMENT_TIMEOUT" = 0': "protected_setting",
    'SET U&"statement\\005ftimeout" = 0': "protected_setting",
    "SET LOCAL statement_timeout TO DEFAULT": "protected_setting",
    "SET statement_timeout FROM CURRENT": "protected_setting",
    "SET row_security = off": "protected_setting",
    "SET session_replication_role = replica": "protected_setting",
    "SET standard_conforming_strings = off": "protected_setting",
    "SET client_encoding = 'SJIS'": "protected_setting",
    "SET NAMES 'SJIS'": "protected_setting",
    "ALTER ROLE CURRENT_USER SET statement_timeout = 0": "protected_setting",
    "ALTER ROLE ALL SET standard_conforming_strings = off": "protected_setting",
    "ALTER SYSTEM SET row_security = off": "protected_setting",
    "ALTER SYSTEM RESET ALL": "protected_setting",
    "RESET ALL": "protected_setting",
    "DISCARD ALL": "protected_setting",
    "UPDATE pg_settings SET setting = '0' WHERE name = 'statement_timeout'": "protected_setting",
    "UPDATE pg_catalog.pg_settings SET setting = '0' WHERE name = 'work_mem'": "protected_setting",
    "SET search_path = x": "search_path_change",
    "SET LOCAL search_path TO DEFAULT": "search_path_change",
    "SET SCHEMA 'x'": "search_path_change",
    "RESET search_path": "search_path_change",
    "ALTER DATABASE postgres SET search_path = x": "search_path_change",
    "SET ROLE postgres": "role_change",
    "SET LOCAL ROLE NONE": "role_change",
    "RESET ROLE": "role_change",
    "SET SESSION AUTHORIZATION DEFAULT": "role_change",
    "RESET SESSION AUTHORIZATION": "role_change",
    "SET role = postgres": "role_change",
    "PREPARE TRANSACTION 'x'": "statement_not_allowed",
    "BEGIN; SELECT 1; COMMIT": "statement_not_allowed",
}


@pytest.mark.parametrize("sql", SESSION)
def test_the_session_stays_as_the_policy_made_it(ground: Ground, sql: str) -> None:
    """Every form of SET, RESET, ALTER … SET and READ WRITE is refused by its own rule, with a catalog and without."""
    assert evaluate(sql, PLAIN, ground.catalog).rule == SESSION[sql]
    assert evaluate(sql, PLAIN).rule == SESSION[sql]


WHERELESS = [
    "DELETE FROM orders",
    "UPDATE orders SET n = 1",
    "DELETE FROM orders WHERE true",
    "DELETE FROM orders WHERE 1 = 1",
    "DELETE FROM orders WHERE NOT false",
    "DELETE FROM orders WHERE (SELECT true)",
    "DELETE FROM orders WHERE now() > '2000-01-01'",
    "DELETE FROM orders WHERE 1 IN (1, 2)",
    "DELETE FROM orders WHERE $1",
    "DELETE FROM orders WHERE $1 = $2",
    "DELETE FROM orders WHERE current_user IS NOT NULL",
    "DELETE FROM orders WHERE EXISTS (SELECT 1)",
    "DELETE FROM orders WHERE EXISTS (SELECT 1 FROM users)",
    "DELETE FROM orders WHERE EXISTS (SELECT 1 FROM users WHERE users.id > 0)",
    "DELETE FROM orders WHERE EXISTS (SELECT 1 FROM users orders WHERE orders.id > 0)",
    "DELETE FROM orders WHERE EXISTS (SELECT 1 FROM orders o WHERE o.id > 0)",
    "DELETE FROM orders o WHERE EXISTS (SELECT 1 FROM users o WHERE o.id > 0)",
    "DELETE FROM orders WHERE 1 = ANY (SELECT u.id FROM users u)",
    "DELETE FROM orders WHERE (SELECT count(*) FROM orders) > 0",
    "DELETE FROM orders WHERE EXISTS (SELECT 1 FROM generate_series(1, 2) user_id WHERE user_id = 1)",
    "DELETE FROM orders WHERE 1 IN (SELECT id FROM users)",
    "DELETE FROM orders WHERE EXISTS (SELECT 1 FROM users WHERE id > 0)",
    "DELETE FROM orders USING users",
    "UPDATE orders SET n = 1 FROM users",
    "UPDATE orders SET n = 1 WHERE EXISTS (SELECT 1 FROM users AS orders WHERE orders.id = 1)",
    "WITH d AS (DELETE FROM orders RETURNING *) SELECT * FROM d",
    "WITH a AS (WITH d AS (UPDATE orders SET n = 1 RETURNING *) SELECT * FROM d) SELECT * FROM a",
    "EXPLAIN DELETE FROM orders",
    "EXPLAIN ANALYZE UPDATE orders SET n = 1",
    "PREPARE p AS DELETE FROM orders",
    "COPY (DELETE FROM orders RETURNING *) TO STDOUT",
    "MERGE INTO orders USING users ON true WHEN MATCHED THEN DELETE",
    "INSERT INTO other SELECT 1; DELETE FROM orders",
]
BOUNDED = [
    "DELETE FROM orders WHERE id = 1",
    "DELETE FROM orders WHERE id = $1",
    "DELETE FROM orders WHERE orders.id IN (SELECT id FROM users WHERE n = 1)",
    "DELETE FROM orders WHERE EXISTS (SELECT 1 FROM users WHERE users.id = orders.user_id AND users.n = 1)",
    "DELETE FROM orders WHERE EXISTS (SELECT 1 FROM users WHERE users.id = user_id AND users.n = 1)",
    "DELETE FROM orders o USING users u WHERE u.id = o.user_id AND u.n = 1",
    "UPDATE orders o SET n = u.n FROM users u WHERE u.id = o.user_id",
    "UPDATE orders SET n = 1 WHERE (id, n) = (1, 1)",
    "UPDATE orders SET n = 1 WHERE orders IS NOT NULL AND id < 3",
    "WITH d AS (DELETE FROM orders WHERE id = 1 RETURNING *) SELECT * FROM d",
    "MERGE INTO orders t USING users u ON t.user_id = u.id WHEN MATCHED THEN UPDATE SET n = 1",
]


@pytest.mark.parametrize("sql", WHERELESS)
def test_a_condition_without_a_column_of_the_table_is_none(ground: Ground, sql: str) -> None:
    """With a catalog and without one, at any depth, whatever the condition pretends."""
    assert evaluate(sql, writing(PLAIN), ground.catalog).rule == "whereless_write"
    assert evaluate(sql, writing(PLAIN)).rule == "whereless_write"


@pytest.mark.parametrize("sql", BOUNDED)
def test_a_condition_on_a_column_of_the_table_is_one(ground: Ground, sql: str) -> None:
    """The table's own columns count in a correlated sub-select too, with their alias or without."""
    assert evaluate(sql, writing(PLAIN), ground.catalog).verdict == "allow"


DESTRUCTIVE = [
    "DROP TABLE orders",
    "DROP TABLE IF EXISTS nothing",
    "TRUNCATE orders",
    "TRUNCATE ONLY orders, users CASCADE",
    "DROP SCHEMA vault CASCADE",
    "DROP MATERIALIZED VIEW mo",
    "DROP VIEW vu CASCADE",
    "DROP TYPE picky CASCADE",
    "DROP DOMAIN picky",
    "DROP SEQUENCE s",
    "DROP DATABASE d",
    "DROP EXTENSION e",
    "DROP OWNED BY CURRENT_USER",
    "ALTER TABLE orders DROP COLUMN n",
    "ALTER TABLE orders DROP IF EXISTS n, ADD z int",
    "DISCARD TEMP",
]


@pytest.mark.parametrize("sql", DESTRUCTIVE)
def test_nothing_destroys_data(ground: Ground, sql: str) -> None:
    """Under the widest profile there is, and before the access mode is asked."""
    kinds = {"allow": ["select", "insert", "update", "delete", "ddl", "copy", "set", "other"]}
    widest = {**writing(PLAIN), "statement_rules": kinds}
    assert evaluate(sql, widest, ground.catalog).rule == "destructive_ddl"
    assert evaluate(sql, PLAIN).rule == "destructive_ddl"


def test_the_classes_are_complete() -> None:
    """The classes have the size they were written with: one that shrinks by an edit is noticed."""
    sizes = [
        len(set(c)) for c in (CALLS, BUILTINS, STORED, ROWS_STORED, SESSION, WHERELESS, BOUNDED, DESTRUCTIVE)
    ]
    assert sizes == [67, 28, 15, 9, 41, 33, 11, 16]
