"""API keys and projects: made, found again by a key that is shown, rotated, withdrawn."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias, get_args

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from ..errors import Conflict
from ..identifiers import new_id
from . import rows
from .columns import now, rfc3339
from .journal import announce, record
from .tables import Agent, Key, Project, ServerSetting

Role: TypeAlias = Literal["admin", "approver", "viewer", "agent"]
ROLES: tuple[Role, ...] = get_args(Role)

#: The kind of event that says when a key ends.
KEY_ENDS = "key_ends"
#: gdk_ (guarddb key), the identifier's random part, a secret of 256 bits.
_KEY = re.compile(r"gdk_([0-9a-z]{26})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class Principal:
    """Who sends a request: a key, and what it may do."""

    key_id: str
    key_name: str
    project_id: str
    role: Role
    owner: bool
    agent_id: str | None = None
    agent_name: str | None = None
    agent_policy_id: str | None = None
    agent_status: str | None = None
    expires_at: datetime | None = None
    #: the state of the database (`Database.state`) that all this was read in, or an earlier one
    state: int = -1

    @property
    def actor(self) -> str:
        """What the audit entries call it."""
        return f"{self.key_id} ({self.key_name})"


def server_secret(session: Session) -> str:
    """The secret that the servers of this database share; made when there is none. Call it in a writing transaction."""
    setting = session.get(ServerSetting, "secret")
    if setting is None:
        setting = ServerSetting(name="secret", value=secrets.token_hex(32))
        session.add(setting)
        session.flush()
    return setting.value


def keyed_digest(secret: str, text: str) -> str:
    """HMAC-SHA-256 in hex. A slow hash would protect guessable passwords; a key has 256 random bits."""
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def create_key(
    session: Session,
    secret: str,
    project_id: str,
    name: str,
    role: Role,
    *,
    actor: str,
    owner: bool = False,
    agent_id: str | None = None,
    expires_at: datetime | None = None,
) -> tuple[Key, str]:
    """A new key and its text, which is kept nowhere."""
    key_id = new_id("key")
    text = f"gdk_{key_id.removeprefix('key_')}_{secrets.token_urlsafe(32)}"
    key = Key(
        id=key_id,
        project_id=project_id,
        name=name,
        role=role,
        owner=owner,
        agent_id=agent_id,
        digest=keyed_digest(secret, text),
        created_at=now(),
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    record(session, project_id, actor, "key.create", key_id, {"name": name, "role": role, "agent": agent_id})
    return key, text


def key_id_of(text: str) -> str | None:
    """The identifier in the text of a key, right or wrong; None: it is no text of a key."""
    match = _KEY.fullmatch(text)
    return f"key_{match[1]}" if match else None


def authenticate(session: Session, secret: str, text: str, state: int = -1) -> tuple[Key, Principal] | None:
    """The key that `text` is, and who that is; None: it is none, or has expired."""
    key_id = key_id_of(text)
    key = session.get(Key, key_id) if key_id else None
    # The digest is worked out and compared for an unknown key as well: both take the same time.
    known = key.digest if key is not None else "0" * 64
    if not hmac.compare_digest(keyed_digest(secret, text), known) or key is None:
        return None
    if key.expires_at is not None and key.expires_at <= now():
        return None
    return key, principal(session, key, state)


def principal(session: Session, key: Key, state: int = -1) -> Principal:
    """Who a key is."""
    agent = session.get(Agent, key.agent_id) if key.agent_id else None
    return Principal(
        key_id=key.id,
        key_name=key.name,
        project_id=key.project_id,
        role=key.role,  # type: ignore[arg-type]
        owner=key.owner,
        agent_id=key.agent_id,
        agent_name=agent.name if agent else None,
        agent_policy_id=agent.policy_id if agent else None,
        agent_status=agent.status if agent else None,
        expires_at=key.expires_at,
        state=state,
    )


def works_until(session: Session, key_id: str) -> datetime | None:
    """When a key ends: a moment of the past when it is withdrawn, None when it does not end."""
    key = session.get(Key, key_id)
    return key.expires_at if key is not None else datetime.min.replace(tzinfo=UTC)


def _ends(session: Session, key: Key, moment: datetime) -> None:
    """Tell the streams that were opened with a key when it ends, which is when they do."""
    announce(session, key.project_id, key.id, KEY_ENDS, {"key_id": key.id, "expires_at": rfc3339(moment)})


def find_key(session: Session, project_id: str, key_id: str) -> Key:
    """The project's key with that identifier. Raises NotFound."""
    return rows.find(session, Key, "key", "key", project_id, key_id)


def rotate(session: Session, secret: str, key: Key, *, overlap: timedelta, actor: str) -> tuple[Key, str]:
    """A new key in the place of `key`, which stays valid for `overlap`."""
    ends = now() + overlap
    if key.expires_at is not None and key.expires_at <= now():
        raise Conflict(f"key {key.id} has expired; make a new one")
    lifetime = key.expires_at - key.created_at if key.expires_at is not None else None
    created, text = create_key(
        session,
        secret,
        key.project_id,
        key.name,
        key.role,  # type: ignore[arg-type]
        actor=actor,
        owner=key.owner,
        agent_id=key.agent_id,
        expires_at=now() + lifetime if lifetime is not None else None,
    )
    key.expires_at = min(key.expires_at or ends, ends)
    _ends(session, key, key.expires_at)
    record(session, key.project_id, actor, "key.rotate", key.id, {"successor": created.id})
    return created, text


def rotate_agent(
    session: Session, secret: str, agent: Agent, *, overlap: timedelta, actor: str
) -> tuple[Key, str]:
    """A new key for an agent; those it has stay valid for `overlap`. It lasts as long as the newest one did."""
    ends = now() + overlap
    newest = session.scalar(select(Key).where(Key.agent_id == agent.id).order_by(Key.id.desc()).limit(1))
    lasts = newest.expires_at - newest.created_at if newest is not None and newest.expires_at else None
    valid = select(Key).where(Key.agent_id == agent.id, or_(Key.expires_at.is_(None), Key.expires_at > ends))
    for key in session.scalars(valid):
        key.expires_at = ends
        _ends(session, key, ends)
    created, text = create_key(
        session,
        secret,
        agent.project_id,
        agent.name,
        "agent",
        actor=actor,
        agent_id=agent.id,
        expires_at=now() + lasts if lasts is not None else None,
    )
    record(session, agent.project_id, actor, "agent.rotate", agent.id, {"successor": created.id})
    return created, text


def delete_key(session: Session, key: Key, *, actor: str) -> None:
    """Withdraw a key at once. The last admin key of a project stays: nobody could make another."""
    if key.role == "admin":
        usable = or_(Key.expires_at.is_(None), Key.expires_at > now())
        others = select(Key.id).where(
            Key.project_id == key.project_id, Key.role == "admin", Key.id != key.id, usable
        )
        if session.scalar(others.limit(1)) is None:
            raise Conflict("this is the last admin key of the project; make another one first")
    record(session, key.project_id, actor, "key.delete", key.id, {"name": key.name})
    _ends(session, key, now())
    session.delete(key)


def create_project(session: Session, project_id: str, name: str, *, actor: str) -> Project:
    """A new project. Raises Conflict when the identifier is taken."""
    if session.get(Project, project_id) is not None:
        raise Conflict(f"there is a project {project_id} already")
    project = Project(id=project_id, name=name, created_at=now())
    session.add(project)
    session.flush()
    record(session, project_id, actor, "project.create", project_id, {"name": name})
    return project
