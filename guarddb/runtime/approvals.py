r"""Approvals: a statement that waits for a person, who is asked, and what an answer is.

The protocol of an approver has three steps. The session makes an `ApprovalRequest` and calls, in this order:

1. `submit(request) -> ApprovalRequest`: file it. What comes back is the request as it was filed: the approver may have given
   it an id
   of its own (still `apr_…`) and an expiry by its own clock. From then on that one counts.
2. `wait(request, timeout) -> Answer`: wait for the answer, `timeout` seconds at the most (None: for as long as it takes), then
   answer
   `Answer("expired")`. It may be called again with the same request, after a signal for instance.
3. `report(request, status) -> None`: what became of it: `executed`, `failed` (the statement was approved and did not succeed,
   or was not
   run after all), or `expired` (nobody waits for an answer any longer: time is up, or the agent's task was cancelled).

`Approver` is the sync form and `AsyncApprover` the async one: the same names, coroutines. `ask` and `ask_async` are the flow
for a session:
they call steps 1 and 2, and fail closed. Everything that is not a clear answer is an `ApproverLost`: an exception of the
approver, a value
that is no `Answer`, an answer to another request, a yes that comes after the expiry. The session refuses the statement then,
with the rule
`approval_unavailable`; `rejected` is `approval_rejected`, `expired` is `approval_expired`.

A request goes through these states: `pending`, then `approved`, `rejected` or `expired`; after approval `executed` or `failed`.

No lock is held on the database while somebody is asked, and an approver is called outside of every lock of guarddb's: it may
take its time.
One approver may serve many connections at once, from several threads.

An approver with an attribute `unmasked` that is True is shown the rows of the sample without the masks of the profile.

`connect(approver=…)` takes an approver of either form, a callable `request -> Answer | bool` (sync or async), or the URL of a
project on a control plane: `as_approver`
and
`as_async_approver` make the form that a connection needs.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

from guarddb.lint.finding import Finding
from guarddb.vocabulary import KINDS, Kind

logger = logging.getLogger("guarddb.approvals")

Status: TypeAlias = Literal["pending", "approved", "rejected", "expired", "executed", "failed"]
#: How an approver answers.
AnswerStatus: TypeAlias = Literal["approved", "rejected", "expired"]
#: What a session reports afterwards.
Outcome: TypeAlias = Literal["executed", "failed", "expired"]

STATUSES: tuple[Status, ...] = get_args(Status)

#: What may follow what; a state that is not here is the last one.
NEXT: Mapping[Status, frozenset[Status]] = {
    "pending": frozenset({"approved", "rejected", "expired"}),
    "approved": frozenset({"executed", "failed", "expired"}),
}

_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class ApproverLost(RuntimeError):
    """There is no clear answer: the approver cannot be reached, failed, or said something that is no answer."""


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """One row of a sample of what a statement changes, as text. `old` is None for a row that is added, `new` for one that
    goes."""

    table: str
    old: Mapping[str, str | None] | None = None
    new: Mapping[str, str | None] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "old": None if self.old is None else dict(self.old),
            "new": None if self.new is None else dict(self.new),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequest:
    """A statement that waits for a person.

    Attributes:
        id: `apr_` and 26 letters and digits, not to be guessed.
        sql: the text that would run, as it would be sent.
        kind: the statement's kind.
        tables: the relations it touches, schema-qualified.
        estimated_rows, counted_rows: how many rows it would touch: the planner's guess, or the number that a trial run in a
            transaction that was rolled back has touched. At most one of both is given; DDL has none.
        parameters: the bound values, as text; None when there are none.
        sample: some of the rows that would change, masked as the policy masks them.
        findings: what the lint of migrations says.
        agent: who asks.
        policy, policy_version, catalog_version: what the approval holds for; another policy or catalog asks again.
        requested_at, expires_at: aware datetimes; without an expiry the request waits for ever.
    """

    id: str
    sql: str
    kind: Kind
    tables: tuple[str, ...] = ()
    estimated_rows: int | None = None
    counted_rows: int | None = None
    parameters: tuple[str, ...] | None = None
    sample: tuple[ChangedRow, ...] = ()
    findings: tuple[Finding, ...] = ()
    agent: str | None = None
    policy: str | None = None
    policy_version: str | None = None
    catalog_version: str | None = None
    requested_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    expires_at: datetime | None = None

    @classmethod
    def make(cls, sql: str, kind: Kind, *, timeout_seconds: float, **details: Any) -> ApprovalRequest:
        """A new request with an id of its own; `timeout_seconds` of 0 is no expiry. `details` are the other attributes."""
        now = datetime.now(UTC)
        expires = now + timedelta(seconds=timeout_seconds) if timeout_seconds else None
        return cls(id=new_id(), sql=sql, kind=kind, requested_at=now, expires_at=expires, **details)

    @property
    def rows(self) -> int | None:
        """Counted rows, else estimated ones, else None."""
        return self.counted_rows if self.counted_rows is not None else self.estimated_rows

    def expired(self, now: datetime | None = None) -> bool:
        """Whether its time is up."""
        return self.expires_at is not None and (now or datetime.now(UTC)) >= self.expires_at

    def seconds_left(self) -> float | None:
        """Seconds until it expires, 0 at the least; None when it never does."""
        if self.expires_at is None:
            return None
        return max(0.0, (self.expires_at - datetime.now(UTC)).total_seconds())

    def to_dict(self, status: Status = "pending") -> dict[str, Any]:
        """The wire shape. Times are RFC 3339 in UTC; what is not known is null."""
        return {
            "id": self.id,
            "status": status,
            "sql": self.sql,
            "kind": self.kind,
            "tables": list(self.tables),
            "estimated_rows": self.estimated_rows,
            "counted_rows": self.counted_rows,
            "parameters": None if self.parameters is None else list(self.parameters),
            "sample": [row.to_dict() for row in self.sample],
            "findings": [finding.to_dict() for finding in self.findings],
            "agent": self.agent,
            "policy": self.policy,
            "policy_version": self.policy_version,
            "catalog_version": self.catalog_version,
            "requested_at": _written(self.requested_at),
            "expires_at": None if self.expires_at is None else _written(self.expires_at),
        }

    @classmethod
    def from_dict(cls, wire: Mapping[str, Any]) -> ApprovalRequest:
        """What `to_dict` wrote; fields of others are ignored.

        Raises:
            ValueError: it is no approval request; the text names the field.
        """
        return _read_request(wire)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an approver says. `request_id`, when given, has to be that of the request that was asked about."""

    status: AnswerStatus
    decided_by: str | None = None
    reason: str | None = None
    request_id: str | None = None

    @property
    def approved(self) -> bool:
        return self.status == "approved"


