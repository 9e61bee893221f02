"""`max_affected_rows`: a write that touches more rows is undone and refused, and the transaction goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import hypothesis
import psycopg
import pytest
from hypothesis import strategies as st

import guarddb
from tests.driver.conftest import Connect, block, collect, open_policy, run

CAP = 3
IDLE = psycopg.pq.TransactionStatus.IDLE
INTRANS = psycopg.pq.TransactionStatus.INTRANS


@pytest.fixture
async def conn(connect: Connect, dsn: str, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """A connection whose writes may touch three rows, and a table of ten."""
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("DROP TABLE IF EXISTS capped, other")
        plain.execute("CREATE TABLE capped (id int PRIMARY KEY, n int)")
        plain.execute("CREATE TABLE other (id int PRIMARY KEY, n int)")
        plain.execute("INSERT INTO capped SELECT i, i FROM generate_series(1, 10) i")
    conn = await connect(policy=open_policy(max_affected_rows=CAP), autocommit=request.param)
    yield conn
    await run(conn.close())
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("DROP TABLE IF EXISTS capped, other")


both = pytest.mark.parametrize("conn", [False, True], indirect=True, ids=["transaction", "autocommit"])


def left(dsn: str) -> list[tuple[int, int]]:
    with psycopg.connect(dsn) as plain:
        return plain.execute("SELECT id, n FROM capped ORDER BY id").fetchall()


BEFORE = [(i, i) for i in range(1, 11)]


async def refused(awaitable: Any) -> guarddb.PolicyViolation:
    with pytest.raises(guarddb.PolicyViolation) as caught:
        await run(awaitable()) if callable(awaitable) else await run(awaitable)
    assert caught.value.rule == "max_affected_rows"
    assert caught.value.hint
    return caught.value


WRITES = [
    ("UPDATE capped SET n = 0 WHERE id > 5", None),
    ("UPDATE capped SET n = 0 WHERE id > %s", (5,)),
    ("UPDATE capped SET n = 0 WHERE id > %s RETURNING id", (5,)),
    ("DELETE FROM capped WHERE id > %s", (5,)),
    ("DELETE FROM capped WHERE id > 5 RETURNING *", None),
    ("INSERT INTO capped SELECT i, 0 FROM generate_series(20, 30) i", None),
    ("INSERT INTO capped VALUES (21, 0), (22, 0), (23, 0), (24, 0)", None),
    ("INSERT INTO capped VALUES (generate_series(20, 30), 0)", None),
    (
        "INSERT INTO capped SELECT i, 0 FROM generate_series(1, 9) i ON CONFLICT (id) DO UPDATE SET n = -1",
        None,
    ),
    (
        (
            "MERGE INTO capped c USING generate_series(5, 15) s(i) ON c.id = s.i "
            "WHEN MATCHED THEN UPDATE SET n = 0 WHEN NOT MATCHED THEN INSERT VALUES (s.i, 0)"
        ),
        None,
    ),
]


@both
@pytest.mark.parametrize(("text", "params"), WRITES)
@pytest.mark.parametrize("how", ["execute", "prepare", "binary"])
async def test_more_rows_than_the_cap_are_undone(
    conn: Any, dsn: str, text: str, params: Any, how: str
) -> None:
    cur = conn.cursor(binary=how == "binary")
    options = {"prepare": True} if how == "prepare" else {}
    await run(cur.execute("SELECT 1"))
    error = await refused(lambda: cur.execute(text, params, **options))
    assert str(CAP) in str(error)
    assert cur.decision.rule == "max_affected_rows"
    assert conn.info.transaction_status == (IDLE if conn.autocommit else INTRANS)
    with pytest.raises(psycopg.ProgrammingError):
        await run(cur.fetchall())
    # The transaction goes on, and what stays within the cap is kept.
    await run(cur.execute("UPDATE capped SET n = -5 WHERE id IN (1, 2)", **options))
    assert cur.rowcount == 2
    if not conn.autocommit:
        await run(conn.commit())
    assert left(dsn) == [(1, -5), (2, -5), *BEFORE[2:]]


@both
@pytest.mark.parametrize(("text", "params"), WRITES)
async def test_the_first_statement_of_a_transaction(conn: Any, dsn: str, text: str, params: Any) -> None:
    await refused(lambda: conn.execute(text, params))
    assert conn.info.transaction_status == IDLE
    assert left(dsn) == BEFORE
    assert await run((await run(conn.execute("SELECT 1"))).fetchall()) == [(1,)]


@both
@pytest.mark.parametrize("returning", [False, True])
async def test_executemany_is_counted_by_statement_and_undone_as_a_whole(
    conn: Any, dsn: str, returning: bool
) -> None:
    text = "UPDATE capped SET n = 0 WHERE id BETWEEN %s AND %s" + (" RETURNING id" if returning else "")
    cur = conn.cursor()
    await run(cur.executemany(text, [(1, 3), (4, 6), (7, 9)], returning=returning))
    if returning:
        assert await run(cur.fetchall()) == [(1,), (2,), (3,)]
    else:
        assert cur.rowcount == 9
    await run(conn.rollback())
    if conn.autocommit:
        assert left(dsn) == [*((i, 0) for i in range(1, 10)), (10, 10)]
        return
    assert left(dsn) == BEFORE
    await run(conn.execute("SELECT 1"))
    await refused(lambda: cur.executemany(text, [(1, 3), (4, 8), (9, 10)], returning=returning))
    assert conn.info.transaction_status == INTRANS
    await run(conn.commit())
    assert left(dsn) == BEFORE


@both
async def test_pipeline(conn: Any, dsn: str) -> None:
    async with block(conn.pipeline()):
        await run(conn.execute("UPDATE capped SET n = -1 WHERE id = 1"))
        await refused(lambda: conn.execute("UPDATE capped SET n = 0 WHERE id > %s", (5,)))
        cur = await run(conn.execute("UPDATE capped SET n = -2 WHERE id < %s RETURNING id", (3,)))
        assert sorted(await run(cur.fetchall())) == [(1,), (2,)]
    if not conn.autocommit:
        await run(conn.commit())
    assert left(dsn) == [(1, -2), (2, -2), *BEFORE[2:]]


@both
async def test_sql_level_prepared_statement(conn: Any, dsn: str) -> None:
    await run(conn.execute("PREPARE p AS UPDATE capped SET n = 0 WHERE id > $1"))
    await refused(lambda: conn.execute("EXECUTE p (5)"))
    cur = await run(conn.execute("EXECUTE p (8)"))
    assert cur.rowcount == 2
    if not conn.autocommit:
        await run(conn.commit())
    assert left(dsn) == [*BEFORE[:8], (9, 0), (10, 0)]


@both
async def test_several_statements_of_a_text(conn: Any, dsn: str) -> None:
    await refused(
        lambda: conn.execute("UPDATE capped SET n = -1 WHERE id = 1; DELETE FROM capped WHERE id > 2")
    )
    cur = await run(conn.execute("DELETE FROM capped WHERE id > 8; DELETE FROM capped WHERE id > 6"))
    assert cur.rowcount == 2
    await run(conn.rollback())
    assert len(left(dsn)) == (6 if conn.autocommit else 10)


@both
@pytest.mark.parametrize("size", [1, 100])
async def test_stream(conn: Any, dsn: str, size: int) -> None:
    async def stream(text: str) -> list[Any]:
        return await collect(conn.cursor().stream(text, size=size))

    with pytest.raises(guarddb.PolicyViolation) as caught:
        await stream("DELETE FROM capped WHERE id > 5 RETURNING id")
    assert caught.value.rule == "max_affected_rows"
    assert left(dsn) == BEFORE
    assert len(await stream("DELETE FROM capped WHERE id > 8 RETURNING id")) == 2
    with pytest.raises(psycopg.ProgrammingError, match="didn't produce a result"):
        await stream("DELETE FROM capped WHERE id < 3")
    if not conn.autocommit:
        await run(conn.commit())
    assert left(dsn) == BEFORE[:8]


@both
async def test_copy_in(conn: Any, dsn: str) -> None:
    async def copy(ids: range) -> int:
        cur = conn.cursor()
        async with block(cur.copy("COPY other FROM STDIN")) as copy:
            for i in ids:
                await run(copy.write_row((i, 0)))
        return int(cur.rowcount)

    with pytest.raises(guarddb.PolicyViolation) as caught:
        await copy(range(10))
    assert caught.value.rule == "max_affected_rows"
    assert await copy(range(3)) == 3
    with pytest.raises(psycopg.errors.UniqueViolation):
        await copy(range(3))
    await run(conn.rollback())
    with psycopg.connect(dsn) as plain:
        expected = 3 if conn.autocommit else 0
        assert plain.execute("SELECT count(*) FROM other").fetchone() == (expected,)


@both
async def test_savepoints_of_the_agents_stay_its_own(conn: Any, dsn: str) -> None:
    """guarddb's savepoint is never in the way of one that is set, released or gone back to after it."""
    async with block(conn.transaction()):
        await run(conn.execute("UPDATE capped SET n = -1 WHERE id <= 2"))
        await run(conn.execute("SAVEPOINT a"))
        await run(conn.execute("UPDATE capped SET n = -2 WHERE id <= 2"))
        await run(conn.execute("ROLLBACK TO a"))
        await run(conn.execute("UPDATE capped SET n = n - 1 WHERE id <= 2"))
        async with block(conn.transaction()):
            await run(conn.execute("UPDATE capped SET n = n - 1 WHERE id <= 2"))
            await refused(lambda: conn.execute("DELETE FROM capped WHERE id > 2"))

        async def fails() -> None:
            async with block(conn.transaction()):
                await run(conn.execute("UPDATE capped SET n = -100 WHERE id <= 2"))
                await run(conn.execute("SELECT 1/0"))

        with pytest.raises(psycopg.errors.DivisionByZero):
            await fails()
        await run(conn.execute("RELEASE a"))
    assert left(dsn) == [(1, -3), (2, -3), *BEFORE[2:]]


