"""Profiles: full replacement, every version kept, and nobody's change lost to somebody else's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from guarddb import PolicyProfile

from ..errors import Conflict, Forbidden, NotFound, PreconditionFailed
from ..identifiers import new_id
from . import rows
from .columns import now, rfc3339
from .journal import announce, record
from .tables import Agent, Policy, PolicyVersion

#: Fields of a stored profile that are no part of what it asks for.
STORED_FIELDS = ("id", "project_id", "created_at", "updated_at")


def document_of(profile: PolicyProfile) -> dict[str, Any]:
    """The profile's body in full, defaults included; `guarddb` only where it says something."""
    document = profile.model_dump(mode="json", exclude=set(STORED_FIELDS))
    if profile.guarddb == type(profile.guarddb)():
        del document["guarddb"]
    return document


def etag(policy: Policy) -> str:
    """The entity tag of the present version."""
    return f'"{policy.id}.{policy.version}"'


def wire(policy: Policy) -> dict[str, Any]:
    """The stored profile as the API shows it."""
    return {
        "id": policy.id,
        "project_id": policy.project_id,
        **policy.document,
        "created_at": rfc3339(policy.created_at),
        "updated_at": rfc3339(policy.updated_at),
    }


def find(session: Session, project_id: str, policy_id: str) -> Policy:
    """The project's profile with that identifier. Raises NotFound."""
    return rows.find(session, Policy, "pol", "policy", project_id, policy_id)


def page(session: Session, project_id: str, size: int, after: str | None) -> Sequence[Policy]:
    """Up to `size` profiles, oldest first, those after the one with the identifier `after`."""
    return rows.page(session, select(Policy).where(Policy.project_id == project_id), Policy.id, size, after)


def create(
    session: Session, project_id: str, profile: PolicyProfile, *, actor: str, limit: int = 0
) -> Policy:
    """Store a new profile. Raises Conflict when its name is taken, Forbidden when the project is full."""
    if limit and (session.scalar(_count(project_id)) or 0) >= limit:
        raise Forbidden(f"this server allows {limit} policies in a project", "limit_reached")
    moment = now()
    policy = Policy(
        id=new_id("pol"),
        project_id=project_id,
        name=profile.name,
        version=1,
        document=document_of(profile),
        created_at=moment,
        updated_at=moment,
    )
    _store(session, policy, actor)
    record(session, project_id, actor, "policy.create", policy.id, {"name": policy.name, "version": 1})
    return policy


def _count(project_id: str) -> Any:
    return select(func.count()).select_from(Policy).where(Policy.project_id == project_id)


def replace(
    session: Session, policy: Policy, profile: PolicyProfile, *, actor: str, if_match: str | None = None
) -> Policy:
    """Put `profile` in the place of what the policy holds; a new version even when nothing differs.

    Raises:
        PreconditionFailed: `if_match` names another version than the present one.
        Conflict: another profile has the name.
    """
    _unchanged(policy, if_match)
    policy.name = profile.name
    policy.document = document_of(profile)
    policy.version += 1
    # Later than the one before also where another server's clock is ahead: sessions take no signed profile that is older.
    policy.updated_at = max(now(), policy.updated_at + timedelta(microseconds=1))
    _store(session, policy, actor)
    detail = {"name": policy.name, "version": policy.version}
    record(session, policy.project_id, actor, "policy.update", policy.id, detail)
    announce(
        session,
        policy.project_id,
        policy.id,
        "policy_updated",
        {"policy_id": policy.id, "version": policy.version, "etag": etag(policy)},
    )
    return policy


def _unchanged(policy: Policy, if_match: str | None) -> None:
    if if_match is not None and not matches(if_match, etag(policy)):
        raise PreconditionFailed(
            f"policy {policy.id} is at version {policy.version} now; read it again and repeat the change"
        )


def _store(session: Session, policy: Policy, actor: str) -> None:
    taken = select(Policy.id).where(
        Policy.project_id == policy.project_id, Policy.name == policy.name, Policy.id != policy.id
    )
    with session.no_autoflush:
        if (other := session.scalar(taken)) is not None:
            raise Conflict(f'policy {other} has the name "{policy.name}" already')
    session.add(policy)
    session.flush()
    session.add(
        PolicyVersion(
            policy_id=policy.id,
            version=policy.version,
            document=policy.document,
            changed_at=policy.updated_at,
            changed_by=actor,
        )
    )
    session.flush()


def delete(session: Session, policy: Policy, *, actor: str, if_match: str | None = None) -> None:
    """Remove a profile that no agent is bound to. Raises Conflict, or PreconditionFailed as `replace` does."""
    _unchanged(policy, if_match)
    users = session.scalars(select(Agent.id).where(Agent.policy_id == policy.id).limit(3)).all()
    if users:
        raise Conflict(f"policy {policy.id} is in use by {', '.join(users)}; bind them to another one first")
    record(session, policy.project_id, actor, "policy.delete", policy.id, {"name": policy.name})
    announce(session, policy.project_id, policy.id, "policy_deleted", {"policy_id": policy.id})
    try:
        session.delete(policy)
        session.flush()
    except IntegrityError:
        raise Conflict(f"policy {policy.id} is in use") from None


def versions(session: Session, policy: Policy) -> Sequence[PolicyVersion]:
    """Every version, newest first."""
    query = select(PolicyVersion).where(PolicyVersion.policy_id == policy.id)
    return session.scalars(query.order_by(PolicyVersion.version.desc())).all()


def version(session: Session, policy: Policy, number: int) -> PolicyVersion:
    """One version. Raises NotFound."""
    found = session.get(PolicyVersion, (policy.id, number)) if 0 < number < 2**31 else None
    if found is None:
        raise NotFound(f"policy {policy.id} has no version {number}")
    return found


def matches(header: str, tag: str) -> bool:
    """Whether an If-Match or If-None-Match header names `tag`."""
    if header.strip() == "*":
        return True
    return tag in {each.strip().removeprefix("W/") for each in header.split(",")}
