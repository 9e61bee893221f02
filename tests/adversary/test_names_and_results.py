"""Results that are not of the statement they are taken for: names that changed hands, and results that moved.

A keyed hash is made in the process, so its raw value comes from the server. Whatever the driver mistakes a result for, the value
must not be shown: not in a row, and not in `pgresult`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import RawCursor
from psycopg.rows import namedtuple_row, tuple_row

import guarddb
from tests.driver.conftest import Connect, block, collect, connect, open_policy, run

__all__ = ["connect"]

RAW = ("ada@raw", "bob@raw", "cyd@raw")
#: No column of its own in the result, so the second net sees nothing.
MIXED = "SELECT email FROM users UNION ALL SELECT email FROM users"
HARMLESS = "SELECT name FROM users"


@pytest.fixture(scope="module")
def users(dsn: str) -> Iterator[None]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE users (id int PRIMARY KEY, name text, email text, n int CHECK (n >= 0))")
        conn.execute(
            "INSERT INTO users VALUES (1, 'ada', 'ada@raw', 1), (2, 'bob', 'bob@raw', 2), (3, 'cyd', 'cyd@raw', 3)"
        )
        conn.execute("CREATE TABLE ruled (id int)")
        conn.execute("CREATE RULE one AS ON INSERT TO ruled DO ALSO SELECT 1")
        conn.execute("CREATE RULE two AS ON INSERT TO ruled DO ALSO SELECT 2")
    yield
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("DROP TABLE users, ruled")


@pytest.fixture
def policy(users: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    monkeypatch.setenv("GUARDDB_TEST_KEY", "a key of the tests")

    def profile(**fields: Any) -> dict[str, Any]:
        return open_policy(
            **{
                "masking_rules": [{"table": "users", "column": "email", "kind": "hash"}],
                "guarddb": {"hash_key_env": "GUARDDB_TEST_KEY"},
                **fields,
            }
        )

    return profile


def assert_nothing_raw(*shown: Any) -> None:
    text = repr(shown)
    assert not [value for value in RAW if value in text], text


def all_of(result: Any) -> list[Any]:
    return [
        result.get_value(row, column) for row in range(result.ntuples) for column in range(result.nfields)
    ]


async def rows_of(conn: Any, query: str) -> Any:
    """The rows and what `pgresult` holds, or the refusal."""
    try:
        cur = await run(conn.execute(query))
        return await run(cur.fetchall()), all_of(cur.pgresult)
    except psycopg.Error as ex:
        return ex


async def copied(conn: Any, text: str) -> None:
    async with block(conn.cursor().copy(text)):
        pass


async def pipelined(conn: Any, texts: Sequence[str]) -> None:
    async with block(conn.pipeline()):
        for text in texts:
            await run(conn.execute(text))


async def test_a_prepared_name_of_the_drivers_is_not_to_be_had(connect: Connect, policy: Any) -> None:
    conn = await connect(policy=policy(access_mode="read_only"), autocommit=True)
    for _ in range(7):
        await run(conn.execute(HARMLESS))
    names = [name for name, *_ in (await rows_of(conn, "SELECT 1"))[0]]
    assert names == [1]
    for text in ("DEALLOCATE _pg3_0", f"PREPARE _pg3_0 AS {MIXED}", "EXECUTE _pg3_0"):
        with pytest.raises(guarddb.PolicyViolation):
            await run(conn.execute(text))
    assert_nothing_raw(await rows_of(conn, HARMLESS))


async def test_a_driver_that_takes_one_result_for_another_shows_nothing(
    connect: Connect, policy: Any
) -> None:
    """Behind the driver's back, as a bug in it would: the columns themselves say what they hold."""
    conn = await connect(policy=policy(), autocommit=True)
    sent = (await run(conn.execute(MIXED)))._results.judged.sent
    for _ in range(7):
        await run(conn.execute(HARMLESS))
    conn.pgconn.exec_(b"DEALLOCATE _pg3_0")
    conn.pgconn.exec_(b"PREPARE _pg3_0 AS " + sent)
    cur = await run(conn.execute(HARMLESS))
    assert await run(cur.fetchall()) == [(None,)] * 6
    assert all_of(cur.pgresult) == [None] * 6


