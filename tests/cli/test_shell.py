"""`guarddb shell`, fed from a pipe as an agent's transcript would be."""

from __future__ import annotations

from pathlib import Path

import pytest

from guarddb.cli.shell import is_complete
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


def test_an_unknown_backslash_command_gets_help(run: Run, analyst: Path, shop: str) -> None:
    assert "\\q leaves" in run("shell", "-p", analyst, shop, stdin="\\x\n").out
