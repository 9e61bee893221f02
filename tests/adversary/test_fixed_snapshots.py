"""Two connections of one agent: what one of them defines means nothing to a transaction of the other that sees an older catalog.

Under REPEATABLE READ and SERIALIZABLE queries of the catalog see the transaction's snapshot, and names the newest catalog.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel

import guarddb
from tests.adversary.ground import PREDICATES, Ground, writing
from tests.driver.conftest import look_is_due
from tests.fix_server import temporary_database

POLICY = writing(PREDICATES["cheap"])
_OF_ROWS = "AS SELECT id, label FROM public.orders"
#: What the other connection defines, and what reads it.
STORIES: dict[str, tuple[list[str], list[str]]] = {
    "a new view": (
        [f"CREATE VIEW fresh {_OF_ROWS}"],
        [
            "SELECT * FROM fresh",
            "TABLE public.fresh",
            "SELECT (SELECT max(label) FROM fresh)",
            "WITH f AS (SELECT * FROM fresh) SELECT * FROM f",
            "CREATE TEMP TABLE k AS SELECT * FROM fresh",
            "INSERT INTO other (id, val) SELECT id + 100, label FROM fresh RETURNING *",
            "UPDATE other SET val = (SELECT max(label) FROM fresh) WHERE id = 1 RETURNING *",
            "DECLARE c CURSOR FOR SELECT * FROM fresh",
            "PREPARE p AS SELECT * FROM fresh",
            "EXPLAIN SELECT * FROM fresh",
        ],
    ),
    "a view with another definition": (
        [f"CREATE OR REPLACE VIEW vother {_OF_ROWS}"],
        [
            "SELECT * FROM vother",
            "SELECT label FROM vabove WHERE id = 6",
            "SELECT count(*) FROM other JOIN vabove USING (id)",
        ],
    ),
    "a view in the place of a table": (
        ["ALTER TABLE scratch RENAME TO elsewhere", f"CREATE VIEW scratch {_OF_ROWS}"],
        ["SELECT * FROM scratch", "SELECT * FROM public.scratch"],
    ),
    "a schema that comes before": (
        [f"CREATE SCHEMA {{role}} CREATE VIEW other {_OF_ROWS}"],
        ["SELECT * FROM other"],
    ),
}
HOW: dict[str, str] = {
    "by the connection": "",
    "by BEGIN": "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "by SET": "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
}


@pytest.fixture(scope="module")
def own(server_dsn: str) -> Iterator[Ground]:
    with temporary_database(server_dsn, "adversary_snapshots") as dsn:
        ground = Ground(dsn)
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("CREATE TABLE scratch (id int, label text)")
            conn.execute("CREATE VIEW vother AS SELECT id, val AS label FROM other")
            conn.execute("CREATE VIEW vabove AS SELECT * FROM vother")
            conn.execute("CREATE VIEW vserver AS SELECT table_name FROM information_schema.tables")
            conn.execute(
                "CREATE VIEW vstats AS SELECT relname FROM pg_stat_user_tables JOIN pg_class USING (relname)"
            )
        yield ground


def _reader(dsn: str, how: str) -> guarddb.Connection[Any]:
    """A connection in a transaction that has its snapshot."""
    conn = guarddb.connect(dsn, policy=POLICY, autocommit=how == "by BEGIN")
    # The server's process has looked these names up before, in such a transaction too, and keeps what it found.
    for _ in range(2):
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ" if how == "by BEGIN" else HOW["by SET"])
        conn.execute("SELECT FROM other, vother, vabove, scratch LIMIT 0")
        conn.execute("SELECT FROM public.scratch LIMIT 0")
        conn.rollback()
    if how == "by the connection":
        conn.isolation_level = IsolationLevel.REPEATABLE_READ
    elif how:
        conn.execute(HOW[how])
    assert conn.execute("SELECT 1").fetchone() == (1,)
    return conn


def _asked(conn: guarddb.Connection[Any], sql: str) -> list[Any]:
    rows = []
    follow_up = {"DECL": "FETCH ALL FROM c", "PREP": "EXECUTE p", "CREA": "SELECT * FROM k"}.get(sql[:4])
    for text in (sql, follow_up) if follow_up is not None else (sql,):
        cursor = conn.execute(text)
        rows += cursor.fetchall() if cursor.description else []
    return rows


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("story", STORIES)
def test_no_hidden_row_by_what_another_connection_defined(own: Ground, story: str, how: str) -> None:
    definitions, attempts = STORIES[story]
    with psycopg.connect(own.dsn) as conn:
        (role,) = conn.execute("SELECT current_user").fetchone() or ("",)
    readers = [_reader(own.dsn, how) for _ in (*attempts, "a pipeline")]
    undo = psycopg.connect(own.dsn)
    try:
        with guarddb.connect(own.dsn, policy=POLICY, autocommit=True) as other:
            for sql in definitions:
                other.execute(sql.format(role=f'"{role}"'))
        for number, (reader, sql) in enumerate(zip(readers, attempts, strict=False)):
            if number % 2 == 0:
                # The last look at the catalog does for this statement, too: names are asked for all the same.
                reader._guard.freshness.check_at = float("inf")
            with pytest.raises(guarddb.PolicyViolation, match="snapshot") as caught:
                _asked(reader, sql)
            assert caught.value.decision is not None
            assert caught.value.decision.hint is not None
            assert reader.execute("SELECT 1").fetchone() == (1,)  # the transaction goes on
        rows: list[Any] = []
        with suppress(guarddb.PolicyViolation), readers[-1].pipeline():
            readers[-1].execute("SELECT 1")
            rows += readers[-1].execute(attempts[0]).fetchall()
        assert "HIDDEN" not in str(rows)
        readers[-1].rollback()
        look_is_due(readers[-1])
        with suppress(guarddb.PolicyViolation):  # (a new transaction judges by the new definitions)
            assert "HIDDEN" not in str(_asked(readers[-1], attempts[0]))
    finally:
        for reader in readers:
            reader.close()
        with undo:
            undo.execute(f'DROP SCHEMA IF EXISTS "{role}" CASCADE')
            undo.execute("DROP VIEW IF EXISTS fresh")
            undo.execute("CREATE OR REPLACE VIEW vother AS SELECT id, val AS label FROM other")
            if story == "a view in the place of a table":
                undo.execute("DROP VIEW scratch; ALTER TABLE elsewhere RENAME TO scratch")


HARMLESS = [
    "SELECT id, label FROM orders ORDER BY id",
    "SELECT * FROM vother ORDER BY 1",
    "SELECT * FROM vabove ORDER BY 1",
    "SELECT * FROM vo ORDER BY 1",
    "SELECT * FROM part",
    "SELECT count(*) FROM vserver",
    "SELECT count(*) > 0 FROM vstats",
    "SELECT relname FROM pg_class WHERE relname = 'other'",
    "INSERT INTO other (id, val) VALUES (77, 'x') RETURNING id",
    "CREATE TEMP TABLE mine AS SELECT id FROM orders",
    "SELECT * FROM mine ORDER BY id",
    "CREATE VIEW ofmine AS SELECT 1 AS a",
    "SELECT * FROM ofmine",
    "SAVEPOINT a",
    "DROP VIEW ofmine",
    "ROLLBACK TO a",
    "SELECT * FROM ofmine",
    "UPDATE orders SET label = 'seen9' WHERE id = 1 RETURNING label",
]


@pytest.mark.parametrize("pipeline", [False, True])
@pytest.mark.parametrize("how", HOW)
def test_such_transactions_do_what_any_does(own: Ground, how: str, *, pipeline: bool) -> None:
    answers = []
    for level in (how, ""):
        with _reader(own.dsn, level) as conn:
            if pipeline:
                with conn.pipeline():
                    cursors = [conn.execute(sql) for sql in HARMLESS]
            else:
                cursors = [conn.execute(sql) for sql in HARMLESS]
            answers.append(
                [cursor.fetchall() if cursor.description else cursor.statusmessage for cursor in cursors]
            )
            conn.rollback()
    assert answers[0] == answers[1]


def test_what_others_have_dropped_is_no_error_of_the_next_statement(own: Ground) -> None:
    """The catalog that such a transaction sees holds a view that can no longer be opened."""
    with psycopg.connect(own.dsn, autocommit=True) as conn:
        conn.execute("CREATE VIEW goes AS SELECT 1 AS a")
        with _reader(own.dsn, "by SET") as reader:
            conn.execute("DROP VIEW goes")
            reader.execute("CREATE TEMP TABLE own (a int)")  # so the catalog is read
            assert reader.execute("SELECT count(*) FROM own").fetchone() == (0,)
            with pytest.raises(psycopg.errors.UndefinedTable):
                reader.execute("SELECT * FROM goes")
            reader.rollback()


def test_a_look_within_a_transaction_sees_the_newest_names(own: Ground) -> None:
    """Under READ COMMITTED: the catalog that is read is the newest, and so has to be where names are looked for."""
    with psycopg.connect(own.dsn, autocommit=True) as undo, guarddb.connect(own.dsn, policy=POLICY) as reader:
        (role,) = undo.execute("SELECT current_user").fetchone() or ("",)
        reader.execute("SELECT FROM other, vother LIMIT 0")
        reader.rollback()
        try:
            for number in range(3):
                undo.execute(f"CREATE TABLE looked{number} ()")
                look_is_due(reader)
                reader.execute("SELECT 1")
            with guarddb.connect(own.dsn, policy=POLICY, autocommit=True) as other:
                other.execute(f'CREATE SCHEMA "{role}" CREATE VIEW other {_OF_ROWS}')
            look_is_due(reader)
            cursor = reader.execute("SELECT * FROM other")
            assert "HIDDEN" not in str(cursor.fetchall())
            assert [each.name for each in cursor.description or ()] == ["id", "label"]
        finally:
            reader.rollback()
            undo.execute(f'DROP SCHEMA IF EXISTS "{role}" CASCADE')
            undo.execute("DROP TABLE IF EXISTS looked0, looked1, looked2")
