"""What an agent may do with a database, as functions from JSON to JSON: the same tools below MCP and any agent framework.

Nothing that the policy hides is listed or described, every statement goes through one guarded connection, and a refusal is
an answer with rule, reason and hint, so that the model can correct itself.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import math
import threading
import uuid
from collections.abc import Mapping
from typing import Any, TypeAlias

from psycopg.adapt import Loader
from psycopg.types.string import TextLoader

import guarddb
from guarddb import Catalog, Decision

Answer: TypeAlias = dict[str, Any]

#: Rows of one answer. A model reads no more, and the policy's own `max_rows` may be smaller.
MAX_ROWS = 200


_NO_TEXT: Answer = {"status": "error", "reason": "sql is a text: one PostgreSQL statement"}


class AgentTools:
    """The tools of one agent over one connection, which is opened when it is first needed and again when it is lost.

    Args:
        conninfo: the database, as libpq writes it.
        policy: as `guarddb.connect()` takes it.
        max_rows: rows of one answer at the most.
        arguments: the other arguments of `guarddb.connect()`: `agent=`, `settings=`, `budgets=` and so on.

    The methods may be called from several threads; they take turns on the connection. Each answer is a dict that
    `json.dumps` takes, with `status`: `ok`, `refused` (by the policy) or `error` (by PostgreSQL, or a bad argument).

    Raises:
        psycopg.ProgrammingError: `conninfo` cannot be read.
        TypeError, ValueError: it is no text, or `max_rows` no number of rows.
    """

    def __init__(self, conninfo: str, policy: Any, *, max_rows: int = MAX_ROWS, **arguments: Any) -> None:
        if not _is_text(conninfo):
            raise TypeError(f"the database is a conninfo (a text), not {type(conninfo).__name__}")
        if isinstance(max_rows, bool) or not isinstance(max_rows, int) or max_rows < 1:
            raise ValueError(f"max_rows is a whole number from 1 on, not {max_rows!r:.80}")
        guarddb.conninfo.conninfo_to_dict(conninfo)  # a misspelt one is found now and not at the first call
        self._conninfo = conninfo
        self._arguments: dict[str, Any] = {
            "agent": "agent",
            **arguments,
            "policy": policy,
            "autocommit": True,
        }
        self._settings: Mapping[str, str] = arguments.get("settings") or {}
        self._max_rows = max_rows
        self._conn: guarddb.Connection[Any] | None = None
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._conn is not None:
                self._conn.close()
                self._conn = None

    # ------------------------------------------------------------------ the tools

    def query(self, sql: str, max_rows: int | None = None) -> Answer:
        """Run one SQL statement under the policy and return its rows."""
        if max_rows is not None and (isinstance(max_rows, bool) or not isinstance(max_rows, int)):
            return {"status": "error", "reason": f"max_rows is a whole number, not {type(max_rows).__name__}"}
        wanted = self._max_rows if max_rows is None else max(1, min(max_rows, self._max_rows))
        return self._query(sql, wanted, one=False)

    def validate_sql(self, sql: str) -> Answer:
        """What the policy would do with a statement, without running it."""
        if not _is_text(sql):
            return {**_NO_TEXT}
        with self._lock:
            try:
                return {"status": "ok", **self._decide(sql).to_dict()}
            except Exception as ex:
                return refused(ex)

    def propose_fix(self, sql: str) -> Answer:
        """A form of a refused statement that passes, where one is known."""
        if not _is_text(sql):
            return {**_NO_TEXT}
        with self._lock:
            try:
                decision = self._decide(sql)
            except Exception as ex:
                return refused(ex)
        if not decision.blocked:
            return {"status": "ok", "passes": True, "sql": sql}
        return {
            "status": "ok",
            "passes": False,
            "rule": decision.rule,
            "reason": decision.reason,
            "hint": decision.hint,
            "proposal": decision.try_sql,
        }

    def explain(self, sql: str) -> Answer:
        """The plan that PostgreSQL makes for a statement; nothing is run."""
        if not _is_text(sql):
            return {**_NO_TEXT}
        answer = self._query(f"EXPLAIN (FORMAT TEXT) {sql}", self._max_rows, one=True)
        if answer["status"] == "ok":
            return {"status": "ok", "plan": [row[0] for row in answer["rows"]]}
        return answer

    def list_tables(self) -> Answer:
        """The tables and views that may be read, with what the policy does to each."""
        with self._lock:
            try:
                catalog, profile = self._catalog(), self._profile()
            except Exception as ex:
                return refused(ex)
        tables = []
        for relation in sorted(catalog.relations.values(), key=lambda r: (r.schema, r.name)):
            if relation.kind in ("S", "c") or relation.schema.startswith("pg_"):
                continue
            decision = guarddb.evaluate(
                f"SELECT * FROM {_quoted(relation.schema)}.{_quoted(relation.name)}", profile, catalog
            )
            if not decision.blocked:
                tables.append(
                    {
                        "table": f"{relation.schema}.{relation.name}",
                        "kind": _KINDS.get(relation.kind, relation.kind),
                        "masked_columns": [m.column for m in decision.masked_columns],
                        "row_filter": decision.row_filter_predicate,
                    }
                )
        return {"status": "ok", "tables": tables}

    def describe_table(self, table: str) -> Answer:
        """The columns of a table that may be read: name, type, whether it may be NULL, and its mask."""
        with self._lock:
            try:
                catalog, profile = self._catalog(), self._profile()
            except Exception as ex:
                return refused(ex)
        if not _is_text(table):
            return {"status": "error", "reason": f"table is the name of one, not {type(table).__name__}"}
        schema, _, name = table.replace('"', "").rpartition(".")
        relation = catalog.resolve(schema or None, name)
        decision = None
        if relation is not None:
            decision = guarddb.evaluate(
                f"SELECT * FROM {_quoted(relation.schema)}.{_quoted(relation.name)}", profile, catalog
            )
        if relation is None or decision is None or decision.blocked:
            # One answer for what is hidden and what is not there.
            names = [each["table"] for each in self.list_tables().get("tables", ())]
            listed = ", ".join(names[:20])
            return {
                "status": "error",
                "reason": f"there is no table {table} for you",
                "hint": f"Your tables: {listed}.",
            }
        masks = {m.column: m.kind for m in decision.masked_columns}
        return {
            "status": "ok",
            "table": f"{relation.schema}.{relation.name}",
            "row_filter": decision.row_filter_predicate,
            "columns": [
                {
                    "name": a.name,
                    "type": a.type.removeprefix("pg_catalog."),
                    "nullable": not a.not_null,
                    "mask": masks.get(a.name),
                }
                for a in relation.attributes
            ],
        }

    def my_permissions(self) -> Answer:
        """What this agent may do: kinds of statement, limits, and what is left of its budgets."""
        with self._lock:
            try:
                profile = self._profile()
                budget = self._connection().budget
            except Exception as ex:
                return refused(ex)
        kinds = [k for k in profile.statement_rules.allow if k not in profile.statement_rules.deny]
        return {
            "status": "ok",
            "policy": profile.name,
            "access_mode": profile.access_mode,
            "statement_kinds": kinds
            or (
                ["select", "show", "explain", "transaction"] if profile.access_mode == "read_only" else "all"
            ),
            "denied_kinds": list(profile.statement_rules.deny),
            "max_rows": min(profile.max_rows or self._max_rows, self._max_rows),
            "statement_timeout_ms": profile.statement_timeout_ms or None,
            "budget": plain(budget),
        }

    # ------------------------------------------------------------------ below them

    def _connection(self) -> guarddb.Connection[Any]:
        if self._conn is None or self._conn.closed:
            self._conn = guarddb.connect(self._conninfo, **self._arguments)
            self._conn.adapters.register_loader("interval", TextLoader)
            for name in ("date", "time", "timetz", "timestamp", "timestamptz"):
                self._conn.adapters.register_loader(name, _or_as_text(self._conn, name))
        return self._conn

    def _profile(self) -> guarddb.PolicyProfile:
        """The profile in force, with the caller's settings in it, so that an evaluation has them."""
        profile = self._connection().policy
        assert profile is not None
        if not self._settings:
            return profile
        document = profile.model_dump(mode="json", exclude_unset=True)
        extension = document.get("guarddb") or {}
        extension["settings"] = {**(extension.get("settings") or {}), **self._settings}
        return guarddb.load_policy({**document, "guarddb": extension})

    def _catalog(self) -> Catalog:
        return Catalog.from_connection(self._connection())

    def _decide(self, sql: str) -> Decision:
        return guarddb.evaluate(sql, self._profile(), self._catalog())

    def _query(self, sql: str, wanted: int, *, one: bool) -> Answer:
        if not _is_text(sql):
            return {**_NO_TEXT}
        with self._lock:
            try:
                conn = self._connection()
                try:
                    return self._run(conn, sql, wanted, one=one)
                finally:
                    self._tidy(conn)
            except Exception as ex:
                return refused(ex)

    def _run(self, conn: guarddb.Connection[Any], sql: str, wanted: int, *, one: bool) -> Answer:
        with conn.cursor() as cur:
            # What is to be one statement is prepared: PostgreSQL prepares no two, and what stands behind a semicolon would run.
            cur.execute(sql.encode("utf-8", "strict"), prepare=True if one else None)
            decision: Decision | None = getattr(cur, "decision", None)
            answer: Answer = {"status": "ok"}
            if cur.description is None:
                answer["row_count"] = max(cur.rowcount, 0)
                answer["message"] = cur.statusmessage
            else:
                rows = cur.fetchmany(wanted)
                more = cur.fetchone() is not None
                answer["columns"] = [column.name for column in cur.description]
                answer["rows"] = [[plain(value) for value in row] for row in rows]
                answer["row_count"] = len(rows)
                answer["truncated"] = more or bool(getattr(cur, "truncated", False))
            if decision is not None:
                answer["masked_columns"] = [m.column for m in decision.masked_columns]
                answer["notes"] = list(decision.notes)
        answer["budget"] = plain(conn.budget)
        return answer

    @staticmethod
    def _tidy(conn: guarddb.Connection[Any]) -> None:
        """One call's transaction is not the next one's."""
        if not conn.closed and conn.info.transaction_status != guarddb.pq.TransactionStatus.IDLE:
            conn.rollback()


