"""A guarded connection behind a wall: the engine judges, PostgreSQL masks and filters."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

import guarddb
from guarddb.cli import main
from tests.driver.conftest import look_is_due
from tests.wall.conftest import made
from tests.wall.ground import PROFILE, Ground

ANN = hashlib.sha256(b"raw-ann@example.org").hexdigest()


@contextmanager
def walled(
    ground: Ground, *options: str, settings: dict[str, str] | None = None, **fields: Any
) -> Iterator[Any]:
    """The wall put up, and a guarded connection behind it."""
    extension = {"wall": ground.schema, **fields.pop("guarddb", {})}
    ground.policy = {"name": ground.stem, **PROFILE, **fields, "guarddb": extension}
    ground.up(*options)
    assert ground.levels() == set()
    with guarddb.connect(
        ground.agent, policy=ground.policy, settings=settings or {}, autocommit=True
    ) as conn:
        yield conn


def connected(ground: Ground, **options: Any) -> Any:
    return guarddb.connect(ground.agent, policy=ground.policy, autocommit=True, **options)


@pytest.mark.parametrize("options", ["", "VERBOSE ", "(FORMAT JSON) ", "(COSTS, MEMORY) "])
@pytest.mark.parametrize("table", ["docs", "customers", "titles", "people"])
def test_explain_shows_no_estimates(walled_ground18: Ground, table: str, options: str) -> None:
    with walled(walled_ground18) as conn:
        plan = str(conn.execute(f"EXPLAIN {options}SELECT * FROM {table}".encode()).fetchall()).lower()
        assert "scan" in plan
        assert not re.search("cost|rows=|plan rows|width|memory", plan)
        open_to_all = str(conn.execute(f"EXPLAIN {options}SELECT * FROM plain".encode()).fetchall())
        assert re.search("cost=|Plan Rows", open_to_all)


def test_masks_and_filters_are_the_servers(ground: Ground) -> None:
    with walled(ground) as conn:
        cur = conn.execute("SELECT id, ssn, email, born, low FROM customers ORDER BY id")
        assert cur.fetchall()[0] == (1, "[redacted]", ANN, None, "[redacted]")
        assert cur.decision.verdict == "mask"
        sent = f'SELECT id, ssn, email, born, low FROM "{ground.schema}"."customers" ORDER BY id'
        assert cur.decision.rewritten_sql == sent
        cur = conn.execute(
            "SELECT d.title, c.ssn FROM public.docs d JOIN customers c ON c.id = d.customer_id ORDER BY 1"
        )
        assert cur.fetchall() == [("one", "[redacted]"), ("two", "[redacted]")]
        assert cur.decision.verdict == "row-filter"
        assert cur.decision.row_filter_predicate == "tenant = 1"
        assert conn.execute("SELECT * FROM titles ORDER BY id").fetchall() == [
            (1, "one", "Ann"),
            (2, "two", "Bob"),
        ]


def test_the_engine_judges_as_always(ground18: Ground) -> None:
    with walled(ground18) as conn:
        for statement, rule in (
            ("SELECT upper(ssn) FROM customers", "masked_column_expression"),
            ("SELECT id FROM customers WHERE ssn = 'raw-1'", "masked_column_predicate"),
            ("SELECT * FROM secrets", "table_denied"),
            ("DELETE FROM docs", "whereless_write"),
            ("SELECT peek()", "function_not_allowed"),
            ("SET search_path = public", "search_path_change"),
            ("SELECT * FROM stored", "row_filter_unsafe"),
        ):
            with pytest.raises(guarddb.PolicyViolation) as refused:
                conn.execute(statement)
            assert refused.value.rule == rule, statement


def test_a_hole_in_the_engine_opens_nothing(ground18: Ground) -> None:
    """What another session of the same role is told, without any engine."""
    with walled(ground18) as conn:
        conn.pgconn.exec_(b"SELECT 1")
        raw = conn.pgconn.exec_(b"SELECT ssn FROM public.customers")
        assert b"permission denied" in (raw.error_field(psycopg.pq.DiagnosticField.MESSAGE_PRIMARY) or b"")
        raw = conn.pgconn.exec_(f"SELECT ssn FROM {ground18.schema}.customers WHERE id = 1".encode())
        assert raw.get_value(0, 0) == b"[redacted]"


@pytest.fixture(scope="module")
def bare_and_walled(server_dsn: str) -> Iterator[tuple[Ground, Ground]]:
    """The same without a wall and behind one, for statements that are undone."""
    schema = (Path(__file__).parent / "ground.sql").read_text()
    for bare in made(server_dsn, schema):
        for behind in made(server_dsn, schema):
            with walled(behind):
                yield bare, behind


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT public.docs.title FROM public.docs ORDER BY public.docs.id",
        "SELECT docs.* FROM docs ORDER BY docs.id",
        "SELECT public.docs.* FROM public.docs",
        'SELECT "docs".id FROM "public"."docs" WHERE docs.tenant = 1',
        "TABLE docs",
        "SELECT x.title FROM docs AS x (a, b, title) ORDER BY a",
        "WITH docs AS (SELECT 1 AS id) SELECT id FROM docs",
        "WITH docs AS (SELECT id FROM public.docs) SELECT id FROM docs",
        "SELECT (SELECT count(*) FROM docs), count(*) FROM plain, LATERAL (SELECT title FROM docs WHERE docs.id = plain.doc) l",
        "SELECT count(*) FROM docs a FULL JOIN customers b ON a.customer_id = b.id",
        "SELECT id FROM docs UNION ALL SELECT id FROM plain ORDER BY 1",
        "EXPLAIN (COSTS OFF) SELECT title FROM docs",
        "DECLARE c CURSOR WITH HOLD FOR SELECT id FROM docs",
        "PREPARE p AS SELECT id FROM docs WHERE id = $1",
        "UPDATE docs SET title = docs.title || '!' FROM plain WHERE plain.doc = docs.id RETURNING docs.id, title",
        "UPDATE public.docs AS d SET title = 'x' WHERE d.id = 1 RETURNING d.title",
        "DELETE FROM docs USING plain WHERE plain.doc = docs.id AND plain.word = 'a' RETURNING docs.id",
        "INSERT INTO public.docs (id, tenant, title) SELECT id + 100, 1, word FROM plain RETURNING docs.id",
        "INSERT INTO docs VALUES (1, 1, 'again') ON CONFLICT (id) DO UPDATE SET title = docs.title || excluded.title RETURNING *",
        "MERGE INTO docs USING plain ON plain.doc = docs.id WHEN MATCHED THEN UPDATE SET title = plain.word",
        "CREATE TEMP TABLE mine AS SELECT id, title FROM docs",
        "SELECT count(*) FROM pg_type AS t, docs WHERE t.typname = 'int4'",
        "SELECT /* docs */ 'docs' AS docs FROM docs -- docs",
    ],
)  # fmt: skip
def test_names_in_every_place(bare_and_walled: tuple[Ground, Ground], statement: str) -> None:
    """The same as guarddb alone says over the tables."""
    bare, behind = bare_and_walled
    answers = []
    for conn in (
        guarddb.connect(bare.app, policy=bare.policy, autocommit=True),
        connected(behind),
    ):
        with conn:
            conn.execute("BEGIN")
            answers.append(outcome(conn, statement))
            conn.execute("ROLLBACK")
    theirs, ours = answers
    assert ours == theirs


def outcome(conn: Any, statement: str) -> Any:
    cursor = conn.execute(statement)
    if statement.startswith("EXPLAIN"):
        return cursor.statusmessage
    rows = sorted(cursor.fetchall(), key=repr) if cursor.description else None
    return cursor.statusmessage.split()[0], [c.name for c in cursor.description or ()], rows


def test_copy_of_a_table_is_a_copy_of_its_view(ground18: Ground) -> None:
    with walled(ground18) as conn, conn.cursor().copy("COPY docs (id, title) TO STDOUT") as copy:
        assert b"".join(bytes(b) for b in copy) == b"1\tone\n2\ttwo\n"


def test_tables_of_another_name_keep_theirs(ground18: Ground) -> None:
    ground18.as_owner(
        "CREATE SCHEMA hr",
        "CREATE TABLE hr.docs (id int, what text)",
        "INSERT INTO hr.docs VALUES (7, 'seven')",
        "CREATE TABLE hr.people (id int)",
    )
    with walled(ground18) as conn:
        assert conn.execute("SELECT docs.id, hr.docs.what FROM hr.docs").fetchall() == [(7, "seven")]
        assert conn.execute("TABLE hr.docs").fetchall() == [(7, "seven")]
        assert conn.execute(
            "UPDATE hr.docs SET what = docs.what || '!' WHERE docs.id = 7 RETURNING what"
        ).fetchall() == [("seven!",)]
        assert conn.execute("INSERT INTO hr.docs VALUES (8, 'x') RETURNING docs.id").fetchall() == [(8,)]
        assert conn.execute("SELECT count(*) FROM hr.people").fetchall() == [(0,)]


def test_caps_and_prepared_statements_and_server_cursors(ground18: Ground) -> None:
    with walled(ground18, max_rows=1) as conn:
        cur = conn.execute("SELECT id FROM docs")
        assert len(cur.fetchall()) == 1
        assert cur.truncated
        conn.execute("PREPARE p AS SELECT title FROM docs WHERE id = $1")
        assert conn.execute("EXECUTE p(3)").fetchall() == []
        with conn.transaction(), conn.cursor("c") as server:
            server.execute("SELECT ssn FROM customers ORDER BY id")
            assert server.fetchone() == ("[redacted]",)


def test_settings_as_constants_and_of_logins(ground18: Ground) -> None:
    filters = [{"table": "docs", "predicate": "tenant = current_setting('app.tenant')::int"}]
    values = {"app.tenant": "1"}
    with walled(ground18, "--settings", "app.tenant=1", settings=values, row_filters=filters) as conn:
        assert conn.execute("SELECT count(*) FROM docs").fetchone() == (2,)
    with pytest.raises(guarddb.PolicyUnavailable, match="out of date"):
        connected(ground18, settings={"app.tenant": "2"})
    ground18.wall("--drop")
    with pytest.raises(guarddb.PolicyUnavailable, match="not installed"):
        connected(ground18, settings=values)
    ground18.up()
    with pytest.raises(guarddb.PolicyUnavailable, match=r"another value of \"app\.tenant\""):
        connected(ground18, settings=values)
    line = (
        f"INSERT INTO {ground18.schema}_private.settings VALUES ('{ground18.agent_role}', 'app.tenant', '1')"
    )
    ground18.as_owner(line)
    with connected(ground18, settings=values) as conn:
        assert conn.execute("SELECT count(*) FROM docs").fetchone() == (2,)


@pytest.mark.parametrize(
    "change",
    [
        "GRANT SELECT ON customers TO {agent}",
        "ALTER TABLE docs DISABLE ROW LEVEL SECURITY",
        "DROP POLICY guarddb_{schema} ON docs",
        "ALTER TABLE docs ADD COLUMN extra int",
        "REVOKE SELECT ON {schema}.docs FROM {agent}",
        "CREATE OR REPLACE VIEW {schema}.plain AS SELECT id, upper(word) AS word, doc FROM public.plain",
        "COMMENT ON SCHEMA {schema} IS 'mine'",
        "GRANT pg_read_all_data TO {agent}",
    ],
)
def test_a_wall_with_a_gap_is_refused(
    ground18: Ground, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    with walled(ground18) as conn:
        assert conn.execute("SELECT count(*) FROM docs").fetchone() == (2,)
    ground18.as_admin(change.format(agent=ground18.agent_role, schema=ground18.schema))
    with pytest.raises(guarddb.PolicyUnavailable, match=f'the wall "{ground18.schema}" is not up') as refused:
        connected(ground18)
    assert "guarddb wall" in (refused.value.hint or "")

    # Unless the profile says to go on with what guarddb itself does: the role has no right on the tables, or it has.
    ground18.policy["guarddb"] = {**ground18.policy["guarddb"], "without_wall": "warn"}
    with caplog.at_level(logging.WARNING, "guarddb"), connected(ground18) as conn:
        assert "NOT UP" in caplog.text
        decision = conn.execute("SELECT 1").connection.execute("SELECT 2")
        assert decision.fetchone() == (2,)
        if "pg_read_all_data" in change:
            assert conn.execute("SELECT ssn FROM customers WHERE id = 1").fetchone() == ("[redacted]",)


def test_a_change_while_the_connection_is_open(ground18: Ground) -> None:
    with walled(ground18) as conn:
        assert conn.execute("SELECT count(*) FROM docs").fetchone() == (2,)
        ground18.as_owner("ALTER TABLE docs ADD COLUMN extra int")
        with pytest.raises(guarddb.PolicyUnavailable, match="out of date"):
            often(conn, "SELECT count(*) FROM docs")
        ground18.up()
        assert conn.execute("SELECT extra FROM docs LIMIT 1").fetchone() == (None,)


@pytest.mark.parametrize(
    "change",
    [
        "DROP POLICY guarddb_{schema} ON docs",
        "ALTER POLICY guarddb_{schema} ON docs USING (true)",
        "ALTER TABLE docs DISABLE ROW LEVEL SECURITY",
        "ALTER ROLE {stem}_reader BYPASSRLS",
        "ALTER ROLE {stem}_agent BYPASSRLS",
        "GRANT pg_read_all_data TO {stem}_agent",
        "GRANT {stem}_app TO {stem}_agent",
        "GRANT SELECT ON customers TO {stem}_agent",
        "GRANT SET ON PARAMETER log_statement TO {stem}_agent",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {stem}_owner GRANT SELECT ON TABLES TO {stem}_agent",
        "COMMENT ON SCHEMA {schema} IS 'mine'",
    ],
)
def test_a_gap_that_opens_behind_a_connection_is_found(ground18: Ground, change: str) -> None:
    """By the look at the catalog, so within its bound: no new connection is needed."""
    with walled(ground18) as conn:
        assert conn.execute("SELECT count(*) FROM docs").fetchone() == (2,)
        done = ground18.as_admin(change.format(stem=ground18.stem, schema=ground18.schema))
        assert not str(done)[:5].isdigit(), done
        with pytest.raises(guarddb.PolicyUnavailable, match="is not up"):
            often(conn, "SELECT count(*) FROM docs")
        with pytest.raises(guarddb.PolicyUnavailable, match="is not up"):
            conn.execute("SELECT count(*) FROM docs")


def test_another_value_for_the_login_is_noticed(ground18: Ground) -> None:
    filters = [{"table": "docs", "predicate": "tenant = current_setting('app.tenant')::int"}]
    with walled(ground18, "--settings", "app.tenant=1", settings={"app.tenant": "1"}, row_filters=filters):
        pass
    ground18.wall("--drop")
    ground18.up()
    line = "INSERT INTO {}_private.settings VALUES ('{}', 'app.tenant', '1')"
    ground18.as_owner(line.format(ground18.schema, ground18.agent_role))
    with connected(ground18, settings={"app.tenant": "1"}) as conn:
        assert conn.execute("SELECT count(*) FROM docs").fetchone() == (2,)
        ground18.as_owner(f"UPDATE {ground18.schema}_private.settings SET value = '2'")
        with pytest.raises(guarddb.PolicyUnavailable, match=r"another value of \"app\.tenant\""):
            often(conn, "SELECT count(*) FROM docs")
        ground18.as_owner(f"UPDATE {ground18.schema}_private.settings SET value = '1'")
        assert conn.execute("SELECT count(*) FROM docs").fetchone() == (2,)
        # With the function gone the wall is: no error of its own comes first, and the transaction does not end.
        ground18.wall("--drop")
        look_is_due(conn)
        with pytest.raises(guarddb.PolicyUnavailable, match="is not up"):
            often(conn, "SELECT count(*) FROM docs")


def often(conn: Any, statement: str) -> None:
    """The catalog is looked at again after a moment, however fast statements are."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        conn.execute(statement)


