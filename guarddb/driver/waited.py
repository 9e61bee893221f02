"""What a query was judged by, asked once more when it has run: it may have waited for somebody else's definition to end.

A statement that names a table waits for definitions of it that are under way, and looks the names of its columns up then. So
after a query that took long, or beside which another connection of the process defines something, a look is taken before its
rows are handed out. Where the text means something else by now, they are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import pq

from guarddb.decision.plan import Decision
from guarddb.driver.fixed_snapshot import names_gen
from guarddb.driver.judging import judge
from guarddb.driver.steps import NOTHING_TO_WAIT_FOR
from guarddb.errors import PolicyViolation

if TYPE_CHECKING:
    from psycopg.abc import PQGen

    from guarddb.driver.plans import JudgedText
    from guarddb.driver.session import Session

INTRANS = pq.TransactionStatus.INTRANS
_SETTLED = (pq.TransactionStatus.IDLE, INTRANS)


def again(cursor: Any, judged: JudgedText) -> PQGen[None]:
    """What has to be asked once more, as a rule nothing. Raises as `_asked_again_gen` does."""
    session: Session = cursor._conn._guard
    moved = session.neighbours.changing or session.freshness.overdue() or not _is_judged_so(session, judged)
    return _asked_again_gen(cursor, judged) if moved and session.restricts else NOTHING_TO_WAIT_FOR


def _is_judged_so(session: Session, judged: JudgedText) -> bool:
    """Whether it was judged by the catalog that is known now (the last look may have been in front of BEGIN)."""
    return session.plans.get(judged.original) is judged or judged.uses_session


def _asked_again_gen(cursor: Any, judged: JudgedText) -> PQGen[None]:
    """Look, and judge a query again where the catalog is another.

    Raises:
        PolicyViolation: it would not have been sent as it was; none of its rows are handed out.
    """
    conn = cursor._conn
    session: Session = conn._guard
    if judged.effects or judged.writes or judged.empty or conn._pipeline is not None:
        return
    if session.observe or session.pgconn.transaction_status not in _SETTLED:
        return
    session.freshness.told()  # (No look that began before is enough.)
    try:
        yield from conn._guard_refresh_gen()
        if session.freshness.fixed and session.pgconn.transaction_status == INTRANS:
            yield from names_gen(session, conn, judged)
        if _is_judged_so(session, judged):
            return
        again = judge(session, judged.original)
        if again.sent != judged.sent or again.statements != judged.statements:
            raise session.violation(session.under_its_policy(_MOVED))
    except PolicyViolation:
        cursor._reset()
        raise


_MOVED = Decision(
    "block",
    "statement_not_allowed",
    "what it names was defined anew while it waited; its rows are not shown",
    "Send it again.",
)
