"""Judging without running: evaluations of statements and lint of migrations. Pure compute."""

from __future__ import annotations

import threading
from typing import Any

from cachetools import LRUCache
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from sqlalchemy import select

import guarddb
from guarddb import Catalog, Decision, PolicyError, PolicyProfile

from ..errors import Forbidden, InvalidRequest
from ..state import Server
from ..store import policies
from ..store.keys import Principal
from ..store.tables import CatalogSnapshot, Policy
from .access import Reader, ReaderOrAgent, ServerDep
from .shapes import DecisionBody, EvaluationRequest, LintBody, LintRequest, failures

router = APIRouter(tags=["evaluations"])

# Profiles and catalogs are read once for each version: both take longer to read than a statement to judge.
_lock = threading.Lock()
_profiles: LRUCache[tuple[str, int], PolicyProfile] = LRUCache(256)
_catalogs: LRUCache[str, Catalog] = LRUCache(16)


def stored_profile(policy: Policy) -> PolicyProfile:
    """The profile in a row, as guarddb's own model."""
    key = (policy.id, policy.version)
    with _lock:
        profile = _profiles.get(key)
    if profile is None:
        profile = PolicyProfile.model_validate(policies.wire(policy))
        with _lock:
            _profiles[key] = profile
    return profile


def project_catalog(server: Server, project_id: str) -> Catalog | None:
    """The catalog snapshot of a project, if one was pushed."""
    with server.database.read() as session:
        digest = session.scalar(
            select(CatalogSnapshot.digest).where(CatalogSnapshot.project_id == project_id)
        )
        if digest is None:
            return None
        with _lock:
            catalog = _catalogs.get(digest)
        if catalog is None:
            snapshot = session.get_one(CatalogSnapshot, project_id)
            catalog = Catalog.from_json(snapshot.document)
            with _lock:
                _catalogs[snapshot.digest] = catalog
    return catalog


def judge(server: Server, project_id: str, sql: str, profile: PolicyProfile) -> Decision:
    """guarddb's decision, with the project's catalog where there is one."""
    decision: Decision = guarddb.evaluate(sql, profile, project_catalog(server, project_id))
    server.metrics.evaluation(decision.verdict, decision.rule)
    return decision


def _profile(server: Server, caller: Principal, request: EvaluationRequest) -> PolicyProfile:
    if (request.policy_id is None) == (request.policy is None):
        raise InvalidRequest("policy_id, policy: give exactly one of them")
    if request.policy is not None:
        try:
            return PolicyProfile.draft(request.policy)
        except PolicyError as ex:
            problems = [(f"policy.{path}" if path else "policy", message) for path, message in ex.problems]
            raise InvalidRequest(str(PolicyError(problems=problems))) from None
    with server.database.read() as session:
        policy = policies.find(session, caller.project_id, request.policy_id or "")
    if caller.role == "agent" and caller.agent_policy_id != policy.id:
        raise Forbidden("an agent evaluates against the profile that it is bound to, or a draft")
    return stored_profile(policy)


@router.post(
    "/v1/projects/{project_id}/policy-evaluations",
    operation_id="dryEvalPolicy",
    responses={200: {"model": DecisionBody}, **failures(400, 404, 413)},
)
def evaluate(project_id: str, caller: ReaderOrAgent, server: ServerDep, body: EvaluationRequest) -> Response:
    """What would happen to a statement under a stored profile or a draft. Nothing is run and nothing is kept.

    The decision is the one of a live session with the same catalog. Without a catalog snapshot of the project it may
    be stricter; then a note says so.
    """
    decision = judge(server, project_id, body.sql, _profile(server, caller, body))
    return JSONResponse(decision.to_dict())


@router.post(
    "/v1/projects/{project_id}/migrations:lint",
    operation_id="lintMigration",
    responses={200: {"model": LintBody}, **failures(400, 404, 413)},
)
def lint(project_id: str, _: Reader, server: ServerDep, body: LintRequest) -> Response:
    """What a migration script would lock, rewrite or lose. Nothing is run."""
    return JSONResponse(lint_script(server, project_id, body.sql))


def lint_script(server: Server, project_id: str, sql: str) -> dict[str, Any]:
    """guarddb's lint of a script, with the project's catalog where there is one, as the API shows it."""
    findings = guarddb.lint(sql, project_catalog(server, project_id))
    return {
        "safe": all(finding.severity != "error" for finding in findings),
        "findings": [finding.to_dict() for finding in findings],
    }
