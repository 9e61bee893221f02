"""A rule of the floor that a profile lifts does not take another one with it, in whatever order one text meets both."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

import guarddb
from guarddb.vocabulary import FLOOR_RULES, KINDS

#: An expression or statement that one rule refuses. Those of one group can stand side by side in one statement.
CALLS = {
    "search_path_change": "set_config('search_path', 'x', false)",
    "role_change": "set_config('role', 'x', false)",
    "protected_setting": "set_config('row_security', 'off', false)",
    "forbidden_function": "pg_sleep(1)",
    "function_not_allowed": "public.mine(1)",
}
STATEMENTS = {
    "destructive_ddl": "DROP TABLE t",
    "whereless_write": "DELETE FROM t",
    "search_path_change": "SET search_path = x",
    "role_change": "SET ROLE x",
    "protected_setting": "SET row_security = off",
    "anonymous_code": "DO 'begin end'",
    "forbidden_function": "SELECT pg_sleep(1)",
    "function_not_allowed": "SELECT public.mine(1)",
}


def profile(*lifted: str) -> dict[str, Any]:
    return {
        "name": "lifted",
        "access_mode": "read_write",
        "statement_rules": {"allow": list(KINDS)},
        "guarddb": {"floor_exceptions": list(lifted)},
    }


def test_every_rule_of_the_floor_is_here() -> None:
    assert set(STATEMENTS) == set(FLOOR_RULES)
    assert set(CALLS) < set(FLOOR_RULES)


@pytest.mark.parametrize(("lifted", "left"), list(permutations(CALLS, 2)))
def test_side_by_side_in_one_statement(lifted: str, left: str) -> None:
    # set_config() is itself a call that the floor refuses.
    others = {lifted, "forbidden_function"} - {left}
    sql = f"SELECT {CALLS[lifted]}, {CALLS[left]}"
    assert guarddb.evaluate(sql, profile(*others)).rule == left
    assert guarddb.evaluate(sql, profile(*others, left)).rule == "ok"


@pytest.mark.parametrize(("lifted", "left"), list(permutations(STATEMENTS, 2)))
def test_one_after_the_other(lifted: str, left: str) -> None:
    sql = f"{STATEMENTS[lifted]}; {STATEMENTS[left]}"
    assert guarddb.evaluate(sql, profile(lifted)).rule == left
    assert guarddb.evaluate(sql, profile(lifted, left)).rule == "ok"


@pytest.mark.parametrize("where", ["TO '/tmp/x'", "FROM '/tmp/x'", "TO PROGRAM 'cat'", "FROM PROGRAM 'cat'"])
def test_the_servers_files_stay_closed(where: str) -> None:
    assert guarddb.evaluate(f"COPY t {where}", profile(*FLOOR_RULES)).rule == "forbidden_function"
    assert (
        guarddb.evaluate(f"EXPLAIN SELECT 1; COPY t {where}", profile(*FLOOR_RULES)).rule
        == "forbidden_function"
    )
