"""Running a statement and writing down everything that can be observed of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psycopg
from psycopg import pq

from tests.fix_server import one_at_a_time, temporary_database
from tests.oracles.schema import (
    CONTENTS_SQL,
    FILTERED_TABLES,
    SECURED_TABLES,
    SETTINGS,
    Filter,
    rows_sql,
    schema_sql,
)

_FIELDS = pq.DiagnosticField


#: What was written, in the transaction that is undone: however long it takes.
CONTENTS = b"SET LOCAL statement_timeout = 0; SELECT admin.contents()"


@dataclass(slots=True)
class Outcome:
    """What a statement did: `state` is the SQLSTATE, empty when it ran."""

    state: str = ""
    message: str = ""
    detail: str = ""
    command: str = ""
    names: tuple[str, ...] = ()
    types: tuple[int, ...] = ()
    rows: list[tuple[bytes | None, ...]] = field(default_factory=list)
    contents: str = ""
    notices: list[str] = field(default_factory=list)

    @property
    def slow(self) -> bool:
        """Cut off by the timeout: two plans of one query may take very different times."""
        return self.state == "57014"

    @property
    def multiset(self) -> list[tuple[bytes | None, ...]]:
        return sorted(self.rows, key=lambda r: [(v is not None, v or b"") for v in r])

    def shown(self) -> str:
        if self.state:
            return f"{self.state} {self.message}"
        return f"{self.command} {[tuple(v and v.decode() for v in row) for row in self.rows[:12]]}"


class Side:
    """A connection as the role `agent`, without any driver between us and the server."""

    def __init__(self, dsn: str, settings: dict[str, str] | None = None, *, role: str = "agent") -> None:
        self.role = role
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.conn.execute("SET statement_timeout = '5s'")
        self.conn.execute("SET jit = off")
        for name, value in (settings or {}).items():
            self.conn.execute("SELECT set_config(%s, %s, false)", (name, value))
        self.conn.execute(f"SET ROLE {role}".encode())
        self.pgconn = self.conn.pgconn
        self.notices: list[str] = []
        self.pgconn.notice_handler = lambda result: self.notices.append(
            _text(result, _FIELDS.MESSAGE_PRIMARY)
        )
        self.runs = 0

    def close(self) -> None:
        self.conn.close()

    def run(self, sql: str, params: Sequence[str | None], *, writes: bool = False) -> Outcome:
        """Run one statement; what it wrote is read and undone."""
        values = [None if p is None else p.encode() for p in params]
        self.notices = []
        if writes:
            self.pgconn.exec_(b"BEGIN")
        try:
            result = self.pgconn.exec_params(sql.encode(), values)
            outcome = self.copied() if result.status == pq.ExecStatus.COPY_OUT else self.outcome(result)
            outcome.notices = self.notices
            if writes and not outcome.state:
                contents = self.pgconn.exec_(CONTENTS)
                found = contents.get_value(0, 0)
                assert found is not None
                outcome.contents = found.decode()
            return outcome
        finally:
            if writes:
                self.pgconn.exec_(b"ROLLBACK")
                self.tidy()

    def tidy(self) -> None:
        """Undone rows stay in the tables; without this every scan gets slower."""
        self.runs += 1
        if self.runs % 4000 == 0:
            for statement in ("RESET ROLE", "VACUUM", f"SET ROLE {self.role}"):
                self.pgconn.exec_(statement.encode())

    def copied(self) -> Outcome:
        """What COPY … TO STDOUT hands out: each line is a row."""
        lines: list[tuple[bytes | None, ...]] = []
        while (piece := self.pgconn.get_copy_data(0))[0] > 0:
            lines.append((bytes(piece[1]),))
        outcome = Outcome()
        while (result := self.pgconn.get_result()) is not None:
            outcome = self.outcome(result)
        if not outcome.state:
            outcome.rows = lines
        return outcome

    @staticmethod
    def outcome(result: pq.abc.PGresult) -> Outcome:
        status = result.status
        if status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            columns = range(result.nfields)
            return Outcome(
                command=(result.command_status or b"").decode(),
                names=tuple((result.fname(c) or b"").decode() for c in columns),
                types=tuple(result.ftype(c) for c in columns),
                rows=[tuple(result.get_value(r, c) for c in columns) for r in range(result.ntuples)],
            )
        return Outcome(
            state=_text(result, _FIELDS.SQLSTATE) or "?????",
            message=_text(result, _FIELDS.MESSAGE_PRIMARY),
            detail=_text(result, _FIELDS.MESSAGE_DETAIL),
        )


def _text(result: pq.abc.PGresult, which: pq.DiagnosticField) -> str:
    return (result.error_field(which) or b"").decode()


def make_roles(server: str) -> None:
    """The agent, and the owner of everything: neither is a superuser, so row security applies to both."""
    with one_at_a_time(server) as conn:
        for role in ("agent", "keeper"):
            # The shop may be making it at this moment.
            with suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
                conn.execute(f"CREATE ROLE {role} LOGIN")


def fill(
    conn: psycopg.Connection,
    *,
    types: dict[str, str] | None = None,
    rows: bool = True,
    generated: bool = True,
) -> None:
    """The oracles' schema, and its rows. Without `generated`, what is generated elsewhere is left NULL in a plain column."""
    conn.execute("GRANT ALL ON SCHEMA public TO keeper")
    conn.execute(schema_sql(types, generated=generated).encode())
    if rows:
        conn.execute(rows_sql())
    conn.execute(CONTENTS_SQL)


@contextmanager
def database(
    server: str, stem: str, *, template: str | None = None, schema: str | None = None
) -> Iterator[str]:
    """A database with the oracles' schema and rows, or a copy of one, or with another `schema`."""
    if template is not None:
        with temporary_database(server, stem, template) as dsn:
            yield dsn
        return
    with temporary_database(server, stem) as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            if schema is None:
                fill(conn)
            else:
                conn.execute(schema.encode())
        yield dsn


def secure(dsn: str, row_filter: Filter) -> None:
    """PostgreSQL's own row security with the filter, for everybody who is no superuser."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for table in SECURED_TABLES:
            predicate = row_filter.policy(table)
            conn.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            conn.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
            conn.execute(f"CREATE POLICY f ON {table} USING ({predicate}) WITH CHECK ({predicate})")


def delete_hidden(dsn: str, row_filter: Filter) -> None:
    """Take away what the filter hides."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for name, value in SETTINGS.items():
            conn.execute("SELECT set_config(%s, %s, false)", (name, value))
        for table in FILTERED_TABLES:
            conn.execute(f"DELETE FROM {table} WHERE ({row_filter.policy(table)}) IS NOT TRUE")
