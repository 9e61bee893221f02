"""Profiles: create, list, read, replace, delete, their versions, and the one that an agent is bound to."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Response
from fastapi.responses import JSONResponse

from guarddb import PolicyError, PolicyProfile

from ..changes import changes
from ..errors import Forbidden, InvalidRequest
from ..signing import HEADER
from ..state import Server
from ..store import policies
from ..store.columns import rfc3339
from ..store.keys import Principal
from ..store.tables import Policy
from .access import Admin, AgentOnly, Reader, ReaderOrAgent, ServerDep
from .shapes import PageSize, PageToken, ProfileBody, after, failures, listed

router = APIRouter(tags=["policies"])
STORED = {"$ref": "#/components/schemas/PolicyProfile"}
_ANSWER: dict[str, Any] = {"content": {"application/json": {"schema": STORED}}}
IfNoneMatch = Annotated[str | None, Header(description="The ETag of the version that the caller has.")]


#: Bytes of a profile: sessions read no larger one.
MAX_BYTES = 1 << 20


def check_size(document: dict[str, Any]) -> None:
    """Raises InvalidRequest when no session would read a profile of that size."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise InvalidRequest(f"a profile may have at most {MAX_BYTES} bytes: sessions read no larger one")


def read_profile(body: Any, *, policy: Policy | None = None) -> PolicyProfile:
    """The profile in a request's body.

    Raises:
        InvalidRequest: it is not valid; the text names the place and what is allowed there.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a mapping of fields, sent as application/json")
    check_size(body)
    given = {name: body[name] for name in policies.STORED_FIELDS if body.get(name) is not None}
    if given and policy is None:
        raise InvalidRequest(f"{next(iter(given))}: is set by the server; leave it out")
    if policy is not None:
        # Whoever reads a profile, changes it and sends it back need not take these out.
        for name, mine in (("id", policy.id), ("project_id", policy.project_id)):
            if given.get(name, mine) != mine:
                raise InvalidRequest(f"{name}: is {mine} and cannot be changed")
    try:
        return PolicyProfile.model_validate(
            {name: value for name, value in body.items() if name not in policies.STORED_FIELDS}
        )
    except PolicyError as ex:
        raise InvalidRequest(str(ex)) from None


def _headers(server: Server, policy: Policy, document: dict[str, Any]) -> dict[str, str]:
    headers = {"ETag": policies.etag(policy), "Cache-Control": "no-cache", "Vary": "Authorization"}
    if server.signer is not None:
        headers[HEADER] = server.signer.sign(document)
    return headers


def _stored(server: Server, policy: Policy, status: int = 200) -> Response:
    document = policies.wire(policy)
    headers = _headers(server, policy, document)
    if status == 201:
        headers["Location"] = f"/v1/projects/{policy.project_id}/policies/{policy.id}"
    return JSONResponse(document, status, headers)


async def _read(server: Server, caller: Principal, policy_id: str, if_none_match: str | None) -> Response:
    known = await server.recall.policy(caller.project_id, policy_id, caller.state)
    if caller.role == "agent" and caller.agent_policy_id != policy_id:
        raise Forbidden("an agent reads the profile that it is bound to, and no other")
    headers = _headers(server, known.row, known.document)
    if if_none_match is not None and policies.matches(if_none_match, headers["ETag"]):
        headers.pop(HEADER, None)
        return Response(status_code=304, headers=headers)
    return Response(known.body, headers=headers, media_type="application/json")


@router.post(
    "/v1/projects/{project_id}/policies",
    status_code=201,
    operation_id="createPolicyProfile",
    responses={201: _ANSWER, **failures(400, 404, 409, 413)},
)
def create(
    project_id: str, caller: Admin, server: ServerDep, body: Annotated[ProfileBody, Body()]
) -> Response:
    """Store a new profile. What is left out is the strictest or the plain case; an unknown field is an error."""
    profile = read_profile(body)
    with server.database.write() as session:
        policy = policies.create(
            session, project_id, profile, actor=caller.actor, limit=server.settings.max_policies
        )
    return _stored(server, policy, 201)


@router.get(
    "/v1/projects/{project_id}/policies",
    operation_id="listPolicyProfiles",
    responses={
        200: {
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["policies"],
                        "properties": {
                            "policies": {"type": "array", "items": STORED},
                            "next_page_token": {"type": "string"},
                        },
                    }
                }
            }
        },
        **failures(400, 404),
    },
)
def index(
    project_id: str,
    _: Reader,
    server: ServerDep,
    page_size: PageSize = 20,
    page_token: PageToken = None,
) -> JSONResponse:
    """The project's profiles, oldest first, a page at a time."""
    with server.database.read() as session:
        rows = policies.page(session, project_id, page_size + 1, after(page_token))
    return JSONResponse(listed("policies", rows, page_size, policies.wire, lambda policy: policy.id))


