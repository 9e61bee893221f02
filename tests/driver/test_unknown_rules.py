"""A mask or filter that matches nothing in the database speaks up, and closes the tables unless the profile says otherwise."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import guarddb
from guarddb.cli import main

SCHEMA = """
    CREATE SCHEMA app;
    CREATE TABLE app.customers (id int PRIMARY KEY, email text, org int);
    CREATE TABLE app.orgs (id int PRIMARY KEY, label text);
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


UNREADABLE = [
    ("org = 'one'", "invalid input syntax"),
    ("email = 1", "operator does not exist"),
    ("ogr = 1", 'column "ogr" does not exist'),
    ("my_function(org)", "function my_function"),
    ("org = any ('{1,x}'::int[])", "invalid input syntax"),
    ("org::nothing = 1", 'type "nothing" does not exist'),
    ("org IN (SELECT o.id FROM public.orgs AS o)", 'relation "public.orgs" does not exist'),
    ("org = current_setting('app.org')", "operator does not exist"),
]


def filtered(predicate: str, **extension: Any) -> dict[str, Any]:
    return {
        "name": f"filtered by {predicate} {extension}",
        "row_filters": [
            {"table": "app.customers", "predicate": "true"},
            {"table": "app.customers", "predicate": predicate},
        ],
        "guarddb": {"settings": {"app.org": "1"}, **extension},
    }


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize(("predicate", "told"), UNREADABLE)
def test_a_filter_that_postgresql_cannot_read_is_told_to_the_operator_and_closes_the_tables(
    shop_in_a_schema: str, predicate: str, told: str, autocommit: bool, caplog: pytest.LogCaptureFixture
) -> None:
    profile = filtered(predicate)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with guarddb.connect(shop_in_a_schema, policy=profile, autocommit=autocommit) as conn:
                assert conn.execute("SELECT 1").fetchone() == (1,)
                with pytest.raises(guarddb.PolicyUnavailable) as refused:
                    conn.execute("SELECT email FROM app.customers")
                assert "row_filters[1].predicate" in str(refused.value)
                assert told not in str(refused.value)
                assert conn.execute("SELECT 2").fetchone() == (2,)
    lines = [r.getMessage() for r in caplog.records if r.name == "guarddb.policy"]
    assert len(lines) == 1  # once, and not for every connection or statement
    assert told in lines[0]
    assert "row_filters[1].predicate" in lines[0]


