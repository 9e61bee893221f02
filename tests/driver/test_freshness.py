"""The catalog that statements are judged by follows the database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import guarddb
from guarddb.driver import plans, reading
from tests.driver.conftest import SELECT, Connect, Engine, block, look_is_due, open_policy, run, statement
from tests.fix_server import create_database, drop_database, running_server


class Looking:
    """An engine's answer that notes the catalog it was asked with."""

    def __init__(self, answers: Engine, text: str) -> None:
        self.catalogs: list[Any] = []
        self.real = answers.real
        answers.plans[text] = self._plan

    def _plan(self, sql: str, policy: Any, catalog: Any, names: Any) -> Any:
        self.catalogs.append(catalog)
        return self.real(sql, policy, catalog, names)

    @property
    def tables(self) -> set[str]:
        return {relation.name for relation in self.catalogs[-1].relations.values()}


@pytest.fixture
def look(answers: Engine) -> Looking:
    """What the catalog of the last `SELECT 'look'` was."""
    return Looking(answers, "SELECT 'look'")


DDL = statement("ddl", "CREATE TABLE", changes_catalog=True)


async def asks(conn: Any, *, settle: bool = True) -> None:
    if settle:
        look_is_due(conn)
    conn._guard.plans.clear()
    plans.SHARED._plans.clear()  # or the engine would not be asked again
    await run(conn.execute("SELECT 'look'"))


async def test_own_ddl_is_seen_by_the_next_statement(
    connect: Connect, look: Looking, answers: Engine, fresh_dsn: str
) -> None:
    answers.allow("CREATE TABLE fresh1 (a int)", DDL)
    conn = await connect(fresh_dsn)
    await asks(conn)
    await run(conn.execute("CREATE TABLE fresh1 (a int)"))
    await asks(conn, settle=False)
    assert "fresh1" in look.tables
    await run(conn.rollback())
    await asks(conn, settle=False)
    assert "fresh1" not in look.tables


async def test_ddl_rolled_back_to_a_savepoint_is_seen(
    connect: Connect, look: Looking, answers: Engine, fresh_dsn: str
) -> None:
    answers.allow("CREATE TABLE fresh2 (a int)", DDL)
    conn = await connect(fresh_dsn)
    await run(conn.execute("SELECT 1"))
    async with block(conn.transaction(force_rollback=True)):
        await run(conn.execute("CREATE TABLE fresh2 (a int)"))
        await asks(conn, settle=False)
        assert "fresh2" in look.tables
    await asks(conn, settle=False)
    assert "fresh2" not in look.tables


async def test_ddl_of_others_is_seen(connect: Connect, look: Looking, fresh_dsn: str) -> None:
    conn = await connect(fresh_dsn, autocommit=True)
    await asks(conn)
    with psycopg.connect(fresh_dsn, autocommit=True) as other:
        other.execute("CREATE TABLE fresh3 (a int)")
        await asks(conn)
        assert "fresh3" in look.tables
        other.execute("ALTER TABLE fresh3 RENAME TO fresh4")
        await asks(conn)
        assert "fresh4" in look.tables
        assert "fresh3" not in look.tables


async def test_ddl_of_others_is_seen_in_a_transaction_and_in_a_pipeline(
    connect: Connect, look: Looking, fresh_dsn: str
) -> None:
    conn = await connect(fresh_dsn)
    await asks(conn)
    with psycopg.connect(fresh_dsn, autocommit=True) as other:
        other.execute("CREATE TABLE fresh5 (a int)")
        await asks(conn)
        assert "fresh5" in look.tables
        await run(conn.commit())
        other.execute("CREATE TABLE fresh6 (a int)")
        async with block(conn.pipeline()):
            await asks(conn)
            assert "fresh6" in look.tables


async def test_ddl_in_a_pipeline_is_seen_by_its_next_statement(
    connect: Connect, look: Looking, answers: Engine, fresh_dsn: str
) -> None:
    answers.allow("CREATE TABLE fresh7 (a int)", DDL)
    conn = await connect(fresh_dsn)
    async with block(conn.pipeline()):
        await run(conn.execute("CREATE TABLE fresh7 (a int)"))
        await asks(conn, settle=False)
        assert "fresh7" in look.tables


async def test_first_statement_may_be_in_a_pipeline(connect: Connect, look: Looking) -> None:
    conn = await connect()
    async with block(conn.pipeline()):
        await asks(conn)
    assert look.catalogs[-1] is not None
    conn = await connect(autocommit=True)
    cur = conn.cursor()
    await run(cur.executemany("SELECT %s::int", [(1,), (2,)], returning=True))
    assert await run(cur.fetchall()) == [(1,)]


async def test_temporary_schema_is_seen(connect: Connect, look: Looking, answers: Engine) -> None:
    answers.allow("CREATE TEMP TABLE fresh8 (a int)", DDL)
    conn = await connect(autocommit=True)
    await asks(conn)
    assert look.catalogs[-1].temp_schema is None
    await run(conn.execute("CREATE TEMP TABLE fresh8 (a int)"))
    await asks(conn, settle=False)
    assert str(look.catalogs[-1].temp_schema).startswith("pg_temp")


