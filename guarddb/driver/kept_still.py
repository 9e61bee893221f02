"""stream() and COPY hand out rows as they come: whether they have met what they were judged by is to be known before the first.

PostgreSQL looks the names of a statement up when it parses it, and locks what they mean until the transaction's end. So the
statement is parsed first, in the transaction that it then runs in; if that took long, it is judged again (`waited.py`), and only
then it is sent. In autocommit that is a transaction of guarddb's own.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from pglast import parser
from psycopg import pq
from psycopg.generators import execute

from guarddb.driver import undo, waited
from guarddb.sql.names import quote, quote_qualified
from guarddb.tree import parse

if TYPE_CHECKING:
    from psycopg.abc import PQGen

    from guarddb.driver.plans import JudgedText
    from guarddb.driver.session import Session
    from guarddb.driver.views import Results
    from guarddb.tree import Node

IDLE = pq.TransactionStatus.IDLE
INTRANS = pq.TransactionStatus.INTRANS
_COMMENTS = frozenset({"SQL_COMMENT", "C_COMMENT"})


def kept_still_gen(cursor: Any, pgq: Any, results: Results, *, ends: bool) -> PQGen[None]:
    """Have the server look up what a statement names, and keep it as it is; then judge it again where that took long.

    Args:
        ends: its end is told, so that a transaction that is begun for it is ended. (Not so of a COPY by a cursor of psycopg's
            own class: in autocommit nothing is done for that.)

    Raises:
        PolicyViolation: it would not have been sent as it was.
    """
    conn = cursor._conn
    session: Session = conn._guard
    judged: JudgedText = pgq.judged
    if not session.restricts or session.observe or conn._pipeline is not None or not waited.meets(judged):
        return
    if conn.pgconn.transaction_status == IDLE and conn._autocommit and ends:
        results.undo = yield from undo.open_gen(session, conn, first=False)
    if conn.pgconn.transaction_status != INTRANS:
        return
    conn.pgconn.send_prepare(b"", _looked_up(session, judged, pgq.query), param_types=pgq.types)
    cursor._check_results((yield from execute(conn.pgconn)))
    if perf_counter() >= session.freshness.overdue_at:
        session.waited = (cursor, judged)
        yield from waited.asked_again_gen(session, conn, undone=True)


def _looked_up(session: Session, judged: JudgedText, sent: bytes) -> bytes:
    """What is parsed in place of a statement: what a COPY copies, for its own text is parsed when it runs."""
    if not any(each.facts.operation == "COPY" for each in judged.plan.statements):
        return sent
    text = sent.decode(session.encoding)
    (statement,) = parse(text)
    copy: Node = statement["stmt"].get("CopyStmt", {})
    if (table := copy.get("relation")) is not None:
        schema, name = table.get("schemaname"), table["relname"]
        return f"SELECT FROM {quote(name) if schema is None else quote_qualified(schema, name)}".encode(
            session.encoding
        )
    query = _copied(text)
    if copy.get("query") != parse(query)[0]["stmt"]:
        raise session.deny("internal_error", "the query of a COPY was not found in its text")
    return query.encode(session.encoding)


def _copied(text: str) -> str:
    """The query of a COPY, where it is in its text (so that an error about it names the right place).

    >>> _copied("COPY (SELECT (1)) TO STDOUT")
    '      SELECT (1)'
    """
    tokens = [token for token in parser.scan(text) if token.name not in _COMMENTS]
    depth, start = 0, tokens[1].end + 1
    for token in tokens[1:]:
        depth += (token.name == "ASCII_40") - (token.name == "ASCII_41")
        if not depth:
            return " " * len(text[:start].encode()) + text[start : token.start]
    return ""
