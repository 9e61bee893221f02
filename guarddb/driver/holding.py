"""Statements that wait for a person: what the person is shown, what the answer holds for, and what becomes of it.

The waiting itself is somewhere else (`waits.py`), and so is the flow around it (`steps.py`).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from psycopg._queries import PostgresClientQuery

from guarddb.decision.migrations import findings_about
from guarddb.decision.plan import Decision
from guarddb.driver.notices import notice
from guarddb.driver.sampling import NOTHING, Sample, prepared_texts
from guarddb.driver.waits import Question, ask_somebody_gen
from guarddb.errors import ApprovalExpired, ApprovalRejected, PolicyViolation, violation
from guarddb.runtime import approvals, approvers
from guarddb.runtime.approvals import ApprovalRequest, ApproverLost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.abc import PQGen

    from guarddb.driver.plans import JudgedText
    from guarddb.driver.session import Session
    from guarddb.runtime.approvals import Answer, Outcome
    from guarddb.vocabulary import Rule

_BINARY = 1
#: pg_type: int8, int2, int4; float8
_INTEGERS = frozenset((20, 21, 23))
_FLOAT8 = 701


class Hold:
    """One statement of the agent's, from the first time somebody has to be asked about it to its end.

    Attributes:
        allowed: rows that it may touch without anybody being asked (again); None: as many as it likes.
    """

    __slots__ = ("_approver", "_holds_for", "_parameters", "_request", "_session", "allowed", "judged")

    def __init__(self, session: Session, judged: JudgedText, parameters: tuple[str, ...] | None) -> None:
        policy, attachment = session.in_force, session.attachment
        assert policy is not None
        assert attachment is not None
        if attachment.approver is None:
            raise refusal(
                session,
                PolicyViolation,
                "approval_unavailable",
                "this statement waits for a person, and there is nobody to ask",
                "connect(approver=…) says who is asked",
            )
        self._approver: Any = attachment.approver
        self._session = session
        self._parameters = parameters
        self._request: ApprovalRequest | None = None
        self._holds_for: object = None
        self.judged = judged
        # What cannot be counted is asked about before it runs at all.
        self.allowed: int | None = (policy.profile.approval_auto_max_rows or -1) if judged.countable else -1

    @property
    def lifted(self) -> bool:
        """Whether the approver sees what the profile masks: its own setting, `unmasked`."""
        return getattr(self._approver, "unmasked", False) is True

    @property
    def approved(self) -> bool:
        """Whether a person has said yes to what would run now."""
        return self._request is not None and self._holds_for == self._what_it_holds_for()

    def ask_gen(
        self, conn: Any, rows: int | None, sample: Sample = NOTHING, estimated: int | None = None
    ) -> PQGen[None]:
        """Ask the person; afterwards it may run, and touch no more rows than were shown.

        Args:
            rows: that a trial run has touched; None where nobody has counted, and `estimated` is the planner's guess.
            sample: what it changes.

        Raises:
            ApprovalRejected: the person said no.
            ApprovalExpired: nobody said anything in time.
            PolicyViolation: there was no clear answer.
        """
        session, policy = self._session, self._session.in_force
        assert policy is not None
        if self._request is not None:
            # The one before was about something else: fewer rows, or another policy or catalog.
            yield from self.report_gen("failed")
        self._holds_for = None
        request = self._made(rows, sample, estimated)
        holds_for = self._what_it_holds_for()

        def filed(held: ApprovalRequest) -> None:
            self._request = held
            notice(conn, f"statement held for approval (request {held.id})")

        approver = self._approver
        question = Question(
            lambda: approvals.ask(approvers.as_approver(approver), request, filed),
            lambda: approvals.ask_async(approvers.as_async_approver(approver), request, filed),
        )
        answer: Answer
        try:
            self._request, answer = yield from ask_somebody_gen(question)
        except ApproverLost as ex:
            self._request = None
            raise refusal(
                session,
                PolicyViolation,
                "approval_unavailable",
                f"this statement waits for a person, and there was no clear answer ({ex})",
                "ask again later",
            ) from None
        if answer.status == "rejected":
            said = f": {answer.reason}" if answer.reason else ""
            raise refusal(
                session,
                ApprovalRejected,
                "approval_rejected",
                f"the person who was asked refused the statement (request {self._request.id}){said}",
                "do not send it again as it is; ask what would be accepted",
            )
        if not answer.approved:
            request_id, self._request = self._request.id, None
            raise refusal(
                session,
                ApprovalExpired,
                "approval_expired",
                f"nobody approved the statement in time (request {request_id})",
                "send it again when somebody is there to look at it",
            )
        self._holds_for = holds_for
        self.allowed = rows

    def report_gen(self, outcome: Outcome) -> PQGen[None]:
        """Tell the approver what became of what was approved."""
        request, self._request = self._request, None
        if request is None or self._holds_for is None:
            return
        approver = self._approver
        yield from ask_somebody_gen(
            Question(
                lambda: approvals.report(approvers.as_approver(approver), request, outcome),
                lambda: approvals.report_async(approvers.as_async_approver(approver), request, outcome),
            )
        )

    def _what_it_holds_for(self) -> object:
        """The text that is sent, and everything it was judged by. (The parameters are this object's own.)"""
        return (self._text(), self._session.context)

    def _text(self) -> str:
        """What would run; of an EXECUTE also what it executes."""
        text = self.judged.sent.decode(self._session.encoding)
        return ";\n".join([*prepared_texts(self._session, self.judged), text])

    def _made(self, rows: int | None, sample: Sample, estimated: int | None) -> ApprovalRequest:
        session, judged = self._session, self.judged
        policy, attachment = session.in_force, session.attachment
        assert policy is not None
        assert attachment is not None
        facts = [statement.facts for statement in judged.statements]
        catalog = session.catalog
        text = self._text()
        defines = any(each.kinds & {"ddl", "other"} for each in facts)
        return ApprovalRequest.make(
            text,
            facts[0].kind,
            findings=findings_about(text, catalog) if defines else (),
            timeout_seconds=policy.profile.approval_timeout_seconds,
            tables=tuple(dict.fromkeys(relation for each in facts for relation in each.relations)),
            counted_rows=rows,
            estimated_rows=estimated,
            sample=sample.rows,
            parameters=self._parameters,
            agent=attachment.agent,
            policy=policy.name,
            policy_version=policy.version,
            catalog_version=catalog.version if catalog is not None else None,
        )


def parameters_of(pgq: Any, encoding: str) -> tuple[str, ...] | None:
    """The bound values of a converted statement, as text; binary ones as bytea is written."""
    params: Sequence[Any] | None = pgq.params
    if not params or isinstance(pgq, PostgresClientQuery):  # whose values stand in the text
        return None
    formats = pgq.formats or [0] * len(params)
    shown = []
    for value, format, type in zip(params, formats, pgq.types or [0] * len(params), strict=True):
        if value is None:
            shown.append("NULL")
        elif format != _BINARY:
            shown.append(bytes(value).decode(encoding, "backslashreplace"))
        elif type in _INTEGERS:
            shown.append(str(int.from_bytes(value, signed=True)))
        elif type == _FLOAT8:
            shown.append(repr(struct.unpack("!d", value)[0]))
        else:
            shown.append(f"\\x{bytes(value).hex()}")
    return tuple(shown)


def parameters_of_many(sets: Sequence[Any]) -> tuple[str, ...]:
    """The sets of executemany(), each as one text."""
    return tuple(str(dict(each)) if isinstance(each, Mapping) else str(tuple(each)) for each in sets)


def copied_sets(sets: Sequence[Any]) -> Sequence[Any]:
    """The sets of executemany() with copies of all that could be changed in place."""
    return [
        {name: _copied(value) for name, value in each.items()}
        if isinstance(each, Mapping)
        else [_copied(value) for value in each]
        for each in sets
    ]


def _copied(value: Any) -> Any:
    if type(value) is list or type(value) is tuple:
        return type(value)(_copied(each) for each in value)
    if type(value) is dict:
        return {key: _copied(each) for key, each in value.items()}
    return bytes(value) if isinstance(value, bytearray | memoryview) else value


def refusal(
    session: Session, kind: type[PolicyViolation], rule: Rule, reason: str, hint: str
) -> PolicyViolation:
    """The error for a statement that passed the policy and does not run all the same, or does not stay."""
    deciding = "max_affected_rows" if rule == "max_affected_rows" else "approval_mode"
    decision = session.under_its_policy(Decision("block", rule, reason, hint, deciding=deciding))
    return violation(kind, session.policy_name, decision)