def test_another_role_is_refused(ground18: Ground) -> None:
    with walled(ground18) as conn:
        conn.execute("SELECT 1")
    with pytest.raises(guarddb.PolicyUnavailable, match="it is for the role"):
        guarddb.connect(ground18.app, policy=ground18.policy)


def test_observing_changes_nothing(ground18: Ground) -> None:
    with walled(ground18) as conn:
        conn.execute("SELECT 1")
    with connected(ground18, enforcement="observe") as conn:
        # The role's own search path, and the wall behind it.
        assert conn.execute("SELECT ssn FROM customers WHERE id = 1").fetchone() == ("[redacted]",)


async def test_the_async_connection_too(ground18: Ground) -> None:
    with walled(ground18) as conn:
        conn.execute("SELECT 1")
    async with await guarddb.AsyncConnection.connect(ground18.agent, policy=ground18.policy) as conn:
        cur = await conn.execute("SELECT ssn FROM customers WHERE id = 1")
        assert await cur.fetchone() == ("[redacted]",)


@pytest.mark.parametrize("name", ["public", "pg_wall", "", "a b", "x" * 51, 'a"b'])
def test_names_that_no_wall_can_have(name: str) -> None:
    with pytest.raises(guarddb.PolicyError):
        guarddb.PolicyProfile(name="x", guarddb={"wall": name})


