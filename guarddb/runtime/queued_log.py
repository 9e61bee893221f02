"""Decision records written in a thread of their own, for event loops: a record is taken at once and written soon.

What may be lost is what waits when the process is killed, so it is bounded: while more records wait than the queue is long,
statements wait for room before they are sent, and are refused when there is none. A refusal is waited for: it is written before
its error is raised.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from guarddb.runtime.decision_log import DecisionLogError
from guarddb.runtime.jsonl import JsonlSink

if TYPE_CHECKING:
    from guarddb.runtime.decision_log import DecisionRecord

logger = logging.getLogger("guarddb.decisions")

#: Records that wait at the most.
QUEUE: Final = 1_000
#: Seconds that the end of the process waits for the rest to be written.
_PATIENCE: Final = 5.0


class QueuedSink:
    """A sink that waits for its store, behind a queue.

    Args:
        sink: what writes; its `on_full` says what becomes of statements while it cannot.
        size: records that wait at the most.
    """

    def __init__(self, sink: Any, size: int = QUEUE) -> None:
        self.sink = sink
        self.size = size
        self._passes = getattr(sink, "on_full", "refuse") == "pass"
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._records: deque[DecisionRecord] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        #: records taken, and written
        self._taken = self._written = 0
        self._dropped = 0
        self._asked = False

    def __call__(self, record: DecisionRecord) -> None:
        """Take a record. Never waits, never raises."""
        if self._pid != os.getpid():
            self._begin()  # the thread, and what waited, stayed with the process that was forked
        with self._changed:
            if self._passes and len(self._records) >= self.size:
                self._dropped += 1
                if self._dropped == 1:
                    logger.critical("the decision log falls behind; statements go on unlogged")
                return
            self._records.append(record)
            self._taken += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="guarddb-decisions", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    @property
    def waits(self) -> bool:
        """Whether `ready()` may wait, so that an event loop must ask it in a thread."""
        return not self._passes and (
            not self._asked
            or len(self._records) >= self.size
            or self.sink.failing
            or self._pid != os.getpid()
        )

    def ready(self) -> None:
        """Whether records can be written. It may wait, see `waits`.

        Raises:
            DecisionLogError: they cannot, and the sink's `on_full` is `refuse`.
        """
        if self._passes:
            return
        self.sink.ready()
        self._asked = True
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._records) < self.size, self.sink.timeout):
                raise DecisionLogError(f"the decision log falls behind: {len(self._records)} records wait")

    def flush(self, seconds: float | None = None) -> None:
        """Wait until what was taken is written, or could not be. `seconds`: no longer than that."""
        with self._changed:
            taken = self._taken
            self._changed.wait_for(lambda: self._written >= taken, seconds)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._records))
                record = self._records[0]
                if self._dropped:
                    lost, self._dropped = self._dropped, 0
                    logger.critical("%d records of the decision log were lost", lost)
                    self.sink.lose(lost)
            self.sink(record)  # it never raises
            with self._changed:
                self._records.popleft()
                self._written += 1
                self._changed.notify_all()


_all: WeakSet[QueuedSink] = WeakSet()
_lock = threading.Lock()


def queued(sink: Any) -> Any:
    """A sink as an event loop needs it: one that waits for its store is put behind a queue, the same one each time.

    A file has a way of its own: only its disk is waited for elsewhere.
    """
    if isinstance(sink, JsonlSink):
        return sink.on_event_loop()
    if not getattr(sink, "remote", False):
        return sink
    with _lock:
        if sink.queued is None:
            sink.queued = QueuedSink(sink, sink.queue)
        return sink.queued


@atexit.register
def _write_the_rest() -> None:
    ends = time.monotonic() + _PATIENCE
    for each in list(_all):
        each.flush(max(0.0, ends - time.monotonic()))
