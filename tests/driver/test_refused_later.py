"""What refuses a statement after it was judged is a decision too: on the error, on the cursor, in the log, for who watches."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import guarddb
from tests.driver.conftest import Connect, block, collect, open_policy, run

UPDATE = "UPDATE later SET tenant = 2 WHERE id < 9"
FILTER = {"row_filters": [{"table": "later", "predicate": "tenant = 1"}]}

HIDDEN = "SELECT 'ok' || chr(917603) || chr(917601)"
NO_UPDATES = {"action_policy": {"blocked_actions": ["database:table:update"]}}
WAITS = {"approval_mode": "writes"}
#: name -> (profile, arguments of connect(), the statement that passes before, the one that is refused, its rule, the entry)
REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any], str | None, str, str, str]] = {
    "hour": ({"budget_queries_per_hour": 1}, {}, "SELECT 1", "SELECT 2", "query_budget_hour", "budget_queries_per_hour"),
    "day": ({"budget_queries_per_day": 1}, {}, "SELECT 1", "SELECT 2", "query_budget_day", "budget_queries_per_day"),
    "egress": ({"egress_bytes_per_day": 3}, {}, None, "SELECT note FROM later", "egress_budget", "egress_bytes_per_day"),
    "filter": (FILTER, {}, None, UPDATE, "row_filter_violation", "row_filters[0]"),
    "cap": ({"max_affected_rows": 1}, {}, None, UPDATE, "max_affected_rows", "max_affected_rows"),
    "nobody": (WAITS, {}, None, UPDATE, "approval_unavailable", "approval_mode"),
    "rejected": (WAITS, {"approver": lambda _: False}, None, UPDATE, "approval_rejected", "approval_mode"),
    "scanned": ({"content_scan_mode": "block"}, {}, None, HIDDEN, "content_scan", "content_scan_mode"),
    "risk": ({}, NO_UPDATES, None, UPDATE, "action_blocked", "action_policy.blocked_actions[0]"),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def later(dsn: str) -> Iterator[None]:
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("DROP TABLE IF EXISTS later")
        plain.execute("CREATE TABLE later (id int PRIMARY KEY, tenant int, note text)")
        plain.execute("INSERT INTO later SELECT i, 1, 'a note' FROM generate_series(1, 10) i")
    yield
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("DROP TABLE IF EXISTS later")


async def executed(conn: Any, cur: Any, sql: str) -> None:
    await run(cur.execute(sql))
    if cur.description:
        await run(cur.fetchall())


async def many(conn: Any, cur: Any, sql: str) -> None:
    await run(cur.executemany(sql, [(), ()]))


async def piped(conn: Any, cur: Any, sql: str) -> None:
    async with block(conn.pipeline()):
        await run(cur.execute(sql))
        if sql.startswith("SELECT"):
            await run(cur.fetchall())


async def streamed(conn: Any, cur: Any, sql: str) -> None:
    await collect(cur.stream(sql if sql.startswith("SELECT") else f"{sql} RETURNING id"))


@pytest.mark.parametrize("way", [executed, many, piped, streamed])
@pytest.mark.parametrize("name", REFUSALS)
async def test_refusal_is_the_decision(
    connect: Connect, name: str, way: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fields, arguments, before, sql, rule, deciding = REFUSALS[name]
    if way is many and sql.startswith("SELECT") and name in ("egress", "scanned"):
        pytest.skip("executemany() hands out nothing")
    records: list[guarddb.DecisionRecord] = []

    def watch(record: guarddb.DecisionRecord) -> None:
        records.append(record)

    policy = open_policy(**fields)
    conn = await connect(
        policy=policy, autocommit=way in (executed, streamed), on_decision=watch, **arguments
    )
    cur = conn.cursor()
    if before is not None:
        await executed(conn, cur, before)
    with (
        caplog.at_level(logging.WARNING, logger="guarddb.decision"),
        pytest.raises((guarddb.PolicyViolation, guarddb.BudgetExceeded)) as caught,
    ):
        await way(conn, cur, sql)
    error: Any = caught.value
    decision = error.decision
    assert (decision.verdict, decision.rule, error.rule) == ("block", rule, rule)
    assert decision.masked_columns == ()
    assert str(error) == f'blocked by policy "{policy["name"]}": {decision.reason}'
    assert decision.hint == error.hint == error.diag.message_hint
    assert decision.hint
    assert decision.policy_name == policy["name"]
    assert decision.policy_version
    assert decision.deciding == deciding
    assert cur.decision is decision
    told = [record for record in caplog.records if record.name == "guarddb.decision"]
    assert [f"rule={rule} " in record.getMessage() for record in told] == [True]
    refused = [record.decision.rule for record in records if record.outcome == "refused"]
    assert refused == [rule]


async def test_answer_that_comes_too_late_is_none(connect: Connect) -> None:
    """A callable is not interrupted; a yes after the time is over does not count, nor what is no answer."""
    for answer in (True, None):

        def slow(request: guarddb.ApprovalRequest, answer: bool | None = answer) -> bool | None:
            time.sleep((request.seconds_left() or 0.0) + 0.01)
            return answer

        policy = open_policy(approval_mode="writes", approval_timeout_seconds=1)
        conn = await connect(policy=policy, approver=slow)
        with pytest.raises(guarddb.ApprovalExpired) as caught:
            await run(conn.execute(UPDATE))
        assert caught.value.rule == "approval_expired"
