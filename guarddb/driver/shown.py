"""How a result is shown: one description, which execute(), stream() and the FETCH of a named cursor go by.

A result may be hidden (its RETURNING was guarddb's), masked, cut and metered. `how_shown` says which; the rest of this file does
what it says in each of the three places where psycopg hands out rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from msgspec import Struct, structs
from psycopg import pq

from guarddb.driver.loaders import HASH_OID, NULL_OID, has_loaders, register_loaders
from guarddb.driver.notices import notify
from guarddb.driver.scanning import Scanner
from guarddb.driver.views import (
    TO_BE_HASHED_FMOD,
    VARCHAR_OID,
    CommandView,
    Masks,
    MeteredTransformer,
    Results,
    ResultView,
)

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from guarddb.decision.plan import Handling, StatementPlan
    from guarddb.driver.session import Session

logger = logging.getLogger("guarddb")

TUPLES_OK = int(pq.ExecStatus.TUPLES_OK)
_COPYING = frozenset(map(int, (pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_BOTH)))

#: `counting.count_bytes`: (session, the results they are of, bytes that are about to be handed out)
CountBytes: TypeAlias = "Callable[[Session, Results | None, int], None]"


class Shown(Struct):
    """How one result is shown.

    Attributes:
        hidden: as the result of a command, without its rows.
        masked: columns that are masked in the process, and the OID of the loader of each; None when none is.
        metered: its bytes are counted as they are handed out.
        scanned: it is scanned for hidden instructions as it is handed out.
        cap: rows that the policy shows of such a result; left: how many of them are still to be shown here. None: all.
    """

    hidden: bool
    masked: dict[int, int] | None
    metered: bool
    scanned: bool
    cap: int | None
    left: int | None

    def rows(self, there: int, before: int = 0) -> int:
        """How many of the rows that are there are shown, `before` having been shown already."""
        return there if self.left is None else max(0, min(there, self.left - before))


def how_shown(
    session: Session,
    result: PGresult,
    handling: Handling | None,
    *,
    left: int | None = None,
    report: bool = True,
) -> Shown:
    """The one description. `left`: rows that may be shown where it is less than the cap; `report`: log what the net caught."""
    policy = session.in_force
    if policy is None:
        metered, scanned = True, False
    else:
        metered, scanned = policy.egress, policy.scans
    if handling is None:
        hidden, cap = False, None
    else:
        hidden, cap = handling.hidden_returning, handling.row_cap
    masked = None
    if session.keyed_hash is not None or _touches_masks(session, result):
        masked = _masked_columns(session, result, handling, report=report)
    return Shown(hidden, masked, metered, scanned, cap, cap if left is None else left)


# execute(), executemany(), COPY, and the description of a portal


def show_result(
    cursor: Any, results: Results, i: int, format: pq.Format | None, count_bytes: CountBytes
) -> None:
    """Show result `i`, which psycopg has just made the current one, as its plan wants it shown."""
    if results.truncated:
        results.truncated = False
    result = results[i]
    statements = results.statements
    handling = statements[i].handling if len(statements) == len(results) else _handling_of_any(statements)
    if handling is not None and handling.hidden_returning:
        _hide(cursor, result)
        return
    columns = result.nfields
    status = result.status
    if status != TUPLES_OK and (not columns or status in _COPYING):
        return
    session: Session = cursor._conn._guard
    policy = session.in_force
    if (
        policy is not None
        and not policy.scans
        and status == TUPLES_OK
        and session.keyed_hash is None
        and results.caps is None
        and (handling is None or handling.row_cap is None or result.ntuples <= handling.row_cap)
        and not _touches_masks(session, result)
    ):
        # As what follows would have it; most results are so.
        if policy.egress:
            charge = partial(count_bytes, session, results)
            cursor._tx = MeteredTransformer(cursor._tx, charge, result, columns, None)
        return
    left = results.caps.get(i) if results.caps is not None else None
    shown = how_shown(session, result, handling, left=left)
    masks = None
    if shown.masked is not None:
        masks = _mask(cursor, cursor._tx, session, result, shown.masked, format)
    if status != TUPLES_OK:
        # The description of a portal: it has columns and no rows.
        if masks:
            cursor.pgresult = ResultView(result, 0, masks)
        return
    there = result.ntuples
    rows = there if shown.left is None else min(there, shown.left)
    scanner = None
    if shown.scanned:
        scanner = Scanner(session, cursor._conn, results, result)
        masks = _scanned(scanner, masks)
    if shown.metered or scanner is not None:
        metering = partial(count_bytes, session, results) if shown.metered else None
        cursor._tx = MeteredTransformer(cursor._tx, metering, result, columns, scanner)
    if rows < there:
        cut(cursor, results, result, rows, shown.cap, masks)
    elif masks:
        cursor.pgresult = ResultView(result, there, masks)


def _hide(cursor: Any, result: PGresult) -> None:
    cursor.pgresult = CommandView(result)
    rows = result.command_tuples
    cursor._rowcount = rows if rows is not None else -1


def _handling_of_any(statements: Sequence[StatementPlan]) -> Handling | None:
    """The handling of each result where a rule of a table (DO ALSO SELECT) gave one more, and nobody can say which."""
    if not statements:
        return None
    handlings = [each.handling for each in statements]
    caps = [each.row_cap for each in handlings if each.row_cap is not None]
    return structs.replace(
        handlings[0],
        row_cap=min(caps, default=None),
        hidden_returning=any(each.hidden_returning for each in handlings),
        keyed_hashes=(),
        output_kinds=MappingProxyType({}),
    )


# stream()


def view_stream(cursor: Any, results: Results, result: PGresult) -> None:
    """Before a row factory sees the first chunk of a stream(): the view of it."""
    session: Session = cursor._conn._guard
    shown = how_shown(session, result, _streamed(results), report=False)
    masks = _mask(cursor, cursor._tx, session, result, shown.masked, None, loaders=False)
    cursor.pgresult = ResultView(result, shown.rows(result.ntuples), masks or {})


def show_chunk(
    cursor: Any, results: Results, result: PGresult, count_bytes: CountBytes, *, first: bool
) -> PGresult | None:
    """The same for a chunk of stream(); None when none of it is to be shown."""
    session: Session = cursor._conn._guard
    left = results.caps.get(0) if results.caps is not None else None
    shown = how_shown(session, result, _streamed(results), left=left, report=first)
    masks = _mask(cursor, cursor._tx, session, result, shown.masked, None, loaders=first)
    if first and (shown.metered or shown.scanned):
        scanner = Scanner(session, cursor._conn, results, result) if shown.scanned else None
        charge = partial(count_bytes, session, results) if shown.metered else None
        cursor._tx = MeteredTransformer(cursor._tx, charge, result, result.nfields, scanner)
    there = result.ntuples
    rows = shown.rows(there, results.streamed)
    if rows < there:
        cut(cursor, results, result, rows, shown.cap, masks)
        return cast("PGresult", cursor.pgresult) if rows else None
    if masks:
        cursor.pgresult = ResultView(result, rows, masks)
    return result


def _streamed(results: Results) -> Handling | None:
    return results.statements[0].handling if results.statements else None


# FETCH of a named cursor


class FetchedRows:
    """Stands in for psycopg's transformer while a server cursor FETCHes.

    Every FETCH is looked at like a new result: what the portal of a name is may have changed since it was described.
    """

    __slots__ = ("_count_bytes", "_cursor", "_handling", "_tx", "left", "masks", "real", "result")

    def __init__(
        self, cursor: Any, handling: Handling | None, left: int | None, count_bytes: CountBytes
    ) -> None:
        self.real = self._tx = cursor._tx
        self._cursor = cursor
        self._handling = handling
        self._count_bytes = count_bytes
        #: rows that may be handed out, the rest is not loaded
        self.left = left
        self.masks: Masks | None = None
        self.result: PGresult | None = None

    def set_pgresult(self, result: PGresult, *, set_loaders: bool = True, format: Any = None) -> None:
        cursor = self._cursor
        session: Session = cursor._conn._guard
        self.result = result
        self.real.set_pgresult(result, set_loaders=True, format=cursor._format)
        shown = how_shown(session, result, self._handling, left=self.left, report=False)
        self.masks = _mask(cursor, self.real, session, result, shown.masked, cursor._format)
        if self.masks is not None:
            cursor.pgresult = ResultView(result, result.ntuples, self.masks)
        if shown.metered or shown.scanned:
            results = cursor._guard_results()
            charge = partial(self._count_bytes, session, results) if shown.metered else None
            scanner = None
            if shown.scanned:
                scanner = Scanner(session, cursor._conn, results, result)
            self._tx = MeteredTransformer(self.real, charge, result, result.nfields, scanner)

    def load_rows(self, row0: int, row1: int, make_row: Any) -> Any:
        return self._tx.load_rows(row0, row1 if self.left is None else min(row1, self.left), make_row)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


# What the three share


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
        # Of a write it is how many rows were written, as its status says.
        written = short.command_tuples
        cursor._rowcount = shown if written is None else written
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


def scan_ahead(cursor: Any) -> None:
    """Scan all of what a write returns while it can still be undone. Raises PolicyViolation as handing it out would."""
    tx = cursor._tx
    result = cursor.pgresult
    if type(tx) is not MeteredTransformer or tx.scanner is None or result is None or not result.ntuples:
        return
    scanner, tx.scanner = tx.scanner, None
    scanner.rows(tx.real.load_rows(0, result.ntuples, tuple), 0)


def _scanned(scanner: Scanner, masks: Masks | None) -> Masks | None:
    """A view's values are scanned as rows are; a masked one is what its mask makes of it."""
    if scanner.report.mode != "block":
        return masks
    return {**{column: scanner.raw(column) for column in scanner.columns}, **(masks or {})}


