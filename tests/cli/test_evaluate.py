"""`guarddb eval`: the answer, its JSON, its exit code, and where the statement comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_an_allowed_statement_ends_with_zero(run: Run, analyst: Path) -> None:
    answer = run("eval", "-p", analyst, "SELECT 1")
    assert answer.code == 0
    assert "ALLOW" in answer.out


def test_an_answer_that_only_a_catalog_can_confirm_ends_with_three(
    run: Run, analyst: Path, shop_admin: str
) -> None:
    """`orders` may be a view over a masked table, for all that is known: a check in CI must not pass on it."""
    without = run("eval", "-p", analyst, "SELECT count(*) FROM orders")
    assert without.code == 3
    assert "needs a catalog" in without.out
    document = json.loads(run("eval", "-p", analyst, "--json", "SELECT count(*) FROM orders").out)
    assert document["needs_catalog"] is True
    assert run("eval", "-p", analyst, "--dsn", shop_admin, "SELECT count(*) FROM shop.orders").code != 3


def test_a_blocked_statement_ends_with_one_and_says_why(run: Run, analyst: Path) -> None:
    answer = run("eval", "-p", analyst, "DELETE FROM orders")
    assert answer.code == 1
    assert "BLOCK" in answer.out
    assert "whereless_write" in answer.out


def test_json_is_the_wire_shape(run: Run, analyst: Path) -> None:
    answer = run("eval", "-p", analyst, "--json", "DROP TABLE orders")
    decision = json.loads(answer.out)
    assert answer.code == 1
    assert (decision["verdict"], decision["rule"]) == ("block", "destructive_ddl")
    assert decision["reason"]
    assert "\x1b" not in answer.out


@pytest.mark.parametrize("via", ["stdin", "file", "dash"])
def test_the_statement_may_be_piped_or_in_a_file(run: Run, analyst: Path, tmp_path: Path, via: str) -> None:
    file = tmp_path / "query.sql"
    file.write_text("TRUNCATE orders")
    arguments = {"stdin": [], "file": ["-f", file], "dash": ["-f", "-"]}[via]
    answer = run("eval", "-p", analyst, "--json", *arguments, stdin="TRUNCATE orders")
    assert json.loads(answer.out)["rule"] == "destructive_ddl"


@pytest.mark.parametrize(
    ("text", "rule"),
    [("", "empty"), ("-- nothing", "empty"), ("SELEC 1", "parse_error"), ("SELECT 1\0", "parse_error")],
)
def test_what_is_not_a_statement_is_blocked(run: Run, analyst: Path, text: str, rule: str) -> None:
    answer = run("eval", "-p", analyst, "--json", stdin=text)
    assert (answer.code, json.loads(answer.out)["rule"]) == (1, rule)


def test_a_text_that_would_kill_a_parser_is_blocked(run: Run, analyst: Path) -> None:
    answer = run("eval", "-p", analyst, "--json", stdin="SELECT " + "+".join(["1"] * 40_000))
    assert (answer.code, json.loads(answer.out)["rule"]) == (1, "parse_error")


def test_a_setting_given_on_the_command_line_reaches_the_row_filter(run: Run, tmp_path: Path) -> None:
    policy = tmp_path / "tenant.yaml"
    policy.write_text(
        "name: tenant\nrow_filters:\n"
        "  - {table: orders, predicate: \"tenant_id = current_setting('app.tenant')::int\"}\n"
    )
    without = json.loads(run("eval", "-p", policy, "--json", "SELECT id FROM orders").out)
    given = json.loads(
        run("eval", "-p", policy, "--set", "app.tenant=42", "--json", "SELECT id FROM orders").out
    )
    assert without["verdict"] == "block"
    assert given["verdict"] == "row-filter"
    assert "42" in given["rewritten_sql"]


def test_a_snapshot_is_as_good_as_the_database(
    run: Run, analyst: Path, tmp_path: Path, shop_admin: str
) -> None:
    """The catalog that `snapshot` writes gives the decision that the live catalog gives."""
    catalog = tmp_path / "catalog.json"
    assert run("snapshot", "--dsn", shop_admin, "-o", catalog).code == 0
    statements = ("SELECT * FROM customers", "SELECT nosuchfunction(1)", "SELECT relname FROM pg_class")
    for sql in statements:
        offline = run("eval", "-p", analyst, "--schema", catalog, "--json", sql)
        live = run("eval", "-p", analyst, "--dsn", shop_admin, "--json", sql)
        assert offline == live


def test_nothing_is_run(run: Run, tmp_path: Path, plain: object, dsn: str) -> None:
    policy = tmp_path / "writer.yaml"
    policy.write_text("name: writer\naccess_mode: read_write\n")
    assert run("eval", "-p", policy, "--dsn", dsn, "CREATE TABLE made_by_eval (id int)").code == 0
    answer = plain.execute("SELECT to_regclass('made_by_eval')").fetchone()  # type: ignore[attr-defined]
    assert answer == (None,)


def test_a_text_that_is_too_long_is_not_told_to_mend_its_syntax(run: Run, analyst: Path) -> None:
    answer = run("eval", "-p", analyst, stdin="SELECT " + "1" * 200_000)
    assert answer.code == 1
    assert "Send less" in answer.out
