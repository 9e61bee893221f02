"""Who listens to what: new rows of the events table, handed to the open streams of this server.

On PostgreSQL several servers share the table and wake each other with NOTIFY; on SQLite there is one server, which
wakes itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import psycopg
from sqlalchemy import func, select

from .store.database import AWAY, CHANNEL, Database
from .store.tables import Event

logger = logging.getLogger("guarddb.control_plane")

#: Events that a stream may be behind; one that is further behind is closed, and its client comes back.
BACKLOG = 1_000
#: Seconds after which the table is looked at even if nobody woke us.
LOOK_ANYWAY = 2.0


@dataclass(frozen=True)
class Told:
    """An event as streams get it."""

    seq: int
    project_id: str
    topic: str
    kind: str
    data: dict[str, Any]

    @cached_property
    def message(self) -> bytes:
        """What is sent: the same bytes to every stream."""
        return f"id: {self.seq}\nevent: {self.kind}\ndata: {json.dumps(self.data)}\n\n".encode()


@dataclass(eq=False)
class Subscription:
    """One open stream: what it wants to hear, and what it has not yet sent. None in the queue: it is closed."""

    project_id: str
    wants: Callable[[Told], bool]
    queue: asyncio.Queue[Told | None] = field(default_factory=lambda: asyncio.Queue(BACKLOG))


class Broker:
    """Reads new events and hands them out. `start` and `stop` belong to the server's event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._seq = 0
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = threading.Event()
        self._listener: threading.Thread | None = None

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return sum(map(len, self._subscriptions.values()))

    async def start(self) -> None:
        """Begin with what comes after this moment."""
        self._loop = asyncio.get_running_loop()
        self._seq = await asyncio.to_thread(self._newest)
        self._database.after_write = self.wake
        self._task = asyncio.create_task(self._run())
        if self._database.shared:
            self._listener = threading.Thread(target=self._listen, name="guarddb-listen", daemon=True)
            self._listener.start()

    async def stop(self) -> None:
        """Close every stream."""
        self._stopping.set()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._close_all()
        if self._listener is not None:
            await asyncio.to_thread(self._listener.join, 5)

    def wake(self) -> None:
        """Something was committed. From any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)

    def subscribe(self, project_id: str, wants: Callable[[Told], bool]) -> Subscription:
        """A new stream, from now on; one that is closed, where the server is about to stop."""
        subscription = Subscription(project_id, wants)
        if self._stopping.is_set():
            self._close(subscription)
            return subscription
        self._subscriptions.setdefault(project_id, set()).add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """The stream is gone."""
        if group := self._subscriptions.get(subscription.project_id):
            group.discard(subscription)
            if not group:
                del self._subscriptions[subscription.project_id]

    def since(self, project_id: str, seq: int) -> list[Told]:
        """What the project's streams were told after `seq`."""
        query = select(Event).where(Event.project_id == project_id, Event.seq > seq).order_by(Event.seq)
        with self._database.read() as session:
            return [_told(event) for event in session.scalars(query.limit(BACKLOG))]

    def _newest(self) -> int:
        with self._database.read() as session:
            return session.scalar(select(func.max(Event.seq))) or 0

    def knows(self, seq: int) -> bool:
        """Whether there can have been an event with that number: not after the database was put back from a copy."""
        return seq <= self._newest()

    def _unread(self) -> list[Told] | None:
        """What is new; None: the numbers have gone back."""
        query = select(Event).where(Event.seq > self._seq).order_by(Event.seq).limit(BACKLOG)
        with self._database.read() as session:
            found = [_told(event) for event in session.scalars(query)]
        return None if not found and self._newest() < self._seq else found

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_ANYWAY):
                    await self._news.wait()
            self._news.clear()
            try:
                told = await asyncio.to_thread(self._unread)
            except AWAY as ex:
                logger.warning("the events wait: the database does not answer (%s)", type(ex).__name__)
                await asyncio.sleep(1)
                continue
            except Exception:
                logger.exception("the events cannot be read")
                await asyncio.sleep(1)
                continue
            if told is None:
                # Another database stands where the one was that was read: whoever listens comes back and asks anew.
                logger.warning("the events have been put back; every stream is closed")
                self._seq = await asyncio.to_thread(self._newest)
                self._close_all()
                continue
            for event in told:
                self._seq = event.seq
                for subscription in tuple(self._subscriptions.get(event.project_id, ())):
                    self._hand(subscription, event)
            if len(told) == BACKLOG:
                self._news.set()

    def _hand(self, subscription: Subscription, event: Told) -> None:
        if not subscription.wants(event):
            return
        try:
            subscription.queue.put_nowait(event)
        except asyncio.QueueFull:
            self._close(subscription)

    def _close_all(self) -> None:
        for subscription in [each for group in self._subscriptions.values() for each in group]:
            self._close(subscription)

    def _close(self, subscription: Subscription) -> None:
        self.unsubscribe(subscription)
        while not subscription.queue.empty():
            subscription.queue.get_nowait()
        subscription.queue.put_nowait(None)

    def _listen(self) -> None:
        """Wake this server when another one has written."""
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self._database.libpq_dsn(), autocommit=True) as conn:
                    conn.execute(f"LISTEN {CHANNEL}")
                    self.wake()  # what was told while nobody listened
                    while not self._stopping.is_set():
                        for _ in conn.notifies(timeout=1, stop_after=1):
                            self.wake()
            except psycopg.Error as ex:
                if not self._stopping.is_set():
                    logger.warning("LISTEN was interrupted (%s); trying again", type(ex).__name__)
                    self._stopping.wait(1)


def _told(event: Event) -> Told:
    return Told(event.seq, event.project_id, event.topic, event.kind, event.data)
