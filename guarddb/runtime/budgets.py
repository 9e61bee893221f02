"""Budgets: how many statements and how many bytes a policy hands out, and where that is counted.

Spec 1: queries per rolling hour, queries per UTC calendar day, bytes of result data per UTC day. The counters
live in the process (`memory://`, shared by all its connections) or in a storage of `limits`, Redis for
instance, where several processes share them. A store that does not answer refuses the statement: nobody
counted it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

from limits import RateLimitItemPerHour
from limits.errors import ConfigurationError
from limits.storage import MovingWindowSupport, Storage, storage_from_string
from limits.strategies import MovingWindowRateLimiter

if TYPE_CHECKING:
    from guarddb.vocabulary import Rule

#: The counters of a policy and an agent.
Counter: TypeAlias = Literal["hour", "day", "egress"]

RULES: dict[Counter, Rule] = {
    "hour": "query_budget_hour",
    "day": "query_budget_day",
    "egress": "egress_budget",
}

#: The field of a profile that sets each.
FIELDS: dict[Counter, str] = {
    "hour": "budget_queries_per_hour",
    "day": "budget_queries_per_day",
    "egress": "egress_bytes_per_day",
}

_HOUR_SECONDS = 3_600
_PATIENCE_SECONDS = 1.0
_DAY_SECONDS = 86_400
_UNNAMED = "(unnamed)"
#: A limit that nothing reaches.
_WHATEVER = 1 << 62
#: Up to this many statements an hour each is remembered by itself; above, those of one slot are remembered together.
_EXACT_UP_TO = 10_000
_SLOT_SECONDS = 0.1


class BudgetError(RuntimeError):
    """The budget store cannot be opened or does not answer."""


@runtime_checkable
class BudgetStore(Protocol):
    """Where budgets are counted. A method may raise anything when it is down: then the driver refuses."""

    def spend_query(self, key: str, per_hour: int, per_day: int, count: int = 1) -> Counter | None:
        """Count a statement (a limit of 0 is none) and give None; or the counter that has no room, and count nothing.

        `count` is given for a text of several statements only: all of them, or none.
        """
        ...

    def spend_bytes(self, key: str, amount: int, per_day: int) -> bool:
        """Count `amount` if that stays within `per_day`; says whether it did. Otherwise nothing is counted."""
        ...

    def remaining(self, counter: Counter, key: str, limit: int) -> int:
        """How much of `limit` is left."""
        ...

    def resets_at(self, counter: Counter, key: str, limit: int) -> datetime:
        """When there is room again, in UTC."""
        ...


class _Account:
    """What one policy and agent have spent."""

    __slots__ = ("bytes", "hour", "queries", "slot_ends", "today", "tomorrow", "window")

    def __init__(self) -> None:
        #: the day that `queries` and `bytes` are of: its first second, and the next one's
        self.today = self.tomorrow = 0.0
        self.queries = 0
        self.bytes = 0
        #: statements of the last hour, oldest first: [when these ran (the last of them, at the latest), how many]
        self.window: deque[list[float]] = deque()
        #: until when statements are counted with the last entry of the window
        self.slot_ends = 0.0
        #: the sum over the window
        self.hour = 0.0

    def begin_day(self, now: float) -> None:
        self.today = now // _DAY_SECONDS * _DAY_SECONDS
        self.tomorrow = self.today + _DAY_SECONDS
        self.queries = self.bytes = 0

    def forget(self, before: float) -> None:
        window = self.window
        while window and window[0][0] <= before:
            self.hour -= window.popleft()[1]


class MemoryBudgetStore:
    """Budgets in this process, for all its connections. A microsecond each, and exact: but above
    10,000 statements an hour, those that ran within the same tenth of a second leave the hour together, so that a
    large budget does not take memory for each statement.

    Not the memory storage of `limits` (5.8): its `incr` asks `get` first, which drops a key that has no
    expiry yet, so that two threads can lose a count; it starts a timer thread every 10 ms; and its window is
    counted by walking it.
    """

    remote = False

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts: dict[str, _Account] = {}
        #: so many accounts, and those that have nothing to remember any more are dropped
        self._forget_at = 1_024

    def _forget_idle(self, now: float) -> None:
        for key, account in [*self._accounts.items()]:
            account.forget(now - _HOUR_SECONDS)
            if not account.window and not account.today <= now < account.tomorrow:
                del self._accounts[key]
        self._forget_at = max(1_024, 2 * len(self._accounts))

    def _account(self, key: str, now: float) -> _Account:
        account = self._accounts.get(key)
        if account is None:
            if len(self._accounts) >= self._forget_at:
                self._forget_idle(now)
            account = self._accounts[key] = _Account()
        if not account.today <= now < account.tomorrow:
            account.begin_day(now)
        return account

    def spend_query(self, key: str, per_hour: int, per_day: int, count: int = 1) -> Counter | None:
        now = self._clock()
        with self._lock:
            account = self._accounts.get(key)
            if account is None or not account.today <= now < account.tomorrow:
                account = self._account(key, now)  # only then: a call less for each statement
            if per_hour and account.hour + count > per_hour:
                account.forget(now - _HOUR_SECONDS)  # only where it matters, and with each new entry
                if account.hour + count > per_hour:
                    return "hour"
            if per_day:
                if account.queries + count > per_day:
                    return "day"
                account.queries += count
            if per_hour:
                account.hour += count
                if now < account.slot_ends:
                    account.window[-1][1] += count
                    return None
                account.forget(now - _HOUR_SECONDS)
                if per_hour > _EXACT_UP_TO:
                    account.slot_ends = slot_ends = now + _SLOT_SECONDS
                    account.window.append([slot_ends, count])
                else:
                    account.window.append([now, count])
            return None

    def spend_bytes(self, key: str, amount: int, per_day: int) -> bool:
        now = self._clock()
        with self._lock:
            account = self._accounts.get(key)
            if account is None or not account.today <= now < account.tomorrow:
                account = self._account(key, now)  # only then: a call less for each statement
            spent = account.bytes + amount
            if spent > per_day:
                return False
            account.bytes = spent
            return True

    def remaining(self, counter: Counter, key: str, limit: int) -> int:
        now = self._clock()
        with self._lock:
            account = self._account(key, now)
            if counter == "hour":
                account.forget(now - _HOUR_SECONDS)
                return max(0, limit - int(account.hour))
            return max(0, limit - (account.queries if counter == "day" else account.bytes))

    def resets_at(self, counter: Counter, key: str, limit: int) -> datetime:
        now = self._clock()
        if counter == "hour":
            with self._lock:
                account = self._account(key, now)
                account.forget(now - _HOUR_SECONDS)
                oldest = account.window[0][0] if account.window else now
                return datetime.fromtimestamp(oldest + _HOUR_SECONDS, UTC)
        return midnight_after(now)


class LimitsBudgetStore:
    """Budgets in a storage of the `limits` package that several processes share.

    The hour is a moving window. The days are plain counters whose key holds the day: a fixed window of
    `limits` would begin at its first hit, not at midnight UTC. They expire a day late, so that clocks may
    disagree.
    """

    remote = True

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        # every storage that storage_from_string opens for redis:// supports moving windows
        self._window = MovingWindowRateLimiter(cast("Any", storage))
        self._clock = clock

    def _day_key(self, counter: Counter, key: str) -> str:
        return f"guarddb/{counter}/{int(self._clock() // _DAY_SECONDS)}/{key}"

    def spend_query(self, key: str, per_hour: int, per_day: int, count: int = 1) -> Counter | None:
        hour = RateLimitItemPerHour(per_hour) if per_hour else None
        if hour is not None and per_day and not self._window.test(hour, "guarddb", key, cost=count):
            # asked first, so that a statement the hour refuses does not count for the day
            return "hour"
        if per_day and not self._spend("day", key, count, per_day):
            return "day"
        if hour is not None and not self._window.hit(hour, "guarddb", key, cost=count):
            # Another process was faster; what the day has counted is taken back.
            if per_day:
                self._storage.incr(self._day_key("day", key), 2 * _DAY_SECONDS, -count)
            return "hour"
        return None

    def spend_bytes(self, key: str, amount: int, per_day: int) -> bool:
        return self._spend("egress", key, amount, per_day)

    def _spend(self, counter: Counter, key: str, amount: int, limit: int) -> bool:
        day = self._day_key(counter, key)
        if self._storage.get(day) + amount > limit:
            return False
        # Two processes may pass the question at once; the answer of the increment tells the second one.
        if self._storage.incr(day, 2 * _DAY_SECONDS, amount) > limit:
            self._storage.incr(day, 2 * _DAY_SECONDS, -amount)
            return False
        return True

    def remaining(self, counter: Counter, key: str, limit: int) -> int:
        if counter == "hour":
            stats = self._window.get_window_stats(RateLimitItemPerHour(limit), "guarddb", key)
            return max(0, stats.remaining)
        return max(0, limit - self._storage.get(self._day_key(counter, key)))

    def resets_at(self, counter: Counter, key: str, limit: int) -> datetime:
        if counter == "hour":
            stats = self._window.get_window_stats(RateLimitItemPerHour(limit), "guarddb", key)
            return datetime.fromtimestamp(stats.reset_time, UTC)
        return midnight_after(self._clock())


def midnight_after(now: float) -> datetime:
    return datetime.fromtimestamp((int(now // _DAY_SECONDS) + 1) * _DAY_SECONDS, UTC)


_stores: dict[str, BudgetStore] = {}
_stores_lock = threading.Lock()


def open_store(uri: str | None = None) -> BudgetStore:
    """The store at a storage URI (`memory://`, `redis://host:6379/0`); the same URI, the same counters.

    Raises:
        BudgetError: the URI means nothing, or what it needs is not installed.
    """
    uri = uri or "memory://"
    with _stores_lock:
        store = _stores.get(uri)
        if store is None and uri == "memory://":
            store = _stores[uri] = MemoryBudgetStore()
        elif store is None:
            shown = _without_password(uri)
            try:
                storage = storage_from_string(uri, **_options(uri))
            except Exception as ex:
                why = str(ex).replace(uri, shown)
                if shown == _UNNAMED or "scheme" in why:
                    why = "it is memory://, redis://…, rediss://…, redis+unix://… or postgresql://…"
                if isinstance(ex, ConfigurationError) and uri.startswith("redis"):
                    why = "what it needs is not installed: pip install 'guarddb[redis]'"
                if (
                    password := uri.partition("://")[2].rpartition("@")[0].rpartition(":")[2]
                ) and password in why:
                    why = type(ex).__name__
                raise BudgetError(f'the budget store "{shown}" cannot be opened: {why}') from None
            if not isinstance(storage, MovingWindowSupport):
                raise BudgetError(
                    f'the budget store "{shown}" cannot count a rolling hour; use memory:// or redis://'
                )
            store = _stores[uri] = LimitsBudgetStore(cast("Storage", storage))
    return store


def _options(uri: str) -> dict[str, Any]:
    """A store that does not answer within a second does not answer."""
    if not uri.startswith(("redis", "rediss", "valkey")):
        return {}
    options: dict[str, Any] = {
        "socket_timeout": _PATIENCE_SECONDS,
        "socket_connect_timeout": _PATIENCE_SECONDS,
    }
    with suppress(ImportError):  # (what is missing is said when the store is opened)
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        options["retry"] = Retry(NoBackoff(), 0)  # redis-py 6 tries three times otherwise
    return options


def _without_password(uri: str) -> str:
    scheme, found, rest = uri.partition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}" if found else _UNNAMED


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """What a profile allows; 0 is no limit."""

    queries_per_hour: int = 0
    queries_per_day: int = 0
    egress_bytes_per_day: int = 0

    def of(self, counter: Counter) -> int:
        if counter == "hour":
            return self.queries_per_hour
        return self.queries_per_day if counter == "day" else self.egress_bytes_per_day


@dataclass(frozen=True, slots=True)
class Window:
    """One budget now: its limit, what is used and what is left of it, and when there is room again (UTC)."""

    limit: int
    used: int
    remaining: int
    resets_at: datetime


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left of each budget; None where the policy sets none.

    `hour`, `day` and `egress` say more of the same: limit, used, remaining, resets_at.
    """

    queries_this_hour: int | None = None
    queries_today: int | None = None
    egress_bytes_today: int | None = None
    hour: Window | None = None
    day: Window | None = None
    egress: Window | None = None


