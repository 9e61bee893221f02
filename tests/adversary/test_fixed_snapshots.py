"""Two connections of one agent: what one of them defines means nothing to a transaction of the other that sees an older catalog.

Under REPEATABLE READ and SERIALIZABLE queries of the catalog see the transaction's snapshot, and names the newest catalog.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, sql as sqls
from psycopg.conninfo import make_conninfo

import guarddb
from guarddb.runtime.approvals import Answer, ApprovalRequest
from tests.adversary.ground import ONE_MASK, PREDICATES, Ground, filters, writing
from tests.driver.conftest import look_is_due
from tests.fix_server import temporary_database

POLICY = writing(PREDICATES["cheap"])
_OF_ROWS = "AS SELECT id, label FROM public.orders"
#: What the other connection defines, and what reads it.
STORIES: dict[str, tuple[list[str], list[str]]] = {
    "a new view": (
        [f"CREATE VIEW fresh {_OF_ROWS}"],
        [
            "SELECT * FROM fresh",
            "TABLE public.fresh",
            "SELECT (SELECT max(label) FROM fresh)",
            "WITH f AS (SELECT * FROM fresh) SELECT * FROM f",
            "CREATE TEMP TABLE k AS SELECT * FROM fresh",
            "INSERT INTO other (id, val) SELECT id + 100, label FROM fresh RETURNING *",
            "UPDATE other SET val = (SELECT max(label) FROM fresh) WHERE id = 1 RETURNING *",
            "DECLARE c CURSOR FOR SELECT * FROM fresh",
            "PREPARE p AS SELECT * FROM fresh",
            "EXPLAIN SELECT * FROM fresh",
        ],
    ),
    "a view with another definition": (
        [f"CREATE OR REPLACE VIEW vother {_OF_ROWS}"],
        [
            "SELECT * FROM vother",
            "SELECT label FROM vabove WHERE id = 6",
            "SELECT count(*) FROM other JOIN vabove USING (id)",
        ],
    ),
    "a view in the place of a table": (
        ["ALTER TABLE scratch RENAME TO elsewhere", f"CREATE VIEW scratch {_OF_ROWS}"],
        ["SELECT * FROM scratch", "SELECT * FROM public.scratch"],
    ),
    "a schema that comes before": (
        [f"CREATE SCHEMA {{role}} CREATE VIEW other {_OF_ROWS}"],
        ["SELECT * FROM other"],
    ),
}
HOW: dict[str, str] = {
    "by the connection": "",
    "by BEGIN": "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "by SET": "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
}


@pytest.fixture(scope="module")
def own(server_dsn: str) -> Iterator[Ground]:
    with temporary_database(server_dsn, "adversary_snapshots") as dsn:
        ground = Ground(dsn)
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("CREATE TABLE scratch (id int, label text)")
            conn.execute("CREATE VIEW vother AS SELECT id, val AS label FROM other")
            conn.execute("CREATE VIEW vabove AS SELECT * FROM vother")
            conn.execute("CREATE VIEW vserver AS SELECT table_name FROM information_schema.tables")
            conn.execute(
                "CREATE VIEW vstats AS SELECT relname FROM pg_stat_user_tables JOIN pg_class USING (relname)"
            )
        yield ground


def _reader(dsn: str, how: str, policy: dict[str, Any] = POLICY, **arguments: Any) -> guarddb.Connection[Any]:
    """A connection in a transaction that has its snapshot."""
    conn = guarddb.connect(dsn, policy=policy, autocommit=how == "by BEGIN", **arguments)
    # The server's process has looked these names up before, in such a transaction too, and keeps what it found.
    for _ in range(2):
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ" if how == "by BEGIN" else HOW["by SET"])
        conn.execute("SELECT FROM other, vother, vabove, scratch LIMIT 0")
        conn.execute("SELECT FROM public.scratch LIMIT 0")
        conn.rollback()
    if how == "by the connection":
        conn.isolation_level = IsolationLevel.REPEATABLE_READ
    elif how:
        conn.execute(HOW[how])
    assert conn.execute("SELECT 1").fetchone() == (1,)
    return conn


def _asked(conn: guarddb.Connection[Any], sql: str) -> list[Any]:
    rows = []
    follow_up = {"DECL": "FETCH ALL FROM c", "PREP": "EXECUTE p", "CREA": "SELECT * FROM k"}.get(sql[:4])
    for text in (sql, follow_up) if follow_up is not None else (sql,):
        cursor = conn.execute(text)
        rows += cursor.fetchall() if cursor.description else []
    return rows


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("story", STORIES)
def test_no_hidden_row_by_what_another_connection_defined(own: Ground, story: str, how: str) -> None:
    definitions, attempts = STORIES[story]
    with psycopg.connect(own.dsn) as conn:
        (role,) = conn.execute("SELECT current_user").fetchone() or ("",)
    readers = [_reader(own.dsn, how) for _ in (*attempts, "a pipeline")]
    undo = psycopg.connect(own.dsn)
    try:
        with guarddb.connect(own.dsn, policy=POLICY, autocommit=True) as other:
            for sql in definitions:
                other.execute(sql.format(role=f'"{role}"'))
        for number, (reader, sql) in enumerate(zip(readers, attempts, strict=False)):
            if number % 2 == 0:
                # The last look at the catalog does for this statement, too: names are asked for all the same.
                reader._guard.freshness.check_at = float("inf")
            with pytest.raises(guarddb.PolicyViolation, match="snapshot") as caught:
                _asked(reader, sql)
            assert caught.value.decision is not None
            assert caught.value.decision.hint is not None
            assert reader.execute("SELECT 1").fetchone() == (1,)  # the transaction goes on
        rows: list[Any] = []
        with suppress(guarddb.PolicyViolation), readers[-1].pipeline():
            readers[-1].execute("SELECT 1")
            rows += readers[-1].execute(attempts[0]).fetchall()
        assert "HIDDEN" not in str(rows)
        readers[-1].rollback()
        look_is_due(readers[-1])
        with suppress(guarddb.PolicyViolation):  # (a new transaction judges by the new definitions)
            assert "HIDDEN" not in str(_asked(readers[-1], attempts[0]))
    finally:
        for reader in readers:
            reader.close()
        with undo:
            undo.execute(f'DROP SCHEMA IF EXISTS "{role}" CASCADE')
            undo.execute("DROP VIEW IF EXISTS fresh")
            undo.execute("CREATE OR REPLACE VIEW vother AS SELECT id, val AS label FROM other")
            if story == "a view in the place of a table":
                undo.execute("DROP VIEW scratch; ALTER TABLE elsewhere RENAME TO scratch")


HARMLESS = [
    "SELECT id, label FROM orders ORDER BY id",
    "SELECT * FROM vother ORDER BY 1",
    "SELECT * FROM vabove ORDER BY 1",
    "SELECT * FROM vo ORDER BY 1",
    "SELECT * FROM part",
    "SELECT count(*) FROM vserver",
    "SELECT count(*) > 0 FROM vstats",
    "SELECT relname FROM pg_class WHERE relname = 'other'",
    "INSERT INTO other (id, val) VALUES (77, 'x') RETURNING id",
    "CREATE TEMP TABLE mine AS SELECT id FROM orders",
    "SELECT * FROM mine ORDER BY id",
    "CREATE VIEW ofmine AS SELECT 1 AS a",
    "SELECT * FROM ofmine",
    "SAVEPOINT a",
    "DROP VIEW ofmine",
    "ROLLBACK TO a",
    "SELECT * FROM ofmine",
    "UPDATE orders SET label = 'seen9' WHERE id = 1 RETURNING label",
]


@pytest.mark.parametrize("pipeline", [False, True])
@pytest.mark.parametrize("how", HOW)
def test_such_transactions_do_what_any_does(own: Ground, how: str, *, pipeline: bool) -> None:
    answers = []
    for level in (how, ""):
        with _reader(own.dsn, level) as conn:
            if pipeline:
                with conn.pipeline():
                    cursors = [conn.execute(sql) for sql in HARMLESS]
            else:
                cursors = [conn.execute(sql) for sql in HARMLESS]
            answers.append(
                [cursor.fetchall() if cursor.description else cursor.statusmessage for cursor in cursors]
            )
            conn.rollback()
    assert answers[0] == answers[1]


def test_what_others_have_dropped_is_no_error_of_the_next_statement(own: Ground) -> None:
    """The catalog that such a transaction sees holds a view that can no longer be opened."""
    with psycopg.connect(own.dsn, autocommit=True) as conn:
        conn.execute("CREATE VIEW goes AS SELECT 1 AS a")
        with _reader(own.dsn, "by SET") as reader:
            conn.execute("DROP VIEW goes")
            reader.execute("CREATE TEMP TABLE own (a int)")  # so the catalog is read
            assert reader.execute("SELECT count(*) FROM own").fetchone() == (0,)
            with pytest.raises(psycopg.errors.UndefinedTable):
                reader.execute("SELECT * FROM goes")
            reader.rollback()


def test_a_look_within_a_transaction_sees_the_newest_names(own: Ground) -> None:
    """Under READ COMMITTED: the catalog that is read is the newest, and so has to be where names are looked for."""
    with psycopg.connect(own.dsn, autocommit=True) as undo, guarddb.connect(own.dsn, policy=POLICY) as reader:
        (role,) = undo.execute("SELECT current_user").fetchone() or ("",)
        reader.execute("SELECT FROM other, vother LIMIT 0")
        reader.rollback()
        try:
            for number in range(3):
                undo.execute(f"CREATE TABLE looked{number} ()")
                look_is_due(reader)
                reader.execute("SELECT 1")
            with guarddb.connect(own.dsn, policy=POLICY, autocommit=True) as other:
                other.execute(f'CREATE SCHEMA "{role}" CREATE VIEW other {_OF_ROWS}')
            look_is_due(reader)
            cursor = reader.execute("SELECT * FROM other")
            assert "HIDDEN" not in str(cursor.fetchall())
            assert [each.name for each in cursor.description or ()] == ["id", "label"]
        finally:
            reader.rollback()
            undo.execute(f'DROP SCHEMA IF EXISTS "{role}" CASCADE')
            undo.execute("DROP TABLE IF EXISTS looked0, looked1, looked2")


@pytest.mark.parametrize("how", HOW)
def test_a_text_that_ran_before_is_asked_about_again(own: Ground, how: str) -> None:
    """A lock on what a name meant keeps no view of another schema from getting in front of it."""
    with psycopg.connect(own.dsn, autocommit=True) as undo, _reader(own.dsn, how) as reader:
        (role,) = undo.execute("SELECT current_user").fetchone() or ("",)
        try:
            for sql in ("SELECT * FROM other", "PREPARE p AS SELECT * FROM other", "EXECUTE p"):
                reader.execute(sql)
            undo.execute(f'CREATE SCHEMA "{role}" CREATE VIEW other {_OF_ROWS}')
            look_is_due(reader)
            reader.execute("SELECT FROM vabove LIMIT 0")  # (takes in what others have changed)
            for sql in ("SELECT * FROM other", "EXECUTE p"):
                with pytest.raises(guarddb.PolicyViolation, match="snapshot"):
                    reader.execute(sql)
        finally:
            reader.rollback()
            undo.execute(f'DROP SCHEMA IF EXISTS "{role}" CASCADE')


#: What another connection makes of the columns of a table of the agent's own, and what would show or ask for a masked value then:
#: a name that is no column of the inner table any more is one of the outer.
COLUMNS: dict[str, tuple[str, list[str]]] = {
    "a column gets another name": (
        "ALTER TABLE mine RENAME COLUMN ssn TO gone",
        [
            "SELECT id, (SELECT ssn FROM mine) FROM users",
            "SELECT id FROM users WHERE EXISTS (SELECT 1 FROM mine WHERE ssn LIKE 'RAW-ssn-3%')",
            "SELECT u.id FROM users u, LATERAL (SELECT ssn FROM mine) m WHERE m.ssn = 'RAW-ssn-3'",
            "SELECT id, ARRAY(SELECT ssn FROM mine) FROM users",
            "SELECT id FROM users ORDER BY (SELECT ssn FROM mine) DESC",
            "UPDATE other SET val = (SELECT ssn FROM mine) FROM users WHERE users.id = other.id RETURNING val",
            "CREATE TEMP TABLE k AS SELECT (SELECT ssn FROM mine) FROM users",
            "DECLARE c CURSOR FOR SELECT (SELECT ssn FROM mine) FROM users",
            "PREPARE p AS SELECT (SELECT ssn FROM mine) FROM users",
        ],
    ),
    "a new column": (
        "ALTER TABLE mine ADD COLUMN note text DEFAULT 'RAW-ssn-3'",
        ["SELECT users.id FROM users NATURAL JOIN mine", "SELECT * FROM users NATURAL LEFT JOIN mine"],
    ),
    "a column goes": (
        "ALTER TABLE mine DROP COLUMN ssn",
        ["SELECT id, (SELECT ssn FROM mine) FROM users"],
    ),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("story", COLUMNS)
def test_no_masked_value_by_columns_that_another_connection_changed(
    own: Ground, story: str, how: str
) -> None:
    definition, attempts = COLUMNS[story]
    policy = writing(
        {
            "name": "masks",
            "masking_rules": [
                *ONE_MASK["masking_rules"],
                {"table": "users", "column": "note", "kind": "null"},
            ],
        }
    )
    with psycopg.connect(own.dsn, autocommit=True) as undo:
        undo.execute("CREATE TABLE mine AS SELECT 1 AS own, 'mine'::text AS ssn")
        if story == "a new column":
            undo.execute("ALTER TABLE mine DROP COLUMN ssn")
        readers = [_reader(own.dsn, how, policy) for _ in attempts]
        try:
            undo.execute(definition)
            for reader, sql in zip(readers, attempts, strict=True):
                with pytest.raises(guarddb.PolicyViolation, match="snapshot"):
                    _asked(reader, sql)
                assert reader.execute("SELECT 1").fetchone() == (1,)  # the transaction goes on
        finally:
            for reader in readers:
                reader.close()
            undo.execute("DROP TABLE mine")


class _Meanwhile:
    """An approver who says yes, while somebody else defines something."""

    def __init__(self, dsn: str, definition: str) -> None:
        self._dsn, self._definition = dsn, definition

    def submit(self, request: ApprovalRequest) -> ApprovalRequest:
        return request

    def wait(self, request: ApprovalRequest, timeout: float | None) -> Answer:
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            conn.execute(self._definition)
        return Answer("approved", "somebody", None, request.id)

    def report(self, request: ApprovalRequest, status: str) -> None:
        pass


@pytest.mark.parametrize("how", HOW)
def test_what_is_approved_is_asked_about_when_it_runs(own: Ground, how: str) -> None:
    """Its trial is taken back, and its locks with it, before a person is asked."""
    policy = {**writing(ONE_MASK), "approval_mode": "writes"}
    text = "UPDATE other SET val = (SELECT ssn FROM mine) FROM users WHERE users.id = other.id RETURNING val"
    with psycopg.connect(own.dsn, autocommit=True) as undo:
        undo.execute("CREATE TABLE mine AS SELECT 1 AS own, 'mine'::text AS ssn")
        approver = _Meanwhile(own.dsn, "ALTER TABLE mine RENAME COLUMN ssn TO gone")
        try:
            reader = _reader(own.dsn, how, policy, approver=approver)
            with reader, pytest.raises(guarddb.PolicyViolation, match="snapshot"):
                reader.execute(text)
        finally:
            undo.execute("DROP TABLE mine")


def test_columns_that_are_the_same_are_found_so(own: Ground) -> None:
    """With dropped ones between and behind, of views, partitions, children and a table without any, under odd names."""
    with psycopg.connect(own.dsn, autocommit=True) as undo:
        undo.execute(
            'CREATE TABLE odd (a int, "b, c" int, "D\'\\" int, "e""" int, f int);'
            "ALTER TABLE odd DROP COLUMN a, DROP COLUMN f;"
            "CREATE TABLE empty (a int); ALTER TABLE empty DROP COLUMN a;"
            "CREATE TABLE ages (a int, b int) PARTITION BY LIST (a); CREATE TABLE age PARTITION OF ages DEFAULT;"
            'CREATE TABLE kid (k int) INHERITS (odd); CREATE VIEW vodd AS SELECT odd.* FROM odd JOIN kid USING ("b, c");'
            'CREATE TABLE "Of.a ""name\\" (a int, "\u00e9" int)'
        )
        with _reader(own.dsn, "by SET", writing(ONE_MASK)) as reader:
            try:
                undo.execute(
                    'CREATE INDEX ON odd ("b, c"); COMMENT ON COLUMN odd."b, c" IS $$x$$; ANALYZE odd'
                )
                undo.execute("ALTER TABLE ages ALTER b SET DEFAULT 3; CREATE TABLE unasked (a int)")
                look_is_due(reader)
                for name in ("odd", "empty", "ages", "age", "kid", "vodd", '"Of.a ""name\\"'):
                    assert reader.execute(f"SELECT * FROM {name}".encode()).fetchall() == []
            finally:
                reader.rollback()
                undo.execute('DROP TABLE odd, kid, empty, ages, unasked, "Of.a ""name\\" CASCADE')


