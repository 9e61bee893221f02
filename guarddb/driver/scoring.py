"""The action policy on a connection: each statement is an event, scored between judging and counting.

What does not change from one run of a text to the next (its actions, their fields, what patterns match) is worked out once; a
run then asks for the score of this hour and this number of rows, which is remembered too. Rules that look at the agent's
history, or at the time itself, are asked every time.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from uuid import uuid4

from msgspec import structs
from psycopg import Error, pq

from guarddb.decision.plan import Decision
from guarddb.driver.arguments import Scored
from guarddb.driver.asking import ask_gen, explain_gen
from guarddb.driver.notices import notify
from guarddb.errors import PolicyUnavailable, PolicyViolation, refusal_message
from guarddb.risk.event import read_event
from guarddb.risk.history import PRECEDING
from guarddb.risk.scoring import judge
from guarddb.risk.statements import Touched

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import BaseConnection
    from psycopg.abc import PQGen

    from guarddb.driver.names import Names
    from guarddb.driver.plans import JudgedText
    from guarddb.risk.event import Event
    from guarddb.risk.history import History
    from guarddb.risk.policy import ActionPolicy
    from guarddb.risk.scoring import RiskResult
    from guarddb.risk.statements import StatementAction
    from guarddb.sql.catalog import Catalog
    from guarddb.telemetry import ConnectionFacts

logger = logging.getLogger("guarddb.risk")

IDLE = pq.TransactionStatus.IDLE
INTRANS = pq.TransactionStatus.INTRANS

#: Texts whose actions are remembered on a connection, and seconds that an estimate of the planner's holds.
TEXTS = 512
ESTIMATE_SECONDS = 60.0
#: Hours and days begin at a multiple of this many seconds in every time zone.
_QUARTER = 900
#: Kinds of statements that EXPLAIN takes.
PLANNED = frozenset(("select", "insert", "update", "delete"))
_SIZES = frozenset((("batch_size",), ("parameters", "batch_size")))


_Scores: TypeAlias = "list[tuple[Event, RiskResult]]"


class Scores(Protocol):
    """What scoring asks of a session."""

    catalog: Catalog | None
    names: Names
    connection_facts: ConnectionFacts

    @property
    def policy_name(self) -> str | None: ...

    @property
    def observe(self) -> bool: ...

    def renew(self) -> None: ...

    def violation(self, decision: Decision) -> PolicyViolation: ...

    def refuse(self, judged: JudgedText, decision: Decision) -> PolicyViolation: ...


@dataclass(slots=True)
class _Known:
    """What is known of one text."""

    actions: tuple[StatementAction, ...]
    #: the planner's number of rows, and when it was asked
    rows: int | None = None
    asked: float = -ESTIMATE_SECONDS
    scores: dict[tuple[int, int | None], _Scores] = field(default_factory=dict)


class Scoring:
    """The action policy of one connection, and what is remembered for it."""

    def __init__(self, told: Scored, agent: str | None) -> None:
        self.told = told
        self.agent = agent
        self.policy: ActionPolicy | None = None
        self.preceding: deque[str] = deque(maxlen=PRECEDING)
        #: sets of parameters of the executemany() under way; its statements are one event
        self.many: int | None = None
        self._many_scored = False
        #: a rule asks for the number of rows
        self.wants_rows = self._remembers_scores = False
        self._touched: Touched | None = None
        self._catalog: Catalog | None = None
        self._known: dict[bytes, _Known] = {}

    # ------------------------------------------------------------------ what there is to judge by

    def follow(self, session: Scores) -> None:
        """Put the action policy and the catalog of now in force.

        Raises:
            PolicyUnavailable: the policy cannot be read.
        """
        try:
            policy = self.told.source.current()
        except Exception as ex:
            logger.exception("the action policy cannot be read; statements are refused")
            reason = f"the action policy cannot be read ({type(ex).__name__})"
            raise PolicyUnavailable(refusal_message(session.policy_name, reason)) from None
        if policy is not self.policy:
            names: set[tuple[str, ...]] = set()
            clock = True
            for _, _, condition in policy.compiled.rules:
                names |= condition.names
                clock = clock and condition.clock
            history = self.told.history
            spikes = history is not None and "volume_spike" in history.rules
            wants_rows = bool(names & _SIZES) or spikes
            changing = ("preceding_actions",) in names or any(name[0] == "event_id" for name in names)
            self._remembers_scores = clock and not changing
            self.policy = policy
            self._known = {}
            if wants_rows != self.wants_rows:
                self.wants_rows = wants_rows
                session.renew()
        if session.catalog is not self._catalog or self._touched is None:
            self._catalog = session.catalog
            self._touched = Touched(session.catalog, self.told.classifier)
            self._known = {}

    def begin_many(self, sets: int | None) -> None:
        """executemany() begins with so many sets of parameters, or is over (None)."""
        self.many = sets
        self._many_scored = False

    def _known_of(self, session: Scores, judged: JudgedText) -> _Known:
        known = self._known.get(judged.original)
        if known is None:
            if len(self._known) >= TEXTS:
                self._known = {}
            known = _Known(self._actions(session, judged))
            if not judged.uses_session:
                self._known[judged.original] = known
        return known

    def _actions(self, session: Scores, judged: JudgedText) -> tuple[StatementAction, ...]:
        assert self._touched is not None
        actions = self._touched.actions_of_text(judged.text)
        if not judged.uses_session:
            return actions
        # What it EXECUTEs or FETCHes is an event of its own each time.
        found: list[StatementAction] = []
        for statement in judged.plan.statements:
            verb, name = statement.facts.session_verb, statement.facts.session_name or ""
            names = session.names.prepared if verb == "execute" else session.names.portals
            if verb in ("execute", "fetch", "move") and (remembered := names.get(name)) is not None:
                found += self._touched.actions_of_text(remembered.judged.text)
        return tuple(dict.fromkeys(found)) or actions

    # ------------------------------------------------------------------ rows

    def estimate(
        self, session: Scores, conn: BaseConnection[Any], judged: JudgedText, pgq: Any
    ) -> PQGen[None] | None:
        """Ask the planner how many rows a statement is about, when a rule wants to know and nobody has said; or None."""
        if not self.wants_rows or self.many is not None or conn._pipeline is not None or session.observe:
            return None
        statements = judged.plan.statements
        if len(statements) != 1 or statements[0].facts.kind not in PLANNED:
            return None
        known = self._known_of(session, judged)
        if time.monotonic() - known.asked < ESTIMATE_SECONDS or all(
            a.rows is not None for a in known.actions
        ):
            return None
        if conn.pgconn.transaction_status not in (IDLE, INTRANS):
            return None
        return self._estimate_gen(conn, judged, pgq, known)

    def _estimate_gen(
        self, conn: BaseConnection[Any], judged: JudgedText, pgq: Any, known: _Known
    ) -> PQGen[None]:
        inside = conn.pgconn.transaction_status == INTRANS
        if inside:
            # What the planner cannot plan the server will refuse as well, and that refusal is the agent's to see.
            yield from ask_gen(conn, b"SAVEPOINT guarddb_estimate")
        try:
            # A plan for any parameters: one that was asked for with a harmless one must not stand for the next.
            generic = bool(pgq.params) and conn.pgconn.server_version >= 160000
            known.rows = planned_rows((yield from explain_gen(conn, judged.sent, pgq, generic=generic)))
            if not pgq.params or generic:
                known.asked = time.monotonic()
        except (Error, ValueError, LookupError, TypeError) as ex:
            known.rows, known.asked = None, time.monotonic()
            logger.debug("the rows of a statement could not be estimated: %s", type(ex).__name__)
        finally:
            if inside and conn.pgconn.status == pq.ConnStatus.OK:
                yield from ask_gen(conn, b"ROLLBACK TO SAVEPOINT guarddb_estimate")
                yield from ask_gen(conn, b"RELEASE SAVEPOINT guarddb_estimate")

    # ------------------------------------------------------------------ scoring

    def score(self, session: Scores, conn: BaseConnection[Any], judged: JudgedText, results: Any) -> None:
        """Judge a statement that the profile has let pass.

        Raises:
            PolicyViolation: the action policy refuses it.
        """
        if self.many is not None and self._many_scored:
            return
        try:
            result = self._score(session, judged)
        except Exception:
            logger.exception("a statement could not be scored")
            if session.observe:
                return
            reason = "the action policy could not judge this statement; the log has the details"
            decision = Decision("block", "internal_error", reason, "Write the statement in a simpler way.")
            results.decision = decision
            raise session.refuse(judged, decision) from None
        self._many_scored = True
        results.risk = result
        if result.verdict == "allow":
            return
        if result.refused:
            decision = self._refusal(judged, result)
            if session.observe:
                logger.warning("would be refused: %s", result.reasoning)
                return
            results.decision = decision
            raise session.refuse(judged, decision)
        logger.warning("%s", result.reasoning)
        note = f"flagged by the action policy: {result.reasoning}"
        results.decision = structs.replace(
            judged.plan.decision, notes=(*judged.plan.decision.notes, note, *result.notes)
        )
        notify(conn, note, "somebody should look at it; the statement runs")

    def score_again(self, session: Scores, judged: JudgedText, results: Any, rows: int) -> None:
        """Judge a write by the rows it has touched, when these are more than were expected.

        Raises:
            PolicyViolation: the action policy refuses it; it is to be undone.
        """
        try:
            known = self._known_of(session, judged)
            if rows <= (self._rows(known) or 0):
                return
            scores = self._judge(session, known, time.time(), rows)
        except Exception:
            logger.exception("a statement could not be scored")
            reason = "the action policy could not judge what this statement did; the log has the details"
            decision = Decision("block", "internal_error", reason, "Write the statement in a simpler way.")
            raise session.violation(decision) from None
        result = _worst(scores)
        results.risk = result
        if result.refused:
            results.decision = decision = self._refusal(judged, result)
            raise session.violation(decision)

    def _score(self, session: Scores, judged: JudgedText) -> RiskResult:
        known = self._known_of(session, judged)
        rows = self._rows(known)
        now = time.time()
        key = (int(now // _QUARTER), rows)
        scores = known.scores.get(key) if self._remembers_scores else None
        if scores is None:
            scores = self._judge(session, known, now)
            if self._remembers_scores:
                if len(known.scores) >= 64:
                    known.scores.clear()
                known.scores[key] = scores
        if self.told.history is not None:
            scores = self._with_history(self.told.history, scores)
        self.preceding.extend(action.action for action in known.actions)
        return _worst(scores)

    def _with_history(self, history: History, scores: _Scores) -> _Scores:
        assert self.policy is not None
        compiled = self.policy.compiled
        found: _Scores = []
        for event, result in scores:
            if extra := history.components(event, compiled.timezone):
                result = judge(event, compiled, self.told.flag_at, self.told.refuse_at, extra)
            history.remember(event, refused=result.refused)
            found.append((event, result))
        return found

    def _rows(self, known: _Known) -> int | None:
        rows = known.rows
        if rows is None:
            rows = max((a.rows for a in known.actions if a.rows is not None), default=None)
        return rows if self.many is None else max(rows or 1, 1) * self.many

    def _judge(self, session: Scores, known: _Known, now: float, rows: int | None = None) -> _Scores:
        """Each action as an event, and its score before the agent's history. `rows`: that were touched."""
        assert self.policy is not None
        compiled, told = self.policy.compiled, self.told
        events = [read_event(self._event(session, action, known, now, rows)) for action in known.actions]
        return [(event, judge(event, compiled, told.flag_at, told.refuse_at)) for event in events]

    def _event(
        self, session: Scores, action: StatementAction, known: _Known, now: float, rows: int | None = None
    ) -> Mapping[str, Any]:
        if rows is None:
            rows = action.rows if action.rows is not None and self.many is None else self._rows(known)
        return {
            "event_id": f"evt_{uuid4().hex}",
            "action": action.action,
            "timestamp": datetime.fromtimestamp(now, UTC),
            "agent": {"agent_id": self.agent} if self.agent is not None else {},
            "session": {"database": session.connection_facts.database, "policy": session.policy_name},
            "target": {"resource_type": action.resource_type, "resource_id": action.resource_id},
            "parameters": {} if rows is None else {"batch_size": rows},
            "data_fields_accessed": [
                {"field": name, "classification": label} for name, label in action.fields
            ],
            "preceding_actions": list(self.preceding),
        }

    @staticmethod
    def _refusal(judged: JudgedText, result: RiskResult) -> Decision:
        assert result.rule != "ok"
        before = judged.plan.decision
        hint = (
            "use an action that the action policy does not block"
            if result.rule == "action_blocked"
            else "read fewer sensitive columns, or fewer rows, in one statement"
        )
        return Decision(
            "block",
            result.rule,
            result.reasoning,
            hint,
            notes=result.notes,
            policy_name=before.policy_name,
            policy_version=before.policy_version,
            policy_id=before.policy_id,
            deciding=f"action_policy.{result.deciding}" if result.deciding else None,
        )

    def refused_by_profile(self, session: Scores, judged: JudgedText) -> None:
        """Take a statement that the profile has refused into the history. Never raises."""
        try:
            self.follow(session)
            assert self._touched is not None
            known = _Known(self._touched.actions_of_text(judged.text))
            if self.told.history is not None:
                now = time.time()
                for action in known.actions:
                    event = self._event(session, action, known, now)
                    self.told.history.remember(event, refused=True)
            self.preceding.extend(action.action for action in known.actions)
        except Exception as ex:
            # A text that nobody can read: it was refused, and what it would have been is not known.
            logger.debug("a refused statement is not in the history: %s", type(ex).__name__)


def _worst(scores: _Scores) -> RiskResult:
    """A statement is what the worst of its actions is."""
    return max((result for _, result in scores), key=lambda result: (result.refused, result.score))


def planned_rows(plan: bytes | None) -> int | None:
    """The rows that a plan (EXPLAIN's JSON) is about: those it returns, or those it writes, whichever are more."""
    document = json.loads(plan or b"[]")
    most: float | None = None
    stack: list[tuple[Any, bool]] = [(entry["Plan"], True) for entry in document if "Plan" in entry]
    while stack:
        node, counts = stack.pop()
        if counts:
            most = max(most or 0.0, float(node.get("Plan Rows", 0)))
        writes = node.get("Node Type") == "ModifyTable"
        for child in node.get("Plans", ()):
            below = writes and child.get("Parent Relationship") in ("Outer", "Member")
            stack.append((child, below))
    return None if most is None else int(most)