@router.get(
    "/v1/projects/{project_id}/policies/{policy_id}",
    operation_id="getPolicyProfile",
    responses={200: _ANSWER, 304: {"description": "Not changed."}, **failures(404)},
)
async def read(
    project_id: str,
    policy_id: str,
    caller: ReaderOrAgent,
    server: ServerDep,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """One profile, with the ETag of its version."""
    return await _read(server, caller, policy_id, if_none_match)


@router.get(
    "/v1/projects/{project_id}/policy",
    operation_id="getBoundPolicyProfile",
    responses={200: _ANSWER, 304: {"description": "Not changed."}, **failures(404)},
)
async def bound(
    project_id: str, caller: AgentOnly, server: ServerDep, if_none_match: IfNoneMatch = None
) -> Response:
    """The profile that the agent of this key is bound to."""
    return await _read(server, caller, caller.agent_policy_id or "", if_none_match)


@router.put(
    "/v1/projects/{project_id}/policies/{policy_id}",
    operation_id="updatePolicyProfile",
    responses={200: _ANSWER, **failures(400, 404, 409, 412, 413)},
)
def replace(
    project_id: str,
    policy_id: str,
    caller: Admin,
    server: ServerDep,
    body: Annotated[ProfileBody, Body()],
    if_match: Annotated[
        str | None, Header(description="The ETag of the version that this one replaces.")
    ] = None,
) -> Response:
    """Replace a profile in full: what the body leaves out gets its default. Live sessions follow at once."""
    with server.database.read() as session:
        profile = read_profile(body, policy=policies.find(session, project_id, policy_id))
    with server.database.write() as session:
        policy = policies.find(session, project_id, policy_id)
        policies.replace(session, policy, profile, actor=caller.actor, if_match=if_match)
    return _stored(server, policy)


@router.delete(
    "/v1/projects/{project_id}/policies/{policy_id}",
    status_code=204,
    operation_id="deletePolicyProfile",
    responses=failures(404, 409, 412),
)
def delete(
    project_id: str,
    policy_id: str,
    caller: Admin,
    server: ServerDep,
    if_match: Annotated[str | None, Header(description="The ETag of the version to delete.")] = None,
) -> Response:
    """Remove a profile and its versions. Not while an agent is bound to it."""
    with server.database.write() as session:
        policy = policies.find(session, project_id, policy_id)
        policies.delete(session, policy, actor=caller.actor, if_match=if_match)
    return Response(status_code=204)


def _version(number: int, changed_at: Any, changed_by: str) -> dict[str, Any]:
    return {"version": number, "changed_at": rfc3339(changed_at), "changed_by": changed_by}


@router.get(
    "/v1/projects/{project_id}/policies/{policy_id}/versions",
    operation_id="listPolicyVersions",
    responses=failures(404),
)
def versions(project_id: str, policy_id: str, _: Reader, server: ServerDep) -> JSONResponse:
    """Every version that the profile has had, newest first."""
    with server.database.read() as session:
        policy = policies.find(session, project_id, policy_id)
        found = policies.versions(session, policy)
    return JSONResponse(
        {"versions": [_version(each.version, each.changed_at, each.changed_by) for each in found]}
    )


@router.get(
    "/v1/projects/{project_id}/policies/{policy_id}/versions/{number}",
    operation_id="getPolicyVersion",
    responses=failures(400, 404),
)
def version(project_id: str, policy_id: str, number: int, _: Reader, server: ServerDep) -> JSONResponse:
    """One version with its body, as PUT takes it (sending that restores it), and what it opened and closed."""
    with server.database.read() as session:
        policy = policies.find(session, project_id, policy_id)
        found = policies.version(session, policy, number)
        before = policies.version(session, policy, number - 1).document if number > 1 else None
    told = [change._asdict() for change in changes(before, found.document)] if before is not None else []
    return JSONResponse(
        {
            **_version(found.version, found.changed_at, found.changed_by),
            "policy": found.document,
            "changes": told,
        }
    )
