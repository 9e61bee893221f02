"""What a refusal says is enough to go on: a reader that only follows the hint gets what the policy can give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import guarddb
from tests.field.mistakes import MISTAKES, PROFILE, SCHEMA, Mistake
from tests.fix_server import temporary_database

#: How a hint says that nothing will do.
HONEST = (
    "o statement can",
    "o form of this statement",
    "somebody with write access",
    "Tables that are open here",
    "AT TIME ZONE",
    "with their schema",
    "Filter, join, group and sort by columns",
)


@pytest.fixture(scope="module")
def rental(server_dsn: str) -> Iterator[str]:
    """A database with the tables of the mistakes."""
    with temporary_database(server_dsn, "mistakes") as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SCHEMA)
        yield dsn


def follow(decision: guarddb.Decision) -> str | None:
    """A mechanical reader: rule, reason and hint are all it knows, and it runs what stands behind "Try:"."""
    _, found, sql = (decision.hint or "").partition("Try: ")
    return sql if found else None


def answer(conn: guarddb.Connection[Any], sql: str) -> Any:
    """Rows as a multiset, or the rows a write touched; rolled back."""
    cur = conn.execute(sql.encode())
    rows = Counter(map(repr, cur.fetchall())) if cur.description else cur.rowcount
    conn.rollback()
    return rows


def solved(conn: guarddb.Connection[Any], mistake: Mistake) -> bool:
    """Whether the hint of the refusal serves the purpose as well as anything does."""
    try:
        got = answer(conn, mistake.sql)
    except guarddb.PolicyViolation as ex:
        conn.rollback()
        decision = ex.decision
    else:  # it need not be refused any more
        return any(got == answer(conn, sql) for sql in mistake.serves)
    assert decision is not None
    proposal = follow(decision)
    assert proposal == decision.try_sql
    if proposal is None:
        return not mistake.serves and any(words in (decision.hint or "") for words in HONEST)
    got = answer(conn, proposal)  # what is proposed is never refused
    return not mistake.serves or any(got == answer(conn, sql) for sql in mistake.serves)


def test_there_are_a_hundred() -> None:
    assert len({(each.sql, each.writes) for each in MISTAKES}) == 100


def test_a_mechanical_reader_solves_most(rental: str) -> None:
    """At least 85 of 100; whichever it does not is named."""
    unsolved = []
    for writes in (False, True):
        profile = {**PROFILE, "access_mode": "read_write" if writes else "read_only"}
        with guarddb.connect(rental, policy=profile) as conn:
            for mistake in MISTAKES:
                if mistake.writes == writes and not solved(conn, mistake):
                    unsolved.append(mistake.sql)  # noqa: PERF401
    assert len(unsolved) <= 15, unsolved


#: What a hint says, or the statement that it ends with; under a policy that only reads.
HINTS = (
    ("COPY app.film TO '/tmp/x'", "Try: SELECT * FROM app.film"),
    ("COPY app.film (id, title) TO STDOUT", "Try: SELECT id, title FROM app.film"),
    ("COPY (SELECT id FROM app.film) TO STDOUT", "Try: SELECT id FROM app.film"),
    ("RESET ALL", "lets none be set or reset"),
    ("ALTER SYSTEM SET work_mem = '1MB'", "lets none be set or reset"),
    ("LOCK TABLE app.film", "Use a statement of an allowed kind."),
    ("SELECT rolname FROM pg_authid", "Try: SELECT rolname FROM pg_catalog.pg_roles"),
    ("SELECT usename FROM pg_shadow", "Try: SELECT usename FROM pg_catalog.pg_user"),
    ("SELECT title AS 'name' FROM app.film", 'Try: SELECT title AS "name" FROM app.film'),
    ("SELECT title, FROM app.film", "Try: SELECT title FROM app.film"),
    (
        "SELECT id FROM app.film WHERE id > 1 && id < 5",
        "Try: SELECT id FROM app.film WHERE id > 1 AND id < 5",
    ),
    ("SELECT now() - INTERVAL 1 DAY", "Try: SELECT now() - INTERVAL '1 DAY'"),
    # Errors of PostgreSQL's own.
    ("SELECT title FROM app.film WHERE rating == 'R'", "In PostgreSQL: x = y."),
    ("SELECT id FROM app.film WHERE (id > 1) && (id < 5)", "In PostgreSQL: x AND y."),
    ('SELECT title FROM app.film WHERE title = "t1"', "Text goes in single quotes: 't1'."),
    ("SELECT dateadd(day, 1, rented_at) FROM app.rental", "x + interval '1 day'"),
    ("SELECT f.name FROM app.film AS f JOIN app.members AS m ON m.id = f.id", '"m.name"'),
)


#: The same under a policy that writes.
HINTS_OF_A_WRITER = (
    (
        "CREATE TABLE app.copied AS SELECT * FROM app.members",
        "AS SELECT id, org_id, name, joined FROM app.members",
    ),
    (
        "CREATE VIEW app.shown AS SELECT m.id, m.email FROM app.members m",
        "AS SELECT m.id FROM app.members AS m",
    ),
    ("DELETE FROM app.film WHERE idd = 1", '"idd" is no column of "app.film". Did you mean id?'),
    ("MERGE INTO app.film f USING app.rental r ON true WHEN MATCHED THEN DELETE", "Add an ON condition"),
)


def test_hints_of_a_writer_name_what_passes(rental: str) -> None:
    with guarddb.connect(rental, policy={**PROFILE, "access_mode": "read_write"}) as conn:
        for sql, words in HINTS_OF_A_WRITER:
            with pytest.raises(guarddb.PolicyViolation) as refused:
                conn.execute(sql.encode())
            hint = refused.value.hint or ""
            assert words in hint
            if "Try: " in hint:
                conn.execute(hint.partition("Try: ")[2].encode())
            conn.rollback()


def test_hints_name_what_passes(rental: str) -> None:
    missing = []
    with guarddb.connect(rental, policy=PROFILE, autocommit=True) as conn:
        for sql, words in HINTS:
            with pytest.raises(psycopg.Error) as refused:
                conn.execute(sql.encode())
            hint = refused.value.diag.message_hint or ""
            if words not in hint:
                missing.append((sql, hint))
            if isinstance(refused.value, guarddb.PolicyViolation) and "Try: " in hint:
                conn.execute(hint.partition("Try: ")[2].encode())
    assert not missing
