"""Random sequences of operations under a profile that touches none of them: all that can be observed is as with plain psycopg.

Beside them other sessions change data and definitions, at the same points of the sequence in every run. Compared are rows,
tags, row counts, SQLSTATEs, the transaction's status after each step, what the others met (a lock that is held longer, or one
more, makes them fail), what the session has prepared, opened and set in the end, and what is committed. Snapshots show in what is
read of what others change.
"""

from __future__ import annotations

import os
import random
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import pq

import guarddb
from tests.driver.conftest import block, collect, open_policy, run
from tests.driver.test_same_as_plain import ELSEWHERE, EVERYTHING

#: Sequences in a run of the suite, and steps in each; `SEQUENCES=500` in the environment looks for more.
SEQUENCES, STEPS = int(os.environ.get("SEQUENCES", "12")), 40

SCHEMA = """
DROP SCHEMA public CASCADE;
CREATE SCHEMA public;
CREATE TABLE a (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, t text);
CREATE TABLE b (id int PRIMARY KEY, a_id int REFERENCES a, n int CHECK (n < 1000));
CREATE TABLE log (id int GENERATED ALWAYS AS IDENTITY, what text);
CREATE VIEW both_of AS SELECT a.id, a.n, b.n AS m FROM a JOIN b ON b.a_id = a.id;
INSERT INTO a SELECT i, i, 't' || i FROM generate_series(1, 20) AS i;
INSERT INTO b SELECT i, i, i FROM generate_series(1, 20) AS i;
"""

READS = [
    "SELECT * FROM a ORDER BY id LIMIT 5",
    "SELECT sum(n), count(*) FROM a",
    "SELECT * FROM both_of ORDER BY id LIMIT 3",
    "SELECT a.id FROM a WHERE EXISTS (SELECT FROM b WHERE b.n > a.n) ORDER BY 1",
    "WITH x AS (SELECT max(n) AS n FROM b) SELECT * FROM x",
    "SELECT n FROM a WHERE id = 3 FOR UPDATE",
    "TABLE log",
    "SHOW work_mem",
    "SELECT 1 / (n - n) FROM a WHERE id = 1",
    "SELECT nothing FROM a",
    "SELECT * FROM nowhere",
    "VALUES (1, 'x'), (2, NULL)",
    "EXPLAIN (COSTS OFF) SELECT * FROM a WHERE id = 1",
]
WRITES = [
    "UPDATE a SET n = n + 1 WHERE id = 3",
    "UPDATE a SET n = n + 100 WHERE id BETWEEN 4 AND 6 RETURNING id, n",
    "DELETE FROM b WHERE id = 20",
    "INSERT INTO log (what) VALUES ('x') RETURNING id",
    "INSERT INTO a VALUES (1, 1, 'twice')",
    "INSERT INTO a VALUES (30, 1, 'new') ON CONFLICT (id) DO UPDATE SET n = a.n + 1 RETURNING n",
    "UPDATE b SET n = 5000 WHERE id = 1",
    """MERGE INTO a USING (VALUES (7), (77)) AS v (id) ON v.id = a.id
    WHEN MATCHED THEN UPDATE SET n = 0 WHEN NOT MATCHED THEN INSERT VALUES (v.id, 0, 'merged')""",
]
SESSION = [
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "RELEASE s",
    "SET LOCAL work_mem = '7MB'",
    "SET work_mem = '6MB'",
    "RESET work_mem",
    "LOCK TABLE b IN SHARE ROW EXCLUSIVE MODE",
    "LISTEN channel",
    "NOTIFY channel, 'x'",
    "UNLISTEN *",
    "DO 'BEGIN PERFORM 1; END'",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "CREATE TABLE IF NOT EXISTS mine (id int)",
    "CREATE TEMP TABLE IF NOT EXISTS temporary (id int)",
    "ALTER TABLE log ADD COLUMN IF NOT EXISTS more int",
    "DROP TABLE IF EXISTS mine",
    "COMMENT ON TABLE a IS 'commented'",
]
#: One after the other until one fails: EXECUTE and FETCH of a name that nobody has given are refused under rules, and not sent.
NAMED = [
    ["PREPARE p AS SELECT n FROM a WHERE id = 3", "EXECUTE p", "EXECUTE p"],
    ["PREPARE p AS SELECT n FROM a WHERE id = 3", "EXECUTE p", "DEALLOCATE p"],
    ["PREPARE q (int) AS UPDATE a SET n = $1 WHERE id = 2 RETURNING n", "EXECUTE q (4)", "DEALLOCATE ALL"],
    [
        "DECLARE c CURSOR FOR SELECT id FROM a ORDER BY id",
        "FETCH 3 FROM c",
        "MOVE 1 FROM c",
        "FETCH c",
        "CLOSE c",
    ],
    ["DECLARE h CURSOR WITH HOLD FOR SELECT id FROM a ORDER BY id", "FETCH 3 FROM h"],
    ["CLOSE ALL"],
]
OTHERS = [
    "UPDATE a SET n = n + 10 WHERE id = 3",
    "INSERT INTO log (what) VALUES ('others')",
    "UPDATE b SET n = n + 1 WHERE id < 5",
    "CREATE TABLE IF NOT EXISTS theirs (id int)",
    "DROP TABLE IF EXISTS theirs",
    "ALTER TABLE b ADD COLUMN IF NOT EXISTS added int",
    "ALTER TABLE b DROP COLUMN IF EXISTS added",
    "CREATE OR REPLACE VIEW both_of AS SELECT a.id, a.n, b.n + 1 AS m FROM a JOIN b ON b.a_id = a.id",
    "CREATE INDEX ON log (what)",
]

