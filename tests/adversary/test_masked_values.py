"""Every way to make a masked value do something else than being selected, executed on the server.

Two outcomes are right: a refusal that names a rule of masking, or an answer without the raw value.
"""

from __future__ import annotations

import pytest

from guarddb import evaluate
from tests.adversary.ground import BOTH, ONE_MASK, Attempt, Ground, writing

WHOLE_ROWS = [
    "SELECT u FROM users u",
    "SELECT users FROM users",
    "SELECT u.* FROM users u",
    "SELECT (u).ssn FROM users u",
    "SELECT (u).* FROM users u",
    "SELECT (u.*).ssn FROM users u",
    "SELECT u IS NULL FROM users u",
    "SELECT count(u) FROM users u",
    "SELECT u = u FROM users u",
    "SELECT u::text FROM users u",
    "SELECT ROW(u.*) FROM users u",
    "SELECT ROW(u) FROM users u",
    "SELECT array_agg(u) FROM users u",
    "SELECT ARRAY(SELECT u FROM users u)",
    "SELECT json_agg(u) FROM users u",
    "SELECT row_to_json(u) FROM users u",
    "SELECT u.row_to_json FROM users u",
    "SELECT to_jsonb(u) - 'id' FROM users u",
    "SELECT 1 FROM users u ORDER BY u",
    "SELECT DISTINCT u FROM users u",
    "SELECT u FROM users u GROUP BY u",
    "SELECT s FROM (SELECT id, ssn FROM users) s",
    "SELECT (s).ssn FROM (SELECT id, ssn FROM users) s",
    "SELECT (s.u).ssn FROM (SELECT u FROM users u) s",
    "SELECT x.* FROM (SELECT u FROM users u) x",
    "SELECT (SELECT u FROM users u LIMIT 1)",
    "SELECT (SELECT u FROM users u LIMIT 1).ssn",
    "SELECT ((SELECT u FROM users u LIMIT 1)).*",
    "SELECT * FROM users, LATERAL (SELECT users.*) x",
    "SELECT x.v FROM users u, LATERAL (SELECT u AS v) x",
    "SELECT * FROM jsonb_each_text((SELECT to_jsonb(u) FROM users u LIMIT 1))",
    "SELECT * FROM json_populate_record((SELECT u FROM users u LIMIT 1), '{}')",
]
EXPRESSIONS = [
    "SELECT ssn || '' FROM users",
    "SELECT ssn::text FROM users",
    "SELECT CAST(ssn AS varchar) FROM users",
    "SELECT max(ssn) FROM users",
    "SELECT coalesce(ssn, '') FROM users",
    "SELECT nullif(ssn, '') FROM users",
    "SELECT greatest(ssn, '') FROM users",
    "SELECT CASE id WHEN 1 THEN ssn END FROM users",
    "SELECT CASE WHEN id > 0 THEN ssn END FROM users",
    'SELECT ssn COLLATE "C" FROM users',
    "SELECT substring(ssn FROM 1 FOR 7) FROM users",
    "SELECT ARRAY[ssn] FROM users",
    "SELECT (ARRAY[ssn])[1] FROM users",
    "SELECT ROW(ssn) FROM users",
    "SELECT ARRAY(SELECT ssn FROM users)",
    "SELECT lag(ssn) OVER () FROM users",
    "SELECT first_value(ssn) OVER (ORDER BY id) FROM users",
    "SELECT json_arrayagg(ssn) FROM users",
    "SELECT json_objectagg(id : ssn) FROM users",
    "SELECT JSON_ARRAY(SELECT ssn FROM users)",
    "SELECT JSON_ARRAY(ssn) FROM users",
    "SELECT JSON_OBJECT('a' : ssn) FROM users",
    "SELECT JSON_SCALAR(ssn) FROM users",
    "SELECT JSON_VALUE('{}', '$.a' DEFAULT ssn ON EMPTY) FROM users",
    "SELECT JSON_QUERY('{}', '$.a' PASSING ssn AS x) FROM users",
    "SELECT JSON_EXISTS('{}', '$.a ? (@ == $x)' PASSING ssn AS x) FROM users",
    "SELECT xmlelement(name a, ssn) FROM users",
    "SELECT xmlelement(name a, xmlattributes(ssn)) FROM users",
    "SELECT xmlforest(ssn) FROM users",
    "SELECT * FROM users, XMLTABLE('/a' PASSING xmlelement(name a, ssn) COLUMNS v text PATH '.') x",
    "SELECT v FROM users, LATERAL JSON_TABLE(to_jsonb(ssn), '$' COLUMNS (v text PATH '$'))",
    "SELECT v FROM users, LATERAL unnest(ARRAY[ssn]) v",
    "SELECT v FROM users, LATERAL (VALUES (ssn)) x(v)",
    "SELECT v FROM users, LATERAL (SELECT ssn) x(v)",
    "SELECT v FROM users, ROWS FROM (unnest(ARRAY[ssn]), generate_series(1, 2)) x(v, w)",
    "SELECT (SELECT max(v) FROM (SELECT users.ssn v) q) FROM users",
    "SELECT (SELECT v FROM (SELECT users.ssn v) q) FROM users",
    "SELECT (VALUES ((SELECT ssn FROM users LIMIT 1)))",
    "VALUES ((SELECT ssn FROM users LIMIT 1))",
    "SELECT generate_series(1, length(ssn)) FROM users",
    "SELECT format('%s', ssn) FROM users",
    "SELECT ssn IS NULL FROM users",
    "SELECT ssn = 'RAW-ssn-1' FROM users",
    "SELECT (ssn, id) FROM users",
    "SELECT 'RAW-ssn' ~ ssn FROM users",
    "SELECT u.ssn.length FROM users u",
    "SELECT (u.ssn).length FROM users u",
]
_RECURSIVE = """
WITH RECURSIVE r AS (
  SELECT id, ssn FROM users WHERE id = 1 UNION ALL SELECT u.id, u.ssn FROM users u JOIN r ON u.id = r.id + 1
) """
CONDITIONS = [
    "SELECT id FROM users WHERE ssn = 'x'",
    "SELECT id FROM users WHERE 'x' IN (ssn)",
    "SELECT id FROM users ORDER BY ssn",
    "SELECT ssn FROM users ORDER BY 1",
    "SELECT ssn AS x FROM users ORDER BY x",
    "SELECT ssn AS x FROM users GROUP BY x",
    "SELECT ssn, count(*) FROM users GROUP BY 1",
    "SELECT id FROM users GROUP BY GROUPING SETS ((id), (ssn))",
    "SELECT id FROM users GROUP BY CUBE (id, ssn)",
    "SELECT count(*) FROM users GROUP BY id HAVING max(ssn) > 'a'",
    "SELECT DISTINCT ssn FROM users",
    "SELECT DISTINCT ON (ssn) id FROM users",
    "SELECT DISTINCT ON (id) id, ssn FROM users ORDER BY id, ssn",
    "SELECT ssn FROM users UNION SELECT val FROM other",
    "SELECT ssn FROM users INTERSECT SELECT 'RAW-ssn-1'",
    "SELECT ssn FROM users INTERSECT ALL SELECT 'RAW-ssn-1'",
    "SELECT ssn FROM users EXCEPT ALL SELECT 'RAW-ssn-1'",
    "SELECT id, ssn FROM users UNION ALL SELECT 1, 'x' ORDER BY 2",
    "SELECT count(*) FILTER (WHERE ssn LIKE 'R%') FROM users",
    "SELECT string_agg(note, ',' ORDER BY ssn) FROM users",
    "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY ssn) FROM users",
    "SELECT row_number() OVER w FROM users WINDOW w AS (ORDER BY ssn)",
    "SELECT row_number() OVER (PARTITION BY ssn) FROM users",
    "SELECT id FROM users LIMIT (SELECT length(ssn) FROM users LIMIT 1)",
    "SELECT id FROM users OFFSET (SELECT length(ssn) FROM users LIMIT 1)",
    "SELECT id FROM users TABLESAMPLE bernoulli ((SELECT length(ssn) FROM users LIMIT 1))",
    "SELECT 1 FROM users a JOIN users b ON a.ssn = b.ssn",
    "SELECT 1 FROM users a JOIN users b USING (ssn)",
    "SELECT 1 FROM users a NATURAL JOIN users b",
    "SELECT 1 FROM other NATURAL JOIN (SELECT ssn AS val FROM users) q",
    "SELECT 1 WHERE 'RAW-ssn-1' IN (SELECT ssn FROM users)",
    "SELECT 'RAW-ssn-1' = ANY (SELECT ssn FROM users)",
    "SELECT 'RAW-ssn-1' < ALL (SELECT ssn FROM users)",
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM users WHERE ssn = 'RAW-ssn-1')",
    "SELECT 1 WHERE EXISTS (SELECT ssn FROM users INTERSECT SELECT 'RAW-ssn-1')",
    "SELECT (1, 'RAW-ssn-1') IN (SELECT id, ssn FROM users)",
    "SELECT ROW(1, 'RAW-ssn-1') = (SELECT id, ssn FROM users LIMIT 1)",
    "WITH RECURSIVE r AS (SELECT id, ssn FROM users UNION SELECT u.id, u.ssn FROM users u JOIN r USING (id)) TABLE r",
    _RECURSIVE + "SEARCH DEPTH FIRST BY ssn SET o SELECT o FROM r",
    _RECURSIVE + "CYCLE ssn SET c USING p SELECT p FROM r",
    "EXPLAIN VERBOSE SELECT id FROM users WHERE ssn = 'RAW-ssn-1'",
]
WRITES = [
    "INSERT INTO other SELECT 99, ssn, 1 FROM users",
    "INSERT INTO other VALUES (99, (SELECT ssn FROM users LIMIT 1), 1) RETURNING *",
    "INSERT INTO other SELECT 99, s.y, 1 FROM (SELECT id, ssn FROM users) AS s(x, y)",
    "INSERT INTO other (id, val) SELECT 99, ssn FROM users ON CONFLICT DO NOTHING",
    "INSERT INTO users (id, ssn) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET note = users.ssn RETURNING note",
    "INSERT INTO users (id, ssn) VALUES (1, 'x') ON CONFLICT (ssn) DO NOTHING",
    "UPDATE users SET note = ssn WHERE id > 0 RETURNING note",
    "UPDATE users SET (note, n) = (ssn, 1) WHERE id > 0 RETURNING note",
    "UPDATE users SET (note, n) = (SELECT u.ssn, 1 FROM users u LIMIT 1) WHERE id > 0 RETURNING note",
    "UPDATE users SET note = u.ssn FROM users u WHERE u.id = users.id RETURNING users.note",
    "UPDATE other SET val = (SELECT ssn FROM users LIMIT 1) WHERE id > 0 RETURNING val",
    "DELETE FROM users WHERE ssn = 'x'",
    "DELETE FROM users WHERE id > 0 RETURNING ssn || ''",
    "DELETE FROM users WHERE id > 0 RETURNING ssn, *",
    "UPDATE users SET n = 1 WHERE id > 0 RETURNING old.ssn, new.ssn, old.*, new",
    "UPDATE users SET n = 1 WHERE id > 0 RETURNING WITH (OLD AS o, NEW AS w) o.ssn, w.*, o",
    "UPDATE users SET n = 1 WHERE id > 0 RETURNING row_to_json(new)",
    "MERGE INTO other t USING users u ON t.id = u.id WHEN MATCHED THEN UPDATE SET val = u.ssn RETURNING t.val",
    "MERGE INTO other t USING users u ON t.val = u.ssn WHEN MATCHED THEN DELETE",
    "MERGE INTO other t USING users u ON t.id = u.id WHEN MATCHED AND u.ssn = 'x' THEN DELETE",
    "MERGE INTO other t USING users u ON t.id = u.id WHEN MATCHED THEN UPDATE SET n = 1 RETURNING u.ssn, u.*, u",
    "WITH d AS (DELETE FROM users WHERE id > 0 RETURNING ssn) SELECT * FROM d",
    "WITH d AS (DELETE FROM users WHERE id > 0 RETURNING *) SELECT d FROM d",
    "WITH d AS (DELETE FROM users WHERE id > 0 RETURNING ssn s) SELECT s || '' FROM d",
    "CREATE TABLE t AS SELECT ssn FROM users",
    "CREATE TABLE t AS TABLE users",
    "SELECT ssn INTO t FROM users",
    "CREATE VIEW t AS SELECT u FROM users u",
    "CREATE VIEW t AS SELECT upper(ssn) FROM users",
    "CREATE VIEW t AS SELECT id FROM users WHERE ssn = 'x'",
    "CREATE MATERIALIZED VIEW t AS SELECT ssn FROM users",
    "CREATE SCHEMA z CREATE VIEW v AS SELECT u FROM public.users u",
    "CREATE INDEX ON users (ssn)",
    "CREATE INDEX ON users (id) INCLUDE (ssn)",
    "CREATE INDEX ON users ((ssn || 'x'))",
    "CREATE INDEX ON users (id) WHERE ssn = 'x'",
    "CREATE INDEX ON users ((hash_record_extended(users.*, 0)))",
    "CREATE STATISTICS st ON ssn, note FROM users",
    "CREATE STATISTICS st ON (users::text), id FROM users",
    "CREATE POLICY p ON users USING (ssn = 'x')",
    "CREATE POLICY p ON users USING (users::text ~ 'x')",
    "ALTER TABLE users RENAME COLUMN ssn TO z",
    "ALTER TABLE users RENAME TO z",
    "ALTER INDEX users RENAME TO z",
    "ALTER TABLE users SET SCHEMA vault",
    "ALTER SCHEMA public RENAME TO z",
    "ALTER TABLE users ALTER ssn TYPE varchar",
    "ALTER TABLE users ALTER COLUMN note TYPE text USING ssn",
    "ALTER TABLE users ALTER COLUMN note TYPE text USING users::text",
    "ALTER TABLE users ALTER COLUMN note TYPE text USING (users.*)::text",
    "ALTER TABLE users ADD COLUMN z text GENERATED ALWAYS AS (ssn) STORED",
    "ALTER TABLE users ADD COLUMN z text GENERATED ALWAYS AS (ssn) VIRTUAL",
    "ALTER TABLE users ADD CHECK (ssn <> 'x')",
    "ALTER TABLE users ADD CHECK (users::text NOT LIKE '%RAW-ssn-3%')",
    "ALTER TABLE users ADD CHECK (users IS NOT NULL)",
    "ALTER TABLE users INHERIT other",
    "ALTER TABLE other ATTACH PARTITION users DEFAULT",
    "CREATE TABLE t (s text REFERENCES users (ssn))",
    "CREATE FOREIGN TABLE t (ssn text) SERVER f OPTIONS (table_name 'users')",
    "CREATE PUBLICATION p FOR TABLE users",
    "CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION p",
]
THROUGH_VIEWS = [
    "SELECT social FROM vu",
    "SELECT * FROM vu",
    "SELECT vu FROM vu",
    "SELECT id FROM vu WHERE social = 'x'",
    "SELECT * FROM v1",
    "SELECT v1 FROM v1",
    "SELECT * FROM v2",
    "SELECT ssn FROM v2 ORDER BY ssn",
    "SELECT count(*) FROM v1 GROUP BY ssn",
    "SELECT * FROM vcondition",
    "SELECT * FROM vexpression",
    "SELECT loud FROM vexpression",
    "SELECT * FROM vwhole",
    "SELECT (w).ssn FROM vwhole",
    "SELECT b FROM vrenamed",
    "SELECT y FROM vrenamed AS q(x, y)",
    "SELECT * FROM vlateral",
    "SELECT j FROM vjson",
    "SELECT soc FROM mu",
    "SELECT * FROM mu",
    "UPDATE vrenamed SET a = 78 WHERE a = 1 RETURNING *",
    "INSERT INTO other SELECT 99, social, 1 FROM vu",
    "ALTER VIEW vu RENAME COLUMN social TO z",
]
MASKING_RULES = {
    "masked_column_expression",
    "masked_column_predicate",
    "masked_column_write",
    "masked_column_rename",
}
#: What stops a statement before masking is asked, and rightly.
EARLIER_RULES = {"function_not_allowed", "forbidden_function", "table_denied", "row_filter_unsafe"}


