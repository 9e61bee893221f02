"""Statements as events: which actions, which fields, whose class; against the catalog of a real database."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from guarddb.risk.columns import Classifier, by_name
from guarddb.risk.statements import Touched
from guarddb.sql.catalog import Catalog
from tests.fix_server import temporary_database

SCHEMA = """
CREATE TABLE users (id int PRIMARY KEY, name text, ssn text, email text, note text, password_hash text,
  born date, last_ip inet, shout text GENERATED ALWAYS AS (upper(email)) STORED);
CREATE TABLE orders (id int PRIMARY KEY, user_id int, total numeric);
CREATE TABLE events (id int, email text) PARTITION BY RANGE (id);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (1) TO (100);
CREATE VIEW people AS SELECT id, ssn AS number, name || ' <' || email || '>' AS label FROM users;
CREATE VIEW labels AS SELECT label FROM people;
CREATE MATERIALIZED VIEW numbers AS SELECT number FROM people;
CREATE FUNCTION plus_one(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';
CREATE SEQUENCE counter;
COMMENT ON COLUMN users.note IS 'What the doctor wrote. Classification: PHI';
COMMENT ON COLUMN orders.total IS 'classification: financial';
"""


@pytest.fixture(scope="module")
def catalog(server_dsn: str) -> Catalog:
    with (
        temporary_database(server_dsn, "touched") as dsn,
        psycopg.connect(dsn, autocommit=True) as conn,
    ):
        conn.execute(SCHEMA)
        return Catalog.from_connection(conn)


@pytest.fixture
def touched(catalog: Catalog) -> Touched:
    return Touched(catalog, Classifier())


def actions(touched: Touched, sql: str) -> dict[tuple[str, str | None], dict[str, str | None]]:
    return {(a.action, a.resource_id): dict(a.fields) for a in touched.actions_of_text(sql)}


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT name FROM users", {"database:table:select public.users"}),
        ("SELECT 1", {"database:session:select None"}),
        (
            "SELECT * FROM users JOIN orders ON true",
            {"database:table:select public.users", "database:table:select public.orders"},
        ),
        ("INSERT INTO orders VALUES (1, 2, 3)", {"database:table:insert public.orders"}),
        (
            "INSERT INTO orders SELECT id, id, 0 FROM users",
            {"database:table:insert public.orders", "database:table:select public.users"},
        ),
        (
            "INSERT INTO orders VALUES (1, 2, 3) ON CONFLICT (id) DO UPDATE SET total = 0",
            {"database:table:insert public.orders", "database:table:update public.orders"},
        ),
        (
            "INSERT INTO orders VALUES (1, 2, 3) ON CONFLICT DO NOTHING",
            {"database:table:insert public.orders"},
        ),
        ("UPDATE users SET name = 'x' WHERE id = 1", {"database:table:update public.users"}),
        ("DELETE FROM users WHERE id = 1", {"database:table:delete public.users"}),
        (
            "MERGE INTO orders o USING users u ON o.id = u.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (1)",
            {
                "database:table:delete public.orders",
                "database:table:insert public.orders",
                "database:table:select public.users",
            },
        ),
        (
            "WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone",
            {"database:table:delete public.orders"},
        ),
        (
            "SELECT label FROM labels",
            {
                "database:view:select public.labels",
                "database:view:select public.people",
                "database:table:select public.users",
            },
        ),
        ("SELECT number FROM numbers", {"database:view:select public.numbers"}),
        ("EXPLAIN SELECT * FROM users", {"database:table:explain public.users"}),
        ("EXPLAIN DELETE FROM users", {"database:table:explain public.users"}),
        ("EXPLAIN ANALYZE DELETE FROM users", {"database:table:delete public.users"}),
        (
            "DROP TABLE users, orders",
            {"database:table:drop public.users", "database:table:drop public.orders"},
        ),
        ("DROP VIEW labels", {"database:view:drop public.labels"}),
        ("DROP MATERIALIZED VIEW numbers", {"database:view:drop public.numbers"}),
        ("DROP FUNCTION plus_one(int)", {"database:function:drop plus_one"}),
        ("DROP SCHEMA shop CASCADE", {"database:schema:drop shop"}),
        ("CREATE SCHEMA shop", {"database:schema:create shop"}),
        ("ALTER SCHEMA public RENAME TO p", {"database:schema:alter None"}),
        ("TRUNCATE users", {"database:table:truncate public.users"}),
        ("ALTER TABLE users ADD x int", {"database:table:alter public.users"}),
        ("ALTER TABLE users RENAME TO u", {"database:table:alter public.users"}),
        ("CREATE TABLE new (id int)", {"database:table:create public.new"}),
        (
            "CREATE TABLE copied AS SELECT * FROM users",
            {"database:table:create public.copied", "database:table:select public.users"},
        ),
        ("CREATE VIEW v AS SELECT 1", {"database:view:create public.v"}),
        ("CREATE ROLE r", {"database:role:create r"}),
        ("DROP ROLE r", {"database:role:drop r"}),
        ("ALTER ROLE r SUPERUSER", {"database:role:alter r"}),
        ("GRANT SELECT ON users TO r", {"database:table:grant public.users"}),
        ("REVOKE SELECT ON users FROM r", {"database:table:revoke public.users"}),
        ("GRANT a TO b", {"database:role:grant a", "database:role:grant b"}),
        ("SET search_path = x", {"database:session:set search_path"}),
        ("RESET ALL", {"database:session:set None"}),
        ("SHOW work_mem", {"database:session:show None"}),
        ("BEGIN", {"database:transaction:begin None"}),
        ("COMMIT", {"database:transaction:commit None"}),
        ("COPY users TO STDOUT", {"database:table:copy public.users"}),
        ("COPY users FROM STDIN", {"database:table:copy public.users"}),
        (
            "COPY (SELECT * FROM users) TO STDOUT",
            {"database:table:copy public.users", "database:table:select public.users"},
        ),
        ("SELECT plus_one(1)", {"database:function:execute public.plus_one"}),
        ("SELECT lower(name) FROM users", {"database:table:select public.users"}),
        ("CALL refill()", {"database:function:execute refill"}),
        ("SELECT * FROM nowhere", {"database:table:select public.nowhere"}),
        ("PREPARE p AS SELECT * FROM orders", {"database:table:select public.orders"}),
        ("DECLARE c CURSOR FOR SELECT * FROM orders", {"database:table:select public.orders"}),
        ("SELECT 1; DROP TABLE users", {"database:session:select None", "database:table:drop public.users"}),
        ("LOCK TABLE users", {"database:table:lock public.users"}),
    ],
)
def test_the_actions_of_a_statement(touched: Touched, sql: str, expected: set[str]) -> None:
    assert {f"{action} {resource}" for action, resource in actions(touched, sql)} == expected


USERS = ("database:table:select", "public.users")


@pytest.mark.parametrize(
    ("sql", "fields"),
    [
        ("SELECT ssn AS x FROM users", {"ssn": "pii_sensitive"}),
        ("SELECT md5(left(ssn, 3)) FROM users", {"ssn": "pii_sensitive"}),
        ("SELECT count(ssn) FROM users", {"ssn": "pii_sensitive"}),
        ("SELECT count(*) FROM users", {}),
        ("SELECT id FROM users WHERE ssn = '1'", {"id": None, "ssn": "pii_sensitive"}),
        ("SELECT id FROM users ORDER BY email", {"id": None, "email": "pii"}),
        ("SELECT id FROM users GROUP BY id HAVING max(email) > ''", {"id": None, "email": "pii"}),
        ("SELECT x FROM (SELECT y AS x FROM (SELECT ssn AS y FROM users) a) b", {"ssn": "pii_sensitive"}),
        ("WITH c AS (SELECT email AS e FROM users) SELECT e FROM c", {"email": "pii"}),
        ("SELECT u.x FROM users AS u (x)", {"id": None}),
        ("SELECT (SELECT max(ssn) FROM users)", {"ssn": "pii_sensitive"}),
        ("SELECT id FROM users UNION SELECT length(ssn) FROM users", {"id": None}),
        ("SELECT shout FROM users", {"shout": None, "email": "pii"}),
        ("SELECT note FROM users", {"note": "health"}),
        ("SELECT password_hash FROM users", {"password_hash": "auth"}),
        ("SELECT born, last_ip FROM users", {"born": None, "last_ip": "pii"}),
        ("SELECT 'x' || label FROM people", {"name": None, "email": "pii"}),
        ("SELECT number FROM people", {"ssn": "pii_sensitive"}),
        ("SELECT id FROM people", {"id": None}),
        ("SELECT label FROM labels", {"name": None, "email": "pii"}),
    ],
)
def test_a_field_is_where_the_value_comes_from(
    touched: Touched, sql: str, fields: dict[str, str | None]
) -> None:
    found = {
        name.removeprefix("public.users."): label for name, label in actions(touched, sql)[USERS].items()
    }
    assert fields.items() <= found.items()
    assert set(found) - set(fields) <= ({"ssn"} if "UNION" in sql else set())


def test_a_star_is_every_column(touched: Touched) -> None:
    for sql in (
        "SELECT * FROM users",
        "SELECT users FROM users",
        "SELECT to_jsonb(u) FROM users u",
        "TABLE users",
    ):
        found = actions(touched, sql)[USERS]
        assert found["public.users.ssn"] == "pii_sensitive"
        assert found["public.users.password_hash"] == "auth"


def test_what_a_statement_writes_and_returns_it_accesses(touched: Touched) -> None:
    update = actions(touched, "UPDATE users SET email = 'x' WHERE id = 1 RETURNING ssn AS s")
    assert set(update["database:table:update", "public.users"]) == {
        "public.users.email",
        "public.users.id",
        "public.users.ssn",
    }
    insert = actions(touched, "INSERT INTO users (id, ssn) VALUES (1, '2')")
    assert set(insert["database:table:insert", "public.users"]) == {"public.users.id", "public.users.ssn"}
    copy = actions(touched, "COPY users (ssn) TO STDOUT")
    assert set(copy["database:table:copy", "public.users"]) == {"public.users.ssn"}
    copy = actions(touched, "COPY users TO STDOUT")
    assert "public.users.password_hash" in copy["database:table:copy", "public.users"]


def test_a_partition_is_its_parent_as_well(touched: Touched) -> None:
    found = actions(touched, "SELECT email FROM events_1")["database:table:select", "public.events_1"]
    assert found == {"public.events_1.email": "pii", "public.events.email": "pii"}


def test_a_materialised_view_hands_out_the_fields_it_was_made_of(touched: Touched) -> None:
    found = actions(touched, "SELECT number FROM numbers")["database:view:select", "public.numbers"]
    assert found["public.users.ssn"] == "pii_sensitive"


def test_a_join_is_judged_by_the_fields_of_both(touched: Touched) -> None:
    found = actions(touched, "SELECT ssn, total FROM users, orders")
    assert found[USERS] == found["database:table:select", "public.orders"]
    assert set(found[USERS].values()) == {"pii_sensitive", "financial"}


def test_the_rows_of_values(touched: Touched) -> None:
    (insert,) = touched.actions_of_text("INSERT INTO orders VALUES (1,1,1), (2,2,2), (3,3,3)")
    assert insert.rows == 3
    (insert, _) = touched.actions_of_text("INSERT INTO orders SELECT id, id, 0 FROM users")
    assert insert.rows is None


def test_without_a_catalog_names_are_taken_as_written() -> None:
    (action,) = Touched(None, None).actions_of_text("SELECT ssn FROM users")
    assert (action.action, action.resource_id) == ("database:table:select", "public.users")
    assert dict(action.fields) == {"public.users.ssn": None}


def test_columns_have_no_class_when_nobody_wants_one(fresh_dsn: str) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute(SCHEMA)
        catalog = Catalog.from_connection(conn)
    found = actions(Touched(catalog, None), "SELECT ssn, note FROM users")[USERS]
    assert set(found.values()) == {None}
    own = Classifier({"Users.NAME": "PHI", "ssn": "public", "note": "public"})
    found = actions(Touched(catalog, own), "SELECT name, ssn, note, email FROM users")[USERS]
    assert [found[f"public.users.{c}"] for c in ("name", "ssn", "note", "email")] == [
        "health",
        "public",
        "health",
        "pii",
    ]


def test_a_comment_that_changes_is_seen(fresh_dsn: str) -> None:
    """The fingerprint covers comments: a connection that lives on judges by the new label."""
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute(SCHEMA)
        before = Catalog.from_connection(conn)
        conn.execute("COMMENT ON COLUMN orders.total IS 'classification: public'")
        after = Catalog.from_connection(conn)
        conn.execute("COMMENT ON COLUMN orders.total IS NULL")
        without = Catalog.from_connection(conn)
    assert len({before.version, after.version, without.version}) == 3

    def label(catalog: Catalog) -> Any:
        return actions(Touched(catalog, Classifier()), "SELECT total FROM orders")[
            "database:table:select", "public.orders"
        ]["public.orders.total"]

    assert (label(before), label(after), label(without)) == ("financial", "public", None)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("ssn", "pii_sensitive"),
        ("SSN", "pii_sensitive"),
        ("customer_ssn", "pii_sensitive"),
        ("social_security_number", "pii_sensitive"),
        ("national_id", "pii_sensitive"),
        ("passportNumber", "pii_sensitive"),
        ("email", "pii"),
        ("customerEmail", "pii"),
        ("EMAIL_ADDRESS", "pii"),
        ("phone_1", "pii"),
        ("date_of_birth", "pii"),
        ("password", "auth"),
        ("password_hash", "auth"),
        ("api_key", "auth"),
        ("refreshToken", "auth"),
        ("credit_card_number", "financial"),
        ("iban", "financial"),
        ("salary", "financial"),
        ("diagnosis", "health"),
        ("blood_type", "health"),
        ("id", None),
        ("name", None),
        ("email_verified", None),
        ("email_count", None),
        ("password_changed_at", None),
        ("address_id", None),
        ("tokens", None),
        ("token_count", None),
        ("page", None),
        ("storage", None),
        ("zipper", None),
        ("trace", None),
        ("shipping", None),
        ("", None),
    ],
)
def test_what_a_name_speaks_of(name: str, label: str | None) -> None:
    assert by_name(name) == label
