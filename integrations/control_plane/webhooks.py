"""Webhooks: filled in below."""

from __future__ import annotations

from .store.database import Database


class Courier:
    """Sends deliveries."""

    def __init__(self, database: Database, *, private: bool) -> None:
        self._database = database

    async def start(self) -> None: ...

    async def stop(self) -> None: ...
