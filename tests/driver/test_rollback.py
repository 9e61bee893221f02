"""`write_mode: rollback`: everything runs for real, and nothing of it stays."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, nullcontext, suppress
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb.driver.branches import DatabaseBranches
from tests.driver.conftest import Connect, block, collect, open_policy, run
from tests.fix_server import temporary_database
from tests.searching import given, settings, st

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


# Random scripts, and afterwards the database is what it was: what pg_dump writes is the same byte for byte (definitions and
# rows), and every row is the very one that was there, at its place and of its transaction. Sequences are excepted, as documented.

GROUND = (
    TABLES
    + """
    CREATE TABLE numbered (id bigserial PRIMARY KEY, what text, parent int REFERENCES parent ON DELETE CASCADE);
    INSERT INTO numbered (what, parent) SELECT 'w' || i, i FROM generate_series(1, 5) i;
    CREATE TABLE audited (at text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audited VALUES (TG_OP); RETURN NULL; END $$;
    CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON parent FOR EACH STATEMENT EXECUTE FUNCTION note();
    CREATE VIEW shown AS SELECT id, n FROM parent WHERE n > 2;
"""
)
WRITE = st.sampled_from(
    [
        "UPDATE parent SET n = n + 1 WHERE id > 3",
        "INSERT INTO parent VALUES ((random() * 1000000)::int + 100, 1)",
        "INSERT INTO parent VALUES (1, 1)",
        "INSERT INTO parent VALUES (1, 1), (300, 2) ON CONFLICT (id) DO UPDATE SET n = -1 RETURNING *",
        "DELETE FROM parent WHERE id = 7",
        "INSERT INTO child VALUES ((random() * 1000000)::int, 99)",
        "INSERT INTO child VALUES ((random() * 1000000)::int, 2)",
        "INSERT INTO numbered (what) VALUES ('x')",
        "UPDATE shown SET n = 9 WHERE id = 5",
        "WITH gone AS (DELETE FROM numbered WHERE id < 3 RETURNING what) INSERT INTO audited SELECT what FROM gone",
        (
            "MERGE INTO parent p USING (VALUES (2), (500)) s(i) ON p.id = s.i "
            "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (s.i, 1)"
        ),
        "SELECT 1/0",
        "SELECT * FROM parent WHERE id < 4 FOR UPDATE",
        "CREATE TABLE made (id int)",
        "CREATE TABLE copied AS SELECT * FROM parent",
        "CREATE INDEX by_n ON parent (n)",
        "ALTER TABLE parent ADD COLUMN extra int",
        "COMMENT ON TABLE parent IS 'changed'",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "LOCK TABLE child IN SHARE MODE",
        "PREPARE p AS UPDATE parent SET n = 0 WHERE id > $1",
        "EXECUTE p (5)",
        "DEALLOCATE p",
        "DECLARE held CURSOR WITH HOLD FOR SELECT * FROM parent",
        "EXPLAIN ANALYZE DELETE FROM parent WHERE id = 3",
        "UPDATE parent SET n = 0 WHERE id < 5; DELETE FROM parent WHERE id = 8",
        "SELECT count(*) FROM parent",
    ]
)
CONTROL = st.sampled_from(
    [
        "BEGIN",
        "START TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "COMMIT",
        "END",
        "COMMIT AND CHAIN",
        "/* c */ commit work;",
        "ROLLBACK",
        "ABORT AND CHAIN",
        "SAVEPOINT a",
        "SAVEPOINT b",
        "RELEASE a",
        "ROLLBACK TO a",
        "PREPARE TRANSACTION 'x'",
        "COMMIT PREPARED 'x'",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "BEGIN; DELETE FROM parent WHERE id = 1; COMMIT",
    ]
)
STEP: st.SearchStrategy[tuple[str, Any]] = st.recursive(
    st.one_of(
        st.tuples(st.just("execute"), WRITE),
        st.tuples(st.just("execute"), CONTROL),
        st.tuples(st.sampled_from(["commit", "rollback", "two phases", "copy", "server cursor"]), st.none()),
        st.tuples(
            st.just("many"),
            st.sampled_from(["INSERT INTO parent VALUES (%s, 0)", "UPDATE parent SET n = 0 WHERE id > %s"]),
        ),
        st.tuples(st.just("stream"), st.just("DELETE FROM parent WHERE id > 8 RETURNING id")),
        st.tuples(st.just("autocommit"), st.booleans()),
    ),
    lambda steps: st.tuples(
        st.sampled_from(["pipeline", "transaction", "forced rollback", "with"]), st.lists(steps, max_size=4)
    ),
    max_leaves=12,
)


def perform(conn: Any, kind: str, what: Any) -> None:
    match kind:
        case "execute":
            conn.execute(what)
        case "many":
            conn.cursor().executemany(what, [(200,), (201,), (202,)])
        case "stream":
            list(conn.cursor().stream(what))
        case "copy":
            with conn.cursor().copy("COPY parent FROM STDIN") as copy:
                copy.write_row((700, 1))
                copy.write_row((701, 1))
        case "server cursor" if conn.pgconn.pipeline_status:
            pass  # psycopg has none there
        case "server cursor":
            with conn.cursor("named", withhold=True) as cur:
                cur.execute("SELECT id FROM parent")
                cur.fetchmany(2)
        case "two phases":
            conn.tpc_begin("both")
            conn.execute("DELETE FROM parent WHERE id = 4")
            conn.tpc_prepare()
            conn.tpc_commit()
        case "autocommit":
            conn.autocommit = what
        case "commit" | "rollback":
            getattr(conn, kind)()
        case _:
            blocks = {
                "pipeline": conn.pipeline,
                "transaction": conn.transaction,
                "forced rollback": lambda: conn.transaction(force_rollback=True),
                "with": lambda: nullcontext(conn),
            }
            with blocks[kind]():
                for step in what:
                    if kind == "pipeline":
                        perform(conn, *step)
                    else:
                        with suppress(psycopg.errors.UniqueViolation, guarddb.PolicyViolation):
                            perform(conn, *step)


def image(dsn: str) -> Any:
    """All that is there: pg_dump's text, and each row with its place and its transaction."""
    with psycopg.connect(dsn) as plain:
        names = plain.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
        ).fetchall()
        rows = {
            name: plain.execute(
                f"SELECT ctid::text, xmin::text, t::text FROM {name} AS t ORDER BY ctid"
            ).fetchall()
            for (name,) in names
        }
        assert (
            plain.execute("SELECT FROM pg_prepared_xacts WHERE database = current_database()").fetchall()
            == []
        )
        dump, _ = DatabaseBranches()._find_programs(plain.info.server_version // 10_000)
    done = subprocess.run(
        [dump, "--restrict-key=same", "-d", dsn], check=True, capture_output=True, text=True
    ).stdout
    return rows, [line for line in done.splitlines() if "pg_catalog.setval" not in line]


@pytest.fixture(scope="module")
def ground(server_dsn: str) -> Iterator[str]:
    with temporary_database(server_dsn, "rehearsals") as dsn:
        with psycopg.connect(dsn, autocommit=True) as plain:
            plain.execute(GROUND)
        yield dsn


@settings(max_examples=25)
@given(steps=st.lists(STEP, min_size=1, max_size=10), autocommit=st.booleans())
def test_random_scripts_leave_the_database_as_it_was(
    ground: str, steps: list[tuple[str, Any]], autocommit: bool
) -> None:
    before = image(ground)
    with closing(guarddb.connect(ground, policy=open_rollback(), autocommit=autocommit)) as conn:
        for step in [*steps, ("commit", None)]:
            with suppress(psycopg.Error):
                perform(conn, *step)
            assert not conn.closed
    assert image(ground) == before