@both
async def test_errors_of_the_server_leave_what_plain_psycopg_leaves(conn: Any) -> None:
    await run(conn.execute("SELECT 1"))
    with pytest.raises(psycopg.errors.DivisionByZero):
        await run(conn.execute("UPDATE capped SET n = 1 / 0 WHERE id > 5"))
    expected = IDLE if conn.autocommit else psycopg.pq.TransactionStatus.INERROR
    assert conn.info.transaction_status == expected
    await run(conn.rollback())
    assert (await run(conn.execute("UPDATE capped SET n = 1 WHERE id > 8"))).rowcount == 2


SHAPES: list[tuple[str, str]] = [
    (
        "WITH gone AS (DELETE FROM capped WHERE id > 1 RETURNING id) SELECT count(*) FROM gone",
        "_writable_cte",
    ),
    (
        "WITH x AS (DELETE FROM capped WHERE id = 1 RETURNING id) INSERT INTO other SELECT id, 0 FROM x",
        "_writable_cte",
    ),
    ("PREPARE q AS WITH gone AS (DELETE FROM capped WHERE id > 1) SELECT 1", "_writable_cte"),
    ("EXPLAIN ANALYZE DELETE FROM capped WHERE id > 1", ""),
    ("COPY (DELETE FROM capped WHERE id > 1 RETURNING id) TO STDOUT", ""),
]


