"""The ground that the attacks are made on: a small database whose secrets can be told from everything else.

A masked value starts with `RAW-`, a row that a filter hides holds `HIDDEN` and a zero where all others hold none, so
that `1/n` raises for hidden rows only. A user function says `EVIL` in a notice when somebody calls it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import psycopg

from guarddb import Catalog, Decision, PolicyProfile, evaluate

SCHEMA = """
CREATE SCHEMA vault;
CREATE TABLE users (
  id int PRIMARY KEY, ssn text UNIQUE, name text, doc jsonb, org_id int, note text, n int
);
INSERT INTO users
  SELECT i, 'RAW-ssn-' || i, 'RAW-name-' || i, jsonb_build_object('k', 'RAW-doc-' || i), i % 2, 'note' || i, i
  FROM generate_series(1, 6) AS i;
CREATE TABLE orders (id int PRIMARY KEY, tenant_id int, user_id int, label text, n int, amount numeric);
INSERT INTO orders
  SELECT i, 1 + (i > 3)::int, i, CASE WHEN i > 3 THEN 'HIDDEN' ELSE 'seen' END || i, CASE WHEN i > 3 THEN 0 ELSE i END, i
  FROM generate_series(1, 6) AS i;
CREATE TABLE allowed (tenant_id int);
INSERT INTO allowed VALUES (1);
CREATE TABLE other (id int PRIMARY KEY, val text, n int);
INSERT INTO other SELECT i, 'v' || i, i FROM generate_series(1, 6) AS i;
CREATE TABLE vault.s (id int, x text);
INSERT INTO vault.s VALUES (1, 'RAW-vault');

CREATE TABLE part (id int, tenant_id int, n int, label text) PARTITION BY LIST (tenant_id);
CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part2 PARTITION OF part FOR VALUES IN (2);
INSERT INTO part VALUES (1, 1, 1, 'seen'), (2, 2, 0, 'HIDDEN');
CREATE TABLE parent (id int, tenant_id int, n int, label text);
CREATE TABLE child (extra text) INHERITS (parent);
CREATE TABLE grandchild () INHERITS (child);
INSERT INTO parent VALUES (1, 1, 1, 'seen'), (2, 2, 0, 'HIDDEN');
INSERT INTO child VALUES (3, 1, 1, 'seen', 'x'), (4, 2, 0, 'HIDDEN', 'x');
INSERT INTO grandchild VALUES (5, 2, 0, 'HIDDEN', 'y');

CREATE VIEW vu AS SELECT id, ssn AS social, note FROM users;
CREATE VIEW vo AS SELECT * FROM orders;
CREATE VIEW v1 AS SELECT o.id, o.label, o.n, u.ssn FROM orders o LEFT JOIN users u ON u.id = o.user_id;
CREATE VIEW v2 AS SELECT * FROM v1 WHERE id > 0;
CREATE VIEW vcomputed AS SELECT id, 1 / n AS x, CASE WHEN n = 0 THEN label::int ELSE n END AS y FROM orders;
CREATE VIEW vtwice AS SELECT * FROM vcomputed;
CREATE VIEW vbarrier WITH (security_barrier) AS SELECT * FROM orders WHERE id < 6;
CREATE VIEW vcondition AS SELECT id, note FROM users WHERE ssn LIKE 'RAW%';
CREATE VIEW vexpression AS SELECT id, upper(ssn) AS loud, note FROM users;
CREATE VIEW vwhole AS SELECT u AS w, id FROM users u;
CREATE VIEW vgroup AS SELECT tenant_id, count(*) AS c, max(label) AS m FROM orders GROUP BY tenant_id;
CREATE VIEW vrecursive AS
  WITH RECURSIVE r AS (
    SELECT id, label FROM orders WHERE id = 1 UNION ALL SELECT o.id, o.label FROM orders o JOIN r ON o.id = r.id + 1
  ) SELECT * FROM r;
CREATE VIEW vunion AS SELECT id, label FROM orders UNION ALL SELECT id, val FROM other;
CREATE VIEW vscalar AS SELECT id, (SELECT max(label) FROM orders) AS m FROM other;
CREATE VIEW vrenamed (a, b) AS SELECT id, ssn FROM users;
CREATE VIEW vlateral AS SELECT x.q FROM users u, LATERAL (SELECT u.ssn AS q) x;
CREATE VIEW vjson AS SELECT row_to_json(u) AS j FROM users u;
CREATE VIEW vpart AS SELECT * FROM part;
CREATE MATERIALIZED VIEW mo AS SELECT * FROM orders;
CREATE MATERIALIZED VIEW mu AS SELECT id, ssn AS soc FROM users;

