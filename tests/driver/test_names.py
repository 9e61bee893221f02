"""SQL-level prepared statements and portals, and what a changed policy does to them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

import guarddb
from guarddb.decision import decide as engine
from guarddb.decision.plan import NO_NAMES, Decision, Plan, StatementPlan
from tests.driver.conftest import SELECT, Connect, Engine, block, changed, open_policy, run

PREPARE = "PREPARE p AS SELECT generate_series(1, 5)"
DECLARE = "DECLARE d CURSOR FOR SELECT generate_series(1, 5)"


class Reloadable:
    """A policy source whose profile a test can change."""

    def __init__(self, **fields: Any) -> None:
        self.profile = guarddb.PolicyProfile(**open_policy(**fields))

    def change(self, **fields: Any) -> None:
        self.profile = self.profile.model_copy(update=fields)

    def current(self) -> tuple[guarddb.PolicyProfile, str]:
        return self.profile, self.profile.version


def by_policy(text: str, statement: StatementPlan) -> Any:
    """A plan whose text and cap follow the policy's max_rows."""

    def plan(sql: str, policy: Any, catalog: Any, names: Any) -> Plan:
        rows = policy.profile.max_rows
        sent = f"{text} LIMIT {rows + 1}" if rows else text
        return Plan(Decision("allow"), sent, (changed(statement, row_cap=rows or None),))

    return plan


def by_name(held: str, name: str, **changes: Any) -> Any:
    """A plan of EXECUTE or FETCH: what is known about the name, or a refusal."""

    def plan(sql: str, policy: Any, catalog: Any, names: Any) -> Plan:
        found = getattr(names or NO_NAMES, held).get(name)
        if found is None:
            return Plan(Decision("block", "statement_not_allowed", f"{name} is not known"))
        return Plan(Decision("allow"), sql, (changed(found, session_name=name, **changes),), True)

    return plan


@pytest.fixture
def session_names(answers: Engine) -> Engine:
    """PREPARE p and DECLARE d, with their EXECUTE, FETCH, DEALLOCATE and CLOSE."""
    prepare = changed(SELECT, session_verb="prepare", session_name="p")
    declare = changed(SELECT, session_verb="declare", session_name="d")
    answers.plans[PREPARE] = by_policy(PREPARE, prepare)
    answers.plans[DECLARE] = by_policy(DECLARE, declare)
    answers.plans["EXECUTE p"] = by_name("prepared", "p", session_verb="execute")
    answers.plans["FETCH 2 FROM d"] = by_name("portals", "d", session_verb="fetch")
    answers.allow("DEALLOCATE p", changed(SELECT, session_verb="deallocate", session_name="p"))
    answers.allow("CLOSE d", changed(SELECT, session_verb="close", session_name="d"))
    return answers


async def test_execute_is_judged_by_what_was_prepared(connect: Connect, session_names: Engine) -> None:
    conn = await connect(autocommit=True)
    with pytest.raises(guarddb.PolicyViolation, match="p is not known"):
        await run(conn.execute("EXECUTE p"))
    await run(conn.execute(PREPARE))
    assert len(await run((await run(conn.execute("EXECUTE p"))).fetchall())) == 5
    await run(conn.execute("DEALLOCATE p"))
    with pytest.raises(guarddb.PolicyViolation, match="p is not known"):
        await run(conn.execute("EXECUTE p"))


async def test_failed_prepare_leaves_no_name(connect: Connect, session_names: Engine) -> None:
    session_names.allow(
        "PREPARE p AS SELECT nowhere", changed(SELECT, session_verb="prepare", session_name="p")
    )
    conn = await connect(autocommit=True)
    with pytest.raises(psycopg.errors.UndefinedColumn):
        await run(conn.execute("PREPARE p AS SELECT nowhere"))
    with pytest.raises(guarddb.PolicyViolation, match="p is not known"):
        await run(conn.execute("EXECUTE p"))


async def test_second_prepare_of_a_name_does_not_replace_the_first(
    connect: Connect, session_names: Engine
) -> None:
    capped = changed(SELECT, session_verb="prepare", session_name="p", row_cap=1)
    session_names.allow("PREPARE p AS SELECT 1", capped)
    conn = await connect(autocommit=True)
    await run(conn.execute("PREPARE p AS SELECT 1"))
    with pytest.raises(psycopg.errors.DuplicatePreparedStatement):
        await run(conn.execute(PREPARE))
    assert conn._guard.names.prepared["p"].statement.handling.row_cap == 1


async def test_execute_in_the_pipeline_of_its_prepare(connect: Connect, session_names: Engine) -> None:
    conn = await connect(autocommit=True)
    async with block(conn.pipeline()):
        await run(conn.execute(PREPARE))
        cur = await run(conn.execute("EXECUTE p"))
        assert len(await run(cur.fetchall())) == 5


async def test_fetch_counts_against_its_portals_cap(connect: Connect, session_names: Engine) -> None:
    conn = await connect(policy=Reloadable(max_rows=3))
    await run(conn.execute(DECLARE))
    cur = await run(conn.execute("FETCH 2 FROM d"))
    assert await run(cur.fetchall()) == [(1,), (2,)]
    await run(cur.execute("FETCH 2 FROM d"))
    assert await run(cur.fetchall()) == [(3,)]
    assert cur.truncated


