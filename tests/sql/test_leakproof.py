"""Which conditions may run on rows that a filter hides: our answer for a condition, and where PostgreSQL itself puts it.

Over a view with security_barrier the planner lets a condition run below the view's own only when it holds it for leakproof
(contain_leaked_vars); EXPLAIN shows on which side it came. Types and candidates are PostgreSQL's own in that answer, so that
a wrong reading of either shows as well.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import psycopg
import pytest

from guarddb import Catalog
from guarddb.sql.analysis.classify import read_statement
from guarddb.sql.leakproof.judge import Judge
from guarddb.sql.leakproof.judged import Judged
from guarddb.tree import parse
from tests.fix_server import temporary_database

TYPES = [
    "int2",
    "int4",
    "int8",
    "numeric",
    "float4",
    "float8",
    "text",
    "varchar",
    "bpchar",
    "name",
    "date",
    "timestamp",
    "timestamptz",
    "time",
    "timetz",
    "interval",
    "uuid",
    "bool",
    "bytea",
    "inet",
    "cidr",
    "macaddr",
    "oid",
    "regclass",
    "mood",
    "int4[]",
    "text[]",
    "jsonb",
    "bit",
    "varbit",
    "money",
    "int4range",
    "tsvector",
    "xid",
]
COLUMNS = {f"c_{name.removesuffix('[]')}{'s' if name.endswith('[]') else ''}": name for name in TYPES}
CONSTANTS = (
    "1",
    "1.5",
    "'x'",
    "'1'",
    "9999999999",
    "date '2024-01-01'",
    "now()",
    "current_date",
    "interval '1 day'",
    "'{1,2}'",
    "array[1,2]",
    "2::numeric",
    "'a'::mood",
    "current_user",
)
#: What we hold for quiet although PostgreSQL does not, each with its reason in `guarddb.sql.leakproof`: numbers of any size,
#: enums, dates with timestamps, arrays of such, blanks cut off, LIKE with a constant pattern, COALESCE, lengths.
QUIETER = re.compile(
    r"numeric|1\.5|9999|mood|date|timestamp|now\(\)|\[|\{1,2\}|c_int4s|c_texts|bpchar|varchar\(|~~|coalesce|length",
    re.IGNORECASE,
)


class Generator:
    """Random conditions over the columns, most of them of types that go together."""

    def __init__(self, conn: psycopg.Connection[tuple[str, ...]], seed: int) -> None:
        self.random = random.Random(seed)
        self.by_type: dict[str, list[str]] = {}
        for name, type_ in conn.execute(
            "SELECT attname, format_type(atttypid, -1) FROM pg_attribute "
            "WHERE attrelid = 'many'::regclass AND attnum > 1"
        ):
            self.by_type.setdefault(type_, []).append(name)
        near = {
            "text": ["c_varchar", "c_name", "c_bpchar"],
            "bigint": ["c_int4", "c_int2"],
            "numeric": ["c_int4", "c_int8"],
            "double precision": ["c_int4", "c_float4", "c_numeric"],
            "oid": ["c_regclass", "c_int4"],
            "timestamp with time zone": ["c_date", "c_timestamp"],
            "inet": ["c_cidr"],
        }
        for type_, names in near.items():
            self.by_type[type_] += names
        self.by_type.update(
            {"anyarray": ["c_int4s", "c_texts"], "anyenum": ["c_mood"], "anyrange": ["c_int4range"]}
        )
        self.operators = [
            row
            for row in conn.execute(
                "SELECT oprname, oprleft::regtype::text, oprright::regtype::text, oprresult::regtype::text "
                "FROM pg_operator WHERE oprleft <> 0 AND oprnamespace = 'pg_catalog'::regnamespace ORDER BY oid"
            )
            if row[1] in self.by_type and row[2] in self.by_type
        ]
        self.comparisons = [row for row in self.operators if row[0] in ("=", "<>", "<", ">", "<=", ">=")]

    def operand(self, type_: str, depth: int) -> str:
        draw = self.random.random()
        if depth <= 0 or draw < 0.6:
            return self.random.choice(self.by_type[type_])
        if draw < 0.75 and (found := [row for row in self.operators if row[3] == type_]):
            name, left, right, _ = self.random.choice(found)
            return f"({self.operand(left, depth - 1)} {name} {self.operand(right, depth - 1)})"
        if draw < 0.88:
            return self.random.choice(CONSTANTS)
        other = self.random.choice(list(self.by_type))
        return f"({self.operand(other, depth - 1)})" + ("" if type_.startswith("any") else f"::{type_}")

    def condition(self, depth: int = 2) -> str:
        draw = self.random.random()
        name, left, right, result = self.random.choice(
            self.comparisons if self.random.random() < 0.6 else self.operators
        )
        one, other = self.operand(left, depth - 1), self.operand(right, depth - 1)
        if draw < 0.08 and depth > 0:
            return f"NOT {self.condition(depth - 1)}"
        if draw < 0.14:
            return f"({one}, {other}) = ({self.operand(left, 0)}, {self.operand(right, 0)})"
        if draw < 0.2:
            return f"{one} IN ({self.operand(left, 0)}, {self.random.choice(CONSTANTS)})"
        if draw < 0.26:
            return f"{one} BETWEEN {self.operand(left, 0)} AND {self.random.choice(CONSTANTS)}"
        if draw < 0.3:
            return f"{one} IS DISTINCT FROM {other}"
        if draw < 0.34:
            return f"CASE WHEN {one} {name} {other} THEN {self.operand(left, 0)} END IS NULL"
        if draw < 0.38:
            return f"greatest({one}, {self.operand(left, 0)}) IS NULL"
        if draw < 0.42:
            return f"nullif({one}, {other}) IS NULL"
        return f"({one} {name} {other})" + ("" if result == "boolean" else " IS NULL")


@pytest.fixture(scope="module")
def conn(server_dsn: str) -> Iterator[psycopg.Connection[tuple[str, ...]]]:
    with temporary_database(server_dsn, "leakproof") as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TYPE mood AS ENUM ('a', 'b')")
        columns = ", ".join(f"{name} {type_}" for name, type_ in COLUMNS.items())
        conn.execute(
            f'CREATE TABLE many (k int, {columns}, c_posix text COLLATE "POSIX", c_c text COLLATE "C")'
        )
        conn.execute("CREATE VIEW behind WITH (security_barrier) AS SELECT * FROM many WHERE k % 2 = 1")
        yield conn


def judged(catalog: Catalog, condition: str) -> Judged:
    statement = read_statement(
        parse(f"SELECT k FROM many WHERE {condition}")[0], catalog, {"prepared": {}, "portals": {}}
    )
    root = next(root for root in statement.roots if root.clause == "where")
    return Judge(statement, catalog).condition(root.node)


def stays_outside(conn: psycopg.Connection[tuple[str, ...]], condition: str) -> bool | None:
    """Whether PostgreSQL keeps the condition above the view's own; None when it is no condition, or a constant one."""
    try:
        row = conn.execute(
            f"EXPLAIN (FORMAT json, COSTS off) SELECT k FROM behind WHERE {condition}", prepare=False
        ).fetchone()
    except psycopg.Error:
        return None
    assert row is not None
    plan = row[0][0]["Plan"]
    return None if plan["Node Type"] == "Result" else "Filter" in plan


