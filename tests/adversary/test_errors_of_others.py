"""What the server does of its own after a write, by foreign keys and triggers, quotes rows that the statement does not name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import guarddb
from tests.driver.test_faults import everything
from tests.fix_server import temporary_database

SCHEMA = """
CREATE TABLE orgs (id int PRIMARY KEY, name text);
CREATE TABLE people (
  id int PRIMARY KEY, ssn text, org int NOT NULL REFERENCES orgs ON UPDATE CASCADE ON DELETE SET NULL, CHECK (org < 50));
CREATE TABLE cities (id int PRIMARY KEY, name text);
CREATE TABLE hidden (id int PRIMARY KEY, tenant int, city int REFERENCES cities DEFERRABLE INITIALLY DEFERRED, note text);
CREATE TABLE audit (who text CHECK (who IS NULL));
CREATE TABLE noted (id int PRIMARY KEY, v text);
CREATE TABLE late (id int PRIMARY KEY, v text);
CREATE TABLE stocks (id int PRIMARY KEY, n int CHECK (n >= 0)) PARTITION BY RANGE (id);
CREATE TABLE stocks_1 PARTITION OF stocks FOR VALUES FROM (0) TO (100);
INSERT INTO orgs VALUES (1, 'a'), (2, 'b');
INSERT INTO people VALUES (1, 'RAW-1', 1), (2, 'RAW-2', 2);
INSERT INTO cities VALUES (1, 'a'), (77777, 'b');
INSERT INTO hidden VALUES (1, 1, 1, 'x'), (2, 2, 77777, 'RAW');
INSERT INTO noted VALUES (1, 'x'), (2, 'stop');
INSERT INTO late VALUES (1, 'x');
INSERT INTO stocks VALUES (1, 1);
CREATE FUNCTION tells() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF new.v = 'stop' THEN RAISE EXCEPTION 'not on sundays'; END IF;
  INSERT INTO audit SELECT ssn FROM people WHERE id = new.id; RETURN new;
END $$;
CREATE TRIGGER t AFTER UPDATE ON noted FOR EACH ROW EXECUTE FUNCTION tells();
CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tells();
"""
PROFILE: dict[str, Any] = {
    "name": "others",
    "access_mode": "read_write",
    "statement_rules": {
        "allow": ["select", "insert", "update", "delete", "ddl", "copy", "explain", "transaction", "other"]
    },
    "masking_rules": [{"table": "people", "column": "ssn", "kind": "null"}],
    "row_filters": [{"table": "hidden", "predicate": "tenant = 1"}],
}
QUOTE = (
    "DELETE FROM orgs WHERE id = 1",
    "UPDATE orgs SET id = 77 WHERE id = 1",
    "WITH gone AS (DELETE FROM orgs WHERE id = 2 RETURNING id) SELECT id FROM gone",
    "MERGE INTO orgs o USING (VALUES (1)) AS v (id) ON o.id = v.id WHEN MATCHED THEN DELETE",
    "INSERT INTO orgs VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET id = 60",
    "UPDATE noted SET id = id WHERE id = 1",
    "UPDATE late SET v = v WHERE id = 1",
    "EXPLAIN (ANALYZE) DELETE FROM orgs WHERE id = 1",
    "PREPARE p AS DELETE FROM orgs WHERE id = $1; EXECUTE p (1)",
)
#: What is about the statement's own table, or is said by whoever wrote the trigger.
KEPT = {
    "INSERT INTO orgs VALUES (1, 'mine')": "Key (id)=(1) already exists.",
    "INSERT INTO stocks VALUES (1, 1)": "Key (id)=(1) already exists.",
    "UPDATE stocks SET n = -5 WHERE id = 1": "Failing row contains (1, -5).",
    "UPDATE noted SET v = v WHERE id = 2": "not on sundays",
}


@pytest.fixture(scope="module")
def others(server_dsn: str) -> Iterator[str]:
    with temporary_database(server_dsn, "others") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SCHEMA)
        yield dsn


def sent(conn: guarddb.Connection[Any], *statements: str) -> None:
    """Deferred checks are made at the COMMIT, when a statement that reads was the last."""
    for sql in statements:
        conn.execute(sql.encode())
    conn.execute("SELECT 1")
    conn.commit()


@pytest.mark.parametrize("profile", ["masks and filters", "denied"])
@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("sql", QUOTE)
def test_errors_quote_no_row_of_another_table(
    others: str, sql: str, profile: str, *, autocommit: bool
) -> None:
    policy = PROFILE
    if profile == "denied":
        policy = {**PROFILE, "masking_rules": [], "row_filters": [], "table_denylist": ["people", "hidden"]}
    with guarddb.connect(others, policy=policy, autocommit=autocommit) as conn:
        with pytest.raises(psycopg.Error) as caught:
            sent(conn, *sql.split("; "))
        assert "RAW" not in everything(caught.value)
        assert "RAW" not in conn.info.error_message
        conn.rollback()


def test_errors_in_a_pipeline_quote_none(others: str) -> None:
    with guarddb.connect(others, policy=PROFILE, autocommit=True) as conn:
        with pytest.raises(psycopg.Error) as caught, conn.pipeline():
            sent(conn, "DELETE FROM orgs WHERE id = 1")
        assert "RAW" not in everything(caught.value)
        assert "RAW" not in conn.info.error_message


@pytest.mark.parametrize("sql", KEPT)
def test_what_is_about_the_table_itself_is_said(others: str, sql: str) -> None:
    with guarddb.connect(others, policy=PROFILE, autocommit=True) as conn:
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(sql.encode())
        assert KEPT[sql] in str(caught.value)


def test_which_line_of_a_copy_is_wrong_is_said(others: str) -> None:
    with guarddb.connect(others, policy=PROFILE, autocommit=True) as conn:
        with pytest.raises(psycopg.Error) as caught, conn.cursor().copy("COPY orgs FROM STDIN") as copy:
            copy.write("mine\tx\n")
        assert 'line 1, column id: "mine"' in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE orgs ALTER id TYPE bigint USING CASE id WHEN 2 THEN 99 ELSE id END",
        "ALTER TABLE cities ALTER id TYPE bigint USING id + 1",
    ],
)
def test_no_key_gets_another_value_by_its_type(others: str, sql: str) -> None:
    """The server then looks for the key of each row that refers to it, and says of which it is not there."""
    profile = {**PROFILE, "masking_rules": [{"table": "people", "column": "org", "kind": "redact"}]}
    with guarddb.connect(others, policy=profile) as conn:
        with pytest.raises(guarddb.PolicyViolation):
            conn.execute(sql.encode())
        conn.execute("ALTER TABLE orgs ALTER name TYPE varchar")
        conn.rollback()
