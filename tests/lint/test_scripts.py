"""The whole script counts: transactions, what it made and proved itself, locks that are still held, timeouts."""

from __future__ import annotations

import pytest

from guarddb.lint.migrations import lint
from tests.lint.conftest import World

ADD = "ALTER TABLE t ADD CONSTRAINT k CHECK (a > 0) NOT VALID"
VALIDATE = "ALTER TABLE t VALIDATE CONSTRAINT k"


def rules(sql: str, **options: bool) -> list[str]:
    """The rules of what is found, without the word about lock_timeout."""
    return [f.rule for f in lint(sql, **options) if f.rule != "missing_lock_timeout"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        # A table of the script's own.
        ("CREATE TABLE n (a int); CREATE INDEX ON n (a); ALTER TABLE n ADD COLUMN b serial; DROP TABLE n", []),
        ("CREATE TABLE n (a int); ALTER TABLE n RENAME TO m; CREATE INDEX ON m (a)", []),
        ("CREATE TEMP TABLE n (a int); CREATE INDEX ON n (a)", []),
        ("CREATE TABLE n AS SELECT 1 AS a; CREATE INDEX ON n (a)", []),
        ("SELECT 1 AS a INTO n; CREATE INDEX ON n (a)", []),
        ("SET search_path = app; CREATE TABLE n (a int); CREATE INDEX ON app.n (a)", []),
        ("CREATE TABLE n (a int); DROP TABLE n; CREATE INDEX ON n (a)", ["missing_concurrently"]),
        ("BEGIN; CREATE TABLE n (a int); ROLLBACK; CREATE INDEX ON n (a)", ["missing_concurrently"]),
        ("BEGIN; SAVEPOINT s; CREATE TABLE n (a int); ROLLBACK TO s; CREATE INDEX ON n (a)", ["missing_concurrently"]),
        ("BEGIN; CREATE TABLE n (a int); SAVEPOINT s; ROLLBACK TO s; CREATE INDEX ON n (a)", []),
        ("CREATE TABLE other.n (a int); CREATE INDEX ON n (a)", ["missing_concurrently"]),
        # What it has proved.
        (f"{ADD}; {VALIDATE}", []),
        (f"BEGIN; {ADD}; COMMIT; BEGIN; {VALIDATE}; COMMIT", []),
        (f"BEGIN; {ADD}; {VALIDATE}; COMMIT", ["validate_in_transaction"]),
        ("ALTER TABLE t ADD CONSTRAINT k CHECK (a IS NOT NULL) NOT VALID; ALTER TABLE t ALTER a SET NOT NULL", ["not_null_scan"]),
        (
            ("ALTER TABLE t ADD CONSTRAINT k CHECK (a IS NOT NULL) NOT VALID; ALTER TABLE t VALIDATE CONSTRAINT k; "
            "ALTER TABLE t ALTER a SET NOT NULL; ALTER TABLE t DROP CONSTRAINT k"),
            [],
        ),
        ("ALTER TABLE t ALTER a SET NOT NULL; ALTER TABLE t ALTER a SET NOT NULL", ["not_null_scan"]),
        ("ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u NOT VALID; ALTER TABLE t VALIDATE CONSTRAINT t_a_fkey", []),
        (
            "BEGIN; ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u NOT VALID; ALTER TABLE t VALIDATE CONSTRAINT t_a_fkey; COMMIT",
            ["validate_in_transaction"],
        ),
        (
            ("ALTER TABLE t ADD COLUMN a int NOT NULL DEFAULT 1; CREATE UNIQUE INDEX CONCURRENTLY i ON t (a); "
            "ALTER TABLE t ADD PRIMARY KEY USING INDEX i"),
            [],
        ),
        # CONCURRENTLY.
        ("BEGIN; CREATE INDEX CONCURRENTLY i ON t (a); COMMIT", ["concurrently_in_transaction"]),
        ("BEGIN; DROP INDEX CONCURRENTLY i; COMMIT", ["concurrently_in_transaction"]),
        ("BEGIN; REINDEX TABLE CONCURRENTLY t; COMMIT", ["concurrently_in_transaction"]),
        ("BEGIN; ALTER TABLE t DETACH PARTITION p CONCURRENTLY; COMMIT", ["concurrently_in_transaction"]),
        ("BEGIN; VACUUM t; COMMIT", ["not_in_transaction"]),
        ("BEGIN; COMMIT; CREATE INDEX CONCURRENTLY i ON t (a)", []),
        # Locks that are still held.
        ("BEGIN; ALTER TABLE t ADD COLUMN b int; UPDATE t SET b = 1; COMMIT", ["backfill_in_transaction"]),
        ("BEGIN; ALTER TABLE t ADD COLUMN b int; COMMIT; UPDATE t SET b = 1 WHERE id = 5", []),
        ("BEGIN; ALTER TABLE t ADD COLUMN b int; INSERT INTO u SELECT * FROM t; COMMIT", ["backfill_in_transaction"]),
        ("BEGIN; ALTER TABLE t ADD COLUMN b int; INSERT INTO u VALUES (1); COMMIT", []),
        ("BEGIN; ALTER TABLE t ADD COLUMN b int; ALTER TABLE u ADD COLUMN b int; COMMIT", ["lock_held"]),
        ("BEGIN; ALTER TABLE t ADD COLUMN b int; ALTER TABLE t ADD COLUMN c int; COMMIT", []),
        ("BEGIN; ALTER TABLE t ADD COLUMN b int; ROLLBACK; ALTER TABLE u ADD COLUMN b int", []),
        ("UPDATE t SET b = 1", ["unbatched_backfill"]),
        ("DELETE FROM t WHERE b > 1", ["unbatched_backfill"]),
        ("UPDATE t SET b = 1 WHERE id = 1", []),
        # Enums.
        ("ALTER TYPE mood ADD VALUE 'x'; UPDATE t SET m = 'x' WHERE id = 1", []),
        ("BEGIN; ALTER TYPE mood ADD VALUE 'x'; UPDATE t SET m = 'x' WHERE id = 1; COMMIT", ["enum_value_in_transaction"]),
        # Functions and domains of the script.
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; ALTER TABLE t ADD b int DEFAULT f()", []),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER TABLE t ADD b int DEFAULT f()", ["table_rewrite"]),
        ("CREATE DOMAIN d AS int; ALTER TABLE t ADD b d", []),
        ("CREATE DOMAIN d AS int CHECK (VALUE > 0); ALTER TABLE t ADD b d", ["table_rewrite"]),
        ("ALTER TABLE t ADD b int DEFAULT unheard_of()", ["table_rewrite"]),
        # Everything at once.
        ("DROP OWNED BY agent", ["unsafe_drop"]),
        ("DROP DATABASE shop", ["unsafe_drop"]),
        ("BEGIN; DROP DATABASE shop; COMMIT", ["unsafe_drop", "not_in_transaction"]),
        ("DROP SCHEMA app CASCADE", ["unsafe_drop"]),
        ("ALTER TABLE ALL IN TABLESPACE a SET TABLESPACE b", ["table_rewrite"]),
        ("ALTER EXTENSION vector UPDATE", ["opaque_code"]),
        (
            "BEGIN; ALTER TABLE t ADD b int; MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN DELETE; COMMIT",
            ["backfill_in_transaction"],
        ),
        ("MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN DELETE", []),
        # Nothing at all.
        ("", []),
        ("-- nothing", []),
        ("SELECT 1; INSERT INTO t VALUES (1); SET work_mem = '1MB'", []),
        ("DO $$ BEGIN NULL; END $$", ["opaque_code"]),
    ],
)  # fmt: skip
def test_the_script_is_judged_as_a_whole(sql: str, expected: list[str]) -> None:
    assert rules(sql) == expected


