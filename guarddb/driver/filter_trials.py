"""Filters that PostgreSQL cannot read are found when they meet the catalog: each is parsed once.

Nothing is run or planned: it is a Parse message for the unnamed statement. That takes a lock on the table for a moment, so it
happens between transactions, and waits for nobody who holds another.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache
from psycopg import BaseConnection, errors as e, pq
from psycopg.generators import execute

from guarddb.decision.filters.trials import trials
from guarddb.driver import operator_log
from guarddb.driver.asking import ask_gen

if TYPE_CHECKING:
    from psycopg.abc import PQGen

    from guarddb.decision.on_catalog import Governance
    from guarddb.driver.in_force import PolicyInForce
    from guarddb.lint.unknown import UnknownRule
    from guarddb.sql.catalog import Catalog

#: What was found out, by policy, catalog and database. (What values the settings of a filter have makes no difference.)
_FOUND: LRUCache[tuple[object, ...], tuple[UnknownRule, ...]] = LRUCache(256)
_lock = threading.Lock()

_BEGIN = b"BEGIN READ ONLY"
_PATIENCE = b"SELECT pg_catalog.set_config('lock_timeout', '100ms', true), pg_catalog.set_config('statement_timeout', '0', true)"


def _governance(policy: PolicyInForce | None, catalog: Catalog | None) -> Governance | None:
    """What a policy makes of a catalog, where there are filters."""
    if policy is None or catalog is None or not policy.profile.row_filters:
        return None
    return policy.compiled.policy.governance(catalog)


def known(policy: PolicyInForce | None, catalog: Catalog | None, database: tuple[object, ...]) -> bool:
    """Whether the filters have been tried on this catalog, by any connection; what was found then holds here too."""
    governance = _governance(policy, catalog)
    if policy is None or catalog is None or governance is None:
        return True
    with _lock:
        found = _FOUND.get((policy.name, policy.version, catalog.version, database))
    if found is not None:
        governance.faults = found
    return found is not None


def try_filters_gen(
    policy: PolicyInForce | None,
    catalog: Catalog | None,
    database: tuple[object, ...],
    conn: BaseConnection[Any],
) -> PQGen[None]:
    """Try every filter; what cannot be read is told to the operator, and closes the tables as `on_unknown` says."""
    governance = _governance(policy, catalog)
    if policy is None or catalog is None or governance is None:
        return
    found: list[UnknownRule] = []
    begun = False
    try:
        for trial in trials(governance):
            if not begun:
                yield from ask_gen(conn, _BEGIN)
                begun = True
                yield from ask_gen(conn, _PATIENCE)
            error = yield from _parse_gen(conn, trial.sql)
            if error is None:
                continue
            fault = trial.fault(error.sqlstate, error.diag.message_primary or "")
            if fault is not None:
                found.append(fault)
            yield from ask_gen(conn, b"ROLLBACK")
            begun = False
    finally:
        if begun and conn.pgconn.status == pq.ConnStatus.OK:
            yield from ask_gen(conn, b"ROLLBACK")
    with _lock:
        _FOUND[policy.name, policy.version, catalog.version, database] = tuple(found)
    governance.faults = tuple(found)
    operator_log.unreadable_filters(governance.policy, found)


def _parse_gen(conn: BaseConnection[Any], sql: str) -> PQGen[e.Error | None]:
    pgconn = conn.pgconn
    pgconn.send_prepare(b"", sql.encode(pgconn._encoding))
    (result,) = yield from execute(pgconn)
    if result.status == pq.ExecStatus.FATAL_ERROR:
        return e.error_from_result(result, encoding=pgconn._encoding)
    return None