def test_a_view_of_partitions_that_are_left_out_for_now(own: Ground) -> None:
    """A plan leaves out the partitions that its execution would not read now, and may read later."""
    later = "CASE WHEN statement_timestamp() > '2100-01-01' THEN 2 ELSE 9 END"
    policy = writing(filters("tenant_id = 1", "part"))
    with psycopg.connect(own.dsn, autocommit=True) as undo, _reader(own.dsn, "by SET", policy) as reader:
        try:
            undo.execute(
                f"CREATE OR REPLACE VIEW vother AS SELECT id, label FROM part WHERE tenant_id = {later}"
            )
            with pytest.raises(guarddb.PolicyViolation, match="snapshot"):
                reader.execute("SELECT * FROM vother")
        finally:
            reader.rollback()
            undo.execute("CREATE OR REPLACE VIEW vother AS SELECT id, val AS label FROM other")


def test_a_view_of_which_some_columns_are_granted(own: Ground) -> None:
    """Its plan is asked for with the columns that the role may read."""
    with psycopg.connect(own.dsn, autocommit=True) as undo:
        role = f"r_{undo.info.dbname}"
        name = sqls.Identifier(role)
        undo.execute(sqls.SQL("CREATE ROLE {0} LOGIN; GRANT SELECT (id) ON vother TO {0}").format(name))
        try:
            with guarddb.connect(make_conninfo(own.dsn, user=role), policy=POLICY) as reader:
                reader.isolation_level = IsolationLevel.REPEATABLE_READ
                reader.execute("SELECT 1")
                assert len(reader.execute("SELECT id FROM vother").fetchall()) == 6
                reader.rollback()
                reader.execute("SELECT 1")
                undo.execute(f"CREATE OR REPLACE VIEW vother {_OF_ROWS}")
                with pytest.raises(guarddb.PolicyViolation, match="snapshot"):
                    reader.execute("SELECT id FROM vother")
                reader.rollback()
        finally:
            undo.execute("CREATE OR REPLACE VIEW vother AS SELECT id, val AS label FROM other")
            undo.execute(sqls.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(name))
