r"""Branches: throw-away copies of a database that a session with `write_mode: sandbox` works on.

A branch provider has two methods that a session calls, and one for whoever cleans up:

- `create(conninfo) -> Branch | str`: make a branch of the database behind `conninfo` (libpq's `keyword=value` form, complete
  with the
  role and the password that the session would have used) and say how to connect to it. A text is the branch's conninfo.
- `discard(branch) -> None`: throw it away. Called once when the connection closes. Discarding what is gone is no error.
- `list() -> Sequence[Branch]`: what there is of this provider's branches, also those that a crash has left behind.

They are sync; async connections call them in a thread. An exception of `create` refuses the connection; nothing falls back to
the source.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

logger = logging.getLogger("guarddb.branches")

BranchStatus: TypeAlias = Literal["pending", "ready", "error", "discarded"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class BranchError(RuntimeError):
    """A branch cannot be made, found or thrown away; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch.

    Attributes:
        id: `brn_…`, or the provider's own.
        conninfo: how to connect to it; empty in a list, where nobody connects.
        source: the database that it was made from, for people.
        created_at: an aware datetime, or None when the provider does not say.
        size: bytes, where they are known.
    """

    id: str
    conninfo: str = ""
    source: str = ""
    status: BranchStatus = "ready"
    created_at: datetime | None = None
    size: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The wire shape. The conninfo, which may hold a password, is not in it."""
        created = None
        if self.created_at is not None:
            created = self.created_at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return {
            "id": self.id,
            "source": self.source,
            "status": self.status,
            "created_at": created,
            "size_bytes": self.size,
        }

    def __repr__(self) -> str:
        return f"Branch(id={self.id!r}, source={self.source!r}, status={self.status!r})"


@runtime_checkable
class BranchProvider(Protocol):
    """Makes branches and throws them away; the module's text says how it is called."""

    def create(self, conninfo: str) -> Branch | str: ...

    def discard(self, branch: Branch) -> None: ...

    def list(self) -> Sequence[Branch]: ...


def new_id() -> str:
    """`brn_` and twelve characters, small letters and digits: they become part of a database's name."""
    return "brn_" + "".join(secrets.choice(_ALPHABET) for _ in range(12))


def made_by(provider: BranchProvider, conninfo: str) -> Branch:
    """A new branch of the database behind `conninfo`.

    Raises:
        BranchError: there is none; whatever the provider raised is the cause.
    """
    try:
        made: object = provider.create(conninfo)
    except BranchError:
        raise
    except Exception as ex:
        raise BranchError(f"the branch provider failed: {type(ex).__name__}: {ex}") from ex
    if isinstance(made, str):
        made = Branch(new_id(), made)
    if not isinstance(made, Branch) or not made.conninfo:
        raise BranchError(f"the branch provider gave no branch to connect to, but {made!r:.80}")
    return made


def thrown_away(provider: BranchProvider, branch: Branch) -> None:
    """Discard a branch whose session is over. A failure is logged: the branch is listed, and can be discarded by command."""
    try:
        provider.discard(branch)
    except Exception:
        logger.warning("the branch %s could not be discarded", branch.id, exc_info=True)