def test_one_transaction_from_outside() -> None:
    assert rules(f"{ADD}; {VALIDATE}", in_transaction=True) == ["validate_in_transaction"]
    assert rules(f"{ADD}; COMMIT; {VALIDATE}", in_transaction=True) == []


@pytest.mark.parametrize(
    ("sql", "asked"),
    [
        ("ALTER TABLE t ADD a int", True),
        ("SET lock_timeout = '2s'; ALTER TABLE t ADD a int", False),
        ("SET lock_timeout TO 2000; ALTER TABLE t ADD a int", False),
        ("SET lock_timeout = 0; ALTER TABLE t ADD a int", True),
        ("SET lock_timeout = '2s'; RESET lock_timeout; ALTER TABLE t ADD a int", True),
        ("BEGIN; SET LOCAL lock_timeout = '2s'; ALTER TABLE t ADD a int; COMMIT", False),
        ("BEGIN; SET LOCAL lock_timeout = '2s'; COMMIT; ALTER TABLE t ADD a int", True),
        ("SET LOCAL lock_timeout = '2s'; ALTER TABLE t ADD a int", True),
        ("BEGIN; SET lock_timeout = '2s'; ROLLBACK; ALTER TABLE t ADD a int", True),
        ("CREATE TABLE t (a int); ALTER TABLE t ADD b int", False),
        ("CREATE INDEX CONCURRENTLY i ON t (a)", False),
        ("VACUUM t", False),
        ("ALTER TABLE t ADD a int; ALTER TABLE t ADD b int", True),
    ],
)
def test_a_strong_lock_needs_a_timeout_said_once(sql: str, asked: bool) -> None:
    assert [f.rule for f in lint(sql)].count("missing_lock_timeout") == int(asked)