@both
@pytest.mark.parametrize(("text", "rule"), SHAPES)
async def test_what_the_server_does_not_count_is_refused(conn: Any, dsn: str, text: str, rule: str) -> None:
    with pytest.raises(guarddb.PolicyViolation) as caught:
        await run(conn.execute(text))
    assert caught.value.rule == f"max_affected_rows{rule}"
    assert caught.value.decision is not None
    assert caught.value.decision.deciding == "max_affected_rows"
    assert left(dsn) == BEFORE


FREE: list[Callable[[Any], Any]] = [
    lambda conn: conn.execute("UPDATE capped SET n = 0 WHERE id = %s", (1,)),
    lambda conn: conn.execute("INSERT INTO capped VALUES (%s, %s)", (31, 0)),
    lambda conn: conn.execute("INSERT INTO capped VALUES (32, 0), (33, 0) ON CONFLICT DO NOTHING"),
    lambda conn: conn.execute("EXPLAIN DELETE FROM capped WHERE id > 1"),
    lambda conn: conn.execute("SELECT * FROM capped"),
]


@both
async def test_what_cannot_exceed_the_cap_costs_nothing(conn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No savepoint and no transaction around a write whose text says how many rows it touches."""
    from guarddb.driver import undo

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was opened")

    await run(conn.execute("SELECT 1"))
    monkeypatch.setattr(undo, "open_gen", never)
    for statement in FREE:
        await run(statement(conn))


# No committed statement ever exceeds the cap: a trigger of the database's own counts, and keeps its count if the write is kept.

COUNTED = """
    DROP TABLE IF EXISTS counted, audit;
    CREATE TABLE counted (id serial PRIMARY KEY, n int);
    CREATE TABLE audit (what text, rows int);
    CREATE OR REPLACE FUNCTION count_rows() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO audit SELECT TG_OP, count(*) FROM touched; RETURN NULL; END $$;
    CREATE TRIGGER i AFTER INSERT ON counted REFERENCING NEW TABLE AS touched EXECUTE FUNCTION count_rows();
    CREATE TRIGGER u AFTER UPDATE ON counted REFERENCING NEW TABLE AS touched EXECUTE FUNCTION count_rows();
    CREATE TRIGGER d AFTER DELETE ON counted REFERENCING OLD TABLE AS touched EXECUTE FUNCTION count_rows();
    INSERT INTO counted (n) SELECT i FROM generate_series(1, 8) i;
    TRUNCATE audit;
"""
WRITE = st.sampled_from(
    [
        "INSERT INTO counted (n) SELECT generate_series(1, 5)",
        "INSERT INTO counted (n) VALUES (1), (2)",
        "INSERT INTO counted (n) VALUES (generate_series(1, 6))",
        "UPDATE counted SET n = n + 1 WHERE n < 4",
        "UPDATE counted SET n = n + 1 WHERE n > 0",
        "DELETE FROM counted WHERE n > 5",
        "DELETE FROM counted WHERE id = 3",
        "UPDATE counted SET n = 0 WHERE n = 1; DELETE FROM counted WHERE n < 9",
        "SELECT 1/0",
        "SELECT count(*) FROM counted",
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
        st.sampled_from(["INSERT INTO counted (n) VALUES (%s)", "UPDATE counted SET n = 0 WHERE n > %s"]),
    ),
    st.tuples(st.sampled_from(["pipeline", "transaction"]), st.lists(WRITE, max_size=3)),
    st.tuples(st.just("stream"), st.sampled_from(["DELETE FROM counted WHERE n > 2 RETURNING id"])),
    st.tuples(st.just("autocommit"), st.booleans()),
)


def perform(conn: Any, kind: str, what: Any) -> None:
    match kind:
        case "execute":
            conn.execute(what)
        case "many":
            conn.cursor().executemany(what, [(4,), (5,), (6,)])
        case "pipeline":
            with conn.pipeline():
                for text in what:
                    conn.execute(text)
        case "transaction":
            with conn.transaction():
                for text in what:
                    conn.execute(text)
        case "stream":
            list(conn.cursor().stream(what))
        case "autocommit":
            conn.autocommit = what
        case _:
            getattr(conn, kind)()


@hypothesis.settings(
    max_examples=20, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(steps=st.lists(STEP, min_size=1, max_size=8), autocommit=st.booleans())
def test_no_committed_statement_exceeds_the_cap(
    fresh_dsn: str, steps: list[tuple[str, Any]], autocommit: bool
) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as plain:
        plain.execute(COUNTED)
    conn = guarddb.connect(fresh_dsn, policy=open_policy(max_affected_rows=CAP), autocommit=autocommit)
    for step in [*steps, ("commit", None)]:
        with suppress(psycopg.Error):
            perform(conn, *step)
        assert not conn.closed
    conn.close()
    with psycopg.connect(fresh_dsn) as plain:
        rows = plain.execute("SELECT max(rows) FROM audit").fetchone()
    assert rows is not None
    assert rows[0] is None or rows[0] <= CAP
