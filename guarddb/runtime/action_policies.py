"""Where a connection's action policy comes from while it lives: a fixed one, a file that may change, or a URL.

A new version that is not valid leaves the last good one in force and is reported to the logger `guarddb.policy`, once.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from guarddb.policy.errors import PolicyError
from guarddb.policy.load import is_url, policy_path
from guarddb.policy.remote import (
    TIMEOUT,
    FetchError,
    Remote,
    headers,
    read_key,
    require_httpx,
    trust,
)
from guarddb.risk.policy import ActionPolicy, load_action_policy
from guarddb.runtime import answers, background
from guarddb.runtime.policy_source import PolicySourceError

logger = logging.getLogger("guarddb.policy")

#: Seconds between two looks at a file, and between two questions to a server.
FILE_SECONDS: Final = 1.0
URL_SECONDS: Final = 5.0
#: How long the last policy of a server that does not answer stays in force.
MAX_STALE_SECONDS: Final = 300.0


@runtime_checkable
class ActionPolicySource(Protocol):
    """Gives the action policy in force. It is asked for every statement, from any thread."""

    def current(self) -> ActionPolicy:
        """The policy in force.

        Raises:
            PolicySourceError: there is none; statements must not run.
        """
        ...


ActionPolicyOrSource: TypeAlias = (
    ActionPolicy | Mapping[str, Any] | str | os.PathLike[str] | ActionPolicySource
)


class FixedActionPolicy:
    """One action policy, for good."""

    def __init__(self, policy: ActionPolicy) -> None:
        self._policy = policy

    def current(self) -> ActionPolicy:
        """The policy."""
        return self._policy


class ActionPolicyFile:
    """The action policy in a file, followed as the file changes.

    Raises:
        PolicyError: the file holds no valid policy now.
    """

    def __init__(self, path: str | os.PathLike[str], check_interval: float = FILE_SECONDS) -> None:
        self.path = os.path.abspath(policy_path(path))
        self.check_interval = check_interval
        self._lock = threading.Lock()
        self._seen: object = None
        self._policy = self._load()
        self._next_check = time.monotonic() + check_interval

    def current(self) -> ActionPolicy:
        """The policy in force."""
        if time.monotonic() >= self._next_check:
            self._next_check = (
                time.monotonic() + self.check_interval
            )  # others go on with what they have meanwhile
            with self._lock:
                self._refresh()
        return self._policy

    def _load(self) -> ActionPolicy:
        self._seen = self._stamp()
        return load_action_policy(self.path)

    def _stamp(self) -> object:
        try:
            stat = os.stat(self.path)
        except (OSError, ValueError):  # (it is said when the file is read)
            return None
        return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino

    def _refresh(self) -> None:
        if self._stamp() == self._seen:
            return
        try:
            self._policy = self._load()
            logger.info("action policy file %s: a new version is in force", self.path)
        except Exception as ex:  # a fault of ours in here must not become the agent's way out of a policy
            told = str(ex) if isinstance(ex, PolicyError) else type(ex).__name__
            logger.error("action policy file %s: %s The last valid version stays in force.", self.path, told)


class ActionPolicyUrl:
    """The action policy behind a URL (`https://host/policies/{customer_id}`), asked for again every few seconds.

    Args:
        key: the API key; None: GUARDDB_API_KEY.

    Raises:
        PolicyError: the URL may not be used, or what it gives is no action policy.
        PolicySourceError: it cannot be fetched.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        refresh: float = URL_SECONDS,
        max_stale: float = MAX_STALE_SECONDS,
    ) -> None:
        require_httpx()
        self.remote = Remote.parse(url)
        self.refresh, self.max_stale = refresh, max_stale
        self._key = read_key(key)
        self._complaint = ""
        self._etag: str | None = None
        self._lock = threading.Lock()
        self._asking: Future[None] | None = None
        self._policy: ActionPolicy | None = None
        self._denied = False
        self._until = self._ask_at = 0.0
        try:
            background.submit(self._fetch()).result()
        except FetchError as ex:
            raise PolicySourceError(f"the action policy at {url} cannot be fetched: {ex}") from None
        except PolicyError as ex:
            raise ex.in_file(url) from None

    def current(self) -> ActionPolicy:
        """The policy in force. Nothing waits here: news is fetched in the background."""
        now = time.monotonic()
        if now >= self._ask_at:
            with self._lock:
                if self._asking is None or self._asking.done():
                    self._ask_at = now + self.refresh
                    self._asking = background.submit(self._follow())
        policy = self._policy
        if policy is None or self._denied or now > self._until:
            raise PolicySourceError(
                f"the action policy at {self.remote.url} cannot be had: {self._complaint or 'the server does not answer'}"
            )
        return policy

    async def _follow(self) -> None:
        try:
            await self._fetch()
        except FetchError as ex:
            self._denied = ex.denied
            self._complain(str(ex))
        except PolicyError as ex:
            # The server is there, and what it has is no policy: the last good one stays, as it does with a file.
            self._until = time.monotonic() + self.max_stale
            self._complain(str(ex))
        except Exception as ex:  # whatever it is, the last policy stays until it is stale
            logger.exception("action policy %s: unexpected error", self.remote.url)
            self._complain(type(ex).__name__)

    async def _fetch(self) -> None:
        httpx = require_httpx()
        request = headers(None, self._etag if self._policy is not None else None)
        if self._key is not None:
            request["X-API-Key"] = self._key
        async with httpx.AsyncClient(timeout=TIMEOUT, **trust(self.remote.loopback)) as client:
            status, answered, body = await answers.get(client, self.remote.url, request)
        if status != 304:
            if status != 200:
                raise FetchError(f"the server answers {status}", denied=status in (401, 403, 404))
            try:
                document = json.loads(body)
            except (ValueError, RecursionError):
                raise PolicyError("the answer is not JSON") from None
            if not isinstance(document, dict):
                raise PolicyError("the answer is no action policy")
            self._policy, self._etag = load_action_policy(document), answered.get("etag")
        self._complaint, self._denied = "", False
        now = time.monotonic()
        self._until, self._ask_at = now + self.max_stale, now + self.refresh

    def _complain(self, what: str) -> None:
        if what != self._complaint:
            self._complaint = what
            logger.error("action policy %s: %s", self.remote.url, what)


def open_action_policy(policy: ActionPolicyOrSource) -> ActionPolicySource:
    """The source that `policy` stands for: a source is itself, a policy or a mapping stays, a path or URL is followed.

    Raises:
        PolicyError: it is not valid.
        PolicySourceError: it cannot be fetched.
    """
    if isinstance(policy, ActionPolicy | Mapping):
        return FixedActionPolicy(load_action_policy(policy))
    if isinstance(policy, str) and is_url(policy):
        return ActionPolicyUrl(policy)
    if isinstance(policy, str | os.PathLike):
        return ActionPolicyFile(policy)
    if isinstance(policy, ActionPolicySource) and not isinstance(policy, type):
        return policy
    raise PolicyError(
        "action_policy must be an ActionPolicy, a mapping, the path of a file, a URL or an object with a method current, "
        f"not an object of type {type(policy).__name__}"
    )
