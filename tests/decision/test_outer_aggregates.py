"""An aggregate belongs to the query whose columns it takes, wherever it is written; that query has groups then, and no GROUP BY.

What guarddb adds to such a query's columns would stand ungrouped (42803). Every statement answers as native row-level
security does.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

import guarddb
from tests.fix_server import temporary_database

SCHEMA = """
CREATE TABLE r (id int PRIMARY KEY, tenant int, n int, word text);
INSERT INTO r SELECT i, i % 3, i % 5, 'w' || i FROM generate_series(1, 30) AS i;
CREATE AGGREGATE last_word (text) (SFUNC = text_larger, STYPE = text);
CREATE TABLE s (k int PRIMARY KEY, r_id int, w text);
INSERT INTO s SELECT i, i, i::text FROM generate_series(1, 9) AS i;
ALTER TABLE r ENABLE ROW LEVEL SECURITY;
CREATE POLICY one ON r USING (tenant = 1);
"""
#: Columns beside which, or in which, the query gets groups.
GROUPED = (
    "(SELECT w FROM s WHERE k IN (SELECT (sum(a.id) - sum(a.id))::int + 3 FROM s AS z) ORDER BY 1 LIMIT 1)",
    "(SELECT max(a.word) FROM s LIMIT 1)",
    "(SELECT (SELECT max(a.word)) FROM s LIMIT 1)",
    "(SELECT count(a.id) FILTER (WHERE a.n > 1)::text FROM s LIMIT 1)",
    "(SELECT string_agg(a.word, ',' ORDER BY a.id) FROM s LIMIT 1)",
    "(SELECT json_arrayagg(a.id ORDER BY a.id)::text FROM s LIMIT 1)",
    "max(a.word)",
    "last_word(a.word)",
    "(SELECT last_word(a.word) FROM s LIMIT 1)",
    "(SELECT w FROM s WHERE k = 3)",
)
#: In which it gets none: the aggregate is a nested query's own.
UNGROUPED = (
    "(SELECT max(w) FROM s WHERE s.r_id = a.id)",
    "(SELECT max(s.w || a.word) FROM s)",
    "(SELECT string_agg(w, a.word ORDER BY k) FROM s)",
    "a.word",
)
CONDITIONS = (
    "x.c ILIKE '_'",
    "length(x.c) > 0",
    "x.c::text = '3' OR 10 / length(x.c) > 1",
    "x.c || '' <> 'w1'",
)


def statements() -> Iterator[str]:
    for columns, condition in product((GROUPED, UNGROUPED), CONDITIONS):
        for column in columns:
            beside = "count(*)" if columns is GROUPED else "a.id"
            yield f"SELECT x.c FROM (SELECT {column} AS c FROM r AS a) AS x WHERE {condition}"
            yield f"SELECT x.c, x.d FROM (SELECT {column} AS c, {beside} AS d FROM r AS a) AS x WHERE {condition}"
    for column in GROUPED:
        yield f"SELECT x.c FROM (SELECT (SELECT w FROM s LIMIT 1) AS c, {column} AS d FROM r AS a) AS x WHERE x.c ILIKE '_'"


@pytest.fixture(scope="module")
def sessions(server_dsn: str) -> Iterator[tuple[psycopg.Connection[Any], psycopg.Connection[Any]]]:
    """Of a role under row-level security, and guarded under a filter of the same predicate."""
    with temporary_database(server_dsn, "outer") as dsn, psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(SCHEMA)
        (database,) = admin.execute("SELECT current_database()").fetchone() or ("",)
        role = f"{database}_reader"
        admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        admin.execute(sql.SQL("GRANT SELECT ON r, s TO {}").format(sql.Identifier(role)))
        profile = {
            "name": "one",
            "row_filters": [{"table": "r", "predicate": "tenant = 1"}],
            "guarddb": {"function_allowlist": ["last_word"]},
        }
        native = make_conninfo(dsn, options=f"-c role={role}")
        with (
            psycopg.connect(native, autocommit=True) as judge,
            guarddb.connect(dsn, policy=profile, autocommit=True) as guarded,
        ):
            yield judge, guarded
        admin.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(role)))


def answer(conn: psycopg.Connection[Any], text: str) -> object:
    try:
        return sorted(conn.execute(text.encode()).fetchall())
    except psycopg.Error as error:
        return error.sqlstate


def test_a_query_with_groups_answers_as_under_native_row_security(
    sessions: tuple[psycopg.Connection[Any], psycopg.Connection[Any]],
) -> None:
    judge, guarded = sessions
    answers = {text: (answer(judge, text), answer(guarded, text)) for text in statements()}
    assert {text: both for text, both in answers.items() if both[0] != both[1]} == {}
    assert sum(isinstance(expected, list) for expected, _ in answers.values()) > len(answers) * 0.8
