"""`write_mode: rollback`: everything runs for real, and nothing of it stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import guarddb
from tests.driver.conftest import Connect, block, collect, open_policy, run

IDLE = psycopg.pq.TransactionStatus.IDLE
TABLES = """
    DROP TABLE IF EXISTS child, parent, checked CASCADE;
    CREATE TABLE parent (id int PRIMARY KEY, n int);
    CREATE TABLE child (
        id int PRIMARY KEY,
        parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED
    );
    INSERT INTO parent SELECT i, i FROM generate_series(1, 10) i;
"""


def open_rollback(**fields: Any) -> dict[str, Any]:
    every = {
        "allow": [
            "select",
            "insert",
            "update",
            "delete",
            "ddl",
            "copy",
            "set",
            "show",
            "explain",
            "transaction",
            "other",
        ]
    }
    return open_policy(write_mode="rollback", statement_rules=every, **fields)


@pytest.fixture
async def conn(connect: Connect, dsn: str, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute(TABLES)
    conn = await connect(policy=open_rollback(), autocommit=request.param)
    yield conn
    await run(conn.close())
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("DROP TABLE IF EXISTS child, parent, checked CASCADE")


transaction = pytest.mark.parametrize("conn", [False], indirect=True, ids=["transaction"])
both = pytest.mark.parametrize("conn", [False, True], indirect=True, ids=["transaction", "autocommit"])

DUMP = "SELECT (SELECT json_agg(p ORDER BY id) FROM parent p)::text, (SELECT json_agg(c ORDER BY id) FROM child c)::text"


def contents(dsn: str) -> Any:
    with psycopg.connect(dsn) as plain:
        tables = plain.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
        )
        return tables.fetchall(), plain.execute(DUMP).fetchone()


@both
async def test_counts_and_returning_are_true_and_nothing_stays(conn: Any, dsn: str) -> None:
    before = contents(dsn)
    cur = await run(conn.execute("UPDATE parent SET n = 0 WHERE id > %s", (4,)))
    assert cur.rowcount == 6
    cur = await run(conn.execute("DELETE FROM parent WHERE id < 3 RETURNING id"))
    assert sorted(await run(cur.fetchall())) == [(1,), (2,)]
    await run(cur.executemany("INSERT INTO parent VALUES (%s, 0)", [(20,), (21,)]))
    assert cur.rowcount == 2
    async with block(conn.pipeline()):
        await run(conn.execute("INSERT INTO parent VALUES (30, 0)"))
        cur = await run(conn.execute("INSERT INTO parent VALUES (31, 0) RETURNING id"))
        assert await run(cur.fetchall()) == [(31,)]
    assert await collect(conn.cursor().stream("INSERT INTO parent VALUES (40, 0) RETURNING id")) == [(40,)]
    async with block(conn.cursor().copy("COPY parent FROM STDIN")) as copy:
        await run(copy.write_row((50, 0)))
    await run(conn.execute("CREATE TABLE checked (id int)"))
    with pytest.raises(psycopg.errors.UniqueViolation):
        await run(conn.execute("INSERT INTO parent VALUES (3, 0)"))
    await run(conn.commit())
    assert contents(dsn) == before
    assert conn.info.transaction_status == IDLE
    assert (await run((await run(conn.execute("SELECT count(*) FROM parent"))).fetchone())) == (10,)


@transaction
@pytest.mark.parametrize(
    "end", ["commit()", "COMMIT", "END", "COMMIT AND CHAIN", "with conn", "transaction", "nested", "pipeline"]
)
async def test_every_way_to_commit_rolls_back(conn: Any, dsn: str, end: str) -> None:
    before = contents(dsn)
    write = "UPDATE parent SET n = -1 WHERE id = 1"
    if end == "transaction":
        async with block(conn.transaction()):
            await run(conn.execute(write))
    elif end == "nested":
        async with block(conn.transaction()):
            await run(conn.execute(write))
            async with block(conn.transaction()):
                await run(conn.execute("DELETE FROM parent WHERE id = 2"))
            cur = await run(conn.execute("SELECT count(*) FROM parent"))
            assert await run(cur.fetchone()) == (9,)  # within its transaction it sees what it did
    elif end == "pipeline":
        async with block(conn.pipeline()):
            await run(conn.execute(write))
            await run(conn.commit())
    elif end == "with conn":
        async with block(conn):
            await run(conn.execute(write))
        assert contents(dsn) == before
        return
    else:
        await run(conn.execute(write))
        if end == "commit()":
            await run(conn.commit())
        else:
            await run(conn.execute(end))
    chained = end == "COMMIT AND CHAIN"
    assert (conn.info.transaction_status == IDLE) is not chained
    await run(conn.rollback())
    assert contents(dsn) == before
    cur = await run(conn.execute("SELECT n FROM parent WHERE id = 1"))
    assert await run(cur.fetchone()) == (1,)


@transaction
@pytest.mark.parametrize("end", ["commit()", "COMMIT", "transaction", "pipeline"])
async def test_a_commit_that_would_fail_fails(conn: Any, dsn: str, end: str) -> None:
    before = contents(dsn)
    orphan = "INSERT INTO child VALUES (1, 99)"

    async def commit() -> None:
        if end == "transaction":
            async with block(conn.transaction()):
                await run(conn.execute(orphan))
        elif end == "pipeline":
            async with block(conn.pipeline()):
                await run(conn.execute(orphan))
                await run(conn.commit())
        else:
            await run(conn.execute(orphan))
            await run(conn.commit() if end == "commit()" else conn.execute("COMMIT"))

    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        await commit()
    assert conn.info.transaction_status == IDLE
    assert contents(dsn) == before
    await run(conn.execute("SELECT 1"))


@pytest.mark.parametrize("conn", [True], indirect=True, ids=["autocommit"])
async def test_autocommit_checks_what_is_deferred(conn: Any, dsn: str) -> None:
    before = contents(dsn)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        await run(conn.execute("INSERT INTO child VALUES (1, 99)"))
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        await run(conn.cursor().executemany("INSERT INTO child VALUES (%s, 99)", [(1,), (2,)]))
    assert (await run(conn.execute("INSERT INTO child VALUES (1, 3)"))).rowcount == 1
    assert contents(dsn) == before
    assert conn.info.transaction_status == IDLE
    # Settings of the session are no writes, and stay.
    await run(conn.execute("SET application_name = 'rehearsal'"))
    assert conn.info.parameter_status("application_name") == "rehearsal"


@transaction
async def test_two_phases_are_refused(conn: Any, dsn: str) -> None:
    before = contents(dsn)
    xid = conn.xid(1, "gtrid", "bqual")
    await run(conn.tpc_begin(xid))
    await run(conn.execute("DELETE FROM parent WHERE id > 0"))
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.tpc_prepare())
    await run(conn.tpc_rollback())
    await run(conn.tpc_begin(xid))
    await run(conn.execute("DELETE FROM parent WHERE id > 0"))
    await run(conn.tpc_commit())
    assert contents(dsn) == before
    for text in ("PREPARE TRANSACTION 'x'", "COMMIT PREPARED 'x'", "ROLLBACK PREPARED 'x'"):
        with pytest.raises(guarddb.PolicyViolation):
            await run(conn.execute(text))
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("COMMIT; COMMIT"))


@both
async def test_a_connection_that_is_killed_or_closed_leaves_nothing(conn: Any, dsn: str) -> None:
    before = contents(dsn)
    await run(conn.execute("DELETE FROM parent WHERE id > 0"))
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("SELECT pg_terminate_backend(%s, 5000)", (conn.info.backend_pid,))
    with pytest.raises(psycopg.OperationalError):
        await run(conn.execute("DELETE FROM parent WHERE id > 0"))
    assert conn.closed
    assert contents(dsn) == before


@both
async def test_an_error_leaves_what_plain_psycopg_leaves(conn: Any) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        await run(conn.execute("UPDATE parent SET n = 1/0 WHERE id > 0"))
    failed = psycopg.pq.TransactionStatus.INERROR
    assert conn.info.transaction_status == (IDLE if conn.autocommit else failed)
    await run(conn.commit())
    assert conn.info.transaction_status == IDLE


WRITE = st.sampled_from(
    [
        "UPDATE parent SET n = n + 1 WHERE id > 3",
        "INSERT INTO parent VALUES ((random() * 1000000)::int + 100, 1)",
        "INSERT INTO parent VALUES (1, 1)",
        "DELETE FROM parent WHERE id = 7",
        "INSERT INTO child VALUES ((random() * 1000000)::int, 99)",
        "INSERT INTO child VALUES ((random() * 1000000)::int, 2)",
        "SELECT 1/0",
        "CREATE TABLE made (id int)",
        "ALTER TABLE parent ADD COLUMN extra int",
        "UPDATE parent SET n = 0 WHERE id < 5; DELETE FROM parent WHERE id = 8",
        "SELECT count(*) FROM parent",
    ]
)
STEP: st.SearchStrategy[tuple[str, Any]] = st.one_of(
    st.tuples(st.just("execute"), WRITE),
    st.tuples(
        st.just("execute"),
        st.sampled_from(["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a", "RELEASE a", "ROLLBACK TO a"]),
    ),
    st.tuples(st.sampled_from(["commit", "rollback"]), st.none()),
    st.tuples(
        st.just("many"),
        st.sampled_from(["INSERT INTO parent VALUES (%s, 0)", "UPDATE parent SET n = 0 WHERE id > %s"]),
    ),
    st.tuples(st.sampled_from(["pipeline", "transaction"]), st.lists(WRITE, max_size=3)),
    st.tuples(st.just("autocommit"), st.booleans()),
)


def perform(conn: Any, kind: str, what: Any) -> None:
    if kind == "execute":
        conn.execute(what)
    elif kind == "many":
        conn.cursor().executemany(what, [(200,), (201,), (202,)])
    elif kind == "pipeline":
        with conn.pipeline():
            for text in what:
                conn.execute(text)
    elif kind == "transaction":
        with conn.transaction():
            for text in what:
                conn.execute(text)
    elif kind == "autocommit":
        conn.autocommit = what
    else:
        getattr(conn, kind)()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, min_size=1, max_size=8), autocommit=st.booleans())
def test_random_scripts_leave_the_database_as_it_was(
    fresh_dsn: str, steps: list[tuple[str, Any]], autocommit: bool
) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as plain:
        plain.execute("DROP TABLE IF EXISTS made")
        plain.execute(TABLES)
    before = contents(fresh_dsn)
    conn = guarddb.connect(fresh_dsn, policy=open_rollback(), autocommit=autocommit)
    for step in [*steps, ("commit", None)]:
        with suppress(psycopg.Error):
            perform(conn, *step)
        assert not conn.closed
    conn.close()
    assert contents(fresh_dsn) == before
