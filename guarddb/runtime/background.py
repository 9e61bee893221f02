"""One thread with an event loop, for what goes on while nobody waits for it: following policies, sending logs.

It starts when it is first needed, ends with the process, and is made anew in a process that was forked.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

_T = TypeVar("_T")
_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
#: The loop itself holds its tasks weakly.
_spawned: set[asyncio.Task[None]] = set()


def submit(work: Coroutine[Any, Any, _T]) -> Future[_T]:
    """Run a coroutine in the background. Cancelling the future cancels it."""
    return asyncio.run_coroutine_threadsafe(work, _running())


def spawn(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine beside the one that calls this, which runs in the background itself."""
    task = asyncio.get_running_loop().create_task(work)
    _spawned.add(task)
    task.add_done_callback(_spawned.discard)


def call_soon(function: Callable[[], object]) -> None:
    """Call a function in the background, if there is one now."""
    if (loop := _loop) is not None:
        with suppress(RuntimeError):  # it was closed in between
            loop.call_soon_threadsafe(function)


def _running() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _lock:
        if _loop is None or _thread is None or not _thread.is_alive():
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_run, args=(_loop,), name="guarddb-background", daemon=True)
            _thread.start()
        return _loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@atexit.register
def stop() -> None:
    """End the thread; what runs in it is cancelled."""
    global _loop, _thread
    with _lock:
        loop, thread = _loop, _thread
        _loop = _thread = None
    if loop is not None and thread is not None and thread.is_alive():
        loop.call_soon_threadsafe(loop.stop)
        thread.join(2)


def _after_fork() -> None:
    # The thread stayed with the parent; its loop's sockets are the parent's too and must not be closed here.
    global _lock, _loop, _thread
    _lock = threading.Lock()
    _loop = _thread = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
