"""The safe form does the same and keeps nobody out: both forms are run, and every step of the safe one is measured."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from guarddb import Catalog
from guarddb.lint.acts import Lock
from guarddb.lint.fix import fix
from guarddb.lint.migrations import lint, walk
from tests.fix_server import temporary_database
from tests.lint.oracle import in_transaction

#: Unsafe statements, and the table that they are about. What is left behind by intention (the old column) is not compared.
UNSAFE = [
    ("CREATE INDEX by_qty ON orders (qty)", "orders"),
    ("CREATE UNIQUE INDEX by_id ON refunds (id) WHERE amount > 0", "refunds"),
    ("CREATE INDEX events_kind ON events (kind)", "events"),
    ("DROP INDEX orders_status_idx", "orders"),
    ("REINDEX TABLE orders", "orders"),
    ("ALTER TABLE orders ADD CONSTRAINT qty_known CHECK (qty > 0)", "orders"),
    ("ALTER TABLE lonely ADD CONSTRAINT lonely_fkey FOREIGN KEY (id) REFERENCES customers ON DELETE CASCADE", "lonely"),
    ("ALTER TABLE orders ALTER COLUMN qty SET NOT NULL", "orders"),
    ("ALTER TABLE lonely ADD CONSTRAINT lonely_id UNIQUE (id) INCLUDE (note)", "lonely"),
    ("ALTER TABLE lonely ADD PRIMARY KEY (id)", "lonely"),
    ("ALTER TABLE orders ADD COLUMN extra uuid NOT NULL DEFAULT gen_random_uuid()", "orders"),
    ("ALTER TABLE lonely ADD COLUMN extra serial UNIQUE", "lonely"),
    ("ALTER TABLE orders ADD COLUMN extra int DEFAULT 5 CHECK (extra > 0) REFERENCES customers", "orders"),
    ("ALTER TABLE events ADD COLUMN extra float8 DEFAULT random()", "events"),
    ("ALTER TABLE lonely ALTER COLUMN note TYPE varchar(9)", "lonely"),
    ("ALTER TABLE lonely ALTER COLUMN id TYPE bigint", "lonely"),
    ("ALTER TABLE events ATTACH PARTITION events_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')", "events"),
    ("ALTER TABLE events DETACH PARTITION events_2024", "events"),
    ("REFRESH MATERIALIZED VIEW totals", "totals"),
    ("VACUUM FULL lonely", "lonely"),
    ("UPDATE lonely SET note = 'y' WHERE id > 5", "lonely"),
    ("BEGIN; ALTER TABLE lonely ADD COLUMN extra int, ADD CHECK (id > 0); UPDATE lonely SET extra = id; COMMIT", "lonely"),
    ("BEGIN; CREATE INDEX CONCURRENTLY by_id ON lonely (id); COMMIT", "lonely"),
]  # fmt: skip

STATE = """
SELECT 'column', attname, format_type(atttypid, atttypmod), attnotnull::text, atthasdef::text FROM pg_attribute
WHERE attrelid = %(t)s::regclass AND attnum > 0 AND NOT attisdropped AND attname !~ '_old$'
UNION ALL SELECT 'constraint', '', pg_get_constraintdef(oid), convalidated::text, '' FROM pg_constraint
WHERE conrelid = %(t)s::regclass AND contype <> 'n'
UNION ALL SELECT 'index', '', regexp_replace(pg_get_indexdef(indexrelid), 'INDEX \\S+ ', ''), indisvalid::text, ''
FROM pg_index WHERE indrelid = %(t)s::regclass
UNION ALL SELECT 'child', c.relname, '', '', '' FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid
WHERE inhparent = %(t)s::regclass
ORDER BY 1, 2, 3
"""


def state(conn: psycopg.Connection[Any], table: str) -> list[tuple[Any, ...]]:
    return conn.execute(STATE, {"t": table}).fetchall()


def runs_by_itself(statement: str) -> bool:
    """Whether it cannot run in a transaction, and so cannot be measured in one."""
    return (
        any(word in statement for word in ("CONCURRENTLY", "VACUUM", "DO $backfill$"))
        and "REFRESH" not in statement
    )


@pytest.mark.parametrize(("unsafe", "table"), UNSAFE)
def test_the_safe_form_does_the_same_and_keeps_nobody_out(
    server_dsn: str, world_template: str, unsafe: str, table: str
) -> None:
    with (
        temporary_database(server_dsn, "unsafe", world_template) as dsn,
        psycopg.connect(dsn, autocommit=True) as conn,
    ):
        catalog = Catalog.from_connection(conn)
        if "CONCURRENTLY" in unsafe:
            conn.execute(unsafe.replace("CONCURRENTLY ", ""))  # which cannot run as it is written
        else:
            conn.execute(unsafe)
        wanted = state(conn, table)
    assert [f for f in lint(unsafe, catalog) if f.severity != "info"]
    safe = fix(unsafe, catalog)
    assert [f for f in safe.left if f.severity == "error"] == []
    with (
        temporary_database(server_dsn, "safe", world_template) as dsn,
        psycopg.connect(dsn, autocommit=True) as conn,
    ):
        swap: list[str] = []
        for step in walk(safe.sql, catalog):
            statement = step.statement.text
            if step.statement.kind == "TransactionStmt" or step.in_transaction:
                swap.append(statement)
                if statement == "COMMIT":
                    conn.execute("; ".join(swap))
                continue
            if not runs_by_itself(statement) and step.statement.kind != "VariableSetStmt":
                measured = in_transaction(conn, statement)
                waited = {
                    name: what
                    for name, what in measured.strong().items()
                    if what[1] and what[0] is not Lock.EXCLUSIVE
                }
                assert waited == {}, statement
            conn.execute(statement)
        assert state(conn, table) == wanted


def test_a_backfill_reaches_every_row_once(server_dsn: str, world_template: str) -> None:
    """In batches by ranges of blocks: nothing is left out, and what was done is not done again."""
    statement = "UPDATE lonely SET note = 'done' WHERE note = 'x'"
    with (
        temporary_database(server_dsn, "batches", world_template) as dsn,
        psycopg.connect(dsn, autocommit=True) as conn,
    ):
        safe = fix(statement, Catalog.from_connection(conn))
        assert "DO $backfill$" in safe.sql
        conn.execute(safe.sql.partition("DO $backfill$")[1] + safe.sql.partition("DO $backfill$")[2])
        assert conn.execute(
            "SELECT count(*), count(*) FILTER (WHERE note = 'done') FROM lonely"
        ).fetchone() == (11000, 11000)


def test_what_would_be_done_twice_is_not_put_into_batches() -> None:
    assert "DO $backfill$" not in fix("UPDATE t SET n = n + 1").sql
    assert "DO $backfill$" not in fix("UPDATE t SET n = (SELECT max(a) FROM u)").sql
    assert "DO $backfill$" not in fix("DELETE FROM t").sql


def test_what_is_safe_is_left_as_it_is() -> None:
    script = "BEGIN;\nALTER TABLE t ADD COLUMN a int;\nCOMMIT;\nCREATE INDEX CONCURRENTLY i ON t (a);\n"
    assert fix(script).sql == f"SET lock_timeout = '2s';\n{script}"
    assert fix(f"SET lock_timeout = '1s';\n{script}").sql == f"SET lock_timeout = '1s';\n{script}"


def test_a_transaction_is_taken_apart_where_it_has_to_be() -> None:
    script = "BEGIN; ALTER TABLE t ADD CONSTRAINT k CHECK (a > 0) NOT VALID; ALTER TABLE t VALIDATE CONSTRAINT k; COMMIT"
    done = fix(script)
    assert "BEGIN" not in done.sql
    assert done.sql.startswith("-- each statement by itself")
    assert not [f for f in done.left if f.severity == "error"]
