"""executemany(): each set of parameters takes every step, also where psycopg's way to the prepared statement is left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb import load_policy
from guarddb.driver import steps
from guarddb.runtime.policy_source import PolicySource
from tests.driver.conftest import Connect, block, open_policy, run

INSERT = "INSERT INTO many_sets VALUES (%s, %s)"


@pytest.fixture(autouse=True)
def table(dsn: str) -> Iterator[None]:
    with psycopg.Connection.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE many_sets (id int, body text)")
        yield
        conn.execute("DROP TABLE many_sets")


def there(dsn: str) -> list[Any]:
    with psycopg.Connection.connect(dsn, autocommit=True) as conn:
        return conn.execute("SELECT id, body FROM many_sets ORDER BY id").fetchall()


class Changing(PolicySource):
    """A source whose policy the test changes."""

    def __init__(self, **fields: Any) -> None:
        self.put(**fields)

    def put(self, **fields: Any) -> None:
        self.profile = load_policy(open_policy(**fields))

    def current(self) -> tuple[Any, str]:
        return self.profile, self.profile.name


async def test_sets_of_any_types_are_written_as_by_plain_psycopg(connect: Connect, dsn: str) -> None:
    sets: list[Any] = [
        (1, "a"),
        (2, "b"),
        (None, "c"),
        (4, None),
        (5, "e"),
        (2**40 - 2**40 + 6, "f"),
        (7, b"g"),
    ]
    plain = psycopg.Connection.connect(dsn)
    with plain, plain.transaction(force_rollback=True):
        plain.cursor().executemany(INSERT, sets)
        expected = plain.execute("SELECT * FROM many_sets ORDER BY id").fetchall()
    conn = await connect()
    cur = conn.cursor()
    await run(cur.executemany(INSERT, sets * 3))
    assert cur.rowcount == len(sets) * 3
    assert cur.statusmessage == "INSERT 0 1"
    await run(conn.commit())
    assert there(dsn) == sorted(expected * 3, key=lambda row: (row[0] is None, row[0]))


async def test_a_query_budget_that_ends_in_the_middle_lets_no_set_more_through(
    connect: Connect, dsn: str
) -> None:
    conn = await connect(policy=open_policy(budget_queries_per_day=4), autocommit=True)
    with pytest.raises(guarddb.BudgetExceeded):
        await run(conn.cursor().executemany(INSERT, [(n, "x") for n in range(9)]))
    assert there(dsn) == [(n, "x") for n in range(4)]


@pytest.mark.parametrize("refused", [{"access_mode": "read_only"}, {"table_denylist": ["many_sets"]}])
async def test_a_policy_that_changes_in_the_middle_holds_from_the_next_set_on(
    connect: Connect, dsn: str, refused: dict[str, Any]
) -> None:
    source = Changing()
    conn = await connect(policy=source, autocommit=True)

    def sets() -> Iterator[tuple[int, str]]:
        for n in range(9):
            if n == 5:
                source.put(**refused)
            yield n, "x"

    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.cursor().executemany(INSERT, sets()))
    assert there(dsn) == [(n, "x") for n in range(5)]


async def test_settings_that_change_in_the_middle_hold_from_the_next_set_on(
    connect: Connect, dsn: str
) -> None:
    """The text is rewritten otherwise then, and the statement that was prepared before is not the one that runs."""
    policy = open_policy(
        row_filters=[{"table": "many_sets", "predicate": "body = current_setting('app.body')"}],
        guarddb={"settings": {"app.body": ""}},
    )
    conn = await connect(policy=policy, settings={"app.body": "one"}, autocommit=True)
    with psycopg.Connection.connect(dsn, autocommit=True) as plain:
        plain.cursor().executemany(INSERT, [(n, body) for n in range(4) for body in ("one", "two")])

    class Sets(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            for n in range(4):
                if n == 2:
                    conn.settings = {"app.body": "two"}
                yield (n,)

    await run(conn.cursor().executemany("DELETE FROM many_sets WHERE id = %s", Sets((n,) for n in range(4))))
    assert sorted(there(dsn)) == [(0, "two"), (1, "two"), (2, "one"), (3, "one")]


async def test_each_set_is_approved_and_what_is_not_is_not_sent(
    connect: Connect, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = await connect(autocommit=True)
    real, approved = steps.approve, 0

    def approve(cursor: Any, pgq: Any) -> None:
        nonlocal approved
        if approved == 5:
            raise conn._guard.deny("internal_error", "not today")
        approved += 1
        real(cursor, pgq)

    monkeypatch.setattr(steps, "approve", approve)
    with pytest.raises(psycopg.Error, match="not today"):
        await run(conn.cursor().executemany(INSERT, [(n, "x") for n in range(9)]))
    assert len(there(dsn)) == 5


async def test_the_prepared_statements_are_those_of_plain_psycopg(connect: Connect, dsn: str) -> None:
    """Their number, their order, and what becomes of them when preparing is switched off in the middle."""
    conn = await connect(autocommit=True)
    with psycopg.Connection.connect(dsn, autocommit=True) as plain:
        orders = []
        for each in (plain, conn):
            each.prepared_max = 3

            def sets(of: Any = each) -> Iterator[tuple[Any, Any]]:
                for n in range(12):
                    of.prepare_threshold = None if n == 10 else 5
                    yield (n, "x") if n % 4 < 3 else ("7", "x")

            for text in (INSERT, INSERT.replace("INTO", "into"), INSERT):
                await run(each.cursor().executemany(text, sets()))
            orders.append([*each._prepared._names.items()])
    assert orders[0] == orders[1]


async def test_an_application_s_own_way_of_sending_is_taken_for_each_set(connect: Connect, dsn: str) -> None:
    conn = await connect()
    sent = []

    class Mine(type(conn.cursor())):  # type: ignore[misc]
        def _send_query_prepared(self, name: bytes, pgq: Any, **options: Any) -> None:
            sent.append(name)
            super()._send_query_prepared(name, pgq, **options)

    await run(Mine(conn).executemany(INSERT, [(n, "x") for n in range(4)]))
    assert len(sent) == 4


async def test_a_set_that_the_server_refuses_ends_it(connect: Connect, dsn: str) -> None:
    conn = await connect()
    cur = conn.cursor()
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        await run(
            cur.executemany("INSERT INTO many_sets VALUES (%s::text::int)", [("1",), ("2",), ("no",), ("4",)])
        )
    await run(conn.rollback())
    assert there(dsn) == []
    await run(cur.executemany(INSERT, [(n, "x") for n in range(3)]))
    await run(conn.commit())
    assert len(there(dsn)) == 3


async def test_within_a_pipeline_of_the_application_s(connect: Connect, dsn: str) -> None:
    conn = await connect()
    async with block(conn.pipeline()):
        cur = conn.cursor()
        await run(cur.executemany(INSERT, [(n, "x") for n in range(5)]))
        other = await run(conn.execute("SELECT count(*) FROM many_sets"))
        again = conn.cursor()
        await run(again.executemany("SELECT %s::int", [(n,) for n in range(4)], returning=True))
        assert await run(other.fetchone()) == (5,)
        rows = [await run(again.fetchone())]
        while again.nextset():
            rows.append(await run(again.fetchone()))
    assert rows == [(n,) for n in range(4)]
    assert cur.rowcount == 5


async def test_a_statement_that_runs_again_goes_by_its_name_as_with_plain_psycopg(
    connect: Connect, dsn: str
) -> None:
    """execute(): which statements are prepared and in which order they were used, results in text and binary form."""
    conn = await connect(autocommit=True)
    with psycopg.Connection.connect(dsn, autocommit=True) as plain:
        seen = []
        for each in (plain, conn):
            each.prepared_max = 3
            found: list[Any] = []
            for n, (text, prepare, binary) in enumerate(
                [("SELECT %s::int", None, False)] * 8
                + [("SELECT %s::int + 1", True, n % 2 == 0) for n in range(3)]
                + [("SELECT %s::int", None, True), ("SELECT %s::int", False, False)]
                + [(f"SELECT %s::int + {n}", True, False) for n in range(2, 5)] * 2
                + [("SELECT %s::int", True, False), ("SELECT 1 / (%s::int - 20)", True, False)] * 2
            ):
                each.prepare_threshold = None if n == 5 else 5
                try:
                    cur = await run(each.execute(text, (n,), prepare=prepare, binary=binary))
                    row = await run(cur.fetchone())
                    found.append((row, cur.pgresult.fformat(0), cur.statusmessage, cur.rowcount))
                except psycopg.Error as ex:
                    found.append(ex.sqlstate)
                found.append([*each._prepared._names.items()])
            seen.append(found)
    assert seen[0] == seen[1]
