"""Errors tell nothing of hidden rows: two databases that differ in these alone answer every statement alike.

The statements are drawn at random from what is apt to raise: arithmetic and casts over hidden values, operands without
columns that raise when they run (and so tell how far a row got), sub-selects with two rows, parameters of generic plans,
indexes that find hidden rows first. Both databases have the statistics of the same rows, so that the plans are the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from guarddb import Catalog, evaluate
from tests.fix_server import temporary_database

SCHEMA = """
CREATE TABLE r (id int PRIMARY KEY, tenant int, a int, b int, secret text, n int, num numeric, d date, tags int[], js jsonb);
CREATE TABLE s (k int PRIMARY KEY, r_id int, z int, w text);
CREATE TABLE g (tenant int PRIMARY KEY, ok bool);
INSERT INTO s SELECT i, i, i % 3, 'w' || i FROM generate_series(1, 40) AS i;
INSERT INTO g VALUES (1, true), (2, false), (3, true);
INSERT INTO r SELECT i, 1, i % 5, i % 3, 'seen' || i, i % 7 + 1, i, date '2024-01-01' + i, ARRAY[i, i + 1],
  jsonb_build_object('k', i) FROM generate_series(1, 20) AS i;
INSERT INTO r SELECT 100 + i, 2, 77, 88, 'hid', 0, 0, '1999-01-01', '{7}', '{"k": "x"}' FROM generate_series(1, 30) AS i;
CREATE INDEX ON r (secret); CREATE INDEX ON r (a); CREATE INDEX ON r (b, a); CREATE INDEX ON r (n); CREATE INDEX ON r (d);
CREATE INDEX ON r (num); CREATE INDEX ON r (tenant); CREATE INDEX ON r (lower(secret)); CREATE INDEX ON s (r_id);
ANALYZE;
"""
#: Of the hidden rows; the first leaves every value as it was.
VARIANTS = (
    "UPDATE r SET a = 77 WHERE tenant = 2",
    (
        "UPDATE r SET a = 66, b = 55, secret = 'other', n = 1, num = 1, d = '1998-01-01', tags = '{8}', js = '{\"k\": 5}' "
        "WHERE tenant = 2"
    ),
)
FILTERS = (
    "tenant = 1",
    "tenant IN (1, 3)",
    "tenant = 1 OR (tenant = 3 AND a > 0)",
    "tenant IN (SELECT g.tenant FROM g WHERE g.ok)",
    "EXISTS (SELECT 1 FROM g WHERE g.tenant = r.tenant AND g.ok)",
    "(tenant + 0) * 1 = 1 AND tenant <> 2 AND tenant IS NOT NULL",
)
PLANNERS = (
    (),
    ("enable_seqscan = off",),
    ("enable_indexscan = off",),
    ("enable_nestloop = off",),
    ("enable_hashjoin = off", "enable_mergejoin = off"),
    ("enable_bitmapscan = off", "enable_seqscan = off"),
)
FINDS_HIDDEN = (
    "r.secret = 'hid'",
    "r.a = 77",
    "r.b = 88",
    "r.secret LIKE 'hi%'",
    "r.n = 0",
    "r.num = 0",
    "r.d = '1999-01-01'",
    "r.a = ANY ('{77}')",
    "r.b BETWEEN 80 AND 90",
    "r.tenant = 2",
)
RAISES_ALONE = (
    "(SELECT v FROM (VALUES (1), (2)) AS t (v))",
    "(1 / (SELECT 0))",
    "(SELECT 1 / 0 FROM s LIMIT 1)",
    "(SELECT k FROM s WHERE w = 'w3')",
    "(SELECT max(k) FROM s)",
    "(SELECT count(*) OVER () FROM s)",
    "(SELECT row_number() OVER (ORDER BY k) FROM s)",
    "(SELECT max(k) OVER () FROM s WHERE k > 0)",
    "(1 / $1)",
    "(10 / ($1::int - 3))",
    "(SELECT 1 / z FROM s WHERE k = 3)",
    "(SELECT count(*) FROM s WHERE 1 / z > 0)",
    "(SELECT sum(1 / z) FROM s)",
)
RAISES_ON_HIDDEN = (
    "1 / r.n > 0",
    "lower(r.secret) = 'hid'",
    "r.secret::int > 0",
    "(r.js ->> 'k')::int > 0",
    "r.secret::regclass IS NOT NULL",
    "r.n + 2147483647 > 0",
    r"r.secret LIKE '%d\'",
    "r.tags[1] / r.n > 0",
    "row(r.id, 1) = ANY (ARRAY[row('x'::text, 1)])",
    "(r.id, r.secret::int) = (1, 2)",
    "greatest(r.n, 1 / r.n) = 1",
    "CASE WHEN r.a > 0 THEN 1 / r.n END = 1",
    "nullif(r.a, 1 / r.n) = 3",
)


class Attack:
    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def condition(self, depth: int = 1) -> str:
        pick, draw = self.draw.choice, self.draw.random()
        free = pick(RAISES_ALONE)
        if draw < 0.35:
            return pick(FINDS_HIDDEN)
        if draw < 0.5:
            return f"r.{pick(('id', 'a', 'b', 'n'))} {pick(('=', '>', '<', '<>'))} {free}"
        if draw < 0.62:
            return pick(RAISES_ON_HIDDEN)
        if draw < 0.72 and depth:
            return f"({self.condition(0)} OR {self.condition(0)})"
        if draw < 0.76 and depth:
            return f"NOT ({self.condition(0)})"
        if draw < 0.8:
            return f"r.id IN (SELECT s.r_id FROM s WHERE {pick(('1 / s.z > 0', 's.z = 1', 's.k = ' + free))})"
        if draw < 0.87:
            inside = pick(("1 / s.z > 0", "s.z >= 0", "1 / r.n > 0", f"s.k > {free}", "s.k = r.a"))
            return f"EXISTS (SELECT 1 FROM s WHERE s.r_id = r.{pick(('a', 'id', 'n'))} AND {inside})"
        if draw < 0.91:
            return f"(SELECT {pick(('max(s.z)', 's.z', '1 / s.z'))} FROM s WHERE s.r_id = r.{pick(('a', 'id'))}) > 0"
        if draw < 0.95:
            return f"CASE WHEN {pick(FINDS_HIDDEN)} THEN r.a = {free} END"
        return f"coalesce({pick(FINDS_HIDDEN)}, r.a > {free})"

    def statement(self) -> str:
        pick, draw = self.draw.choice, self.draw.random()
        where = " AND ".join(self.condition() for _ in range(self.draw.randint(1, 4)))
        if draw < 0.35:
            return f"SELECT count(*) FROM r WHERE {where}"
        if draw < 0.45:
            return f"SELECT r.id FROM r JOIN s ON s.r_id = r.{pick(('id', 'a'))} AND {self.condition()} WHERE {where}"
        if draw < 0.53:
            return f"SELECT count(*) FROM s LEFT JOIN r ON r.id = s.r_id AND {self.condition()} WHERE {where}"
        if draw < 0.6:
            other = pick(("s.k", "1 / s.z", "s.z + 1", "s.k::numeric"))
            return f"SELECT count(*) FROM s, r WHERE r.{pick(('id', 'a', 'n'))} = {other} AND {where}"
        if draw < 0.68:
            made = pick(("1 / n", "lower(secret)", "a + 1", "secret::int"))
            return (
                f"SELECT count(*) FROM (SELECT *, {made} AS q FROM r) AS r WHERE {where} AND r.q IS NOT NULL"
            )
        if draw < 0.75:
            return (
                f"WITH r AS (SELECT * FROM r WHERE {self.condition()}) SELECT count(*) FROM r WHERE {where}"
            )
        if draw < 0.81:
            return f"UPDATE r SET b = b WHERE {where}"
        if draw < 0.86:
            return f"DELETE FROM r WHERE {where}"
        if draw < 0.91:
            return f"SELECT s.k, (SELECT count(*) FROM r WHERE r.id = s.k AND {where}) FROM s WHERE s.k < 5"
        if draw < 0.95:
            return f"SELECT count(*) FROM r AS r2 JOIN r ON r.id = r2.a WHERE {where}"
        return f"SELECT a, count(*) FROM r WHERE {where} GROUP BY a HAVING {pick(('a > 3', '1 / a > 0'))}"


@pytest.fixture(scope="module")
def variants(server_dsn: str) -> Iterator[tuple[psycopg.Connection[Any], ...]]:
    with ExitStack() as stack:
        made = []
        for variant in VARIANTS:
            dsn = stack.enter_context(temporary_database(server_dsn, "errors"))
            conn = stack.enter_context(psycopg.connect(dsn, autocommit=True))
            conn.execute(SCHEMA)
            conn.execute(variant)
            made.append(conn)
        yield tuple(made)


def outcome(
    conn: psycopg.Connection[Any], sql: str, planner: tuple[str, ...], *, generic: bool, value: int | str
) -> tuple[object, ...]:
    """Rows or command tag; or the error, to its last letter."""
    try:
        with conn.transaction(force_rollback=True):
            for setting in planner:
                conn.execute(f"SET LOCAL {setting}")
            if "$1" in sql:
                conn.execute("DEALLOCATE ALL")
                kind = "text" if isinstance(value, str) else "int"
                conn.execute(f"PREPARE p ({kind}) AS {sql}", prepare=False)
                if generic:
                    conn.execute("SET LOCAL plan_cache_mode = force_generic_plan")
                sql = f"EXECUTE p ('{value}')"
            cursor = conn.execute(sql, prepare=False)
            return (
                "ok",
                cursor.statusmessage,
                sorted(cursor.fetchall(), key=repr) if cursor.description else None,
            )
    except psycopg.Error as error:
        return (error.sqlstate, error.diag.message_primary, error.diag.message_detail)


def sent(sql: str, predicate: str, catalog: Catalog) -> str | None:
    profile = {
        "name": "one tenant",
        "access_mode": "read_write",
        "row_filters": [{"table": "r", "predicate": predicate}],
    }
    prefix = "PREPARE p (int) AS " if "$1" in sql else ""
    text = evaluate(prefix + sql, profile, catalog).rewritten_sql
    return None if text is None else text.removeprefix(prefix)


@pytest.mark.parametrize("seed", range(6))
def test_statements_that_raise_answer_the_same_whatever_is_hidden(
    variants: tuple[psycopg.Connection[Any], ...], seed: int
) -> None:
    attack, differences, raised = Attack(seed), [], 0
    catalog = Catalog.from_connection(variants[0])
    for _ in range(100):
        sql, predicate = attack.statement(), attack.draw.choice(FILTERS)
        text = sent(sql, predicate, catalog)
        planner, generic = attack.draw.choice(PLANNERS), attack.draw.random() < 0.6
        value = attack.draw.choice((0, 0, 1, 3))
        if text is None:
            continue
        one, other = (outcome(conn, text, planner, generic=generic, value=value) for conn in variants)
        raised += one[0] != "ok"
        if one != other:
            differences.append((predicate, planner, sql, text, one, other))
    assert differences == []
    assert raised > 10


TRAILING = (
    r"SELECT count(*) FROM r WHERE secret LIKE '%hi\'",
    r"SELECT count(*) FROM r WHERE NOT (secret LIKE '%hi\') OR id = 1",
    r"SELECT count(*) FROM s FULL JOIN r ON s.k = r.id WHERE secret LIKE '%hi\'",
    r"SELECT count(*) FROM s FULL JOIN r ON s.k = r.id AND r.secret LIKE '%hi\'",
    r"SELECT count(*) FROM s LEFT JOIN r ON s.k = r.id WHERE r.secret LIKE '%hi\'",
    r"SELECT count(*) FROM (SELECT id, secret FROM r) AS q WHERE secret LIKE '%hi\'",
    r"WITH q AS (SELECT * FROM r) SELECT count(*) FROM q WHERE secret LIKE '%hi\'",
    r"SELECT count(*) FROM (SELECT secret FROM r UNION ALL SELECT w FROM s) AS q WHERE secret LIKE '%hi\'",
    r"SELECT count(*) FROM s WHERE EXISTS (SELECT 1 FROM r WHERE r.id = s.k AND r.secret LIKE '%hi\')",
    r"SELECT count(*) FROM r, LATERAL (VALUES (r.secret)) AS v (x) WHERE v.x LIKE '%hi\'",
    r"SELECT count(*) FROM r WHERE secret LIKE '%hi'::text || '\'",
    r"SELECT count(*) FROM r WHERE secret LIKE ANY (ARRAY['%hi\', 'x'])",
    r"SELECT count(*) FROM v WHERE secret LIKE '%hi\'",
    r"UPDATE r SET b = b WHERE secret LIKE '%hi\'",
)


@pytest.fixture(scope="module")
def analyzed(server_dsn: str) -> Iterator[tuple[psycopg.Connection[Any], ...]]:
    """The variants, each with the statistics of its own rows."""
    with ExitStack() as stack:
        made = []
        for variant in VARIANTS:
            dsn = stack.enter_context(temporary_database(server_dsn, "statistics"))
            conn = stack.enter_context(psycopg.connect(dsn, autocommit=True))
            conn.execute(f"{SCHEMA} CREATE VIEW v AS SELECT id, secret FROM r; {variant}; ANALYZE")
            made.append(conn)
        yield tuple(made)


def test_a_pattern_that_ends_with_its_escape_is_tried_on_statistics(
    analyzed: tuple[psycopg.Connection[Any], ...],
) -> None:
    fenced = r"SELECT 1 FROM (SELECT secret FROM r WHERE tenant = 1 OFFSET 0) AS q WHERE secret LIKE '%hi\'"
    one, other = (outcome(conn, fenced, (), generic=False, value=0) for conn in analyzed)
    assert one[0] == "22025"
    assert other[0] == "ok"


@pytest.mark.parametrize("predicate", [FILTERS[0], FILTERS[4]])
@pytest.mark.parametrize("sql", TRAILING)
def test_no_condition_is_tried_on_statistics_of_hidden_rows(
    analyzed: tuple[psycopg.Connection[Any], ...], sql: str, predicate: str
) -> None:
    text = sent(sql, predicate, Catalog.from_connection(analyzed[0]))
    assert text is not None
    one, other = (outcome(conn, text, (), generic=False, value=0) for conn in analyzed)
    assert one == other
    assert one[0] == "ok"


#: Patterns that nobody knows before the statement runs: whether they may be tried is asked before any row is read.
PATTERNS = (
    "SELECT count(*) FROM r WHERE secret LIKE $1",
    "SELECT count(*) FROM r WHERE secret ILIKE $1 AND id < 1000",
    "SELECT count(*) FROM r WHERE secret LIKE '%' || $1",
    "SELECT count(*) FROM s JOIN r ON s.k = r.id WHERE r.secret LIKE $1",
    "SELECT count(*) FROM s LEFT JOIN r ON s.k = r.id WHERE r.secret LIKE $1",
    "SELECT count(*) FROM (SELECT id, secret FROM r) AS q WHERE secret LIKE $1",
    "SELECT count(*) FROM s WHERE EXISTS (SELECT 1 FROM r WHERE r.id = s.k AND r.secret LIKE $1)",
    "SELECT count(*) FROM s WHERE NOT EXISTS (SELECT 1 FROM r WHERE r.id = s.k AND r.secret LIKE $1)",
    "SELECT count(*) FROM s WHERE k IN (SELECT id FROM r WHERE r.secret LIKE $1)",
    "UPDATE r SET b = b WHERE secret LIKE $1",
)


@pytest.mark.parametrize("predicate", [FILTERS[0], FILTERS[4]])
@pytest.mark.parametrize("sql", PATTERNS)
def test_a_pattern_that_comes_later_tells_nothing_by_its_error(
    analyzed: tuple[psycopg.Connection[Any], ...], sql: str, predicate: str
) -> None:
    for conn in analyzed:
        conn.execute("CREATE INDEX IF NOT EXISTS patterns ON r (secret text_pattern_ops)")
    text = sent(sql.replace("$1", "$1::text"), predicate, Catalog.from_connection(analyzed[0]))
    assert text is not None
    assert "pg_catalog.rtrim" in text
    for value in ("hid%", "%hi\\", "hi\\", "hi\\\\", "seen1"):
        for generic in (False, True):
            for planner in PLANNERS:
                one, other = (outcome(c, text, planner, generic=generic, value=value) for c in analyzed)
                assert one == other, (value, generic, planner)
                assert (one[0] == "22025") == (value in ("%hi\\", "hi\\"))


@pytest.mark.parametrize("predicate", [FILTERS[0], FILTERS[4]])
def test_what_may_raise_in_not_exists_is_asked_around_it(
    variants: tuple[psycopg.Connection[Any], ...], predicate: str
) -> None:
    sql = "SELECT count(*) FROM s WHERE NOT EXISTS (SELECT 1 FROM r WHERE r.b = s.z AND r.n < 10 / $1)"
    text = sent(sql, predicate, Catalog.from_connection(variants[0]))
    assert text is not None
    for planner in PLANNERS:
        for value in (0, 1):
            one, other = (outcome(conn, text, planner, generic=True, value=value) for conn in variants)
            assert one == other, (value, planner)


#: What raises is compared with a column of another table, which is equal to one of r.
FOLLOWS = (
    "SELECT count(*) FROM s JOIN r ON r.{c} = s.k WHERE s.k = {raises} AND {finds}",
    "SELECT count(*) FROM s, r WHERE r.{c} = s.z AND s.z = {raises} AND {finds}",
    "SELECT count(*) FROM r WHERE r.{c} IN (SELECT s.k FROM s WHERE s.k = {raises}) AND {finds}",
    "SELECT count(*) FROM s LEFT JOIN r ON r.{c} = s.k AND {finds} WHERE s.k = {raises}",
    "SELECT count(*) FROM s JOIN r ON r.{c} = s.k JOIN g ON g.tenant = s.k AND s.k = {raises} WHERE {finds}",
    "SELECT count(*) FROM r, s, LATERAL (SELECT {raises} AS y) AS q WHERE r.{c} = s.k AND s.k = q.y AND {finds}",
    "SELECT count(*) FROM s JOIN r ON r.{c} = s.k WHERE NOT (s.k <> {raises} OR r.b IS NULL) AND {finds}",
    "SELECT count(*) FROM s JOIN r ON r.{c} = s.k WHERE (s.k, s.z) = ({raises}, 1) AND {finds}",
    "SELECT count(*) FROM s JOIN r ON r.{c} = s.k WHERE s.k IN ({raises}) AND {finds}",
    "SELECT count(*) FROM s JOIN r ON r.{c} = s.k WHERE s.k IN (SELECT {raises}) AND {finds}",
    "SELECT count(*) FROM s JOIN r ON r.{c} = s.k WHERE CASE WHEN true THEN s.k = {raises} END AND {finds}",
    "SELECT count(*) FROM (SELECT k + 1 AS k FROM s) AS s JOIN r ON r.{c} = s.k WHERE s.k = {raises} AND {finds}",
    "SELECT count(*) FROM (VALUES (1), (77)) AS s (k) JOIN r ON r.{c} = s.k WHERE s.k = {raises} AND {finds}",
    "SELECT count(*) FROM s WHERE NOT EXISTS (SELECT FROM r WHERE r.{c} = s.k AND {finds}) AND s.k = {raises}",
)
RAISES_AS_VALUE = (
    "(SELECT 1 / count(*)::int FROM g WHERE tenant > 10)",
    "1 / $1",
    "(SELECT v FROM (VALUES (1), (2)) AS t (v))",
)


def follows(draw: random.Random, finds: tuple[str, ...]) -> str:
    """A statement of that kind."""
    return draw.choice(FOLLOWS).format(
        c=draw.choice(("id", "a", "b", "n")), raises=draw.choice(RAISES_AS_VALUE), finds=draw.choice(finds)
    )


@pytest.mark.parametrize("predicate", [FILTERS[0], FILTERS[2]])
def test_what_follows_for_a_table_from_an_equality_of_another(
    variants: tuple[psycopg.Connection[Any], ...], predicate: str
) -> None:
    draw, differences, raised = random.Random(predicate), [], 0
    catalog = Catalog.from_connection(variants[0])
    for _ in range(120):
        sql = follows(draw, FINDS_HIDDEN)
        text = sent(sql, predicate, catalog)
        assert text is not None, sql
        planner, generic, value = draw.choice(PLANNERS), draw.random() < 0.6, draw.choice((0, 0, 1))
        one, other = (outcome(conn, text, planner, generic=generic, value=value) for conn in variants)
        raised += one[0] != "ok"
        if one != other:
            differences.append((planner, sql, text, one, other))
    assert differences == []
    assert raised > 40


def test_an_equality_that_does_not_raise_or_is_of_no_filtered_column_stays(
    variants: tuple[psycopg.Connection[Any], ...],
) -> None:
    catalog = Catalog.from_connection(variants[0])
    for condition in (
        "r.id = s.k AND s.k = $1",
        "r.id = s.k AND s.z = 1 / $1",
        "r.id > s.k AND s.k = 1 / $1",
    ):
        text = sent(f"SELECT count(*) FROM r, s WHERE {condition}", FILTERS[2], catalog)
        assert text is not None
        assert condition in text
        assert "CASE" not in text


def test_a_filter_is_asked_at_the_scan_also_where_the_condition_is_in_parentheses(
    variants: tuple[psycopg.Connection[Any], ...],
) -> None:
    sql = (
        "SELECT r.id FROM r, LATERAL (SELECT s.k, substring('abc', 1, 70 - r.a) FROM s EXCEPT ALL SELECT 1, 'x') AS q (k, w)"
        " WHERE (1 / (r.n + 1) >= 0 AND q.k = 3 AND r.id > 0)"
    )
    text = sent(sql, FILTERS[3], Catalog.from_connection(variants[0]))
    assert text is not None
    for planner in PLANNERS:
        one, other = (outcome(conn, text, planner, generic=False, value=1) for conn in variants)
        assert one == other
        assert one[0] == "ok"


#: What is computed of a row, in places where the planner may do so as soon as the row is read: sort keys of a parallel plan,
#: columns of what is pulled up below an outer join.
COMPUTED = (
    "SELECT rank() OVER (ORDER BY 1 / r.n) FROM {items} WHERE {condition}",
    "SELECT r.id FROM {items} WHERE {condition} ORDER BY 1 / r.n, r.id",
    "SELECT 1 / r.n AS x, count(*) FROM {items} WHERE {condition} GROUP BY 1 ORDER BY 1",
    "SELECT DISTINCT 1 / r.n FROM {items} WHERE {condition} ORDER BY 1",
    "SELECT q.x FROM s LEFT JOIN (SELECT 1 / r.n AS x, r.id FROM {items} WHERE {condition}) AS q ON q.id = s.k ORDER BY s.k, q.x",
    (
        "SELECT s.k FROM s LEFT JOIN (SELECT coalesce(1 / r.n, 0) AS x, r.id FROM {items} WHERE {condition}) AS q"
        " ON q.id = s.r_id WHERE coalesce(q.x, 1) >= 0 ORDER BY s.k"
    ),
    "SELECT (SELECT max(1 / r.n) FROM {items} WHERE {condition} AND r.id = s.k) FROM s ORDER BY s.k",
)
#: What a condition takes beside the filtered row: rows that no policy speaks of.
BESIDE = (
    "(VALUES (1), (2)) AS o (k)",
    "generate_series(1, 2) AS o (k)",
    "g AS o (k, ok)",
    "LATERAL (SELECT r.b AS k) AS o",
)
#: Parallel plans. Where no worker is to be had the leader runs the whole of one itself; a sub-select would start two for each row
#: around it.
AT_ONCE = (
    "max_parallel_workers = 0",
    "parallel_setup_cost = 0",
    "parallel_tuple_cost = 0",
    "min_parallel_table_scan_size = 0",
    "cpu_operator_cost = 100",
)


@pytest.mark.parametrize("predicate", [FILTERS[0], *FILTERS[3:5]])
@pytest.mark.parametrize("beside", BESIDE)
def test_nothing_is_computed_of_hidden_rows_before_a_condition_that_others_take_part_in(
    variants: tuple[psycopg.Connection[Any], ...], beside: str, predicate: str
) -> None:
    catalog = Catalog.from_connection(variants[0])
    ran = 0
    for shape in COMPUTED:
        for condition in (
            "r.secret LIKE o.k::text || '%' OR 8 / (r.a - 77 + o.k) IS NOT NULL",
            "1 / (r.n + o.k) < 2",
        ):
            text = sent(shape.format(items=f"r, {beside}", condition=condition), predicate, catalog)
            if text is None:
                continue
            ran += 1
            for planner in ((), PLANNERS[4], AT_ONCE):
                one, other = (outcome(conn, text, planner, generic=False, value=0) for conn in variants)
                assert one == other, (text, planner)
    assert ran >= len(COMPUTED)


#: Two collations meet, of which one comes from a nested query; COLLATE says no more of it there.
COLLATIONS = (
    """r.c < (SELECT 'q' COLLATE "C")""",
    """r.c = ANY (ARRAY(SELECT 'q' COLLATE "C"))""",
    """r.c IN (SELECT s.w COLLATE "C" FROM s)""",
    """r.c NOT IN (SELECT s.w COLLATE "C" FROM s)""",
    """r.c < ANY (SELECT s.w COLLATE "C" FROM s)""",
    """r.c < (SELECT max(s.w COLLATE "C") FROM s)""",
    """r.c < (SELECT s.w COLLATE "C" FROM s LIMIT 1)""",
    """r.c < coalesce((SELECT 'q' COLLATE "C"), 'x')""",
    """r.c || (SELECT 'q' COLLATE "C") < 'x'""",
    """r.c < r.e""",
    """r.c BETWEEN 'a' AND (SELECT 'q' COLLATE "C")""",
)


@pytest.mark.parametrize("predicate", FILTERS)
def test_collations_that_do_not_go_together_tell_nothing(
    variants: tuple[psycopg.Connection[Any], ...], predicate: str
) -> None:
    for number, conn in enumerate(variants):
        conn.execute(
            'ALTER TABLE r ADD IF NOT EXISTS c text COLLATE "POSIX", ADD IF NOT EXISTS e text COLLATE "C"'
        )
        conn.execute("UPDATE r SET c = CASE tenant WHEN 1 THEN 'x' ELSE 'h' || %s::text END", (number,))
    catalog = Catalog.from_connection(variants[0])
    for condition in COLLATIONS:
        outside = condition.replace("r.", "q.")
        for sql in (
            f"SELECT count(*) FROM r WHERE r.c = 'h0' AND {condition}",
            f"SELECT count(*) FROM r WHERE CASE WHEN r.c = 'h0' THEN {condition} END",
            f"SELECT count(*) FROM (SELECT c, e FROM r) AS q WHERE CASE WHEN q.c = 'h0' THEN {outside} END",
            """SELECT count(*) FROM (SELECT c, 'q' COLLATE "C" AS x FROM r) AS q WHERE q.c = 'h0' AND q.c < q.x""",
        ):
            text = sent(sql, predicate, catalog)
            assert text is not None, sql
            for planner in PLANNERS:
                one, other = (outcome(conn, text, planner, generic=False, value=0) for conn in variants)
                assert one == other, (text, planner)


@pytest.mark.parametrize("predicate", FILTERS)
@pytest.mark.parametrize(
    "row", ["(1 / $1, 2) = (r.n, r.id)", "(r.id, r.n) = (2, 1 / $1)", "row(2, 1 / $1) < row(r.id, r.n)"]
)
def test_a_row_with_something_known_in_it_is_not_evaluated_first_by_asking_whether_it_is_null(
    variants: tuple[psycopg.Connection[Any], ...], row: str, predicate: str
) -> None:
    catalog = Catalog.from_connection(variants[0])
    for sql in (
        f"SELECT count(*) FROM r WHERE r.a = 77 AND {row}",
        f"SELECT count(*) FROM r WHERE r.secret LIKE 'hi%' AND {row.replace('1 / $1', '(SELECT 1 / z FROM s WHERE k = 3)')}",
    ):
        text = sent(sql, predicate, catalog)
        assert text is not None
        for planner in PLANNERS:
            one, other = (outcome(conn, text, planner, generic=True, value=0) for conn in variants)
            assert one == other, (text, planner)