@pytest.mark.parametrize("hold", ["", "WITH HOLD"])
async def test_a_portal_that_was_rolled_back_leaves_its_name(
    connect: Connect, policy: Any, hold: str
) -> None:
    conn = await connect(policy=policy(access_mode="read_only"))
    await run(conn.execute("SAVEPOINT s"))
    await run(conn.execute(f"DECLARE x CURSOR {hold} FOR {HARMLESS}"))
    await run(conn.execute("ROLLBACK TO s"))
    await run(conn.execute(f"DECLARE x CURSOR FOR {MIXED}"))
    shown = await rows_of(conn, "FETCH ALL FROM x")
    assert len(shown[0]) == 6
    assert_nothing_raw(shown)


async def test_a_portal_with_hold_is_gone_with_a_rollback(connect: Connect, policy: Any) -> None:
    conn = await connect(policy=policy(access_mode="read_only"))
    await run(conn.execute(f"DECLARE x CURSOR WITH HOLD FOR {HARMLESS}"))
    await run(conn.rollback())
    await run(conn.execute(f"DECLARE x CURSOR FOR {MIXED}"))
    assert_nothing_raw(await rows_of(conn, "FETCH ALL FROM x"))


async def test_a_refused_declare_leaves_the_portal_that_is_there(connect: Connect, policy: Any) -> None:
    conn = await connect(policy=policy(access_mode="read_only", max_rows=2))
    await run(conn.execute(f"DECLARE x CURSOR WITH HOLD FOR {MIXED}"))
    await run(conn.commit())
    with pytest.raises(psycopg.errors.DuplicateCursor):
        await run(conn.execute(f"DECLARE x CURSOR FOR {HARMLESS}"))
    await run(conn.rollback())
    shown = await rows_of(conn, "FETCH ALL FROM x")
    assert len(shown[0]) == 2
    assert_nothing_raw(shown)


async def test_max_rows_counts_each_portal_of_a_name_anew(connect: Connect, policy: Any) -> None:
    conn = await connect(policy=policy(max_rows=2))
    for _ in range(3):
        await run(conn.execute("SAVEPOINT s"))
        await run(conn.execute(f"DECLARE x CURSOR FOR {HARMLESS}"))
        assert len((await rows_of(conn, "FETCH ALL FROM x"))[0]) == 2
        assert (await rows_of(conn, "FETCH ALL FROM x"))[0] == []
        await run(conn.execute("ROLLBACK TO s"))


@pytest.mark.parametrize("name", ["x", "n" * 70], ids=["short", "long"])
@pytest.mark.parametrize("opened_by", ["declare", "cursor"])
async def test_a_server_cursor_whose_name_is_anothers(
    connect: Connect, policy: Any, name: str, opened_by: str
) -> None:
    conn = await connect(policy=policy(access_mode="read_only"))
    cur = conn.cursor(name)
    other = conn.cursor(name + ("n" if len(name) > 63 else ""))
    async with block(cur), block(other):
        await run(cur.execute(HARMLESS))
        assert await run(cur.fetchone()) == ("ada",)
        await run(conn.execute(f'CLOSE "{name}"'))
        if opened_by == "declare":
            await run(conn.execute(f'DECLARE "{name}" CURSOR FOR {MIXED}'))
        else:
            await run(other.execute(MIXED))
        rows = await run(cur.fetchall())
        assert len(rows) == 6
        assert_nothing_raw(rows, all_of(cur.pgresult))
        await run(conn.rollback())


