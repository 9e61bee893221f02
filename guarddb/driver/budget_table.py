"""Budgets in a table of PostgreSQL's: for several processes that share a database and no Redis.

    connect(…, budgets="postgresql://guarddb@host/budgets")

The table `guarddb_budgets` is made when it is not there, in the first schema of the role's search path. Keep it in a database,
or under a role, that agents cannot write to. A statement is counted under an advisory lock of its key, by that server's clock.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import psycopg as _psycopg

from guarddb.runtime.budgets import BudgetError, midnight_after

if TYPE_CHECKING:
    from guarddb.runtime.budgets import Counter

#: psycopg's own, whatever is put in its place later: this connection is not an agent's.
_connect = _psycopg.Connection.connect
_PATIENCE_MS = 1_000
#: The least that libpq takes for a time-out.
_CONNECT_SECONDS = 2
_TABLE = """
CREATE TABLE IF NOT EXISTS guarddb_budgets (
    key text, counter text, slot bigint, used bigint NOT NULL, PRIMARY KEY (key, counter, slot)
)
"""
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('guarddb/' || %s, 0))"
#: A tenth of a second, the day, and what is used in the hour before and today.
_USED = """
SELECT t.slot, t.day,
    coalesce((SELECT sum(used) FROM guarddb_budgets
              WHERE key = %(key)s AND counter = 'hour' AND slot > t.slot - 36000), 0)::bigint,
    coalesce((SELECT used FROM guarddb_budgets WHERE key = %(key)s AND counter = 'day' AND slot = t.day), 0),
    coalesce((SELECT used FROM guarddb_budgets WHERE key = %(key)s AND counter = 'egress' AND slot = t.day), 0),
    (SELECT min(slot) FROM guarddb_budgets WHERE key = %(key)s AND counter = 'hour' AND slot > t.slot - 36000)
FROM (SELECT floor(extract(epoch FROM s.now) * 10)::bigint AS slot, floor(extract(epoch FROM s.now) / 86400)::bigint AS day
      FROM (SELECT clock_timestamp() AS now) AS s) AS t
"""
_SPEND = """
INSERT INTO guarddb_budgets AS b VALUES (%s, %s, %s, %s)
ON CONFLICT (key, counter, slot) DO UPDATE SET used = b.used + excluded.used
"""
_FORGET = """
DELETE FROM guarddb_budgets WHERE key = %(key)s
AND (counter = 'hour' AND slot <= %(slot)s - 36000 OR counter <> 'hour' AND slot < %(day)s)
"""


_stores: WeakValueDictionary[str, TableBudgetStore] = WeakValueDictionary()
_stores_lock = threading.Lock()


def open_table(conninfo: str) -> TableBudgetStore:
    """The store at a URI, one for all connections of the process that use it."""
    with _stores_lock:
        store = _stores.get(conninfo)
        if store is None:
            store = _stores[conninfo] = TableBudgetStore(conninfo)
        return store


class TableBudgetStore:
    """Budgets in a table. Sync; an async connection asks it in a thread. It is connected to when it is first asked."""

    remote = True

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._lock = threading.Lock()
        self._conn: _psycopg.Connection[Any] | None = None
        self._made = False

    def open(self) -> None:
        """See that the table is there.

        Raises:
            BudgetError: the server cannot be reached, or the table not be made.
        """
        try:
            with self._lock:
                self._connection()
        except _psycopg.Error as ex:
            # (Without its text, which may quote the password.)
            raise BudgetError(f"the budget table cannot be used ({type(ex).__name__})") from None

    def __del__(self) -> None:
        if (conn := getattr(self, "_conn", None)) is not None:
            conn.close()

    def _connection(self) -> _psycopg.Connection[Any]:
        conn = self._conn
        if conn is None or conn.closed:
            conn = self._conn = _connect(
                self._conninfo,
                autocommit=True,
                connect_timeout=_CONNECT_SECONDS,
                options=f"-c statement_timeout={_PATIENCE_MS} -c default_transaction_read_only=off",
            )
        if not self._made:
            with conn.transaction():
                # IF NOT EXISTS is not enough for two that come at once.
                conn.execute(_LOCK, ("",))
                conn.execute(_TABLE)
            self._made = True
        return conn

    def spend_query(self, key: str, per_hour: int, per_day: int, count: int = 1) -> Counter | None:
        with self._lock, self._connection().transaction() as transaction:
            conn = transaction.connection
            slot, day, hour_used, day_used, _, _ = self._used(conn, key)
            if per_hour and hour_used + count > per_hour:
                return "hour"
            if per_day and day_used + count > per_day:
                return "day"
            if per_hour:
                conn.execute(_SPEND, (key, "hour", slot, count))
            if per_day:
                conn.execute(_SPEND, (key, "day", day, count))
            conn.execute(_FORGET, {"key": key, "slot": slot, "day": day})
        return None

    def spend_bytes(self, key: str, amount: int, per_day: int) -> bool:
        with self._lock, self._connection().transaction() as transaction:
            conn = transaction.connection
            _, day, _, _, used, _ = self._used(conn, key)
            if used + amount > per_day:
                return False
            conn.execute(_SPEND, (key, "egress", day, amount))
        return True

    def remaining(self, counter: Counter, key: str, limit: int) -> int:
        with self._lock:
            conn = self._connection()
            _, _, hour, day, egress, _ = conn.execute(_USED, {"key": key}).fetchone() or (0,) * 6
        return max(0, limit - int({"hour": hour, "day": day, "egress": egress}[counter]))

    def resets_at(self, counter: Counter, key: str, limit: int) -> datetime:
        with self._lock:
            conn = self._connection()
            slot, *_, oldest = conn.execute(_USED, {"key": key}).fetchone() or (0,) * 6
        if counter != "hour":
            return midnight_after(slot / 10)
        return datetime.fromtimestamp((oldest if oldest is not None else slot) / 10 + 3600.1, UTC)

    @staticmethod
    def _used(conn: _psycopg.Connection[Any], key: str) -> tuple[int, int, int, int, int, int | None]:
        conn.execute(_LOCK, (key,))
        found = conn.execute(_USED, {"key": key}).fetchone()
        assert found is not None
        slot, day, hour, today, egress, oldest = found
        return slot, day, int(hour), today, egress, oldest
