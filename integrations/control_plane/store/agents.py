"""Agents: bound to a profile, and switched off by their status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ..errors import Conflict, Forbidden
from ..identifiers import new_id
from . import policies, rows
from .columns import now, rfc3339
from .journal import announce, record
from .tables import Agent


def wire(agent: Agent) -> dict[str, Any]:
    """The agent as the API shows it."""
    return {
        "id": agent.id,
        "project_id": agent.project_id,
        "name": agent.name,
        "policy_id": agent.policy_id,
        "status": agent.status,
        "created_at": rfc3339(agent.created_at),
        "updated_at": rfc3339(agent.updated_at),
    }


def find(session: Session, project_id: str, agent_id: str) -> Agent:
    """The project's agent with that identifier. Raises NotFound."""
    return rows.find(session, Agent, "agt", "agent", project_id, agent_id)


def page(session: Session, project_id: str, size: int, after: str | None) -> Sequence[Agent]:
    """Up to `size` agents, oldest first, those after the one with the identifier `after`."""
    return rows.page(session, select(Agent).where(Agent.project_id == project_id), Agent.id, size, after)


def names(session: Session, project_id: str) -> dict[str, str]:
    """The names of the project's agents, by identifier."""
    found = session.execute(select(Agent.id, Agent.name).where(Agent.project_id == project_id))
    return {row.id: row.name for row in found}


def create(
    session: Session, project_id: str, name: str, policy_id: str, *, actor: str, limit: int = 0
) -> Agent:
    """A new agent. Raises NotFound (no such policy), Conflict (the name is taken), Forbidden (the project is full)."""
    policies.find(session, project_id, policy_id)
    count = select(func.count()).select_from(Agent).where(Agent.project_id == project_id)
    if limit and (session.scalar(count) or 0) >= limit:
        raise Forbidden(f"this server allows {limit} agents in a project", "limit_reached")
    _name_is_free(session, project_id, name)
    moment = now()
    agent = Agent(
        id=new_id("agt"),
        project_id=project_id,
        name=name,
        policy_id=policy_id,
        status="active",
        created_at=moment,
        updated_at=moment,
    )
    session.add(agent)
    session.flush()
    record(session, project_id, actor, "agent.create", agent.id, {"name": name, "policy": policy_id})
    return agent


def _name_is_free(session: Session, project_id: str, name: str) -> None:
    taken = session.scalar(select(Agent.id).where(Agent.project_id == project_id, Agent.name == name))
    if taken is not None:
        raise Conflict(f'agent {taken} has the name "{name}" already')


def update(
    session: Session,
    agent: Agent,
    *,
    actor: str,
    name: str | None = None,
    policy_id: str | None = None,
    status: str | None = None,
) -> None:
    """Change what is given. Raises NotFound (no such policy), Conflict (the name is taken)."""
    changes: dict[str, str] = {}
    if name is not None and name != agent.name:
        _name_is_free(session, agent.project_id, name)
        agent.name = changes["name"] = name
    if policy_id is not None and policy_id != agent.policy_id:
        policies.find(session, agent.project_id, policy_id)
        agent.policy_id = changes["policy"] = policy_id
    switched = status is not None and status != agent.status
    if status is not None and switched:
        agent.status = changes["status"] = status
    if not changes:
        return
    agent.updated_at = now()
    session.flush()
    record(session, agent.project_id, actor, "agent.update", agent.id, changes)
    kind = f"agent_{'disabled' if status == 'disabled' else 'enabled'}" if switched else "agent_updated"
    announce(session, agent.project_id, agent.id, kind, {"agent_id": agent.id, **changes})


def delete(session: Session, agent: Agent, *, actor: str) -> None:
    """Remove an agent and its keys."""
    record(session, agent.project_id, actor, "agent.delete", agent.id, {"name": agent.name})
    announce(session, agent.project_id, agent.id, "agent_disabled", {"agent_id": agent.id, "deleted": True})
    session.delete(agent)
    session.flush()
