"""The courier: takes deliveries to their webhooks, signed, again and again with growing pauses.

A receiver checks `Guarddb-Webhook-Signature: t=<seconds>,v1=<hex>`: HMAC-SHA-256 of `<seconds>.<body>` with the webhook's
secret, and that the seconds are not long past, so that nobody can send an old delivery once more.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from .destinations import ForbiddenDestination, check_url, client
from .store import webhooks
from .store.database import AWAY, Database
from .store.tables import Webhook

logger = logging.getLogger("guarddb.control_plane")

SIGNATURE_HEADER = "Guarddb-Webhook-Signature"
#: Seconds that an attempt may take, and between two looks for deliveries that are due.
_TIMEOUT = 10.0
_LOOK = 1.0


def sign(secret: str, body: bytes, moment: int) -> str:
    """The value of the signature header.

    >>> sign("whs_x", b"{}", 1)
    't=1,v1=8543495bafde3f133c7ddd490b85179581a1204ef39f43a6cb39a54ef932753d'
    """
    mac = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256)
    return f"t={moment},v1={mac.hexdigest()}"


def body_of(payload: dict[str, Any], format: str) -> bytes:
    """What is sent: the payload, or the message that Slack and its like show."""
    if format == "slack":
        subject = payload.get("approval_id") or payload.get("policy_id") or payload.get("agent_id") or ""
        status = f" ({payload['status']})" if "status" in payload else ""
        payload = {"text": f"guarddb: {payload['event'].replace('_', ' ')}: {subject}{status}"}
    return json.dumps(payload, separators=(",", ":")).encode()


@dataclass(frozen=True)
class _Parcel:
    delivery_id: str
    url: str
    secret: str
    body: bytes


class Courier:
    """Sends what is due, one server of a database at a time for each delivery."""

    def __init__(self, database: Database, *, private: bool) -> None:
        self._database = database
        self._private = private
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin with what is due."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop; what is not delivered stays due."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                parcels = await asyncio.to_thread(self._pick_up)
                if parcels:
                    await asyncio.gather(*(asyncio.to_thread(self._deliver, each) for each in parcels))
                    continue
            except AWAY as ex:
                logger.warning("deliveries wait: the database does not answer (%s)", type(ex).__name__)
            except Exception:
                logger.exception("deliveries cannot be read")
            await asyncio.sleep(_LOOK)

    def _pick_up(self) -> list[_Parcel]:
        if not self._anything_due():
            return []
        with self._database.write() as session:
            parcels = []
            for delivery in webhooks.due(session, 20):
                webhook = session.get_one(Webhook, delivery.webhook_id)
                body = body_of(delivery.payload, webhook.format)
                parcels.append(_Parcel(delivery.id, webhook.url, webhook.secret, body))
            return parcels

    def _anything_due(self) -> bool:
        with self._database.read() as session:
            return webhooks.any_due(session)

    def _deliver(self, parcel: _Parcel) -> None:
        error = self._attempt(parcel)
        if error is not None:
            logger.warning("delivery %s to a webhook failed: %s", parcel.delivery_id, error)
        with self._database.write() as session:
            webhooks.delivered(session, parcel.delivery_id, error)

    def _attempt(self, parcel: _Parcel) -> str | None:
        told = {
            "Content-Type": "application/json",
            "User-Agent": "guarddb",
            "Guarddb-Delivery": parcel.delivery_id,
            SIGNATURE_HEADER: sign(parcel.secret, parcel.body, int(time.time())),
        }
        try:
            check_url(parcel.url, private=self._private)
            with (
                client(private=self._private, timeout=_TIMEOUT) as sender,
                sender.stream("POST", parcel.url, content=parcel.body, headers=told) as answer,
            ):
                return None if answer.is_success else f"it answers {answer.status_code}"
        except ForbiddenDestination as ex:
            return f"its URL {ex}"
        except httpx.HTTPError as ex:
            return type(ex).__name__
        except Exception as ex:
            logger.exception("delivery %s", parcel.delivery_id)
            return type(ex).__name__
