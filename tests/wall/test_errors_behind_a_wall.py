"""Behind a wall errors tell nothing of hidden rows: two databases that differ in these alone answer every statement alike.

PostgreSQL takes for harmless what holds no column, and asks conditions in the order of their cost. So what may raise when it is
first needed stands here beside whatever finds hidden rows and costs less than a filter, or finds them by an index; filters of
all kinds, plans of all kinds, with and without the values of parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb.decision.decide import decide
from tests.adversary.test_errors_of_hidden_rows import (
    AT_ONCE,
    FINDS_HIDDEN,
    PLANNERS,
    RAISES_ALONE,
    RAISES_AS_VALUE,
    Attack,
    follows,
)
from tests.wall.conftest import made
from tests.wall.ground import Ground

SCHEMA = """
CREATE TABLE r (id int PRIMARY KEY, tenant int, big bigint, owner_of uuid, a int, b int, secret text, n int, num numeric, d date,
  tags int[], js jsonb, flag bool, foreign_text text COLLATE "POSIX", other_text text COLLATE "C");
CREATE TABLE s (k int PRIMARY KEY, r_id int, z int, w text);
CREATE TABLE g (tenant int PRIMARY KEY, ok bool);
CREATE TABLE none (z int);
INSERT INTO s SELECT i, i, i % 3, 'w' || i FROM generate_series(1, 40) AS i;
INSERT INTO g VALUES (1, true), (2, false), (3, true);
INSERT INTO r SELECT i, 1, 1, '00000000-0000-0000-0000-000000000001', i % 5, i % 3, 'seen' || i, i % 7 + 1, i,
  date '2024-01-01' + i, ARRAY[i, i + 1], jsonb_build_object('k', i), false, 'f' || i, 'o' || i FROM generate_series(1, 20) AS i;
INSERT INTO r SELECT 100 + i, 2, 2, '00000000-0000-0000-0000-000000000002', 77, 88, 'hid', 0, 0, '1999-01-01', '{7}',
  '{"k": "x"}', true, 'hid', 'hid' FROM generate_series(1, 30) AS i;
