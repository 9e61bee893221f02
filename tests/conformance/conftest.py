"""Guarded connections of the shop by profile, kept open for a module."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import guarddb
from tests.conformance.cases import PROFILES
from tests.fix_server import temporary_database

#: The copy becomes what the profile shows. A redacted text does not fit char(11), nor a hash the domain's check.
AS_SHOWN = """
SET session_replication_role = replica;
DELETE FROM customers WHERE tenant_id <> 1;
DELETE FROM orders WHERE tenant_id <> 1;
DELETE FROM payments WHERE tenant_id <> 1;
DELETE FROM events WHERE tenant_id <> 1;
ALTER TABLE customers ALTER COLUMN ssn TYPE text;
ALTER DOMAIN email DROP CONSTRAINT email_check;
UPDATE customers SET ssn = '[redacted]' WHERE ssn IS NOT NULL;
UPDATE customers SET email = encode(sha256(convert_to(email, 'UTF8')), 'hex') WHERE email IS NOT NULL;
UPDATE employees SET salary = NULL;
UPDATE payments SET card_number = '[redacted]' WHERE card_number IS NOT NULL;
ANALYZE;
"""

Guard = Callable[..., guarddb.Connection[Any]]


@pytest.fixture(scope="module")
def guarded(shop_admin: str) -> Iterator[Guard]:
    """guarded(name) -> one connection of the shop for each profile of `cases`, autocommit, as superuser."""
    opened: dict[str, guarddb.Connection[Any]] = {}

    def connection(
        name: str, profile: Mapping[str, Any] | guarddb.PolicyProfile | None = None
    ) -> guarddb.Connection[Any]:
        if name not in opened:
            opened[name] = guarddb.connect(shop_admin, policy=profile or PROFILES[name], autocommit=True)
        return opened[name]

    yield connection
    for conn in opened.values():
        conn.close()


@pytest.fixture(scope="module")
def copy_dsn(server_dsn: str, shop_admin: str, shop_template: str) -> Iterator[str]:
    """The shop as the profile shows it, for the role `agent`. Its sequences go on where the shop's have come to by now."""
    with temporary_database(server_dsn, "as_shown", shop_template) as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn, psycopg.connect(shop_admin) as shop:
            conn.execute(AS_SHOWN)
            for sequence in shop.execute(
                "SELECT schemaname, sequencename, last_value FROM pg_sequences WHERE last_value IS NOT NULL"
            ):
                conn.execute("SELECT setval(format('%%I.%%I', %s::text, %s::text)::regclass, %s)", sequence)
        yield make_conninfo(dsn, user="agent")


@pytest.fixture
def connect(shop: str) -> Iterator[Guard]:
    """connect(fields, **arguments) -> a new guarded autocommit connection of the shop as the role `agent`."""
    opened: list[guarddb.Connection[Any]] = []

    def open_one(
        fields: Mapping[str, Any], conninfo: str = shop, **arguments: Any
    ) -> guarddb.Connection[Any]:
        arguments.setdefault("autocommit", True)
        policy = {"name": f"field {len(opened)}", **fields}
        opened.append(guarddb.connect(conninfo, policy=policy, **arguments))
        return opened[-1]

    yield open_one
    for conn in opened:
        conn.close()


@dataclass
class Outcome:
    """What became of one statement: the decision, what was raised, and the rows."""

    decision: guarddb.Decision
    error: psycopg.Error | None
    rows: list[tuple[Any, ...]] | None

    @property
    def rule(self) -> str:
        """The rule that refused it, before or while it ran, or `ok`."""
        return self.error.rule if isinstance(self.error, guarddb.PolicyViolation) else self.decision.rule


def attempt(conn: guarddb.Connection[Any], sql: str) -> Outcome:
    """Execute `sql` in a transaction of its own that is undone, unless it is about transactions itself."""
    cursor = conn.cursor()
    about_transactions = TRANSACTION.match(sql) is not None
    try:
        with nullcontext() if about_transactions else conn.transaction(force_rollback=True):
            cursor.execute(sql.encode())
            rows = cursor.fetchall() if cursor.description is not None else None
    except psycopg.Error as ex:
        assert cursor.decision is not None
        return Outcome(cursor.decision, ex, None)
    finally:
        if about_transactions:
            conn.rollback()
        if sql.startswith("PREPARE"):
            # Not by an ordinary statement, which the profile may refuse; a PREPARE outlives a rollback.
            conn.pgconn.exec_(b"DEALLOCATE ALL")
    assert cursor.decision is not None
    return Outcome(cursor.decision, None, rows)


TRANSACTION = re.compile(r"BEGIN|START|COMMIT|ROLLBACK|END|ABORT|PREPARE TRANSACTION|SELECT 1; COMMIT")
