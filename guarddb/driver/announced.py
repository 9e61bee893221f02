"""A database that says when its catalog changes: the event trigger of `guarddb catalog install-trigger`, where it is there.

It says so twice. In the transaction that changes the catalog it leaves a row: whoever sees the change sees the row, so
comparing what is there with what was there cannot miss one, and takes the place of the catalog's fingerprint in a look. And it
notifies: that arrives by itself, with the results of the agent's statements, so hearing it costs no question; but only after
the commit, between transactions, and not where LISTEN is lost. So a notification makes a connection look at once, and how often
it looks without one stays as it is.

The rows are only read between transactions: in one of the agent's a lock on the table would be held, and a serializable one
would depend on it. There the fingerprint is asked for, as without the trigger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import errors as e

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

    from guarddb.sql.catalog import Catalog

SCHEMA, TABLE = "guarddb_catalog", "change"
CHANNEL = b"guarddb_catalog"

#: An expression: the state of the rows, and whether both event triggers are there and switched on (only a superuser makes
#: one, so the table is what it says it is). NULL: they are not.
STATE = """(SELECT CASE WHEN pg_catalog.count(*) OPERATOR(pg_catalog.=) 2 THEN
    pg_catalog.concat(pg_catalog.min(t.oid), ' ', pg_catalog.max(t.oid), ' ', (
      SELECT pg_catalog.concat(pg_catalog.count(*), ' ', pg_catalog.max(c.id), ' ',
        pg_catalog.bit_xor(pg_catalog.hashint8extended(c.id, 0))) FROM guarddb_catalog.change AS c))
  END FROM pg_catalog.pg_event_trigger AS t
  WHERE t.evtname OPERATOR(pg_catalog.=) ANY (ARRAY['guarddb_catalog_ddl', 'guarddb_catalog_drop']::pg_catalog.name[])
    AND t.evtenabled OPERATOR(pg_catalog.=) 'A'::pg_catalog."char"
    AND t.evtfoid OPERATOR(pg_catalog.=) (
      SELECT p.oid FROM pg_catalog.pg_proc AS p WHERE p.proname OPERATOR(pg_catalog.=) 'note_change'::pg_catalog.name
        AND p.pronargs OPERATOR(pg_catalog.=) 0
        AND p.pronamespace OPERATOR(pg_catalog.=) 'guarddb_catalog'::pg_catalog.regnamespace::pg_catalog.oid))"""

LISTEN = b"LISTEN guarddb_catalog"


def announces(catalog: Catalog) -> bool:
    """Whether a catalog has the table; whether the triggers are there as well is seen when it is read."""
    return catalog.relation(SCHEMA, TABLE) is not None


def hear(pgconn: PGconn) -> None:
    """Take in what has arrived by itself since the last statement. Nothing is asked, and nothing waited for."""
    try:
        pgconn.consume_input()
    except e.OperationalError:
        return  # the statement that follows will say so
    while (notify := pgconn.notifies()) is not None:
        if pgconn.notify_handler is not None:
            pgconn.notify_handler(notify)