def test_with_a_warning_only_the_tables_stay_open(
    shop_in_a_schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    profile = filtered("ogr = 1", on_unknown="warn")
    with caplog.at_level(logging.WARNING), guarddb.connect(shop_in_a_schema, policy=profile) as conn:
        conn.execute("SELECT 1")
        with pytest.raises(psycopg.Error) as failed:
            conn.execute("SELECT email FROM app.customers")
        assert not isinstance(failed.value, guarddb.PolicyUnavailable)
    assert any("every statement on the table will fail" in r.getMessage() for r in caplog.records)


def test_a_filter_that_is_mended_by_the_schema_opens_the_table(shop_in_a_schema: str) -> None:
    profile = filtered("public.may_see(org)", function_allowlist=["public.may_see"])
    with (
        guarddb.connect(shop_in_a_schema, policy=profile, autocommit=True) as conn,
        psycopg.connect(shop_in_a_schema, autocommit=True) as owner,
    ):
        with pytest.raises(guarddb.PolicyUnavailable):
            conn.execute("SELECT email FROM app.customers")
        owner.execute(
            "CREATE FUNCTION public.may_see(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT $1 = 1'"
        )
        conn._guard.freshness.check_at = 0.0
        assert conn.execute("SELECT email FROM app.customers").fetchone() == ("ada@example.org",)


def test_nothing_is_run_and_nobody_is_waited_for(shop_in_a_schema: str) -> None:
    """A filter whose every evaluation raises can be read; a table that somebody has locked is not waited for."""
    profile = filtered("1 / (org - org) = 1")
    with guarddb.connect(shop_in_a_schema, policy=masks("app.customers", "email")) as conn:
        conn.execute("SELECT 1")  # (the catalog is known in the process then)
    with psycopg.connect(shop_in_a_schema) as owner:
        owner.execute("LOCK TABLE app.customers IN ACCESS EXCLUSIVE MODE")
        with guarddb.connect(shop_in_a_schema, policy=profile, autocommit=True) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
            owner.rollback()
            with pytest.raises(psycopg.errors.DivisionByZero):
                conn.execute("SELECT email FROM app.customers")


def test_a_role_without_rights_on_the_schema_is_no_fault_of_the_filter(
    shop_in_a_schema: str, shop: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        guarddb.connect(make_conninfo(shop_in_a_schema, user="agent"), policy=filtered("org = 1")) as conn,
        pytest.raises(psycopg.errors.InsufficientPrivilege) as refused,
    ):
        conn.execute("SELECT email FROM app.customers")
    assert not isinstance(refused.value, guarddb.PolicyViolation)
    assert not [r for r in caplog.records if r.name == "guarddb.policy"]


def test_the_command_finds_it_as_well(
    shop_in_a_schema: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(filtered("email = 1")))
    assert main(["check", str(path), "--dsn", shop_in_a_schema, "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    (found,) = [each for each in findings if each["path"] == "row_filters[1].predicate"]
    assert found["level"] == "error"
    assert "operator does not exist" in found["message"]


def test_lists_only_warn(shop_in_a_schema: str, caplog: pytest.LogCaptureFixture) -> None:
    profile = {
        "name": "lists",
        "table_allowlist": ["app.*", "customers"],
        "table_denylist": ["secrets"],
        "masking_rules": [{"table": "app.customers", "column": "email", "kind": "hash"}],
        "guarddb": {
            "mask_uses": [{"table": "app.customers", "column": "mail", "allow": ["join"]}],
            "may_change": ["app.orders"],
            "function_allowlist": ["app.taxed", "pg_catalog.nextval", "*"],
        },
    }
    with caplog.at_level(logging.WARNING), guarddb.connect(shop_in_a_schema, policy=profile) as conn:
        assert conn.execute("SELECT id FROM app.customers").fetchone() == (1,)
    told = [r.getMessage() for r in caplog.records if r.name == "guarddb.policy"]
    assert any("table_allowlist[1]" in line for line in told)
    assert any("table_denylist[0]" in line for line in told)
    assert any('guarddb.mask_uses[0].column: "app.customers" has no column "mail"' in line for line in told)
    assert any("guarddb.may_change[0]: app.orders names no relation" in line for line in told)
    assert [line for line in told if "function_allowlist" in line] == [
        "policy lists: guarddb.function_allowlist[0]: app.taxed names no function of this database"
    ]


@pytest.mark.parametrize(
    ("sql", "hint"),
    [
        ("SELECT * FROM app.customer", "Did you mean app.customers?"),
        ("SELECT emial FROM app.customers", "Did you mean email?"),
        ("SELECT q.zzz FROM (SELECT id FROM app.customers) AS q", "column q.zzz does not exist"),
        (
            "SELECT count(*) FROM app.customers JOIN app.orgs USING (label)",
            'column "label" specified in USING',
        ),
        ("SELECT year(now())", "extract(year FROM x)"),
        ("SHOW TABLES", "information_schema.tables"),
    ],
)
def test_errors_of_the_server_say_what_may_have_been_meant(
    shop_in_a_schema: str, sql: str, hint: str
) -> None:
    for policy in ({"name": "open"}, masks("app.customers", "email")):
        with guarddb.connect(shop_in_a_schema, policy=policy) as conn:
            with pytest.raises(psycopg.Error) as error:
                conn.execute(sql)
            assert not isinstance(error.value, guarddb.PolicyViolation)
            assert hint in str(error.value)
            assert hint.startswith("column ") or hint in (error.value.diag.message_hint or "")


@pytest.mark.parametrize(
    ("sql", "hint"),
    [
        ("SELECT c.zzz FROM app.customers AS c", "Columns of app.customers: id, email."),
        (
            "SELECT c.zzz FROM app.customers AS c JOIN app.orgs AS o ON o.id = c.org",
            "Columns of app.customers: id, email.",
        ),
        ("SELECT o.zzz FROM app.customers AS c JOIN app.orgs AS o ON o.id = c.org", None),
    ],
)
def test_the_columns_of_a_governed_table_are_named_but_for_what_its_filter_asks(
    shop_in_a_schema: str, sql: str, hint: str | None
) -> None:
    """Of the table that was meant, and of no other. What PostgreSQL says of a table without a rule stays as it is."""
    policy = {"name": "filtered", "row_filters": [{"table": "app.customers", "predicate": "org = 1"}]}
    with guarddb.connect(shop_in_a_schema, policy=policy) as conn, pytest.raises(psycopg.Error) as error:
        conn.execute(sql.encode())
    assert error.value.diag.message_hint == hint


def test_a_refusal_names_the_columns_that_an_error_would_name(fresh_dsn: str) -> None:
    """Nothing near, and more columns than a line holds: one list, without what the filter asks."""
    columns = ", ".join(f"c{i} int" for i in range(30))
    with psycopg.connect(fresh_dsn, autocommit=True) as plain:
        plain.execute(f'CREATE TABLE wide (tenant int, "order" int, {columns})'.encode())
    policy = {
        "name": "wide",
        "access_mode": "read_write",
        "row_filters": [{"table": "wide", "predicate": "tenant = 1"}],
    }
    with guarddb.connect(fresh_dsn, policy=policy, autocommit=True) as conn:
        with pytest.raises(psycopg.errors.UndefinedColumn) as error:
            conn.execute("SELECT zzz FROM wide")
        with pytest.raises(guarddb.PolicyViolation) as refused:
            conn.execute("DELETE FROM wide WHERE zzz = 1")
    listed = error.value.diag.message_hint
    assert listed is not None
    assert listed.startswith('Columns of public.wide: "order", c0, ')
    assert listed.endswith(", c18, ….")
    assert refused.value.hint == f'"zzz" is no column of "public.wide". {listed}'


def test_a_condition_on_no_column_says_which_is_meant(shop_in_a_schema: str) -> None:
    writer = {"name": "writer", "access_mode": "read_write"}
    with guarddb.connect(shop_in_a_schema, policy=writer) as conn:
        with pytest.raises(guarddb.PolicyViolation) as refused:
            conn.execute("DELETE FROM app.customers WHERE emial = 'x'")
        assert refused.value.rule == "whereless_write"
        assert '"emial" is no column of "app.customers". Did you mean email?' in (refused.value.hint or "")
