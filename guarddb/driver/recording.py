"""The decision log on a connection: each statement's record, written when it is refused or over.

It rides on the statement's span, which begins and ends where a record must.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import uuid4

from psycopg import postgres, pq

from guarddb.driver.result_size import LARGE, data_size
from guarddb.errors import PolicyUnavailable, refusal_message
from guarddb.runtime.decision_log import DecisionLogError, DecisionRecord, DecisionSink
from guarddb.telemetry import StatementSpan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psycopg.pq.abc import PGconn, PGresult

    from guarddb.decision.plan import Decision
    from guarddb.driver.in_force import PolicyInForce
    from guarddb.driver.plans import JudgedText
    from guarddb.risk.scoring import RiskResult
    from guarddb.runtime.decision_log import Outcome
    from guarddb.telemetry import ConnectionFacts

logger = logging.getLogger("guarddb")

IDLE = pq.TransactionStatus.IDLE

#: Values of one result whose sizes are added up where its memory does not tell; of a larger one the size is not known.
MAX_MEASURED: Final = 100_000


def takes_records(on_decision: Any) -> bool:
    """Whether an `on_decision` is for records: a sink, or what takes one argument and not (decision, sql)."""
    if isinstance(on_decision, DecisionSink):
        return True
    try:
        signature = inspect.signature(on_decision)
    except (TypeError, ValueError):
        return False
    try:
        signature.bind(None, None)
    except TypeError:
        pass
    else:
        return False
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


class Recorded(Protocol):
    """What a record tells of a session."""

    pgconn: PGconn
    in_force: PolicyInForce | None
    connection_facts: ConnectionFacts

    @property
    def policy_name(self) -> str | None: ...


class Recorder:
    """Writes the records of one connection."""

    def __init__(
        self, session: Recorded, sink: Callable[[DecisionRecord], object], agent: str | None
    ) -> None:
        self._session = session
        self._sink = sink
        self._agent = agent
        #: of the transaction under way
        self.transaction: str | None = None
        #: a refusal was handed to a queue, and its error must not be raised before it is written
        self._refused = False

    def check(self) -> None:
        """Asked before a statement is sent.

        Raises:
            PolicyUnavailable: the log cannot be written, and nothing is to run unlogged.
        """
        ready = getattr(self._sink, "ready", None)
        if ready is None:
            return
        try:
            ready()
        except DecisionLogError as ex:
            raise PolicyUnavailable(refusal_message(self._session.policy_name, str(ex))) from None
        except Exception as ex:
            logger.exception("the decision log does not answer")
            reason = f"the decision log does not answer ({type(ex).__name__})"
            raise PolicyUnavailable(refusal_message(self._session.policy_name, reason)) from None

    @property
    def waits(self) -> bool:
        """Whether `check` has to be asked in a thread."""
        return getattr(self._sink, "waits", False)

    async def written(self) -> None:
        """Wait, on an event loop, until the refusal that is about to be raised is written."""
        if self._refused:
            self._refused = False
            await asyncio.to_thread(self._sink.flush)  # type: ignore[attr-defined]

    def begins(self) -> None:
        """A transaction begins."""
        self.transaction = _identifier("tx")

    def transaction_of(self, judged: JudgedText) -> str:
        """The transaction that a statement is part of; one of its own outside of any."""
        if any(statement.facts.transaction == "begin" for statement in judged.plan.statements):
            self.begins()
        elif self._session.pgconn.transaction_status == IDLE:
            self.transaction = None
            return _identifier("tx")
        if self.transaction is None:
            self.begins()
        assert self.transaction is not None
        return self.transaction

    def write(self, span: RecordedSpan, rows: int | None, error: BaseException | None) -> None:
        """Write the record of a statement. Never raises."""
        session = self._session
        judged = span.judged
        decision: Decision = getattr(error, "decision", None) or span.decision or judged.plan.decision
        outcome: Outcome = "done"
        if error is not None:
            outcome = "refused" if getattr(error, "rule", None) is not None else "failed"
        policy = session.in_force
        try:
            record = DecisionRecord(
                decision=decision,
                text=judged.text,
                outcome=outcome,
                time=datetime.now(UTC),
                duration=perf_counter() - span.started if span.sent else 0.0,
                agent=self._agent,
                policy=policy.name if policy is not None else None,
                policy_version=policy.version if policy is not None else None,
                database=session.connection_facts.database,
                parameter_types=tuple(map(_type_name, span.types)),
                rows=rows if rows is not None else span.written,
                size=span.size,
                statement_id=_identifier("stmt"),
                transaction_id=span.transaction or self.transaction_of(judged),
                sqlstate=getattr(error, "sqlstate", None),
                risk=span.risk,
            )
            self._sink(record)
            self._refused = outcome == "refused" and hasattr(self._sink, "flush")
        except Exception:
            # The log watches; what goes wrong in it must change nothing about this statement.
            logger.exception("the decision log failed")


class RecordedSpan(StatementSpan):
    """A statement's span, and with its end the record."""

    __slots__ = (
        "_ended",
        "_inner",
        "_recorder",
        "decision",
        "judged",
        "risk",
        "sent",
        "size",
        "started",
        "transaction",
        "types",
        "written",
    )

    def __init__(
        self, recorder: Recorder, judged: JudgedText, inner: StatementSpan, types: Sequence[int]
    ) -> None:
        self._recorder = recorder
        self._inner = inner
        self._ended = False
        self.judged = judged
        self.types = types
        self.decision: Decision | None = None
        self.risk: RiskResult | None = None
        self.size: int | None = None
        self.written: int | None = None
        self.sent = False
        self.transaction: str | None = recorder.transaction_of(judged)
        self.started = perf_counter()

    @property
    def open(self) -> bool:
        return not self._ended

    def note(self, risk: RiskResult) -> None:
        self.risk = risk
        self._inner.note(risk)

    def decided(self, decision: Decision) -> None:
        """The decision with what came to it after judging."""
        self.decision = decision

    def measure(self, results: Sequence[PGresult]) -> None:
        """How much has come."""
        self.sent = True
        if self.transaction is None:
            self.transaction = self._recorder.transaction_of(self.judged)
        sizes = 0
        written: int | None = None
        for result in results:
            columns, rows = result.nfields, result.ntuples
            if columns * rows >= LARGE:
                if (size := data_size(result, columns)) is not None:
                    sizes += size
                    continue
                if columns * rows > MAX_MEASURED:
                    return
            length = result.get_length if hasattr(result, "get_length") else None
            for row in range(rows):
                for column in range(columns):
                    if length is not None:
                        sizes += max(0, length(row, column))
                    else:
                        sizes += len(result.get_value(row, column) or b"")
            if not columns and (count := result.command_tuples) is not None:
                written = (written or 0) + count
        self.size, self.written = sizes, written

    def taken_back(self) -> None:
        """What it did is undone, and its transaction may be over."""
        self.size = self.written = self.transaction = None

    def end(
        self, rows: int | None = None, truncated: bool = False, error: BaseException | None = None
    ) -> None:
        self._inner.end(rows, truncated, error)
        if not self._ended:
            self._ended = True
            self._recorder.write(self, rows, error)


def _identifier(prefix: str) -> str:
    return f"{prefix}_{uuid4().hex}"


def _type_name(oid: int) -> str:
    if not oid:
        return "unknown"
    found = postgres.types.get(oid)
    return found.name if found is not None else str(oid)