def _or_as_text(conn: guarddb.Connection[Any], name: str) -> type[Loader]:
    """psycopg's loader of a type, but what Python has no value for (infinity, years before Christ, 24:00) stays a text."""
    found = conn.adapters.get_loader(conn.adapters.types[name].oid, guarddb.pq.Format.TEXT)
    psycopgs = found if found is not None else TextLoader

    class OrAsText(Loader):
        def __init__(self, oid: int, context: Any = None) -> None:
            super().__init__(oid, context)
            self._load = psycopgs(oid, context).load
            self._text = TextLoader(oid, context).load

        def load(self, data: Any) -> Any:
            try:
                return self._load(data)
            except (guarddb.Error, ValueError, NotImplementedError):
                return self._text(data)

    return OrAsText


_KINDS = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
}


def refused(ex: Exception) -> Answer:
    """An error as an answer. Only what the agent may read is in it: no traceback, no connection string."""
    if isinstance(ex, guarddb.PolicyViolation | guarddb.BudgetExceeded):
        decision = getattr(ex, "decision", None)
        answer: Answer = {
            "status": "refused",
            "rule": getattr(ex, "rule", None),
            "reason": decision.reason if decision is not None and decision.reason else str(ex),
            "hint": getattr(ex, "hint", None),
            "try_sql": decision.try_sql if decision is not None else None,
        }
        if (resets_at := getattr(ex, "resets_at", None)) is not None:
            answer["resets_at"] = plain(resets_at)
        return answer
    if isinstance(ex, guarddb.Error):
        diagnostic = ex.diag
        return {
            "status": "error",
            "sqlstate": ex.sqlstate,
            "reason": diagnostic.message_primary or _first_line(ex),
            "hint": diagnostic.message_hint,
        }
    if isinstance(ex, guarddb.PolicyError):
        return {"status": "error", "reason": f"the policy cannot be used: {_first_line(ex)}"}
    return {"status": "error", "reason": f"{type(ex).__name__}: the statement could not be run"}


def _first_line(ex: Exception) -> str:
    lines = str(ex).strip().splitlines()
    return lines[0] if lines else type(ex).__name__


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def plain(value: Any) -> Any:
    """A value as JSON has it: numbers and texts as they are, what has no JSON form as PostgreSQL would print it, or base64."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return str(value)
    if isinstance(value, dt.date | dt.time | dt.datetime):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(bytes(value)).decode("ascii")
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is not None:
        return {name: plain(getattr(value, name)) for name in fields}
    return str(value)


def _is_text(given: object) -> bool:
    """What a model or a framework hands over may be anything."""
    return isinstance(given, str)
