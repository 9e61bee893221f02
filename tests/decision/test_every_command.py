"""Every command of PostgreSQL's reference: what a profile that only reads, and one that writes, lets through.

The list is that of the reference manual (PostgreSQL 18, part VI). What is not named here as passing must be refused,
so that a command that nobody thought of cannot slip through.
"""

from __future__ import annotations

import pytest
from pglast import parser

import guarddb
from guarddb import PolicyProfile
from guarddb.vocabulary import KINDS

READER = PolicyProfile.model_validate({"name": "reader"})
WRITER = PolicyProfile.model_validate({"name": "writer", "access_mode": "read_write"})
GOVERNED = PolicyProfile.model_validate(
    {"name": "governed", "access_mode": "read_write", "table_denylist": ["secret"]}
)
EVERYTHING = PolicyProfile.model_validate(
    {"name": "everything", "access_mode": "read_write", "statement_rules": {"allow": list(KINDS)}}
)
READS_ALL_KINDS = PolicyProfile.model_validate({"name": "reads", "statement_rules": {"allow": list(KINDS)}})

#: One or more examples of each command.
COMMANDS = """
ABORT
ALTER AGGREGATE a(int) RENAME TO b
ALTER COLLATION c RENAME TO d
ALTER CONVERSION c RENAME TO d
ALTER DATABASE d RENAME TO e
ALTER DATABASE d SET work_mem = '4MB'
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC
ALTER DOMAIN d SET NOT NULL
ALTER EVENT TRIGGER e DISABLE
ALTER EXTENSION e UPDATE
ALTER FOREIGN DATA WRAPPER w OPTIONS (ADD a 'b')
ALTER FOREIGN TABLE t ADD COLUMN a int
ALTER FUNCTION f() STABLE
ALTER GROUP g ADD USER u
ALTER INDEX i RENAME TO j
ALTER LANGUAGE l RENAME TO m
ALTER LARGE OBJECT 1 OWNER TO u
ALTER MATERIALIZED VIEW m RENAME TO n
ALTER OPERATOR + (int, int) OWNER TO u
ALTER OPERATOR CLASS o USING btree RENAME TO p
ALTER OPERATOR FAMILY o USING btree RENAME TO p
ALTER POLICY p ON t RENAME TO q
ALTER PROCEDURE p() RENAME TO q
ALTER PUBLICATION p ADD TABLE t
ALTER ROLE r SUPERUSER
ALTER ROLE r SET work_mem = '4MB'
ALTER ROUTINE r() RENAME TO s
ALTER RULE r ON t RENAME TO s
ALTER SCHEMA s RENAME TO u
ALTER SEQUENCE s RESTART
ALTER SERVER s OPTIONS (SET a 'b')
ALTER STATISTICS s RENAME TO u
ALTER SUBSCRIPTION s DISABLE
ALTER SYSTEM SET work_mem = '4MB'
ALTER TABLE t ADD COLUMN a int
ALTER TABLE t DISABLE ROW LEVEL SECURITY
ALTER TABLE ALL IN TABLESPACE a SET TABLESPACE b
ALTER TABLESPACE t RENAME TO u
ALTER TEXT SEARCH CONFIGURATION t RENAME TO u
ALTER TEXT SEARCH DICTIONARY t (a = 'b')
ALTER TEXT SEARCH PARSER t RENAME TO u
ALTER TEXT SEARCH TEMPLATE t RENAME TO u
ALTER TRIGGER t ON u RENAME TO v
ALTER TYPE t ADD VALUE 'x'
ALTER USER u SUPERUSER
ALTER USER MAPPING FOR u SERVER s OPTIONS (SET a 'b')
ALTER VIEW v RENAME TO w
ANALYZE
ANALYZE t
BEGIN
BEGIN READ WRITE
CALL p()
CHECKPOINT
CLOSE c
CLOSE ALL
CLUSTER
CLUSTER t USING i
COMMENT ON TABLE t IS 'x'
COMMIT
COMMIT PREPARED 'x'
COPY t TO STDOUT
COPY t FROM STDIN
COPY t TO '/tmp/x'
COPY t FROM PROGRAM 'x'
CREATE ACCESS METHOD a TYPE INDEX HANDLER h
CREATE AGGREGATE a(int) (sfunc = int4pl, stype = int)
CREATE CAST (text AS int) WITHOUT FUNCTION
CREATE COLLATION c FROM "C"
CREATE CONVERSION c FOR 'UTF8' TO 'LATIN1' FROM utf8_to_iso8859_1
CREATE DATABASE d
CREATE DOMAIN d AS int
CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION f()
CREATE EXTENSION e
CREATE FOREIGN DATA WRAPPER w
CREATE FOREIGN TABLE t (a int) SERVER s
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'
CREATE GROUP g
CREATE INDEX i ON t (a)
CREATE LANGUAGE l
CREATE MATERIALIZED VIEW m AS SELECT 1 AS a
CREATE OPERATOR === (function = int4eq, leftarg = int, rightarg = int)
CREATE OPERATOR CLASS o FOR TYPE int USING btree AS OPERATOR 1 <
CREATE OPERATOR FAMILY o USING btree
CREATE POLICY p ON t USING (true)
CREATE PROCEDURE p() LANGUAGE sql AS 'SELECT 1'
CREATE PUBLICATION p FOR ALL TABLES
CREATE ROLE r SUPERUSER
CREATE RULE r AS ON INSERT TO t DO INSTEAD NOTHING
CREATE SCHEMA s
CREATE SEQUENCE s
CREATE SERVER s FOREIGN DATA WRAPPER w
CREATE STATISTICS s ON a, b FROM t
CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p
CREATE TABLE t (a int)
CREATE TABLE t AS SELECT 1 AS a
CREATE TABLESPACE t LOCATION '/x'
CREATE TEXT SEARCH CONFIGURATION t (PARSER = p)
CREATE TEXT SEARCH DICTIONARY t (TEMPLATE = u)
CREATE TEXT SEARCH PARSER t (START = f)
CREATE TEXT SEARCH TEMPLATE t (LEXIZE = f)
CREATE TRANSFORM FOR int LANGUAGE l (FROM SQL WITH FUNCTION f(internal))
CREATE TRIGGER t BEFORE INSERT ON u FOR EACH ROW EXECUTE FUNCTION f()
CREATE TYPE t AS ENUM ('a')
CREATE TYPE t AS (a int)
CREATE TYPE t AS RANGE (subtype = int)
CREATE USER u
CREATE USER MAPPING FOR u SERVER s
CREATE VIEW v AS SELECT 1 AS a
DEALLOCATE p
DEALLOCATE ALL
DECLARE c CURSOR FOR SELECT 1
DELETE FROM t WHERE a = 1
DISCARD ALL
DISCARD PLANS
DISCARD SEQUENCES
DISCARD TEMP
DO 'begin end'
DROP ACCESS METHOD a
DROP AGGREGATE a(int)
DROP CAST (text AS int)
DROP COLLATION c
DROP CONVERSION c
DROP DATABASE d
DROP DOMAIN d
DROP EVENT TRIGGER e
DROP EXTENSION e
DROP FOREIGN DATA WRAPPER w
DROP FOREIGN TABLE t
DROP FUNCTION f()
DROP GROUP g
DROP INDEX i
DROP LANGUAGE l
DROP MATERIALIZED VIEW m
DROP OPERATOR + (int, int)
DROP OPERATOR CLASS o USING btree
DROP OPERATOR FAMILY o USING btree
DROP OWNED BY r
DROP POLICY p ON t
DROP PROCEDURE p()
DROP PUBLICATION p
DROP ROLE r
DROP ROUTINE r()
DROP RULE r ON t
DROP SCHEMA s
DROP SEQUENCE s
DROP SERVER s
DROP STATISTICS s
DROP SUBSCRIPTION s
DROP TABLE t
DROP TABLESPACE t
DROP TEXT SEARCH CONFIGURATION t
DROP TEXT SEARCH DICTIONARY t
DROP TEXT SEARCH PARSER t
DROP TEXT SEARCH TEMPLATE t
DROP TRANSFORM FOR int LANGUAGE l
DROP TRIGGER t ON u
DROP TYPE t
DROP USER u
DROP USER MAPPING FOR u SERVER s
DROP VIEW v
END
EXECUTE p
EXPLAIN SELECT 1
EXPLAIN ANALYZE DELETE FROM t WHERE a = 1
FETCH c
GRANT SELECT ON t TO u
GRANT r TO u
IMPORT FOREIGN SCHEMA s FROM SERVER s INTO s
INSERT INTO t VALUES (1)
LISTEN c
LOAD 'x'
LOCK t
MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE
MOVE c
NOTIFY c
PREPARE p AS SELECT 1
PREPARE p AS DELETE FROM t WHERE a = 1
PREPARE TRANSACTION 'x'
REASSIGN OWNED BY r TO u
REFRESH MATERIALIZED VIEW m
REINDEX TABLE t
RELEASE s
RESET work_mem
RESET ALL
REVOKE SELECT ON t FROM u
REVOKE r FROM u
ROLLBACK
ROLLBACK PREPARED 'x'
ROLLBACK TO s
SAVEPOINT s
SECURITY LABEL ON TABLE t IS 'x'
SELECT 1
SELECT 1 AS a INTO t
SELECT 1 FROM t FOR UPDATE
SET work_mem = '4MB'
SET LOCAL work_mem = '4MB'
SET CONSTRAINTS ALL DEFERRED
SET ROLE r
SET SESSION AUTHORIZATION u
SET TRANSACTION READ ONLY
SET TRANSACTION READ WRITE
SET TRANSACTION SNAPSHOT 'x'
SHOW work_mem
START TRANSACTION
TABLE t
TRUNCATE t
UNLISTEN c
UPDATE t SET a = 1 WHERE a = 2
VACUUM
VACUUM t
VALUES (1)
""".strip().splitlines()