Step = tuple[str, Any]


def program(seed: int) -> list[Step]:
    """The steps of a sequence."""
    rng = random.Random(seed)
    steps: list[Step] = []
    for _ in range(STEPS):
        what = rng.choices(
            ["read", "write", "session", "others", "parameters", "many", "stream", "copy", "cursor", "block", "pipeline",
             "mode", "end", "named"],
            [12, 12, 14, 14, 6, 3, 3, 3, 4, 5, 5, 3, 6, 4],
        )[0]  # fmt: skip
        argument: Any = None
        if what in ("read", "write", "session", "others"):
            argument = rng.choice(
                {"read": READS, "write": WRITES, "session": SESSION, "others": OTHERS}[what]
            )
        elif what in ("block", "pipeline"):
            # DDL within a pipeline makes guarddb put a Sync behind it, as docs/compatibility.md says; so there is none in it.
            texts = READS + WRITES + ["SET LOCAL work_mem = '8MB'", "NOTIFY channel", "SAVEPOINT s"]
            argument = [rng.choice(texts) for _ in range(rng.randint(1, 4))]
        elif what in ("parameters", "many", "stream"):
            argument = rng.choice([1, 3, 3, 19, 500])
        elif what == "named":
            argument = rng.choice(NAMED)
        elif what == "mode":
            argument = rng.choice(["autocommit", "transactions", "repeatable", "default"])
        elif what == "end":
            argument = rng.choice(["commit", "rollback"])
        steps.append((what, argument))
    return steps


async def shown(cur: Any) -> Any:
    """All results of a cursor."""
    found = []
    while True:
        rows = await run(cur.fetchall()) if cur.description else None
        found.append((cur.statusmessage, cur.rowcount, rows))
        if not cur.nextset():
            return found


async def executed(conn: Any, text: str, parameters: Any = None) -> Any:
    return await shown(await run(conn.execute(text.encode(), parameters)))