async def test_a_server_cursor_of_a_rolled_back_block(connect: Connect, policy: Any) -> None:
    conn = await connect(policy=policy(access_mode="read_only"))
    await run(conn.execute("SELECT 1"))
    async with block(conn.cursor("x")) as cur:
        async with block(conn.transaction(force_rollback=True)):
            await run(cur.execute(HARMLESS))
        await run(conn.execute("DECLARE x CURSOR FOR SELECT email FROM users"))
        assert_nothing_raw(await run(cur.fetchall()), all_of(cur.pgresult))
        await run(conn.rollback())


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("cap", [0, 2])
async def test_pgresult_of_a_server_cursor(connect: Connect, policy: Any, binary: bool, cap: int) -> None:
    conn = await connect(policy=policy(max_rows=cap))
    async with block(conn.cursor("x", binary=binary)) as cur:
        await run(cur.execute("SELECT id, email FROM users ORDER BY id"))
        assert_nothing_raw(all_of(cur.pgresult))
        assert [column.type_code for column in cur.description] == [23, 25]
        for fetch in (cur.fetchone, lambda: cur.fetchmany(1), cur.fetchall):
            rows = await run(fetch())
            assert_nothing_raw(rows, all_of(cur.pgresult))
    await run(conn.rollback())


async def test_a_table_with_rules_is_not_written(connect: Connect, policy: Any) -> None:
    """What a rule returns comes without a column of its own, and with a plan that is not its own."""
    conn = await connect(policy=policy())
    for text in (
        "INSERT INTO ruled VALUES (1)",
        f"INSERT INTO ruled VALUES (1); {HARMLESS}; {MIXED}",
        "WITH w AS (INSERT INTO ruled VALUES (1) RETURNING 1) SELECT * FROM w",
    ):
        with pytest.raises(guarddb.PolicyViolation) as caught:
            await run(conn.execute(text))
        assert caught.value.rule == "masked_column_expression"
    assert await run((await run(conn.execute("SELECT * FROM ruled"))).fetchall()) == []


async def test_more_results_than_statements(connect: Connect, policy: Any) -> None:
    """Where no mask forbids a rule: the strictest of the plans holds for every result."""
    conn = await connect(policy=policy(masking_rules=[], guarddb={}, max_rows=2))
    cur = await run(conn.execute(f"INSERT INTO ruled VALUES (1); {HARMLESS}; SELECT 2"))
    found = []
    while True:
        if cur.pgresult.nfields:
            found.append(len(await run(cur.fetchall())))
        if not cur.nextset():
            break
    assert found == [1, 1, 2, 1]
    await run(conn.rollback())


async def test_a_command_that_never_left_in_a_pipeline(connect: Connect, policy: Any) -> None:
    """psycopg then takes the next cursor's result for the one that failed; so be it, but not unmasked."""
    conn = await connect(policy=policy(), autocommit=True)
    factory = RawCursor if isinstance(conn, psycopg.Connection) else psycopg.AsyncRawCursor
    first, second = factory(conn), conn.cursor()
    shown: list[Any] = []
    with suppress(psycopg.Error):
        async with block(conn.pipeline()):
            with suppress(psycopg.OperationalError):
                await run(first.execute("SELECT name FROM users WHERE id < $1", [9] * 70_000))
            await run(second.execute(MIXED))
            shown = [await run(first.fetchall()), all_of(first.pgresult)]
    assert_nothing_raw(shown)


MESSAGES = {
    "check": "UPDATE users SET n = -1 WHERE id = 1",
    "key": "INSERT INTO users VALUES (1, 'x', 'ada@raw', 1)",
    "cast": "UPDATE users SET n = 1 WHERE id = 1 AND name::int = 1",
}


