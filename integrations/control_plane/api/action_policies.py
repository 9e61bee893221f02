"""Action policies and risk scores: a customer's policy is stored bare and answered nested; events are scored with it."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Path, Query, Response
from fastapi.responses import JSONResponse
from pydantic import WithJsonSchema
from sqlalchemy import select
from sqlalchemy.orm import Session

from guarddb import PolicyError, risk

from ..errors import NotFound, Unprocessable
from ..store.columns import now, rfc3339
from ..store.journal import record
from ..store.tables import ActionPolicy
from .access import AnyAdmin, Anybody, ServerDep
from .shapes import failures

router = APIRouter(tags=["action policies"])

#: Events of one batch.
MAX_BATCH = 1_000
_CUSTOMER = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
CustomerId = Annotated[str, Path(description="Letters, digits and . _ : @ -, at most 128.")]
PolicyBody = Annotated[Any, WithJsonSchema({"$ref": "#/components/schemas/ActionPolicyInput"})]
EventBody = Annotated[Any, WithJsonSchema({"$ref": "#/components/schemas/ActionEvent"})]
AskedFor = Annotated[
    str | None, Query(description="Whose policy scores; not needed where there is one only.")
]
AskedForHeader = Annotated[str | None, Header(alias="X-Customer-Id", description="The same as a header.")]
_STORED: dict[str, Any] = {
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/StoredActionPolicy"}}}
}
_RESULT: dict[str, Any] = {
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/RiskResult"}}}
}


def _wire(policy: ActionPolicy) -> dict[str, Any]:
    return {
        "customer_id": policy.customer_id,
        "policies": policy.document,
        "updated_at": rfc3339(policy.updated_at),
    }


def _read(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise Unprocessable("the body must be a mapping of fields, sent as application/json")
    try:
        risk.ActionPolicy.model_validate(body)
    except PolicyError as ex:
        raise Unprocessable(str(ex)) from None
    # The stored form, sent back as it was read, is unwrapped.
    nested = body.get("policies")
    bare = nested if isinstance(nested, dict) and "customer_id" in body else body
    return {key: value for key, value in bare.items() if value is not None}  # null means the default


def _find(session: Session, project_id: str, customer_id: str) -> ActionPolicy | None:
    if not _CUSTOMER.fullmatch(customer_id):
        return None
    return session.get(ActionPolicy, (project_id, customer_id))


def _store(server: ServerDep, caller: AnyAdmin, customer_id: str, body: Any, *, create: bool) -> Response:
    document = _read(body)
    if not _CUSTOMER.fullmatch(customer_id):
        raise Unprocessable("customer_id: letters, digits and . _ : @ -, at most 128 of them")
    with server.database.write() as session:
        policy = _find(session, caller.project_id, customer_id)
        is_new = policy is None
        if policy is None:
            if not create:
                raise NotFound(f"customer {customer_id!r} has no policy")
            policy = ActionPolicy(project_id=caller.project_id, customer_id=customer_id)
            session.add(policy)
        policy.document = document
        policy.updated_at = now()
        session.flush()
        action = "action_policy.create" if is_new else "action_policy.update"
        record(session, caller.project_id, caller.actor, action, customer_id)
    return JSONResponse(_wire(policy), 201 if is_new else 200)


@router.post(
    "/policies/{customer_id}",
    status_code=201,
    operation_id="createActionPolicy",
    responses={200: {**_STORED, "description": "It was replaced."}, 201: _STORED, **failures(413, 422)},
)
def create(
    customer_id: CustomerId, caller: AnyAdmin, server: ServerDep, body: Annotated[PolicyBody, Body()]
) -> Response:
    """Store a customer's action policy; one that is there already is replaced."""
    return _store(server, caller, customer_id, body, create=True)


@router.get(
    "/policies/{customer_id}",
    operation_id="getActionPolicy",
    responses={200: _STORED, **failures(404, 422)},
)
def read(customer_id: CustomerId, caller: Anybody, server: ServerDep) -> Response:
    """A customer's action policy."""
    with server.database.read() as session:
        policy = _find(session, caller.project_id, customer_id)
    if policy is None:
        raise NotFound(f"customer {customer_id!r} has no policy")
    return JSONResponse(_wire(policy))


@router.put(
    "/policies/{customer_id}",
    operation_id="updateActionPolicy",
    responses={200: _STORED, **failures(404, 413, 422)},
)
def replace(
    customer_id: CustomerId, caller: AnyAdmin, server: ServerDep, body: Annotated[PolicyBody, Body()]
) -> Response:
    """Replace a customer's action policy in full."""
    return _store(server, caller, customer_id, body, create=False)


def _policy_for(server: ServerDep, caller: Anybody, customer_id: str | None) -> risk.ActionPolicy:
    with server.database.read() as session:
        if customer_id is not None:
            policy = _find(session, caller.project_id, customer_id)
            if policy is None:
                raise NotFound(f"customer {customer_id!r} has no policy")
        else:
            mine = select(ActionPolicy).where(ActionPolicy.project_id == caller.project_id).limit(2)
            found = session.scalars(mine).all()
            if not found:
                raise NotFound(
                    "this project has no action policy; store one with POST /policies/{customer_id}"
                )
            if len(found) > 1:
                raise Unprocessable(
                    "customer_id: this project has several action policies; say whose scores, as "
                    "?customer_id=… or X-Customer-Id"
                )
            policy = found[0]
    return risk.ActionPolicy.model_validate(policy.document)