def _is_right(attempt: Attempt) -> bool:
    if attempt.blocked:
        return attempt.decision.rule in MASKING_RULES | EARLIER_RULES
    return "RAW-ssn" not in attempt.answer


@pytest.mark.parametrize("sql", [*WHOLE_ROWS, *EXPRESSIONS, *CONDITIONS, *WRITES])
def test_a_masked_value_is_selected_and_nothing_else(ground: Ground, sql: str) -> None:
    """Refused by a rule of masking, or answered without the value; there is no third way."""
    attempt = ground.attempt(sql, writing(ONE_MASK))
    assert _is_right(attempt), (attempt.decision.rule, attempt.decision.rewritten_sql)


@pytest.mark.parametrize("sql", [*CONDITIONS, *WRITES])
def test_conditions_and_writes_are_refused_or_write_nothing_masked(ground: Ground, sql: str) -> None:
    """A value that chooses rows, or that would be stored, is refused: an empty answer would be one too."""
    attempt = ground.attempt(sql, writing(ONE_MASK))
    returned = "RETURNING" in sql and not attempt.blocked
    assert attempt.blocked or returned, attempt.decision.rewritten_sql


@pytest.mark.parametrize("sql", THROUGH_VIEWS)
def test_views_let_nothing_through(ground: Ground, sql: str) -> None:
    """A view's columns are masked by where they come from; a view that compares a masked column is refused."""
    attempt = ground.attempt(sql, writing(BOTH))
    assert _is_right(attempt), (attempt.decision.rule, attempt.decision.rewritten_sql)