@pytest.mark.parametrize("kind", ["hash", "null"])
@pytest.mark.parametrize("what", list(MESSAGES))
async def test_the_message_of_the_connection(
    connect: Connect, policy: Any, what: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    conn = await connect(
        policy=policy(masking_rules=[{"table": "users", "column": "email", "kind": kind}]), autocommit=True
    )
    with pytest.raises(psycopg.Error) as caught:
        await run(conn.execute(MESSAGES[what]))
    message = conn.info.error_message
    assert str(caught.value) in message
    assert message.startswith("ERROR:  ")
    assert "DETAIL" not in message
    assert_nothing_raw(message)
    assert (await rows_of(conn, "SELECT 1"))[0] == [(1,)]
    assert conn.info.error_message == ""


async def test_the_message_of_the_connection_where_nothing_is_hidden(connect: Connect, users: None) -> None:
    conn = await connect(autocommit=True)
    with pytest.raises(psycopg.Error):
        await run(conn.execute(MESSAGES["check"]))
    assert "DETAIL:  Failing row contains" in conn.info.error_message


async def test_every_way_to_run_the_statement_shows_the_same_hashes(connect: Connect, policy: Any) -> None:
    """The mark on the column's type survives portals, prepared statements, streams and both formats."""
    conn = await connect(policy=policy())
    expected = await run((await run(conn.execute(MIXED))).fetchall())
    assert all(len(value) == 64 for (value,) in expected)
    found = [
        await run((await run(conn.execute(MIXED, binary=True))).fetchall()),
        await run((await run(conn.execute(MIXED, prepare=True))).fetchall()),
        await collect(conn.cursor().stream(MIXED)),
        await collect(conn.cursor().stream(MIXED, size=2)),
        await run((await run(conn.execute(f"SELECT * FROM ({MIXED}) AS q"))).fetchall()),
    ]
    for binary in (False, True):
        async with block(conn.cursor("c", binary=binary, withhold=True)) as cur:
            await run(cur.execute(MIXED))
            found.append(await collect(cur))
    await run(conn.execute(f"PREPARE p AS {MIXED}"))
    found.append(await run((await run(conn.execute("EXECUTE p"))).fetchall()))
    await run(conn.execute(f"DECLARE d CURSOR FOR {MIXED}"))
    found.append(await run((await run(conn.execute("FETCH ALL FROM d"))).fetchall()))
    assert found == [expected] * 9
    await run(conn.rollback())


async def test_copy_of_columns_that_are_not_hashed(connect: Connect, policy: Any) -> None:
    conn = await connect(policy=policy())
    async with block(conn.cursor().copy("COPY users (id, name) TO STDOUT")) as copy:
        copy.set_types(["int4", "text"])
        assert await collect(copy.rows()) == [(1, "ada"), (2, "bob"), (3, "cyd")]
    for text in ("COPY users TO STDOUT", "COPY users (id, email) TO STDOUT"):
        with pytest.raises(guarddb.PolicyViolation):
            async with block(conn.cursor().copy(text)):
                pass


class Reloaded:
    """A policy source whose policy a test changes."""

    def __init__(self, profile: dict[str, Any]) -> None:
        self.set(profile)

    def set(self, profile: dict[str, Any]) -> None:
        loaded = guarddb.load_policy(profile)
        self._current = (loaded, loaded.version)

    def current(self) -> Any:
        return self._current


async def test_a_new_key_holds_for_a_cursor_that_runs_its_statement_again(
    connect: Connect, policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARDDB_OTHER_KEY", "another key of the tests")
    profile = policy()
    source = Reloaded(profile)
    conn = await connect(policy=source)
    cur = conn.cursor()
    first = await run((await run(cur.execute(MIXED))).fetchall())
    source.set({**profile, "guarddb": {"hash_key_env": "GUARDDB_OTHER_KEY"}})
    second = await run((await run(cur.execute(MIXED))).fetchall())
    fresh = await run((await run(conn.execute(MIXED))).fetchall())
    assert second == fresh
    assert set(first).isdisjoint(second)
    await run(conn.rollback())


async def test_a_policy_that_changes_between_two_sets_of_parameters(connect: Connect, policy: Any) -> None:
    profile = policy(masking_rules=[], guarddb={})
    source = Reloaded(profile)
    conn = await connect(policy=source, autocommit=True)

    def sets() -> Iterator[tuple[int]]:
        yield (100,)
        source.set({**profile, "table_denylist": ["ruled"]})
        yield (101,)

    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.cursor().executemany("DELETE FROM ruled WHERE id = %s", sets()))


async def test_egress_of_an_open_cursor_is_counted_when_a_reload_adds_the_budget(
    connect: Connect, policy: Any
) -> None:
    profile = policy(masking_rules=[], guarddb={})
    source = Reloaded(profile)
    conn = await connect(policy=source)
    async with block(conn.cursor("x")) as cur:
        await run(cur.execute("SELECT repeat('x', 50) FROM users"))
        assert len(await run(cur.fetchmany(1))) == 1
        source.set({**profile, "egress_bytes_per_day": 60})
        assert len(await run(cur.fetchmany(1))) == 1
        with pytest.raises(guarddb.BudgetExceeded):
            await run(cur.fetchmany(1))
    await run(conn.rollback())


# ---------------------------------------------------------------------- before anybody sees a result


async def test_a_row_factory_that_fails_leaves_nothing_behind(connect: Connect, policy: Any) -> None:
    conn = await connect(policy=policy(max_rows=2, egress_bytes_per_day=1000))
    cur = conn.cursor(row_factory=namedtuple_row)
    with pytest.raises((psycopg.DataError, ValueError)):  # the latter before psycopg 3.3
        await run(cur.execute("SELECT email, name, name FROM users"))
    cur.row_factory = tuple_row
    rows = await run(cur.fetchall())
    assert len(rows) == 2
    assert_nothing_raw(rows, all_of(cur.pgresult))
    assert conn.budget.egress_bytes_today < 1000
    await run(conn.rollback())


@pytest.mark.parametrize("way", ["execute", "stream", "executemany", "pipeline"])
async def test_a_row_factory_sees_what_is_shown(connect: Connect, policy: Any, way: str) -> None:
    conn = await connect(policy=policy(max_rows=2))
    seen: list[Any] = []

    def factory(cur: Any) -> Any:
        seen.append((cur.pgresult.ntuples, all_of(cur.pgresult)))
        return tuple

    cur = conn.cursor(row_factory=factory)
    if way == "execute":
        await run(cur.execute("SELECT email FROM users"))
    elif way == "stream":
        await collect(cur.stream("SELECT email FROM users", size=3))
    elif way == "executemany":
        await run(cur.executemany("SELECT email FROM users", [(), ()], returning=True))
    else:
        async with block(conn.pipeline()):
            await run(cur.execute("SELECT email FROM users"))
            await run(cur.fetchall())
    assert seen
    assert all(rows <= 2 for rows, _ in seen)
    assert_nothing_raw(seen)
    await run(conn.rollback())


@pytest.mark.parametrize("after", ["no key", "null", "no such key"])
async def test_a_reload_that_takes_the_key_away(connect: Connect, policy: Any, after: str) -> None:
    profile = policy()
    kind = "null" if after == "null" else "hash"
    source = Reloaded(profile)
    conn = await connect(policy=source)
    cur = conn.cursor()
    older = conn.cursor()
    await run(older.execute(MIXED))
    await run(cur.execute(f"SELECT 1; {MIXED}"))
    source.set(
        {
            **profile,
            "masking_rules": [{"table": "users", "column": "email", "kind": kind}],
            "guarddb": {"hash_key_env": "GUARDDB_NO_SUCH_KEY"} if after == "no such key" else {},
        }
    )
    with suppress(psycopg.Error):
        await run(conn.execute("SELECT 1"))
    cur.nextset()
    assert_nothing_raw(await run(cur.fetchall()), all_of(cur.pgresult))
    older.adapters.register_loader("int4", psycopg.types.numeric.IntLoader)
    assert_nothing_raw(await run(older.fetchall()), all_of(older.pgresult))
    await run(conn.rollback())


# ---------------------------------------------------------------------- the key


@pytest.mark.parametrize(
    "guess",
    [
        "SELECT 'ada@raw'::varchar(10485759)",
        "SELECT CAST('ada@raw' AS varchar(10485759)) AS email FROM users",
        "SELECT email FROM users UNION ALL SELECT 'ada@raw'",
        "SELECT 'ada@raw' AS email UNION ALL SELECT email FROM users",
        "SELECT email FROM users UNION ALL SELECT name || '@raw' FROM users",
    ],
)
async def test_nothing_hashes_a_guess(connect: Connect, policy: Any, guess: str) -> None:
    conn = await connect(policy=policy())
    hashes = set(await run((await run(conn.execute("SELECT email FROM users"))).fetchall()))
    assert len(hashes) == 3
    rows = await run((await run(conn.execute(guess))).fetchall())
    assert {row for row in rows if row != (None,)} in (set(), hashes)
    assert_nothing_raw(rows)
    await run(conn.rollback())


async def test_values_do_not_share_an_output_with_a_keyed_hash(connect: Connect, policy: Any) -> None:
    conn = await connect(policy=policy())
    for text in (
        "SELECT email FROM users UNION ALL VALUES ('x')",
        "VALUES ('x') UNION ALL SELECT email FROM users",
    ):
        with pytest.raises(guarddb.PolicyViolation) as caught:
            await run(conn.execute(text))
        assert caught.value.rule == "masked_column_expression"
    with pytest.raises(guarddb.PolicyViolation) as caught:
        await run(conn.execute("WITH w AS (SELECT email FROM users) TABLE w"))
    assert caught.value.rule == "masked_column_expression"


# ---------------------------------------------------------------------- names that are on their way


@pytest.mark.parametrize("way", ["stream", "copy"])
async def test_a_portal_that_another_way_opened_keeps_its_own_plan(
    connect: Connect, policy: Any, way: str
) -> None:
    conn = await connect(policy=policy())
    await run(conn.execute("SAVEPOINT s"))
    await run(conn.execute(f"DECLARE x CURSOR FOR {HARMLESS}"))
    await run(conn.execute("ROLLBACK TO s"))
    declare = f"DECLARE x CURSOR FOR {MIXED}"
    with pytest.raises(psycopg.ProgrammingError):
        await (collect(conn.cursor().stream(declare)) if way == "stream" else copied(conn, declare))
    await run(conn.execute("SAVEPOINT t"))
    with pytest.raises(psycopg.DataError):
        await run(conn.execute("SELECT 1 / 0"))
    await run(conn.execute("ROLLBACK TO t"))
    cur = await run(conn.execute("FETCH ALL FROM x"))
    rows = await run(cur.fetchall())
    assert len(rows) == 6
    assert_nothing_raw(rows)
    await run(conn.rollback())


@pytest.mark.parametrize("text", ["ROLLBACK TO s", "rollback work to savepoint S", "block", "ROLLBACK"])
async def test_names_of_what_was_undone_are_not_known_any_more(
    connect: Connect, policy: Any, text: str
) -> None:
    """A function may give the name to another portal, of which nothing is known."""
    conn = await connect(policy=policy())
    await run(conn.execute("DECLARE outer_one CURSOR FOR SELECT name FROM users"))
    if text == "block":
        async with block(conn.transaction('a "quoted" name', force_rollback=True)):
            await run(conn.execute("DECLARE x CURSOR FOR SELECT 1"))
    else:
        await run(conn.execute("SAVEPOINT s"))
        await run(conn.execute("DECLARE x CURSOR WITH HOLD FOR SELECT 1"))
        await run(conn.execute(text))
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("FETCH ALL FROM x"))
    if text != "ROLLBACK":
        assert len(await run((await run(conn.execute("FETCH ALL FROM outer_one"))).fetchall())) == 3
    await run(conn.rollback())