@pytest.mark.parametrize(
    "sql", ["SELEC", "CREATE INDEX ON", "SELECT '\0'", "SELECT " + "(" * 3_000, "\ud800"]
)
def test_what_is_no_sql_is_a_finding_and_no_exception(sql: str) -> None:
    (finding,) = lint(sql)
    assert (finding.severity, finding.rule) == ("error", "parse_error")


def test_a_finding_names_lock_relation_work_and_how_long(world: World) -> None:
    """The rows and bytes are the server's own estimate."""
    (found, _) = lint("ALTER TABLE orders ALTER COLUMN amount TYPE int", world.catalog)
    assert found.rule == "unsafe_type_change"
    for part in (
        "ACCESS EXCLUSIVE",
        "orders",
        "blocks reads and writes",
        "rewrites the whole table",
        "11,000 rows",
        "MB: some",
    ):
        assert part in found.message
    assert "from numeric" in found.message


def test_small_tables_are_remarks(world: World) -> None:
    severities = {f.rule: f.severity for f in lint("CREATE INDEX ON tiny (id)", world.catalog)}
    assert severities["missing_concurrently"] == "info"


def test_an_empty_table_loses_nothing(world: World) -> None:
    assert {f.severity for f in lint("DROP TABLE empty", world.catalog)} == {"warning"}
    assert "error" in {f.severity for f in lint("DROP TABLE tiny", world.catalog)}


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE t ADD c int GENERATED ALWAYS AS (a) VIRTUAL",
        "ALTER TABLE t ADD CONSTRAINT k NOT NULL a",
        "ALTER TABLE t ADD CONSTRAINT k CHECK (a > 0) NOT ENFORCED",
        "ALTER TABLE t ALTER c SET EXPRESSION AS (a)",
    ],
)
def test_syntax_of_a_later_server_is_said(sql: str) -> None:
    assert "unsupported_by_server" in [f.rule for f in lint(sql, server_version=16)]
    assert "unsupported_by_server" not in [f.rule for f in lint(sql, server_version=180004)]
    assert "unsupported_by_server" not in [f.rule for f in lint(sql)]
