"""The lint says what PostgreSQL does: every statement is run, and its locks and its work are compared with what the lint says.

PostgreSQL 18 is asked in every run; 16 and 15 with `-m versions`.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

import guarddb
from guarddb.lint.acts import Act, Lock, Work
from guarddb.lint.finding import Finding
from guarddb.lint.judging import strongest
from guarddb.lint.migrations import lint, walk
from tests.fix_server import temporary_database
from tests.lint.conftest import World
from tests.lint.oracle import Measured, condensed, while_it_waits
from tests.lint.statements import FAILS, OUTSIDE, all_statements, since

#: Findings of severity error that are about something else than a lock with work under it.
NOT_ABOUT_WORK = frozenset({"unsafe_drop", "truncate", "unsupported_by_server"})
#: Small enough in world.sql for the lint to say that nobody notices.
SMALL = frozenset({"tiny", "empty"})

VERSIONS = [
    18,
    pytest.param(16, marks=pytest.mark.versions),
    pytest.param(15, marks=pytest.mark.versions),
]


def predicted(sql: str, world: World) -> dict[tuple[str, str], tuple[Lock, frozenset[Work]]]:
    """What the lint says of relations that were there before, strong locks only."""
    acts = [act for step in walk(sql, world.catalog) for act in step.said if isinstance(act, Act)]
    found = {}
    for name, (lock, work) in strongest(acts).items():
        relation = world.catalog.relation(*name)
        if lock >= Lock.SHARE and relation is not None:
            found[name] = (lock, frozenset() if relation.kind == "p" else condensed(work))
    return found


def blocks(measured: Measured, world: World) -> bool:
    """Whether somebody waits for work that grows with a table, by what was measured."""
    for name, (lock, work) in measured.strong().items():
        relation = world.catalog.relation(*name)
        assert relation is not None
        if work and name[1] not in SMALL and (relation.kind != "m" or lock is Lock.ACCESS_EXCLUSIVE):
            return True
    return False


def errors(findings: list[Finding]) -> list[Finding]:
    return [f for f in findings if f.severity == "error" and f.rule not in NOT_ABOUT_WORK]


def test_there_are_enough_statements() -> None:
    assert len(all_statements()) == len(set(all_statements())) >= 150


@pytest.mark.parametrize("major", VERSIONS)
def test_locks_and_work_are_those_of_the_server(worlds: Callable[[int], World], major: int) -> None:
    world = worlds(major)
    wrong = []
    for statement in all_statements():
        if statement in FAILS or since(statement) > major:
            continue
        measured = world.measured(statement)
        if predicted(statement, world) != measured.strong():
            wrong.append((statement, predicted(statement, world), measured.strong()))
    assert wrong == []


@pytest.mark.parametrize("major", VERSIONS)
def test_the_verdict_follows_what_was_measured(worlds: Callable[[int], World], major: int) -> None:
    """An error where others wait for work, and no error where they do not: on tables that are large enough to matter."""
    world = worlds(major)
    wrong = []
    for statement in all_statements():
        if statement in FAILS or since(statement) > major:
            continue
        measured = world.measured(statement)
        found = errors(lint(statement, world.catalog))
        if bool(found) != blocks(measured, world):
            wrong.append((statement, found, measured))
    assert wrong == []


def test_without_a_catalog_the_lint_is_not_looser(world: World) -> None:
    """What is an error with the catalog is a warning at the least without one."""
    looser = []
    for statement in all_statements():
        with_catalog = {f.rule for f in errors(lint(statement, world.catalog))}
        without = {f.rule for f in lint(statement) if f.severity != "info"}
        if with_catalog and not without - {"missing_lock_timeout"}:
            looser.append((statement, with_catalog, without))
    # What only a catalog can tell: that a table is not partitioned, and that another has a default partition.
    assert [statement for statement, *_ in looser] == [
        "CREATE INDEX ON ONLY lonely (id)",
        "CREATE TABLE regions_west PARTITION OF regions FOR VALUES IN ('west')",
    ]


@pytest.mark.parametrize(("statement", "table"), OUTSIDE)
def test_what_runs_outside_of_transactions_is_measured_while_it_waits(
    server_dsn: str, world_template: str, world: World, statement: str, table: str
) -> None:
    with temporary_database(server_dsn, "outside", world_template) as dsn:
        measured = while_it_waits(dsn, statement, table)
    strong = {name: lock for name, lock in measured.locks.items() if lock >= Lock.SHARE}
    says = {name: lock for name, (lock, _) in predicted(statement, world).items()}
    assert says == strong
    assert bool(errors(lint(statement, world.catalog))) == ("FULL" in statement)


#: Each is sent in a transaction block. What PostgreSQL refuses there is one class of its errors (25001), whatever else is wrong.
IN_A_BLOCK = """
CREATE DATABASE other
DROP DATABASE IF EXISTS other
ALTER DATABASE postgres SET TABLESPACE pg_default
ALTER DATABASE postgres CONNECTION LIMIT 50
CREATE TABLESPACE other LOCATION '/nowhere'
DROP TABLESPACE other
ALTER SYSTEM SET work_mem = '4MB'
ALTER SYSTEM RESET work_mem
CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p
CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (create_slot)
CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)
CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (create_slot = off)
REINDEX SCHEMA public
REINDEX SYSTEM
REINDEX TABLE events
REINDEX INDEX events_idx
REINDEX TABLE tiny
REINDEX TABLE CONCURRENTLY tiny
CLUSTER
CLUSTER events USING events_idx
DISCARD ALL
DISCARD PLANS
VACUUM
VACUUM tiny
VACUUM FULL tiny
ANALYZE tiny
CREATE INDEX CONCURRENTLY ON tiny (id)
DROP INDEX CONCURRENTLY orders_status_idx
ALTER TABLE events DETACH PARTITION events_2024 CONCURRENTLY
ALTER TABLE events DETACH PARTITION events_2024
COMMIT PREPARED 'x'
ROLLBACK PREPARED 'x'
CHECKPOINT
CREATE PUBLICATION other FOR TABLE tiny
LOCK TABLE tiny
"""


@pytest.mark.parametrize("major", VERSIONS)
def test_what_a_transaction_block_cannot_hold(worlds: Callable[[int], World], major: int) -> None:
    world = worlds(major)
    world.conn.execute("CREATE INDEX events_idx ON events (at)")
    try:
        catalog = guarddb.Catalog.from_connection(world.conn)
        for statement in IN_A_BLOCK.strip().splitlines():
            refused = False
            world.conn.execute("BEGIN")
            try:
                world.conn.execute(statement)
            except psycopg.Error as error:
                refused = error.sqlstate == "25001"
            finally:
                world.conn.execute("ROLLBACK")
            for rules in (
                {f.rule for f in lint(f"BEGIN; {statement}; COMMIT", catalog)},
                {f.rule for f in lint(statement, catalog, in_transaction=True)},
            ):
                said = rules & {"not_in_transaction", "concurrently_in_transaction"}
                assert bool(said) == refused, statement
            assert "not_in_transaction" not in {f.rule for f in lint(statement, catalog)}, statement
    finally:
        world.conn.execute("DROP INDEX events_idx")


@pytest.mark.parametrize(
    "zone", ["TIME ZONE 'UTC'", "timezone = 'gmt'", "TIME ZONE 0", "TIME ZONE 'Europe/Oslo'", "TIME ZONE 2"]
)
@pytest.mark.parametrize("precision", ["", "(6)", "(3)"])
def test_a_time_loses_its_zone_without_work_where_the_script_is_in_utc(
    worlds: Callable[[int], World], zone: str, precision: str
) -> None:
    world = worlds(18)
    change = f"ALTER TABLE orders ALTER COLUMN placed_at TYPE timestamp{precision}"
    for script in (f"SET LOCAL {zone}; {change}", f"SET {zone}; {change}"):
        measured = world.measured(script)
        found = errors(lint(script, world.catalog, in_transaction=True))
        assert bool(found) == blocks(measured, world), script
    assert errors(
        lint(f"SET LOCAL {zone}; {change}", world.catalog)
    )  # SET LOCAL of a transaction that is over
    assert errors(lint(f"BEGIN; SET LOCAL {zone}; COMMIT; {change}", world.catalog))
    assert errors(lint(f"SET {zone}; RESET timezone; {change}", world.catalog))