async def test_a_savepoint_that_failed_is_none(connect: Connect, policy: Any) -> None:
    conn = await connect(policy=policy())
    await run(conn.execute("SAVEPOINT s"))
    await run(conn.execute("DECLARE x CURSOR FOR SELECT 1"))
    for text in ("SELECT 1 / 0", "SAVEPOINT s"):
        with pytest.raises(psycopg.Error):
            await run(conn.execute(text))
    await run(conn.execute("ROLLBACK TO s"))
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("FETCH ALL FROM x"))
    await run(conn.rollback())


async def test_several_openings_of_a_name_in_a_pipeline(connect: Connect, policy: Any) -> None:
    conn = await connect(policy=policy())
    await run(conn.execute("SAVEPOINT s"))
    await run(conn.execute(f"DECLARE x CURSOR FOR {HARMLESS}"))
    await run(conn.execute("ROLLBACK TO s"))
    texts = (f"DECLARE x CURSOR FOR {MIXED}", "SAVEPOINT t", "DECLARE x CURSOR FOR SELECT 1")
    with pytest.raises(psycopg.Error):
        await pipelined(conn, texts)
    await run(conn.execute("ROLLBACK TO t"))
    with suppress(guarddb.PolicyViolation):
        assert_nothing_raw(await rows_of(conn, "FETCH ALL FROM x"))
    await run(conn.rollback())