@pytest.mark.parametrize("sql", [*WHOLE_ROWS, *EXPRESSIONS, *CONDITIONS, *WRITES])
def test_without_a_catalog_nothing_is_looser(ground: Ground, sql: str) -> None:
    """What the catalog's decision refuses is refused without one, and no mask is missing from the other list."""
    known = evaluate(sql, writing(ONE_MASK), ground.catalog)
    unknown = evaluate(sql, writing(ONE_MASK))
    if known.blocked:
        assert unknown.blocked
    elif not unknown.blocked:
        assert {m.column for m in unknown.masked_columns} >= {"ssn"}


#: Statements one step away from a refused one. They are ordinary and must run, with the answer they have without a guard.
TWINS = [
    "SELECT id FROM users WHERE note = 'note1'",
    "SELECT id FROM users ORDER BY note DESC",
    "SELECT note AS x FROM users GROUP BY x ORDER BY x",
    "SELECT upper(note) AS ssn FROM users ORDER BY ssn",
    "SELECT count(*) FROM users",
    "SELECT count(*) FROM users GROUP BY org_id ORDER BY 1",
    "SELECT count(note) FILTER (WHERE note LIKE 'n%') FROM users",
    "SELECT string_agg(note, ',' ORDER BY id) FROM users",
    "SELECT row_number() OVER (PARTITION BY org_id ORDER BY id) FROM users ORDER BY 1",
    "SELECT DISTINCT org_id FROM users ORDER BY 1",
    "SELECT note FROM users UNION SELECT val FROM other ORDER BY 1",
    "SELECT u.id FROM users u JOIN other o USING (id) ORDER BY 1",
    "SELECT 1 WHERE EXISTS (SELECT ssn FROM users)",
    "SELECT 1 WHERE EXISTS (SELECT * FROM users)",
    "SELECT id FROM users WHERE id IN (SELECT id FROM users) ORDER BY 1",
    "SELECT (s).note FROM (SELECT id, note FROM users) s ORDER BY 1",
    "WITH users AS (SELECT 'mine' AS ssn) SELECT ssn || '!' FROM users",
    "SELECT 'ssn', ssn FROM (VALUES ('x')) AS t(ssn) WHERE ssn = 'x'",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION SELECT n + 1 FROM r WHERE n < 3) TABLE r",
    "INSERT INTO other SELECT id + 50, note, n FROM users RETURNING val",
    "UPDATE users SET note = upper(note) WHERE id = 1 RETURNING note",
    "UPDATE users SET ssn = 'new' WHERE id = 1 RETURNING id",
    "DELETE FROM users WHERE id = 1 RETURNING id, old.note",
    "MERGE INTO other t USING users u ON t.id = u.id WHEN MATCHED THEN UPDATE SET val = u.note RETURNING t.val",
    "SELECT json_build_object('note', note) FROM users ORDER BY id",
]


@pytest.mark.parametrize("sql", TWINS)
def test_harmless_twins_give_the_plain_answer(ground: Ground, sql: str) -> None:
    """Next to each refusal stands a statement that is none of its business."""
    attempt = ground.attempt(sql, writing(ONE_MASK))
    assert not attempt.blocked, attempt.decision.reason
    assert attempt.error is None
    assert attempt.rows == ground.plain(sql)


def test_the_classes_are_complete() -> None:
    """The classes have the size they were written with: one that shrinks by an edit is noticed."""
    sizes = [len(set(c)) for c in (WHOLE_ROWS, EXPRESSIONS, CONDITIONS, WRITES, THROUGH_VIEWS, TWINS)]
    assert sizes == [32, 47, 41, 61, 23, 25]