CREATE INDEX ON r (secret); CREATE INDEX ON r (a); CREATE INDEX ON r (b, a); CREATE INDEX ON r (n); CREATE INDEX ON r (d);
CREATE INDEX ON r (num); CREATE INDEX ON r (tenant); CREATE INDEX ON r (lower(secret)); CREATE INDEX ON s (r_id);
CREATE TABLE whole (LIKE r) PARTITION BY LIST (tenant);
CREATE TABLE part_1 PARTITION OF whole FOR VALUES IN (1, 3); CREATE TABLE part_2 PARTITION OF whole FOR VALUES IN (2);
CREATE INDEX ON whole (secret); CREATE INDEX ON whole (n);
INSERT INTO whole SELECT * FROM r; ALTER TABLE whole DROP other_text;
CREATE VIEW seen AS SELECT * FROM r;
ANALYZE;
"""
#: Of the hidden rows; the first leaves every value as it was.
VARIANTS = (
    "UPDATE {t} SET a = 77 WHERE tenant = 2",
    (
        "DELETE FROM {t} WHERE tenant = 2 AND id > 123; "
        "UPDATE {t} SET a = 66, b = 55, secret = 'other', n = 1, num = 1, d = '1998-01-01', tags = '{{8}}', js = '{{\"k\": 5}}', "
        "flag = NULL, foreign_text = 'x', other_text = 'x' WHERE tenant = 2"
    ),
)
FILTERS = (
    "tenant = 1",
    "tenant IN (1, 3)",
    "tenant < 2",
    "tenant <> 2",
    "big = 1",
    "big IN (1, 3)",
    "owner_of = '00000000-0000-0000-0000-000000000001'",
    "tenant = 1 OR (tenant = 3 AND a > 0)",
    "tenant = 1 OR secret = 'seen1' OR (tenant = 3 AND flag = false)",
    "secret LIKE 'seen%'",
    "tenant IN (SELECT g.tenant FROM g WHERE g.ok)",
    "EXISTS (SELECT 1 FROM g WHERE g.tenant = r.tenant AND g.ok)",
    "(tenant + 0) * 1 = 1 AND tenant <> 2 AND tenant IS NOT NULL",
    "d >= '2024-01-01'",
    "d::text LIKE '2024%'",
    "tenant = 1 AND NOT flag",
)
#: What finds hidden rows and costs less than an operator, or nothing.
COSTS_LITTLE = (
    "r.flag",
    "r.flag IS TRUE",
    "NOT (r.flag IS NULL OR NOT r.flag)",
    "('[77:77]={t}'::bool[])[r.a]",
    "('{\"hid\": 1}'::jsonb)[r.secret] IS NOT NULL",
    "r.secret = ANY ('{hid}')",
    "(r.tags)[1] = 7",
    "r.foreign_text = 'hid'",
)
#: What is needed only where a row has come so far.
NEEDED_LATE = (
    "(SELECT 1 / count(*) = 1 FROM none)",
    "(SELECT 1 / count(*) FROM none) = 1",
    "1 / $1 = 1",
    "$1 / (SELECT 0) = 1",
    "((SELECT 'x' || count(*) FROM none)::date IS NOT NULL)",
    "(('x' || 'y')::date IS NOT NULL)",
    "EXISTS (SELECT 1 FROM s WHERE 1 / (SELECT count(*) FROM none) = 1)",
    "r.a = ANY (ARRAY[(SELECT 1 / count(*)::int FROM none)])",
    "r.a IN (1, 1 / $1)",
    "r.foreign_text < (SELECT 'q' COLLATE \"C\")",
    "r.foreign_text < r.other_text",
    "r.foreign_text = ANY (ARRAY[r.other_text])",
    "r.id < (SELECT v FROM (VALUES (1), (2)) AS t (v))",
    "current_setting('nobody.knows')::int = 1",
    "row(r.a, r.b) < row(1, 1 / $1)",
    "((SELECT 1 / count(*)::int FROM none), 2) = (r.a, r.b)",
    "(2, 1 / $1) = (r.b, r.a)",
    "r.d < current_date + 10 / $1",
    "(SELECT 1 / count(*) = 1 FROM none WHERE none.z = r.a)",
    "EXISTS (SELECT 1 FROM s WHERE s.r_id = r.id AND 1 / (SELECT count(*) FROM none) = 1)",
    "EXISTS (SELECT 1 FROM s WHERE s.r_id = r.id AND s.z = 1 / $1)",
    "(SELECT 1 / (count(*) * r.constant) = 1 FROM none)",
)


#: What an index may serve, and nothing beside it.
ALONE = (
    "SELECT count(*) FROM r WHERE r.{c} = {raises}",
    "SELECT r.id FROM r WHERE r.{c} = {raises} ORDER BY r.d LIMIT 3",
    "SELECT count(*) FROM r WHERE r.{c} = {raises} AND r.js IS NOT NULL",
    "SELECT count(*) FROM r WHERE r.{c} = {raises} AND r.{d} > {raises}",
    "SELECT count(*) FROM (SELECT * FROM r ORDER BY id) AS r WHERE r.{c} = {raises}",
    "SELECT count(*) FROM s WHERE EXISTS (SELECT FROM r WHERE r.{c} = {raises} AND r.{d} = s.k)",
    "UPDATE r SET num = num WHERE r.{c} = {raises}",
    "DELETE FROM r WHERE r.{c} < {raises}",
    "SELECT count(*) FROM r WHERE r.{c} BETWEEN 0 AND {raises}",
    "SELECT count(*) FROM r WHERE r.{c} = ANY (ARRAY[{raises}])",
)


class Walled(Attack):
    """The attempts without a wall, and those that only a wall is open to."""

    def free(self) -> str:
        return self.draw.choice(RAISES_ALONE)

    def found(self) -> str:
        return self.draw.choice((*COSTS_LITTLE, *COSTS_LITTLE, *FINDS_HIDDEN))

    def condition(self, depth: int = 1) -> str:
        pick, draw = self.draw.choice, self.draw.random()
        if draw < 0.45:
            return super().condition(depth)
        found = self.found()
        late = pick((*NEEDED_LATE, *NEEDED_LATE, f"r.n = {pick(RAISES_ALONE)}"))
        if draw < 0.6:
            return f"CASE WHEN {found} THEN {late} END"
        if draw < 0.7:
            return f"{found} AND {late}"
        if draw < 0.76:
            return f"(NOT ({found}) OR {late})"
        if draw < 0.84:
            return late
        return found

    def statement(self) -> str:
        pick, draw = self.draw.choice, self.draw.random()
        if draw < 0.5:
            return super().statement()
        if draw < 0.6:
            return follows(self.draw, (*COSTS_LITTLE, *FINDS_HIDDEN))
        if draw < 0.66:
            column, late = pick(("id", "a", "b", "n", "tenant")), pick((*RAISES_AS_VALUE, "7"))
            return pick(ALONE).format(c=column, d=pick(("id", "a", "b", "n")), raises=late)
        where = " AND ".join(self.condition() for _ in range(self.draw.randint(1, 3)))
        return pick(
            (
                (
                    f"SELECT count(*) FROM (SELECT *, CASE WHEN {self.condition()} THEN 1 END AS q FROM r) AS r"
                    f" WHERE r.q = 1 AND {where}"
                ),
                f"SELECT count(*) FROM s JOIN r ON {where}",
                (
                    f"SELECT count(*) FROM r, (SELECT {self.free()} AS y) AS x"
                    f" WHERE CASE WHEN {self.found()} THEN x.y = 1 END AND {where}"
                ),
                f"SELECT count(*) FROM r JOIN (VALUES ({self.free()})) AS x (y) ON CASE WHEN {self.found()} THEN x.y = 1 END",
                (
                    f"WITH q AS NOT MATERIALIZED (SELECT r.*, {self.free()} AS y FROM r)"
                    f" SELECT count(*) FROM q AS r WHERE CASE WHEN {self.found()} THEN r.y = 1 END AND {where}"
                ),
                (
                    f"SELECT count(*) FROM r CROSS JOIN (VALUES (0)) AS v (x) WHERE {self.condition()}"
                    " AND (SELECT 1 / (count(*) + v.x) FROM none) = 1"
                ),
                f"SELECT count(*) FROM s LEFT JOIN r ON s.k = r.id AND {where}",
                f"SELECT count(*) FROM r AS r2 LEFT JOIN r ON r2.a = r.n AND {where}",
                f"SELECT s.k FROM s WHERE s.k IN (SELECT r.id FROM r WHERE {where}) ORDER BY 1",
                f"SELECT count(*) FROM s WHERE NOT EXISTS (SELECT 1 FROM r WHERE r.id = s.k AND {where})",
                f"SELECT count(*) FROM (SELECT * FROM r UNION ALL SELECT * FROM r) AS r WHERE {where}",
                f"SELECT count(*) FROM r WHERE r.id = (SELECT s.k FROM s WHERE s.w = 'w3') AND {where}",
                (
                    "SELECT count(*) FROM (SELECT DISTINCT a, b, n, secret, flag, d, tags, id, num, js, tenant,"
                    f" foreign_text, other_text FROM r) AS r WHERE {where}"
                ),
            )
        )


def over(sql: str, table: str) -> str:
    """The statement over another table, under the name of r."""
    named = re.sub(r"\b(FROM|JOIN|,|UPDATE) r\b(?!\.)(?! AS (?!r\b))", rf"\1 {table} AS r", sql)
    return re.sub(r"\b(FROM|JOIN) r AS r2\b", rf"\1 {table} AS r2", named).replace("AS r AS r", "AS r")


@dataclass(frozen=True)
class Way:
    """How the planner is told to plan a statement, and with which parameter it runs."""

    planner: tuple[str, ...]
    generic: bool
    value: int

    def run(self, conn: psycopg.Connection[Any], sql: str, before: str = "") -> psycopg.Cursor[Any]:
        for setting in self.planner:
            conn.execute(f"SET LOCAL {setting}")
        if self.generic:
            conn.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        conn.execute("DEALLOCATE ALL")
        conn.execute(sql, prepare=False)
        given = f"('{self.value}')" if "$1" in sql else ""
        return conn.execute(f"{before}EXECUTE p{given}", prepare=False)

    def answers(self, conn: psycopg.Connection[Any], sql: str) -> tuple[object, ...]:
        """Rows or command tag; or the error, to its last letter."""
        try:
            with conn.transaction(force_rollback=True):
                cursor = self.run(conn, sql)
                rows = sorted(cursor.fetchall(), key=repr) if cursor.description else None
                return "ok", cursor.statusmessage, rows
        except psycopg.Error as error:
            return error.sqlstate, error.diag.message_primary, error.diag.message_detail

    def plan(self, conn: psycopg.Connection[Any], sql: str) -> str:
        with conn.transaction(force_rollback=True):
            rows = self.run(conn, sql, "EXPLAIN (COSTS OFF) ").fetchall()
        return re.sub(r"\bw\d+_\d+_wall", "wall", "\n".join(row for (row,) in rows))


class Worlds:
    """Two databases under the same wall, which differ in hidden rows."""

    def __init__(self, grounds: list[Ground], predicate: str) -> None:
        self.conns = []
        for ground in grounds:
            ground.policy = {
                "name": ground.stem,
                "access_mode": "read_write",
                "row_filters": [
                    {"table": table, "predicate": predicate.replace("r.", f"{table}.")}
                    for table in ("r", "whole")
                ],
                "guarddb": {"wall": ground.schema},
            }
            ground.up()
            self.conns.append(psycopg.connect(ground.agent, autocommit=True))
        self.guarded = [guarddb.connect(g.agent, policy=g.policy, autocommit=True) for g in grounds]
        for conn in self.guarded:
            conn.execute("SELECT 1 FROM s").fetchall()  # (which brings the catalog)

    def sent(self, sql: str) -> list[str] | None:
        texts = []
        for conn in self.guarded:
            guard = conn._guard
            plan = decide(sql, guard.in_force.compiled.policy, guard.catalog, wall=guard.wall)
            if plan.decision.rewritten_sql is None:
                return None
            texts.append(plan.decision.rewritten_sql)
        return texts

    def close(self) -> None:
        for conn in (*self.conns, *self.guarded):
            conn.close()


@pytest.fixture(scope="module")
def grounds_of(request: pytest.FixtureRequest) -> Iterator[Callable[[int], list[Ground]]]:
    """grounds_of(18) -> the databases on that server, made when first asked for; a new wall takes the place of the old one."""
    opened: list[Iterator[Ground]] = []
    made_of: dict[int, list[Ground]] = {}

    def grounds_of(version: int) -> list[Ground]:
        if version not in made_of:
            server = request.getfixturevalue(
                {18: "server_dsn", 16: "server16_dsn", 15: "server15_dsn"}[version]
            )
            grounds = []
            for variant in VARIANTS:
                opened.append(made(server, SCHEMA))
                ground = next(opened[-1])
                for table in ("r", "whole"):
                    if (
                        version >= 18
                    ):  # (PostgreSQL puts a virtual column's expression in its place: here a constant.)
                        ground.as_admin(
                            f"ALTER TABLE {table} ADD constant int GENERATED ALWAYS AS (0) VIRTUAL"
                        )
                    # (The statistics are those of the same rows, so that the plans are the same.)
                    ground.as_admin(variant.format(t=table))
                grounds.append(ground)
            made_of[version] = grounds
        return made_of[version]

    yield grounds_of
    for each in opened:
        for _ in each:
            pass


#: (Where versions may differ: some of the filters.)
CASES = [(18, each) for each in FILTERS] + [(version, each) for version in (16, 15) for each in FILTERS[::5]]


@pytest.mark.parametrize(("version", "predicate"), CASES)
def test_statements_that_raise_answer_the_same_whatever_is_hidden(
    grounds_of: Callable[[int], list[Ground]], version: int, predicate: str
) -> None:
    count = 20
    worlds = Worlds(grounds_of(version), predicate)
    for table in ("r", "whole", "seen"):
        attack, differences, raised, sent = Walled(f"{table} {predicate}"), [], 0, 0
        for _ in range(count):
            sql = over(attack.statement(), table)
            prefix = "PREPARE p (int) AS " if "$1" in sql else "PREPARE p AS "
            texts = worlds.sent(prefix + sql)
            way = Way(
                attack.draw.choice((*PLANNERS, AT_ONCE)),
                generic=attack.draw.random() < 0.6,
                value=attack.draw.choice((0, 0, 1, 3)),
            )
            if texts is None:
                continue
            sent += 1
            sides = list(zip(worlds.conns, texts, strict=True))
            one, other = (way.answers(*side) for side in sides)
            raised += one[0] != "ok"
            # (How many pages a table has differs with its hidden rows. By another plan another error may come first, which
            # tells what EXPLAIN would.)
            if one != other and (one[0] == other[0] == "ok" or len({way.plan(*side) for side in sides}) == 1):
                differences.append((way, sql, texts[0], one, other))
        assert differences == []
        assert raised > count // 20
        assert sent > count // 3
    worlds.close()


#: What draws a number for each row that it runs on.
DRAWS = (
    "SELECT count(*) FROM {t} AS r WHERE random() < 0.5",
    "SELECT count(*) FROM {t} AS r WHERE random() < 0.5 AND r.id > 3 AND r.flag IS NOT TRUE",
    "SELECT count(*) FROM {t} AS r WHERE CASE WHEN r.flag THEN random() < 0.5 ELSE true END",
    "SELECT count(*) FROM {t} AS r WHERE NOT coalesce(r.flag, true) OR (SELECT random()) < 0.5",
    "SELECT count(*) FROM (SELECT * FROM {t} UNION ALL SELECT * FROM {t}) AS r WHERE random() < 0.5",
    "SELECT count(*) FROM s LEFT JOIN {t} AS r ON r.id = s.k AND random() < 0.5",
    "SELECT count(*) FROM s JOIN {t} AS r ON r.n = s.k WHERE random() < 0.5 OR r.a = 77",
    "SELECT count(*) FROM s WHERE EXISTS (SELECT FROM {t} AS r WHERE r.id = s.k AND random() < 0.5)",
    "SELECT r.id FROM {t} AS r WHERE r.d > '1900-01-01' ORDER BY random() LIMIT 3",
    "SELECT count(*) FROM (SELECT *, random() AS x FROM {t}) AS r WHERE r.x < 0.5",
)


@pytest.mark.parametrize("version", [18, 16, 15])
def test_what_draws_lots_draws_them_for_visible_rows(
    grounds_of: Callable[[int], list[Ground]], version: int
) -> None:
    filters = (
        *FILTERS[
            :: 5 if version == 18 else 20
        ],  # (where versions may differ: one by one, and several at once)
        "secret LIKE 'x%' OR secret LIKE 'y%' OR secret LIKE 'z%' OR secret LIKE 'seen%'",
    )
    for predicate in filters:
        worlds = Worlds(grounds_of(version), predicate)
        for draw in DRAWS:
            for table in ("r", "whole", "seen"):
                told = []
                for conn in worlds.guarded:
                    conn.execute("SELECT setseed(0.5)")
                    rows = conn.execute(draw.format(t=table)).fetchall()
                    told.append((rows, conn.execute("SELECT random()").fetchall()))
                assert told[0] == told[1], (predicate, draw, table)
        worlds.close()


#: Sub-selects with a column of the row around them that PostgreSQL takes away before it looks whether there is one.
TAKEN_AWAY = (
    "(SELECT CASE WHEN false THEN r.id ELSE 1 / count(*) END FROM none) = 1",
    "(SELECT coalesce(2, r.id) / count(*) FROM none) = 1",
    "(SELECT 1 / count(*) = 1 FROM none WHERE true OR r.id = 1)",
    "(SELECT 1 / count(*) = 1 FROM none WHERE none.z = r.id AND false)",
    "(SELECT 1 / count(*) = 1 FROM none WHERE none.z = r.id AND none.z = NULL)",
    "(SELECT 1 / count(*) = 1 FROM (SELECT NULL::int AS y) AS x WHERE x.y = r.id)",
    "(SELECT 1 / count(*) = 1 FROM none, (SELECT NULL::int AS y) AS x WHERE none.z = r.id AND x.y = none.z)",
    "(SELECT 1 / count(*) = 1 FROM none WHERE none.masked = r.id)",
    "(SELECT 1 / count(*) = 1 FROM none WHERE none.z = r.id AND none.z = $1)",
    "EXISTS (SELECT 1 / 0 FROM (SELECT 1 / count(*) AS y FROM none) AS x WHERE x.y = 1 AND (true OR r.id = 1))",
)
STAYS = "(SELECT count(*) FROM none WHERE none.z = r.id) = 0"


def test_what_is_taken_away_of_a_sub_select_is_no_column(empty_ground: Callable[[str], Ground]) -> None:
    """Here no column has a collation of its own, so that a look at the conditions says what there is to judge."""
    schema = """