def test_a_class_with_psycopgs_before_guarddbs_is_not_made() -> None:
    with pytest.raises(TypeError, match="must stand before"):
        type("Mixed", (psycopg.ClientCursor, guarddb.Cursor), {})
    with pytest.raises(TypeError, match="server cursor"):
        type("Mixed", (guarddb.Cursor, psycopg.ServerCursor), {})
    assert type("Fine", (guarddb.ServerCursor,), {})


@pytest.mark.parametrize("by", ["text", "method"])
async def test_a_commit_that_fails_closes_what_it_would_have_held(
    connect: Connect, policy: Any, dsn: str, by: str
) -> None:
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("CREATE TABLE IF NOT EXISTS late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    conn = await connect(policy=policy())
    await run(conn.execute("DECLARE old CURSOR WITH HOLD FOR SELECT 1"))
    await run(conn.commit())
    await run(conn.execute("DECLARE x CURSOR WITH HOLD FOR SELECT 1"))
    await run(conn.execute("INSERT INTO late VALUES (1), (1)"))
    with pytest.raises(psycopg.errors.UniqueViolation):
        await (run(conn.commit()) if by == "method" else run(conn.execute("COMMIT")))
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("FETCH ALL FROM x"))
    assert await run((await run(conn.execute("FETCH ALL FROM old"))).fetchall()) == [(1,)]
    await run(conn.rollback())


