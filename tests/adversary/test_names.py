"""A masked column stays masked whatever names stand around it.

PostgreSQL looks for a bare column in the FROM items of the query, then further out. So an inner item that only *seems*
to have a column of that name would hide the masked one from the analysis and not from the server. Each item below is
put between the masked column and its table, under the masked column's own name.
"""

from __future__ import annotations

import pytest

from tests.adversary.ground import MASKS, ONE_MASK, Ground

#: FROM items named like a masked column; `{c}` is its name.
ITEMS = [
    "jsonb_array_elements('[1]') AS {c}",
    "jsonb_array_elements_text('[1]') AS {c}",
    "json_array_elements('[1]') AS {c}",
    "json_array_elements('[1]') AS x({c})",
    "json_array_elements('[1]') WITH ORDINALITY AS {c}",
    "jsonb_each('{{\"a\": 1}}') AS {c}",
    "jsonb_object_keys('{{\"a\": 1}}') AS {c}",
    "jsonb_path_query('1', '$') AS {c}",
    "json_to_record('{{}}') AS {c}(a int, b int)",
    "json_to_record('{{}}') AS x({c} int)",
    "json_populate_record(NULL::other, '{{}}') AS {c}",
    "unnest(ARRAY[1]) AS {c}",
    "unnest(ARRAY[1], ARRAY[2]) AS {c}",
    "unnest((SELECT array_agg(o) FROM other o)) AS {c}",
    "generate_series(1, 1) AS {c}",
    "generate_series(1, 1) WITH ORDINALITY AS {c}",
    "ROWS FROM (generate_series(1, 1)) AS {c}",
    "ROWS FROM (generate_series(1, 1), generate_series(1, 1)) AS {c}",
    "regexp_matches('a', 'a') AS {c}",
    "string_to_table('a', 'b') AS {c}",
    "pg_options_to_table(ARRAY['a=b']) AS {c}",
    "pg_get_keywords() AS {c}",
    "parse_ident('a') AS {c}",
    "current_date AS {c}",
    "CAST(1 AS int) AS {c}",
    "JSON_TABLE('1', '$' COLUMNS (k FOR ORDINALITY)) AS {c}",
    "JSON_TABLE('1', '$' AS {c} COLUMNS (k FOR ORDINALITY)) AS j",
    "JSON_TABLE('{{}}'::jsonb, '$' COLUMNS (NESTED PATH '$' COLUMNS (a int PATH '$.a'), {c} int PATH '$.x')) j(x)",
    "JSON_TABLE('{{}}'::jsonb, '$' COLUMNS ({c} int PATH '$.x', NESTED PATH '$' COLUMNS (a int PATH '$.a'))) j(x)",
    "(VALUES (1)) AS {c}",
    "(VALUES (1)) AS {c}(x)",
    "(SELECT 1) AS {c}",
    "(SELECT id FROM other) AS {c}",
    "other AS {c}",
    "other AS {c}(a, b, c)",
    "(other CROSS JOIN allowed) AS {c}",
    "other JOIN (SELECT 1 AS id) z USING (id) AS {c}",
    "(SELECT (SELECT 1 + 1)::{t}) AS s",
    "(SELECT (VALUES (1))::{t}) AS s",
    "(SELECT (SELECT o.* FROM (SELECT id FROM other LIMIT 1) o)::{t}) AS s",
    "(SELECT CASE WHEN true THEN 1 ELSE (SELECT 2) END::{t}) AS s",
    "(SELECT (ARRAY[1])[1]::{t}) AS s",
    "(SELECT EXISTS (SELECT 1)::text::{t}) AS s",
    "(SELECT nullif(1, 2)::{t}) AS s",
    "(SELECT ('x' COLLATE \"C\")::{t}) AS s",
]


@pytest.mark.parametrize("column", ["ssn", "name"])
@pytest.mark.parametrize("item", ITEMS)
def test_no_from_item_hides_a_masked_column(ground: Ground, item: str, column: str) -> None:
    """A scalar sub-select and a LATERAL one over the item give a mask, an inner value or a refusal; never the raw one."""
    source = item.format(c=column, t="name")
    scalar = ground.attempt(f"SELECT (SELECT {column} FROM {source} LIMIT 1) FROM users", MASKS)
    lateral = ground.attempt(
        f"SELECT s.{column} FROM users, LATERAL (SELECT {column} FROM {source} LIMIT 1) s", MASKS
    )
    assert not scalar.leaks, scalar.decision.rewritten_sql
    assert not lateral.leaks, lateral.decision.rewritten_sql