class Overrun(Exception):
    """A budget is used up, or has no room for all statements of a text: which one, its limit, and when there is room again."""

    def __init__(self, counter: Counter, limit: int, resets_at: datetime, count: int = 1) -> None:
        super().__init__(counter)
        self.counter: Counter = counter
        self.limit = limit
        self.resets_at = resets_at
        self.count = count

    @property
    def reason(self) -> str:
        """One sentence for a person or a model."""
        when = self.resets_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        is_so = (
            "is used up" if self.count == 1 else f"has no room for the {self.count} statements of this text"
        )
        if self.counter == "hour":
            return f"the budget of {self.limit} queries per hour {is_so}; there is room again at {when}"
        what = "queries" if self.counter == "day" else "bytes of results"
        return f"the budget of {self.limit} {what} per day {is_so}; it starts anew at {when}"


class Budget:
    """The budgets of one policy for one agent, on one store."""

    __slots__ = ("_per_day", "_spend_bytes", "_spend_query", "key", "limits", "store")

    def __init__(self, store: BudgetStore, key: str, limits: BudgetLimits) -> None:
        self.store = store
        self.key = key
        self.limits = limits
        self._spend_query = partial(store.spend_query, key, limits.queries_per_hour, limits.queries_per_day)
        self._spend_bytes = partial(store.spend_bytes, key)
        self._per_day = limits.egress_bytes_per_day

    def charge_query(self, count: int = 1) -> None:
        """Count a statement, or the several of one text.

        Raises:
            Overrun: it would be one too many; then nothing is counted.
        """
        counter = self._spend_query() if count == 1 else self._spend_query(count)
        if counter is not None:
            raise self._overrun(counter, count)

    def charge_bytes(self, amount: int) -> None:
        """Count bytes that are about to be handed out.

        Raises:
            Overrun: they do not fit any more; then nothing is counted.
        """
        limit = self._per_day
        if limit and not self._spend_bytes(amount, limit):
            raise self._overrun("egress")

    def no_egress_left(self) -> Overrun:
        """That bytes do not fit, without asking the store."""
        return Overrun("egress", self._per_day, midnight_after(time.time()))

    def _overrun(self, counter: Counter, count: int = 1) -> Overrun:
        limit = self.limits.of(counter)
        return Overrun(counter, limit, self.store.resets_at(counter, self.key, limit), count)

    def remaining(self) -> Remaining:
        """What is left of each budget."""

        def window(counter: Counter) -> Window | None:
            limit = self.limits.of(counter)
            if not limit:
                return None
            left = self.store.remaining(counter, self.key, limit)
            return Window(limit, limit - left, left, self.store.resets_at(counter, self.key, limit))

        hour, day, egress = window("hour"), window("day"), window("egress")
        left = [each.remaining if each is not None else None for each in (hour, day, egress)]
        return Remaining(left[0], left[1], left[2], hour, day, egress)

    def settle(self, owed: int) -> int:
        """Count bytes that have been handed out, whatever is left; how many may still be."""
        if owed:
            self._spend_bytes(owed, _WHATEVER)
        return self.store.remaining("egress", self.key, self._per_day)