async def test_portal_is_forgotten_with_its_transaction(connect: Connect, session_names: Engine) -> None:
    conn = await connect()
    for end in (conn.commit, conn.rollback):
        await run(conn.execute(DECLARE))
        await run(conn.execute("FETCH 2 FROM d"))
        await run(end())
        with pytest.raises(guarddb.PolicyViolation, match="d is not known"):
            await run(conn.execute("FETCH 2 FROM d"))


def held_portals(text: str) -> set[str | None]:
    """Which portals a text declares WITH HOLD, as the engine says."""
    plan = engine.decide(text, engine.compile_policy(guarddb.PolicyProfile(name="any")), None, NO_NAMES)
    return {each.facts.session_name for each in plan.statements if each.facts.holds}


async def test_portal_with_hold_outlives_its_transaction(connect: Connect, session_names: Engine) -> None:
    text = "DECLARE d CURSOR WITH HOLD FOR SELECT generate_series(1, 5)"
    assert held_portals(text) == {"d"}
    assert held_portals(f"SELECT 1; {text}") == {"d"}
    assert held_portals(f"{text}; DECLARE e CURSOR FOR SELECT 1") == {"d"}
    assert held_portals("DECLARE d CURSOR /* WITH HOLD */ FOR SELECT 1") == set()
    session_names.allow(text, changed(SELECT, session_verb="declare", session_name="d", holds=True))
    conn = await connect()
    await run(conn.execute(text))
    await run(conn.commit())
    cur = await run(conn.execute("FETCH 2 FROM d"))
    assert await run(cur.fetchall()) == [(1,), (2,)]


async def test_changed_policy_is_obeyed_by_the_next_statement(connect: Connect, answers: Engine) -> None:
    answers.plans["SELECT generate_series(1, 9)"] = by_policy("SELECT generate_series(1, 9)", SELECT)
    source = Reloadable()
    conn = await connect(policy=source)
    cur = conn.cursor()
    for _ in range(7):  # prepared by psycopg
        await run(cur.execute("SELECT generate_series(1, 9)"))
    assert cur.rowcount == 9
    source.change(max_rows=4)
    await run(cur.execute("SELECT generate_series(1, 9)"))
    assert cur.rowcount == 4
    assert conn.policy.max_rows == 4


async def test_changed_policy_refuses_what_was_prepared_otherwise(
    connect: Connect, session_names: Engine
) -> None:
    source = Reloadable()
    conn = await connect(policy=source, autocommit=True)
    await run(conn.execute(PREPARE))
    source.change(name="another name")
    await run(conn.execute("EXECUTE p"))  # nothing changes for it
    source.change(max_rows=4)
    with pytest.raises(guarddb.PolicyViolation, match="the policy changed") as caught:
        await run(conn.execute("EXECUTE p"))
    assert caught.value.hint == "close it and PREPARE it again"


async def test_changed_policy_stops_the_next_fetch_of_an_open_cursor(
    connect: Connect, answers: Engine
) -> None:
    text = 'DECLARE "c" CURSOR FOR SELECT generate_series(1, 9)'
    answers.plans[text] = by_policy(text, SELECT)
    source = Reloadable()
    conn = await connect(policy=source)
    async with block(conn.cursor("c")) as cur:
        await run(cur.execute("SELECT generate_series(1, 9)"))
        assert len(await run(cur.fetchmany(2))) == 2
        source.change(max_rows=4)
        with pytest.raises(guarddb.PolicyViolation, match="the policy changed"):
            await run(cur.fetchmany(2))
        with pytest.raises(guarddb.PolicyViolation, match="the policy changed"):
            await run(cur.scroll(1))


async def test_unknown_portal_is_refused_when_the_policy_restricts(connect: Connect) -> None:
    conn = await connect(policy=open_policy(max_rows=10))
    async with block(conn.cursor("opened_by_a_function")) as cur:
        with pytest.raises(guarddb.PolicyViolation, match="nothing is known"):
            await run(cur.fetchone())


async def test_policy_that_cannot_be_read_refuses(connect: Connect) -> None:
    source = Reloadable()
    conn = await connect(policy=source)
    await run(conn.execute("SELECT 1"))
    current = source.current
    source.current = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(guarddb.PolicyUnavailable) as caught:
        await run(conn.execute("SELECT 1"))
    assert caught.value.rule == "policy_unavailable"
    assert isinstance(caught.value, psycopg.OperationalError)
    source.current = current  # type: ignore[method-assign]
    await run(conn.execute("SELECT 1"))


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_cursor_that_went_with_its_transaction_is_missed_as_by_psycopg(
    connect: Connect, end: str
) -> None:
    """Nothing is known about it any more, but this cursor opened it: the server's own error is the truth."""
    conn = await connect(policy=open_policy(max_rows=100))
    async with block(conn.cursor("gone")) as cur:
        await run(cur.execute("SELECT generate_series(0, 2)"))
        assert await run(cur.fetchone()) == (0,)
        await run(getattr(conn, end)())
        for use in (cur.fetchone, cur.fetchall, lambda: cur.scroll(1)):
            with pytest.raises(psycopg.errors.InvalidCursorName, match='cursor "gone" does not exist'):
                await run(use())
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        await run(cur.execute("SELECT generate_series(0, 2)"))
        assert await run(cur.fetchall()) == [(0,), (1,), (2,)]
