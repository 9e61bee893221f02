"""The action policy on a connection: every statement is an event, scored before it is sent."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb.risk import History
from tests.driver.conftest import Connect, block, open_policy, run
from tests.risk.test_policy import DOCUMENTED


@pytest.fixture(autouse=True)
def tables(dsn: str) -> Iterator[None]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("""
            CREATE TABLE staff (id int PRIMARY KEY, name text, ssn text, email text);
            INSERT INTO staff SELECT n, 'n' || n, n::text, n || '@example.org' FROM generate_series(1, 500) AS n;
            CREATE TABLE notes (id int, note text);
            CREATE VIEW people AS SELECT id, ssn AS number FROM staff;
            ANALYZE staff, notes;
        """)
        yield
        conn.execute("DROP TABLE staff, notes CASCADE")


def rule(condition: str, impact: int = 90) -> dict[str, Any]:
    return {"custom_rules": {"r": {"condition": condition, "score_impact": impact}}}


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("DROP TABLE notes", "blocked_actions[0]"),
        ("TRUNCATE notes", "blocked_actions[1]"),
        ("DELETE FROM notes WHERE id = 1", "blocked_action_patterns[0]"),
        (
            "WITH gone AS (DELETE FROM notes WHERE id = 1 RETURNING id) SELECT * FROM gone",
            "blocked_action_patterns[0]",
        ),
        ("CREATE SCHEMA s", "blocked_action_patterns[1]"),
    ],
)
async def test_a_blocked_action_is_refused_and_nothing_is_sent(
    connect: Connect, sql: str, named: str
) -> None:
    policy = open_policy(guarddb={"floor_exceptions": ["destructive_ddl"]})
    conn = await connect(policy=policy, action_policy=DOCUMENTED, autocommit=True)
    with pytest.raises(guarddb.PolicyViolation) as caught:
        await run(conn.execute(sql))
    assert caught.value.rule == "action_blocked"
    assert caught.value.decision is not None
    assert caught.value.decision.deciding == f"action_policy.{named}"
    assert named in str(caught.value)
    assert caught.value.hint
    assert (await run((await run(conn.execute("SELECT 1 FROM notes"))).fetchall())) == []


async def test_a_refused_statement_leaves_the_transaction_usable(connect: Connect) -> None:
    conn = await connect(action_policy={"blocked_action_patterns": ["*:*:delete"]})
    await run(conn.execute("INSERT INTO notes VALUES (1, 'kept')"))
    cur = conn.cursor()
    with pytest.raises(guarddb.PolicyViolation):
        await run(cur.execute("DELETE FROM notes WHERE id = 1"))
    assert cur.decision.rule == "action_blocked"
    assert cur.risk.score == 70
    assert (await run((await run(conn.execute("SELECT note FROM notes"))).fetchone())) == ("kept",)


async def test_a_refused_first_statement_begins_no_transaction(connect: Connect) -> None:
    conn = await connect(action_policy={"blocked_actions": ["*:*:delete"]})
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("DELETE FROM notes WHERE id = 1"))
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


async def test_the_documented_bulk_rule_fires_by_the_planners_rows(connect: Connect) -> None:
    """`batch_size > 100 AND target.sensitivity_level >= 3`: ssn is pii_sensitive by its name, level 3."""
    conn = await connect(action_policy=DOCUMENTED, autocommit=True)
    few = await run(conn.execute("SELECT ssn FROM staff WHERE id = 7"))
    many = await run(conn.execute("SELECT ssn AS harmless FROM staff"))
    names = await run(conn.execute("SELECT name FROM staff"))
    behind = await run(conn.execute("SELECT number FROM people"))
    bulk = [
        "bulk_sensitive_access" in [c.rule for c in cur.risk.score_components]
        for cur in (few, many, names, behind)
    ]
    assert bulk == [False, True, False, True]
    assert len(await run(many.fetchall())) == 500


async def test_the_bulk_rule_is_off_without_classes(connect: Connect) -> None:
    conn = await connect(
        action_policy={**DOCUMENTED, "sensitive_fields": []}, classify_columns=False, autocommit=True
    )
    cur = await run(conn.execute("SELECT ssn FROM staff"))
    assert "bulk_sensitive_access" not in [c.rule for c in cur.risk.score_components]
    conn = await connect(
        action_policy={**DOCUMENTED, "sensitive_fields": []},
        classify_columns={"staff.name": "PHI"},
        autocommit=True,
    )
    cur = await run(conn.execute("SELECT name FROM staff"))
    assert "bulk_sensitive_access" in [c.rule for c in cur.risk.score_components]


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT id FROM staff", 500),
        ("SELECT id FROM staff LIMIT 20", 20),
        ("SELECT id FROM staff WHERE id = 7", 1),
        ("SELECT count(*) FROM staff", 1),
        ("UPDATE staff SET name = 'x' WHERE id > 0", 500),
        ("DELETE FROM staff WHERE id > 0", 500),
        ("WITH w AS (UPDATE staff SET name = 'x' WHERE id > 0 RETURNING 1) SELECT count(*) FROM w", 500),
        ("INSERT INTO notes VALUES (1, 'a'), (2, 'b'), (3, 'c')", 3),
        ("INSERT INTO notes SELECT id, name FROM staff", 500),
    ],
)
async def test_the_batch_size_of_a_statement(connect: Connect, sql: str, rows: int) -> None:
    exactly = rule(f"batch_size = {rows}", 1)
    conn = await connect(action_policy=exactly)
    cur = await run(conn.execute(sql))  # it begins the transaction
    assert "r" in [c.rule for c in cur.risk.score_components]
    await run(conn.rollback())
    async with block(conn.transaction()):
        cur = await run(conn.execute(sql))
        assert "r" in [c.rule for c in cur.risk.score_components]


async def test_parameters_do_not_make_the_planner_forget(connect: Connect) -> None:
    """A text that was planned with a harmless parameter is judged by a plan for any."""
    conn = await connect(action_policy=rule("batch_size > 100"), autocommit=True)
    for parameter in (1, 10**6):
        with pytest.raises(guarddb.PolicyViolation, match="risk_denied"):
            await run(conn.execute("SELECT ssn FROM staff WHERE id < %s", [parameter]))
    assert (
        len(await run((await run(conn.execute("SELECT ssn FROM staff WHERE id = %s", [1]))).fetchall())) == 1
    )


async def test_the_batch_size_of_executemany(connect: Connect) -> None:
    conn = await connect(action_policy=rule("batch_size > 100"), autocommit=True)
    cur = conn.cursor()
    await run(cur.executemany("INSERT INTO notes VALUES (%s, 'x')", [(n,) for n in range(100)]))
    for rows in ([(n,) for n in range(101)], ((n,) for n in range(101))):
        with pytest.raises(guarddb.PolicyViolation):
            await run(cur.executemany("INSERT INTO notes VALUES (%s, 'x')", rows))
    assert (await run((await run(conn.execute("SELECT count(*) FROM notes"))).fetchone())) == (100,)


async def test_an_error_of_the_statement_is_the_agents_to_see(connect: Connect) -> None:
    """Asking the planner first does not put another error in its place, nor end the transaction by itself."""
    conn = await connect(action_policy=rule("batch_size > 100"))
    await run(conn.execute("INSERT INTO notes VALUES (1, 'kept')"))
    with pytest.raises(psycopg.errors.UndefinedColumn):
        await run(conn.execute("SELECT nosuch FROM staff"))
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR


async def test_a_flagged_statement_runs_with_a_note_and_a_warning(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    conn = await connect(action_policy=rule("true", 60), autocommit=True)
    notices: list[Any] = []
    conn.add_notice_handler(notices.append)
    with caplog.at_level(logging.WARNING, "guarddb.risk"):
        cur = await run(conn.execute("SELECT id FROM staff WHERE id = 7"))
    assert await run(cur.fetchall()) == [(7,)]
    assert (cur.risk.verdict, cur.risk.risk_level) == ("flag", "high")
    assert cur.decision.verdict == "allow"
    assert any("flagged by the action policy" in note for note in cur.decision.notes)
    assert [n.severity for n in notices] == ["WARNING"]
    assert "score 67" in notices[0].message_primary
    assert "score 67" in caplog.text


async def test_an_allowed_statement_is_quiet(connect: Connect) -> None:
    conn = await connect(action_policy=DOCUMENTED, autocommit=True)
    notices: list[Any] = []
    conn.add_notice_handler(notices.append)
    cur = await run(conn.execute("SELECT name FROM staff WHERE id = 7"))
    assert cur.risk.verdict == "allow"
    assert notices == []
    assert not any("action policy" in note for note in cur.decision.notes)


async def test_the_thresholds_are_arguments(connect: Connect) -> None:
    conn = await connect(action_policy={}, refuse_at=5, autocommit=True)
    with pytest.raises(guarddb.PolicyViolation, match="refuse_at") as caught:
        await run(conn.execute("SELECT 1"))
    assert caught.value.rule == "risk_denied"
    conn = await connect(action_policy=rule("true"), refuse_at=101, autocommit=True)
    assert (await run(conn.execute("SELECT 1"))).risk.verdict == "flag"


async def test_observe_refuses_nothing(connect: Connect) -> None:
    conn = await connect(action_policy={"blocked_actions": ["*"]}, enforcement="observe", autocommit=True)
    cur = await run(conn.execute("SELECT 1"))
    assert await run(cur.fetchone()) == (1,)
    assert cur.risk.verdict == "refuse"


async def test_the_profile_decides_first(connect: Connect) -> None:
    policy = open_policy(table_denylist=["staff"])
    conn = await connect(policy=policy, action_policy={"blocked_actions": ["*"]}, autocommit=True)
    with pytest.raises(guarddb.PolicyViolation) as caught:
        await run(conn.execute("SELECT * FROM staff"))
    assert caught.value.rule == "table_denied"


async def test_what_was_refused_is_in_the_history(connect: Connect) -> None:
    policy = open_policy(table_denylist=["staff"])
    counted = rule("count(preceding_actions) >= 2")
    conn = await connect(policy=policy, action_policy=counted, autocommit=True)
    await run(conn.execute("SELECT 1"))
    with pytest.raises(guarddb.PolicyViolation, match="denied"):
        await run(conn.execute("SELECT * FROM staff"))
    with pytest.raises(guarddb.PolicyViolation, match="risk_denied"):
        await run(conn.execute("SELECT 1"))


async def test_an_agents_rising_risk_ends_in_a_refusal(connect: Connect) -> None:
    conn = await connect(
        policy=open_policy(table_denylist=["staff"]),
        action_policy={},
        action_history={"refusal_rate": 80},
        agent="prober",
        autocommit=True,
    )
    for _ in range(7):
        await run(conn.execute("SELECT 1 FROM notes"))
    for _ in range(3):
        with pytest.raises(guarddb.PolicyViolation, match="denied"):
            await run(conn.execute("SELECT * FROM staff"))
    with pytest.raises(guarddb.PolicyViolation, match="refusal_rate"):
        await run(conn.execute("SELECT 1 FROM notes"))


async def test_a_history_may_be_shared_by_connections(connect: Connect) -> None:
    history = History({"first_seen": 90})
    for _ in range(2):
        conn = await connect(action_policy={}, action_history=history, agent="a", autocommit=True)
        for _ in range(6):
            await run(conn.execute("SELECT 1 FROM notes"))
    with pytest.raises(guarddb.PolicyViolation, match="first_seen"):
        await run(conn.execute("SELECT 1 FROM staff"))


async def test_every_door_is_scored(connect: Connect) -> None:
    """stream(), copy(), named cursors, pipelines, PREPARE and EXECUTE."""
    blocked = {"blocked_actions": ["database:table:delete", "database:table:copy"]}
    conn = await connect(action_policy=blocked)
    cur = conn.cursor()
    with pytest.raises(guarddb.PolicyViolation):
        [row async for row in cur.stream("DELETE FROM notes WHERE id = 1 RETURNING id")] if hasattr(
            conn, "__aenter__"
        ) else list(cur.stream("DELETE FROM notes WHERE id = 1 RETURNING id"))
    with pytest.raises(guarddb.PolicyViolation):
        async with block(cur.copy("COPY staff TO STDOUT")):
            pass
    with pytest.raises(guarddb.PolicyViolation):
        async with block(conn.pipeline()):
            await run(conn.execute("DELETE FROM notes WHERE id = 1"))
    await run(conn.rollback())
    named = conn.cursor("c")
    await run(named.execute("SELECT id FROM staff"))
    assert len(await run(named.fetchmany(3))) == 3
    await run(named.close())
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("PREPARE p AS DELETE FROM notes WHERE id = 1"))
    await run(conn.execute("PREPARE q AS SELECT ssn FROM staff"))
    cur = await run(conn.execute("EXECUTE q"))
    assert "ssn" not in cur.risk.reasoning
    assert cur.risk.score == 13


async def test_a_policy_file_is_followed(connect: Connect, tmp_path: Path) -> None:
    path = tmp_path / "actions.json"
    path.write_text("{}")
    from guarddb.runtime.action_policies import ActionPolicyFile

    source = ActionPolicyFile(path, check_interval=0)
    conn = await connect(action_policy=source, autocommit=True)
    await run(conn.execute("SELECT 1"))
    path.write_text(json.dumps({"blocked_actions": ["database:session:select"]}))
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("SELECT 1"))
    path.write_text("{")  # no policy: the last good one stays
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("SELECT 1"))


async def test_a_policy_that_cannot_be_read_refuses(connect: Connect) -> None:
    class Broken:
        good = True

        def current(self) -> Any:
            if not self.good:
                raise RuntimeError("gone")
            return guarddb.risk.ActionPolicy()

    source = Broken()
    conn = await connect(action_policy=source, autocommit=True)
    await run(conn.execute("SELECT 1"))
    source.good = False
    with pytest.raises(guarddb.PolicyUnavailable):
        await run(conn.execute("SELECT 1"))
    source.good = True
    await run(conn.execute("SELECT 1"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"action_policy": {"blocked": []}},
        {"action_policy": "nowhere.yaml"},
        {"action_policy": 7},
        {"action_policy": {}, "classify_columns": "yes"},
        {"action_policy": {}, "action_history": {"nosuch": 1}},
        {"action_policy": {}, "flag_at": "high"},
    ],
)
def test_a_bad_argument_is_an_error_before_any_connection(arguments: dict[str, Any]) -> None:
    with pytest.raises((guarddb.PolicyError, ValueError)):
        guarddb.connect("host=/nowhere", policy=open_policy(), **arguments)


async def test_on_decision_is_told_of_the_refusal(connect: Connect) -> None:
    told: list[tuple[str, str]] = []
    conn = await connect(
        action_policy={"blocked_actions": ["*:*:delete"]},
        on_decision=lambda decision, sql: told.append((decision.rule, sql)),
        autocommit=True,
    )
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("DELETE FROM notes WHERE id = 1"))
    assert told[-1] == ("action_blocked", "DELETE FROM notes WHERE id = 1")


@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_write_is_judged_again_by_the_rows_it_touched(
    connect: Connect, dsn: str, autocommit: bool
) -> None:
    """The planner took the condition for a few rows and they were nearly all: it is undone."""
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("INSERT INTO notes SELECT n, 'x' FROM generate_series(1, 300) AS n")
    conn = await connect(action_policy=rule("batch_size > 100"), autocommit=autocommit)
    await run(conn.execute("UPDATE notes SET note = 'kept' WHERE id = 1"))
    with pytest.raises(guarddb.PolicyViolation) as caught:
        await run(conn.execute("UPDATE notes SET note = 'gone' WHERE md5(note) IN (md5('x'), md5('y'))"))
    assert caught.value.rule == "risk_denied"
    counted = "SELECT count(*) FILTER (WHERE note = 'kept'), count(*) FILTER (WHERE note = 'x') FROM notes"
    assert await run((await run(conn.execute(counted))).fetchall()) == [(1, 299)]
    await run(conn.commit())
