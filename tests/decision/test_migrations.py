"""`migration_safety`: what is refused, what is noted, in which order, and what the live session says."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

import guarddb

INDEX = "CREATE INDEX ON public.orders (total)"


def profile(mode: str, **fields: Any) -> dict[str, Any]:
    return {"name": "migrator", "access_mode": "read_write", "migration_safety": mode, **fields}


def test_block_refuses_with_the_rule_the_message_and_the_safe_form() -> None:
    decision = guarddb.evaluate(INDEX, profile("block"))
    assert (decision.verdict, decision.rule) == ("block", "migration_block")
    assert decision.reason == (
        "migration blocked: missing_concurrently. CREATE INDEX without CONCURRENTLY: a SHARE lock on orders blocks writes while "
        "PostgreSQL builds the index"
    )
    assert decision.hint == "CREATE INDEX CONCURRENTLY ON public.orders (total);"
    assert decision.deciding == "migration_safety"


def test_warn_lets_it_pass_with_notes() -> None:
    decision = guarddb.evaluate(INDEX, profile("warn"))
    assert decision.verdict == "allow"
    assert any(note.startswith("migration error: missing_concurrently. ") for note in decision.notes)


def test_off_says_nothing() -> None:
    assert not any("migration" in note for note in guarddb.evaluate(INDEX, profile("off")).notes)


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE orders ADD COLUMN note text",
        "ALTER TABLE orders ADD CONSTRAINT k CHECK (total > 0) NOT VALID",
        "CREATE TABLE fresh (id int)",
        "CREATE TABLE fresh (id int); CREATE INDEX ON fresh (id)",
        "UPDATE orders SET total = 1 WHERE total > 5",
        "SELECT 1",
        "VACUUM orders",
    ],
)
def test_what_holds_nobody_up_is_not_blocked(sql: str) -> None:
    allowed = profile("block", statement_rules={"allow": ["ddl", "update", "select", "other"]})
    assert guarddb.evaluate(sql, allowed).rule == "ok"


def test_the_text_is_judged_as_the_one_transaction_that_it_is() -> None:
    script = "ALTER TABLE orders ADD CONSTRAINT k CHECK (total > 0) NOT VALID; ALTER TABLE orders VALIDATE CONSTRAINT k"
    decision = guarddb.evaluate(script, profile("block"))
    assert decision.rule == "migration_block"
    assert "validate_in_transaction" in decision.reason
    for statement in script.split("; "):
        assert guarddb.evaluate(statement, profile("block")).rule == "ok"


@pytest.mark.parametrize(
    ("sql", "fields", "rule"),
    [
        ("DROP TABLE orders", {}, "destructive_ddl"),
        (INDEX, {"access_mode": "read_only"}, "read_only"),
        (INDEX, {"statement_rules": {"deny": ["ddl"]}}, "statement_denied"),
        (INDEX, {"table_denylist": ["orders"]}, "table_denied"),
    ],
)
def test_it_comes_after_the_other_rules(sql: str, fields: dict[str, Any], rule: str) -> None:
    assert guarddb.evaluate(sql, profile("block", **fields)).rule == rule


def test_the_floor_lifted_a_drop_is_still_a_migration() -> None:
    lifted = profile("block", guarddb={"floor_exceptions": ["destructive_ddl"]})
    decision = guarddb.evaluate("ALTER TABLE orders DROP COLUMN total", lifted)
    assert decision.reason.startswith("migration blocked: unsafe_drop. DROP COLUMN destroys the data")


# --- live ---


@pytest.fixture
def orders(fresh_dsn: str) -> str:
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE orders (id int PRIMARY KEY, total int)")
        conn.execute("INSERT INTO orders SELECT n, n FROM generate_series(1, 30000) AS n")
        conn.execute("ANALYZE")
    return fresh_dsn


def test_live_a_blocked_migration_runs_nothing_and_the_transaction_goes_on(orders: str) -> None:
    with guarddb.connect(orders, policy=profile("block")) as conn:
        conn.execute("SELECT 1")
        with pytest.raises(guarddb.PolicyViolation) as caught:
            conn.execute(INDEX)
        assert caught.value.rule == "migration_block"
        assert "30,000 rows" in str(caught.value)
        assert caught.value.hint == "CREATE INDEX CONCURRENTLY ON public.orders (total);"
        assert conn.execute("SELECT count(*) FROM pg_indexes WHERE tablename = 'orders'").fetchone() == (1,)


def test_live_warnings_reach_the_notice_handlers_each_time(orders: str) -> None:
    heard: list[str | None] = []
    with guarddb.connect(orders, policy=profile("warn")) as conn:
        conn.add_notice_handler(lambda diagnostic: heard.append(diagnostic.message_primary))
        for _ in range(2):
            cur = conn.execute(INDEX)
            conn.rollback()
        assert [
            text is not None and text.startswith("migration error: missing_concurrently.") for text in heard
        ] == [
            True,
            True,
        ]
        assert cur.decision is not None
        assert any("missing_concurrently" in note for note in cur.decision.notes)


def test_live_a_table_of_ones_own_is_nobody_elses(orders: str) -> None:
    """A table that was made a moment ago is empty, and the catalog says so."""
    with guarddb.connect(orders, policy=profile("block"), autocommit=True) as conn:
        conn.execute("CREATE TABLE fresh (id int)")
        conn.execute("CREATE INDEX ON fresh (id)")
        conn.execute("ALTER TABLE fresh ADD COLUMN n serial")


async def test_live_async(orders: str) -> None:
    async with await guarddb.AsyncConnection.connect(orders, policy=profile("block")) as conn:
        with pytest.raises(guarddb.PolicyViolation, match="migration blocked: missing_concurrently"):
            await conn.execute(INDEX)
