"""What waited for somebody's definition is judged by the definition that it met: at every door, and undone where it wrote."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb.driver import freshness
from tests.driver.conftest import block, collect, run
from tests.fix_server import temporary_database, until_waiting

POLICY = {
    "name": "waited",
    "access_mode": "read_write",
    "masking_rules": [{"table": "users", "column": "ssn", "kind": "redact"}],
}
SCHEMA = """
CREATE TABLE users (id int PRIMARY KEY, ssn text);
INSERT INTO users VALUES (1, 'RAW-1'), (2, 'RAW-2');
CREATE TABLE mine AS SELECT 1 AS id, 'mine'::text AS ssn;
CREATE TABLE taken (id int, value text);
"""
#: With it `ssn` in READ is the column of `users`.
DEFINITION = "ALTER TABLE mine RENAME COLUMN ssn TO s"
UNDO = "ALTER TABLE mine RENAME COLUMN s TO ssn"
READ = "SELECT id, (SELECT ssn FROM mine) AS value FROM users"
WRITE = f"INSERT INTO taken {READ}"


def conn_pipeline(conn: Any) -> Any:
    return block(conn.pipeline())


async def _executed(conn: Any, *, prepare: bool | None = None) -> Any:
    cursor = await run(conn.execute(READ, prepare=prepare))
    return await run(cursor.fetchall())


async def _prepared(conn: Any) -> Any:
    return await _executed(conn, prepare=True)


async def _by_its_name(conn: Any) -> Any:
    cursor = await run(conn.execute("EXECUTE reading"))
    return await run(cursor.fetchall())


async def _with_a_setting(conn: Any) -> Any:
    cursor = await run(conn.execute(f"SET work_mem = '5MB'; {READ}"))
    cursor.nextset()
    return await run(cursor.fetchall())


async def _by_a_portal(conn: Any) -> Any:
    await run(conn.execute(f"DECLARE portal CURSOR FOR {READ}"))
    cursor = await run(conn.execute("FETCH ALL FROM portal"))
    rows = await run(cursor.fetchall())
    await run(conn.execute("CLOSE portal"))
    return rows


async def _by_a_named_cursor(conn: Any) -> Any:
    async with block(conn.cursor("named")) as cursor:
        await run(cursor.execute(READ))
        return await run(cursor.fetchall())


async def _by_a_cursor_with_hold(conn: Any) -> Any:
    async with block(conn.cursor("held", withhold=True)) as cursor:
        await run(cursor.execute(READ))
        return await run(cursor.fetchall())


async def _explained(conn: Any) -> Any:
    cursor = await run(conn.execute(f"EXPLAIN (ANALYZE, VERBOSE, COSTS OFF) {READ}"))
    return await run(cursor.fetchall())


async def _streamed(conn: Any) -> Any:
    return await collect(conn.cursor().stream(READ))


async def _streamed_by_parameters(conn: Any) -> Any:
    return await collect(conn.cursor().stream(f"{READ} WHERE id > %s", (0,)))


async def _copied_out(conn: Any) -> Any:
    async with block(conn.cursor().copy(f"COPY ( /* ( */ {READ} ) TO STDOUT")) as copy:
        return await collect(copy.rows())


async def _in_a_pipeline(conn: Any) -> Any:
    async with conn_pipeline(conn):
        await run(conn.execute("SELECT 1"))
        cursor = await run(conn.execute(READ))
        await run(conn.execute("SELECT 1"))
        return await run(cursor.fetchall())


async def _by_a_sync(conn: Any) -> Any:
    async with conn_pipeline(conn) as pipeline:
        cursor = await run(conn.execute(READ))
        await run(pipeline.sync())
        return await run(cursor.fetchall())


READS = {
    each.__name__: each
    for each in (
        _executed,
        _prepared,
        _by_its_name,
        _with_a_setting,
        _by_a_portal,
        _by_a_named_cursor,
        _by_a_cursor_with_hold,
        _streamed,
        _streamed_by_parameters,
        _copied_out,
        _in_a_pipeline,
        _by_a_sync,
    )
}


async def _written(conn: Any, *, sql: str = WRITE, prepare: bool | None = None) -> Any:
    await run(conn.execute(sql, prepare=prepare))


async def _written_prepared(conn: Any) -> Any:
    await _written(conn, prepare=True)


async def _returned(conn: Any) -> Any:
    cursor = await run(conn.execute(f"{WRITE} RETURNING value"))
    return await run(cursor.fetchall())


async def _written_by_its_name(conn: Any) -> Any:
    await _written(conn, sql="EXECUTE writing")


async def _updated(conn: Any) -> Any:
    await _written(
        conn,
        sql="UPDATE taken SET value = (SELECT (SELECT ssn FROM mine) FROM users WHERE users.id = 1) WHERE taken.id = 0",
    )


async def _deleted(conn: Any) -> Any:
    """(Which rows go would tell of the value.)"""
    await _written(
        conn,
        sql="DELETE FROM taken WHERE id = 0 AND EXISTS (SELECT 1 FROM users WHERE (SELECT ssn FROM mine) = 'RAW-1')",
    )


async def _merged(conn: Any) -> Any:
    sql = f"MERGE INTO taken t USING ({READ}) u ON t.id = u.id WHEN NOT MATCHED THEN INSERT VALUES (u.id, u.value)"
    await _written(conn, sql=sql)


async def _made(conn: Any) -> Any:
    await _written(conn, sql=f"CREATE TABLE made AS {READ}")


async def _in_two(conn: Any) -> Any:
    await _written(conn, sql=f"{WRITE}; {WRITE}")


async def _streamed_write(conn: Any) -> Any:
    return await collect(conn.cursor().stream(f"{WRITE} RETURNING value"))


async def _copied_write(conn: Any) -> Any:
    async with block(conn.cursor().copy(f"COPY ({WRITE} RETURNING value) TO STDOUT")) as copy:
        return await collect(copy.rows())


async def _written_in_a_pipeline(conn: Any) -> Any:
    async with conn_pipeline(conn):
        await run(conn.execute(WRITE))
        await run(conn.execute("SELECT 1"))


async def _returned_in_a_pipeline(conn: Any) -> Any:
    async with conn_pipeline(conn):
        cursor = await run(conn.execute(f"{WRITE} RETURNING value"))
        return await run(cursor.fetchall())


async def _committed_in_a_pipeline(conn: Any) -> Any:
    async with conn_pipeline(conn):
        await run(conn.execute(WRITE))
        await run(conn.commit())


async def _committed_by_text(conn: Any) -> Any:
    async with conn_pipeline(conn):
        if conn.autocommit:
            await run(conn.execute("BEGIN"))
        await run(conn.execute(WRITE))
        await run(conn.execute("COMMIT"))


async def _in_a_block(conn: Any) -> Any:
    async with conn_pipeline(conn), block(conn.transaction()):
        await run(conn.execute(WRITE))


async def _many(conn: Any) -> Any:
    async with block(conn.cursor()) as cursor:
        await run(cursor.executemany(f"{WRITE} WHERE id = %s", [(1,), (2,)]))


async def _many_returning(conn: Any) -> Any:
    async with block(conn.cursor()) as cursor:
        await run(cursor.executemany(f"{WRITE} WHERE id = %s RETURNING value", [(1,), (2,)], returning=True))
        return await run(cursor.fetchall())


WRITES = {
    each.__name__: each
    for each in (
        _written,
        _written_prepared,
        _returned,
        _written_by_its_name,
        _updated,
        _deleted,
        _merged,
        _made,
        _in_two,
        _streamed_write,
        _copied_write,
        _written_in_a_pipeline,
        _returned_in_a_pipeline,
        _committed_in_a_pipeline,
        _committed_by_text,
        _in_a_block,
        _many,
        _many_returning,
    )
}


@pytest.fixture(scope="module")
def own(server_dsn: str) -> Iterator[str]:
    with temporary_database(server_dsn, "waited") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SCHEMA)
        yield dsn


@pytest.fixture(params=["neighbour, sync", "stranger, sync", "stranger, async"])
def who(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Who defines, a guarded connection of the process or somebody of whom nobody knows, and what connection waits."""
    definer, kind = request.param.split(", ")
    return definer, kind


