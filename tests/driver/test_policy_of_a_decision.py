"""Every decision says which policy it stands on: name, version, and the id of a stored profile."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

import guarddb
from tests.driver.conftest import Connect, open_policy, run

STORED = {"id": "pol_1", "project_id": "prj_1"}


@pytest.mark.parametrize(
    "sql", ["SELECT 1", "SELECT nothing_of_that_kind(", "DROP TABLE orders", "SELECT * FROM nobodys.table"]
)
def test_evaluation_names_the_stored_profile(sql: str) -> None:
    decision = guarddb.evaluate(sql, {"name": "stored", **STORED})
    assert (decision.policy_id, decision.policy_name) == ("pol_1", "stored")
    assert decision.policy_version == guarddb.load_policy({"name": "stored", **STORED}).version
    assert guarddb.evaluate(sql, {"name": "a file"}).policy_id is None


@pytest.mark.parametrize(
    ("fields", "arguments", "before", "sql"),
    [
        ({}, {}, None, "SELECT 1"),
        ({}, {}, None, "SET ROLE nobody"),
        ({"budget_queries_per_hour": 1}, {}, "SELECT 1", "SELECT 2"),
        ({"approval_mode": "writes"}, {}, None, "DELETE FROM pg_temp.nothing WHERE id = 1"),
        ({"content_scan_mode": "block"}, {}, None, "SELECT 'ok' || chr(917603) || chr(917601)"),
        ({}, {"action_policy": {"blocked_actions": ["database:session:select"]}}, None, "SELECT 1"),
    ],
    ids=["passes", "refused", "budget", "approval", "content", "risk"],
)
async def test_session_names_the_stored_profile(
    connect: Connect, fields: dict[str, Any], arguments: dict[str, Any], before: str | None, sql: str
) -> None:
    policy = open_policy(**fields)
    policy |= {
        "id": f"pol_{policy['name'].replace(' ', '_')}",
        "project_id": "prj_1",
    }  # (budgets are the id's)
    conn = await connect(policy=policy, autocommit=True, **arguments)
    cur = conn.cursor()
    if before is not None:
        await run(cur.execute(before))
    with suppress(guarddb.PolicyViolation, guarddb.BudgetExceeded):
        await run(cur.execute(sql))
        await run(cur.fetchall())
    decision = cur.decision
    assert decision is not None
    assert (decision.policy_id, decision.policy_name) == (policy["id"], policy["name"])
    assert decision.policy_version


def test_reason_says_whether_the_text_is_sent_as_it_is() -> None:
    plain, cut = (guarddb.evaluate("SELECT id FROM t", {"name": "p", "max_rows": rows}) for rows in (0, 3))
    assert (plain.rewritten_sql, plain.reason) == ("SELECT id FROM t", "the statement is allowed as it is")
    assert cut.rewritten_sql == "SELECT id FROM t LIMIT 4"
    assert (cut.verdict, cut.reason) == (
        "allow",
        "the statement is allowed; the text that is sent is in rewritten_sql",
    )
