"""`guarddb branches`: what a crash has left behind is listed, compared and thrown away."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest

from guarddb.driver.branches import DatabaseBranches
from guarddb.runtime.branches import Branch
from tests.cli.conftest import Run


@pytest.fixture
def branch(fresh_dsn: str, server_dsn: str) -> Iterator[Branch]:
    """A branch that nobody discards, with some changes."""
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE people (id int PRIMARY KEY, name text)")
        conn.execute("INSERT INTO people VALUES (1, 'ada'), (2, 'bob'), (3, E'\\u202eeve')")
    provider = DatabaseBranches(server_dsn)
    made = provider.create(fresh_dsn)
    with psycopg.connect(made.conninfo, autocommit=True) as conn:
        conn.execute("UPDATE people SET name = 'eva' WHERE id = 1; DELETE FROM people WHERE id = 2")
    yield made
    provider.discard(made)


def test_list(run: Run, branch: Branch, server_dsn: str) -> None:
    answer = run("branches", "list", "--dsn", server_dsn, "--json")
    assert answer.code == 0
    (found,) = [each for each in json.loads(answer.out)["branches"] if each["id"] == branch.id]
    assert (found["source"], found["status"]) == (branch.source, "ready")
    assert found["size_bytes"] > 0
    assert branch.id in run("branches", "list", "--dsn", server_dsn).out


def test_the_server_may_come_from_the_environment(
    run: Run, branch: Branch, server_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARDDB_BRANCHES", server_dsn)
    assert branch.id in run("branches", "list").out


def test_diff(run: Run, branch: Branch, server_dsn: str) -> None:
    answer = run("branches", "diff", branch.id, "--dsn", server_dsn)
    assert answer.code == 1
    assert "public.people" in answer.out
    assert "1 removed" in answer.out
    assert "1 changed" in answer.out
    assert "name=ada → eva" in answer.out
    document = json.loads(run("branches", "diff", branch.id, "--dsn", server_dsn, "--json").out)
    (table,) = document["tables"]
    assert (table["table"], table["added"], table["changed"], table["removed"]) == ("public.people", 0, 1, 1)


def test_no_difference_is_exit_code_0(run: Run, branch: Branch, fresh_dsn: str, server_dsn: str) -> None:
    with psycopg.connect(branch.conninfo, autocommit=True) as conn:
        conn.execute("UPDATE people SET name = 'ada' WHERE id = 1; INSERT INTO people VALUES (2, 'bob')")
    answer = run("branches", "diff", branch.id, "--dsn", server_dsn)
    assert (answer.code, answer.out.strip()) == (0, "nothing differs")


def test_discard_asks_first(run: Run, branch: Branch, server_dsn: str) -> None:
    assert run("branches", "discard", branch.id, "--dsn", server_dsn, stdin="n\n").code == 1
    assert branch.id in run("branches", "list", "--dsn", server_dsn).out
    answer = run("branches", "discard", branch.id, "--dsn", server_dsn, "--yes")
    assert (answer.code, answer.out.strip()) == (0, f"discarded {branch.id}")
    assert branch.id not in run("branches", "list", "--dsn", server_dsn).out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list",), "name the server"),
        (("list", "--dsn", "host=/nowhere"), "cannot connect"),
        (("diff", "brn_none"), "there is no branch brn_none"),
        (("discard", "brn_none", "--yes"), "there is no branch brn_none"),
        (("discard",), "name branches, or --all"),
        (("list", "--neon", "p1"), "NEON_API_KEY"),
    ],
)
def test_bad_input_is_exit_code_2(
    run: Run, server_dsn: str, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    for variable in ("GUARDDB_BRANCHES", "NEON_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    needs_server = arguments[0] != "list"
    answer = run("branches", *arguments, *(("--dsn", server_dsn) if needs_server else ()))
    assert answer.code == 2
    assert said in answer.err