CREATE TABLE r (id int PRIMARY KEY, name text, flag bool); CREATE TABLE none (z int NOT NULL, masked int);
INSERT INTO r VALUES (1, 'seen', false), (2, 'hidden', true); ANALYZE; GRANT ALL ON r, none TO {agent};
"""
    ground = empty_ground(schema)
    ground.policy = {
        "name": ground.stem,
        "row_filters": [{"table": "r", "predicate": "name LIKE 'seen%' OR name LIKE 'x%' OR name LIKE 'y%'"}],
        "masking_rules": [{"table": "none", "column": "masked", "kind": "null"}],
        "guarddb": {
            "wall": ground.schema,
            "mask_uses": [{"table": "none", "column": "masked", "allow": ["equality"]}],
        },
    }
    ground.up()
    with guarddb.connect(ground.agent, policy=ground.policy, autocommit=True, prepare_threshold=None) as conn:
        for condition in TAKEN_AWAY:
            statement = f"SELECT id FROM r WHERE CASE WHEN r.flag THEN {condition} END"
            try:
                cursor = conn.execute(statement.replace("$1", "%s"), (None,) if "$1" in condition else None)
            except guarddb.PolicyViolation:
                assert "masked" in condition
                continue
            assert cursor.fetchall() == [], condition
            assert "COALESCE" in cursor.decision.rewritten_sql
        cursor = conn.execute(f"SELECT id FROM r WHERE CASE WHEN NOT r.flag THEN {STAYS} END")
        assert cursor.fetchall() == [(1,)]
        assert "COALESCE" not in cursor.decision.rewritten_sql


def test_the_body_of_a_function_that_is_put_in_its_place_does_not_run_on_hidden_rows(
    empty_ground: Callable[[str], Ground],
) -> None:
    """A condition in it would be asked of them; one in another language, or of what is known, is no condition of the query's."""
    body = "SELECT 1 WHERE CASE WHEN $1 THEN 1 / $2 = 1 ELSE true END"
    ground = empty_ground(f"""
CREATE TABLE r (id int PRIMARY KEY, name text, flag bool); GRANT SELECT ON r TO {{agent}};
INSERT INTO r VALUES (1, 'seen', false), (2, 'hidden', true);
CREATE FUNCTION written(bool, int) RETURNS SETOF int LANGUAGE sql STABLE AS '{body}';
CREATE FUNCTION run(bool, int) RETURNS SETOF int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN QUERY {body}; END';
""")
    ground.policy = {
        "name": ground.stem,
        "row_filters": [
            {"table": "r", "predicate": "name LIKE 'seen%' OR name LIKE 'x%' OR length(name) > 99"}
        ],
        "guarddb": {"wall": ground.schema, "function_allowlist": ["written", "run"]},
    }
    ground.up()
    with guarddb.connect(ground.agent, policy=ground.policy, autocommit=True) as conn:
        for statement, value in (
            ("SELECT id FROM r, run(r.flag, %s)", (0,)),
            ("SELECT id FROM r, run(r.flag, 0)", None),
            ("SELECT id FROM r, written(r.flag, 1)", None),
            ("SELECT id FROM r, written(true, %s)", (1,)),
        ):
            assert conn.execute(statement, value).fetchall() == [(1,)], statement
        for item in (", written(r.flag, %s)", " JOIN LATERAL written(r.flag, (SELECT 0)) AS x ON true"):
            with pytest.raises(guarddb.PolicyViolation) as refused:
                conn.execute(f"SELECT id FROM r{item}", (0,) if "%s" in item else None)
            assert refused.value.rule == "row_filter_unsafe"