def test_a_wall_stays_up_beside_the_trigger_that_announces_changes(
    ground18: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["catalog", "install-trigger", "--dsn", ground18.admin]) == 0
    capsys.readouterr()
    with walled(ground18) as conn:
        for _ in range(2):
            assert conn.execute("SELECT ssn FROM customers ORDER BY id").fetchone() == ("[redacted]",)
        assert conn._guard.freshness.hears
    assert ground18.levels() == set()


def test_only_a_parent(ground18: Ground) -> None:
    """A view says nothing of ONLY, so a parent has a second one; what has no children is read as always."""
    ground18.as_owner(
        "CREATE TABLE notes (id int PRIMARY KEY, tenant int, pin text, what text)",
        "CREATE TABLE old_notes (extra int) INHERITS (notes)",
        "CREATE TABLE notes_only (id int)",
        "INSERT INTO notes VALUES (1, 1, 'raw', 'a'), (2, 2, 'raw', 'secret')",
        "INSERT INTO old_notes VALUES (3, 1, 'raw', 'b', 5), (4, 2, 'raw', 'secret', 5)",
        "CREATE TABLE parts (id int, at int) PARTITION BY RANGE (at)",
        "CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (9)",
        "INSERT INTO parts VALUES (1, 1)",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ground18.stem}_app",
    )
    rules = [*PROFILE["masking_rules"], {"table": "notes", "column": "pin", "kind": "redact"}]
    filters = [*PROFILE["row_filters"], {"table": "notes", "predicate": "tenant = 1"}]
    statements = (
        "SELECT * FROM ONLY notes ORDER BY id",
        "SELECT notes.id, n.id FROM notes JOIN ONLY notes AS n USING (id)",
        "SELECT count(*) FROM ONLY (public.notes)",
        "SELECT count(*) FROM ONLY docs",
        "SELECT count(*) FROM ONLY parts",
        "SELECT id FROM notes ORDER BY id",
        "UPDATE ONLY notes SET what = 'x' WHERE id > 0 RETURNING id",
        "UPDATE notes SET what = 'y' WHERE id > 0 RETURNING id",
        "DELETE FROM ONLY notes WHERE id > 0 RETURNING id",
    )
    with walled(ground18, masking_rules=rules, row_filters=filters) as conn:
        told = [outcome(conn, statement) for statement in statements]
        with conn.cursor().copy("COPY notes (id, what) TO STDOUT") as copy:
            assert b"".join(bytes(data) for data in copy) == b""
    assert [rows for _, _, rows in told] == [
        [(1, 1, "[redacted]", "a")],
        [(1, 1)],
        [(1,)],
        [(2,)],
        [(0,)],
        [(1,), (3,)],
        [(1,)],
        [(1,), (3,)],
        [(1,)],
    ]
    assert ground18.as_agent("SELECT id FROM notes_only") == []
    assert ground18.as_admin("SELECT what FROM old_notes ORDER BY id") == [("y",), ("secret",)]


