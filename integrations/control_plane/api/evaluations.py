"""Judging without running: evaluations of statements and lint of migrations. Pure compute."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

import guarddb
from guarddb import Catalog, Decision, PolicyError, PolicyProfile

from ..errors import Forbidden, InvalidRequest
from ..state import Server
from ..store.keys import Principal
from .access import Reader, ReaderOrAgent, ServerDep
from .policies import check_size
from .shapes import DecisionBody, EvaluationRequest, LintBody, LintRequest, failures

router = APIRouter(tags=["evaluations"])

#: Characters of a statement that is judged where it came in; a longer one goes to a thread, and others are answered meanwhile.
_SHORT = 4_000


def judge(server: Server, sql: str, profile: PolicyProfile, catalog: Catalog | None) -> Decision:
    """guarddb's decision."""
    decision: Decision = guarddb.evaluate(sql, profile, catalog)
    server.metrics.evaluation(decision.verdict, decision.rule)
    return decision


def _draft(document: dict[str, Any]) -> PolicyProfile:
    check_size(document)
    try:
        return PolicyProfile.draft(document)
    except PolicyError as ex:
        problems = [(f"policy.{path}" if path else "policy", message) for path, message in ex.problems]
        raise InvalidRequest(str(PolicyError(problems=problems))) from None


async def _profile(server: Server, caller: Principal, request: EvaluationRequest) -> PolicyProfile:
    if (request.policy_id is None) == (request.policy is None):
        raise InvalidRequest("policy_id, policy: give exactly one of them")
    if request.policy is not None:
        return await asyncio.to_thread(_draft, request.policy)
    stored = await server.recall.policy(caller.project_id, request.policy_id or "", caller.state)
    if caller.role == "agent" and caller.agent_policy_id != stored.row.id:
        raise Forbidden("an agent evaluates against the profile that it is bound to, or a draft")
    try:
        return server.recall.profile(stored.row)
    except PolicyError as ex:  # stored by a version of guarddb that took it
        raise InvalidRequest(f"policy {stored.row.id} is not valid any more: {ex}") from None


@router.post(
    "/v1/projects/{project_id}/policy-evaluations",
    operation_id="dryEvalPolicy",
    responses={200: {"model": DecisionBody}, **failures(400, 404, 413)},
)
async def evaluate(
    project_id: str, caller: ReaderOrAgent, server: ServerDep, body: EvaluationRequest
) -> Response:
    """What would happen to a statement under a stored profile or a draft. Nothing is run and nothing is kept.

    The decision is the one of a live session with the same catalog. Without a catalog snapshot of the project it may
    be stricter; then a note says so.
    """
    profile = await _profile(server, caller, body)
    catalog = await server.recall.catalog(project_id, caller.state)
    if len(body.sql) <= _SHORT and body.policy is None:
        decision = judge(server, body.sql, profile, catalog)
    else:
        decision = await asyncio.to_thread(judge, server, body.sql, profile, catalog)
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
    findings = guarddb.lint(sql, server.recall.read_catalog(project_id))
    return {
        "safe": all(finding.severity != "error" for finding in findings),
        "findings": [finding.to_dict() for finding in findings],
    }