def test_nothing_is_leakproof_to_us_that_is_not_to_postgresql(
    conn: psycopg.Connection[tuple[str, ...]],
) -> None:
    catalog = Catalog.from_connection(conn)
    generator = Generator(conn, 20251130)
    wrong, agreed, stricter = [], 0, []
    for _ in range(3000):
        condition = generator.condition()
        outside = stays_outside(conn, condition)
        if outside is None:
            continue
        ours = judged(catalog, condition)
        if not ours.uses:
            continue
        tells = bool(ours.tells)
        if outside and not tells and not QUIETER.search(condition):
            wrong.append(condition)
        elif tells and not outside:
            stricter.append(condition)
        else:
            agreed += 1
    assert wrong == []
    assert agreed > 500
    # `x = x` becomes IS NOT NULL, and an operator with NULL nothing at all, before PostgreSQL asks.
    assert len(stricter) < agreed / 20


@pytest.mark.parametrize(
    "condition",
    [
        "c_int4 = 1 AND c_text <> 'x' AND c_date >= current_date - 7",
        "c_timestamptz >= date_trunc('month', now())",
        "c_timestamptz < timestamptz '2024-01-01' + interval '1 day'",
        "c_numeric > 100 AND c_numeric BETWEEN 1 AND 2.5",
        "c_int4 IN (1, 2, 3) OR c_mood = 'a'",
        "c_text LIKE 'abc%' AND c_varchar ILIKE '%x%'",
        "(c_int4, c_int8) = (1, 2)",
        "c_int4 = (SELECT max(k) FROM many)",
        "c_numeric > (SELECT avg(k) * 1.5 FROM many)",
        "coalesce(c_int4, 0) = 0 AND c_bool",
    ],
)
def test_everyday_conditions_tell_nothing(conn: psycopg.Connection[tuple[str, ...]], condition: str) -> None:
    found = judged(Catalog.from_connection(conn), condition)
    assert not found.tells
    assert not found.raises


@pytest.mark.parametrize(
    "condition",
    [
        "row(k, 1) = ANY (ARRAY[row('x'::text, 1)])",
        "(k, c_text::int) = (1, 2)",
        "c_text::int = 1",
        "c_text LIKE c_varchar",
        r"c_text LIKE 'x\'",
        "c_int4 + 1 = 2",
        "c_posix = c_c",
        "c_numeric = 1e0::float8",
        "lower(c_text) = 'x'",
        "k IN (SELECT c_text::int FROM many AS m WHERE m.k = many.k)",
        "greatest(c_jsonb, '1') = '1'",
    ],
)
def test_what_may_raise_on_a_hidden_row_tells_of_it(
    conn: psycopg.Connection[tuple[str, ...]], condition: str
) -> None:
    assert judged(Catalog.from_connection(conn), condition).tells


@pytest.mark.parametrize(
    "condition",
    [
        "k = (SELECT c_int4 FROM many)",
        "k = 1 / $1",
        "k = (SELECT 1 / c_int4 FROM many LIMIT 1)",
        "c_timestamptz < $1::timestamptz + interval '1 day'",
        "c_bool OR c_timestamptz > (now() AT TIME ZONE $1)",
        "coalesce(c_bool, c_date > current_date - 1000000000)",
    ],
)
def test_what_may_raise_without_the_row_tells_how_far_it_got(
    conn: psycopg.Connection[tuple[str, ...]], condition: str
) -> None:
    found = judged(Catalog.from_connection(conn), condition)
    assert found.raises
    assert not found.tells
