"""The pages of profiles: list, editor with a dry evaluation beside it, versions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import FormData

from guarddb import PolicyError, PolicyProfile

from ..api.access import ServerDep
from ..api.evaluations import judge
from ..api.policies import read_profile
from ..changes import changes
from ..errors import ApiError, InvalidRequest
from ..state import Server
from ..store import policies
from ..store.tables import Agent, Policy
from . import forms
from .rendering import page
from .session import AdminForm, AnyForm, AnyVisitor, Form, Visitor

router = APIRouter(prefix="/ui", include_in_schema=False)
_SAMPLE = "SELECT * FROM customers"
_MAX_SHOWN = 500


@router.get("/policies")
def index(who: AnyVisitor, server: ServerDep) -> Response:
    """The project's profiles."""
    with server.database.read() as session:
        found = policies.page(session, who.principal.project_id, _MAX_SHOWN, None)
        in_use = {
            agent.policy_id
            for agent in session.query(Agent).where(Agent.project_id == who.principal.project_id)
        }
    return page("policies.html", who, policies=found, in_use=in_use)


@router.get("/policies/new")
def new(who: AnyVisitor, server: ServerDep) -> Response:
    """An empty editor."""
    document = policies.document_of(PolicyProfile.draft({}))
    return _editor(server, who, {**document, "name": ""}, None)


@router.get("/policies/{policy_id}")
def edit(policy_id: str, who: AnyVisitor, server: ServerDep) -> Response:
    """The editor of one profile."""
    with server.database.read() as session:
        policy = policies.find(session, who.principal.project_id, policy_id)
    return _editor(server, who, policy.document, policy)


def _editor(
    server: Server,
    who: Visitor,
    document: dict[str, Any],
    policy: Policy | None,
    *,
    sql: str = _SAMPLE,
    problem: str = "",
    saved: bool = False,
    status: int = 200,
) -> Response:
    return page(
        "policy.html",
        who,
        status,
        policy=policy,
        etag=policies.etag(policy) if policy else "",
        problem=problem,
        saved=saved,
        **forms.fields(document),
        **_verdict(server, who, document, sql),
    )


def _verdict(server: Server, who: Visitor, document: dict[str, Any], sql: str) -> dict[str, Any]:
    project = who.principal.project_id
    nothing = {"decision": None, "draft_problem": "", "sql": sql, "with_catalog": False}
    if not sql.strip():
        return {**nothing, "draft_problem": "Write a statement to see what would become of it."}
    if len(sql) > 100_000:
        return {**nothing, "draft_problem": "A statement has at most 100,000 characters."}
    try:
        profile = PolicyProfile.draft({**document, "name": document.get("name") or None})
    except PolicyError as ex:
        return {**nothing, "draft_problem": str(ex)}
    texts = dict.fromkeys(("hint", "try_sql", "row_filter_predicate", "rewritten_sql"), "")
    catalog = server.recall.read_catalog(project)
    decision = {**texts, **judge(server, sql, profile, catalog).to_dict()}
    return {**nothing, "decision": decision, "with_catalog": catalog is not None}


@router.post("/evaluate")
def evaluate(who: AnyForm, server: ServerDep, form: Form) -> Response:
    """What would become of a statement under the profile as it stands in the editor; a piece of the page."""
    sql = _sql(form)
    try:
        context = _verdict(server, who, forms.document(form), sql)
    except InvalidRequest as ex:
        context = {"decision": None, "draft_problem": ex.message, "sql": sql, "with_catalog": False}
    return page("verdict.html", who, **context)


def _sql(form: FormData) -> str:
    # A browser sends line ends as CR LF, whatever was typed.
    return str(form.get("sql", "")).replace("\r\n", "\n")


@router.post("/policies")
def create(who: AdminForm, server: ServerDep, form: Form) -> Response:
    """Store what is in the editor as a new profile."""
    return _save(server, who, form, None)


@router.post("/policies/{policy_id}")
def save(policy_id: str, who: AdminForm, server: ServerDep, form: Form) -> Response:
    """Store what is in the editor as a new version."""
    with server.database.read() as session:
        policy = policies.find(session, who.principal.project_id, policy_id)
    return _save(server, who, form, policy)


def _save(server: Server, who: Visitor, form: FormData, policy: Policy | None) -> Response:
    document: dict[str, Any] = {"name": str(form.get("name", ""))}
    try:
        document = forms.document(form)
        if "evaluate" in form:  # the button of a browser without scripts
            return _editor(server, who, _shown(document), policy, sql=_sql(form))
        profile = read_profile(document)
        with server.database.write() as session:
            if policy is None:
                stored = policies.create(
                    session,
                    who.principal.project_id,
                    profile,
                    actor=who.principal.actor,
                    limit=server.settings.max_policies,
                )
            else:
                stored = policies.find(session, policy.project_id, policy.id)
                tag = str(form.get("etag", ""))
                policies.replace(session, stored, profile, actor=who.principal.actor, if_match=tag)
    except ApiError as ex:
        shown = _shown(document)
        return _editor(server, who, shown, policy, sql=_sql(form), problem=ex.message, status=ex.status)
    if policy is None:
        return RedirectResponse(f"/ui/policies/{stored.id}", 303)
    return _editor(server, who, stored.document, stored, sql=_sql(form), saved=True)


def _shown(document: dict[str, Any]) -> dict[str, Any]:
    """A document that may be wrong, with a value for every field that the form shows."""
    return {**policies.document_of(PolicyProfile.draft({})), **document}


@router.post("/policies/{policy_id}/delete")
def delete(policy_id: str, who: AdminForm, server: ServerDep) -> Response:
    """Remove a profile."""
    with server.database.write() as session:
        policy = policies.find(session, who.principal.project_id, policy_id)
        policies.delete(session, policy, actor=who.principal.actor)
    return RedirectResponse("/ui/policies", 303)


@router.get("/policies/{policy_id}/versions")
def versions(policy_id: str, who: AnyVisitor, server: ServerDep) -> Response:
    """Every version, with what it opened and closed."""
    with server.database.read() as session:
        policy = policies.find(session, who.principal.project_id, policy_id)
        found = policies.versions(session, policy)
    told = [
        (each, changes(before.document, each.document) if before is not None else None)
        for each, before in zip(found, [*found[1:], None], strict=True)
    ]
    return page("versions.html", who, policy=policy, versions=told)


@router.post("/policies/{policy_id}/versions/{number}/restore")
def restore(policy_id: str, number: int, who: AdminForm, server: ServerDep) -> Response:
    """Make an old version the newest one."""
    with server.database.write() as session:
        policy = policies.find(session, who.principal.project_id, policy_id)
        profile = read_profile(policies.version(session, policy, number).document)
        policies.replace(session, policy, profile, actor=who.principal.actor)
    return RedirectResponse(f"/ui/policies/{policy_id}/versions", 303)
