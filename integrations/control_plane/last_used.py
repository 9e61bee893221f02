"""When keys were last used: the first time at once, then to the minute, and many keys in one transaction."""

from __future__ import annotations

import asyncio
import threading
from datetime import datetime

from cachetools import TTLCache
from sqlalchemy import update

from .recall import KnownKey
from .store.columns import now
from .store.database import UNREMEMBERED, Database
from .store.tables import Key

#: Seconds that it is exact to; writing it for every request would make each of them wait for the disk.
_EXACT = 60.0


class LastUsed:
    """Notes uses, and writes them down when `write` is called."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._noted: dict[str, datetime] = {}
        self._lately: TTLCache[str, None] = TTLCache(10_000, _EXACT)

    async def note(self, known: KnownKey) -> None:
        """This key is used now."""
        key_id = known.principal.key_id
        with self._lock:
            if key_id in self._lately:
                return
            self._lately[key_id] = None
            self._noted[key_id] = now()
        if known.last_used_at is None:
            await asyncio.to_thread(self.write)

    def write(self) -> None:
        """Write down what was noted."""
        with self._lock:
            noted, self._noted = self._noted, {}
        if not noted:
            return
        with self._database.write() as session:
            for key_id, moment in noted.items():
                use = update(Key).where(Key.id == key_id).values(last_used_at=moment)
                session.execute(use, execution_options={UNREMEMBERED: True})