@runtime_checkable
class Approver(Protocol):
    """Who is asked, sync. The module's text says when each method is called, and what an error means."""

    def submit(self, request: ApprovalRequest) -> ApprovalRequest: ...

    def wait(self, request: ApprovalRequest, timeout: float | None) -> Answer: ...

    def report(self, request: ApprovalRequest, status: Outcome) -> None: ...


@runtime_checkable
class AsyncApprover(Protocol):
    """Who is asked, async: the methods of `Approver` as coroutines. A cancelled `wait` leaves nothing behind."""

    async def submit(self, request: ApprovalRequest) -> ApprovalRequest: ...

    async def wait(self, request: ApprovalRequest, timeout: float | None) -> Answer: ...

    async def report(self, request: ApprovalRequest, status: Outcome) -> None: ...


#: What `connect(approver=…)` takes.
AnyApprover: TypeAlias = (
    Approver | AsyncApprover | Callable[[ApprovalRequest], Answer | bool | Awaitable[Answer | bool]] | str
)
Filed: TypeAlias = Callable[[ApprovalRequest], None]


# --- the flow of a session ---


def ask(
    approver: Approver, request: ApprovalRequest, filed: Filed | None = None
) -> tuple[ApprovalRequest, Answer]:
    """File a request and wait for the answer. Gives the request as it was filed, and the answer.

    Args:
        filed: called with the filed request before the waiting begins: the moment to tell the agent that it is held.

    Raises:
        ApproverLost: there is no clear answer.
    """
    try:
        request = _filed(approver.submit(request))
        if filed is not None:
            filed(request)
        answer = approver.wait(request, request.seconds_left())
    except ApproverLost:
        raise
    except Exception as ex:
        raise _lost(ex) from ex
    except BaseException:  # Ctrl-C while a person is asked: nobody waits for the answer any longer
        report(approver, request, "expired")
        raise
    return request, _checked(request, answer)