async def test_begin_within_a_transaction_begins_none(connect: Connect, policy: Any) -> None:
    conn = await connect(policy=policy())
    await run(conn.execute("DECLARE x CURSOR WITH HOLD FOR SELECT 1"))
    await run(conn.execute("BEGIN"))
    await run(conn.execute("ROLLBACK"))
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("FETCH ALL FROM x"))
    await run(conn.rollback())


async def test_a_result_that_cannot_be_set_up_is_not_there(connect: Connect, policy: Any) -> None:
    class Broken(psycopg.adapt.Loader):
        def __init__(self, oid: int, context: Any = None) -> None:
            raise RuntimeError("no loader")

        def load(self, data: Any) -> Any:
            raise AssertionError

    conn = await connect(policy=policy())
    cur = conn.cursor()
    cur.adapters.register_loader("text", Broken)
    with pytest.raises(RuntimeError):
        await run(cur.execute("SELECT email, name FROM users"))
    assert cur.pgresult is None
    with pytest.raises(psycopg.ProgrammingError):
        await run(cur.fetchall())
    await run(conn.rollback())


@pytest.mark.parametrize(
    "guess",
    [
        "SELECT x FROM (SELECT email AS x FROM users WHERE false UNION ALL SELECT 'ada@raw') q",
        "SELECT q.* FROM (SELECT email AS x FROM users UNION ALL SELECT name || '@raw' FROM users) q",
        "WITH q(x) AS (SELECT email FROM users UNION ALL SELECT 'ada@raw') SELECT x FROM q",
        "WITH RECURSIVE q(x) AS (SELECT email FROM users UNION ALL SELECT 'ada@raw' FROM q WHERE false) SELECT x FROM q",
        "SELECT l.x FROM users u, LATERAL (SELECT u.email AS x UNION ALL SELECT 'ada@raw') l",
        "SELECT name FROM users UNION ALL SELECT x FROM (SELECT email AS x FROM users UNION ALL SELECT 'bob@raw') q",
        "SELECT x FROM (SELECT email AS x FROM users UNION ALL (SELECT 'a' UNION ALL SELECT 'ada@raw')) q",
    ],
)
async def test_nothing_hashes_a_guess_further_down(connect: Connect, policy: Any, guess: str) -> None:
    conn = await connect(policy=policy())
    hashes = await run((await run(conn.execute("SELECT email FROM users"))).fetchall())
    rows = await run((await run(conn.execute(guess))).fetchall())
    shown = [row for row in rows if row != (None,)]
    assert sorted(shown) == (sorted(hashes) if "WHERE false UNION" not in guess else [])
    await run(conn.rollback())


