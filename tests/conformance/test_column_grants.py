"""A role that may read only the columns that its policy does not replace by NULL runs every ordinary statement.

So the least-privilege role that the documentation recommends needs no right on a column under `null`, nor on a redacted one
that cannot be NULL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql as s
from psycopg.conninfo import make_conninfo

import guarddb
from tests.conformance.test_corpus import CASES, DIFFERENT, FULL, REFUSED, run
from tests.corpus import Case
from tests.fix_server import temporary_database

#: Roles are the server's, and other workers have it too.
ROLE = f"narrow_{os.getpid()}"
POLICY = {**FULL, "guarddb": {"redact_nulls": True}}
#: What the role may not read: what is under `null`, and under `redact`, which shows its token for NULL as well.
WITHHELD = {("employees", "salary"), ("payments", "card_number"), ("customers", "ssn")}
#: They ask for `tableoid`: there is no grant of a system column, so PostgreSQL itself refuses them.
SYSTEM_COLUMNS = {"more_reads: which table a row is in", "writes: insert into a partitioned table"}

_COLUMNS = """
SELECT n.nspname, c.relname, c.relkind = 'r' OR c.relkind = 'p', array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relkind IN ('r', 'p', 'v', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND a.attnum > 0 AND NOT a.attisdropped
GROUP BY 1, 2, 3
"""


def grant(conn: psycopg.Connection[Any]) -> None:
    role = s.Identifier(ROLE)
    conn.execute(s.SQL("DROP ROLE IF EXISTS {}").format(role))
    conn.execute(s.SQL("CREATE ROLE {} LOGIN").format(role))
    for schema, relation, writable, columns in conn.execute(_COLUMNS).fetchall():
        name = s.Identifier(schema, relation)
        shown = [s.Identifier(c) for c in columns if (relation, c) not in WITHHELD]
        conn.execute(s.SQL("GRANT SELECT ({}) ON {} TO {}").format(s.SQL(", ").join(shown), name, role))
        conn.execute(s.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(s.Identifier(schema), role))
        if writable:
            conn.execute(s.SQL("GRANT INSERT, UPDATE, DELETE ON {} TO {}").format(name, role))
    for (schema,) in conn.execute("SELECT DISTINCT schemaname FROM pg_sequences").fetchall():
        conn.execute(
            s.SQL("GRANT ALL ON ALL SEQUENCES IN SCHEMA {} TO {}").format(s.Identifier(schema), role)
        )


@pytest.fixture(scope="module")
def database(server_dsn: str, shop_template: str) -> Iterator[str]:
    with temporary_database(server_dsn, "narrow", shop_template) as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            grant(conn)
        yield dsn
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(s.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(s.Identifier(ROLE)))


@pytest.fixture(scope="module")
def narrow(database: str) -> Iterator[guarddb.Connection[Any]]:
    with guarddb.connect(make_conninfo(database, user=ROLE), policy=POLICY, autocommit=True) as conn:
        yield conn


@pytest.fixture(scope="module")
def wide(database: str) -> Iterator[guarddb.Connection[Any]]:
    with guarddb.connect(make_conninfo(database, user="agent"), policy=POLICY, autocommit=True) as conn:
        yield conn


def test_what_is_withheld_cannot_be_read_without_guarddb(database: str) -> None:
    with psycopg.connect(make_conninfo(database, user=ROLE), autocommit=True) as conn:
        for relation, column in WITHHELD:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(s.SQL("SELECT {} FROM {}").format(s.Identifier(column), s.Identifier(relation)))


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if str(case) not in REFUSED.keys() | DIFFERENT.keys() | SYSTEM_COLUMNS],
    ids=str,
)
def test_ordinary_statement_runs_with_the_rights_it_needs(
    narrow: guarddb.Connection[Any], wide: guarddb.Connection[Any], case: Case
) -> None:
    if case.file == "writes.sql" or case.name == "current_setting":  # (which asks who it is)
        narrow.execute("BEGIN")
        try:
            narrow.execute(case.sql.encode())
        finally:
            narrow.rollback()
        return
    assert run(narrow, case) == run(wide, case)
