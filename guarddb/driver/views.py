"""What the agent sees of a result: cut after `max_rows`, without an added RETURNING, hashed, metered.

PGresult is a C type and cannot be cut. psycopg's C transformer needs the real one, everything else reads
`cursor.pgresult`: that is where the views of this module go, so that no row is copied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from psycopg import pq
from psycopg.adapt import Transformer

from guarddb.decision.masks.writing import TO_BE_HASHED
from guarddb.driver.result_size import LARGE, data_size
from guarddb.driver.scanning import BATCH
from guarddb.telemetry import NO_SPAN

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult
    from psycopg.rows import RowMaker

    from guarddb.decision.plan import Decision, StatementPlan
    from guarddb.driver.holding import Hold
    from guarddb.driver.names import Remembered
    from guarddb.driver.plans import JudgedText
    from guarddb.driver.query import QueryMixin
    from guarddb.driver.scanning import ContentReport, Scanner
    from guarddb.driver.undo import Undo
    from guarddb.risk.scoring import RiskResult
    from guarddb.telemetry import StatementSpan


class Results(list["PGresult"]):
    """A cursor's results, and what the guard knows about the statement they came from.

    It is kept here because a cursor has no room of its own: psycopg's cursors have __slots__, and one that
    was made as `psycopg.Cursor(conn)` can only become a guarded one when both have the same layout.

    (One is made for each statement, of which few need more than two of these: so what is not said is the class's.)
    """

    #: the statement of the current results, and how each result is handled
    judged: JudgedText | None = None
    statements: Sequence[StatementPlan] = ()
    #: what the action policy makes of it, and the decision with what came of that
    risk: RiskResult | None = None
    decision: Decision | None = None
    #: what content_scan_mode has found in what was handed out
    content: ContentReport | None = None
    #: of COPY
    scanner: Scanner | None = None
    inspect = False
    truncated = False
    #: a statement that is ready to be sent, for a generator of psycopg's that converts and sends in one go
    ahead: QueryMixin | None = None
    #: the result that psycopg is making the current one, until it is inspected: its index and format
    due: tuple[int, pq.Format | None] | None = None
    #: in a pipeline: statements sent whose results have not come yet
    pending: deque[tuple[JudgedText, StatementSpan]] | None = None
    #: row caps of FETCH statements, by index: what is left of their portal's
    caps: dict[int, int] | None = None
    #: indexes whose truncation was reported
    reported: set[int] | None = None
    #: the portal that the rows come from, of a server cursor or of FETCH in stream()
    portal: Remembered | None = None
    #: rows that stream() has handed out
    streamed = 0
    span: StatementSpan = NO_SPAN
    #: how a stream() or COPY that is under way can be taken back
    undo: Undo | None = None
    #: a COPY under way that a person has approved
    hold: Hold | None = None
    #: a stream() whose rows have all come already: they are handed out as one chunk
    whole = False

    @property
    def counted(self) -> bool:
        """Whether the rows it touches are counted as they come."""
        return self.judged is not None and self.judged.affected_cap is not None


#: Commands whose status counts the rows of the result itself.
_COUNTS_SHOWN = (b"SELECT", b"FETCH")


#: How a column that has to be hashed comes from the server: a varchar of a length that nothing else has.
VARCHAR_OID = 1043
TO_BE_HASHED_FMOD = TO_BE_HASHED + 4  # VARHDRSZ, as in every length of a varchar
TEXT_OID = 25

Masks: TypeAlias = Mapping[int, Callable[[bytes], "bytes | None"]]


class ResultView:
    """A PGresult as the agent may see it: fewer rows, and masked columns masked."""

    __slots__ = ("_masks", "_result", "ntuples")

    def __init__(self, result: PGresult, ntuples: int, masks: Masks) -> None:
        self._result = result
        self._masks = masks
        self.ntuples = ntuples

    def fewer(self, ntuples: int) -> ResultView:
        """The same, cut after so many rows."""
        return ResultView(self._result, ntuples, self._masks)

    def ftype(self, column_number: int) -> int:
        """As PGresult's; a hash is a text."""
        found: int = self._result.ftype(column_number)
        return TEXT_OID if found == VARCHAR_OID and self.fmod(column_number) == -1 else found

    def fmod(self, column_number: int) -> int:
        """As PGresult's; a text has none."""
        found: int = self._result.fmod(column_number)
        return -1 if found == TO_BE_HASHED_FMOD else found

    def get_value(self, row_number: int, column_number: int) -> bytes | None:
        """As PGresult's, of the rows and values that are shown."""
        if not 0 <= row_number < self.ntuples:
            return None
        value = self._result.get_value(row_number, column_number)
        mask = self._masks.get(column_number)
        return value if mask is None or value is None else mask(value)

    @property
    def command_status(self) -> bytes | None:
        """As PGresult's; a query's counts the rows that are shown, a write's those that were written."""
        status = self._result.command_status
        verb, _, count = (status or b"").partition(b" ")
        return b"%b %d" % (verb, self.ntuples) if count and verb in _COUNTS_SHOWN else status

    @property
    def command_tuples(self) -> int | None:
        """The same number alone."""
        count = self._result.command_tuples
        verb = (self._result.command_status or b"").partition(b" ")[0]
        return self.ntuples if count is not None and verb in _COUNTS_SHOWN else count

    @property
    def pgresult_ptr(self) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._result, name)


