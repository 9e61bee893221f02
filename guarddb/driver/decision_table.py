"""Decision records in a table of PostgreSQL, chained as the lines of a file are."""

from __future__ import annotations

import json
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import psycopg as _psycopg
from psycopg import sql

from guarddb.driver.connection import plain_connect
from guarddb.policy.errors import PolicyError
from guarddb.runtime.chain import GENESIS, canonical, digest, head_text, read_head
from guarddb.runtime.decision_log import DecisionLogError
from guarddb.runtime.jsonl import read_key
from guarddb.runtime.queued_log import QUEUE

if TYPE_CHECKING:
    from guarddb.runtime.decision_log import DecisionRecord
    from guarddb.runtime.queued_log import QueuedSink

logger = logging.getLogger("guarddb.decisions")

_CREATE = """
CREATE TABLE IF NOT EXISTS {table} (
  seq bigint PRIMARY KEY,
  written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  agent text,
  policy text,
  outcome text,
  rule text,
  line text NOT NULL
);
CREATE TABLE IF NOT EXISTS {head} (one boolean PRIMARY KEY DEFAULT true CHECK (one), sealed text NOT NULL);
"""


class PostgresSink:
    """Writes decision records to a table, over a connection of its own. Pass it as `on_decision`.

    A role that may INSERT and SELECT in both tables, and UPDATE `<table>_head`, is enough once they are there; the agent's role
    should have none of it. Each record is a transaction of its own: what the agent rolls back stays in the log.

    Args:
        conninfo: where; the connection is made when the first record is written.
        table: the table, made when it is not there; `schema.name` for one outside of the search path.
        key, key_env: of HMAC-SHA-256, as for JsonlSink.
        on_full: what becomes of statements while records cannot be written: `refuse` or `pass`.
        literals: with the text as it was written and sent. It holds values.
        timeout: seconds that a connection may take to be made, and a statement on it.
        queue: async connections hand their records to a thread, so that the event loop goes on; so many wait at the most.
    """

    #: It waits for a server, see `queued_log.py`.
    remote: ClassVar[bool] = True

    def __init__(
        self,
        conninfo: str,
        *,
        table: str = "guarddb_decisions",
        key: bytes | str | None = None,
        key_env: str | None = None,
        on_full: Literal["refuse", "pass"] = "refuse",
        literals: bool = False,
        timeout: int = 5,
        queue: int = QUEUE,
    ) -> None:
        if on_full not in ("refuse", "pass"):
            raise PolicyError('on_full is "refuse" or "pass"')
        if not isinstance(conninfo, str):
            raise PolicyError(f"the database of the decision log is a conninfo, not {conninfo!r:.80}")
        if not isinstance(table, str) or not all(table.split(".")) or "\0" in table:
            raise PolicyError(f"the decision log's table is a name, or schema.name, not {table!r:.80}")
        if isinstance(queue, bool) or not isinstance(queue, int) or queue < 1:
            raise PolicyError(f"queue is a whole number from 1 on, not {queue!r:.80}")
        self.conninfo = conninfo
        self.on_full = on_full
        self.literals = literals
        self.timeout = timeout
        self.queue = queue
        #: in front of it, for async connections
        self.queued: QueuedSink | None = None
        names = table.split(".")
        self._table = sql.Identifier(*names)
        self._head = sql.Identifier(*names[:-1], f"{names[-1]}_head")
        self._name = table
        self._key = read_key(key, key_env)
        self._lock = threading.Lock()
        self._conn: _psycopg.Connection[Any] | None = None
        self._pid = 0
        self._failure: str | None = None
        self._lost = 0
        #: number and hash of the last record that was written here
        self._written = (0, GENESIS)

    def __call__(self, record: DecisionRecord) -> None:
        """Write a record. A failure is logged, and remembered for `ready`; it is never raised."""
        try:
            with self._lock:
                self._append(record.to_dict(literals=self.literals), record.decision.rule)
        except Exception as ex:
            self._failure = type(ex).__name__
            self._lost += 1
            what = (
                "statements are refused until it can be"
                if self.on_full == "refuse"
                else "statements go on unlogged"
            )
            logger.critical(
                "the decision log in table %s cannot be written (%s); %s. Lost: statement %s, %s %s",
                self._name,
                self._failure,
                what,
                record.statement_id,
                record.outcome,
                record.decision.rule,
            )

    def ready(self) -> None:
        """Whether records can be written now; a log that failed is tried again.

        Raises:
            DecisionLogError: they cannot, and `on_full` is `refuse`.
        """
        if self.on_full == "pass" or (
            self._failure is None and self._conn is not None and not self._conn.closed
        ):
            return
        try:
            with self._lock:
                if self._failure is not None:
                    self._append({"outcome": "resumed", "after": self._failure}, "ok")
                else:
                    self._connection()
            self._failure = None
        except Exception as ex:
            raise DecisionLogError(
                f"the decision log in table {self._name} cannot be written ({type(ex).__name__})"
            ) from None

    @property
    def failing(self) -> bool:
        """Whether the last record could not be written."""
        return self._failure is not None

    def lose(self, records: int) -> None:
        """So many records did not come here; the next one says so."""
        with self._lock:
            self._lost += records

    def close(self) -> None:
        """Write what waits and close the connection; the next record makes another one."""
        if self.queued is not None:
            self.queued.flush()
        with self._lock:
            if self._conn is not None:
                self._conn.close()
                self._conn = None

    def _connection(self) -> _psycopg.Connection[Any]:
        conn = self._conn
        if conn is not None and not conn.closed and self._pid == os.getpid():
            return conn
        conn = plain_connect(self.conninfo, autocommit=True, connect_timeout=self.timeout)
        try:
            conn.execute(f"SET statement_timeout = {int(self.timeout * 1000)}".encode())
            there = "SELECT pg_catalog.to_regclass(%s) IS NOT NULL AND pg_catalog.to_regclass(%s) IS NOT NULL"
            found = conn.execute(there, [self._table.as_string(conn), self._head.as_string(conn)]).fetchone()
            if not found or not found[0]:
                conn.execute(sql.SQL(_CREATE).format(table=self._table, head=self._head))
        except BaseException:
            conn.close()
            raise
        self._conn, self._pid = conn, os.getpid()
        return conn

    def _append(self, entry: dict[str, Any], rule: str) -> None:
        conn = self._connection()
        try:
            with conn.transaction():
                # One writer at a time: each continues the chain that the one before it wrote.
                conn.execute(
                    "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(%s, 0))",
                    [self._name],
                )
                seq, before = self._last(conn)
                record = {"v": 1, "seq": seq + 1, "prev": before, **entry}
                if self._lost:
                    record["lost"] = self._lost
                record = json.loads(json.dumps(record, default=str))
                record["hash"] = digest(record, self._key)
                insert = sql.SQL(
                    "INSERT INTO {} (seq, agent, policy, outcome, rule, line) VALUES (%s, %s, %s, %s, %s, %s)"
                ).format(self._table)
                line = canonical(record).decode()
                told = (entry.get("agent"), entry.get("policy"), entry["outcome"], rule, line)
                conn.execute(insert, [seq + 1, *told])
                sealed = head_text(seq + 1, record["hash"], self._key).decode().strip()
                upsert = sql.SQL(
                    "INSERT INTO {} (sealed) VALUES (%s) ON CONFLICT (one) DO UPDATE SET sealed = excluded.sealed"
                ).format(self._head)
                conn.execute(upsert, [sealed])
        except BaseException:
            conn.close()
            self._conn = None
            raise
        self._lost, self._written = 0, (seq + 1, record["hash"])

    def _last(self, conn: _psycopg.Connection[Any]) -> tuple[int, str]:
        """The record to continue behind: the last one, or a later one that is gone, so that the next one does not seal a cut."""
        last = sql.SQL("SELECT seq, line FROM {} ORDER BY seq DESC LIMIT 1").format(self._table)
        row = conn.execute(last).fetchone()
        found = (row[0], json.loads(row[1])["hash"]) if row else (0, GENESIS)
        written = self._written
        head = conn.execute(sql.SQL("SELECT sealed FROM {}").format(self._head)).fetchone()
        if head and (sealed := read_head(head[0].encode(), self._key)) and sealed[0] > written[0]:
            written = sealed
        if written[0] <= found[0]:
            return found
        logger.critical(
            "the decision log in table %s ends with record %s, and record %s was written: rows are missing",
            self._name,
            found[0],
            written[0],
        )
        return written

    def lines(self) -> tuple[list[bytes], bytes | None]:
        """What is in the table, oldest first, and its head: for `guarddb audit verify --dsn`.

        Both as of one moment, whatever is written meanwhile. Makes nothing: a log that is not there is no empty one.

        Raises:
            psycopg.Error: the table is not there, or cannot be read.
        """
        with plain_connect(self.conninfo, connect_timeout=self.timeout) as conn:
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            select = sql.SQL("SELECT line FROM {} ORDER BY seq").format(self._table)
            found = [f"{line}\n".encode() for (line,) in conn.execute(select)]
            there = "SELECT pg_catalog.to_regclass(%s) IS NOT NULL"
            head = None
            if (row := conn.execute(there, [self._head.as_string(conn)]).fetchone()) and row[0]:
                head = conn.execute(sql.SQL("SELECT sealed FROM {}").format(self._head)).fetchone()
        return found, head[0].encode() if head else None
