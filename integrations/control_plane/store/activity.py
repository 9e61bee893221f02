"""What agents' sessions report: decisions, kept for a while and summed up per agent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ..identifiers import new_id
from . import rows
from .columns import now, rfc3339
from .tables import Agent, LoggedDecision, Policy


def store(session: Session, agent: Agent, entries: Sequence[dict[str, Any]]) -> None:
    """Keep what a session reported; what it has reported before is not kept twice."""
    given = [entry["id"] for entry in entries if entry.get("id")]
    known = (
        set(session.scalars(select(LoggedDecision.id).where(LoggedDecision.id.in_(given))))
        if given
        else set()
    )
    session.add_all(
        LoggedDecision(
            id=entry.get("id") or new_id("dec"),
            project_id=agent.project_id,
            agent_id=agent.id,
            at=entry["at"],
            verdict=entry["verdict"],
            rule=entry["rule"],
            entry={key: value for key, value in entry.items() if key not in ("id", "at", "verdict", "rule")},
        )
        for entry in {entry.get("id") or index: entry for index, entry in enumerate(entries)}.values()
        if entry.get("id") not in known
    )


def wire(decision: LoggedDecision) -> dict[str, Any]:
    """A reported decision as the API shows it."""
    return {
        **decision.entry,
        "id": decision.id,
        "at": rfc3339(decision.at),
        "verdict": decision.verdict,
        "rule": decision.rule,
    }


def page(session: Session, agent: Agent, size: int, after: str | None) -> Sequence[LoggedDecision]:
    """Up to `size` decisions, newest first."""
    query = select(LoggedDecision).where(LoggedDecision.agent_id == agent.id)
    return rows.page(session, query, LoggedDecision.id, size, after, newest_first=True)


def summary(session: Session, agent: Agent) -> dict[str, Any]:
    """Statements of today and of the last hour, refusals by rule, and what the budgets leave, as far as reported."""
    moment = now()
    today = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    hour_ago = moment - timedelta(hours=1)
    refused = (
        select(LoggedDecision.rule, func.count())
        .where(
            LoggedDecision.agent_id == agent.id, LoggedDecision.at >= today, LoggedDecision.verdict == "block"
        )
        .group_by(LoggedDecision.rule)
    )
    policy = session.get_one(Policy, agent.policy_id)
    hour, day = _passed(session, agent, hour_ago), _passed(session, agent, today)
    return {
        "statements_last_hour": hour,
        "statements_today": day,
        "refusals_today": dict(session.execute(refused).all()),
        "budget_left": {
            "queries_per_hour": _left(policy.document.get("budget_queries_per_hour", 0), hour),
            "queries_per_day": _left(policy.document.get("budget_queries_per_day", 0), day),
        },
    }


def _passed(session: Session, agent: Agent, since: datetime) -> int:
    query = (
        select(func.count())
        .select_from(LoggedDecision)
        .where(
            LoggedDecision.agent_id == agent.id, LoggedDecision.at >= since, LoggedDecision.verdict != "block"
        )
    )
    return session.scalar(query) or 0


def _left(limit: int, spent: int) -> int | None:
    return max(0, limit - spent) if limit else None


def verdicts_by_hour(session: Session, agent: Agent, hours: int = 24) -> list[dict[str, Any]]:
    """How many statements passed and were refused in each of the last hours, oldest first."""
    end = now().replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    begin = end - timedelta(hours=hours)
    counts = [{"passed": 0, "refused": 0, "at": begin + timedelta(hours=each)} for each in range(hours)]
    query = select(LoggedDecision.at, LoggedDecision.verdict).where(
        LoggedDecision.agent_id == agent.id, LoggedDecision.at >= begin, LoggedDecision.at < end
    )
    for at, verdict in session.execute(query.limit(200_000)):
        slot: dict[str, Any] = counts[int((at - begin) // timedelta(hours=1))]
        slot["refused" if verdict == "block" else "passed"] += 1
    return counts
