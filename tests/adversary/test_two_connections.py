"""Two connections of one agent in one process: what one of them defines is known to the other with its very next statement.

(Others' definitions are found by looking, every so many milliseconds; within these an agent could put a name to another use.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb.driver import freshness
from tests.adversary.ground import Ground, filters, writing
from tests.fix_server import temporary_database, until_waiting

POLICY = {
    **writing(filters("tenant_id = 1")),
    "masking_rules": [{"table": "users", "column": "ssn", "kind": "redact"}],
}
Connection = guarddb.Connection[Any]
#: What the reader does before the definition is committed.
Meanwhile = Callable[[], Any]


def _by_itself(conn: Connection, definition: str, meanwhile: Meanwhile) -> None:
    conn.autocommit = True
    conn.execute(definition)


def _by_commit(conn: Connection, definition: str, meanwhile: Meanwhile) -> None:
    conn.execute(definition)
    meanwhile()
    conn.commit()


def _by_text(conn: Connection, definition: str, meanwhile: Meanwhile) -> None:
    conn.autocommit = True
    conn.execute("BEGIN")
    conn.execute(definition)
    meanwhile()
    conn.execute("END")


def _by_block(conn: Connection, definition: str, meanwhile: Meanwhile) -> None:
    conn.autocommit = True
    with conn.transaction(), conn.transaction():
        conn.execute(definition)
        meanwhile()


def _by_pipeline(conn: Connection, definition: str, meanwhile: Meanwhile) -> None:
    conn.autocommit = True
    with conn.pipeline():
        conn.execute("SELECT 1")
        conn.execute(definition)
        meanwhile()
        conn.execute("SELECT 1")


def _by_commit_in_a_pipeline(conn: Connection, definition: str, meanwhile: Meanwhile) -> None:
    with conn.pipeline():
        conn.execute(definition)
        meanwhile()
        conn.commit()


def _in_two_phases(conn: Connection, definition: str, meanwhile: Meanwhile) -> None:
    conn.tpc_begin(conn.xid(1, conn.info.dbname, "a"))
    conn.execute(definition)
    conn.tpc_prepare()
    meanwhile()
    conn.tpc_commit()


def _and_closes(conn: Connection, definition: str, meanwhile: Meanwhile) -> None:
    conn.execute(definition)
    meanwhile()
    conn.commit()
    conn.close()


DEFINES: dict[str, Callable[[Connection, str, Meanwhile], None]] = {
    each.__name__: each
    for each in (
        _by_itself,
        _by_commit,
        _by_text,
        _by_block,
        _by_pipeline,
        _by_commit_in_a_pipeline,
        _in_two_phases,
        _and_closes,
    )
}


def _executed(conn: Connection, sql: str) -> list[Any]:
    return conn.execute(sql).fetchall()


def _prepared(conn: Connection, sql: str) -> list[Any]:
    return conn.execute(sql, prepare=True).fetchall()


def _by_name(conn: Connection, sql: str) -> list[Any]:
    with conn.cursor("named") as cursor:
        return cursor.execute(sql).fetchall()


def _streamed(conn: Connection, sql: str) -> list[Any]:
    return list(conn.cursor().stream(sql))


def _copied(conn: Connection, sql: str) -> list[Any]:
    with conn.cursor().copy(f"COPY ({sql}) TO STDOUT") as copy:
        return list(copy.rows())


def _in_a_pipeline(conn: Connection, sql: str) -> list[Any]:
    with conn.pipeline():
        return conn.execute(sql).fetchall()


READS: dict[str, Callable[[Connection, str], list[Any]]] = {
    each.__name__: each for each in (_executed, _prepared, _by_name, _streamed, _copied, _in_a_pipeline)
}
#: What is defined, what undoes it, and what would read by it.
DEFINITIONS = {
    "a schema that comes before": (
        'CREATE SCHEMA "{role}" CREATE VIEW other AS SELECT id, label FROM public.orders',
        'DROP SCHEMA IF EXISTS "{role}" CASCADE',
        "SELECT * FROM other",
    ),
    "a column of another name": (
        "ALTER TABLE mine RENAME COLUMN ssn TO s",
        "DROP TABLE mine; CREATE TABLE mine AS SELECT 1 AS id, 'mine'::text AS ssn",
        "SELECT id, (SELECT ssn FROM mine) FROM users",
    ),
}


@pytest.fixture(scope="module")
def own(server_dsn: str) -> Iterator[Ground]:
    with temporary_database(server_dsn, "adversary_two") as dsn:
        ground = Ground(dsn)
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("CREATE TABLE mine AS SELECT 1 AS id, 'mine'::text AS ssn")
        yield ground


@pytest.fixture(autouse=True)
def looks_do_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as nobody says that something has changed."""
    for name in ("LOOK_EVERY", "LOOK_AT_LEAST_EVERY", "PIPELINE_AT_LEAST_EVERY"):
        monkeypatch.setattr(freshness, name, 3600.0)