class CommandView:
    """The result of a command to which guarddb added a RETURNING: as if it had not."""

    __slots__ = ("_result",)

    status: ClassVar[int] = pq.ExecStatus.COMMAND_OK
    ntuples: ClassVar[int] = 0
    nfields: ClassVar[int] = 0
    binary_tuples: ClassVar[int] = 0
    pgresult_ptr: ClassVar[None] = None

    def __init__(self, result: PGresult) -> None:
        self._result = result

    def get_value(self, row_number: int, column_number: int) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._result, name)


class MeteredTransformer:
    """psycopg's transformer, with every row counted against the egress budget before it is loaded, and scanned after that.

    Args:
        charge: counts bytes; None: nobody does. scanner: None: nobody looks.
    """

    __slots__ = ("_charge", "_columns", "_get_value", "_result", "real", "scanner")

    def __init__(
        self,
        real: Any,
        charge: Callable[[int], None] | None,
        result: PGresult,
        columns: int,
        scanner: Scanner | None = None,
    ) -> None:
        self.real = real
        self._charge = charge
        self.scanner = scanner
        self._result = result
        self._get_value = result.get_value
        self._columns = range(columns)

    def load_row(self, row: int, make_row: RowMaker[Any]) -> Any:
        if self._charge is not None:
            size = 0
            for value in map(self._get_value, repeat(row), self._columns):
                if value:
                    size += len(value)
            if size:
                self._charge(size)
        if self.scanner is None:
            return self.real.load_row(row, make_row)
        # As plain tuples first: a row factory is free to make of a value whatever it likes.
        values = self.real.load_row(row, tuple)
        if values is not None:
            self.scanner.rows((values,), row)
        return values if values is None or make_row is tuple else make_row(values)

    def load_rows(self, row0: int, row1: int, make_row: RowMaker[Any]) -> Any:
        if self._charge is not None:
            if (size := self._size(row0, row1)) > 0:
                self._charge(size)
        if self.scanner is None:
            return self.real.load_rows(row0, row1, make_row)
        rows: list[Any] = []
        for first in range(row0, row1, BATCH):
            # Scanned while they are still in the processor's caches.
            batch = self.real.load_rows(first, min(first + BATCH, row1), tuple)
            self.scanner.rows(batch, first)
            rows += batch
        return rows if make_row is tuple else [make_row(row) for row in rows]

    def _size(self, row0: int, row1: int) -> int:
        """Bytes of these rows: by the result where there are many, else by the value."""
        get_value, columns, size = self._get_value, self._columns, 0
        if (row1 - row0) * len(columns) >= LARGE and row1 - row0 == self._result.ntuples:
            known = data_size(self._result, len(columns))
            if known is not None:
                return known
        for row in range(row0, row1):
            for column in columns:
                if value := get_value(row, column):
                    size += len(value)
        return size

    def set_pgresult(self, result: Any, **options: Any) -> None:
        self.real.set_pgresult(result, **options)
        self._result = result
        self._get_value = result.get_value
        self._columns = range(result.nfields)


# Not by __getattr__: where a class has one, CPython takes the long way for each of its attributes.
for _name in dir(Transformer):
    if not _name.startswith("__") and _name not in vars(MeteredTransformer):
        setattr(MeteredTransformer, _name, property(attrgetter(f"real.{_name}")))
