"""How much an UPDATE wrote tells how far a guess equals the value that was there: its log holds what differs, no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import guarddb
from tests.fix_server import temporary_database

SCHEMA = """
CREATE TABLE people (id int PRIMARY KEY, name text, ssn text, letter text);
INSERT INTO people VALUES
  (1, 'ann', 'RAW-0001', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 600 * {v}) AS i)),
  (2, 'bob', 'RAW-0002', 'x');
CREATE TABLE other (id int PRIMARY KEY);
INSERT INTO other VALUES (1);
CREATE VIEW plain_view AS SELECT * FROM people;
CREATE VIEW joined_view AS SELECT p.letter FROM people p JOIN other o USING (id);
CREATE VIEW numbered_view AS SELECT letter, row_number() OVER (ORDER BY id) FROM people;
CREATE VIEW united_view AS SELECT letter FROM people UNION ALL SELECT name FROM people;
CREATE VIEW counted_view AS SELECT letter, (SELECT count(*) FROM other) FROM people;
CREATE VIEW nested_view AS SELECT * FROM numbered_view;
VACUUM ANALYZE people;
"""
READER: dict[str, Any] = {
    "name": "written",
    "masking_rules": [
        {"table": "people", "column": "ssn", "kind": "redact"},
        {"table": "people", "column": "letter", "kind": "hash"},
    ],
}
WRITER = {**READER, "access_mode": "read_write"}
WHAT_WAS_WRITTEN = (
    "SELECT pg_current_wal_lsn()",
    "SELECT pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_lsn",
    "SELECT pg_walfile_name_offset(pg_current_wal_flush_lsn())",
    "SELECT wal_bytes FROM pg_stat_wal",
    "SELECT w FROM pg_stat_wal w",
    "SELECT * FROM pg_stat_get_wal()",
    "SELECT * FROM pg_stat_get_backend_wal(pg_backend_pid())",
    "SELECT sent_lsn FROM pg_stat_replication",
    "SELECT restart_lsn FROM pg_replication_slots",
    "SELECT checkpoint_lsn FROM pg_control_checkpoint()",
)
GUESSES = ("#########", "RAW######", "RAW-000##", "RAW-0001")


@pytest.fixture(scope="module")
def variants(server_dsn: str) -> Iterator[list[str]]:
    with temporary_database(server_dsn, "written") as one, temporary_database(server_dsn, "written") as two:
        for variant, dsn in enumerate((one, two)):
            with psycopg.connect(dsn, autocommit=True) as conn:
                for text in SCHEMA.replace("{v}", str(variant)).split(";\n"):
                    conn.execute(text.encode())
        yield [one, two]


@pytest.mark.parametrize("sql", WHAT_WAS_WRITTEN)
def test_the_length_of_the_log_is_closed_where_masked_values_may_be_overwritten(
    variants: list[str], sql: str
) -> None:
    with psycopg.connect(variants[0]) as conn:
        catalog = guarddb.Catalog.from_connection(conn)
    assert guarddb.evaluate(sql, WRITER, catalog).blocked
    assert not guarddb.evaluate(sql, READER, catalog).blocked


@pytest.mark.parametrize(
    "options", ["ANALYZE, WAL", "ANALYZE, WAL, BUFFERS, VERBOSE", "FORMAT JSON, WAL true, ANALYZE"]
)
@pytest.mark.parametrize(
    "write",
    [
        "UPDATE people SET ssn = '{}' WHERE id = 1",
        "MERGE INTO people p USING other o ON o.id = p.id WHEN MATCHED THEN UPDATE SET ssn = '{}'",
        "INSERT INTO people (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET ssn = '{}'",
    ],
)
def test_explain_does_not_measure_a_guess(variants: list[str], options: str, write: str) -> None:
    off = ", TIMING OFF, SUMMARY OFF"
    with guarddb.connect(variants[0], policy=WRITER) as conn:
        plans = set()
        for guess in GUESSES:
            conn.execute("UPDATE people SET name = name WHERE id = 1")  # whatever is done once, is done
            rows = conn.execute(f"EXPLAIN ({options}{off}) {write.format(guess)}".encode()).fetchall()
            plans.add(str(rows).replace(guess, "…"))
            conn.rollback()
    assert len(plans) == 1


@pytest.mark.parametrize(
    "query",
    ["SELECT letter FROM people WHERE id = 1", "SELECT id, letter FROM people ORDER BY name", "TABLE people"],
)
def test_explain_does_not_count_the_pages_of_a_long_value(variants: list[str], query: str) -> None:
    found = []
    for dsn in variants:
        with guarddb.connect(dsn, policy=READER, autocommit=True) as conn:
            rows = conn.execute(
                f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF) {query}".encode()
            ).fetchall()
            found.append(rows)
    assert found[0] == found[1]
    assert "Buffers" not in str(found)


MANY = "generate_series(1, 50) AS g"


@pytest.mark.parametrize("options", ["ANALYZE", "ANALYZE, SERIALIZE TEXT", "ANALYZE, MEMORY"])
@pytest.mark.parametrize("profile", [READER, {**READER, "guarddb": {"redact_nulls": True}}])
@pytest.mark.parametrize(
    "query",
    [
        f"SELECT letter, row_number() OVER (ORDER BY g) FROM people, {MANY}",
        f"SELECT p.*, g FROM people AS p, {MANY} ORDER BY g",
        f"SELECT p, g FROM people AS p, {MANY} ORDER BY g",
        f"WITH c AS MATERIALIZED (SELECT letter FROM people, {MANY}) SELECT * FROM c UNION ALL SELECT * FROM c",
        f"SELECT s.letter FROM (SELECT * FROM people LIMIT 1) AS s, {MANY} ORDER BY g",
        f"SELECT letter FROM plain_view, {MANY} ORDER BY g",
        f"SELECT letter FROM joined_view, {MANY} ORDER BY g",
        "SELECT p.letter FROM other JOIN people AS p USING (id) ORDER BY p.name",
    ],
)
def test_the_memory_of_a_plan_tells_nothing_of_what_it_carries(
    variants: list[str], profile: dict[str, Any], query: str, options: str
) -> None:
    found = []
    for dsn in variants:
        with guarddb.connect(dsn, policy=profile, autocommit=True) as conn:
            text = f"EXPLAIN ({options}, TIMING OFF, SUMMARY OFF) {query}".encode()
            found.append(
                [
                    line
                    for (line,) in conn.execute(text)
                    if "Planning" not in line and "Memory: used" not in line
                ]
            )
    assert found[0] == found[1]


@pytest.mark.parametrize("view", ["numbered_view", "united_view", "counted_view", "nested_view"])
def test_explain_analyze_of_a_view_that_keeps_rows_is_refused(variants: list[str], view: str) -> None:
    with guarddb.connect(variants[0], policy=READER, autocommit=True) as conn:
        with pytest.raises(guarddb.PolicyViolation, match="how much memory"):
            conn.execute(f"EXPLAIN ANALYZE SELECT letter FROM {view}".encode())
        conn.execute(f"EXPLAIN SELECT letter FROM {view}".encode())
        conn.execute(f"SELECT letter FROM {view}".encode())


def test_explain_analyze_of_a_use_that_keeps_masked_values_is_refused(variants: list[str]) -> None:
    uses = [{"table": "people", "column": "letter", "allow": ["group", "join"]}]
    policy = {**READER, "guarddb": {"mask_uses": uses}}
    grouped = b"SELECT letter, count(*) FROM people GROUP BY letter"
    with guarddb.connect(variants[0], policy=policy, autocommit=True) as conn:
        conn.execute(grouped)
        with pytest.raises(guarddb.PolicyViolation, match="how much memory"):
            conn.execute(b"EXPLAIN ANALYZE " + grouped)


def test_ordinary_explains_show_what_they_read(variants: list[str]) -> None:
    with guarddb.connect(variants[0], policy=WRITER, autocommit=True) as conn:
        assert "Buffers" in str(conn.execute("EXPLAIN (ANALYZE, BUFFERS) SELECT id FROM people").fetchall())
        assert "cost=" in str(conn.execute("EXPLAIN UPDATE other SET id = 2 WHERE id = 1").fetchall())
