"""The page about the limits: what it says is refused is refused, and the ways around pass."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.conninfo import make_conninfo

import guarddb
from tests.oracles.test_oracles import KNOWN_BLOCKS

TEXT = (Path(__file__).parents[1] / "docs" / "limits.md").read_text(encoding="utf-8")
HEAD = "| refused | rule | why | instead |\n|---|---|---|---|\n"
COMMANDS = re.compile(
    r"(SELECT|INSERT|UPDATE|DELETE|MERGE|VALUES|COPY|CREATE|ALTER|EXPLAIN|DECLARE|PREPARE|EXECUTE|BEGIN|SET|RESET)\b"
)


@dataclass(frozen=True)
class Row:
    """One row of a table: statements of which the last is refused, and statements that pass."""

    policy: str
    refused: tuple[str, ...]
    rule: str
    instead: tuple[str, ...]
    around: str

    def __str__(self) -> str:
        return self.refused[-1][:70]

    @property
    def profile(self) -> dict[str, Any]:
        return yaml.safe_load(self.policy)


def statements(cell: str) -> tuple[str, ...]:
    return tuple(code for code in re.findall(r"`([^`]+)`", cell) if COMMANDS.match(code))


def rows() -> list[Row]:
    found = []
    for part in TEXT.split("```yaml\n")[1:]:
        policy, rest = part.split("```", 1)
        table = rest.split(HEAD, 1)[1].split("\n\n", 1)[0]
        for line in table.strip().splitlines():
            refused, rule, _, instead = (cell.strip() for cell in line.strip("|").split(" | "))
            found.append(Row(policy, statements(refused), rule, statements(instead), instead))
    return found


ROWS = rows()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITS_HASH_KEY", "of no use outside of this test")


Attempt = Callable[[str, tuple[str, ...]], "guarddb.Decision | psycopg.Error"]


@pytest.fixture(scope="module")
def attempt(shop_admin: str) -> Iterator[Attempt]:
    """attempt(policy, statements) -> the last one's decision, or what it raised; nothing stays."""
    opened: dict[str, guarddb.Connection[Any]] = {}

    def run(cursor: guarddb.Cursor[Any], sql: str) -> None:
        if sql.startswith("COPY"):
            with cursor.copy(sql.encode()) as copy:
                list(copy)
        else:
            cursor.execute(sql.encode())

    def attempts(policy: str, sent: tuple[str, ...]) -> guarddb.Decision | psycopg.Error:
        if policy not in opened:
            opened[policy] = guarddb.connect(shop_admin, policy=yaml.safe_load(policy), autocommit=True)
        conn = opened[policy]
        cursor = conn.cursor()
        try:
            with conn.transaction(force_rollback=True):
                for sql in sent[:-1]:
                    run(cursor, sql)
                try:
                    run(cursor, sent[-1])
                except psycopg.Error as ex:
                    return ex
                assert cursor.decision is not None
                return cursor.decision
        finally:
            if any(sql.startswith("PREPARE") for sql in sent):
                conn.execute("DEALLOCATE ALL")

    yield attempts
    for conn in opened.values():
        conn.close()


def test_the_tables_are_read_completely() -> None:
    lines = [line for line in TEXT.splitlines() if line.startswith("| `")]
    assert len(ROWS) == len(lines) >= 50
    for row in ROWS:
        assert row.refused, row
        # Every row has a way around that can be sent, or says that there is none.
        assert bool(row.instead) != row.around.startswith("none: "), row
    assert sum(not row.instead for row in ROWS) <= 5


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_what_is_refused_is_refused_by_the_rule(attempt: Attempt, catalog: guarddb.Catalog, row: Row) -> None:
    outcome = attempt(row.policy, row.refused)
    assert isinstance(outcome, guarddb.PolicyViolation), outcome
    assert outcome.rule == row.rule, outcome
    if len(row.refused) == 1:
        dry = guarddb.evaluate(row.refused[0], row.profile, catalog)
        assert (dry.rule, dry.hint is not None) == (row.rule, True)


@pytest.mark.parametrize("row", [row for row in ROWS if row.instead], ids=str)
def test_the_way_around_passes(attempt: Attempt, row: Row) -> None:
    outcome = attempt(row.policy, row.instead)
    assert isinstance(outcome, guarddb.Decision), outcome
    assert not outcome.blocked


def test_what_the_oracles_know_is_in_the_table(attempt: Attempt) -> None:
    reasons = {row.rule + ": " + re.sub('"[^"]*"', '"…"', str(reason(attempt, row))) for row in ROWS}
    for known in KNOWN_BLOCKS:
        assert known in reasons, known


def reason(attempt: Attempt, row: Row) -> str | None:
    outcome = attempt(row.policy, row.refused)
    return outcome.decision.reason if isinstance(outcome, guarddb.PolicyViolation) else None


# ---------------------------------------------------------------------- what stands between the tables

