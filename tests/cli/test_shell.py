"""`guarddb shell`, fed from a pipe as an agent's transcript would be."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from rich.console import Console

from guarddb.cli.branch_bar import bytes_of, copying
from guarddb.cli.shell import is_complete
from guarddb.driver.branches import DatabaseBranches
from tests.cli.conftest import Run


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("SELECT 1;", True),
        ("SELECT 1", False),
        ("SELECT 1; -- done", True),
        ("SELECT ';", False),
        ("SELECT ';'", False),
        ("SELECT ';';", True),
        ("SELECT $$ ; $$", False),
        ("SELECT $$ ;", False),
        ("/* ; ", False),
        ("SELECT 1; SELECT 2", False),
        (";", True),
        ("", False),
    ],
)
def test_a_statement_ends_with_a_semicolon_that_is_one(text: str, complete: bool) -> None:
    assert is_complete(text) is complete


def test_verdicts_stand_beside_results(run: Run, analyst: Path, shop: str) -> None:
    answer = run(
        "shell",
        "-p",
        analyst,
        shop,
        stdin="SELECT 40 +\n  2 AS answer;\nDELETE FROM orders;\nSELECT 7 AS n;\n",
    )
    assert answer.code == 0
    assert "42" in answer.out
    assert "(1 row)" in answer.out
    assert "whereless_write" in answer.out
    assert answer.out.index("whereless_write") < answer.out.rindex("ALLOW")


def test_a_value_is_whole_where_output_is_piped(run: Run, analyst: Path, shop: str) -> None:
    answer = run("shell", "-p", analyst, shop, stdin="SELECT repeat('x', 120) || 'end' AS long;\n")
    assert "x" * 120 + "end" in answer.out


def test_a_server_error_does_not_end_the_session(run: Run, analyst: Path, shop: str) -> None:
    answer = run("shell", "-p", analyst, shop, stdin="SELECT 1/0;\nSELECT 'still here' AS note;\n")
    assert "22012" in answer.out
    assert "still here" in answer.out


def test_a_statement_without_semicolon_runs_at_the_end_of_input(run: Run, analyst: Path, shop: str) -> None:
    assert "42" in run("shell", "-p", analyst, shop, stdin="SELECT 42").out


def test_quitting_leaves_the_rest_unread(run: Run, analyst: Path, shop: str) -> None:
    assert "never" not in run("shell", "-p", analyst, shop, stdin="\\q\nSELECT 'never';\n").out


def test_d_lists_what_the_policy_shows(run: Run, analyst: Path, shop: str) -> None:
    answer = run("shell", "-p", analyst, shop, stdin="\\d\n")
    assert "public.orders" in answer.out
    assert "email (redact)" in answer.out
    assert "public.products" not in answer.out


def test_d_knows_the_settings_that_filters_read(run: Run, tmp_path: Path, shop: str) -> None:
    policy = tmp_path / "tenant.yaml"
    policy.write_text(
        "name: tenant\ntable_allowlist: [orders, customers]\n"
        "masking_rules: [{table: customers, column: email, kind: redact}]\n"
        "row_filters: [{table: customers, predicate: \"name = ANY (ARRAY[current_setting('app.tenant')])\"}]\n"
    )
    answer = run("shell", "-p", policy, "--set", "app.tenant=42", shop, stdin="\\d\n")
    assert "email (redact)" in answer.out
    assert "[" in answer.out
    assert "42" in answer.out
    assert "closed" not in answer.out
    without = run("shell", "-p", policy, shop, stdin="\\d\n")
    assert "closed" in without.out
    assert "app.tenant" in without.out


def test_bytes_that_are_no_text_are_no_fault_under_any_locale(analyst: Path, shop: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "guarddb.cli", "shell", "-p", str(analyst), shop],
        input=b"SELECT '\xd8';\n",
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == b"guarddb: standard input is not UTF-8 text\n"


def test_an_unknown_backslash_command_gets_help(run: Run, analyst: Path, shop: str) -> None:
    assert "\\q leaves" in run("shell", "-p", analyst, shop, stdin="\\x\n").out


SANDBOX = {"name": "sandboxed", "access_mode": "read_write", "write_mode": "sandbox"}


def test_a_sandboxed_profile_works_on_a_branch(
    run: Run, tmp_path: Path, fresh_shop_admin: str, server_dsn: str
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps(SANDBOX))
    text = "DELETE FROM order_items;\nSELECT 'left: ' || count(*) AS n FROM order_items;\n"
    answer = run("shell", "-p", policy, fresh_shop_admin, "--branches", server_dsn, stdin=text)
    assert answer.code == 0, answer.err
    assert "left: 0" in answer.out
    assert "on the branch brn_" in answer.out
    assert "copying" not in answer.err  # nobody looks
    with psycopg.connect(fresh_shop_admin) as conn:
        (rows,) = conn.execute("SELECT count(*) FROM order_items").fetchone() or (0,)
    assert rows


def test_a_database_that_is_too_large_is_not_copied(
    run: Run, tmp_path: Path, fresh_shop_admin: str, server_dsn: str
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps(SANDBOX))
    arguments = ("shell", "-p", policy, fresh_shop_admin, "--branches", server_dsn, "--branch-limit")
    answer = run(*arguments, "1MB", stdin="SELECT 1;\n")
    assert answer.code == 2
    assert "limited to 1.0 MB" in answer.err
    assert run(*arguments, "large", stdin="").code == 2


def test_at_a_terminal_a_bar_shows_how_far_the_copy_is(fresh_shop_admin: str, server_dsn: str) -> None:
    """A real dump, told to a console that takes itself for a terminal."""
    screen = io.StringIO()
    with copying(Console(file=screen, force_terminal=True, width=120)) as progress:
        provider = DatabaseBranches(server_dsn, method="dump", progress=progress)
        provider.discard(provider.create(fresh_shop_admin))
    assert "copying the database, at most" in screen.getvalue()
    assert re.search(r"\d/[\d.]+ [kM]B", screen.getvalue())
    with copying(Console(file=io.StringIO())) as progress:
        assert progress is None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1000),
        ("512MB", 512 * 1024**2),
        ("1.5 gb", 3 * 512 * 1024**2),
        ("2GiB", 2 * 1024**3),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert bytes_of(text) == size
