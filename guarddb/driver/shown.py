"""The result hook: caps, hidden RETURNING, hashes, the second net and the egress meter."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from psycopg import errors as e, pq
from psycopg.pq import DiagnosticField as Field

from guarddb.driver.views import (
    HASH_OID,
    NULL_OID,
    TO_BE_HASHED_FMOD,
    VARCHAR_OID,
    CommandView,
    Masks,
    MeteredTransformer,
    Results,
    ResultView,
    has_loaders,
    register_loaders,
)

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from guarddb.decision.plan import StatementPlan
    from guarddb.driver.session import Session

logger = logging.getLogger("guarddb")
psycopg_logger = logging.getLogger("psycopg")

TUPLES_OK = int(pq.ExecStatus.TUPLES_OK)
_COPYING = frozenset(map(int, (pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_BOTH)))


def inspect_result(cursor: Any, results: Results, i: int, format: pq.Format | None) -> None:
    """Show result `i`, which psycopg has just made the current one, as its plan wants it shown."""
    if results.truncated:
        results.truncated = False
    result = results[i]
    statements = results.statements
    statement = statements[i] if len(statements) == len(results) else _statement_of_any(statements)
    if statement is not None and statement.hidden_returning:
        cursor.pgresult = CommandView(result)
        rows = result.command_tuples
        cursor._rowcount = rows if rows is not None else -1
        return
    columns = result.nfields
    status = result.status
    if status != TUPLES_OK and (not columns or status in _COPYING):
        return
    session: Session = cursor._conn._guard
    masks: Masks | None = None
    if session.keyed or _touches_masks(session, result, columns):
        oids = _masked_columns(session, result, statement, columns)
        masks = None if oids is None else _mask(cursor, cursor._tx, session, result, oids, format)
    if status != TUPLES_OK:
        # The description of a portal: it has columns and no rows.
        if masks:
            cursor.pgresult = ResultView(result, 0, masks)
        return
    if session.egress:
        cursor._tx = MeteredTransformer(cursor._tx, session, result, columns)
    shown = result.ntuples
    cap = statement.row_cap if statement is not None else None
    left = results.caps.get(i, cap) if results.caps is not None else cap
    if left is not None and shown > left:
        cut(cursor, results, result, left, cap, masks)
    elif masks:
        cursor.pgresult = ResultView(result, shown, masks)


def _statement_of_any(statements: tuple[StatementPlan, ...]) -> StatementPlan | None:
    """The plan for each result where a rule of a table (DO ALSO SELECT) gave one more, and nobody can say which."""
    if not statements:
        return None
    caps = [each.row_cap for each in statements if each.row_cap is not None]
    return replace(
        statements[0],
        row_cap=min(caps, default=None),
        hidden_returning=any(each.hidden_returning for each in statements),
        keyed_hashes=(),
        output_kinds=MappingProxyType({}),
    )


def view_stream(cursor: Any, results: Results, result: PGresult) -> None:
    """Before a row factory sees the first chunk of a stream(): the view of it."""
    session: Session = cursor._conn._guard
    statement = results.statements[0] if results.statements else None
    oids = _masked_columns(session, result, statement, result.nfields, report=False)
    masks = _mask(cursor, cursor._tx, session, result, oids, None, loaders=False) if oids else {}
    left = statement.row_cap if statement is not None else None
    shown = result.ntuples if left is None else min(left, result.ntuples)
    cursor.pgresult = ResultView(result, shown, masks)


def inspect_stream(cursor: Any, results: Results, result: PGresult, *, first: bool) -> PGresult | None:
    """The same for a chunk of stream(); None when none of it is to be shown."""
    statement = results.statements[0] if results.statements else None
    session: Session = cursor._conn._guard
    columns = result.nfields
    oids = _masked_columns(session, result, statement, columns, report=first)
    masks = None if oids is None else _mask(cursor, cursor._tx, session, result, oids, None, loaders=first)
    shown = result.ntuples
    cap = statement.row_cap if statement is not None else None
    left = results.caps.get(0, cap) if results.caps is not None else cap
    if session.egress and first:
        cursor._tx = MeteredTransformer(cursor._tx, session, result, columns)
    if left is not None and results.streamed + shown > left:
        shown = max(0, left - results.streamed)
        cut(cursor, results, result, shown, cap, masks)
        return cast("PGresult", cursor.pgresult) if shown else None
    if masks:
        cursor.pgresult = ResultView(result, shown, masks)
    return result


class FetchedRows:
    """Stands in for psycopg's transformer while a server cursor FETCHes.

    Every FETCH is looked at like a new result: what the portal of a name is may have changed since it was described.
    """

    __slots__ = ("_cursor", "_statement", "_tx", "left", "masks", "real", "result")

    def __init__(self, cursor: Any, statement: StatementPlan | None, left: int | None) -> None:
        self.real = self._tx = cursor._tx
        self._cursor = cursor
        self._statement = statement
        #: rows that may be handed out, the rest is not loaded
        self.left = left
        self.masks: Masks | None = None
        self.result: PGresult | None = None

    def set_pgresult(self, result: PGresult, *, set_loaders: bool = True, format: Any = None) -> None:
        cursor = self._cursor
        session: Session = cursor._conn._guard
        columns = result.nfields
        self.result = result
        self.real.set_pgresult(result, set_loaders=True, format=cursor._format)
        oids = _masked_columns(session, result, self._statement, columns, report=False)
        if oids is not None:
            self.masks = _mask(cursor, self.real, session, result, oids, cursor._format)
            cursor.pgresult = ResultView(result, result.ntuples, self.masks)
        if session.egress:
            self._tx = MeteredTransformer(self.real, session, result, columns)

    def load_rows(self, row0: int, row1: int, make_row: Any) -> Any:
        return self._tx.load_rows(row0, row1 if self.left is None else min(row1, self.left), make_row)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def cut(
    cursor: Any, results: Results, result: PGresult, shown: int, cap: int | None, masks: Masks | None = None
) -> None:
    """Show the first `shown` rows only, and say so once."""
    status = result.command_status
    cursor.pgresult = short = ResultView(result, shown, masks or {})
    if getattr(cursor, "_statusmessage", None) == status:  # (none before psycopg 3.3)
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


def _touches_masks(session: Session, result: PGresult, columns: int) -> bool:
    """Whether a column comes straight from a masked column of a table, by the server's word."""
    if not session.origins or session.masked_tables.isdisjoint(map(result.ftable, range(columns))):
        return False
    origins = zip(map(result.ftable, range(columns)), map(result.ftablecol, range(columns)), strict=True)
    return not session.origins.keys().isdisjoint(origins)