async def carried_out(conn: Any, what: str, argument: Any) -> Any:
    """One step."""
    if what in ("read", "write", "session"):
        return await executed(conn, argument)
    if what == "named":
        return [await executed(conn, text) for text in argument]
    cur = conn.cursor()
    if what == "parameters":
        return await executed(conn, "UPDATE a SET n = n + %s WHERE id = %s RETURNING n", (argument, argument))
    if what == "many":
        await run(cur.executemany("INSERT INTO log (what) VALUES (%s)", [("m",)] * (argument % 7)))
        await run(
            cur.executemany(
                "UPDATE a SET n = %s WHERE id = 2 RETURNING n", [(1,), (argument,)], returning=True
            )
        )
        return await shown(cur)
    if what == "stream":
        rows = await collect(cur.stream("SELECT id, n FROM a WHERE id <= %s ORDER BY id", (argument,)))
        await executed(conn, "SELECT 1")  # (psycopg alone fails with a pipeline right behind a stream)
        return rows
    if what == "copy":
        async with block(cur.copy("COPY log (what) FROM STDIN")) as copy:
            await run(copy.write_row(("copied",)))
        async with block(cur.copy("COPY (SELECT id, n FROM a ORDER BY id) TO STDOUT")) as copy:
            return [bytes(data) for data in await collect(copy)]
    if what == "cursor":
        async with block(conn.cursor("named")) as named:
            await run(named.execute("SELECT id, n FROM a ORDER BY id"))
            return [await run(named.fetchmany(2)), await run(named.fetchone()), named.rownumber]
    if what == "block":
        async with block(conn.transaction()):
            return [await executed(conn, text) for text in argument]
    if what == "pipeline":
        async with block(conn.pipeline()):
            cursors = [await run(conn.execute(text.encode())) for text in argument]
        return [await shown(cur) for cur in cursors]
    if what == "mode":
        if conn.info.transaction_status == pq.TransactionStatus.IDLE:
            if argument in ("autocommit", "transactions"):
                await run(conn.set_autocommit(argument == "autocommit"))
            else:
                level = psycopg.IsolationLevel.REPEATABLE_READ if argument == "repeatable" else None
                await run(conn.set_isolation_level(level))
        return argument
    assert what == "end"
    return await run(conn.commit() if argument == "commit" else conn.rollback())


async def observed(conn: Any, dsn: str, steps: list[Step]) -> list[Any]:
    """All that can be seen of a sequence."""
    seen: list[Any] = []
    with psycopg.connect(dsn, autocommit=True, options="-c lock_timeout=50ms") as other:
        for what, argument in steps:
            on = other if what == "others" else conn
            try:
                answer = await (
                    executed(other, argument) if what == "others" else carried_out(conn, what, argument)
                )
            except psycopg.Error as ex:
                answer = f"{type(ex).__name__} {ex.sqlstate}"
            seen.append((what, argument, answer, pq.TransactionStatus(on.info.transaction_status).name))
        seen.append(sorted(conn._prepared._names.values()))
        with suppress(psycopg.Error):
            await run(conn.rollback())
        await run(conn.set_autocommit(True))
        for query in ("SELECT name FROM pg_prepared_statements ORDER BY 1", "SELECT name FROM pg_cursors ORDER BY 1",
                      "SELECT pg_listening_channels()", "SHOW work_mem"):  # fmt: skip
            result = conn.pgconn.exec_(query.encode())  # (two of these views are closed to an agent)
            seen.append([result.get_value(row, 0) for row in range(result.ntuples)])
        tables = other.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1"
        ).fetchall()
        for (table,) in tables:
            rows = other.execute(f"SELECT * FROM {table}".encode()).fetchall()
            seen.append((table, sorted(rows, key=repr)))
    return seen


MODES: dict[str, tuple[dict[str, Any], Any]] = {
    "nothing forbidden": (EVERYTHING, "enforce"),
    "observing": (ELSEWHERE, "observe"),
    "rules elsewhere": (ELSEWHERE, "enforce"),
}


@pytest.mark.parametrize("seed", range(SEQUENCES))
async def test_random_sequences_are_as_with_plain_psycopg(
    fresh_dsn: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARDDB_TEST_KEY", "a key of sixteen bytes")
    steps = program(seed)
    asynchronous = seed % 2
    expected = None
    for mode in ("plain", *MODES):
        with psycopg.connect(fresh_dsn, autocommit=True) as admin:
            admin.execute(SCHEMA)
        if mode == "plain":
            conn: Any = (
                await psycopg.AsyncConnection.connect(fresh_dsn)
                if asynchronous
                else psycopg.connect(fresh_dsn)
            )
        else:
            fields, enforcement = MODES[mode]
            options: Any = {"policy": open_policy(**fields), "enforcement": enforcement}
            conn = (
                await guarddb.AsyncConnection.connect(fresh_dsn, **options)
                if asynchronous
                else guarddb.connect(fresh_dsn, **options)
            )
        try:
            found = await observed(conn, fresh_dsn, steps)
        finally:
            await run(conn.close())
        if expected is None:
            expected = found
            continue
        assert len(found) == len(expected)
        for number, (mine, plain) in enumerate(zip(found, expected, strict=True)):
            assert mine == plain, f"{mode}, step {number} of {seed}"
