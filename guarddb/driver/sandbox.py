"""`write_mode: sandbox`: the connection is made to a branch, and the branch goes with it."""

from __future__ import annotations

import os
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg as _psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from guarddb.driver.branches import DatabaseBranches
from guarddb.errors import PolicyUnavailable, refusal_message
from guarddb.runtime.branches import Branch, BranchError, BranchProvider, made_by, thrown_away
from guarddb.runtime.policy_source import PolicySourceError

if TYPE_CHECKING:
    from guarddb.driver.arguments import Attachment

#: The arguments of psycopg's connect() that are not libpq's.
_PSYCOPGS = frozenset({"autocommit", "prepare_threshold", "context", "row_factory", "cursor_factory"})


def wants_branch(attachment: Attachment) -> bool:
    """Whether the profile asks for a sandbox, and is to be obeyed.

    Raises:
        PolicyUnavailable: the profile cannot be read any more.
    """
    if attachment.observe:
        return False
    try:
        profile, _ = attachment.source.current()
    except PolicySourceError as ex:
        raise PolicyUnavailable(str(ex)) from None
    return profile.write_mode == "sandbox"


def branched(
    attachment: Attachment, args: tuple[Any, ...], arguments: dict[str, Any]
) -> tuple[Attachment, tuple[Any, ...], dict[str, Any]]:
    """A new branch of the database that psycopg's arguments mean, and the arguments to connect to that instead.

    Raises:
        PolicyUnavailable: there is no branch. Nothing is connected to the source.
    """
    arguments = dict(arguments)
    conninfo = args[0] if args else arguments.pop("conninfo", "")
    libpqs = {name: arguments.pop(name) for name in list(arguments) if name not in _PSYCOPGS}
    provider = attachment.branches or DatabaseBranches()
    try:
        branch = made_by(provider, make_conninfo(conninfo, **libpqs))
        try:
            conninfo_to_dict(branch.conninfo)
        except _psycopg.ProgrammingError:
            thrown_away(provider, branch)
            raise BranchError("what the branch provider gave is no conninfo") from None
    except BranchError as ex:
        name = attachment.source.current()[0].name
        raise PolicyUnavailable(
            refusal_message(name, f"write_mode is sandbox, and there is no branch to work on: {ex}"),
            hint="connect(branches=…) takes a provider, or the conninfo of a role that may make databases",
        ) from ex
    return replace(attachment, branch=branch, branches=provider), (branch.conninfo,), arguments


def not_used(attachment: Attachment) -> None:
    """The connection to a branch could not be made."""
    if attachment.branch is not None and attachment.branches is not None:
        thrown_away(attachment.branches, attachment.branch)


def discarding(conn: Any, attachment: Attachment) -> weakref.finalize[Any, Any] | None:
    """What throws the branch of a connection away, once: when it is closed or forgotten, or when the program ends."""
    if attachment.branch is None or attachment.branches is None:
        return None
    return weakref.finalize(conn, discard, attachment.branches, attachment.branch, os.getpid())


def discard(provider: BranchProvider, branch: Branch, process: int) -> None:
    """Throw a branch away, unless this is a child of the process that works on it."""
    if os.getpid() == process:
        thrown_away(provider, branch)
