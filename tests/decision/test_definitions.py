"""CREATE TABLE of a table that rules are about, and of temporary ones."""

from __future__ import annotations

from typing import Any

import pytest

import guarddb

OWNER: dict[str, Any] = {
    "name": "owner",
    "access_mode": "read_write",
    "table_allowlist": ["people", "pg_temp.*"],
    "masking_rules": [{"table": "people", "column": "email", "kind": "redact"}],
    "row_filters": [{"table": "people", "predicate": "id > 0"}],
}


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE people (id int PRIMARY KEY, email text NOT NULL)",
        "CREATE TABLE IF NOT EXISTS people (id int, email text UNIQUE, CONSTRAINT pair UNIQUE (id, email))",
        "CREATE TABLE public.people (id int GENERATED ALWAYS AS IDENTITY, email varchar(20) DEFAULT 'x')",
    ],
)
def test_a_table_may_be_made_with_the_columns_that_are_masked(sql: str) -> None:
    assert guarddb.evaluate(sql, OWNER).rule == "ok"


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        (
            "CREATE TABLE people (id int, email text, copy text GENERATED ALWAYS AS (email) STORED)",
            "masked_column_rename",
        ),
        ("CREATE TABLE people (id int, email text, CHECK (email::int > 0))", "masked_column_rename"),
        ("CREATE TABLE pg_temp.mine (LIKE people INCLUDING ALL, email text)", "masked_column_rename"),
        ("CREATE TABLE pg_temp.mine (email text) INHERITS (people)", "masked_column_rename"),
        ("CREATE INDEX ON people (email)", "masked_column_rename"),
        ("ALTER TABLE people RENAME email TO open", "masked_column_rename"),
        ("CREATE TABLE other (id int)", "table_not_allowed"),
    ],
)
def test_what_would_show_them_by_another_way_is_refused(sql: str, rule: str) -> None:
    assert guarddb.evaluate(sql, OWNER).rule == rule


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TEMP TABLE mine (id int)",
        "CREATE TEMPORARY TABLE mine AS SELECT 1 AS id",
        "SELECT 1 AS id INTO TEMP mine",
        "CREATE TEMP VIEW mine AS SELECT 1 AS id",
        "CREATE TABLE pg_temp.mine (id int)",
    ],
)
def test_temporary_relations_are_in_their_own_schema(dsn: str, sql: str) -> None:
    assert guarddb.evaluate(sql, OWNER).rule == "ok"
    narrow = guarddb.evaluate(sql, {**OWNER, "table_allowlist": ["people"]})
    assert narrow.rule == "table_not_allowed"
    assert "pg_temp.mine" in narrow.reason
    with guarddb.connect(dsn, policy=OWNER) as conn:
        conn.execute(sql)
        conn.execute("SELECT * FROM mine")
        conn.execute("SELECT * FROM pg_temp.mine")
        conn.rollback()
