"""The bodies of requests and answers, beside the profile itself, which is guarddb's own model."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Query
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from ..errors import InvalidRequest

Row = TypeVar("Row")

#: A verdict, a rule.
_WORD = r"^[^\x00-\x1f\x7f]+$"
#: Refers to the profile's schema, which `openapi.py` puts into the document.
ProfileBody = Annotated[Any, WithJsonSchema({"$ref": "#/components/schemas/PolicyProfileInput"})]


def _label(text: str) -> str:
    if any(ord(each) < 32 or ord(each) == 127 for each in text):
        raise ValueError("must not contain control characters")
    return text


Label = Annotated[
    str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$"), AfterValidator(_label)
]


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("must be a date and time with a zone (RFC 3339)")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside of the years 1 to 9999 in UTC") from None


#: A number, of seconds since 1970 or of milliseconds, is not what anybody means.
Instant = Annotated[AwareDatetime, BeforeValidator(_text), AfterValidator(_in_utc)]
PageSize = Annotated[int, Query(ge=1, le=100, description="How many items to return.")]
PageToken = Annotated[str | None, Query(max_length=200, description="`next_page_token` of the page before.")]


class Body(BaseModel):
    """What requests send: no unknown fields, no types bent into others."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(BaseModel):
    code: str
    message: str


class ErrorBody(BaseModel):
    """What every failed request answers."""

    error: ErrorDetail


class EvaluationRequest(Body):
    """A statement, and exactly one of `policy_id` (a stored profile) and `policy` (a draft, whose name may be missing)."""

    sql: Annotated[str, Field(min_length=1, max_length=100_000, strict=True)]
    policy_id: str | None = None
    policy: Annotated[
        dict[str, Any] | None,
        WithJsonSchema({"anyOf": [{"$ref": "#/components/schemas/PolicyProfileDraft"}, {"type": "null"}]}),
    ] = None


class MaskedColumn(BaseModel):
    column: str
    kind: Literal["redact", "null", "hash"]


class DecisionBody(BaseModel):
    """What would happen to the statement, and why."""

    model_config = ConfigDict(extra="allow")
    verdict: Literal["allow", "block", "mask", "row-filter"]
    rule: str
    reason: str
    hint: str = ""
    masked_columns: list[MaskedColumn]
    row_filter_predicate: str = ""
    rewritten_sql: str = ""
    notes: list[str] = []


class LintRequest(Body):
    """A migration script; `database_id` is accepted and changes nothing."""

    sql: Annotated[str, Field(min_length=1, max_length=100_000, strict=True)]
    database_id: str | None = None


class Finding(BaseModel):
    model_config = ConfigDict(extra="allow")
    severity: str
    rule: str
    message: str
    statement: str = ""
    hint: str | None = None


class LintBody(BaseModel):
    safe: bool
    findings: list[Finding]


class AgentInput(Body):
    """An agent and the profile it is bound to. `policy_profile_id` is another spelling of `policy_id`."""

    name: Label
    policy_id: str | None = None
    policy_profile_id: str | None = None
    expires_at: Instant | None = Field(None, description="When its key stops to work.")

    @property
    def bound_to(self) -> str:
        """The profile's identifier. Raises InvalidRequest unless there is exactly one."""
        if (self.policy_id is None) == (self.policy_profile_id is None):
            raise InvalidRequest("policy_id: is required; it names the profile that the agent is bound to")
        return self.policy_id or self.policy_profile_id or ""


class AgentChange(Body):
    """What is to change; what is left out stays."""

    name: Label | None = None
    policy_id: str | None = None
    status: Literal["active", "disabled"] | None = None


class AgentBody(BaseModel):
    id: str
    project_id: str
    name: str
    policy_id: str
    status: Literal["active", "disabled"]
    created_at: datetime
    updated_at: datetime


class AgentList(BaseModel):
    agents: list[AgentBody]
    next_page_token: str = ""


class AgentWithKey(AgentBody):
    """An agent and its key, which is shown this once."""

    key_id: str
    key: str


class RotateRequest(Body):
    """How long the old key stays valid beside the new one."""

    overlap_seconds: Annotated[int, Field(ge=0, le=30 * 86_400, strict=True)] = 0


class KeyInput(Body):
    """A key for people and programs; agents get theirs with the agent."""

    name: Label
    role: Literal["admin", "approver", "viewer"]
    expires_at: Instant | None = None


class KeyBody(BaseModel):
    id: str
    project_id: str
    name: str
    role: Literal["admin", "approver", "viewer", "agent"]
    agent_id: str | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class KeyList(BaseModel):
    keys: list[KeyBody]


class KeyWithText(KeyBody):
    """A key and its text, which is shown this once."""

    key: str


