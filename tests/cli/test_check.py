"""`guarddb check`: each remark of the lint, with a profile that earns it and one that does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from guarddb import Catalog, PolicyProfile, load_policy
from guarddb.lint.profile import Finding, lint
from guarddb.sql.catalog import Attribute, Constraint, Relation
from tests.cli.conftest import Run


def relation(oid: int, schema: str, name: str, *columns: str, **more: Any) -> Relation:
    attributes = tuple(
        Attribute(column, number, "pg_catalog.text", "pg_catalog.text", "S")
        for number, column in enumerate(columns, 1)
    )
    return Relation(oid, schema, name, more.pop("kind", "r"), attributes, **more)


CATALOG = Catalog(
    "1",
    180000,
    relations={
        r.oid: r
        for r in (
            relation(1, "public", "customers", "id", "email", "tenant_id"),
            relation(2, "public", "orders", "id", "customer_id", "total"),
            relation(3, "hr", "people", "id", "ssn"),
            relation(4, "public", "roster", "id", kind="v", definition="SELECT id FROM hr.people"),
            relation(5, "public", "events", "id", "at", kind="p", descendants=(6,)),
            relation(6, "public", "events_2026", "id", "at", ancestors=(5,)),
        )
    },
)

#: Nothing to remark on but the advice that every profile gets.
SOUND: dict[str, Any] = {
    "name": "sound",
    "table_allowlist": ["customers", "orders"],
    "max_rows": 10,
    "statement_timeout_ms": 1000,
}


def findings(catalog: Catalog | None = CATALOG, **fields: Any) -> list[Finding]:
    return lint(PolicyProfile.model_validate({**SOUND, **fields}), catalog)


def remarks(catalog: Catalog | None = CATALOG, **fields: Any) -> set[tuple[str, str]]:
    """(level, path) of every remark that the sound profile does not get."""
    return {(f.level, f.path) for f in findings(catalog, **fields)} - {("advice", "")}


def test_a_sound_profile_gets_only_the_advice_about_the_role() -> None:
    assert [f.level for f in findings()] == ["advice"]
    assert "role" in findings()[0].message


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"allow": ["select", "show"]}, set()),
        ({"allow": ["select", "update"]}, {("warning", "statement_rules.allow[1]")}),
        ({"allow": ["select", "show"], "deny": ["show"]}, {("warning", "statement_rules.allow[1]")}),
        ({"allow": ["select", "select"]}, {("warning", "statement_rules.allow[1]")}),
        (
            {"allow": ["insert"]},
            {("warning", "statement_rules.allow[0]"), ("error", "statement_rules")},
        ),
    ],
)
def test_kinds_that_never_fire(rules: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    assert remarks(statement_rules=rules) == expected


def test_write_kinds_are_fine_under_read_write() -> None:
    fields = {
        "access_mode": "read_write",
        "statement_rules": {"allow": ["update"]},
        "budget_queries_per_day": 5,
    }
    assert remarks(**fields) == set()


def test_an_unknown_table_in_the_allowlist_is_a_warning_in_the_denylist_an_error() -> None:
    """An entry that admits nothing is useless; one that denies nothing leaves a table open."""
    assert remarks(table_allowlist=["orders", "nosuch"]) == {("warning", "table_allowlist[1]")}
    assert remarks(table_denylist=["nosuch"]) == {("error", "table_denylist[0]")}
    assert remarks(catalog=None, table_denylist=["nosuch"]) == set()


def test_a_bare_denylist_entry_means_every_schema() -> None:
    assert remarks(table_denylist=["people"]) == set()
    assert remarks(table_denylist=["public.people"]) == {("error", "table_denylist[0]")}


def test_denied_beats_allowed() -> None:
    assert remarks(table_denylist=["orders"]) == {("warning", "table_allowlist[1]")}
    assert remarks(table_denylist=["public.*"]) == {
        ("warning", "table_allowlist[0]"),
        ("warning", "table_allowlist[1]"),
        ("error", "table_allowlist"),
    }


def test_repeated_entries() -> None:
    assert remarks(table_allowlist=["orders", "Orders"]) == {("warning", "table_allowlist[1]")}


def mask(table: str, column: str, kind: str = "redact") -> dict[str, str]:
    return {"table": table, "column": column, "kind": kind}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([mask("customers", "email")], set()),
        ([mask("Customers", "EMAIL")], set()),
        ([mask("customers", "e_mail")], {("error", "masking_rules[0].column")}),
        (
            [mask("custmers", "email")],
            {("error", "masking_rules[0].table"), ("warning", "masking_rules[0]")},
        ),
        ([mask("hr.people", "ssn")], {("warning", "masking_rules[0]")}),
        ([mask("customers", "email"), mask("customers", "email", "null")], {("warning", "masking_rules[1]")}),
        ([mask("customers", "email", "hash")], {("warning", "masking_rules[0].kind")}),
        ([mask("customers", "id", "hash")], set()),
        ([mask("public.*", "email")], set()),
        ([mask("public.*", "salary")], {("error", "masking_rules[0].column")}),
    ],
)
def test_masks(rules: list[dict[str, str]], expected: set[tuple[str, str]]) -> None:
    assert remarks(masking_rules=rules) == expected


def test_a_keyed_hash_is_fine() -> None:
    rules = [mask("customers", "email", "hash")]
    assert remarks(masking_rules=rules, guarddb={"hash_key_env": "KEY"}) == set()


def test_a_mask_on_a_table_that_only_a_view_reaches_does_fire() -> None:
    allowed = ["customers", "orders", "roster"]
    assert remarks(table_allowlist=allowed, masking_rules=[mask("hr.people", "ssn")]) == set()


def test_a_mask_on_a_partition_fires_through_its_parent() -> None:
    allowed = ["customers", "orders", "events"]
    assert remarks(table_allowlist=allowed, masking_rules=[mask("events_2026", "at")]) == set()


def test_a_mask_on_a_denied_table_never_fires() -> None:
    rules = [mask("hr.people", "ssn")]
    assert remarks(table_denylist=["people"], masking_rules=rules) == {("warning", "masking_rules[0]")}


def row_filter(predicate: str, table: str = "customers") -> list[dict[str, str]]:
    return [{"table": table, "predicate": predicate}]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (row_filter("tenant_id = 1"), set()),
        (row_filter("tenent_id = 1"), {("error", "row_filters[0].predicate")}),
        (row_filter("customers.tenent_id = 1"), {("error", "row_filters[0].predicate")}),
        (row_filter("id IN (SELECT customer_id FROM orders)"), set()),
        (row_filter("tenant_id = 1") * 2, {("warning", "row_filters[1]")}),
        (row_filter("true", "hr.people"), {("warning", "row_filters[0]")}),
        (
            row_filter("true", "nosuch"),
            {("error", "row_filters[0].table"), ("warning", "row_filters[0]")},
        ),
        (
            row_filter("tenant_id = current_setting('app.tenant')::int"),
            {("advice", "row_filters[0].predicate")},
        ),
    ],
)
def test_row_filters(filters: list[dict[str, str]], expected: set[tuple[str, str]]) -> None:
    assert remarks(row_filters=filters) == expected


def test_a_setting_that_the_profile_gives_needs_no_advice() -> None:
    filters = row_filter("tenant_id = current_setting('App.Tenant')::int")
    assert remarks(row_filters=filters, guarddb={"settings": {"app.tenant": 1}}) == set()


def test_a_use_of_a_column_that_is_not_masked() -> None:
    use = {"table": "customers", "column": "email", "allow": ["group"]}
    assert remarks(guarddb={"mask_uses": [use]}) == {("warning", "guarddb.mask_uses[0]")}
    assert remarks(guarddb={"mask_uses": [use]}, masking_rules=[mask("customers", "email")]) == set()


def test_a_write_profile_without_bounds() -> None:
    assert remarks(access_mode="read_write", table_allowlist=[]) == {
        ("warning", "table_allowlist"),
        ("warning", "access_mode"),
    }
    assert remarks(access_mode="read_write", budget_queries_per_hour=10) == set()


def key(name: str, references: int, **actions: str) -> Constraint:
    return Constraint(name, "f", columns=("customer_id",), references=references, **actions)


def test_foreign_keys_that_write_other_tables_are_named() -> None:
    """No cap counts what they write, and no list keeps them from it."""
    tables = (
        relation(1, "public", "customers", "id"),
        relation(2, "public", "orders", "id", "customer_id", constraints=(key("o_fk", 1, on_delete="c"),)),
        relation(3, "hr", "people", "id", "customer_id", constraints=(key("p_fk", 1, on_update="n"),)),
        relation(4, "public", "plain", "id", "customer_id", constraints=(key("q_fk", 1),)),
        relation(5, "public", "beyond", "id", "customer_id", constraints=(key("r_fk", 3, on_delete="c"),)),
    )
    catalog = Catalog("1", 180000, relations={each.oid: each for each in tables})

    def named(**fields: Any) -> dict[str, str]:
        remarks = findings(catalog, access_mode="read_write", budget_queries_per_day=1, **fields)
        return {
            name: f.path
            for f in remarks
            for name in ("o_fk", "p_fk", "q_fk", "r_fk")
            if f'"{name}"' in f.message
        }

    assert named(max_affected_rows=5) == {"o_fk": "max_affected_rows", "p_fk": "max_affected_rows"}
    assert named() == {"p_fk": "table_allowlist"}
    assert named(statement_rules={"allow": ["select", "delete"]}) == {}
    assert named(max_affected_rows=5, statement_rules={"deny": ["delete"]}) == {"p_fk": "max_affected_rows"}
    assert named(max_affected_rows=5, table_denylist=["customers"]) == {}
    assert "ON DELETE CASCADE" in " ".join(
        f.message for f in findings(catalog, access_mode="read_write", approval_auto_max_rows=1)
    )
    assert remarks(catalog, max_affected_rows=5) == set()


def test_the_cascades_of_a_live_database_are_named(run: Run, tmp_path: Path, fresh_dsn: str) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE customers (id int PRIMARY KEY)")
        conn.execute("CREATE TABLE orders (c int CONSTRAINT owner REFERENCES customers ON DELETE CASCADE)")
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({**SOUND, "access_mode": "read_write", "max_affected_rows": 5}))
    document = json.loads(run("check", policy, "--dsn", fresh_dsn, "--json").out)
    (found,) = [each for each in document["findings"] if each["path"] == "max_affected_rows"]
    assert found["level"] == "warning"
    assert '"owner"' in found["message"]


def test_gaps() -> None:
    assert remarks(table_allowlist=[]) == {("advice", "table_allowlist")}
    assert remarks(statement_timeout_ms=0) == {("advice", "statement_timeout_ms")}
    assert remarks(max_rows=0) == {("advice", "max_rows")}
    assert remarks(max_rows=0, egress_bytes_per_day=5) == set()
    lifted = {"floor_exceptions": ["whereless_write"]}
    assert remarks(guarddb=lifted) == {("warning", "guarddb.floor_exceptions[0]")}


def test_errors_come_first() -> None:
    levels = [f.level for f in findings(masking_rules=[mask("nosuch", "x")], max_rows=0)]
    assert levels == sorted(levels, key=["error", "warning", "advice"].index)


def test_exit_codes_and_json(run: Run, tmp_path: Path, shop_admin: str) -> None:
    """Errors end with 1, warnings with 0; what a superuser's DSN means is said."""
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({**SOUND, "masking_rules": [mask("customers", "no_such_column")]}))
    answer = run("check", policy, "--dsn", shop_admin, "--json")
    document = json.loads(answer.out)
    assert answer.code == 1
    assert document["policy"] == "sound"
    assert {(f["level"], f["path"]) for f in document["findings"]} >= {
        ("error", "masking_rules[0].column"),
        ("warning", "role"),
    }
    assert run("check", policy).code == 0


def test_the_role_of_an_agent_draws_no_remark(run: Run, analyst: Path, shop: str) -> None:
    answer = run("check", analyst, "--dsn", shop, "--json")
    assert "role" not in {finding["path"] for finding in json.loads(answer.out)["findings"]}


def test_the_text_counts(run: Run, tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({**SOUND, "table_denylist": ["orders"]}))
    answer = run("check", policy)
    assert 'profile "sound": 0 errors, 1 warnings' in answer.out


ROOT = Path(__file__).parent.parent.parent
SHIPPED = sorted(
    [*(ROOT / "guarddb" / "cli" / "shop").glob("*.yaml"), *(ROOT / "examples" / "profiles").glob("*")]
)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_profiles_that_ship_draw_no_warning(path: Path) -> None:
    remarks = lint(load_policy(path))
    assert [finding for finding in remarks if finding.level != "advice"] == []
