"""PREPARE and EXECUTE, DECLARE and FETCH in SQL: judged as what they run, and nothing gets out by the second step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import guarddb
from tests.conformance.cases import PROFILES

#: Profile -> steps; a step is (statement, its rows or row count, or the rule that refuses it).
STORIES: dict[str, tuple[str, list[tuple[str, Any]]]] = {
    "a masked column stays masked": (
        "masked_rw",
        [
            ("PREPARE p AS SELECT id, ssn FROM customers WHERE id = 1", None),
            ("EXECUTE p", [(1, "[redacted]")]),
            ("EXPLAIN EXECUTE p", "statement_not_allowed"),
            ("CREATE TABLE copied AS EXECUTE p", "statement_not_allowed"),
            ("DEALLOCATE p", None),
            ("EXECUTE p", "statement_not_allowed"),
        ],
    ),
    "a filtered table stays filtered": (
        "filtered_rw",
        [
            ("PREPARE p AS SELECT count(*) FROM orders", None),
            ("EXECUTE p", [(75,)]),
            ("PREPARE q(int) AS SELECT DISTINCT tenant_id FROM orders WHERE id > $1", None),
            ("EXECUTE q(0)", [(1,)]),
            ("EXECUTE q(0) -- again", [(1,)]),
        ],
    ),
    "a prepared write is checked by what it is given": (
        "filtered_rw",
        [
            (
                "PREPARE i(int) AS INSERT INTO orders (tenant_id, customer_id, placed_at) VALUES ($1, 4, now())",
                None,
            ),
            ("EXECUTE i(1)", 1),
            ("PREPARE u(int) AS UPDATE orders SET tenant_id = $1 WHERE id = 5", None),
            ("EXECUTE u(1)", 1),
            ("EXECUTE u(2)", "row_filter_violation"),
        ],
    ),
    "arguments are judged": (
        "writer",
        [
            ("PREPARE d AS DELETE FROM settings WHERE key = $1", None),
            ("EXECUTE d('nothing')", 0),
            ("EXECUTE d(pg_read_file('x'))", "forbidden_function"),
            ("EXECUTE d((SELECT rolpassword FROM pg_authid LIMIT 1))", "table_not_allowed"),
            ("EXECUTE d(order_count(1)::text)", "function_not_allowed"),
        ],
    ),
    "a name that nobody made": (
        "writer",
        [
            ("EXECUTE nothing", "statement_not_allowed"),
            ("EXPLAIN EXECUTE nothing", "statement_not_allowed"),
            ("CREATE TABLE copied AS EXECUTE nothing", "statement_not_allowed"),
            ("FETCH FROM nothing", "statement_not_allowed"),
            ("MOVE FORWARD ALL IN nothing", "statement_not_allowed"),
        ],
    ),
    "a masked column stays masked in a cursor": (
        "masked_rw",
        [
            ("DECLARE c SCROLL CURSOR FOR SELECT id, ssn FROM customers ORDER BY id", None),
            ("FETCH FROM c", [(1, "[redacted]")]),
            ("FETCH FORWARD 1 FROM c", [(2, "[redacted]")]),
            ("MOVE 1 IN c", 1),
            ("FETCH RELATIVE 1 FROM c", [(4, "[redacted]")]),
            ("FETCH BACKWARD 2 FROM c", [(3, "[redacted]"), (2, "[redacted]")]),
            ("FETCH ABSOLUTE 7 FROM c", [(7, "[redacted]")]),
            ("CLOSE c", None),
            ("FETCH FROM c", "statement_not_allowed"),
        ],
    ),
    "a row of a cursor can be changed where nothing is filtered": (
        "filtered_rw",
        [
            ("DECLARE c CURSOR FOR SELECT id FROM hr.orders ORDER BY id", None),
            ("FETCH FROM c", [(1,)]),
            ("UPDATE hr.orders SET item = 'x' WHERE CURRENT OF c", 1),
            ("DECLARE d CURSOR FOR SELECT id FROM orders ORDER BY id", None),
            ("FETCH FROM d", [(1,)]),
            ("UPDATE orders SET comment = 'x' WHERE CURRENT OF d", "row_filter_unsafe"),
        ],
    ),
    "a read-only profile prepares and declares only what reads": (
        "reader",
        [
            ("PREPARE p AS SELECT 1", None),
            ("EXECUTE p", [(1,)]),
            ("PREPARE w AS DELETE FROM settings WHERE key = 'a'", "read_only"),
            ("EXECUTE w", "statement_not_allowed"),
            ("DECLARE c CURSOR FOR SELECT 1", None),
            ("FETCH ALL FROM c", [(1,)]),
            ("DECLARE c2 CURSOR FOR SELECT id FROM orders FOR UPDATE", "locking_select"),
        ],
    ),
    "names do not depend on case but on quotes": (
        "reader",
        [
            ("PREPARE Mixed AS SELECT 1", None),
            ("EXECUTE mixed", [(1,)]),
            ("EXECUTE MIXED", [(1,)]),
            ('EXECUTE "mixed"', [(1,)]),
            ('EXECUTE "Mixed"', "statement_not_allowed"),
        ],
    ),
}


@pytest.fixture
def connection(shop_admin: str, request: pytest.FixtureRequest) -> Iterator[guarddb.Connection[Any]]:
    profile = PROFILES[STORIES[request.getfixturevalue("story")][0]]
    with guarddb.connect(shop_admin, policy=profile, autocommit=True) as conn:
        yield conn


@pytest.mark.parametrize("story", STORIES)
def test_second_step_is_judged_by_the_first(connection: guarddb.Connection[Any], story: str) -> None:
    with connection.transaction(force_rollback=True):
        for sql, expected in STORIES[story][1]:
            if isinstance(expected, str):
                with pytest.raises(guarddb.PolicyViolation) as caught:
                    connection.execute(sql.encode())
                assert caught.value.rule == expected, sql
                continue
            cursor = connection.execute(sql.encode())
            if isinstance(expected, list):
                assert cursor.fetchall() == expected, sql
            elif expected is not None:
                assert cursor.rowcount == expected, sql


def test_names_belong_to_their_session(shop: str) -> None:
    """Another connection's statement is not there, for the guard as for the server."""
    policy = PROFILES["reader"]
    with guarddb.connect(shop, policy=policy, autocommit=True) as one:
        one.execute("PREPARE shared AS SELECT 1")
        with (
            guarddb.connect(shop, policy=policy, autocommit=True) as other,
            pytest.raises(guarddb.PolicyViolation),
        ):
            other.execute("EXECUTE shared")
        assert one.execute("EXECUTE shared").fetchone() == (1,)