FILTERED = {
    "access_mode": "read_write",
    "row_filters": [{"table": "orders", "predicate": "tenant_id = 1"}],
}
MASKED = {"masking_rules": [{"table": "customers", "column": "ssn", "kind": "redact"}]}


def test_merge_before_postgresql_17(catalog: guarddb.Catalog) -> None:
    merge = "MERGE INTO orders AS o USING categories AS c ON o.id = c.id WHEN MATCHED THEN DO NOTHING"
    older = json.loads(catalog.to_json())
    older["server_version"] = 160014
    assert guarddb.evaluate(merge, FILTERED, catalog).rule == "ok"
    decision = guarddb.evaluate(merge, FILTERED, guarddb.Catalog.from_json(json.dumps(older)))
    assert decision.rule == "row_filter_unsafe"


def test_a_view_loses_its_owners_rights(fresh_shop_admin: str) -> None:
    with psycopg.connect(fresh_shop_admin, autocommit=True) as conn:
        conn.execute("REVOKE SELECT ON customers FROM agent")
    agent = make_conninfo(fresh_shop_admin, user="agent")
    policy = {"name": "x", "row_filters": [{"table": "customers", "predicate": "tenant_id = 1"}]}
    with psycopg.connect(agent) as plain:
        assert plain.execute("SELECT id FROM customer_contacts").fetchall()
    with guarddb.connect(agent, policy=policy, autocommit=True) as conn:
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            conn.execute("SELECT id FROM customer_contacts")
        assert not isinstance(caught.value, guarddb.PolicyViolation)
        with psycopg.connect(fresh_shop_admin, autocommit=True) as admin:
            admin.execute(
                "GRANT SELECT (id, tenant_id, name, email, city, country, active) ON customers TO agent"
            )
        assert conn.execute("SELECT id FROM customer_contacts").fetchall()


def test_a_filtered_table_needs_select_on_what_its_filter_reads(fresh_shop_admin: str) -> None:
    with psycopg.connect(fresh_shop_admin, autocommit=True) as conn:
        conn.execute(
            "REVOKE SELECT ON orders FROM agent; GRANT SELECT (id, tenant_id, total) ON orders TO agent"
        )
    agent = make_conninfo(fresh_shop_admin, user="agent")
    written = "INSERT INTO orders (tenant_id, customer_id, placed_at) VALUES (1, 8, now())"
    with guarddb.connect(agent, policy={"name": "x", **FILTERED}, autocommit=True) as conn:
        assert conn.execute("SELECT id FROM orders WHERE id < 8").fetchall()
        assert conn.execute("SELECT id FROM orders WHERE 100 / total > 0").fetchall()
        assert conn.execute(
            "SELECT o.id FROM orders AS o FULL JOIN categories AS c ON c.id = o.id AND 100 / o.total > 0"
        ).fetchall()
        assert conn.execute("UPDATE orders SET total = 1 WHERE id = 3").rowcount >= 0
        assert conn.execute(written).rowcount == 1
        with psycopg.connect(fresh_shop_admin, autocommit=True) as owner:
            owner.execute("REVOKE SELECT (tenant_id) ON orders FROM agent")
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            conn.execute(written)
        assert not isinstance(caught.value, guarddb.PolicyViolation)


def test_rules_and_views_are_read_and_not_written(fresh_dsn: str) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute("""
            CREATE TABLE ruled (id int, tenant_id int);
            CREATE RULE also AS ON INSERT TO ruled DO ALSO NOTHING;
            CREATE TABLE base (id int, tenant_id int);
            CREATE VIEW shown AS SELECT * FROM base;
            INSERT INTO base VALUES (1, 1), (2, 2)""")
    tables = ("ruled", "shown")
    policy = {
        "name": "x",
        "access_mode": "read_write",
        "row_filters": [{"table": table, "predicate": "tenant_id = 1"} for table in tables],
    }
    with guarddb.connect(fresh_dsn, policy=policy, autocommit=True) as conn:
        with pytest.raises(guarddb.PolicyViolation) as caught:
            conn.execute("INSERT INTO ruled VALUES (1, 1)")
        assert caught.value.rule == "row_filter_unsafe"
        assert conn.execute("SELECT id FROM ruled").fetchall() == []
        assert conn.execute("SELECT id FROM shown").fetchall() == [(1,)]
        for sql in ("UPDATE shown SET id = 3 WHERE id = 1", "INSERT INTO shown VALUES (3, 1)"):
            with pytest.raises(psycopg.Error):
                conn.execute(sql.encode())


