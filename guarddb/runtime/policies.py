"""Where a connection's policy comes from while it lives: a fixed profile, a file that may change under it, or
a URL."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any, TypeAlias

from guarddb.policy.errors import PolicyError
from guarddb.policy.load import is_url, load_policy, parse_policy, policy_path, read_policy_file
from guarddb.policy.profile import PolicyProfile
from guarddb.runtime.policy_source import PolicySource

logger = logging.getLogger("guarddb.policy")

#: The environment variable that names the policy when none is passed.
POLICY_VARIABLE = "GUARDDB_POLICY"

#: A file changed within this many nanoseconds before it was read may change again without a new timestamp:
#: file systems stamp in steps of up to 2 s (FAT), so such a file is read again at the next check whatever its
#: stat says.
_FRESH_NS = 2_000_000_000


PolicyOrSource: TypeAlias = PolicyProfile | Mapping[str, Any] | str | os.PathLike[str] | PolicySource


class StaticPolicy:
    """One profile, for good. Takes what `load_policy` takes; a file is read once. Raises PolicyError."""

    def __init__(self, policy: PolicyProfile | Mapping[str, Any] | str | os.PathLike[str]) -> None:
        profile = load_policy(policy)
        self._current = (profile, profile.version)

    def current(self) -> tuple[PolicyProfile, str]:
        """The profile and its version."""
        return self._current

    def __repr__(self) -> str:
        return f"StaticPolicy({self._current[0].name!r}, version={self._current[1]!r})"


class FilePolicy:
    """The profile in a file, followed as the file changes.

    A new version that is not valid, or a file that is gone, leaves the last good profile in force and is
    reported to the logger `guarddb.policy` at level ERROR, once. Replace the file in one step (write another,
    rename it over this one): half a YAML file can be a valid, looser policy.

    Args:
        path: the file; its suffix says the format, as for `load_policy`.
        check_interval: seconds between two looks at the file; 0 looks for every statement.

    Raises:
        PolicyError: the file holds no valid profile now.
    """

    def __init__(self, path: str | os.PathLike[str], check_interval: float = 1.0) -> None:
        if not check_interval >= 0:
            raise ValueError("check_interval is a number of seconds, 0 or more")
        # Absolute now: a later chdir must not make it another file.
        self.path = os.path.abspath(policy_path(path))
        self.check_interval = check_interval
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] | None = None
        self._digest = b""
        self._read_digest = b""
        #: what was last reported, and of which bytes; None while the profile in force is the file's
        self._complaint: tuple[str, bytes] | None = None
        self._current = self._load()
        self._next_check = time.monotonic() + check_interval

    def current(self) -> tuple[PolicyProfile, str]:
        """The profile in force and its version."""
        if time.monotonic() >= self._next_check:
            if self.check_interval == 0:
                # The caller wants the file as it is now, so it waits for a thread that is at it already.
                with self._lock:
                    self._refresh()
            else:
                # First, so that others go on with the profile they have while this thread looks. (And no lock that is taken
                # without `with`: a signal's exception in between would leave the file unread for good.)
                self._next_check = time.monotonic() + self.check_interval
                with self._lock:
                    self._refresh()
        return self._current

    def _refresh(self) -> None:
        try:
            if self._stamp is not None and _stamp(os.stat(self.path)) == self._stamp:
                return
        except (OSError, ValueError):
            pass  # reading it tells what is wrong
        before = self._current
        try:
            after = self._load()
        except PolicyError as ex:
            self._complain(str(ex))
            return
        except Exception as ex:  # a fault of ours in here must not become the agent's way out of a policy
            self._complain(f"policy file {self.path}: {type(ex).__name__}")
            return
        self._complaint = None
        self._current = after
        if after[1] != before[1]:
            logger.info("policy file %s: version %s of %r is in force", self.path, after[1], after[0].name)

    def _load(self) -> tuple[PolicyProfile, str]:
        """Read the file. On a bad one the stamp is kept all the same, so that it is not parsed again until it
        changes."""
        self._stamp = None
        self._read_digest = b""
        started = time.time_ns()
        try:
            stat = os.stat(self.path)
        except (OSError, ValueError):
            stat = None
        data = read_policy_file(self.path)
        digest = self._read_digest = hashlib.sha256(data).digest()
        if stat is not None and started - max(stat.st_mtime_ns, stat.st_ctime_ns) > _FRESH_NS:
            self._stamp = _stamp(stat)
        if digest == self._digest and self._complaint is None:
            return self._current
        profile = parse_policy(data, self.path)
        self._digest = digest
        return profile, profile.version

    def _complain(self, message: str) -> None:
        complaint = (message, self._read_digest)
        if complaint != self._complaint:
            self._complaint = complaint
            logger.error(
                "%s Version %s of %r stays in force.", message, self._current[1], self._current[0].name
            )

    def __repr__(self) -> str:
        return f"FilePolicy({self.path!r}, version={self._current[1]!r})"


def _stamp(stat: os.stat_result) -> tuple[int, ...]:
    return (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino, stat.st_dev)


def waits(policy: object) -> bool:
    """Whether `open_source` has to ask a server for this policy."""
    return is_url(policy if policy is not None else os.environ.get(POLICY_VARIABLE))


def open_source(policy: PolicyOrSource | None = None) -> PolicySource:
    """The source that `policy` stands for: a source is itself, a profile or a mapping stays, a path or a URL
    is followed.

    None reads the path or URL in the environment variable GUARDDB_POLICY.

    Raises:
        PolicyError: there is no policy, or it is not valid.
        PolicySourceError: it has a URL and cannot be fetched.
    """
    if policy is None:
        policy = os.environ.get(POLICY_VARIABLE)
        if not policy:
            raise PolicyError(
                "there is no policy: pass policy= (a PolicyProfile, a mapping, a path, a URL or a PolicySource) "
                f"or set the environment variable {POLICY_VARIABLE} to the path or URL of one"
            )
    if isinstance(policy, PolicyProfile | Mapping):
        return StaticPolicy(policy)
    if is_url(policy):
        from guarddb.runtime.http_policy import follow

        return follow(policy)
    if isinstance(policy, str | os.PathLike):
        return FilePolicy(policy)
    if isinstance(policy, PolicySource) and not isinstance(policy, type):
        return policy
    raise PolicyError(
        "policy must be a PolicyProfile, a mapping, the path of a file, a URL or a PolicySource "
        f"(an object with a method current), not an object of type {type(policy).__name__}"
    )