class ApprovalInput(Body):
    """A statement that shall wait for a person. What it holds is shown to that person and kept as it is.

    How long it waits: `timeout_seconds`, else from `requested_at` (or now) to `expires_at`, both by the session's clock,
    else 300 seconds; `expires_at: null` waits for ever. The server's own clock ends the wait.
    """

    id: Annotated[str, Field(pattern=r"^apr_[A-Za-z0-9_-]{1,64}$")] | None = None
    status: Literal["pending"] = "pending"
    sql: Annotated[str, Field(min_length=1, max_length=1_000_000)]
    kind: Annotated[str, Field(max_length=64)] = "other"
    tables: Annotated[list[str], Field(max_length=1_000)] = []
    rows: Annotated[int, Field(ge=0, le=2**63 - 1, strict=True)] | None = None
    estimated_rows: Annotated[int, Field(ge=0, le=2**63 - 1, strict=True)] | None = None
    counted_rows: Annotated[int, Field(ge=0, le=2**63 - 1, strict=True)] | None = None
    parameters: list[Any] | dict[str, Any] | None = None
    sample: Annotated[list[Any], Field(max_length=1_000)] = []
    findings: Annotated[list[Any], Field(max_length=1_000)] = []
    agent: Annotated[str, Field(max_length=256)] | None = None
    policy: Annotated[str, Field(max_length=256)] | None = None
    policy_id: Annotated[str, Field(max_length=80)] | None = None
    policy_version: Annotated[str, Field(max_length=80)] | None = None
    catalog_version: Annotated[str, Field(max_length=80)] | None = None
    requested_at: Instant | None = None
    expires_at: Instant | None = None
    timeout_seconds: Annotated[int, Field(ge=1, le=7 * 86_400, strict=True)] | None = None

    def waits(self) -> timedelta | None:
        """How long it waits; None: for ever."""
        if self.timeout_seconds is not None:
            return timedelta(seconds=self.timeout_seconds)
        if self.expires_at is not None:
            since = self.requested_at or datetime.now(UTC)
            return min(max(self.expires_at - since, timedelta(0)), timedelta(days=3650))
        return None if "expires_at" in self.model_fields_set else timedelta(seconds=300)


class ApprovalDecision(Body):
    """Why."""

    reason: Annotated[str, Field(max_length=2_000)] | None = None


class ApprovalReport(Body):
    """What became of the statement; `expired`: the session no longer waits."""

    status: Literal["executed", "failed", "expired"]
    rows: Annotated[int, Field(ge=0, le=2**63 - 1, strict=True)] | None = None
    error: Annotated[str, Field(max_length=2_000)] | None = None


class ApprovalBody(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: str
    project_id: str
    agent_id: str | None
    sql: str
    kind: str
    tables: list[str]
    rows: int | None
    findings: list[Any]
    status: Literal["pending", "approved", "rejected", "expired", "executed", "failed"]
    requested_at: datetime
    expires_at: datetime | None
    decided_at: datetime | None
    decided_by: str | None
    reason: str | None
    outcome: Any


class ApprovalList(BaseModel):
    approvals: list[ApprovalBody]
    next_page_token: str = ""


class ProjectInput(Body):
    name: Label
    id: Annotated[str, Field(pattern=r"^prj_[A-Za-z0-9_-]{1,64}$")] | None = None


class ProjectBody(BaseModel):
    id: str
    name: str
    created_at: datetime


class ProjectWithKey(ProjectBody):
    """A project and its first admin key, which is shown this once."""

    key_id: str
    key: str


class CatalogState(BaseModel):
    digest: str
    pushed_at: datetime
    pushed_by: str


class DecisionEntry(Body):
    """One decision of a session. Further fields are kept. One with an `id` that the server has already is not kept twice."""

    model_config = ConfigDict(extra="allow")
    id: Annotated[str, Field(pattern=r"^dec_[0-9a-z]{26}$")] | None = None
    at: Instant
    # (A session may be newer than the server, and know other words.)
    verdict: Annotated[str, Field(max_length=16, pattern=_WORD)]
    rule: Annotated[str, Field(max_length=64, pattern=_WORD)]


class DecisionUpload(Body):
    """Decisions of one agent's sessions, oldest first."""

    entries: Annotated[list[DecisionEntry], Field(min_length=1, max_length=1_000)]
    dropped: Annotated[int, Field(ge=0, strict=True)] = Field(
        0, description="Entries that were lost before these."
    )


class WebhookInput(Body):
    url: Annotated[str, Field(min_length=1, max_length=2_000)]
    events: Annotated[list[str], Field(max_length=20)] = []
    format: Literal["json", "slack"] = "json"


class WebhookBody(BaseModel):
    id: str
    project_id: str
    url: str
    events: list[str]
    format: Literal["json", "slack"]
    created_at: datetime


class WebhookList(BaseModel):
    webhooks: list[WebhookBody]


class WebhookWithSecret(WebhookBody):
    """A webhook and the secret that its deliveries are signed with, which is shown this once."""

    secret: str


#: The documented failures of a route, by status.
_FAILURES = {
    400: "The request is not valid; the message names the field.",
    401: "There is no key, or it is not valid.",
    403: "The key's role does not allow it, its agent is disabled, or a limit of the server is used up.",
    404: "There is no such thing in this project.",
    409: "It contradicts what is there.",
    412: "It was changed in the meantime.",
    413: "The body is too large.",
    422: "The request is not valid; the message names the field.",
    429: "Too many requests; Retry-After says when to come back.",
}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer instead, for the OpenAPI document; 401, 403 and 429 may come from every one."""
    return {
        status: {"model": ErrorBody, "description": _FAILURES[status]}
        for status in sorted({401, 403, 429, *statuses})
    }


def token_of(identifier: str) -> str:
    """The page token that continues after an item."""
    return base64.urlsafe_b64encode(identifier.encode()).decode().rstrip("=")


def after(token: str | None) -> str | None:
    """The identifier that a page token stands for. Raises InvalidRequest."""
    if token is None:
        return None
    try:
        padded = token.encode() + b"=" * (-len(token) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
        if not text.isprintable() or not text.isascii() or len(text) > 80:
            raise ValueError
    except (ValueError, binascii.Error):
        raise InvalidRequest("page_token: is not one that this server gave") from None
    return text


def listed(
    name: str,
    rows: Sequence[Row],
    size: int,
    wire: Callable[[Row], dict[str, Any]],
    identifier: Callable[[Row], str],
) -> dict[str, Any]:
    """A page of a list: `rows` are one more than were asked for where there is a next page."""
    answer: dict[str, Any] = {name: [wire(row) for row in rows[:size]]}
    if len(rows) > size:
        answer["next_page_token"] = token_of(identifier(rows[size - 1]))
    return answer
