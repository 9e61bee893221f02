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
