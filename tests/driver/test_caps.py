"""`max_affected_rows`: a write that touches more rows is undone and refused, and the transaction goes on."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import psycopg
import pytest

import guarddb
from tests.driver.conftest import Connect, as_new, block, collect, open_policy, run
from tests.searching import given, settings, st

CAP = 3
IDLE = psycopg.pq.TransactionStatus.IDLE
INTRANS = psycopg.pq.TransactionStatus.INTRANS


@pytest.fixture(scope="module", autouse=True)
def leaves_no_tables(dsn: str) -> Iterator[None]:
    yield
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("DROP TABLE IF EXISTS capped, other")


@pytest.fixture
async def conn(connect: Connect, dsn: str, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """A connection whose writes may touch three rows, and a table of ten."""
    with psycopg.connect(dsn, autocommit=True) as plain:
        as_new(plain, capped="id int PRIMARY KEY, n int", other="id int PRIMARY KEY, n int")
        plain.execute("INSERT INTO capped SELECT i, i FROM generate_series(1, 10) i")
    conn = await connect(policy=open_policy(max_affected_rows=CAP), autocommit=request.param)
    yield conn
    await run(conn.close())


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
        assert sorted(await run(cur.fetchall())) == [(1,), (2,), (3,)]
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
@pytest.mark.parametrize("returning", [False, True])
@pytest.mark.parametrize("before", [None, "SELECT 1"])
async def test_executemany_that_the_program_breaks_off_leaves_nothing_uncounted(
    conn: Any, dsn: str, returning: bool, before: str | None
) -> None:
    """The first set has run when the second cannot be sent, and in a pipeline nobody has seen its answer."""
    text = "UPDATE capped SET n = 0 WHERE n > %s" + (" RETURNING id" if returning else "")
    if before is not None:
        await run(conn.execute(before))
    for broken in (object(), "\0"):
        with pytest.raises((psycopg.ProgrammingError, psycopg.DataError)):
            await run(conn.cursor().executemany(text, [(0,), (broken,)], returning=returning))
    await run(conn.commit())
    assert left(dsn) == BEFORE


async def test_what_is_cancelled_at_any_moment_leaves_nothing_uncounted(dsn: str) -> None:
    """A task may be cancelled when the server has done it all and nobody has counted: the end of a COPY, say."""

    async def delete(conn: Any) -> None:
        await conn.execute("DELETE FROM cancelled WHERE id < 100")

    async def many(conn: Any) -> None:
        await conn.cursor().executemany("DELETE FROM cancelled WHERE id < %s", [(50,), (100,)])

    async def copy(conn: Any) -> None:
        async with conn.cursor().copy("COPY cancelled FROM STDIN") as rows:
            for i in range(100, 110):
                await rows.write_row((i,))

    policy = open_policy(max_affected_rows=CAP)
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("CREATE TABLE cancelled AS SELECT i AS id FROM generate_series(1, 10) AS i")
        try:
            for step, moment in itertools.product((delete, many, copy), range(0, 12, 2)):
                conn = await guarddb.AsyncConnection.connect(dsn, policy=policy)
                await conn.execute("SELECT 1")
                task = asyncio.create_task(step(conn))
                for i in range(moment):
                    await asyncio.sleep(0.0002 if i % 3 == 2 else 0)
                task.cancel()
                with suppress(asyncio.CancelledError, psycopg.Error):
                    await task
                with suppress(
                    psycopg.Error
                ):  # (psycopg closes what it cannot cancel, and leaves a COPY busy)
                    await conn.commit()
                await conn.close()
                assert plain.execute("SELECT count(*) FROM cancelled").fetchone() == (10,), (step, moment)
        finally:
            plain.execute("DROP TABLE cancelled")


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
async def test_what_is_no_copy_is_undone_like_what_is_no_stream(conn: Any, dsn: str) -> None:
    for text in ("DELETE FROM capped WHERE id > 1", "DELETE FROM capped WHERE id > 1 RETURNING id"):
        with pytest.raises(psycopg.ProgrammingError, match="should be used only with COPY"):
            async with block(conn.cursor().copy(text)):
                pass
        if not conn.autocommit:
            await run(conn.commit())
        assert conn.info.transaction_status == IDLE
        assert left(dsn) == BEFORE


async def test_a_copy_that_is_refused_opens_no_way_for_a_cursor_that_cannot_undo(
    connect: Connect, dsn: str
) -> None:
    conn = await connect(policy=open_policy(max_affected_rows=CAP), autocommit=True)
    await run(conn.execute("CREATE TEMP TABLE mine (id int)"))
    with pytest.raises(guarddb.PolicyViolation):
        async with block(conn.cursor().copy("COPY pg_authid TO STDOUT")):
            pass
    cursor = psycopg.AsyncCursor if isinstance(conn, psycopg.AsyncConnection) else psycopg.Cursor
    with pytest.raises(guarddb.PolicyViolation, match="cannot do that"):
        async with block(cursor(conn).copy("COPY mine FROM STDIN")):
            pass


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
    for columns, error in (
        ("nope", psycopg.errors.UndefinedColumn),
        ("id, id", psycopg.errors.DuplicateColumn),
    ):
        with pytest.raises(error):
            async with block(conn.cursor().copy(f"COPY other ({columns}) FROM STDIN")):
                pass
        if not conn.autocommit:
            await run(conn.rollback())
        assert conn.info.transaction_status == IDLE
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


ENDS: list[Callable[[Any], Any]] = [
    lambda conn: conn.commit(),
    lambda conn: conn.rollback(),
    lambda conn: conn.execute("COMMIT"),
    lambda conn: conn.execute("ROLLBACK"),
    lambda conn: conn.execute("COMMIT AND CHAIN"),
    lambda conn: conn.execute("END"),
]


@pytest.mark.parametrize("conn", [False], indirect=True)
@pytest.mark.parametrize("end", ENDS)
async def test_a_savepoint_of_the_transaction_before_is_none_of_this_one(conn: Any, end: Any) -> None:
    """However soon one transaction follows another: the connection looks around every 50 ms only."""

    async def write() -> None:
        assert (await run(conn.execute("UPDATE capped SET n = n WHERE id < %s", (3,)))).rowcount == 2

    async def opened() -> None:
        await run(conn.execute("SELECT 1"))
        await write()
        await run(end(conn))

    for _ in range(3):
        await opened()
        await run(conn.execute("SELECT 1"))
        await write()
        await opened()
        await run(conn.execute("SAVEPOINT a"))
        await write()
        await run(conn.execute("RELEASE a"))
        await opened()
        async with block(conn.transaction()):
            await write()
        await opened()
        async with block(conn.pipeline()):
            await write()
            await write()
            await run(end(conn))
            await run(conn.execute("SELECT 1"))
            await write()
        await opened()
    await run(conn.rollback())
    await run(conn.tpc_begin(f"capped {os.getpid()}"))
    await run(conn.execute("SELECT 1"))
    await write()
    await run(conn.tpc_prepare())
    await run(conn.tpc_rollback())
    await run(conn.execute("SAVEPOINT a"))


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


@both
async def test_what_a_rule_puts_in_the_place_of_a_write_is_counted(conn: Any, dsn: str) -> None:
    """The text names one row of one table; the server writes ten of another."""
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute(
            "CREATE TABLE facade (id int PRIMARY KEY, n int);"
            "CREATE RULE instead AS ON UPDATE TO facade DO INSTEAD UPDATE capped SET n = new.n;"
            "INSERT INTO facade VALUES (1, 1)"
        )
    try:
        await refused(lambda: conn.execute("UPDATE facade SET n = 0 WHERE id = 1"))
        assert left(dsn) == BEFORE
    finally:
        await run(conn.rollback())
        with psycopg.connect(dsn, autocommit=True) as plain:
            plain.execute("DROP TABLE facade")


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
    DROP TABLE IF EXISTS counted, audit, facade CASCADE;
    CREATE TABLE counted (id serial PRIMARY KEY, n int);
    CREATE TABLE audit (what text, rows int);
    CREATE OR REPLACE FUNCTION count_rows() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO audit SELECT TG_OP, count(*) FROM touched; RETURN NULL; END $$;
    CREATE TRIGGER i AFTER INSERT ON counted REFERENCING NEW TABLE AS touched EXECUTE FUNCTION count_rows();
    CREATE TRIGGER u AFTER UPDATE ON counted REFERENCING NEW TABLE AS touched EXECUTE FUNCTION count_rows();
    CREATE TRIGGER d AFTER DELETE ON counted REFERENCING OLD TABLE AS touched EXECUTE FUNCTION count_rows();
    INSERT INTO counted (n) SELECT i FROM generate_series(1, 8) i;
    CREATE VIEW seen AS SELECT id, n FROM counted WHERE id > 0;
    CREATE TABLE facade (id int PRIMARY KEY, n int);
    INSERT INTO facade VALUES (1, 1);
    CREATE RULE instead AS ON UPDATE TO facade DO INSTEAD UPDATE counted SET n = new.n;
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
        "INSERT INTO counted VALUES (1, 0), (2, 0), (3, 0) ON CONFLICT (id) DO UPDATE SET n = counted.n + 1 RETURNING *",
        "INSERT INTO counted SELECT i, 0 FROM generate_series(1, 7) i ON CONFLICT (id) DO UPDATE SET n = -1",
        "MERGE INTO counted c USING generate_series(1, 6) s(i) ON c.id = s.i WHEN MATCHED THEN UPDATE SET n = 5",
        (
            "MERGE INTO counted c USING (VALUES (2), (100)) s(i) ON c.id = s.i "
            "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (n) VALUES (s.i)"
        ),
        "UPDATE seen SET n = 4 WHERE id > 1",
        "UPDATE facade SET n = 4 WHERE id = 1",
        "PREPARE p AS UPDATE counted SET n = 1 WHERE id > $1",
        "EXECUTE p (2)",
        "EXECUTE p (6)",
        "DEALLOCATE p",
        "WITH gone AS (DELETE FROM counted WHERE id > 1 RETURNING id) SELECT count(*) FROM gone",
        "EXPLAIN ANALYZE DELETE FROM counted WHERE id > 1",
        "DECLARE c CURSOR FOR SELECT * FROM counted",
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
    st.tuples(st.just("broken off"), st.sampled_from(["many", "copy", "stream", "pipeline"])),
    st.tuples(st.sampled_from(["pipeline", "transaction"]), st.lists(WRITE, max_size=4)),
    st.tuples(st.just("stream"), st.sampled_from(["DELETE FROM counted WHERE n > 2 RETURNING id"])),
    st.tuples(st.just("copy"), st.integers(1, 6)),
    st.tuples(st.just("autocommit"), st.booleans()),
)


def break_off(conn: Any, what: str) -> None:
    """A program that stops in the middle of what it does."""
    match what:
        case "many":
            conn.cursor().executemany("UPDATE counted SET n = n + 1 WHERE n > %s", [(0,), (object(),)])
        case "copy":
            with conn.cursor().copy("COPY counted (n) FROM STDIN") as copy:
                for i in range(6):
                    copy.write_row((i,))
                raise ZeroDivisionError
        case "stream":
            for _ in conn.cursor().stream("DELETE FROM counted WHERE n > 0 RETURNING id"):
                raise ZeroDivisionError
        case _:
            with conn.pipeline():
                conn.execute("UPDATE counted SET n = n + 1 WHERE n > 0")
                raise ZeroDivisionError


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
        case "copy":
            with conn.cursor().copy("COPY counted (n) FROM STDIN") as copy:
                for i in range(what):
                    copy.write_row((i,))
        case "broken off":
            with suppress(ZeroDivisionError):
                break_off(conn, what)
        case "autocommit":
            conn.autocommit = what
        case _:
            getattr(conn, kind)()


@settings(max_examples=30)
@given(steps=st.lists(STEP, min_size=1, max_size=8), autocommit=st.booleans())
def test_no_committed_statement_exceeds_the_cap(
    fresh_dsn: str, steps: list[tuple[str, Any]], autocommit: bool
) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as plain:
        plain.execute(COUNTED)
    policy = open_policy(max_affected_rows=CAP)
    with closing(guarddb.connect(fresh_dsn, policy=policy, autocommit=autocommit)) as conn:
        for step in [*steps, ("commit", None)]:
            with suppress(psycopg.Error):
                perform(conn, *step)
            assert not conn.closed
    with psycopg.connect(fresh_dsn) as plain:
        rows = plain.execute("SELECT max(rows) FROM audit").fetchone()
    assert rows is not None
    assert rows[0] is None or rows[0] <= CAP


#: Type of a key, some of its values, and what more than three of them are equal to.
ALIKE: dict[str, tuple[str, str, list[tuple[str, Any]]]] = {
    "bigint and float": (
        "bigint",
        "9000000000000000000 + i",
        [("9e18::float8", None), ("%s", (9e18,))],
    ),
    "numeric and float": (
        "numeric",
        "1 + i / 1e30",
        [("1::float8", None), ("%s", (1.0,)), ("%s::double precision", (1,))],
    ),
    "varchar and char": ("varchar", "'a' || repeat(' ', i)", [("'a'::char", None), ("%s::bpchar", ("a",))]),
}


@pytest.mark.parametrize("verb", ["DELETE FROM alike", "UPDATE alike SET n = 0"])
@pytest.mark.parametrize("types", ALIKE)
def test_a_value_that_several_keys_equal_is_counted(dsn: str, types: str, verb: str) -> None:
    """By its primary key one row is found, but not where the key is converted to be compared: then several are the same."""
    kind, values, constants = ALIKE[types]
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute(f"DROP TABLE IF EXISTS alike; CREATE TABLE alike (id {kind} PRIMARY KEY, n int)")
        plain.execute(f"INSERT INTO alike SELECT {values}, 1 FROM generate_series(1, 9) AS i")
        try:
            with guarddb.connect(dsn, policy=open_policy(max_affected_rows=CAP)) as conn:
                for constant, params in constants:
                    for condition in (f"id = {constant}", f"{constant} = alike.id AND n = 1"):
                        with pytest.raises(guarddb.PolicyViolation, match="touched 9 rows"):
                            conn.execute(f"{verb} WHERE {condition}", params)
                conn.execute("PREPARE p AS " + f"{verb} WHERE id = {constants[0][0]}")
                with pytest.raises(guarddb.PolicyViolation, match="touched 9 rows"):
                    conn.execute("EXECUTE p")
                conn.rollback()
        finally:
            plain.execute("DROP TABLE alike")
