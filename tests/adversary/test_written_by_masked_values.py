"""Where a masked value decides which row is written, or where a row lies, nothing tells which rows these were.

A foreign key with an action writes the rows that refer to a key, and a row of a partitioned table is in the partition of its key.
Two databases that differ in masked values alone answer every story alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

import guarddb
from tests.fix_server import temporary_database

SCHEMA = """
CREATE TABLE plans (id int PRIMARY KEY, name text);
CREATE TABLE subs (id int PRIMARY KEY, plan int REFERENCES plans ON UPDATE CASCADE ON DELETE SET NULL, note text);
CREATE TABLE visits (
  id int NOT NULL, kind text, note text, plan int REFERENCES plans, CHECK (note <> 'bad'), UNIQUE (id, kind)
) PARTITION BY LIST (kind);
CREATE INDEX ON visits (note);
CREATE TABLE visits_a PARTITION OF visits FOR VALUES IN ('a');
CREATE TABLE visits_rest PARTITION OF visits DEFAULT;
CREATE VIEW all_visits AS SELECT id, note FROM visits;
CREATE TABLE plain (id int, n int);
INSERT INTO plans VALUES (1, 'basic'), (2, 'full'), (3, 'none');
INSERT INTO plain VALUES (1, 1);
"""
#: Of the masked values.
VARIANTS = (
    """
    INSERT INTO subs VALUES (1, 1, 'x'), (2, 2, 'y'), (3, 3, 'z');
    INSERT INTO visits VALUES (1, 'a', 'x'), (2, 'b', 'y'), (3, 'b', 'z');
    """,
    """
    INSERT INTO subs VALUES (1, 2, 'x'), (2, 1, 'y'), (3, 2, 'z');
    INSERT INTO visits VALUES (1, 'b', 'x'), (2, 'b', 'y'), (3, 'a', 'z');
    """,
)

WRITES = (
    "UPDATE plans SET id = 9 WHERE id = 1",
    "DELETE FROM plans WHERE id = 1",
    "UPDATE visits SET note = 'probe' WHERE id = 1",
    "DELETE FROM visits WHERE id = 1",
)
LOOKS = (
    "SELECT id FROM subs",
    "SELECT id, ctid FROM subs ORDER BY id",
    "SELECT id FROM subs WHERE pg_current_xact_id_if_assigned()::xid = xmin ORDER BY id",
    "SELECT relname, n_tup_upd, n_tup_del FROM pg_stat_xact_user_tables ORDER BY 1",
    "SELECT relname, seq_tup_read FROM pg_stat_xact_user_tables ORDER BY 1",
    "SELECT pg_stat_get_xact_tuples_updated('visits_a'::regclass)",
    "SELECT pg_stat_get_live_tuples('visits_a'::regclass)",
    "SELECT pg_relation_size('visits_a')",
    "ANALYZE VERBOSE visits",
    "EXPLAIN SELECT id FROM visits",
    "EXPLAIN SELECT id FROM all_visits",
    "CREATE UNIQUE INDEX ON visits_a (note)",
    "CREATE INDEX ON visits_a ((1 / (id - 1)))",
    "CREATE INDEX ON visits_rest (id) WHERE 1 / (id - 1) > 0",
    "ALTER TABLE visits_a ADD CHECK (note <> 'probe')",
    "ALTER TABLE visits_rest ADD CHECK (id <> 1) NOT VALID",
    "ALTER TABLE visits_a ALTER id TYPE bigint USING 1 / (id - 1)",
    "ALTER TABLE visits ADD CHECK (id <> 1 OR tableoid <> 'visits_a'::regclass)",
    "ALTER TABLE visits ADD COLUMN place oid GENERATED ALWAYS AS (tableoid) STORED",
    "ALTER TABLE visits_a REPLICA IDENTITY NOTHING",
    "UPDATE visits SET note = 'bad' WHERE id = 1",
    "UPDATE visits SET id = NULL WHERE id = 1",
    "UPDATE visits SET plan = 99 WHERE id = 1",
    "UPDATE all_visits SET note = 'bad' WHERE id = 1",
    "WITH u AS (UPDATE visits SET note = 'bad' WHERE id = 1 RETURNING 1) SELECT * FROM u",
    "MERGE INTO visits v USING plain p ON v.id = p.id WHEN MATCHED THEN UPDATE SET note = 'bad'",
    "UPDATE visits SET note = (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 300) g) WHERE id = 1",
    "ALTER TABLE visits ADD CHECK (id <> 1)",
)
NEIGHBOURS = (
    "UPDATE plans SET name = 'x' WHERE id = 1",
    "INSERT INTO plans VALUES (4, 'new')",
    "UPDATE visits SET note = 'x' WHERE id = 1",
    "SELECT count(*) FROM visits WHERE note = 'x'",
    "SELECT relname, relkind FROM pg_class WHERE relname = 'visits_a'",
    "SELECT relid::regclass, last_analyze FROM pg_stat_user_tables",
    "SELECT pg_relation_size('plain')",
    "ANALYZE visits",
    "EXPLAIN SELECT id FROM visits",
    "CREATE INDEX ON visits_a (id)",
    "ALTER TABLE visits ADD CHECK (id > 0)",
    "ALTER TABLE visits ADD COLUMN more int",
    "COMMENT ON TABLE visits_a IS 'x'",
)


def profile(kind: str) -> dict[str, Any]:
    return {
        "name": kind,
        "access_mode": "read_write",
        "statement_rules": {
            "allow": ["select", "insert", "update", "delete", "ddl", "explain", "transaction", "other"]
        },
        "masking_rules": [
            {"table": "subs", "column": "plan", "kind": kind},
            {"table": "visits", "column": "kind", "kind": kind},
        ],
    }


@pytest.fixture(scope="module", params=["null", "redact", "hash"])
def variants(server_dsn: str, request: pytest.FixtureRequest) -> Iterator[list[guarddb.Connection[Any]]]:
    with ExitStack() as stack:
        made = []
        for variant in VARIANTS:
            dsn = stack.enter_context(temporary_database(server_dsn, "places"))
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute(f"{SCHEMA} {variant}; ANALYZE".encode())
            made.append(stack.enter_context(guarddb.connect(dsn, policy=profile(request.param))))
        yield made


def told(conn: guarddb.Connection[Any], *story: str) -> list[object]:
    found: list[object] = []
    notices: list[str | None] = []

    def noticed(diagnostic: psycopg.errors.Diagnostic) -> None:
        notices.append(diagnostic.message_primary)

    conn.add_notice_handler(noticed)
    try:
        for sql in story:
            try:
                cursor = conn.execute(sql.encode())
                found.append(cursor.fetchall() if cursor.description else cursor.statusmessage)
            except psycopg.Error as error:
                names = (error.diag.table_name, error.diag.constraint_name, error.diag.message_detail)
                found.append(f"{error.sqlstate} {error.diag.message_primary or error} {names} {error}")
    finally:
        conn.rollback()
        conn.remove_notice_handler(noticed)
    return [found, notices]


@pytest.mark.parametrize("look", LOOKS)
def test_nothing_tells_which_rows_a_masked_value_chose(
    variants: list[guarddb.Connection[Any]], look: str
) -> None:
    for write in WRITES:
        one, other = (told(conn, write, look) for conn in variants)
        assert one == other, write


@pytest.mark.parametrize("sql", NEIGHBOURS)
def test_what_tells_nothing_of_them_runs(variants: list[guarddb.Connection[Any]], sql: str) -> None:
    for conn in variants:
        conn.execute(sql.encode())
        conn.rollback()
