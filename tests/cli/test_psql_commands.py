"""`guarddb shell --psql-compatible`: the \\d family, under a mask and a filter."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

import guarddb
from guarddb.cli.psql_commands import command_sql
from tests.cli.conftest import Run

POLICY = {
    "name": "masked and filtered",
    "masking_rules": [{"table": "customers", "column": "email", "kind": "redact"}],
    "row_filters": [{"table": "orders", "predicate": "tenant_id = 1"}],
}
COMMANDS = [
    *(
        r"\d",
        r"\d+",
        r"\d orders",
        r"\d+ customers",
        r"\d public.ord*",
        r"\dt",
        r"\dt+",
        r"\dt *.*",
        r"\dtS",
        r"\di",
        r"\di+",
    ),
    *(
        r"\dv",
        r"\dv+",
        r"\dm",
        r"\ds",
        r"\ds+",
        r"\dE",
        r"\dtv",
        r"\dP",
        r"\dP+",
        r"\dn",
        r"\dn+",
        r"\du",
        r"\du+",
        r"\dg",
    ),
    *(
        r"\l",
        r"\df",
        r"\df+",
        r"\df low*",
        r"\dfS",
        r"\da",
        r"\dT",
        r"\dT+",
        r"\dD",
        r"\dx",
        r"\db",
        r"\do",
        r"\dy",
        r"\dL",
        r"\dO",
    ),
    *(r"\dp", r"\z orders", r'\d "no such"', r"\dt x'y"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_works(guarded: guarddb.Connection, shop: str, command: str) -> None:
    """Some statement of each question passes, and its rows are those that plain PostgreSQL gives."""
    questions = command_sql(command)
    assert questions
    with psycopg.connect(shop, autocommit=True) as plain:
        for question in questions:
            for statement in question.statements:
                try:
                    rows = guarded.execute(statement.encode(), question.parameters or None).fetchall()
                except guarddb.PolicyViolation:
                    continue
                assert rows == plain.execute(statement.encode(), question.parameters or None).fetchall()
                break
            else:
                pytest.fail(f"nothing passes: {question}")


def test_in_the_shell(run: Run, analyst: Path, shop: str) -> None:
    answer = run(
        "shell", "-p", analyst, "--psql-compatible", shop, stdin="\\dt\n\\d orders\n\\dt+\n\\nothing\n"
    )
    assert answer.code == 0
    assert "List of relations" in answer.out
    assert "Constraints" in answer.out
    assert "End a statement with" in answer.out
