"""Names that mean one thing when a statement is judged and another when it runs, on a live guarded connection.

PostgreSQL looks names up again when a prepared statement runs after the catalog or the temporary schema has changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import guarddb
from tests.adversary.ground import ONE_MASK, PREDICATES, Ground, writing
from tests.fix_server import temporary_database
from tests.fix_slow_line import slow_line


@pytest.fixture
def own(server_dsn: str) -> Iterator[Ground]:
    """A database for one test: these stories commit."""
    with temporary_database(server_dsn, "adversary_late") as dsn:
        ground = Ground(dsn)
        yield ground
        ground.close()


_MINE = "AS SELECT 1 AS id, 'mine'::text AS ssn"
MASK_STORIES = {
    "a temporary view goes": [
        f"CREATE TEMP VIEW users {_MINE}",
        "PREPARE p AS SELECT ssn FROM users",
        "EXECUTE p",
        "DROP VIEW pg_temp.users",
        "EXECUTE p",
        "SELECT ssn FROM users",
    ],
    "a temporary table goes at commit": [
        "BEGIN",
        f"CREATE TEMP TABLE users ON COMMIT DROP {_MINE}",
        "PREPARE p AS SELECT ssn FROM users",
        "DECLARE c CURSOR WITH HOLD FOR SELECT ssn FROM users",
        "COMMIT",
        "EXECUTE p",
        "FETCH ALL FROM c",
        "SELECT ssn FROM users",
    ],
    "a temporary table goes by rollback": [
        "BEGIN",
        f"CREATE TEMP TABLE users {_MINE}",
        "PREPARE p AS SELECT ssn FROM users",
        "EXECUTE p",
        "ROLLBACK",
        "EXECUTE p",
        "SELECT ssn FROM users",
    ],
    "a temporary table goes by savepoint": [
        "BEGIN",
        "SAVEPOINT a",
        f"CREATE TEMP TABLE users {_MINE}",
        "PREPARE p AS SELECT ssn FROM users",
        "SELECT ssn FROM users",
        "ROLLBACK TO a",
        "EXECUTE p",
        "SELECT ssn FROM users",
        "COMMIT",
    ],
    "a temporary table gets another name": [
        f"CREATE TEMP TABLE users {_MINE}",
        "PREPARE p AS SELECT ssn FROM users",
        "SELECT ssn FROM users",
        "ALTER TABLE users RENAME TO users_of_mine",
        "EXECUTE p",
        "SELECT ssn FROM users",
    ],
    "a text that makes what it reads": [
        f"CREATE TEMP VIEW users {_MINE}; SELECT ssn FROM users; DROP VIEW pg_temp.users; SELECT ssn FROM users",
        "CREATE VIEW z AS SELECT u FROM users u; SELECT * FROM z",
        "SELECT ssn FROM users",
    ],
    "another text for the server": [
        "SET standard_conforming_strings = off",
        "SELECT '\\'', ssn FROM users --'",
    ],
}
FILTER_STORIES = {
    "a view takes a table's name": [
        "CREATE TABLE z AS SELECT id, label FROM orders WHERE false",
        "PREPARE p AS SELECT id, label FROM z",
        "ALTER TABLE z RENAME TO y",
        "CREATE VIEW z AS SELECT id, label FROM orders",
        "EXECUTE p",
        "SELECT * FROM z",
    ],
    "a view that is made and read": [
        "CREATE VIEW z AS SELECT * FROM orders",
        "SELECT * FROM z",
        "BEGIN",
        "CREATE VIEW y AS SELECT * FROM z",
        "SELECT * FROM y",
        "ROLLBACK",
    ],
    "a child that is made and read": [
        "CREATE TABLE z () INHERITS (orders)",
        "INSERT INTO z VALUES (9, 2, 1, 'HIDDEN', 0, 0)",
        "SELECT * FROM z",
        "ALTER TABLE z NO INHERIT orders",
        "SELECT * FROM z",
    ],
    "a temporary view goes by rollback": [
        "BEGIN",
        "CREATE TEMP VIEW orders AS SELECT 1 AS id, 'mine'::text AS label",
        "PREPARE p AS SELECT label FROM orders",
        "SELECT label FROM orders",
        "ROLLBACK",
        "EXECUTE p",
        "SELECT label FROM orders",
    ],
}


def _answers(dsn: str, policy: dict[str, Any], story: list[str], *, prepare: bool | None) -> list[str]:
    answers = []
    with guarddb.connect(dsn, policy=policy, autocommit=True) as conn:
        for sql in story:
            try:
                cursor = conn.execute(sql, prepare=prepare)
                while True:
                    if cursor.description:
                        answers.append(str(cursor.fetchall()))
                    if not cursor.nextset():
                        break
            except psycopg.Error as ex:
                answers.append(str(ex))
    return answers


@pytest.mark.parametrize("prepare", [None, True], ids=["as it comes", "prepared"])
@pytest.mark.parametrize("story", MASK_STORIES)
def test_no_story_ends_with_a_masked_value(own: Ground, story: str, prepare: bool | None) -> None:
    """Whatever a name meant before, a masked value is never in an answer, and the session goes on working."""
    answers = _answers(own.dsn, writing(ONE_MASK), MASK_STORIES[story], prepare=prepare)
    assert answers
    assert not [answer for answer in answers if "RAW-" in answer and "blocked by policy" not in answer]


@pytest.mark.parametrize("prepare", [None, True], ids=["as it comes", "prepared"])
@pytest.mark.parametrize("story", FILTER_STORIES)
def test_no_story_ends_with_a_hidden_row(own: Ground, story: str, prepare: bool | None) -> None:
    """The same for rows behind a filter."""
    answers = _answers(own.dsn, writing(PREDICATES["cheap"]), FILTER_STORIES[story], prepare=prepare)
    assert answers
    assert not [answer for answer in answers if "HIDDEN" in answer]


_HIDING = "CREATE TEMP TABLE orders ON COMMIT DROP AS SELECT 1 AS id, 'mine'::text AS label"
#: What ends a pipeline's transaction without its knowing yet; None: the program waits a moment.
PIPELINES: dict[str, list[str | None]] = {
    "an error of a statement": [_HIDING, "SELECT 1 / 0", None, "SELECT 2", "ROLLBACK"],
    "an error of a definition": [
        _HIDING,
        "ALTER TABLE orders SET SCHEMA public",
        None,
        "PREPARE p AS SELECT 1",
        "END",
    ],
    "a transaction of its own": ["BEGIN", _HIDING, "SELECT 1 / 0", None, "SELECT 2", "ROLLBACK"],
    "a savepoint": ["SAVEPOINT a", _HIDING, "SELECT 1 / 0", None, "SELECT 2", "ROLLBACK TO a"],
    "a refusal between": [_HIDING, "SELECT 1 / 0", None, "SELECT 2", "selec", "ROLLBACK", "SELECT 3"],
}


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("story", PIPELINES)
def test_no_pipeline_ends_with_a_hidden_row(ground: Ground, story: str, autocommit: bool) -> None:
    """An error is known before the Sync behind which statements run again, and with names that mean what they meant before."""
    policy = writing(PREDICATES["cheap"])
    answers = []
    with (
        slow_line(ground.dsn, 0.02) as dsn,
        guarddb.connect(dsn, policy=policy, autocommit=autocommit) as conn,
    ):
        cursors = []
        try:
            with conn.pipeline():
                for sql in (
                    *PIPELINES[story],
                    "SELECT label FROM orders",
                    "DELETE FROM orders WHERE id = 6 RETURNING *",
                ):
                    if sql is None:
                        time.sleep(0.1)
                        continue
                    try:
                        cursors.append(conn.execute(sql))
                    except psycopg.Error as ex:
                        answers.append(str(ex))
        except psycopg.Error as ex:
            answers.append(str(ex))
        answers += [str(cursor.fetchall()) for cursor in cursors if cursor.description]
        conn.rollback()
        assert conn.execute("SELECT 1").fetchone() == (1,)
    assert not [answer for answer in answers if "HIDDEN" in answer]


def test_the_classes_are_complete() -> None:
    """The classes have the size they were written with: one that shrinks by an edit is noticed."""
    assert (len(MASK_STORIES), len(FILTER_STORIES), len(PIPELINES)) == (7, 4, 5)
