"""A mask or filter that matches nothing in the database speaks up, and closes the tables unless the profile says otherwise."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest

import guarddb

SCHEMA = """
    CREATE SCHEMA app;
    CREATE TABLE app.customers (id int PRIMARY KEY, email text, org int);
    INSERT INTO app.customers VALUES (1, 'ada@example.org', 1);
"""


@pytest.fixture
def shop_in_a_schema(fresh_dsn: str) -> str:
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute(SCHEMA)
    return fresh_dsn


def masks(table: str, column: str, **extension: Any) -> dict[str, Any]:
    return {
        "name": f"masks {table}.{column} {extension}",
        "masking_rules": [{"table": table, "column": column, "kind": "redact"}],
        "guarddb": extension,
    }


@pytest.mark.parametrize(
    ("profile", "told"),
    [
        (masks("customers", "email"), "nearest is app.customers"),
        (masks("app.customer", "email"), "nearest is app.customers"),
        (masks("app.customers", "emial"), 'nearest is "email"'),
        (masks("nothing_like_it", "email"), "names no relation"),
        (
            {"name": "filter", "row_filters": [{"table": "customers", "predicate": "org = 1"}]},
            "app.customers",
        ),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_tables_are_closed_until_it_is_corrected(
    shop_in_a_schema: str, profile: dict[str, Any], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), guarddb.connect(shop_in_a_schema, policy=profile) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(guarddb.PolicyUnavailable) as refused:
            conn.execute("SELECT email FROM app.customers")
        assert refused.value.rule == "policy_unavailable"
        assert told in str(refused.value)
        assert conn.execute("SELECT count(*) FROM pg_catalog.pg_class").fetchone() is not None
    assert any(r.name == "guarddb.policy" and told in r.getMessage() for r in caplog.records)
    assert any(r.name == "guarddb.decision" and r.levelno == logging.WARNING for r in caplog.records)
    assert "ada@" not in caplog.text


def test_a_profile_may_be_content_with_a_warning(
    shop_in_a_schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    profile = masks("customers", "email", on_unknown="warn")
    with caplog.at_level(logging.WARNING), guarddb.connect(shop_in_a_schema, policy=profile) as conn:
        assert conn.execute("SELECT email FROM app.customers").fetchone() == ("ada@example.org",)
    assert any("protects nothing" in r.getMessage() for r in caplog.records)


def test_lists_only_warn(shop_in_a_schema: str, caplog: pytest.LogCaptureFixture) -> None:
    profile = {"name": "lists", "table_allowlist": ["app.*", "customers"], "table_denylist": ["secrets"]}
    with caplog.at_level(logging.WARNING), guarddb.connect(shop_in_a_schema, policy=profile) as conn:
        assert conn.execute("SELECT id FROM app.customers").fetchone() == (1,)
    told = [r.getMessage() for r in caplog.records if r.name == "guarddb.policy"]
    assert any("table_allowlist[1]" in line for line in told)
    assert any("table_denylist[0]" in line for line in told)


@pytest.mark.parametrize(
    ("sql", "hint"),
    [
        ("SELECT * FROM app.customer", "Did you mean app.customers?"),
        ("SELECT emial FROM app.customers", "Did you mean email?"),
        ("SELECT year(now())", "extract(year FROM x)"),
        ("SHOW TABLES", "information_schema.tables"),
    ],
)
def test_errors_of_the_server_say_what_may_have_been_meant(
    shop_in_a_schema: str, sql: str, hint: str
) -> None:
    with guarddb.connect(shop_in_a_schema, policy={"name": "open"}) as conn:
        with pytest.raises(psycopg.Error) as error:
            conn.execute(sql)
        assert not isinstance(error.value, guarddb.PolicyViolation)
        assert hint in str(error.value)
        assert hint in (error.value.diag.message_hint or "")
