"""The result hook: caps, hidden RETURNING, hashes, the second net and the egress meter."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from psycopg import errors as e
from psycopg import pq
from psycopg.pq import DiagnosticField as Field

from guarddb.driver.results import (
    HASH_OID,
    NULL_OID,
    CommandView,
    MeteredTransformer,
    Results,
    ResultView,
    register_loaders,
)

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from guarddb.decision.decision import StatementPlan
    from guarddb.driver.session import Session

logger = logging.getLogger("guarddb")
psycopg_logger = logging.getLogger("psycopg")

TUPLES_OK = int(pq.ExecStatus.TUPLES_OK)
_COPYING = frozenset(map(int, (pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_BOTH)))

Masks = dict[int, Callable[[bytes], "bytes | None"]]


def inspect_result(cursor: Any, results: Results, i: int, format: pq.Format | None) -> None:
    """Show result `i`, which psycopg has just made the current one, as its plan wants it shown."""
    if results.truncated:
        results.truncated = False
    result = results[i]
    statements = results.statements
    # More results than statements do not happen (the server answers each once); the last plan would hold for
    # them.
    statement = (statements[i] if i < len(statements) else statements[-1]) if statements else None
    if statement is not None and statement.hidden_returning:
        cursor.pgresult = CommandView(result)
        rows = result.command_tuples
        cursor._rowcount = rows if rows is not None else -1
        cursor._make_row = cursor._make_row_maker()
        return
    columns = result.nfields
    status = result.status
    if not columns or status in _COPYING:
        return
    session: Session = cursor._conn._guard
    masks: Masks | None = None
    if (statement is not None and statement.keyed_hashes) or (
        session.origins and not session.masked_tables.isdisjoint(map(result.ftable, range(columns)))
    ):
        masks = _mask_columns(cursor, session, result, statement, format)
    if session.egress:
        cursor._tx = MeteredTransformer(cursor._tx, session, result, columns)
    if status != TUPLES_OK:
        return  # the description of a portal: it has columns and no rows
    shown = result.ntuples
    cap = statement.row_cap if statement is not None else None
    left = results.caps.get(i, cap) if results.caps is not None else cap
    if left is not None and shown > left:
        cut(cursor, results, result, left, cap, masks)
    elif masks:
        cursor.pgresult = ResultView(result, shown, masks)


def inspect_stream(cursor: Any, results: Results, result: PGresult, *, first: bool) -> PGresult | None:
    """The same for a chunk of stream(); None ends the stream."""
    judged = results.judged
    statement = judged.statements[0] if judged is not None and judged.statements else None
    session: Session = cursor._conn._guard
    masks = _mask_columns(cursor, session, result, statement, None, loaders=first)
    shown = result.ntuples
    cap = statement.row_cap if statement is not None else None
    if session.egress and first:
        cursor._tx = MeteredTransformer(cursor._tx, session, result, result.nfields)
    if cap is not None and results.streamed + shown > cap:
        shown = max(0, cap - results.streamed)
        cut(cursor, results, result, shown, cap, masks)
        # psycopg cancels what is left of a stream that ends early.
        return cursor.pgresult if shown else None
    if masks:
        cursor.pgresult = ResultView(result, shown, masks)
    return result


def cut(
    cursor: Any, results: Results, result: PGresult, shown: int, cap: int | None, masks: Masks | None = None
) -> None:
    """Show the first `shown` rows only, and say so once."""
    view = result._result if isinstance(result, ResultView) else result
    cursor.pgresult = short = ResultView(view, shown, masks or {})
    if cursor._statusmessage == view.command_status:
        # Of a server cursor it is the status of its DECLARE, and stays that.
        cursor._statusmessage = short.command_status
    if results:
        cursor._rowcount = shown
    results.truncated = True
    reported = results.reported = results.reported or set()
    if cursor._iresult not in reported:
        reported.add(cursor._iresult)
        session: Session = cursor._conn._guard
        limit = cap if cap is not None else shown
        notify(
            cursor._conn,
            f'the result was cut after {limit} rows: max_rows of policy "{session.policy_name}"',
            "narrow the query down, or page through it with ORDER BY and LIMIT",
        )


def notify(conn: Any, message: str, hint: str) -> None:
    """A warning to the connection's notice handlers, as if the server had sent it."""
    handlers = conn._notice_handlers
    if not handlers:
        return
    encoding = conn.pgconn._encoding
    fields = {
        Field.SEVERITY: b"WARNING",
        Field.SEVERITY_NONLOCALIZED: b"WARNING",
        Field.SQLSTATE: b"01000",
        Field.MESSAGE_PRIMARY: message.encode(encoding, "replace"),
        Field.MESSAGE_HINT: hint.encode(encoding, "replace"),
    }
    diagnostic = e.Diagnostic(fields, encoding)  # type: ignore[arg-type]
    for handler in list(handlers):
        try:
            handler(diagnostic)
        except Exception as ex:
            # As psycopg does with the server's own notices.
            psycopg_logger.exception("error processing notice callback '%s': %s", handler, ex)


def _mask_columns(
    cursor: Any,
    session: Session,
    result: PGresult,
    statement: StatementPlan | None,
    format: pq.Format | None,
    *,
    loaders: bool = True,
) -> Masks | None:
    """Give masked columns their loaders. The columns of the result's view that need a mask, or None."""
    oids: dict[int, int] = {}
    if statement is not None and statement.keyed_hashes:
        oids = dict.fromkeys(statement.keyed_hashes, HASH_OID)
    origins = session.origins
    if origins:
        kinds = statement.output_kinds if statement is not None else {}
        tables, table_of = session.masked_tables, result.ftable
        for column in range(result.nfields):
            table = table_of(column)
            if table not in tables:
                continue
            origin = (table, result.ftablecol(column))
            if origin in origins and column not in kinds:
                # The analysis of the text missed it, and the server's own description of the result did not.
                oids[column] = NULL_OID
                if loaders:
                    logger.error(
                        "fault: output column %d comes from masked column %d of relation %d and has no mask "
                        "in the plan; it was returned as NULL",
                        column + 1,
                        origin[1],
                        origin[0],
                    )
    if not oids:
        return None
    shown_format = pq.Format(result.fformat(0)) if format is None else format
    if loaders:
        if cursor.adapters.get_loader(HASH_OID, shown_format) is None:
            # adapters that were replaced since the connection was made; registering calls back into the
            # cursor
            register_loaders(cursor.adapters)
        types = [oids.get(column, result.ftype(column)) for column in range(result.nfields)]
        cursor._tx.set_loader_types(types, shown_format)
    keyed_hash, encoding = session.keyed_hash, session.encoding

    def hashed(value: bytes) -> bytes | None:
        return keyed_hash(value.decode(encoding).encode()).encode() if keyed_hash is not None else None

    def nulled(value: bytes) -> None:
        return None

    return {column: hashed if oid == HASH_OID else nulled for column, oid in oids.items()}