def _score(event: Any, policy: risk.ActionPolicy, place: str = "") -> dict[str, Any]:
    if not isinstance(event, dict):
        raise Unprocessable(f"{place or 'the body'}: must be an event, a mapping of fields")
    try:
        return risk.score(event, policy).to_dict()
    except risk.EventError as ex:
        raise Unprocessable(f"{place}{'.' if place else ''}{ex}") from None


@router.post(
    "/events",
    operation_id="scoreEvent",
    responses={200: _RESULT, **failures(404, 413, 422)},
)
def one(
    caller: Anybody,
    server: ServerDep,
    body: Annotated[EventBody, Body()],
    customer_id: AskedFor = None,
    x_customer_id: AskedForHeader = None,
) -> Response:
    """The score of one event. Nothing is kept."""
    return JSONResponse(_score(body, _policy_for(server, caller, customer_id or x_customer_id)))


@router.post(
    "/events/batch",
    operation_id="scoreEvents",
    responses={
        200: {
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["results", "event_ids", "count"],
                        "properties": {
                            "results": {
                                "type": "array",
                                "items": {"$ref": "#/components/schemas/RiskResult"},
                            },
                            "event_ids": {"type": "array", "items": {"type": ["string", "null"]}},
                            "count": {"type": "integer"},
                        },
                    }
                }
            }
        },
        **failures(404, 413, 422),
    },
)
def batch(
    caller: Anybody,
    server: ServerDep,
    body: Annotated[Any, Body(), WithJsonSchema({"$ref": "#/components/schemas/ActionEvents"})],
    customer_id: AskedFor = None,
    x_customer_id: AskedForHeader = None,
) -> Response:
    """The scores of up to 1,000 events, in their order. One that is not valid refuses them all and is named."""
    events = body.get("events") if isinstance(body, dict) else body
    if not isinstance(events, list) or (isinstance(body, dict) and set(body) != {"events"}):
        raise Unprocessable('the body must be {"events": [...]}')
    if not 1 <= len(events) <= MAX_BATCH:
        raise Unprocessable(f"events: must have 1 to {MAX_BATCH} entries; there are {len(events)}")
    policy = _policy_for(server, caller, customer_id or x_customer_id)
    results = [_score(event, policy, f"events[{index}]") for index, event in enumerate(events)]
    ids = [result["event_id"] for result in results]
    return JSONResponse({"results": results, "event_ids": ids, "count": len(results)})


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an input where null stands for the default of what is not required."""
    required = schema.get("required", ())
    properties = {
        name: each if name in required or _takes_null(each) else {"anyOf": [each, {"type": "null"}]}
        for name, each in schema["properties"].items()
    }
    return {**schema, "properties": properties}


def _takes_null(schema: dict[str, Any]) -> bool:
    if "null" in (kind if isinstance(kind := schema.get("type"), list) else [kind]):
        return True
    return any(_takes_null(each) for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ())))


def schemas() -> dict[str, Any]:
    """The schemas that the routes refer to."""
    policy = risk.ActionPolicy.model_json_schema(ref_template="#/components/schemas/{model}")
    found: dict[str, Any] = policy.pop("$defs", {})
    text = {"type": "string"}
    found["ActionPolicyInput"] = {**nullable(policy), "title": "ActionPolicyInput"}
    found["StoredActionPolicy"] = {
        "type": "object",
        "required": ["customer_id", "policies", "updated_at"],
        "properties": {
            "customer_id": text,
            "policies": {"$ref": "#/components/schemas/ActionPolicyInput"},
            "updated_at": {"type": "string", "format": "date-time"},
        },
    }
    found["ActionEvent"] = {
        "type": "object",
        "required": ["action", "timestamp"],
        "properties": {
            "event_id": {"type": ["string", "null"]},
            "action": {
                "type": "string",
                "pattern": "^[^:]+(:[^:]+){2,}$",
                "description": "domain:scope:verb",
            },
            "timestamp": {"type": "string", "format": "date-time"},
            **{each: {"type": "object"} for each in ("agent", "session", "target", "parameters", "metadata")},
            "tool_name": text,
            "data_fields_accessed": {"type": "array"},
            "preceding_actions": {"type": "array"},
        },
    }
    found["ActionEvents"] = {
        "type": "object",
        "required": ["events"],
        "properties": {
            "events": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_BATCH,
                "items": {"$ref": "#/components/schemas/ActionEvent"},
            }
        },
    }
    found["RiskResult"] = {
        "type": "object",
        "required": [
            "event_id",
            "status",
            "score",
            "risk_level",
            "verdict",
            "violations",
            "score_components",
        ],
        "properties": {
            "event_id": {"type": ["string", "null"]},
            "status": text,
            "score": {"type": "integer", "minimum": 0, "maximum": 100},
            "risk_level": {"type": "string", "enum": ["none", "low", "medium", "high", "critical"]},
            "verdict": {"type": "string", "enum": ["allow", "flag", "refuse"]},
            "violations": {"type": "array"},
            "score_components": {"type": "array"},
            "reasoning": text,
            "notes": {"type": "array"},
        },
    }
    return found