async def test_search_path_is_seen(connect: Connect, look: Looking, answers: Engine) -> None:
    answers.allow("SET search_path = pg_catalog", statement("set", "SET"))
    conn = await connect()
    await asks(conn)
    assert "public" in look.catalogs[-1].search_path
    await run(conn.execute("SET search_path = pg_catalog"))
    await asks(conn, settle=False)
    assert look.catalogs[-1].search_path == ("pg_catalog",)
    await run(conn.rollback())
    await asks(conn, settle=False)
    assert "public" in look.catalogs[-1].search_path


async def test_failed_transaction_asks_nothing(connect: Connect, answers: Engine) -> None:
    conn = await connect()
    with pytest.raises(psycopg.errors.DivisionByZero):
        await run(conn.execute("SELECT 1/0"))
    look_is_due(conn)
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        await run(conn.execute("SELECT 1"))
    answers.allow("ROLLBACK", statement("transaction", "ROLLBACK"))
    await run(conn.execute("ROLLBACK"))
    await run(conn.execute("SELECT 1"))


async def test_connections_share_what_was_read(guard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = open_policy()
    one, two = guard(policy=policy), guard(policy=policy)
    first = one._guard_catalog()
    second = two._guard_catalog()
    assert first.relations is second.relations
    assert guarddb.Catalog.from_connection(one) is first


async def test_plans_are_shared_and_never_across_policies(guard: Any, answers: Engine) -> None:
    policy = open_policy()
    guard(policy=policy).execute("SELECT 'shared'")
    guard(policy=policy).execute("SELECT 'shared'")
    assert answers.asked.count("SELECT 'shared'") == 1
    guard(policy={**policy, "max_rows": 1}).execute("SELECT 'shared'")
    assert answers.asked.count("SELECT 'shared'") == 2
    guard(policy=policy, settings={"app.tenant": "1"}).execute("SELECT 'shared'")
    assert answers.asked.count("SELECT 'shared'") == 3


def test_selects_are_not_followed_by_questions(guard: Any) -> None:
    assert not SELECT.handling.changes_catalog
    conn = guard(autocommit=True)
    conn.execute("SELECT 1")
    assert not conn._guard.freshness.due


def test_catalogs_of_a_transaction_are_nobody_elses(guard: Any) -> None:
    """Nor are they kept: a process that makes and drops tables all day holds a few catalogs of each database."""
    conn = guard(policy=open_policy(guarddb={"floor_exceptions": ["destructive_ddl"]}))
    for _ in range(3):
        conn.execute("CREATE TABLE passing (id int)")
        conn.execute("SELECT * FROM passing")
        conn.rollback()
    kept = reading.CATALOGS._databases[conn._guard.database]
    assert not [each for each in kept.values() if any(r.name == "passing" for r in each.relations.values())]
    conn.autocommit = True
    for _ in range(6):
        conn.execute("CREATE TABLE passing (id int)")
        conn.execute("SELECT * FROM passing")
        conn.execute("DROP TABLE passing")
        conn.execute("SELECT 1")
    assert len(kept) <= 4


def columns_of_secrets(dsn: str, policy: dict[str, Any]) -> tuple[str, set[str]]:
    """What the catalog is called, and the columns that a connection finds; a statement over each is judged, and so planned."""
    with guarddb.connect(dsn, policy=policy, autocommit=True) as conn:
        cur = conn.execute("SELECT * FROM secrets")
        assert cur.decision is not None
        masked = set(cur.decision.masked_columns)
        catalog = conn._guard.catalog
        assert catalog is not None
        found = catalog.relation("public", "secrets")
        assert found is not None
        assert [tuple(row) for row in cur] == [("n", None)], masked
        return catalog.version, {attribute.name for attribute in found.attributes}


def make_secrets(dsn: str, *columns: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"CREATE TABLE secrets ({columns[0]} text, {columns[1]} text)".encode())
        conn.execute("INSERT INTO secrets VALUES ('n', 's')")


NULLED: dict[str, Any] = {
    "masking_rules": [{"table": "secrets", "column": column, "kind": "null"} for column in ("aa", "bb")],
    "guarddb": {"on_unknown": "warn"},
}


def test_two_servers_at_one_address_share_nothing(run_directory: Path) -> None:
    """One is stopped and another is made in its place. Both have done the same since they were made, down to the transaction IDs,
    so that the catalogs have one fingerprint; but one column is called otherwise."""
    policy = open_policy(**NULLED)
    found = []
    for column in ("aa", "bb"):
        with running_server(run_directory / "replaced", 18) as server:
            dsn = make_conninfo(server)
            make_secrets(dsn, "name", column)
            found.append((dsn, *columns_of_secrets(dsn, policy)))
    assert found[0][0] == found[1][0]
    assert found[0][1] == found[1][1]
    assert [each[2] for each in found] == [{"name", "aa"}, {"name", "bb"}]


def test_a_database_that_is_made_again_under_its_name_is_another(server_dsn: str) -> None:
    policy = open_policy(**NULLED)
    found = []
    identities = []
    for column in ("aa", "bb"):
        dsn = create_database(server_dsn, "gdb_made_again")
        try:
            make_secrets(dsn, "name", column)
            found.append(columns_of_secrets(dsn, policy)[1])
            with guarddb.connect(dsn, policy=policy) as conn:
                identities.append(conn._guard.database)
        finally:
            drop_database(server_dsn, "gdb_made_again")
    assert found == [{"name", "aa"}, {"name", "bb"}]
    assert identities[0] != identities[1]
