"""What every request of one server shares."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from .api.metrics import Metrics
from .api.rates import Rates
from .broker import Broker
from .last_used import LastUsed
from .recall import Recall
from .settings import Settings
from .signing import Signer
from .store.database import Database
from .webhooks import Courier


@dataclass
class Server:
    """One running control plane."""

    settings: Settings
    database: Database
    #: the key of the hashes that API keys are kept as
    secret: str
    recall: Recall
    last_used: LastUsed
    rates: Rates
    broker: Broker
    courier: Courier
    metrics: Metrics
    signer: Signer | None


async def server_of(request: Request) -> Server:
    """The server that a request came to."""
    server: Server = request.app.state.server
    return server
