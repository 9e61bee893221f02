"""A profile on a control plane, followed while connections live.

One fetcher for each URL and key in a process, however many connections and pools use it. It listens to the event
stream where there is one and asks at intervals where there is none. What it has is in force until the server says
otherwise; when the server cannot be reached for longer than `max_stale`, statements are refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from guarddb.policy.errors import PolicyError
from guarddb.policy.profile import PolicyProfile
from guarddb.policy.remote import (
    SIGNING_VARIABLE,
    TIMEOUT,
    FetchError,
    Remote,
    backoff,
    headers,
    read_answer,
    read_key,
    require_httpx,
    trust,
)
from guarddb.runtime import answers, background
from guarddb.runtime.policy_source import PolicySourceError

logger = logging.getLogger("guarddb.policy")

#: Seconds between two questions where there is no stream, and for how long the last profile stays in force.
REFRESH_SECONDS: Final = 5.0
MAX_STALE_SECONDS: Final = 300.0
REFRESH_VARIABLE: Final = "GUARDDB_POLICY_REFRESH"
MAX_STALE_VARIABLE: Final = "GUARDDB_POLICY_MAX_STALE"
#: Seconds that the first fetch may take, attempts and all.
FIRST_FETCH_SECONDS: Final = 10.0
FIRST_FETCH_ATTEMPTS: Final = 4
#: With an open stream the profile is asked for all the same, once in this many intervals.
_STREAMING_FACTOR: Final = 12
#: A stream that says nothing for so long, not even that it is still there, is dead.
_STREAM_SILENCE: Final = 45.0
#: How long a server that has no streams is left alone with the question.
_NO_STREAM_SECONDS: Final = 300.0


class _InForce(NamedTuple):
    """What `current` answers from; replaced as a whole, so that no lock is needed to read it."""

    current: tuple[PolicyProfile, str] | None
    #: until when (monotonic) it may be used without news from the server
    until: float
    #: why nothing is in force: the server said so
    denied: str | None = None


class HttpPolicy:
    """The profile behind a URL, followed as it changes. The first fetch is done when it is made.

    Use `follow(url)`, which shares one among all who ask for the same.

    Args:
        url: `https://host/v1/projects/prj_…/policies/pol_…`, or `https://host/v1/projects/prj_…` for the profile that the
            key's agent is bound to.
        key: the API key; None: GUARDDB_API_KEY.
        refresh: seconds between two questions where there is no event stream; None: GUARDDB_POLICY_REFRESH, else 5.
        max_stale: seconds that the last profile stays in force without news; None: GUARDDB_POLICY_MAX_STALE, else 300.

    Raises:
        PolicyError: the URL may not be used.
        PolicySourceError: the first fetch failed.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        refresh: float | None = None,
        max_stale: float | None = None,
    ) -> None:
        require_httpx()
        self.remote = Remote.parse(url)
        self.refresh = _seconds(refresh, REFRESH_VARIABLE, REFRESH_SECONDS, least=0.05)
        self.max_stale = _seconds(max_stale, MAX_STALE_VARIABLE, MAX_STALE_SECONDS, least=0.0)
        self._key = read_key(key)
        self._etag: str | None = None
        self._complaint = ""
        self._in_force = _InForce(None, 0.0)
        self._starting = threading.Lock()
        self._follower: _Follower | None = None
        self._listeners: list[weakref.WeakMethod[Callable[[], Coroutine[Any, Any, None]]]] = []
        try:
            background.submit(self._first_fetch()).result()
        except FetchError as ex:
            raise PolicySourceError(f"the policy at {url} cannot be fetched: {ex}") from None
        except PolicyError as ex:
            raise PolicySourceError(f"the policy at {url} is not valid: {ex}") from None
        self._pid = os.getpid()
        self._start()

    def current(self) -> tuple[PolicyProfile, str]:
        """The profile in force and its version.

        Raises:
            PolicySourceError: the server has denied it (a disabled agent, a withdrawn key), or nothing was heard of the
                server for `max_stale`.
        """
        state = self._in_force
        if self._follower is None:
            self._start()  # in a forked process, where the thread is not
        if state.denied is not None:
            raise PolicySourceError(state.denied)
        if state.current is None or time.monotonic() > state.until:
            raise PolicySourceError(
                f"the policy at {self.remote.url} was not confirmed for {self.max_stale:.0f} s: "
                f"{self._complaint or 'the server does not answer'}"
            )
        return state.current

    @property
    def stale(self) -> bool:
        """Whether the server does not confirm what is in force: it cannot be reached, or what it says is no valid profile."""
        return bool(self._complaint)

    def on_denial(self, told: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Call a method, which is held weakly, in the background when the server denies the profile."""
        with self._starting:
            self._listeners = [each for each in self._listeners if each() is not None]
            self._listeners.append(weakref.WeakMethod(told))

    def __repr__(self) -> str:
        state = self._in_force.current
        return f"HttpPolicy({self.remote.url!r}, version={state[1] if state else None!r})"

    def __reduce__(self) -> Any:
        raise TypeError("a policy that is followed cannot be pickled; pass its URL")

    def close(self) -> None:
        """Stop following. What is in force stays so until it is stale."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.stop()

    def _start(self) -> None:
        with self._starting:
            if self._follower is None:
                self._follower = _Follower(self)
                weakref.finalize(self, self._follower.stop).atexit = False

    def _after_fork(self) -> None:
        self._starting = threading.Lock()
        self._follower = None

    # What the background does

    def _client(self, read_timeout: float = TIMEOUT) -> Any:
        httpx = require_httpx()
        timeout = httpx.Timeout(TIMEOUT, read=read_timeout)
        return httpx.AsyncClient(timeout=timeout, **trust(self.remote.loopback))

    async def _first_fetch(self) -> None:
        deadline = time.monotonic() + FIRST_FETCH_SECONDS
        async with self._client() as client:
            for attempt in range(FIRST_FETCH_ATTEMPTS):
                try:
                    async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                        await self.fetch(client)
                    return
                except TimeoutError:
                    raise FetchError("the server does not answer in time") from None
                except FetchError as ex:
                    wait = backoff(attempt, ex.retry_after)
                    late = time.monotonic() + wait > deadline
                    if not ex.transient or late or attempt == FIRST_FETCH_ATTEMPTS - 1:
                        raise
                await asyncio.sleep(wait)

    async def fetch(self, client: Any) -> None:
        """Ask once, and put in force what comes.

        Raises:
            FetchError: nothing came.
            PolicyError: no valid profile came, and none was there before.
        """
        answer = await answers.get(client, self.remote.profile_url, headers(self._key, self._etag))
        try:
            fetched = read_answer(*answer, self.remote)
            self._refuse_older(fetched.profile)
        except PolicyError as ex:
            if self._in_force.current is None or self._in_force.denied is not None:
                raise
            # The server is there and what it says is no profile: the last good one stays, as it does with a file.
            self._complain(f"The policy at {self.remote.url} is not valid: {ex}")
            self._confirm()
            return
        self._take(fetched.profile, fetched.etag)

    def _refuse_older(self, profile: PolicyProfile | None) -> None:
        """A signature holds for every version that the server has ever sent: somebody in between must not put one back."""
        current = self._in_force.current
        if profile is None or current is None or not os.environ.get(SIGNING_VARIABLE):
            return
        before = current[0]
        if before.id == profile.id and _moment(profile) < _moment(before):
            raise PolicyError("the signed profile is older than the one in force")

    def _take(self, profile: PolicyProfile | None, etag: str | None) -> None:
        before = self._in_force
        if self._complaint:
            logger.warning("policy %s: the server answers again", self.remote.url)
            self._complaint = ""
        if profile is None:
            if before.denied is not None and before.current is not None:
                logger.warning("policy %s: this key is let in again", self.remote.url)
            self._confirm()
            return
        self._etag = etag
        current = (profile, profile.version)
        if before.denied is not None:
            logger.warning("policy %s: this key is let in again", self.remote.url)
        elif before.current is not None and before.current[1] != current[1]:
            logger.info("policy %s: version %s of %r is in force", self.remote.url, current[1], profile.name)
        self._in_force = _InForce(current, time.monotonic() + self.max_stale)

    def _confirm(self) -> None:
        self._in_force = _InForce(self._in_force.current, time.monotonic() + self.max_stale)

    def deny(self, reason: str) -> None:
        """Nothing is in force until the server lets this key in again."""
        if self._in_force.denied is None:
            logger.error("policy %s: %s; statements are refused", self.remote.url, reason)
        told = [] if self._in_force.denied else [method() for method in self._listeners]
        self._in_force = self._in_force._replace(denied=f"the policy at {self.remote.url}: {reason}")
        for method in told:
            if method is not None:
                background.spawn(method())

    def failed(self, reason: str) -> None:
        """A question was not answered; the last profile stays for a while."""
        left = max(0.0, self._in_force.until - time.monotonic())
        self._complain(
            f"The policy at {self.remote.url} cannot be fetched: {reason}.",
            f"It stays in force for another {left:.0f} s." if left else "Statements are refused.",
        )

    def _complain(self, message: str, more: str = "The last valid version stays in force.") -> None:
        if message != self._complaint:
            self._complaint = message
            logger.error("%s %s", message, more)


class _Follower:
    """The two tasks of one HttpPolicy: one asks, one listens. It holds the policy weakly, so that it goes with the last
    connection that uses it."""

    def __init__(self, policy: HttpPolicy) -> None:
        self._policy = weakref.ref(policy)
        self._refresh = policy.refresh
        self._events_url = policy.remote.events_url
        self._news: asyncio.Event | None = None
        self._streaming = False
        self._work: Future[None] = background.submit(self._run())

    def stop(self) -> None:
        """End both tasks."""
        self._work.cancel()

    async def _run(self) -> None:
        self._news = asyncio.Event()
        policy = self._policy()
        if policy is None:
            return
        async with policy._client() as client, policy._client(_STREAM_SILENCE) as stream_client:
            del policy
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._ask(client))
                if self._events_url is not None:
                    tasks.create_task(self._listen(stream_client, self._events_url))

    async def _ask(self, client: Any) -> None:
        assert self._news is not None
        attempt = 0
        wait = self._refresh
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._news.wait()
            self._news.clear()
            policy = self._policy()
            if policy is None:
                return
            wait = self._refresh * (_STREAMING_FACTOR if self._streaming else 1)
            try:
                await policy.fetch(client)
                attempt = 0
            except FetchError as ex:
                attempt += 1
                if ex.denied:
                    policy.deny(str(ex))
                else:
                    policy.failed(str(ex))
                wait = max(min(self._refresh, backoff(attempt)), ex.retry_after or 0.0)
                if attempt > 3:
                    wait = max(wait, min(backoff(attempt), policy.max_stale / 4 or math.inf))
            except PolicyError as ex:
                policy.failed(str(ex))
            except Exception as ex:  # a fault of ours in here must not end the following
                logger.exception("policy %s: unexpected error", policy.remote.url)
                policy.failed(type(ex).__name__)
            del policy

    async def _listen(self, client: Any, url: str) -> None:
        assert self._news is not None
        httpx = require_httpx()
        last: str | None = None
        attempt = 0
        while True:
            pause = backoff(attempt := attempt + 1)
            policy = self._policy()
            if policy is None:
                return
            request = {**headers(policy._key), "Accept": "text/event-stream"}
            del policy
            if last is not None:
                request["Last-Event-ID"] = last
            try:
                async with client.stream("GET", url, headers=request) as answer:
                    if answer.status_code == 200 and "event-stream" in answer.headers.get("content-type", ""):
                        attempt = 0
                        self._streaming = True
                        # What changed between the last question and the beginning of the stream.
                        self._news.set()
                        async for field, value in answers.events(answer):
                            if field == "id":
                                last = value
                            elif field == "data":
                                self._news.set()
                    elif answer.status_code in (404, 405, 406, 501) or answer.status_code == 200:
                        pause = _NO_STREAM_SECONDS
                    else:
                        pause = max(pause, self._refresh)
            except (httpx.HTTPError, OSError):
                pass
            finally:
                if self._streaming:
                    self._streaming = False
                    self._news.set()
            await asyncio.sleep(pause)