async def ask_async(
    approver: AsyncApprover, request: ApprovalRequest, filed: Filed | None = None
) -> tuple[ApprovalRequest, Answer]:
    """`ask`, async. Cancelling it withdraws the request.

    Raises:
        ApproverLost: there is no clear answer.
    """
    try:
        request = _filed(await approver.submit(request))
        if filed is not None:
            filed(request)
        answer = await approver.wait(request, request.seconds_left())
    except ApproverLost:
        raise
    except Exception as ex:
        raise _lost(ex) from ex
    except BaseException:
        await asyncio.shield(report_async(approver, request, "expired"))
        raise
    return request, _checked(request, answer)


def report(approver: Approver, request: ApprovalRequest, status: Outcome) -> None:
    """Tell the approver what became of a request. Its errors are logged and change nothing: what ran has run."""
    try:
        approver.report(request, status)
    except Exception:
        logger.warning("the approver could not be told that %s is %s", request.id, status, exc_info=True)


async def report_async(approver: AsyncApprover, request: ApprovalRequest, status: Outcome) -> None:
    """`report`, async."""
    try:
        await approver.report(request, status)
    except Exception:
        logger.warning("the approver could not be told that %s is %s", request.id, status, exc_info=True)


def _filed(request: object) -> ApprovalRequest:
    if not isinstance(request, ApprovalRequest):
        raise ApproverLost(f"the approver filed a {type(request).__name__} in place of the request")
    return request


def _checked(request: ApprovalRequest, answer: object) -> Answer:
    if not isinstance(answer, Answer) or answer.status not in get_args(AnswerStatus):
        raise ApproverLost(f"the approver's answer is not clear: {answer!r:.80}")
    if answer.request_id is not None and answer.request_id != request.id:
        raise ApproverLost(f"the approver answered {answer.request_id}, which is not this request")
    if answer.approved and request.expired():
        return Answer("expired", answer.decided_by, "the approval came after the request had expired")
    return answer


def _lost(ex: Exception) -> ApproverLost:
    return ApproverLost(f"the approver failed: {type(ex).__name__}: {ex}")


# --- the wire ---


def new_id() -> str:
    """`apr_` and 26 characters: 130 bits that nobody can guess."""
    return "apr_" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(26))


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read_request(wire: Mapping[str, Any]) -> ApprovalRequest:
    def wrong(name: str, what: str) -> ValueError:
        return ValueError(f"approval request: {name} must be {what}")

    def text(name: str) -> str | None:
        value = wire.get(name)
        if value is not None and not isinstance(value, str):
            raise wrong(name, "a text")
        return value

    def count(name: str) -> int | None:
        value = wire.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise wrong(name, "a number of rows")
        return value

    def texts(name: str) -> tuple[str, ...]:
        value = wire.get(name) or ()
        if (
            isinstance(value, str)
            or not isinstance(value, Sequence)
            or any(not isinstance(v, str) for v in value)
        ):
            raise wrong(name, "a list of texts")
        return tuple(value)

    def moment(name: str) -> datetime | None:
        value = text(name)
        if value is None:
            return None
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            raise wrong(name, "a time, RFC 3339") from None
        if found.tzinfo is None:
            raise wrong(name, "a time with its zone, RFC 3339")
        return found

    sql, kind, id, requested_at = text("sql"), wire.get("kind"), text("id"), moment("requested_at")
    if id is None or not id.startswith("apr_"):
        raise wrong("id", "apr_…")
    if not sql:
        raise wrong("sql", "a text that is not empty")
    if kind not in KINDS:
        raise wrong("kind", "one of " + ", ".join(KINDS))
    if requested_at is None:
        raise wrong("requested_at", "a time, RFC 3339")
    findings = wire.get("findings") or ()
    sample = wire.get("sample") or ()
    try:
        changed = tuple(ChangedRow(row["table"], row.get("old"), row.get("new")) for row in sample)
    except (TypeError, KeyError, AttributeError):
        raise wrong("sample", "a list of rows: table, old, new") from None
    return ApprovalRequest(
        id=id,
        sql=sql,
        kind=kind,
        tables=texts("tables"),
        estimated_rows=count("estimated_rows"),
        counted_rows=count("counted_rows"),
        parameters=None if wire.get("parameters") is None else texts("parameters"),
        sample=changed,
        findings=tuple(Finding.from_dict(finding) for finding in findings),
        agent=text("agent"),
        policy=text("policy"),
        policy_version=text("policy_version"),
        catalog_version=text("catalog_version"),
        requested_at=requested_at,
        expires_at=moment("expires_at"),
    )
