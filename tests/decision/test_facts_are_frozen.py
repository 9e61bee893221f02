"""Judging a statement and writing the policy into it leaves the facts of the analysis as they were."""

from __future__ import annotations

from typing import Any

import pytest

import guarddb
from guarddb.decision import decide as engine
from guarddb.decision.plan import Plan
from guarddb.sql.statement import Output, Query, Reference, Root, Statement

POLICY = guarddb.PolicyProfile(
    name="frozen",
    access_mode="read_write",
    masking_rules=[{"table": "people", "column": "email", "kind": "redact"}],
    row_filters=[{"table": "people", "predicate": "id > 0"}],
    max_rows=10,
    guarddb={"mask_uses": [{"table": "people", "column": "email", "allow": ["group", "equality", "join"]}]},
)
STATEMENTS = [
    "SELECT id, email FROM people WHERE email = 'x'",
    "SELECT * FROM (SELECT email AS e FROM people) AS q GROUP BY e",
    "SELECT email FROM people UNION ALL SELECT 'x' ORDER BY 1",
    "SELECT (SELECT email FROM people LIMIT 1), p FROM people AS p",
    "UPDATE people SET id = 2 WHERE id = 1 RETURNING email",
    "INSERT INTO people (id) VALUES (1)",
]


def facts(value: Any, seen: set[int]) -> Any:
    """Everything that the analysis has written down, as values that can be compared."""
    if isinstance(value, Statement | Query | Output | Reference | Root):
        if id(value) in seen:
            return ("again", id(value))
        seen.add(id(value))
        names = [name for each in type(value).__mro__ for name in getattr(each, "__slots__", ())]
        return [(name, facts(getattr(value, name, None), seen)) for name in names]
    if isinstance(value, list | tuple):
        return [type(value).__name__, *(facts(each, seen) for each in value)]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, dict):
        return ("tree", id(value))  # the rewriter makes the tree that it means out of the one that was parsed
    return str(value)


@pytest.mark.parametrize("sql", STATEMENTS)
def test_what_was_read_stays_as_it_was_read(sql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Statement] = []
    before: list[Any] = []
    original = engine.read_statement

    def reading(*arguments: Any) -> Statement:
        statement = original(*arguments)
        read.append(statement)
        before.append(facts(statement, set()))
        return statement

    monkeypatch.setattr(engine, "read_statement", reading)
    plan = engine.decide(sql, engine.compile_policy(POLICY), None)
    assert isinstance(plan, Plan)
    assert before == [facts(statement, set()) for statement in read]
    assert read