def test_a_parent_without_a_child_that_is_closed(ground18: Ground) -> None:
    """Denied, or under a filter that the parent has not: then the rows of the parent alone are what there is."""
    ground18.as_owner(
        "CREATE TABLE notes (id int PRIMARY KEY, tenant int, pin text)",
        "CREATE TABLE old_notes (extra int) INHERITS (notes)",
        "CREATE TABLE letters (id int)",
        "CREATE TABLE old_letters () INHERITS (letters)",
        "CREATE VIEW all_notes AS SELECT id FROM notes",
        "INSERT INTO notes VALUES (1, 1, 'raw'), (2, 2, 'raw')",
        "INSERT INTO old_notes VALUES (3, 1, 'raw', 5)",
        "INSERT INTO letters VALUES (1)",
        "INSERT INTO old_letters VALUES (2)",
    )
    fields: dict[str, Any] = {
        "table_denylist": ["secrets", "old_notes"],
        "masking_rules": [*PROFILE["masking_rules"], {"table": "notes", "column": "pin", "kind": "redact"}],
        "row_filters": [
            *PROFILE["row_filters"],
            {"table": "notes", "predicate": "tenant = 1"},
            {"table": "old_letters", "predicate": "id = 9"},
        ],
    }
    with walled(ground18, **fields) as conn:
        assert outcome(conn, "SELECT * FROM ONLY notes")[2] == [(1, 1, "[redacted]")]
        assert outcome(conn, "SELECT * FROM ONLY letters")[2] == [(1,)]
        for refused in (
            "SELECT * FROM notes",
            "SELECT * FROM letters",
            "SELECT * FROM all_notes",
            "SELECT * FROM old_notes",
            "UPDATE ONLY notes SET tenant = 1",
        ):
            with pytest.raises((guarddb.PolicyViolation, psycopg.errors.InsufficientPrivilege)):
                conn.execute(refused)
    assert ground18.as_agent("SELECT * FROM notes_only") == [(1, 1, "[redacted]")]
    assert ground18.as_agent("SELECT * FROM letters_only") == [(1,)]
    for name in ("notes", "old_notes", "all_notes", "letters", "public.notes"):
        assert ground18.as_agent(f"SELECT * FROM {name}").startswith(("42501", "42P01")), name
    assert ground18.as_agent("UPDATE notes_only SET tenant = 1").startswith("42501")
    assert ground18.levels() == set()
