"""What a source of a connection's policy is, whatever it reads from."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, runtime_checkable

from guarddb.policy.profile import PolicyProfile


class PolicySourceError(RuntimeError):
    """A source has no profile to give: statements must not run."""


@runtime_checkable
class PolicySource(Protocol):
    """Gives the profile in force. It is asked for every statement, from any thread."""

    def current(self) -> tuple[PolicyProfile, str]:
        """The profile in force and its version, a short text that changes when the profile does.

        Raises:
            PolicySourceError: there is none.
        """
        ...


@runtime_checkable
class FollowedPolicy(PolicySource, Protocol):
    """A source that hears of somebody else whether its profile still holds."""

    @property
    def stale(self) -> bool:
        """Whether the profile in force is the last one that was heard of, and nobody confirms it."""
        ...

    def on_denial(self, told: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Call a method, which is held weakly, when there is no profile any more because its owner said so."""
        ...