async def test_values_further_down_are_refused(connect: Connect, policy: Any) -> None:
    conn = await connect(policy=policy())
    with pytest.raises(guarddb.PolicyViolation) as caught:
        await run(conn.execute("SELECT x FROM (SELECT email AS x FROM users UNION ALL VALUES ('ada@raw')) q"))
    assert caught.value.rule == "masked_column_expression"


@pytest.mark.parametrize("commits", [1, 2])
async def test_commits_behind_an_error_in_a_pipeline(connect: Connect, policy: Any, commits: int) -> None:
    conn = await connect(policy=policy())
    declare = "DECLARE y CURSOR WITH HOLD FOR SELECT id, name FROM users"
    slow = "SELECT count(*) FROM generate_series(1, 200000)"
    with pytest.raises(psycopg.Error):
        await pipelined(conn, [slow, declare, "SELECT 1 / 0", *["COMMIT"] * commits])
    await run(conn.rollback())
    with pytest.raises(guarddb.PolicyViolation):
        await run(conn.execute("FETCH ALL FROM y"))


async def test_a_commit_in_a_pipeline_is_forgotten_when_it_is_answered(connect: Connect, policy: Any) -> None:
    conn = await connect(policy=policy())
    async with block(conn.pipeline()), block(conn.transaction()):
        await run(conn.execute("SELECT 1"))
    async with block(conn.transaction()), block(conn.cursor("k")) as cur:
        await run(cur.execute("SELECT id FROM users ORDER BY id"))
        assert await run(cur.fetchone()) == (1,)
        with suppress(psycopg.DataError):
            async with block(conn.transaction()):
                await run(conn.execute("SELECT 1 / 0"))
        assert await run(cur.fetchone()) == (2,)


async def test_a_batch_that_fails_within_a_savepoint_closes_no_cursor(connect: Connect, policy: Any) -> None:
    conn = await connect(policy=policy())
    async with block(conn.cursor("k")) as cur:
        await run(cur.execute("SELECT id FROM users ORDER BY id"))
        assert await run(cur.fetchone()) == (1,)
        with suppress(psycopg.DataError):
            async with block(conn.transaction()):
                await run(conn.cursor().executemany("SELECT 1 / %s", [(1,), (0,)]))
        assert await run(cur.fetchone()) == (2,)
    await run(conn.rollback())
