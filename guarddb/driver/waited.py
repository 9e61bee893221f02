"""What a statement was judged by, asked once more when it has run: it may have waited for somebody else's definition to end.

A statement that names a table waits for definitions of it that are under way, and looks the names of its columns up then. So
after a statement that took long, or beside which another connection of the process defines something, a look is taken before its
rows are handed out and before what it wrote can be committed. Where the text means something else by now, neither happens: the
rows are dropped, and a transaction in which it wrote is made to fail.

What it has locked keeps its definition until the transaction's end, so what the look sees is what the statement met.
"""

from __future__ import annotations

import re
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from psycopg import errors as e, pq
from psycopg._preparing import PrepareManager

from guarddb.decision.plan import Decision
from guarddb.driver.asking import ask_gen
from guarddb.driver.fixed_snapshot import names_gen
from guarddb.driver.judging import judge
from guarddb.driver.plans import FILLS
from guarddb.driver.steps import NOTHING_TO_WAIT_FOR
from guarddb.errors import PolicyViolation
from guarddb.sql.names import quote

if TYPE_CHECKING:
    from psycopg import BaseConnection
    from psycopg.abc import PQGen

    from guarddb.driver.plans import JudgedText
    from guarddb.driver.session import Session

INTRANS = pq.TransactionStatus.INTRANS
_SETTLED = (pq.TransactionStatus.IDLE, INTRANS)

#: Kinds of statements that look names up to read or write by them.
_MEETS = frozenset({"select", "insert", "update", "delete", "copy"})
#: Statements about a name of the session's: what it stands for was judged, and is judged again when it is used.
_ABOUT_NAMES = frozenset({"prepare", "deallocate", "close"})
#: Fails, and with it the transaction. (Were there such a savepoint, it would be from before the statement.)
FAIL = b"ROLLBACK TO SAVEPOINT guarddb_waited"

_NUMBERED = re.compile(r"\Apg_temp_\d+\.")

MOVED = Decision(
    "block",
    "statement_not_allowed",
    "what it names was defined anew while it waited; its rows are not shown",
    "Send it again.",
)
MOVED_WRITE = Decision(
    "block",
    "statement_not_allowed",
    "what it names was defined anew while it waited; it was undone",
    "Send it again; a transaction that is open has to be rolled back first.",
)


class Prepared(PrepareManager):
    """psycopg's list of prepared statements, which sees to what is due at the end of every execute()."""

    def maintain_gen(self, conn: BaseConnection[Any]) -> PQGen[None]:
        """As psycopg's, and what is to be asked again. As a rule there is nothing to do."""
        session: Session = conn._guard  # type: ignore[attr-defined]
        if session.waited is not None:
            return _executed_gen(session, conn, super().maintain_gen(conn))
        if self._to_flush:
            return super().maintain_gen(conn)
        return NOTHING_TO_WAIT_FOR


def _executed_gen(session: Session, conn: Any, maintain: PQGen[None]) -> PQGen[None]:
    yield from asked_again_gen(session, conn)
    if session.deferred:
        yield from conn._guard_settled_gen()
    yield from maintain


def asked_again_gen(session: Session, conn: Any, *, undone: bool = False) -> PQGen[None]:
    """Look, and judge again what has run where that is due and the catalog is another. `undone`: the caller takes it back.

    Raises:
        PolicyViolation: it would not have been sent as it was; none of its rows are handed out.
    """
    waited, session.waited = session.waited, None
    if not waited or not session.restricts or session.observe:
        return
    cursor, judged = waited
    if session.pgconn.transaction_status not in _SETTLED or not meets(judged):
        return
    try:
        yield from _same_gen(session, conn, judged)
    except PolicyViolation:
        cursor._reset()
        if not undone:
            yield from _made_to_fail_gen(session, conn, judged)
        raise


def meets(judged: JudgedText) -> bool:
    """Whether a text looks names up, to read or write by them.

    (What other definitions name is judged when it is used; and judged by a catalog that has it already, they may be refused.)
    """
    return any(
        not each.facts.kinds.isdisjoint(_MEETS)
        and each.facts.session_verb not in _ABOUT_NAMES
        and (each.facts.kind != "ddl" or each.facts.operation in FILLS)
        for each in judged.plan.statements
    )


def _same_gen(session: Session, conn: Any, judged: JudgedText) -> PQGen[None]:
    session.freshness.told()  # (No look that began before is enough.)
    yield from conn._guard_refresh_gen()
    yield from judged_again_gen(session, conn, judged)


def judged_again_gen(session: Session, conn: Any, judged: JudgedText) -> PQGen[None]:
    """Judge by the catalog that is known now. Raises PolicyViolation where that comes to something else."""
    if session.freshness.fixed and session.pgconn.transaction_status == INTRANS:
        yield from names_gen(session, conn, judged)
    if session.plans.get(judged.original) is judged:
        return
    again = judge(session, judged.original)
    if is_another(again, judged):
        raise session.refuse(judged, session.under_its_policy(MOVED_WRITE if judged.takes else MOVED))


def is_another(again: JudgedText, judged: JudgedText) -> bool:
    """Whether a text is sent, or what comes of it handled, in another way than before."""
    return again.sent != judged.sent or _told(again) != _told(judged)


def _told(judged: JudgedText) -> list[tuple[object, ...]]:
    """What was decided of each statement. (The first temporary table of a session gives their schema its number.)"""
    return [
        (
            replace(each.facts, relations=tuple(_NUMBERED.sub("pg_temp.", r) for r in each.facts.relations)),
            each.handling,
        )
        for each in judged.statements
    ]


def _made_to_fail_gen(session: Session, conn: Any, judged: JudgedText) -> PQGen[None]:
    """Nothing of what it wrote may be committed, and no portal that it has opened may be read."""
    if judged.takes:
        if session.pgconn.transaction_status == INTRANS:
            with suppress(e.Error):
                yield from ask_gen(conn, FAIL)
        return
    for statement in judged.plan.statements:
        name = statement.facts.session_name
        if statement.facts.session_verb == "declare" and name in session.names.portals:
            yield from ask_gen(conn, f"CLOSE {quote(name)}".encode(session.encoding))
            session.names.forget(portal=name)


def declared_gen(cursor: Any) -> PQGen[None]:
    """A named cursor has been declared: the same, before anything is fetched of it."""
    conn = cursor._conn
    session: Session = conn._guard
    judged = cursor._guard_results().judged
    if judged is None or perf_counter() < session.freshness.overdue_at:
        return
    session.waited = (cursor, judged)
    try:
        yield from asked_again_gen(session, conn, undone=True)
    except PolicyViolation:
        yield from cursor._close_gen()
        cursor._described = False
        raise