@pytest.fixture
def definer(own: str, who: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    if who[0] == "neighbour":
        for name in ("LOOK_EVERY", "LOOK_AT_LEAST_EVERY", "PIPELINE_AT_LEAST_EVERY"):
            monkeypatch.setattr(freshness, name, 3600.0)
        with guarddb.connect(own, policy=POLICY, autocommit=True) as conn:
            yield conn
    else:
        monkeypatch.setattr(freshness, "PIPELINE_AT_LEAST_EVERY", 0.05)
        with psycopg.connect(own, autocommit=True) as conn:
            yield conn


class Met:
    """What came of it: rows, or an error."""

    rows: Any = None
    error: BaseException | None = None


async def met(
    own: str, definer: Any, conn: Any, do: Callable[[Any], Awaitable[Any]], definition: str = DEFINITION
) -> Met:
    """Have `do` wait for the definition, which waits for a third transaction."""
    found = Met()

    def define() -> None:
        definer.execute(definition)

    def release() -> None:
        with psycopg.connect(own, autocommit=True) as plain:
            try:
                until_waiting(plain, 2)
                time.sleep(0.06)  # (longer than a look does for)
            finally:
                third.rollback()

    with psycopg.connect(own) as third, psycopg.connect(own, autocommit=True) as plain:
        third.execute("SELECT FROM mine")
        defining = threading.Thread(target=define)
        defining.start()
        until_waiting(plain, 1)
        releasing = threading.Thread(target=release)
        releasing.start()
        try:
            found.rows = await do(conn)
        except psycopg.Error as ex:
            found.error = ex
        await asyncio.to_thread(releasing.join)
        await asyncio.to_thread(defining.join)
    return found


@pytest.fixture
async def connect(own: str, who: tuple[str, str]) -> Any:
    """connect(how) -> a guarded connection that has looked up once what is looked up once, and holds no lock."""
    opened = []

    async def connected(how: str) -> Any:
        conn: Any
        if who[1] == "sync":
            conn = guarddb.connect(own, policy=POLICY, autocommit=how == "alone")
        else:
            conn = await guarddb.AsyncConnection.connect(own, policy=POLICY, autocommit=how == "alone")
        opened.append(conn)
        if how == "fixed":
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        await run(conn.execute(f"PREPARE reading AS {READ}"))
        await run(conn.execute(f"PREPARE writing AS {WRITE}"))
        await _executed(conn)
        await _prepared(conn)
        if how != "alone":
            await run(conn.commit())
            await run(conn.execute("SELECT 1"))
        return conn

    yield connected
    for conn in opened:
        await run(conn.close())


@pytest.fixture(autouse=True)
def as_before(own: str) -> Iterator[None]:
    yield
    with psycopg.connect(own, autocommit=True) as plain:
        with suppress(psycopg.Error):
            plain.execute(UNDO)
        plain.execute("ALTER TABLE mine DROP COLUMN IF EXISTS more, ALTER id DROP DEFAULT")
        plain.execute("TRUNCATE taken")
        plain.execute("DROP TABLE IF EXISTS made")


def _refused(found: Met) -> None:
    assert isinstance(found.error, guarddb.PolicyViolation), (found.rows, found.error)
    assert found.error.decision is not None
    assert "RAW" not in str(found.rows)


@pytest.mark.parametrize("how", ["alone", "within", "fixed"])
@pytest.mark.parametrize("read", READS)
async def test_a_read_shows_nothing(
    own: str, definer: Any, who: tuple[str, str], connect: Any, read: str, how: str
) -> None:
    if how != "within" and who != ("neighbour", "sync"):
        return  # (That is looked at in the same place.)
    if how == "alone" and read in ("_by_a_portal", "_by_a_named_cursor"):
        return  # (They are nothing outside of a transaction.)
    conn = await connect(how)
    _refused(await met(own, definer, conn, READS[read]))
    cursor = await run(conn.execute("SELECT 1"))
    assert await run(cursor.fetchone()) == (1,)


@pytest.mark.parametrize("how", ["within", "fixed"])
@pytest.mark.parametrize("write", WRITES)
async def test_a_write_is_not_to_be_committed(
    own: str, definer: Any, who: tuple[str, str], connect: Any, write: str, how: str
) -> None:
    if how == "fixed" and who != ("neighbour", "sync"):
        return
    conn = await connect(how)
    _refused(await met(own, definer, conn, WRITES[write]))
    with suppress(psycopg.Error):
        await run(conn.commit())
    _nothing_written(own)


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_in_autocommit_is_not_committed(
    own: str, definer: Any, connect: Any, write: str
) -> None:
    conn = await connect("alone")
    _refused(await met(own, definer, conn, WRITES[write]))
    _nothing_written(own)
    await run(conn.rollback())  # (What the agent has begun itself has failed.)
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    await run(conn.execute("INSERT INTO taken VALUES (1, 'ordinary')"))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("threshold", [0, 5, None])
def test_an_error_of_the_commit_is_that_of_the_write(
    own: str, threshold: int | None, *, binary: bool
) -> None:
    """And nothing of the way in which it is sent is to be seen."""
    with (
        guarddb.connect(own, policy=POLICY, autocommit=True) as conn,
        psycopg.connect(own, autocommit=True) as plain,
    ):
        conn.prepare_threshold = threshold
        plain.execute("CREATE TABLE IF NOT EXISTS late (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")
        plain.execute("TRUNCATE late")
        for cursor in (conn.cursor(binary=binary), guarddb.ClientCursor(conn)):
            plain.execute("TRUNCATE late")
            for number in range(8):
                written = cursor.execute("INSERT INTO late VALUES (%s) RETURNING id", (number,))
                assert written.fetchall() == [(number,)]
                assert cursor.rowcount == 1
                assert cursor.statusmessage == "INSERT 0 1"
                with pytest.raises(psycopg.errors.UniqueViolation):
                    cursor.execute("INSERT INTO late VALUES (%s)", (number,))
                with pytest.raises(psycopg.errors.InvalidTextRepresentation):
                    cursor.execute("INSERT INTO late VALUES ('one')")
                assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
                assert conn.info.pipeline_status == psycopg.pq.PipelineStatus.OFF
                if number == 6 and psycopg.__version__ > "3.3":  # (3.2 does not hear of it.)
                    conn.execute("DEALLOCATE ALL")
            assert plain.execute("SELECT count(*) FROM late").fetchone() == (8,)


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_that_waited_for_another_definition_is_carried_out_once(
    own: str, definer: Any, who: tuple[str, str], connect: Any, write: str
) -> None:
    if who == ("stranger", "async"):
        return
    conn = await connect("alone")
    # (In a pipeline other columns of a table that is named are enough to refuse it.)
    in_a_pipeline = "pipeline" in write or write in (
        "_committed_by_text",
        "_in_a_block",
        "_many",
        "_many_returning",
    )
    definition = "ALTER id SET DEFAULT 7" if in_a_pipeline else "ADD COLUMN more int"
    found = await met(own, definer, conn, WRITES[write], f"ALTER TABLE mine {definition}")
    assert found.error is None
    with psycopg.connect(own, autocommit=True) as plain:
        (number,) = plain.execute("SELECT count(*) FROM taken").fetchone() or (-1,)
        expected = {"_updated": 0, "_deleted": 0, "_made": 0, "_in_two": 4}
        assert number == expected.get(write, 2)


def _nothing_written(own: str) -> None:
    with psycopg.connect(own, autocommit=True) as plain:
        assert plain.execute("SELECT * FROM taken").fetchall() == []
        assert plain.execute("SELECT to_regclass('made')").fetchone() == (None,)
