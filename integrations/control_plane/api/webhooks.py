"""Webhooks: where a project's events are sent, and what became of the last ones."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from ..destinations import ForbiddenDestination, check_url
from ..errors import InvalidRequest
from ..store import webhooks
from ..store.columns import rfc3339
from ..store.journal import record
from ..store.tables import Delivery
from .access import Admin, ServerDep
from .shapes import WebhookInput, WebhookList, WebhookWithSecret, failures

router = APIRouter(tags=["webhooks"])


@router.post(
    "/v1/projects/{project_id}/webhooks",
    status_code=201,
    operation_id="createWebhook",
    responses={201: {"model": WebhookWithSecret}, **failures(400, 404, 413)},
)
def create(project_id: str, caller: Admin, server: ServerDep, body: WebhookInput) -> Response:
    """Send events to a URL. The secret that deliveries are signed with is shown in this answer and never again."""
    for index, name in enumerate(body.events):
        if name not in webhooks.NAMES:
            raise InvalidRequest(f"events[{index}]: must be one of {', '.join(webhooks.NAMES)}")
    try:
        check_url(body.url, private=server.settings.private_webhooks)
    except ForbiddenDestination as ex:
        raise InvalidRequest(f"url: {ex}") from None
    with server.database.write() as session:
        webhook = webhooks.create(session, project_id, body.url, body.events, body.format)
        record(session, project_id, caller.actor, "webhook.create", webhook.id, {"url": webhook.url})
    return JSONResponse({**webhooks.wire(webhook), "secret": webhook.secret}, 201)


@router.get(
    "/v1/projects/{project_id}/webhooks",
    operation_id="listWebhooks",
    responses={200: {"model": WebhookList}, **failures(404)},
)
def index(project_id: str, _: Admin, server: ServerDep) -> Response:
    """The project's webhooks, without their secrets."""
    with server.database.read() as session:
        found = webhooks.of_project(session, project_id)
    return JSONResponse({"webhooks": [webhooks.wire(each) for each in found]})


def _delivery(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "event": delivery.event,
        "attempts": delivery.attempts,
        "delivered_at": rfc3339(delivery.delivered_at) if delivery.delivered_at else None,
        "next_at": rfc3339(delivery.next_at) if delivery.next_at else None,
        "error": delivery.error,
    }


@router.get(
    "/v1/projects/{project_id}/webhooks/{webhook_id}/deliveries",
    operation_id="listDeliveries",
    responses=failures(404),
)
def deliveries(project_id: str, webhook_id: str, _: Admin, server: ServerDep) -> Response:
    """The last deliveries to a webhook, newest first."""
    with server.database.read() as session:
        found = webhooks.history(session, webhooks.find(session, project_id, webhook_id))
    return JSONResponse({"deliveries": [_delivery(each) for each in found]})


@router.delete(
    "/v1/projects/{project_id}/webhooks/{webhook_id}",
    status_code=204,
    operation_id="deleteWebhook",
    responses=failures(404),
)
def delete(project_id: str, webhook_id: str, caller: Admin, server: ServerDep) -> Response:
    """Send nothing there any more."""
    with server.database.write() as session:
        webhook = webhooks.find(session, project_id, webhook_id)
        record(session, project_id, caller.actor, "webhook.delete", webhook.id, {"url": webhook.url})
        session.delete(webhook)
    return Response(status_code=204)