#: What reads: it passes under every profile.
READING = {
    "ABORT",
    "BEGIN",
    "CLOSE ALL",
    "COMMIT",
    "DEALLOCATE ALL",
    "DECLARE c CURSOR FOR SELECT 1",
    "END",
    "EXPLAIN SELECT 1",
    "PREPARE p AS SELECT 1",
    "RELEASE s",
    "ROLLBACK",
    "ROLLBACK TO s",
    "SAVEPOINT s",
    "SELECT 1",
    "SET TRANSACTION READ ONLY",
    "SHOW work_mem",
    "START TRANSACTION",
    "TABLE t",
    "VALUES (1)",
}
"""Names that nobody made in this session are no matter: closing them harms nothing."""
MAY_PASS_EVERYWHERE = {
    "CLOSE c",
    "DEALLOCATE p",
    "SET TRANSACTION SNAPSHOT 'x'",
    "SET CONSTRAINTS ALL DEFERRED",
}
#: Under read_only with every kind allowed by name; `set` and `other` are what that opens.
OPENED_BY_NAME = {
    "CALL p()",  # the function rule still asks for an entry
    "CHECKPOINT",
    "DISCARD PLANS",
    "DISCARD SEQUENCES",
    "LISTEN c",
    "LOCK t",
    "NOTIFY c",
    "RESET work_mem",
    "SET LOCAL work_mem = '4MB'",
    "SET work_mem = '4MB'",
    "UNLISTEN c",
    "VACUUM",
    "VACUUM t",
    "ANALYZE",
    "ANALYZE t",
    "CLUSTER",
    "CLUSTER t USING i",
    "REINDEX TABLE t",
    "LOAD 'x'",
}
#: Never, whatever kinds are allowed: the floor, and what no session owns.
NEVER = [
    "ALTER ROLE r SET search_path = x",
    "COMMIT PREPARED 'x'",
    "COPY t FROM PROGRAM 'x'",
    "COPY t TO '/tmp/x'",
    "DISCARD ALL",
    "DISCARD TEMP",
    "DO 'begin end'",
    "DROP DATABASE d",
    "DROP DOMAIN d",
    "DROP EXTENSION e",
    "DROP FOREIGN DATA WRAPPER w",
    "DROP FOREIGN TABLE t",
    "DROP MATERIALIZED VIEW m",
    "DROP OWNED BY r",
    "DROP SCHEMA s",
    "DROP SEQUENCE s",
    "DROP SERVER s",
    "DROP TABLE t",
    "DROP TABLESPACE t",
    "DROP TYPE t",
    "EXECUTE p",
    "FETCH c",
    "MOVE c",
    "PREPARE TRANSACTION 'x'",
    "RESET ALL",
    "ROLLBACK PREPARED 'x'",
    "SET ROLE r",
    "SET SESSION AUTHORIZATION u",
    "TRUNCATE t",
]