def _masked_columns(
    session: Session, result: PGresult, statement: StatementPlan | None, columns: int, *, report: bool = True
) -> dict[int, int] | None:
    """Which columns are masked in the process, and by which loader; None when none is.

    A column to be hashed comes with a type of its own, and is in the plan. Where only one of them says so, the result is not
    what it was taken for, or an agent has made that type to have a guess hashed: NULL. A column that comes straight from a
    masked column of a table carries that column's numbers.
    """
    oids: dict[int, int] | None = None
    keyed = statement.keyed_hashes if statement is not None else ()
    if session.keyed:
        modifier_of = result.fmod
        for column in range(columns):
            marked = modifier_of(column) == TO_BE_HASHED_FMOD and result.ftype(column) == VARCHAR_OID
            if marked or column in keyed:
                oids = oids or {}
                oids[column] = HASH_OID if marked and column in keyed else NULL_OID
    if not _touches_masks(session, result, columns):
        return oids
    origins = session.origins
    kinds = statement.output_kinds if statement is not None else {}
    for column in range(columns):
        origin = (result.ftable(column), result.ftablecol(column))
        if origin in origins and column not in kinds:
            # The analysis of the text missed it, and the server's own description of the result did not.
            oids = oids or {}
            oids[column] = NULL_OID
            if report:
                table, attribute = origin
                _report(
                    column,
                    f"comes from masked column {attribute} of relation {table} and has no mask in its plan; "
                    "it was returned as NULL",
                )
    return oids


def _report(column: int, what: str) -> None:
    logger.error("fault: output column %d %s", column + 1, what)


def _mask(
    cursor: Any,
    tx: Any,
    session: Session,
    result: PGresult,
    oids: dict[int, int],
    format: pq.Format | None,
    *,
    loaders: bool = True,
) -> Masks:
    """Give masked columns their loaders, and say what a view of the result has to do with their values."""
    if loaders:
        shown_format = pq.Format(result.fformat(0)) if format is None else format
        if not has_loaders(cursor.adapters, shown_format):
            # adapters that were replaced since the connection was made; registering calls back into the
            # cursor
            register_loaders(cursor.adapters)
        types = [oids.get(column, result.ftype(column)) for column in range(result.nfields)]
        tx.set_loader_types(types, shown_format)
    keyed_hash, encoding = session.keyed_hash, session.encoding

    def hashed(value: bytes) -> bytes | None:
        return keyed_hash(value.decode(encoding).encode()).encode() if keyed_hash is not None else None

    def nulled(value: bytes) -> None:
        return None

    return {column: hashed if oid == HASH_OID else nulled for column, oid in oids.items()}
