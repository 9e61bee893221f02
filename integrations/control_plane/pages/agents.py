"""The pages of agents: who they are, the kill switch, their keys, what they did."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import func, select

from ..api.access import ServerDep
from ..errors import ApiError, InvalidRequest
from ..state import Server
from ..store import activity, agents, keys, policies
from ..store.tables import Agent, Key, LoggedDecision
from .rendering import page
from .session import AdminForm, AnyVisitor, Form, Visitor

router = APIRouter(prefix="/ui", include_in_schema=False)
_MAX_SHOWN = 500
#: The chart, in units of its own.
_WIDTH, _HEIGHT, _GAP = 480, 96, 4


@router.get("/agents")
def index(who: AnyVisitor, server: ServerDep) -> Response:
    """The project's agents."""
    return _list(server, who)


def _list(server: Server, who: Visitor, problem: str = "", status: int = 200) -> Response:
    project = who.principal.project_id
    with server.database.read() as session:
        found = agents.page(session, project, _MAX_SHOWN, None)
        profiles = policies.page(session, project, _MAX_SHOWN, None)
        used: dict[str, Any] = {
            agent_id: moment
            for agent_id, moment in session.execute(
                select(Key.agent_id, func.max(Key.last_used_at))
                .where(Key.project_id == project, Key.agent_id.is_not(None))
                .group_by(Key.agent_id)
            )
            if agent_id is not None
        }
    names = {each.id: each.name for each in profiles}
    return page(
        "agents.html", who, status, agents=found, policies=profiles, names=names, used=used, problem=problem
    )


@router.post("/agents")
def create(who: AdminForm, server: ServerDep, form: Form) -> Response:
    """A new agent; its key is shown on the page that follows, and never again."""
    name = str(form.get("name", "")).strip()
    try:
        if not 1 <= len(name) <= 128 or not name.isprintable():
            raise InvalidRequest("A name has 1 to 128 characters that can be seen.")
        with server.database.write() as session:
            agent = agents.create(
                session,
                who.principal.project_id,
                name,
                str(form.get("policy_id", "")),
                actor=who.principal.actor,
                limit=server.settings.max_agents,
            )
            _, text = keys.create_key(
                session,
                server.secret,
                agent.project_id,
                name,
                "agent",
                actor=who.principal.actor,
                agent_id=agent.id,
            )
    except ApiError as ex:
        return _list(server, who, ex.message, ex.status)
    return _agent(server, who, agent.id, key=text)


@router.get("/agents/{agent_id}")
def show(agent_id: str, who: AnyVisitor, server: ServerDep) -> Response:
    """One agent."""
    return _agent(server, who, agent_id)


def _agent(server: Server, who: Visitor, agent_id: str, key: str = "") -> Response:
    with server.database.read() as session:
        agent = agents.find(session, who.principal.project_id, agent_id)
        policy = policies.find(session, agent.project_id, agent.policy_id)
        refused = session.scalars(
            select(LoggedDecision)
            .where(LoggedDecision.agent_id == agent.id, LoggedDecision.verdict == "block")
            .order_by(LoggedDecision.id.desc())
            .limit(20)
        ).all()
        summary = activity.summary(session, agent)
        hours = activity.verdicts_by_hour(session, agent)
    return page(
        "agent.html",
        who,
        agent=agent,
        policy=policy,
        profiles=_profiles(server, who),
        key=key,
        summary=summary,
        budgets=_budgets(policy.document, summary),
        refused=[activity.wire(each) for each in refused],
        hours=hours,
        bars=_bars(hours),
        chart={"width": _WIDTH, "height": _HEIGHT},
    )


def _profiles(server: Server, who: Visitor) -> Any:
    with server.database.read() as session:
        return policies.page(session, who.principal.project_id, _MAX_SHOWN, None)


def _budgets(document: dict[str, Any], summary: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, words in (("queries_per_hour", "this hour"), ("queries_per_day", "today")):
        limit, left = document.get(f"budget_{name}") or 0, summary["budget_left"][name]
        if limit:
            found.append({"words": words, "limit": limit, "left": left, "spent": limit - left})
    return found


def _bars(hours: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The rectangles of the chart: passed below, refused on top."""
    most = max((each["passed"] + each["refused"] for each in hours), default=0) or 1
    step = _WIDTH / len(hours)
    bars = []
    for index, each in enumerate(hours):
        passed, refused = (_HEIGHT * each[name] / most for name in ("passed", "refused"))
        bars.append(
            {
                "x": round(index * step + _GAP / 2, 2),
                "width": round(step - _GAP, 2),
                "passed": round(passed, 2),
                "passed_y": round(_HEIGHT - passed, 2),
                "refused": round(refused, 2),
                "refused_y": round(_HEIGHT - passed - refused, 2),
            }
        )
    return bars


@router.post("/agents/{agent_id}")
def change(agent_id: str, who: AdminForm, server: ServerDep, form: Form) -> Response:
    """Switch an agent off or on, bind it to another profile, or give it a new key, by the button that was pressed."""
    action = str(form.get("action", ""))
    text = ""
    with server.database.write() as session:
        agent: Agent = agents.find(session, who.principal.project_id, agent_id)
        if action in ("disable", "enable"):
            status = "disabled" if action == "disable" else "active"
            agents.update(session, agent, actor=who.principal.actor, status=status)
        elif action == "bind":
            agents.update(session, agent, actor=who.principal.actor, policy_id=str(form.get("policy_id", "")))
        elif action == "rotate":
            overlap = timedelta(hours=1) if form.get("overlap") else timedelta(0)
            _, text = keys.rotate_agent(
                session, server.secret, agent, overlap=overlap, actor=who.principal.actor
            )
        elif action == "delete":
            agents.delete(session, agent, actor=who.principal.actor)
            return RedirectResponse("/ui/agents", 303)
        else:
            raise InvalidRequest("This page has no such button.")
    if text:
        return _agent(server, who, agent_id, key=text)
    return RedirectResponse(f"/ui/agents/{agent_id}", 303)