def test_list_is_the_manuals() -> None:
    assert len(COMMANDS) >= 200
    assert len(set(COMMANDS)) == len(COMMANDS)
    for sql in COMMANDS:
        parser.parse_sql_json(sql)


@pytest.mark.parametrize("sql", COMMANDS)
def test_reader_lets_through_what_reads_and_nothing_else(sql: str) -> None:
    decision = guarddb.evaluate(sql, READER)
    if sql in READING:
        assert decision.rule == "ok"
    elif sql not in MAY_PASS_EVERYWHERE:
        assert decision.blocked
        assert decision.rule != "internal_error"


@pytest.mark.parametrize("sql", COMMANDS)
def test_reader_with_every_kind_by_name_still_writes_nothing(sql: str) -> None:
    decision = guarddb.evaluate(sql, READS_ALL_KINDS)
    if not decision.blocked:
        assert sql in READING | MAY_PASS_EVERYWHERE | OPENED_BY_NAME


@pytest.mark.parametrize("sql", NEVER)
def test_nothing_opens_the_floor_but_its_exception(sql: str) -> None:
    decision = guarddb.evaluate(sql, EVERYTHING)
    assert decision.blocked
    assert decision.rule not in ("internal_error", "read_only")


@pytest.mark.parametrize("sql", COMMANDS)
def test_every_refusal_says_why_and_what_to_do(sql: str) -> None:
    for profile in (READER, WRITER, GOVERNED, EVERYTHING):
        decision = guarddb.evaluate(sql, profile)
        assert decision.rule != "internal_error"
        if decision.blocked:
            assert len(decision.reason) > 20
            assert decision.hint


@pytest.mark.parametrize("sql", [sql for sql in COMMANDS if sql not in READING])
def test_more_policy_never_lets_more_through(sql: str) -> None:
    """What a governed or a reading profile lets through, the plain writing one does too."""
    if guarddb.evaluate(sql, EVERYTHING).blocked:
        for profile in (WRITER, GOVERNED, READER, READS_ALL_KINDS):
            assert guarddb.evaluate(sql, profile).blocked