def test_failed_prepare_makes_no_name(shop: str) -> None:
    with guarddb.connect(shop, policy=PROFILES["reader"], autocommit=True) as conn:
        with pytest.raises(psycopg.errors.UndefinedTable):
            conn.execute("PREPARE failed AS SELECT * FROM nowhere")
        with pytest.raises(guarddb.PolicyViolation):
            conn.execute("EXECUTE failed")


def test_decision_of_the_second_step_reports_masks_and_filters(shop: str) -> None:
    """EXECUTE and FETCH hand out what the first step masked, and say so."""
    both = [{"column": "ssn", "kind": "redact"}, {"column": "email", "kind": "hash"}]
    with guarddb.connect(shop, policy=PROFILES["masked_rw"], autocommit=True) as conn, conn.transaction():
        for first, second in (
            ("PREPARE p AS SELECT id, ssn FROM customers", "EXECUTE p"),
            ("DECLARE c CURSOR FOR SELECT id, ssn FROM customers", "FETCH 2 FROM c"),
        ):
            for sql in (first, second):
                decision = conn.execute(sql.encode()).decision
                assert (decision.verdict, decision.to_dict()["masked_columns"]) == ("mask", both), sql
    with guarddb.connect(shop, policy=PROFILES["filtered"], autocommit=True) as conn:
        conn.execute("PREPARE p AS SELECT count(*) FROM orders")
        decision = conn.execute("EXECUTE p").decision
        assert (decision.verdict, decision.row_filter_predicate) == ("row-filter", "tenant_id = 1")