def _tried(
    own: Ground,
    story: str,
    define: Callable[[Connection, str, Meanwhile], None],
    read: Callable[[Connection, str], list[Any]],
    how: str,
) -> None:
    definition, undo, sql = DEFINITIONS[story]
    with psycopg.connect(own.dsn, autocommit=True) as plain:
        (role,) = plain.execute("SELECT current_user").fetchone() or ("",)
        try:
            with (
                guarddb.connect(own.dsn, policy=POLICY, autocommit=how == "alone") as reader,
                guarddb.connect(own.dsn, policy=POLICY) as other,
            ):
                if how == "fixed":
                    reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                assert read(reader, sql)
                other.execute("SELECT 1")
                other.rollback()
                reader.rollback()  # (its locks would keep the other waiting)
                reader.execute("SELECT 1")
                define(other, definition.format(role=role), lambda: reader.execute("SELECT 1"))
                rows: list[Any] = []
                with suppress(psycopg.Error):
                    rows = read(reader, sql)
                assert "HIDDEN" not in str(rows)
                assert "RAW-" not in str(rows)
                reader.rollback()
        finally:
            plain.execute(undo.format(role=role))


@pytest.mark.parametrize("story", DEFINITIONS)
@pytest.mark.parametrize("how", ["alone", "within", "fixed"])
@pytest.mark.parametrize("define", DEFINES)
def test_a_definition_of_the_other_is_known_however_it_is_committed(
    own: Ground, story: str, define: str, how: str
) -> None:
    _tried(own, story, DEFINES[define], _executed, how)


@pytest.mark.parametrize("story", DEFINITIONS)
@pytest.mark.parametrize("how", ["within", "fixed"])
@pytest.mark.parametrize("read", READS)
def test_a_definition_of_the_other_is_known_to_every_way_of_reading(
    own: Ground, story: str, read: str, how: str
) -> None:
    _tried(own, story, _by_itself, READS[read], how)


@pytest.mark.parametrize(
    "first", ["SHOW work_mem", "SET LOCAL work_mem = '5MB'", "/* ; */ RESET work_mem", "SET a.b = ';'"]
)
@pytest.mark.parametrize("pipeline", [False, True])
def test_a_text_that_only_begins_with_what_takes_no_snapshot_is_judged_by_what_is_there(
    own: Ground, first: str, *, pipeline: bool
) -> None:
    """In front of SET TRANSACTION, as the first thing in a transaction, nothing may be asked."""
    definition, undo, sql = DEFINITIONS["a column of another name"]
    with (
        psycopg.connect(own.dsn, autocommit=True) as plain,
        guarddb.connect(own.dsn, policy=POLICY, autocommit=True) as reader,
        guarddb.connect(own.dsn, policy=POLICY, autocommit=True) as other,
    ):
        try:
            reader.execute(sql)
            rows: list[Any] = []
            with suppress(psycopg.Error), reader.transaction():
                other.execute(definition)
                if pipeline:
                    with reader.pipeline():
                        reader.execute(first)
                        rows += reader.execute(sql).fetchall()
                else:
                    cursor = reader.execute(f"{first}; {sql}")
                    cursor.nextset()
                    rows += cursor.fetchall()
            assert "RAW-" not in str(rows)
            with reader.transaction():
                reader.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;")
                assert reader.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
        finally:
            plain.execute(undo)


@pytest.mark.parametrize("how", ["alone", "within", "fixed"])
@pytest.mark.parametrize("prepared", [False, True])
def test_a_query_that_waited_for_a_definition_shows_nothing(own: Ground, how: str, *, prepared: bool) -> None:
    """It stands behind the definition, which stands behind a third transaction's lock, and names mean what they mean then."""
    definition, undo, sql = DEFINITIONS["a column of another name"]
    with (
        psycopg.connect(own.dsn, autocommit=True) as plain,
        psycopg.connect(own.dsn) as third,
        guarddb.connect(own.dsn, policy=POLICY, autocommit=how == "alone") as reader,
        guarddb.connect(own.dsn, policy=POLICY, autocommit=True) as other,
        ThreadPoolExecutor(2) as threads,
    ):
        try:
            if how == "fixed":
                reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            for _ in range(2 if prepared else 1):
                assert reader.execute(sql, prepare=prepared).fetchall()
            reader.rollback()
            reader.execute("SELECT 1")
            third.execute("SELECT FROM mine")
            defining = threads.submit(other.execute, definition)
            until_waiting(plain, 1)
            asking = threads.submit(reader.execute, sql, prepare=prepared)
            until_waiting(plain, 2)
            third.rollback()
            defining.result(60)
            with pytest.raises(guarddb.PolicyViolation, match=r"defined anew|snapshot"):
                asking.result(60)
            assert reader.execute("SELECT 1").fetchone() == (1,)
            reader.rollback()
        finally:
            third.rollback()
            plain.execute(undo)