def _touches_masks(session: Session, result: PGresult) -> bool:
    """Whether a column comes straight from a masked column of a table, by the server's word."""
    if not session.origins:
        return False
    columns = result.nfields
    if session.masked_tables.isdisjoint(map(result.ftable, range(columns))):
        return False
    origins = zip(map(result.ftable, range(columns)), map(result.ftablecol, range(columns)), strict=True)
    return not session.origins.keys().isdisjoint(origins)


def _masked_columns(
    session: Session, result: PGresult, handling: Handling | None, *, report: bool
) -> dict[int, int] | None:
    """Which columns are masked in the process, and by which loader; None when none is.

    A column to be hashed comes with a type of its own, and is in the plan. Where only one of them says so, the result is not
    what it was taken for, or an agent has made that type to have a guess hashed: NULL. A column that comes straight from a
    masked column of a table carries that column's numbers.
    """
    oids: dict[int, int] | None = None
    columns = result.nfields
    if session.keyed_hash is not None:
        keyed = handling.keyed_hashes if handling is not None else ()
        modifier_of = result.fmod
        for column in range(columns):
            marked = modifier_of(column) == TO_BE_HASHED_FMOD and result.ftype(column) == VARCHAR_OID
            if marked or column in keyed:
                oids = oids or {}
                oids[column] = HASH_OID if marked and column in keyed else NULL_OID
    if not _touches_masks(session, result):
        return oids
    origins = session.origins
    kinds = handling.output_kinds if handling is not None else {}
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
    oids: dict[int, int] | None,
    format: pq.Format | None,
    *,
    loaders: bool = True,
) -> Masks | None:
    """Give masked columns their loaders, and say what a view of the result has to do with their values."""
    if oids is None:
        return None
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