def test_a_cast_that_nothing_shows(fresh_dsn: str) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute("""
            CREATE TYPE shade AS ENUM ('a');
            CREATE TABLE t (id int, s shade);
            CREATE TABLE u (id int, name text);
            CREATE FUNCTION to_shade(text) RETURNS shade LANGUAGE sql IMMUTABLE AS $$ SELECT 'a'::shade $$;
            CREATE CAST (text AS shade) WITH FUNCTION to_shade(text) AS IMPLICIT""")
        catalog = guarddb.Catalog.from_connection(conn)
        conn.execute("DROP CAST (text AS shade); CREATE CAST (text AS shade) WITH FUNCTION to_shade(text)")
        explicit = guarddb.Catalog.from_connection(conn)
    listed = {"guarddb": {"function_allowlist": ["to_shade"]}}
    assert guarddb.evaluate("SELECT id FROM t", {}, catalog).rule == "function_not_allowed"
    assert guarddb.evaluate("SELECT name FROM u", {}, catalog).rule == "ok"
    assert guarddb.evaluate("SELECT id FROM t", listed, catalog).rule == "ok"
    assert guarddb.evaluate("SELECT id, s FROM t", {}, explicit).rule == "ok"


def test_the_type_of_a_row_that_became_a_subquerys(shop_admin: str) -> None:
    sql = "SELECT o FROM orders AS o LEFT JOIN payments AS p ON p.order_id = o.id {} LIMIT 1"
    with guarddb.connect(shop_admin, policy={"name": "x", **FILTERED}) as conn:
        described = [
            conn.execute(sql.format(where).replace("LEFT", kind).encode()).description
            for kind, where in (("LEFT", ""), ("FULL", ""))
        ]
    record = psycopg.adapters.types["record"].oid
    assert [d is not None and d[0].type_code == record for d in described] == [False, True]


def nested(count: int) -> str:
    return "SELECT * FROM " + "(SELECT * FROM " * count + "(SELECT 1) AS x" + ") AS x" * count


#: A word of the row about sizes -> (policy, text within the limit, text beyond it).
SIZES: dict[str, tuple[dict[str, Any], str, str]] = {
    "characters": ({}, "SELECT '" + "x" * 99_991 + "'", "SELECT '" + "x" * 99_992 + "'"),
    "operators": ({}, "SELECT " + "+".join(["1"] * 400), "SELECT " + "+".join(["1"] * 520)),
    "UNION": ({}, "SELECT 1" + " UNION SELECT 1" * 400, "SELECT 1" + " UNION SELECT 1" * 520),
    "NOTs": ({}, "SELECT " + "NOT " * 280 + "true", "SELECT " + "NOT " * 350 + "true"),
    "subqueries": ({}, nested(170), nested(210)),
    "AND and OR": ({}, "SELECT 1 WHERE " + " AND ".join(["1 = 1"] * 5000), "SELECT " + "NOT " * 350 + "true"),
    "mentions": (
        FILTERED,
        " UNION ALL ".join(["SELECT id FROM orders"] * 256),
        " UNION ALL ".join(["SELECT id FROM orders"] * 257),
    ),
    "columns": (
        MASKED,
        "SELECT " + ", ".join("*" * 128) + " FROM customers",
        "SELECT " + ", ".join("*" * 129) + " FROM customers",
    ),
}


@pytest.mark.parametrize("word", SIZES)
def test_sizes(catalog: guarddb.Catalog, word: str) -> None:
    line = next(line for line in TEXT[TEXT.index("## Sizes") :].splitlines() if word in line)
    policy, within, beyond = SIZES[word]
    assert guarddb.evaluate(within, policy, catalog).rule == "ok"
    assert guarddb.evaluate(beyond, policy, catalog).rule in line
    assert guarddb.evaluate(beyond, policy, catalog).blocked


def test_every_size_is_tried() -> None:
    table = TEXT[TEXT.index("## Sizes") :].split("\n\n", 2)[1].splitlines()[2:]
    assert len(table) == 4
    assert all(any(word in line for word in SIZES) for line in table)


@pytest.mark.parametrize(
    ("policy", "sql", "rule"),
    [
        ({}, "SELECT somebodys(1)", "function_not_allowed"),
        (FILTERED, "INSERT INTO orders (id) VALUES (1) RETURNING *", "row_filter_unsafe"),
        (
            FILTERED,
            "MERGE INTO orders AS o USING categories AS c ON o.id = c.id WHEN MATCHED THEN DO NOTHING",
            "row_filter_unsafe",
        ),
        (MASKED, "SELECT * FROM customers AS c (a, b)", "masked_column_rename"),
        (MASKED, "SELECT * FROM customers NATURAL JOIN orders", "masked_column_predicate"),
    ],
)
def test_what_only_a_catalog_could_tell(policy: dict[str, Any], sql: str, rule: str) -> None:
    assert guarddb.evaluate(sql, policy).rule == rule


def test_a_conflict_is_looked_for_behind_the_check(attempt: Attempt) -> None:
    given = "INSERT INTO orders (id, tenant_id, customer_id, placed_at) VALUES ({}, 2, 8, now()) ON CONFLICT DO NOTHING"
    policy = yaml.safe_dump({"name": "conflict", **FILTERED})
    conflict = attempt(policy, (given.format(1),))
    assert isinstance(conflict, guarddb.PolicyViolation)
    assert conflict.rule == "row_filter_violation"
    written = attempt(policy, (given.format(90_000),))
    assert isinstance(written, guarddb.PolicyViolation)
    assert written.rule == "row_filter_violation"