def _moment(profile: PolicyProfile) -> datetime:
    return profile.updated_at or datetime.min.replace(tzinfo=UTC)


_lock = threading.Lock()
_followed: weakref.WeakValueDictionary[tuple[Any, ...], HttpPolicy] = weakref.WeakValueDictionary()
_opening: dict[tuple[Any, ...], threading.Lock] = {}


def follow(url: str) -> HttpPolicy:
    """The one HttpPolicy of this process for a URL and the key that is in force now.

    Raises:
        PolicyError, PolicySourceError: as `HttpPolicy`.
    """
    key = read_key() or ""
    which = (
        url,
        hashlib.sha256(key.encode()).digest(),
        os.environ.get(REFRESH_VARIABLE),
        os.environ.get(MAX_STALE_VARIABLE),
    )
    with _lock:
        policy = _followed.get(which)
        opening = _opening.setdefault(which, threading.Lock())
    if policy is not None:
        return policy
    # Those who ask for the same at the same time wait for one fetch; others do not wait at all.
    with opening:
        with _lock:
            policy = _followed.get(which)
        if policy is None:
            policy = HttpPolicy(url)
            with _lock:
                _followed[which] = policy
                _opening.pop(which, None)
    return policy


def _seconds(given: float | None, variable: str, default: float, *, least: float) -> float:
    if given is None:
        text = os.environ.get(variable, "")
        if not text:
            return default
        try:
            given = float(text)
        except ValueError:
            given = math.nan
    if not least <= given < math.inf:
        raise PolicyError(f"{variable} is a number of seconds, {least:g} or more")
    return given


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _opening.clear()
    for policy in list(_followed.values()):
        policy._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
