"""What lets a statement be taken back after it has run: a savepoint, or a transaction around it.

- In a transaction of the agent's that has seen other statements it is a savepoint. It is not released at once, which would take a
  round trip, but by what is sent next and would get in its way: the agent's own savepoints, or the next one of these.
- Where the transaction was begun for this very statement, it is the transaction.
- In autocommit it is a transaction of guarddb's own around the statement, which commits where the statement would have.

When the profile says `write_mode: rollback`, nothing commits: deferred constraints are checked, so that what would fail does
fail, and then it is rolled back.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from psycopg import errors as e, pq

from guarddb.driver.asking import ask_gen

if TYPE_CHECKING:
    from psycopg.abc import PQGen

    from guarddb.driver.session import Session

ACTIVE = pq.TransactionStatus.ACTIVE
IDLE = pq.TransactionStatus.IDLE
INTRANS = pq.TransactionStatus.INTRANS
OK = pq.ConnStatus.OK

_SAVEPOINT = b"SAVEPOINT guarddb_write"
_RELEASE = b"RELEASE SAVEPOINT guarddb_write"
_BACK = b"ROLLBACK TO SAVEPOINT guarddb_write"
_CHECK = b"SET CONSTRAINTS ALL IMMEDIATE"


@dataclass(frozen=True, slots=True)
class Undo:
    """How one statement can be taken back."""

    by: Literal["savepoint", "first", "own"]


SAVEPOINT, FIRST, OWN = Undo("savepoint"), Undo("first"), Undo("own")


def open_gen(session: Session, conn: Any, *, first: bool) -> PQGen[Undo | None]:
    """Make it possible to take back what is sent next; None in a transaction that has failed. `first`: it was begun for it."""
    status = conn.pgconn.transaction_status
    if status == IDLE:
        yield from ask_gen(conn, b"BEGIN")
        return OWN
    if status != INTRANS:
        return None
    if first:
        return FIRST
    if session.names.savepoint_open:
        yield from ask_gen(conn, _RELEASE)
        session.names.savepoint_open = False
    yield from ask_gen(conn, _SAVEPOINT)
    session.names.savepoint_open = True
    return SAVEPOINT


def keep_gen(session: Session, conn: Any, undo: Undo) -> PQGen[None]:
    """The statement stays, as far as it would by itself."""
    if undo is OWN:
        yield from end_gen(session, conn)


def back_gen(session: Session, conn: Any, undo: Undo) -> PQGen[None]:
    """Take the statement back."""
    if conn.pgconn.status != OK or conn.pgconn.transaction_status in (IDLE, ACTIVE):
        return  # (a COPY that was begun with execute() keeps the connection busy for good)
    if undo is SAVEPOINT:
        yield from ask_gen(conn, _BACK)
        yield from ask_gen(conn, _RELEASE)
        session.names.savepoint_open = False
        session.freshness.verified.clear()  # its locks are gone
    else:
        yield from ask_gen(conn, b"ROLLBACK")
        session.names.note_transaction("rollback")


def end_gen(session: Session, conn: Any) -> PQGen[None]:
    """The end of a transaction of guarddb's own around a statement."""
    if conn.pgconn.transaction_status != INTRANS:
        yield from ask_gen(conn, b"ROLLBACK")
    elif session.rolls_back:
        yield from check_gen(session, conn)
        yield from ask_gen(conn, b"ROLLBACK")
    else:
        yield from ask_gen(conn, b"COMMIT")


def check_gen(session: Session, conn: Any) -> PQGen[None]:
    """Check what is deferred, as a COMMIT would: when that fails the transaction is over, and the error is the COMMIT's."""
    if conn.pgconn.transaction_status != INTRANS:
        return
    try:
        yield from ask_gen(conn, _CHECK)
    except e.Error:
        if conn.pgconn.status == OK:
            yield from ask_gen(conn, b"ROLLBACK")
        session.names.note_transaction("rollback")
        raise


def settled_gen(session: Session, conn: Any) -> PQGen[None]:
    """Before a savepoint of the agent's own: guarddb's, which is done with, is out of the way."""
    if session.names.savepoint_open:
        session.names.savepoint_open = False
        if conn.pgconn.transaction_status == INTRANS:
            yield from ask_gen(conn, _RELEASE)


def empty_gen(pipeline: Any) -> PQGen[None]:
    """See a pipeline through to a state in which it can be asked something, whatever it has still to say."""
    for _ in range(3):
        with suppress(e.Error):
            yield from pipeline._sync_gen()
            return