#: Alias lists over the seven columns of users: too short, with names that repeat, with names of other columns.
ALIAS_LISTS = [
    "(a, b, b)",
    "(x, note)",
    "(note, id)",
    "(a, a, a, a, a, a, a)",
    "(ssn, id)",
    "(name, note, ssn)",
    "(ssn)",
]


@pytest.mark.parametrize("aliases", ALIAS_LISTS)
@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM users AS u{}",
        "SELECT u.* FROM users AS u{}",
        "SELECT * FROM (SELECT * FROM users AS u{}) s",
        "SELECT u FROM users AS u{}",
        "SELECT u.* FROM other o JOIN users AS u{} ON true",
        "WITH c{} AS (SELECT * FROM users) SELECT * FROM c",
        "SELECT * FROM (users CROSS JOIN other) AS j{}",
    ],
)
def test_alias_lists_hide_no_masked_column(ground: Ground, query: str, aliases: str) -> None:
    """Whatever names an alias list gives, and gives twice, the values behind them keep their masks."""
    for policy in (MASKS, ONE_MASK):
        attempt = ground.attempt(query.format(aliases), policy)
        raw = {"ssn", "name", "doc"} if policy is MASKS else {"ssn"}
        assert not [kind for kind in raw if f"RAW-{kind}" in attempt.answer], attempt.decision.rewritten_sql


SPELLINGS = [
    'SELECT "ssn" FROM "users"',
    'SELECT U&"s\\0073n" FROM U&"user\\0073"',
    "SELECT SSN FROM USERS",
    "SELECT ssn FROM public.users",
    "SELECT public.users.ssn FROM public.users",
    "SELECT u.ssn FROM ONLY users u",
    "SELECT ssn FROM users *",
    "SELECT ssn/**/FROM/**/users",
    "SELECT ssn--\nFROM users",
    "/* é 漢字 😀 */ SELECT 'é', ssn FROM users -- ssn",
    "SELECT E'\\'', ssn FROM users",
    "SELECT $$'$$, ssn FROM users",
    "SELECT $é$'$é$, ssn FROM users",
    "SELECT ssn AS order FROM users",
    'SELECT ssn "from" FROM users',
    "SELECT users.ssn AS where FROM users",
    "SELECT (ssn) FROM users",
    "SELECT ((users.ssn)) AS x FROM users",
    "(SELECT ssn FROM users)",
    "((SELECT ssn FROM users)) LIMIT 3;;",
    "SELECT ssn FROM (users CROSS JOIN allowed)",
    "WITH users AS (SELECT * FROM users) SELECT ssn FROM users",
    "WITH users AS (SELECT 1) SELECT ssn FROM public.users",
    "SELECT ssn FROM users WHERE id IN (WITH users AS (SELECT 1 AS id) SELECT id FROM users)",
    "WITH RECURSIVE a AS (SELECT * FROM b), b AS (SELECT ssn FROM users) SELECT * FROM a",
    "WITH x AS (WITH y AS (SELECT ssn z FROM users) SELECT z FROM y) SELECT z FROM x",
    "SELECT 1; SELECT ssn FROM users",
]


@pytest.mark.parametrize("sql", SPELLINGS)
def test_a_masked_column_is_masked_however_it_is_written(ground: Ground, sql: str) -> None:
    """Quotes, case, comments, escapes, CTEs of the table's name: every one is answered, with the mask in the rows."""
    attempt = ground.attempt(sql, ONE_MASK)
    assert attempt.decision.verdict == "mask"
    assert attempt.error is None
    assert "RAW-ssn" not in attempt.answer


def test_the_classes_are_complete() -> None:
    """The classes have the size they were written with: one that shrinks by an edit is noticed."""
    assert (len(set(ITEMS)), len(set(ALIAS_LISTS)), len(set(SPELLINGS))) == (45, 7, 27)
