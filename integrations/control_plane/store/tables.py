"""The tables. A change here needs a step in `migrations/versions`; a test compares the two."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from .columns import Json, Moment

Identifier = String(80)
#: SQLite counts up only what is called INTEGER there.
Sequence = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    # Named constraints can be changed by a later migration on both databases.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Project(Base):
    """Keys, profiles and agents belong to one project; nothing is seen across projects."""

    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime] = mapped_column(Moment)


class Policy(Base):
    """A profile as it is now. `document` is the body it was stored with, in full."""

    __tablename__ = "policies"
    __table_args__ = (UniqueConstraint("project_id", "name"),)
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(128))
    version: Mapped[int]
    document: Mapped[Any] = mapped_column(Json)
    created_at: Mapped[datetime] = mapped_column(Moment)
    updated_at: Mapped[datetime] = mapped_column(Moment)


class PolicyVersion(Base):
    """Every version that a profile has had, the present one included."""

    __tablename__ = "policy_versions"
    policy_id: Mapped[str] = mapped_column(ForeignKey("policies.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    document: Mapped[Any] = mapped_column(Json)
    changed_at: Mapped[datetime] = mapped_column(Moment)
    changed_by: Mapped[str] = mapped_column(String(200))


class Agent(Base):
    """An agent: bound to one profile, and switched off by its status."""

    __tablename__ = "agents"
    __table_args__ = (UniqueConstraint("project_id", "name"),)
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(128))
    policy_id: Mapped[str] = mapped_column(ForeignKey("policies.id"), index=True)
    status: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(Moment)
    updated_at: Mapped[datetime] = mapped_column(Moment)


class Key(Base):
    """An API key: a keyed hash of it, never the key."""

    __tablename__ = "keys"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(128))
    role: Mapped[str] = mapped_column(String(16))
    #: may make further projects
    owner: Mapped[bool]
    agent_id: Mapped[str | None] = mapped_column(ForeignKey("agents.id", ondelete="CASCADE"), index=True)
    digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(Moment)
    expires_at: Mapped[datetime | None] = mapped_column(Moment)
    last_used_at: Mapped[datetime | None] = mapped_column(Moment)


class Session(Base):
    """A signed-in browser. The cookie's value is kept as a hash."""

    __tablename__ = "sessions"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("keys.id", ondelete="CASCADE"), index=True)
    csrf: Mapped[str] = mapped_column(String(64))
    expires_at: Mapped[datetime] = mapped_column(Moment)


class Approval(Base):
    """A statement that waits, or waited, for a person."""

    __tablename__ = "approvals"
    __table_args__ = (Index(None, "project_id", "status"),)
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    agent_id: Mapped[str | None] = mapped_column(Identifier)
    status: Mapped[str] = mapped_column(String(16))
    #: sql, kind, tables, rows, findings and whatever else the approver is shown
    request: Mapped[Any] = mapped_column(Json)
    requested_at: Mapped[datetime] = mapped_column(Moment)
    expires_at: Mapped[datetime | None] = mapped_column(Moment)
    decided_at: Mapped[datetime | None] = mapped_column(Moment)
    decided_by: Mapped[str | None] = mapped_column(String(200))
    reason: Mapped[Any] = mapped_column(Json, nullable=True)
    #: what the session reported after it ran
    outcome: Mapped[Any] = mapped_column(Json, nullable=True)


class CatalogSnapshot(Base):
    """What the project's database holds, so that evaluations judge as its live sessions do."""

    __tablename__ = "catalogs"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    document: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(String(64))
    pushed_at: Mapped[datetime] = mapped_column(Moment)
    pushed_by: Mapped[str] = mapped_column(String(200))


class ActionPolicy(Base):
    """The action policy of one customer of a project."""

    __tablename__ = "action_policies"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    customer_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    document: Mapped[Any] = mapped_column(Json)
    updated_at: Mapped[datetime] = mapped_column(Moment)


class LoggedDecision(Base):
    """A decision that an agent's session reported."""

    __tablename__ = "decisions"
    __table_args__ = (Index(None, "agent_id", "at"),)
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    agent_id: Mapped[str] = mapped_column(Identifier)
    at: Mapped[datetime] = mapped_column(Moment)
    verdict: Mapped[str] = mapped_column(String(16))
    rule: Mapped[str] = mapped_column(String(64))
    entry: Mapped[Any] = mapped_column(Json)


class Event(Base):
    """What event streams tell. `topic` is the identifier of the thing that it is about."""

    __tablename__ = "events"
    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    topic: Mapped[str] = mapped_column(Identifier)
    kind: Mapped[str] = mapped_column(String(40))
    data: Mapped[Any] = mapped_column(Json)
    at: Mapped[datetime] = mapped_column(Moment)


class AuditEntry(Base):
    """Who changed what. Each entry's digest covers the one before it, so that none can be taken out unseen."""

    __tablename__ = "audit"
    seq: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    at: Mapped[datetime] = mapped_column(Moment)
    actor: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(60))
    object_id: Mapped[str] = mapped_column(String(200))
    detail: Mapped[Any] = mapped_column(Json)
    previous: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))


class Webhook(Base):
    """Where a project's events are sent."""

    __tablename__ = "webhooks"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[Any] = mapped_column(Json)
    format: Mapped[str] = mapped_column(String(16))
    secret: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(Moment)


class Delivery(Base):
    """One event on its way to one webhook."""

    __tablename__ = "deliveries"
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"), index=True)
    event: Mapped[str] = mapped_column(String(40))
    payload: Mapped[Any] = mapped_column(Json)
    attempts: Mapped[int]
    #: when to try next; null: delivered, or given up
    next_at: Mapped[datetime | None] = mapped_column(Moment, index=True)
    delivered_at: Mapped[datetime | None] = mapped_column(Moment)
    error: Mapped[str | None] = mapped_column(Text)


class ServerSetting(Base):
    """What the servers of one database share."""

    __tablename__ = "server_settings"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class RateCounter(Base):
    """Requests of one key in one window, where several servers count together."""

    __tablename__ = "rate_counters"
    bucket: Mapped[str] = mapped_column(String(200), primary_key=True)
    window: Mapped[int] = mapped_column(primary_key=True)
    count: Mapped[int]
