"""Statements that wait for a person: what is asked, what the answer holds for, and what happens without a clear one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb.runtime.approvals import Answer, ApprovalRequest, ApproverLost
from tests.driver.conftest import Connect, block, collect, open_policy, run
from tests.driver.test_names import Reloadable

IDLE = psycopg.pq.TransactionStatus.IDLE
INTRANS = psycopg.pq.TransactionStatus.INTRANS
BEFORE = [(i, i) for i in range(1, 11)]


class Person:
    """An approver that notes what it is asked, and whether anybody holds a lock meanwhile."""

    def __init__(self, dsn: str, answer: Any = True) -> None:
        self.dsn = dsn
        self.answers = [answer]
        self.asked: list[ApprovalRequest] = []
        self.reported: list[str] = []
        self.meanwhile: Any = None
        #: earlier statements of the agent's transaction hold locks
        self.locked_before = False

    def submit(self, request: ApprovalRequest) -> ApprovalRequest:
        return request

    def wait(self, request: ApprovalRequest, timeout: float | None) -> Answer:
        self.asked.append(request)
        if not self.locked_before:
            with psycopg.connect(self.dsn, autocommit=True) as plain:
                plain.execute("SET lock_timeout = '2s'")
                plain.execute("UPDATE held SET n = n WHERE id > 0")
        if self.meanwhile is not None:
            self.meanwhile()
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, bool):
            return Answer("approved" if answer else "rejected", "somebody", None, request.id)
        return answer

    def report(self, request: ApprovalRequest, status: str) -> None:
        self.reported.append(status)


@pytest.fixture
def person(dsn: str) -> Person:
    return Person(dsn)


@pytest.fixture
async def conn(
    connect: Connect, dsn: str, person: Person, request: pytest.FixtureRequest
) -> AsyncIterator[Any]:
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("DROP TABLE IF EXISTS held, made")
        plain.execute("CREATE TABLE held (id int PRIMARY KEY, n int)")
        plain.execute("INSERT INTO held SELECT i, i FROM generate_series(1, 10) i")
    policy = open_policy(approval_mode="all", approval_auto_max_rows=2)
    conn = await connect(policy=policy, approver=person, agent="bot", autocommit=request.param)
    yield conn
    await run(conn.close())
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("SET lock_timeout = '5s'")
        plain.execute("DROP TABLE IF EXISTS held, made")


both = pytest.mark.parametrize("conn", [False, True], indirect=True, ids=["transaction", "autocommit"])


def left(dsn: str) -> list[tuple[int, int]]:
    with psycopg.connect(dsn) as plain:
        return plain.execute("SELECT id, n FROM held ORDER BY id").fetchall()


async def commit(conn: Any) -> None:
    if not conn.autocommit:
        await run(conn.commit())


@both
async def test_an_approved_write_runs_once_and_the_person_sees_the_true_count(
    conn: Any, dsn: str, person: Person
) -> None:
    notices: list[Any] = []
    conn.add_notice_handler(notices.append)
    cur = await run(conn.execute("UPDATE held SET n = n + 100 WHERE id > %s RETURNING id", (4,)))
    assert len(await run(cur.fetchall())) == 6
    await commit(conn)
    assert left(dsn) == [*BEFORE[:4], *((i, i + 100) for i in range(5, 11))]
    (request,) = person.asked
    assert (request.kind, request.tables, request.counted_rows, request.agent) == (
        "update",
        ("public.held",),
        6,
        "bot",
    )
    assert request.sql == "UPDATE held SET n = n + 100 WHERE id > $1 RETURNING id"
    assert request.parameters == ("4",)
    assert (request.policy, request.policy_version) == (conn.policy.name, conn.policy.version)
    assert request.catalog_version
    assert person.reported == ["executed"]
    (notice,) = [n for n in notices if "held" in n.message_primary]
    assert notice.message_primary == f"statement held for approval (request {request.id})"


@both
async def test_few_rows_need_nobody(conn: Any, dsn: str, person: Person) -> None:
    assert (await run(conn.execute("UPDATE held SET n = 0 WHERE id > 8"))).rowcount == 2
    assert (await run(conn.execute("INSERT INTO held VALUES (11, 0)"))).rowcount == 1
    await commit(conn)
    assert person.asked == []
    assert left(dsn) == [*BEFORE[:8], (9, 0), (10, 0), (11, 0)]


@both
async def test_reads_and_copy_never_wait(conn: Any, person: Person) -> None:
    await run(conn.execute("SELECT * FROM held"))
    await run(conn.execute("EXPLAIN DELETE FROM held WHERE id > 0"))
    async with block(conn.cursor().copy("COPY held FROM STDIN")) as copy:
        await run(copy.write_row((21, 0)))
    assert person.asked == []


@both
@pytest.mark.parametrize(
    ("answer", "error", "rule"),
    [
        (False, guarddb.ApprovalRejected, "approval_rejected"),
        (Answer("expired"), guarddb.ApprovalExpired, "approval_expired"),
        (ApproverLost("gone"), guarddb.PolicyViolation, "approval_unavailable"),
        (OSError("gone"), guarddb.PolicyViolation, "approval_unavailable"),
        ("yes", guarddb.PolicyViolation, "approval_unavailable"),
        (Answer("approved", request_id="apr_of_another"), guarddb.PolicyViolation, "approval_unavailable"),
    ],
)
@pytest.mark.parametrize("text", ["DELETE FROM held WHERE id > 3", "CREATE TABLE made (id int)"])
async def test_no_clear_yes_is_a_refusal(
    conn: Any, dsn: str, person: Person, answer: Any, error: Any, rule: str, text: str
) -> None:
    await run(conn.execute("SELECT 1"))
    person.answers = [answer]
    with pytest.raises(error) as caught:
        await run(conn.execute(text))
    assert caught.value.rule == rule
    assert caught.value.sqlstate == "42501"
    assert caught.value.hint
    assert conn.info.transaction_status == (IDLE if conn.autocommit else INTRANS)
    assert left(dsn) == BEFORE
    await run(conn.execute("UPDATE held SET n = 5 WHERE id = 5"))
    await commit(conn)
    with psycopg.connect(dsn) as plain:
        assert plain.execute("SELECT to_regclass('made')").fetchone() == (None,)


@both
async def test_nobody_to_ask(connect: Connect, conn: Any, dsn: str) -> None:
    lonely = await connect(policy=open_policy(approval_mode="writes"), autocommit=conn.autocommit)
    await run(lonely.execute("CREATE TEMP TABLE made (id int)"))
    with pytest.raises(guarddb.PolicyViolation) as caught:
        await run(lonely.execute("DELETE FROM held WHERE id = 1"))
    assert caught.value.rule == "approval_unavailable"
    assert left(dsn) == BEFORE
    await run(lonely.close())


@both
async def test_more_rows_than_were_approved_ask_again(conn: Any, dsn: str, person: Person) -> None:
    def another_row() -> None:
        with psycopg.connect(dsn, autocommit=True) as plain:
            plain.execute("INSERT INTO held VALUES (99, 99)")
        person.meanwhile = None

    person.meanwhile = another_row
    cur = await run(conn.execute("DELETE FROM held WHERE id > 5"))
    assert cur.rowcount == 6
    assert [request.counted_rows for request in person.asked] == [5, 6]
    assert person.reported == ["failed", "executed"]


async def test_another_policy_asks_again(connect: Connect, dsn: str, person: Person) -> None:
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("DROP TABLE IF EXISTS held")
        plain.execute("CREATE TABLE held (id int PRIMARY KEY, n int)")
        plain.execute("INSERT INTO held SELECT i, i FROM generate_series(1, 10) i")
    source = Reloadable(approval_mode="writes")
    conn = await connect(policy=source, approver=person, autocommit=True)

    def other_policy() -> None:
        source.change(max_affected_rows=8)
        person.meanwhile = None

    person.meanwhile = other_policy
    assert (await run(conn.execute("DELETE FROM held WHERE id > 5"))).rowcount == 5
    assert len(person.asked) == 2
    assert person.asked[0].policy_version != person.asked[1].policy_version
    # And a policy that refuses it by then refuses it.
    person.meanwhile = lambda: source.change(table_denylist=("held",))
    with pytest.raises(guarddb.PolicyViolation) as caught:
        await run(conn.execute("DELETE FROM held WHERE id < 4"))
    assert caught.value.rule == "table_denied"
    with psycopg.connect(dsn, autocommit=True) as plain:
        assert plain.execute("SELECT count(*) FROM held").fetchone() == (5,)
        plain.execute("DROP TABLE held")


@both
async def test_an_approved_write_still_has_its_cap(
    connect: Connect, conn: Any, dsn: str, person: Person
) -> None:
    capped = await connect(
        policy=open_policy(approval_mode="writes", max_affected_rows=3),
        approver=person,
        autocommit=conn.autocommit,
    )
    with pytest.raises(guarddb.PolicyViolation) as caught:
        await run(capped.execute("DELETE FROM held WHERE id > 2"))
    assert caught.value.rule == "max_affected_rows"
    assert person.asked == []
    assert (await run(capped.execute("DELETE FROM held WHERE id > 7"))).rowcount == 3
    assert len(person.asked) == 1
    await run(capped.close())


@both
async def test_executemany_asks_once_about_all_of_it(conn: Any, dsn: str, person: Person) -> None:
    cur = conn.cursor()
    await run(cur.executemany("INSERT INTO held VALUES (%s, %s)", [(i, 0) for i in range(20, 25)]))
    assert cur.rowcount == 5
    (request,) = person.asked
    assert request.counted_rows == 5
    assert request.parameters is not None
    assert len(request.parameters) == 5
    await run(cur.executemany("INSERT INTO held VALUES (%s, %s)", [(30, 0), (31, 0)]))
    assert len(person.asked) == 1
    person.answers = [False]
    with pytest.raises(guarddb.ApprovalRejected):
        await run(cur.executemany("DELETE FROM held WHERE id > %s", [(1,), (2,)]))
    await commit(conn)
    assert len(left(dsn)) == 17


@both
async def test_pipeline_and_prepared_statements(conn: Any, dsn: str, person: Person) -> None:
    async with block(conn.pipeline()):
        await run(conn.execute("SELECT 1"))
        cur = await run(conn.execute("DELETE FROM held WHERE id > %s RETURNING id", (6,)))
        assert len(await run(cur.fetchall())) == 4
    person.locked_before = not conn.autocommit
    await run(conn.execute("PREPARE p AS DELETE FROM held WHERE id > $1"))
    assert len(person.asked) == 1
    await run(conn.execute("EXECUTE p (2)"))
    assert [request.counted_rows for request in person.asked] == [4, 4]
    with pytest.raises(guarddb.PolicyViolation) as caught:
        await collect(conn.cursor().stream("DELETE FROM held WHERE id > 0 RETURNING id"))
    assert caught.value.rule == "approval_unavailable"


@both
async def test_ddl_is_asked_about_before_it_runs(conn: Any, dsn: str, person: Person) -> None:
    await run(conn.execute("CREATE TABLE made (id int)"))
    (request,) = person.asked
    assert (request.kind, request.rows) == ("ddl", None)
    assert request.findings == ()
    await run(conn.execute("ALTER TABLE held ALTER COLUMN n TYPE bigint"))
    assert person.asked[-1].findings  # what the lint of migrations says of it
    await commit(conn)
    with psycopg.connect(dsn) as plain:
        assert plain.execute("SELECT to_regclass('made') IS NOT NULL").fetchone() == (True,)


async def test_waiting_does_not_hold_up_the_event_loop(dsn: str) -> None:
    release = asyncio.Event()
    other = asyncio.Event()

    async def approver(request: ApprovalRequest) -> bool:
        other.set()
        await release.wait()
        return True

    conn = await guarddb.AsyncConnection.connect(
        dsn, policy=open_policy(approval_mode="ddl"), approver=approver, autocommit=True
    )
    async with conn:
        waiting = asyncio.create_task(conn.execute("CREATE TEMP TABLE made_async (id int)"))
        await asyncio.wait_for(other.wait(), 20)
        async with await guarddb.AsyncConnection.connect(dsn, policy=open_policy()) as second:
            assert await (await second.execute("SELECT 1")).fetchone() == (1,)
        assert not waiting.done()
        release.set()
        await asyncio.wait_for(waiting, 20)
        await conn.execute("SELECT * FROM made_async")


async def test_a_cancelled_wait_withdraws_the_request(dsn: str) -> None:
    asked = asyncio.Event()
    reported: list[str] = []

    class Slow:
        async def submit(self, request: ApprovalRequest) -> ApprovalRequest:
            return request

        async def wait(self, request: ApprovalRequest, timeout: float | None) -> Answer:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

        async def report(self, request: ApprovalRequest, status: str) -> None:
            reported.append(status)

    conn = await guarddb.AsyncConnection.connect(
        dsn, policy=open_policy(approval_mode="all"), approver=Slow(), autocommit=True
    )
    async with conn:
        task = asyncio.create_task(conn.execute("CREATE TEMP TABLE never (id int)"))
        await asyncio.wait_for(asked.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert reported == ["expired"]
        assert conn.info.transaction_status == IDLE
        with pytest.raises(psycopg.errors.UndefinedTable):
            await conn.execute("SELECT * FROM never")
