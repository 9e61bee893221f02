"""How many requests a key may send, and how fast wrong keys may be tried."""

from __future__ import annotations

import asyncio
import threading
import time

from limits import RateLimitItem
from sqlalchemy import delete, text

from ..errors import TooManyRequests
from ..settings import rate
from ..store.database import STATE, Database
from ..store.tables import RateCounter

#: Wrong keys that one address may show in a minute before it is asked to wait.
_WRONG_KEYS = rate("20/minute")

# One question for all that a request has to know. A count that a crash loses costs nobody anything; waiting for the disk
# would cost every request.
_COUNT = text(
    "WITH fast AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)) "
    'INSERT INTO rate_counters (bucket, "window", count) SELECT :bucket, :window, 1 FROM fast '
    'ON CONFLICT (bucket, "window") DO UPDATE SET count = rate_counters.count + 1 '
    f"RETURNING count, ({STATE})"
)


class Rates:
    """Counts requests in windows. The servers of one PostgreSQL database count together."""

    def __init__(self, database: Database, limit: str) -> None:
        self._database = database
        self._limit = rate(limit)
        self._lock = threading.Lock()
        #: by whose they are, the length of their window, and its number
        self._counts: dict[tuple[str, int, int], int] = {}
        self._swept = 0.0

    def request(self, key_id: str) -> int:
        """Count a request; the state of the database, see `Database.state`. Raises TooManyRequests, with Retry-After."""
        window, wait = self._window(self._limit)
        if self._database.shared:
            count, state = self._count_shared(key_id, window)
        else:
            count, state = self._count_here(key_id, self._limit, window), self._database.state()
        if count > self._limit.amount:
            _refuse(f"this key may send {self._limit.amount} requests per {_unit(self._limit)}", wait)
        return state

    async def request_async(self, key_id: str) -> int:
        """The same on an event loop, which waits for no database."""
        if self._database.shared:
            return await asyncio.to_thread(self.request, key_id)
        return self.request(key_id)

    def wrong_key(self, address: str) -> None:
        """Count a wrong key. Raises TooManyRequests once the address has shown too many."""
        window, wait = self._window(_WRONG_KEYS)
        if self._count_here(f"wrong:{address}", _WRONG_KEYS, window) > _WRONG_KEYS.amount:
            _refuse("too many wrong keys from this address", wait)

    def _window(self, limit: RateLimitItem) -> tuple[int, int]:
        """The number of the window that is now, and the whole seconds until it ends."""
        length = limit.get_expiry()
        now = time.time()
        number = int(now // length)
        return number, max(1, int((number + 1) * length - now) + 1)

    def _count_here(self, bucket: str, limit: RateLimitItem, window: int) -> int:
        with self._lock:
            now = time.monotonic()
            if now - self._swept > 60:
                self._swept = now
                since = time.time() - 60
                self._counts = {
                    (whose, length, number): count
                    for (whose, length, number), count in self._counts.items()
                    if (number + 1) * length > since
                }
            key = bucket, limit.get_expiry(), window
            count = self._counts[key] = self._counts.get(key, 0) + 1
            return count

    def _count_shared(self, bucket: str, window: int) -> tuple[int, int]:
        single = self._database.engine.execution_options(isolation_level="AUTOCOMMIT")
        with single.connect() as connection:
            count, state = connection.execute(_COUNT, {"bucket": bucket, "window": window}).one()
            if count == 1:
                stale = (RateCounter.bucket == bucket) & (RateCounter.window < window)
                connection.execute(delete(RateCounter).where(stale))
        return count, state


def _unit(limit: RateLimitItem) -> str:
    length = limit.get_expiry()
    return {1: "second", 60: "minute", 3600: "hour", 86400: "day"}.get(length, f"{length} seconds")


def _refuse(message: str, wait: int) -> None:
    raise TooManyRequests(f"{message}; try again in {wait} s", headers={"Retry-After": str(wait)})