CREATE FUNCTION leak(users) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1.ssn';
CREATE FUNCTION evil(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'EVIL'; RETURN true; END $$;
CREATE FUNCTION evil_text(text, int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'EVIL'; RETURN true; END $$;
CREATE FUNCTION evil_state(int, int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'EVIL'; RETURN 1; END $$;
CREATE OPERATOR === (FUNCTION = evil_text, LEFTARG = text, RIGHTARG = int);
CREATE AGGREGATE evil_sum (int) (SFUNC = evil_state, STYPE = int, INITCOND = '0');
CREATE DOMAIN picky AS int CHECK (evil(value));
CREATE TYPE wrapped AS (a picky, b int);
CREATE FUNCTION can_see(int) RETURNS bool LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN $1 = 1; END $$;
"""

MASKS: dict[str, Any] = {
    "name": "masks",
    "masking_rules": [
        {"table": "users", "column": "ssn", "kind": "redact"},
        {"table": "users", "column": "name", "kind": "null"},
        {"table": "users", "column": "doc", "kind": "null"},
    ],
}
ONE_MASK: dict[str, Any] = {
    "name": "one mask",
    "masking_rules": [{"table": "users", "column": "ssn", "kind": "redact"}],
}


def filters(predicate: str, *tables: str, **more: Any) -> dict[str, Any]:
    """A profile that filters these tables (orders when none is named)."""
    return {
        "name": "filters",
        "row_filters": [{"table": t, "predicate": predicate} for t in tables or ("orders",)],
        **more,
    }


#: The forms that a predicate can take for the planner: cheap, a join in the making, expensive.
PREDICATES: dict[str, dict[str, Any]] = {
    "cheap": filters("tenant_id = 1"),
    "in": filters("tenant_id IN (SELECT tenant_id FROM allowed)"),
    "exists": filters("EXISTS (SELECT 1 FROM allowed a WHERE a.tenant_id = orders.tenant_id)"),
    "long": filters(" OR ".join(f"tenant_id = {i}" for i in (1, *range(11, 30)))),
    "function": filters("can_see(tenant_id)", guarddb={"function_allowlist": ["can_see"]}),
}
BOTH: dict[str, Any] = {
    **ONE_MASK,
    "name": "both",
    "row_filters": [{"table": t, "predicate": "tenant_id = 1"} for t in ("orders", "part", "parent")],
}


def writing(policy: dict[str, Any]) -> dict[str, Any]:
    """The same profile for a session that may write."""
    return {**policy, "access_mode": "read_write"}


@dataclass
class Attempt:
    """What became of one statement: the decision, and when it was not refused what the server answered."""

    decision: Decision
    rows: list[tuple[Any, ...]] | None = None
    error: psycopg.Error | None = None
    notices: list[str] = field(default_factory=list)

    @property
    def blocked(self) -> bool:
        return self.decision.blocked

    @property
    def answer(self) -> str:
        """Everything that reaches the client, as one text."""
        return f"{self.rows} {self.error} {self.notices}"

    @property
    def leaks(self) -> bool:
        """Whether a masked value or a hidden row came out, or an error that only a hidden row can cause."""
        by_error = isinstance(self.error, psycopg.errors.DivisionByZero)
        return by_error or re.search(r"RAW-|HIDDEN|EVIL", self.answer) is not None


@lru_cache(maxsize=64)
def _profile(document: str) -> PolicyProfile:
    return PolicyProfile.model_validate_json(document)


class Ground:
    """A database with the schema in it, and attempts on it that leave no trace.

    They share a connection, as a new one costs more than most attempts do: each is rolled back, and what a session keeps
    beyond a transaction is thrown away.
    """

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SCHEMA)
        self._conn: psycopg.Connection | None = None

    @cached_property
    def catalog(self) -> Catalog:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            return Catalog.from_connection(conn)

    @contextmanager
    def _session(self) -> Iterator[psycopg.Connection]:
        """A session that nothing has happened in; nothing of it stays."""
        conn = self._conn
        if conn is None or conn.closed:
            conn = self._conn = psycopg.connect(self.dsn, prepare_threshold=None)
        try:
            yield conn
            conn.rollback()
            conn.autocommit = True
            conn.execute("DISCARD ALL")
            conn.autocommit = False
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def attempt(self, sql: str, policy: dict[str, Any], *, settings: tuple[str, ...] = ()) -> Attempt:
        """Decide with the real catalog, run what would be sent, and roll it back."""
        decision = evaluate(sql, _profile(json.dumps(policy)), self.catalog)
        attempt = Attempt(decision)
        if decision.blocked:
            return attempt
        assert decision.rewritten_sql is not None

        def notice(diagnostic: psycopg.errors.Diagnostic) -> None:
            attempt.notices.append(diagnostic.message_primary or "")

        with self._session() as conn:
            conn.add_notice_handler(notice)
            try:
                for setting in settings:
                    conn.execute(setting)
                try:
                    cursor = conn.execute(decision.rewritten_sql)
                    attempt.rows = cursor.fetchall() if cursor.description else None
                except psycopg.Error as ex:
                    attempt.error = ex
                conn.rollback()
            finally:
                conn.remove_notice_handler(notice)
        return attempt

    def plain(self, sql: str) -> list[tuple[Any, ...]] | None:
        """What the server answers without a guard; nothing stays."""
        with self._session() as conn:
            cursor = conn.execute(sql)
            return cursor.fetchall() if cursor.description else None
