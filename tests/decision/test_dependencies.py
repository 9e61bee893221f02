"""What `guarddb check` tells of a profile when it sees the database: what filters stand on, keys that write, keys that repeat."""

from __future__ import annotations

import psycopg

import guarddb
from guarddb.decision.dependencies import dependencies

TABLES = """
CREATE TYPE mood AS ENUM ('open');
CREATE TABLE people (id int PRIMARY KEY, email text UNIQUE);
CREATE TABLE letters (id int PRIMARY KEY, recipient text REFERENCES people (email), sender text REFERENCES people (email));
CREATE TABLE tenants (id int PRIMARY KEY);
CREATE TABLE members (tenant int REFERENCES tenants ON DELETE CASCADE, who text);
CREATE FUNCTION mine(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT 1 FROM members WHERE tenant = $1)';
CREATE TABLE deals (id int PRIMARY KEY, tenant int REFERENCES tenants ON UPDATE CASCADE, mood mood, at timestamptz);
CREATE TABLE free (id int PRIMARY KEY, tenant int REFERENCES tenants ON UPDATE CASCADE);
"""


def test_what_the_database_ties_together_is_told(fresh_dsn: str) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute(TABLES)
        catalog = guarddb.Catalog.from_connection(conn)
    profile = guarddb.PolicyProfile(
        name="p",
        masking_rules=[
            {"table": "people", "column": "email", "kind": "redact"},
            {"table": "letters", "column": "sender", "kind": "redact"},
        ],
        row_filters=[{"table": "deals", "predicate": "mine(tenant) AND mood = 'open' AND at < now()"}],
    )
    findings = dependencies(profile, catalog)
    told = {level: [f.message for f in findings if f.level == level] for level in ("warning", "advice")}
    assert len(told["warning"]) == 3
    copies, *actions = told["warning"]
    assert '"public.letters.recipient" repeats the masked "public.people.email"' in copies
    assert any(
        '"public.deals" has a row filter' in message and "ON UPDATE CASCADE" in message for message in actions
    )
    assert any(
        '"public.members" is read by' in message and "ON DELETE CASCADE" in message for message in actions
    )
    (standing, settings) = told["advice"]
    assert "tables public.members; functions mine; types mood" in standing
    assert "timezone" in settings
    assert not any("free" in finding.message for finding in findings)


def test_indexes_that_order_by_a_masked_column_are_told(fresh_dsn: str) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute(
            "CREATE TABLE users (id int PRIMARY KEY, tenant int, email text, ssn text, name text, UNIQUE (tenant, email));"
            "CREATE INDEX by_email ON users (email); CREATE INDEX by_ssn ON users (ssn);"
            "CREATE INDEX by_name ON users (name, id); CREATE INDEX by_both ON users (ssn, name);"
            "CREATE INDEX digest ON users (tenant, sha256(email::bytea));"
        )
        catalog = guarddb.Catalog.from_connection(conn)
    masks = [
        {"table": "users", "column": "email", "kind": "hash"},
        {"table": "users", "column": "ssn", "kind": "redact"},
    ]
    told = dependencies(guarddb.PolicyProfile(name="p", masking_rules=masks), catalog)
    assert {finding.message.split('"')[1] for finding in told if finding.level == "warning"} == {
        "users_tenant_email_key",
        "by_email",
        "by_both",
    }


def test_a_profile_without_rules_has_none(fresh_dsn: str) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute(TABLES)
        catalog = guarddb.Catalog.from_connection(conn)
    assert dependencies(guarddb.PolicyProfile(name="p"), catalog) == []
