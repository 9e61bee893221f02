"""The two ways a statement goes through guarddb: the engine alone, and a connection as an application has it.

The engine alone is faster, and its faults can be named; the connection has the whole of it, with what it does to results
and to errors.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

import psycopg
from psycopg.conninfo import make_conninfo

import guarddb
from guarddb import Catalog, PolicyProfile
from guarddb.decision.decide import _answer, compile_policy, decide
from guarddb.decision.plan import NO_NAMES, Decision, Plan
from guarddb.decision.writing import SessionState
from tests.oracles.grammar import Generated
from tests.oracles.server import CONTENTS, Outcome, Side

MARKER = "guarddb:row_filter_violation"

#: One refusal of so many gets its hint and its proposal as well, which cost a multiple of the refusal: an oracle looks at what
#: is refused, and not at what is said about it. Which ones is a matter of their texts, so that a run can be repeated.
ADVISED = 8


@dataclass(slots=True)
class Answer:
    """What came of a statement. `rule` is empty unless it was refused; then there is no outcome."""

    rule: str = ""
    reason: str = ""
    sent: str = ""
    #: what went wrong inside the engine, and where
    fault: str = ""
    outcome: Outcome | None = None


class Way(Protocol):
    #: errors come as the server worded them, values included
    verbatim: bool

    def ask(self, generated: Generated) -> Answer: ...

    def close(self) -> None: ...


class _Last(logging.Handler):
    """The engine logs its faults with a traceback; an oracle wants one line."""

    fault = ""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{frame.filename.rpartition('/guarddb/')[2]}:{frame.lineno}"
            _Last.fault = f"{type(error).__name__}: {error} ({place})"


_handler = _Last()


def _listen() -> None:
    logger = logging.getLogger("guarddb")
    if _handler not in logger.handlers:
        logger.addHandler(_handler)
        logger.propagate = False
    _Last.fault = ""


class EngineWay:
    """Decide, and run what the plan says to send."""

    verbatim = True

    def __init__(
        self,
        policy: PolicyProfile,
        catalog: Catalog,
        side: Side | None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.policy = compile_policy(policy, settings)
        self.catalog = catalog
        self.side = side

    def decide(self, sql: str) -> Plan:
        _listen()
        if crc32(sql.encode()) % ADVISED == 0:
            return decide(sql, self.policy, self.catalog)
        found = _answer(sql, self.policy, self.catalog, SessionState(NO_NAMES), [], None)
        return found if isinstance(found, Plan) else Plan(Decision("block", found.rule, found.reason))

    def ask(self, generated: Generated) -> Answer:
        plan = self.decide(generated.sql)
        decision = plan.decision
        if decision.blocked:
            return Answer(decision.rule, decision.reason, fault=_Last.fault)
        if self.side is None:
            return Answer(sent=plan.sql)
        outcome = self.side.run(plan.sql, generated.params, writes=generated.writes)
        if outcome.state == "22P02" and MARKER in outcome.message:
            # guarddb's check is a cast that fails with its marker; the driver turns that into 42501.
            outcome.state = "42501"
        if plan.statements[0].handling.hidden_returning and not outcome.state:
            # The driver shows the result as the command result it would have been.
            outcome.rows, outcome.names, outcome.types = [], (), ()
        return Answer(sent=plan.sql, outcome=outcome)

    def close(self) -> None:
        if self.side is not None:
            self.side.close()


class LiveWay:
    """A guarded connection, with `$1` for parameters."""

    verbatim = False

    def __init__(
        self,
        dsn: str,
        policy: PolicyProfile,
        settings: Mapping[str, str] | None = None,
        planner: Mapping[str, str] | None = None,
    ) -> None:
        options = {"jit": "off", "statement_timeout": "5000", **(planner or {})}
        self.conn = guarddb.connect(
            make_conninfo(
                dsn, user="agent", options=" ".join(f"-c {name}={value}" for name, value in options.items())
            ),
            policy=policy,
            settings=dict(settings or {}),
            cursor_factory=psycopg.RawCursor,
            autocommit=True,
        )
        self.notices: list[str] = []
        self.conn.add_notice_handler(lambda notice: self.notices.append(str(notice.message_primary)))

    def ask(self, generated: Generated) -> Answer:
        _listen()
        self.notices = []
        if generated.writes:
            self.conn.execute("BEGIN")
        try:
            return self.run(generated)
        finally:
            if generated.writes:
                self.conn.execute("ROLLBACK")

    def run(self, generated: Generated) -> Answer:
        cursor = self.conn.cursor()
        lines: list[tuple[bytes | None, ...]] | None = None
        try:
            if generated.sql.startswith("COPY "):
                with cursor.copy(generated.sql) as copy:
                    lines = [(bytes(line),) for line in copy]
            else:
                cursor.execute(generated.sql, generated.params)
        except guarddb.PolicyViolation as error:
            if error.rule != "row_filter_violation":
                return Answer(error.rule, error.decision.reason, fault=_Last.fault)
            return Answer(outcome=self.failed(error))
        except psycopg.Error as error:
            return Answer(outcome=self.failed(error))
        if lines is not None:
            # psycopg keeps the number of lines, and not the tag.
            outcome = Outcome(command=f"COPY {cursor.rowcount}", rows=lines)
        else:
            assert cursor.pgresult is not None
            outcome = Side.outcome(cursor.pgresult)
        outcome.notices = self.notices
        if generated.writes:
            contents = self.conn.pgconn.exec_(CONTENTS).get_value(0, 0)
            assert contents is not None
            outcome.contents = contents.decode()
        decision = cursor.decision
        return Answer(sent=(decision.rewritten_sql if decision is not None else None) or "", outcome=outcome)

    def failed(self, error: psycopg.Error) -> Outcome:
        diagnostic = error.diag
        return Outcome(
            state=error.sqlstate or "?????",
            message=diagnostic.message_primary or str(error),
            detail=diagnostic.message_detail or "",
            notices=self.notices,
        )

    def close(self) -> None:
        self.conn.close()
