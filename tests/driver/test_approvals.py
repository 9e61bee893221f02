"""Statements that wait for a person: what is asked, what the answer holds for, and what happens without a clear one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb.runtime.approvals import Answer, ApprovalRequest, ApproverLost
from tests.driver.conftest import Connect, as_new, block, collect, open_policy, run
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
                plain.execute("SET lock_timeout = '20s'")
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


@pytest.fixture(scope="module", autouse=True)
def leaves_no_tables(dsn: str) -> Iterator[None]:
    yield
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("SET lock_timeout = '5s'")
        plain.execute("DROP TABLE IF EXISTS held")


@pytest.fixture
async def conn(
    connect: Connect, dsn: str, person: Person, request: pytest.FixtureRequest
) -> AsyncIterator[Any]:
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("SET lock_timeout = '5s'")
        as_new(plain, held="id int PRIMARY KEY, n int")
        plain.execute("INSERT INTO held SELECT i, i FROM generate_series(1, 10) i")
    policy = open_policy(approval_mode="all", approval_auto_max_rows=2)
    conn = await connect(policy=policy, approver=person, agent="bot", autocommit=request.param)
    yield conn
    await run(conn.close())
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("SET lock_timeout = '60s'")
        plain.execute("DROP TABLE IF EXISTS made")


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
async def test_what_the_program_changes_meanwhile_does_not_run(conn: Any, dsn: str, person: Person) -> None:
    many = [[20, 0], [21, 0], [22, 0]]

    def change() -> None:
        many[0][0] = 99
        many.append([98, 0])

    person.meanwhile = change
    await run(conn.cursor().executemany("INSERT INTO held VALUES (%s, %s)", many))
    await commit(conn)
    assert left(dsn) == [*BEFORE, (20, 0), (21, 0), (22, 0)]


@both
async def test_a_no_the_second_time_is_reported_as_nothing(conn: Any, dsn: str, person: Person) -> None:
    """More rows than were approved ask again; who then says no is not told that it has failed."""

    def another_row() -> None:
        with psycopg.connect(dsn, autocommit=True) as plain:
            plain.execute("INSERT INTO held VALUES (99, 99)")
        person.meanwhile = None

    person.meanwhile = another_row
    person.answers = [True, False]
    with pytest.raises(guarddb.ApprovalRejected):
        await run(conn.execute("DELETE FROM held WHERE id > 5"))
    assert person.reported == ["failed"]
    assert len(left(dsn)) == 11


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
    prepared = "PREPARE p AS DELETE FROM held WHERE id > $1"
    assert person.asked[-1].sql == f"{prepared};\nEXECUTE p (2)"
    await run(conn.execute("INSERT INTO held VALUES (31, 31), (32, 32)"))
    await run(conn.execute("INSERT INTO held VALUES (33, 33)"))
    person.answers = [False]
    with pytest.raises(guarddb.ApprovalRejected):
        await run(conn.execute("EXECUTE p (1); DELETE FROM held WHERE id = 1; EXECUTE p (0)"))
    assert person.asked[-1].sql.startswith(f"{prepared};\nEXECUTE p (1); DELETE")
    # Under the same name something else: it is asked about as what it is.
    await run(conn.execute("DEALLOCATE p"))
    await run(conn.execute("PREPARE p AS DELETE FROM held WHERE n > $1"))
    with pytest.raises(guarddb.ApprovalRejected):
        await run(conn.execute("EXECUTE p (0)"))
    assert "WHERE n > $1" in person.asked[-1].sql


@both
@pytest.mark.parametrize("size", [1, 2, 100])
async def test_stream_waits_and_then_hands_out_the_rows(
    conn: Any, dsn: str, person: Person, size: int
) -> None:
    cur = conn.cursor()
    stream = cur.stream("DELETE FROM held WHERE id > %s RETURNING id", (6,), size=size)
    assert sorted(await collect(stream)) == [(7,), (8,), (9,), (10,)]
    assert [request.counted_rows for request in person.asked] == [4]
    assert person.reported == ["executed"]
    assert sorted(await collect(cur.stream("DELETE FROM held WHERE id = 6 RETURNING id", size=size))) == [
        (6,)
    ]
    person.locked_before = not conn.autocommit
    person.answers = [False]
    with pytest.raises(guarddb.ApprovalRejected):
        await collect(cur.stream("DELETE FROM held WHERE id > 0 RETURNING id", size=size))
    with pytest.raises(psycopg.ProgrammingError, match="didn't produce a result"):
        await collect(cur.stream("DELETE FROM held WHERE id > 0", size=size))
    with pytest.raises(ValueError, match="size must be"):
        await collect(cur.stream("DELETE FROM held WHERE id > 0 RETURNING id", size=0))
    assert await collect(cur.stream("SELECT count(*) FROM held", size=size)) == [(5,)]
    await commit(conn)
    assert left(dsn) == BEFORE[:5]
    assert len(person.asked) == 2


@both
@pytest.mark.parametrize(
    "policy",
    [{"max_rows": 2}, {"masking_rules": [{"table": "held", "column": "n", "kind": "null"}]}],
    ids=str,
)
async def test_a_stream_that_waited_shows_what_any_stream_shows(
    connect: Connect, conn: Any, person: Person, policy: dict[str, Any]
) -> None:
    text = "UPDATE held SET id = id WHERE id < 5 RETURNING id, n"
    shown = []
    for held in ({}, {"approval_mode": "writes"}):
        other = await connect(
            policy=open_policy(**policy, **held), approver=person, autocommit=conn.autocommit
        )
        cur = other.cursor()
        rows = await collect(cur.stream(text))
        shown.append((sorted(rows), cur.truncated, cur.description[1].name, cur.decision.verdict))
        await run(other.close())
    assert shown[0] == shown[1]
    assert len(person.asked) == 1


@both
async def test_a_write_inside_copy_is_asked_about_before_it_runs(conn: Any, dsn: str, person: Person) -> None:
    text = "COPY (DELETE FROM held WHERE id > 5 RETURNING id) TO STDOUT"
    async with block(conn.cursor().copy(text)) as copy:
        rows = [row async for row in each_row(copy)]
    assert sorted(rows) == [("10",), ("6",), ("7",), ("8",), ("9",)]
    assert [request.rows for request in person.asked] == [None]
    assert person.reported == ["executed"]
    person.locked_before = not conn.autocommit
    person.answers = [False]
    with pytest.raises(guarddb.ApprovalRejected):
        async with block(conn.cursor().copy(text)):
            pass
    await commit(conn)
    assert left(dsn) == BEFORE[:5]
    person.answers = [True]
    person.locked_before = False
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        async with block(conn.cursor().copy(f"{text} (ENCODING 'none')")):
            pass
    assert person.reported == ["executed", "failed"]


@both
async def test_a_write_that_cannot_be_counted_is_estimated(conn: Any, dsn: str, person: Person) -> None:
    await run(conn.execute("WITH gone AS (DELETE FROM held WHERE id = 1 RETURNING id) SELECT * FROM gone"))
    (request,) = person.asked
    assert request.counted_rows is None
    assert request.estimated_rows == 1
    await commit(conn)
    assert left(dsn) == BEFORE[1:]


async def each_row(copy: Any) -> AsyncIterator[Any]:
    if hasattr(copy, "__aiter__"):
        async for row in copy.rows():
            yield row
    else:
        for row in copy.rows():
            yield row


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
        async with asyncio.timeout(60):
            await other.wait()
        async with await guarddb.AsyncConnection.connect(dsn, policy=open_policy()) as second:
            assert await (await second.execute("SELECT 1")).fetchone() == (1,)
        assert not waiting.done()
        release.set()
        async with asyncio.timeout(60):
            await waiting
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
        async with asyncio.timeout(60):
            await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert reported == ["expired"]
        assert conn.info.transaction_status == IDLE
        with pytest.raises(psycopg.errors.UndefinedTable):
            await conn.execute("SELECT * FROM never")
