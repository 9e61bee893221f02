"""The page of action policies: what an event scores, and which rule adds what."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from sqlalchemy import select

from guarddb import risk

from ..api.access import ServerDep
from ..state import Server
from ..store.tables import ActionPolicy
from .rendering import page
from .session import AnyForm, AnyVisitor, Form, Visitor

router = APIRouter(prefix="/ui", include_in_schema=False)
_SAMPLE = {
    "action": "database:table:select",
    "timestamp": "2026-03-01T12:00:00Z",
    "target": {"resource_type": "table", "resource_id": "customers"},
    "parameters": {"batch_size": 500},
    "data_fields_accessed": [{"field": "email", "classification": "PII"}],
}


def _page(server: Server, who: Visitor, text: str, customer_id: str, **context: Any) -> Response:
    mine = select(ActionPolicy).where(ActionPolicy.project_id == who.principal.project_id)
    with server.database.read() as session:
        found = session.scalars(mine.order_by(ActionPolicy.customer_id).limit(500)).all()
    told = {"result": None, "problem": "", **context}
    return page("risk.html", who, policies=found, text=text, customer_id=customer_id, **told)


@router.get("/risk")
def show(who: AnyVisitor, server: ServerDep) -> Response:
    """The action policies of the project, and an event to try."""
    return _page(server, who, json.dumps(_SAMPLE, indent=2), "")


@router.post("/risk")
def score(who: AnyForm, server: ServerDep, form: Form) -> Response:
    """The score of an event, with its components. Nothing is kept."""
    text, customer_id = str(form.get("event", "")), str(form.get("customer_id", ""))
    with server.database.read() as session:
        policy = session.get(ActionPolicy, (who.principal.project_id, customer_id[:128].replace("\0", "")))
    if policy is None:
        return _page(server, who, text, customer_id, problem="This project has no such action policy.")
    try:
        event = json.loads(text)
        if not isinstance(event, dict):
            raise risk.EventError("an event is a mapping of fields")
        result = risk.score(event, risk.ActionPolicy.model_validate(policy.document))
    except (ValueError, RecursionError) as ex:  # no JSON, or no event
        return _page(server, who, text, customer_id, problem=str(ex) or "This is not JSON.")
    components = [
        {"rule": each.rule, "contribution": each.contribution, "because": each.because}
        for each in result.score_components
    ]
    return _page(server, who, text, customer_id, result=result.to_dict(), components=components)
