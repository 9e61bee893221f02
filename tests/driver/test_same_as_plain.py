"""Where the policy forbids nothing of what is done, what happens is what happens with plain psycopg.

In three ways: under a policy that forbids nothing at all, observing only, and with masks, filters, caps and budgets in force that
are about other tables or too wide to matter.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from psycopg import pq, sql
from psycopg.rows import class_row, dict_row, namedtuple_row, scalar_row

import guarddb
from guarddb.vocabulary import FLOOR_RULES, KINDS
from tests.driver.conftest import block, collect, open_policy, run

Scenario = Callable[[Any], Awaitable[Any]]
SCENARIOS: list[Scenario] = []
#: Those that only a policy which forbids nothing at all lets through.
UNREAD: set[Scenario] = set()


def scenario(function: Scenario) -> Scenario:
    SCENARIOS.append(function)
    return function


def unread(function: Scenario) -> Scenario:
    UNREAD.add(function)
    return scenario(function)


def state(cur: Any) -> tuple[Any, ...]:
    """All that a cursor shows."""
    columns = cur.description and [(column.name, column.type_code) for column in cur.description]
    return (columns, cur.rowcount, cur.rownumber, cur.statusmessage, cur.connection.info.transaction_status)


def sibling(conn: Any, name: str) -> Any:
    return getattr(psycopg, ("Async" if isinstance(conn, psycopg.AsyncConnection) else "") + name)


async def failure(operation: Callable[[], Any]) -> str:
    """The class of the error that an operation ends in."""
    try:
        await run(operation())
    except psycopg.Error as ex:
        return f"{type(ex).__name__} {ex.sqlstate}"
    return "no error"


@scenario
async def select_with_parameters(conn: Any) -> Any:
    cur = await run(conn.execute("SELECT %s::int AS a", (1,)))
    return state(cur), await run(cur.fetchall()), state(cur)


@scenario
async def named_parameters_and_percent(conn: Any) -> Any:
    cur = await run(conn.execute("SELECT %(a)s::int %% 2, '%%', %(a)s::int", {"a": 5}))
    return state(cur), await run(cur.fetchall())


@scenario
async def binary_results(conn: Any) -> Any:
    cur = await run(conn.cursor(binary=True).execute("SELECT 1::int8, now() IS NOT NULL, 'x'::bytea"))
    return cur.pgresult.fformat(0), await run(cur.fetchall())


@scenario
async def errors_at_execution(conn: Any) -> Any:
    cur = conn.cursor()
    first = await failure(lambda: cur.execute("SELECT 1/0"))
    return (
        first,
        state(cur),
        await failure(lambda: cur.execute("SELECT 1")),
        await failure(lambda: cur.fetchone()),
    )


@scenario
async def errors_of_conversion(conn: Any) -> Any:
    return [
        await failure(lambda: conn.execute("SELECT %s", ())),
        await failure(lambda: conn.execute("SELECT %s %(a)s", (1,))),
        await failure(lambda: conn.execute("SELECT %x", (1,))),
    ]


@scenario
async def several_statements(conn: Any) -> Any:
    cur = await run(
        conn.execute("CREATE TEMP TABLE s (a int); INSERT INTO s VALUES (1), (2); TABLE s; SELECT 1")
    )
    states = [state(cur)]
    while cur.nextset():
        states.append(state(cur))
    if hasattr(cur, "set_result"):  # new in psycopg 3.3
        await run(cur.set_result(2))
    return states, await run(cur.fetchall())


@scenario
async def writes(conn: Any) -> Any:
    cur = conn.cursor()
    states = []
    for text in (
        "CREATE TEMP TABLE w (a int PRIMARY KEY, b text)",
        "INSERT INTO w SELECT i, 'x' FROM generate_series(1, 5) AS i",
        "UPDATE w SET b = 'y' WHERE a > 2 RETURNING a",
        "DELETE FROM w WHERE a = 1",
        "INSERT INTO w VALUES (2, 'z') ON CONFLICT (a) DO UPDATE SET b = excluded.b RETURNING *",
    ):
        await run(cur.execute(text))
        states.append(state(cur))
    failed = await failure(lambda: cur.execute("INSERT INTO w VALUES (2, 'z')"))
    return states, failed, state(cur)


@scenario
async def executemany(conn: Any) -> Any:
    cur = conn.cursor()
    await run(cur.execute("CREATE TEMP TABLE m (a int)"))
    await run(cur.executemany("INSERT INTO m VALUES (%s)", [(1,), (2,), (3,)]))
    states = [state(cur)]
    await run(cur.executemany("INSERT INTO m VALUES (%s) RETURNING a", [(4,), (5,)], returning=True))
    states.append((state(cur), await run(cur.fetchall())))
    while cur.nextset():
        states.append((state(cur), await run(cur.fetchall())))
    await run(cur.executemany("INSERT INTO m VALUES (%s)", []))
    return states, state(cur)


@scenario
async def executemany_that_fails(conn: Any) -> Any:
    cur = conn.cursor()
    await run(cur.execute("CREATE TEMP TABLE f (a int)"))
    failed = await failure(lambda: cur.executemany("INSERT INTO f VALUES (%s)", [(1,), ("x",), (3,)]))
    return failed, conn.info.transaction_status


@scenario
async def client_cursor(conn: Any) -> Any:
    cur = sibling(conn, "ClientCursor")(conn)
    await run(cur.execute("SELECT %s, %s, %s", (1, "it's", None)))
    rows = await run(cur.fetchall())
    await run(cur.execute("CREATE TEMP TABLE c (a int)"))
    await run(cur.executemany("INSERT INTO c VALUES (%s)", [(1,), (2,)]))
    return (
        rows,
        state(cur),
        cur.mogrify("SELECT %s", ("x",)),
        await failure(lambda: cur.execute("SELECT 1", binary=True)),
    )


@scenario
async def raw_cursor(conn: Any) -> Any:
    cur = sibling(conn, "RawCursor")(conn)
    await run(cur.execute("SELECT $1::int + $2::int, '%'", [1, 2]))
    return state(cur), await run(cur.fetchall())


@scenario
async def server_cursor(conn: Any) -> Any:
    out: list[Any] = []
    async with block(conn.cursor("c", scrollable=True)) as cur:
        out.append(state(cur))
        await run(cur.execute("SELECT generate_series(1, %s) AS n", (7,)))
        out.append(state(cur))
        out += [await run(cur.fetchone()), await run(cur.fetchmany(2)), cur.rownumber]
        await run(cur.scroll(-1))
        out.append(await run(cur.fetchone()))
        await run(cur.scroll(0, mode="absolute"))
        cur.itersize = 3
        out.append(await collect(cur))
        out.append(await run(cur.fetchone()))
        await run(cur.execute("SELECT 'again'"))
        out.append(await run(cur.fetchall()))
    out.append((cur.closed, conn.info.transaction_status))
    return out


@scenario
async def server_cursor_with_hold_and_stealing(conn: Any) -> Any:
    out: list[Any] = []
    async with block(conn.cursor("h", withhold=True)) as cur:
        await run(cur.execute("SELECT generate_series(1, 4)"))
        await run(conn.commit())
        out.append(await run(cur.fetchmany(2)))
    await run(conn.execute("DECLARE d CURSOR FOR SELECT generate_series(1, 4)"))
    async with block(conn.cursor("d")) as cur:
        out.append(await run(cur.fetchone()))
        out.append(await collect(cur))
    async with block(conn.cursor("nowhere")) as cur:
        out.append(await failure(lambda: cur.fetchone()))
    return out


@scenario
async def server_cursor_across_transactions(conn: Any) -> Any:
    out: list[Any] = []
    for hold, end in ((False, conn.commit), (False, conn.rollback), (True, conn.commit)):
        async with block(conn.cursor("across", withhold=hold)) as cur:
            await run(cur.execute("SELECT generate_series(1, 3)"))
            out.append(await run(cur.fetchone()))
            await run(end())
            out.append(await failure(lambda: cur.fetchone()))
            out.append(conn.info.transaction_status)
            await run(conn.rollback())
            out.append(await failure(lambda: cur.execute("SELECT generate_series(4, 6)")))
            out.append(await failure(lambda: cur.fetchall()))
            out.append(state(cur))
        await run(conn.rollback())
    return out


@scenario
async def streams(conn: Any) -> Any:
    cur = conn.cursor()
    out = [await collect(cur.stream("SELECT generate_series(1, %s)", (4,)))]
    out.append(await collect(cur.stream("SELECT generate_series(1, 5)", size=2)))
    for text in ("SELECT 1/0", "CREATE TEMP TABLE st (a int)"):
        try:
            await collect(cur.stream(text))
        except psycopg.Error as ex:
            out.append([type(ex).__name__])
        await run(conn.rollback())
    first = []
    if hasattr(gen := cur.stream("SELECT generate_series(1, 100000)"), "__aiter__"):
        first.append(await anext(gen))
        await gen.aclose()
    else:
        first.append(next(gen))
        gen.close()
    return out, first, conn.info.transaction_status


@scenario
async def copies(conn: Any) -> Any:
    await run(conn.execute("CREATE TEMP TABLE cp (a int, b text)"))
    cur = conn.cursor()
    async with block(cur.copy("COPY cp FROM STDIN")) as copy:
        for row in ((1, "x"), (2, None)):
            await run(copy.write_row(row))
    out: list[Any] = [state(cur)]
    async with block(cur.copy("COPY cp TO STDOUT")) as copy:
        out.append([bytes(data) for data in await collect(copy)])
    out.append(state(cur))
    async with block(
        cur.copy("COPY (SELECT * FROM cp WHERE a = %s) TO STDOUT (FORMAT binary)", (1,))
    ) as copy:
        copy.set_types(["int4", "text"])
        out.append(await collect(copy.rows()))
    async with block(cur.copy("COPY cp TO STDOUT")) as copy:
        out += [await run(copy.read_row()) for _ in range(3)]
    try:
        async with block(cur.copy("SELECT 1")):
            pass
    except psycopg.ProgrammingError as ex:
        out.append(str(ex))
    await run(conn.rollback())
    out.append(await failure(lambda: conn.execute("COPY (SELECT 1) TO STDOUT")))
    return out


@scenario
async def pipelines(conn: Any) -> Any:
    async with block(conn.pipeline()) as pipeline:
        await run(conn.execute("CREATE TEMP TABLE pl (a int)"))
        one = await run(conn.execute("INSERT INTO pl VALUES (1), (2) RETURNING a"))
        two = await run(conn.execute("SELECT count(*) FROM pl"))
        await run(pipeline.sync())
        middle = (state(one), await run(one.fetchall()), await run(two.fetchall()))
        three = conn.cursor()
        await run(three.executemany("INSERT INTO pl VALUES (%s) RETURNING a", [(3,), (4,)], returning=True))
    rows = await run(three.fetchall())
    return middle, rows, three.nextset(), await run(three.fetchall()), state(three)


@scenario
async def pipeline_that_fails(conn: Any) -> Any:
    # Which call reports the error depends on when it arrives.
    out = []
    try:
        async with block(conn.pipeline()) as pipeline:
            cur = await run(conn.execute("SELECT 1/0"))
            await run(conn.execute("SELECT 1"))
            await run(pipeline.sync())
    except psycopg.Error as ex:
        out.append(type(ex).__name__)
    return out, state(cur), conn.info.transaction_status


@scenario
async def transactions(conn: Any) -> Any:
    out: list[Any] = []
    async with block(conn.transaction()):
        await run(conn.execute("CREATE TEMP TABLE tx (a int)"))
        try:
            async with block(conn.transaction()):
                await run(conn.execute("INSERT INTO tx VALUES (1)"))
                await run(conn.execute("SELECT 1/0"))
        except psycopg.errors.DivisionByZero:
            out.append(conn.info.transaction_status)
        async with block(conn.transaction("named")):
            await run(conn.execute("INSERT INTO tx VALUES (2)"))
        async with block(conn.transaction(force_rollback=True)):
            await run(conn.execute("INSERT INTO tx VALUES (3)"))
    out.append(await run((await run(conn.execute("TABLE tx"))).fetchall()))
    out.append(conn.info.transaction_status)
    return out


@scenario
async def transaction_control_by_text(conn: Any) -> Any:
    await run(conn.set_autocommit(True))
    out: list[Any] = []
    for text in ("BEGIN", "SAVEPOINT s", "SELECT 1", "ROLLBACK TO s", "RELEASE s", "COMMIT"):
        cur = await run(conn.execute(text))
        out.append((cur.statusmessage, conn.info.transaction_status))
    return out


@scenario
async def transaction_characteristics(conn: Any) -> Any:
    await run(conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE))
    await run(conn.set_read_only(True))
    await run(conn.set_deferrable(True))
    names = ("transaction_isolation", "transaction_read_only", "transaction_deferrable")
    out = [await run((await run(conn.execute(f"SHOW {name}"))).fetchone()) for name in names]
    return out, await failure(lambda: conn.execute("CREATE TABLE never (a int)"))


@scenario
async def prepared_statements(conn: Any) -> Any:
    cur = conn.cursor()
    for number in range(8):
        await run(cur.execute("SELECT %s::int", (number,)))
    await run(conn.execute("SELECT 'always'", prepare=True))
    names = [(key, name) for key, name in conn._prepared._names.items()]
    await run(conn.rollback())
    return names, len(conn._prepared._names)


@scenario
async def row_factories(conn: Any) -> Any:
    class Point:
        def __init__(self, x: int, y: int) -> None:
            self.at = (x, y)

    out: list[Any] = []
    for factory in (dict_row, namedtuple_row, scalar_row):
        cur = conn.cursor(row_factory=factory)
        await run(cur.execute("SELECT 1 AS x, 2 AS y"))
        out.append(await run(cur.fetchone()))
    cur = conn.cursor(row_factory=class_row(Point))
    await run(cur.execute("SELECT 1 AS x, 2 AS y"))
    out.append((await run(cur.fetchone())).at)
    return out


@scenario
async def composed_queries(conn: Any) -> Any:
    query = sql.SQL("SELECT {} AS {}").format(sql.Literal("l'il"), sql.Identifier('we"ird'))
    cur = await run(conn.execute(query))
    return state(cur), await run(cur.fetchall())


@scenario
async def results_and_scroll(conn: Any) -> Any:
    cur = await run(conn.execute("SELECT generate_series(1, 5)"))
    out: list[Any] = [await run(cur.fetchmany(2))]
    await run(cur.scroll(1))
    out.append(await run(cur.fetchone()))
    await run(cur.scroll(0, mode="absolute"))
    out.append(await collect(cur))
    with pytest.raises(IndexError):
        await run(cur.scroll(9))
    await run(cur.close())
    return out, cur.closed, await failure(lambda: cur.fetchone())


@scenario
async def empty_and_no_result(conn: Any) -> Any:
    cur = await run(conn.execute(""))
    return (
        state(cur),
        await failure(lambda: cur.fetchone()),
        conn.info.transaction_status,
        repr(cur).split()[1:3],
    )


@scenario
async def notices(conn: Any) -> Any:
    heard: list[tuple[str | None, str | None]] = []
    conn.add_notice_handler(lambda diag: heard.append((diag.severity, diag.message_primary)))
    await run(conn.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$"))
    await run(conn.execute("CREATE TEMP TABLE IF NOT EXISTS n (a int)"))
    await run(conn.execute("CREATE TEMP TABLE IF NOT EXISTS n (a int)"))
    return heard


@scenario
async def two_phase(conn: Any) -> Any:
    xid = conn.xid(1, f"same-{os.getpid()}-{id(conn)}", "b")
    await run(conn.tpc_begin(xid))
    await run(conn.execute("SELECT 1"))
    await run(conn.tpc_prepare())
    status = conn.info.transaction_status
    await run(conn.tpc_rollback())
    gone = [each for each in await run(conn.tpc_recover()) if each.gtrid == xid.gtrid]
    return status, gone, conn.info.transaction_status


@scenario
async def types_and_adapters(conn: Any) -> Any:
    values = (1, 2.5, "t", b"b", None, [1, 2], {"a"} and True)
    cur = await run(conn.execute("SELECT %s, %s, %s, %s, %s::text, %s, %s", values))
    rows = await run(cur.fetchall())
    conn.adapters.register_loader("int4", psycopg.types.string.TextLoader)
    return rows, await run((await run(conn.execute("SELECT 1"))).fetchone())


@scenario
async def lost_connection(conn: Any) -> Any:
    with psycopg.connect(conn.info.dsn, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (conn.info.backend_pid,))
    return (
        await failure(lambda: conn.execute("SELECT 1")),
        conn.closed,
        conn.broken,
        await failure(lambda: conn.execute("SELECT 1")),
    )


@scenario
async def interrupted_by_a_timeout(conn: Any) -> Any:
    await run(conn.execute("SET LOCAL statement_timeout = '20ms'"))
    failed = await failure(lambda: conn.execute("SELECT pg_sleep(10)"))
    return failed, pq.TransactionStatus(conn.info.transaction_status).name


@unread
async def text_that_is_no_sql(conn: Any) -> Any:
    async def server_cursor() -> None:
        async with block(conn.cursor("named")) as cur:
            await run(cur.execute("wat"))

    found: list[Any] = []
    for operation in (
        lambda: conn.execute("wat"),
        lambda: conn.execute("wat", (1,)),
        lambda: conn.execute("SELECT 1; wat"),
        lambda: conn.execute("SELECT 1 FROM (" * 600),
        lambda: conn.cursor().executemany("wat %s", [(1,), (2,)]),
        lambda: collect(conn.cursor().stream("wat")),
        server_cursor,
        lambda: sibling(conn, "ClientCursor")(conn).execute("wat %s", ("x",)),
    ):
        await run(conn.execute("SELECT 1"))
        found.append((await failure(operation), pq.TransactionStatus(conn.info.transaction_status).name))
        found.append(await failure(lambda: conn.execute("SELECT 1")))
        await run(conn.rollback())
    return found


@unread
async def text_that_is_no_sql_in_a_copy(conn: Any) -> Any:
    async def copy() -> None:
        async with block(conn.cursor().copy("COPY wat")):
            pass

    return await failure(copy), pq.TransactionStatus(conn.info.transaction_status).name


@unread
async def text_that_is_no_sql_in_a_pipeline(conn: Any) -> Any:
    async def pipeline() -> None:
        async with block(conn.pipeline()):
            await run(conn.execute("SELECT 1"))
            await run(conn.execute("wat"))
            await run(conn.execute("SELECT 2"))

    failed = await failure(pipeline)
    await run(conn.rollback())
    return failed, await run((await run(conn.execute("SELECT 3"))).fetchone())


@unread
async def views_of_the_session(conn: Any) -> Any:
    async with block(conn.cursor("mine", withhold=True)) as cur:
        await run(cur.execute("SELECT 1 AS a"))
        seen = await run((await run(conn.execute("SELECT name, is_holdable FROM pg_cursors"))).fetchall())
    await run(conn.execute("PREPARE p AS SELECT 1"))
    return seen, await run((await run(conn.execute("SELECT name FROM pg_prepared_statements"))).fetchall())


@unread
async def another_client_encoding(conn: Any) -> Any:
    found = []
    for change in ("SET client_encoding = 'latin9'", "SELECT set_config('client_encoding', 'UTF8', false)"):
        await run(conn.execute(change))
        cur = await run(conn.execute("SELECT '\u20ac' AS \"\u20ac\"".encode(conn.pgconn._encoding)))
        found.append((state(cur), await run(cur.fetchall()), conn.pgconn._encoding))
    return found


@unread
async def prepared_transaction_in_sql(conn: Any) -> Any:
    await run(conn.set_autocommit(True))
    name = f"same-{os.getpid()}-{id(conn)}"
    cur = await run(conn.execute(f"BEGIN; PREPARE TRANSACTION '{name}'"))
    states = [state(cur)]
    found = await run(conn.tpc_recover())
    states.append(name in {xid.gtrid for xid in found})
    states.append(state(await run(conn.execute(f"ROLLBACK PREPARED '{name}'"))))
    return states


EVERYTHING: dict[str, Any] = {
    "guarddb": {"floor_exceptions": list(FLOOR_RULES), "function_allowlist": ["*"]},
    "statement_rules": {
        "allow": list(KINDS),
    },
}
#: Rules of every sort, about what no scenario touches.
ELSEWHERE: dict[str, Any] = {
    **EVERYTHING,
    # "elsewhere" is not in this database.
    "guarddb": {**EVERYTHING["guarddb"], "hash_key_env": "GUARDDB_TEST_KEY", "on_unknown": "warn"},
    "table_denylist": ["elsewhere"],
    "masking_rules": [{"table": "elsewhere", "column": "a", "kind": "hash"}],
    "row_filters": [{"table": "elsewhere", "predicate": "a > 1"}],
    "max_rows": 1_000_000,
    "budget_queries_per_hour": 1_000_000_000,
    "budget_queries_per_day": 1_000_000_000,
    "egress_bytes_per_day": 1 << 60,
}
#: What rules do change, and docs/compatibility.md says so.
CHANGED_BY_RULES: dict[str, str] = {
    "several_statements": "a text that creates a table and reads it cannot be judged in one go",
    "server_cursor_with_hold_and_stealing": "a portal that nobody opened is refused, not asked for",
    "prepared_statements": "max_rows writes a LIMIT into the text that is prepared",
    **dict.fromkeys((each.__name__ for each in UNREAD), "only sent where nothing is forbidden"),
}
MODES: dict[str, tuple[dict[str, Any], Any]] = {
    "nothing forbidden": (EVERYTHING, "enforce"),
    "observing": (ELSEWHERE, "observe"),
    "rules elsewhere": (ELSEWHERE, "enforce"),
}


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("what", SCENARIOS, ids=lambda what: what.__name__)
async def test_same_as_plain(
    dsn: str, what: Scenario, way: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields, enforcement = MODES[mode]
    if mode == "rules elsewhere" and what.__name__ in CHANGED_BY_RULES:
        pytest.skip(CHANGED_BY_RULES[what.__name__])
    monkeypatch.setenv("GUARDDB_TEST_KEY", "key")
    policy = open_policy(**fields)
    if way == "sync":
        plain: Any = psycopg.connect(dsn)
        mine: Any = guarddb.connect(dsn, policy=policy, enforcement=enforcement)
    else:
        plain = await psycopg.AsyncConnection.connect(dsn)
        mine = await guarddb.AsyncConnection.connect(dsn, policy=policy, enforcement=enforcement)
    try:
        expected = await what(plain)
        assert await what(mine) == expected
    finally:
        await run(plain.close())
        await run(mine.close())


def test_size() -> None:
    assert len(SCENARIOS) >= 35
    assert len(UNREAD) == 6
    assert len(CHANGED_BY_RULES) == 3 + len(UNREAD)
    assert CHANGED_BY_RULES.keys() <= {each.__name__ for each in SCENARIOS}
