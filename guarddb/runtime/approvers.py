"""Approvers: a callable, a control plane by its URL, and either form as the other."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from guarddb.policy.load import is_url
from guarddb.runtime.approvals import (
    Answer,
    AnyApprover,
    ApprovalRequest,
    Approver,
    ApproverLost,
    AsyncApprover,
    Outcome,
)

_T = TypeVar("_T")


class CallableApprover:
    """Asks a function: `request -> Answer | bool`. Sync."""

    def __init__(self, function: Callable[[ApprovalRequest], Answer | bool]) -> None:
        self._function = function

    def submit(self, request: ApprovalRequest) -> ApprovalRequest:
        return request

    def wait(self, request: ApprovalRequest, timeout: float | None) -> Answer:
        return _from_function(self._function(request), request)

    def report(self, request: ApprovalRequest, status: Outcome) -> None:
        pass


class AsyncCallableApprover:
    """Asks a coroutine function: `request -> Answer | bool`. It is cancelled when time is up."""

    def __init__(self, function: Callable[[ApprovalRequest], Awaitable[Answer | bool]]) -> None:
        self._function = function

    async def submit(self, request: ApprovalRequest) -> ApprovalRequest:
        return request

    async def wait(self, request: ApprovalRequest, timeout: float | None) -> Answer:
        try:
            async with asyncio.timeout(timeout):
                return _from_function(await self._function(request), request)
        except TimeoutError:
            if request.expired():
                return Answer("expired")
            raise

    async def report(self, request: ApprovalRequest, status: Outcome) -> None:
        pass


class _InThread:
    """A sync approver for async connections: each call in a thread, so that the event loop goes on."""

    def __init__(self, approver: Approver) -> None:
        self._approver = approver

    async def submit(self, request: ApprovalRequest) -> ApprovalRequest:
        return await asyncio.to_thread(self._approver.submit, request)

    async def wait(self, request: ApprovalRequest, timeout: float | None) -> Answer:
        return await asyncio.to_thread(self._approver.wait, request, timeout)

    async def report(self, request: ApprovalRequest, status: Outcome) -> None:
        await asyncio.to_thread(self._approver.report, request, status)


class _InLoop:
    """An async approver for sync connections: each call in an event loop of its own."""

    def __init__(self, approver: AsyncApprover) -> None:
        self._approver = approver

    def submit(self, request: ApprovalRequest) -> ApprovalRequest:
        return _run(self._approver.submit(request))

    def wait(self, request: ApprovalRequest, timeout: float | None) -> Answer:
        return _run(self._approver.wait(request, timeout))

    def report(self, request: ApprovalRequest, status: Outcome) -> None:
        _run(self._approver.report(request, status))


def _run(call: Coroutine[Any, Any, _T]) -> _T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(call)
    # A sync connection in a program that has a loop in this thread: a loop within a loop has to have its own.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, call).result()


def as_approver(approver: AnyApprover) -> Approver:
    """The sync form of what was given.

    Raises:
        TypeError: it is no approver and cannot be called.
    """
    given = _opened(approver)
    if _has_protocol(given):
        return _InLoop(given) if _is_async(given.wait) else cast("Approver", given)
    if _is_async(_called(given)):
        return _InLoop(AsyncCallableApprover(given))
    return CallableApprover(given)


def as_async_approver(approver: AnyApprover) -> AsyncApprover:
    """The async form of what was given.

    Raises:
        TypeError: it is no approver and cannot be called.
    """
    given = _opened(approver)
    if _has_protocol(given):
        return cast("AsyncApprover", given) if _is_async(given.wait) else _InThread(given)
    if _is_async(_called(given)):
        return AsyncCallableApprover(given)
    return _InThread(CallableApprover(given))


def _opened(approver: object) -> Any:
    """The approver behind a URL, or what was given."""
    if is_url(approver):
        from guarddb.runtime.http_approver import ControlPlaneApprover

        return ControlPlaneApprover(approver)
    return approver


def _called(given: object) -> object:
    if not callable(given):
        raise TypeError(f"an approver has submit, wait and report, or is callable; this is {given!r:.80}")
    return given


def _has_protocol(approver: Any) -> bool:
    return all(callable(getattr(approver, name, None)) for name in ("submit", "wait", "report"))


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object whose __call__ is a coroutine function
    )


def _from_function(value: object, request: ApprovalRequest) -> Answer:
    if value is True:
        return Answer("approved", request_id=request.id)
    if value is False:
        return Answer("rejected", request_id=request.id)
    if isinstance(value, Answer):
        return value
    if request.expired():
        return Answer("expired", request_id=request.id)
    raise ApproverLost(f"the approver's answer is not clear: {value!r:.80}")
