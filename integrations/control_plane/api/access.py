"""Who is asking, and whether they may: a key, its project, its role."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request

from ..errors import Forbidden, NotFound, Unauthenticated
from ..state import Server, server_of
from ..store.keys import Principal, Role

ServerDep = Annotated[Server, Depends(server_of)]


def address_of(request: Request) -> str:
    """The address a request came from."""
    return request.client.host if request.client else "unknown"


def _shown_key(request: Request, *, api_key_header: bool) -> str:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and text.strip():
        return text.strip()
    if api_key_header and (key := request.headers.get("x-api-key", "").strip()):
        return key
    how = "Authorization: Bearer <key>" + (" or X-API-Key: <key>" if api_key_header else "")
    raise Unauthenticated(f"no key; send it as {how}", headers={"WWW-Authenticate": "Bearer"})


async def identify(server: Server, request: Request, *, api_key_header: bool = False) -> Principal:
    """The owner of the key that a request shows.

    Raises:
        Unauthenticated: there is no key, or it is wrong, withdrawn or expired.
        Forbidden: it is the key of a disabled agent.
        TooManyRequests: too many requests of this key, or too many wrong keys from this address.
    """
    text = _shown_key(request, api_key_header=api_key_header)
    known = server.recall.shown(text) or await server.recall.read_key(text)
    if known is not None:
        # Only a key that is right is counted: nobody uses up the rate of another by its identifier.
        request.state.key_id = known.principal.key_id  # for the access log
        state = await server.rates.request_async(known.principal.key_id)
        if not server.recall.still(known, state):
            known = await server.recall.read_key(text)
    if known is None or not known.works:
        if not server.recall.was_right(text):
            # (Who is told to wait does not learn that the key is withdrawn: a session would go on with the profile it has.)
            server.rates.wrong_key(address_of(request))
        raise Unauthenticated(
            "the key is not valid; it may have expired or been withdrawn",
            headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
        )
    if known.principal.agent_status == "disabled":
        raise Forbidden(f"agent {known.principal.agent_id} is disabled", "agent_disabled")
    await server.last_used.note(known)
    return known.principal


def allowed(*roles: Role, in_project: bool = True) -> Callable[..., Awaitable[Principal]]:
    """A dependency: the caller, who has one of `roles` in the project of the path."""

    async def caller(request: Request, server: ServerDep) -> Principal:
        principal = await identify(server, request, api_key_header=not in_project)
        # Another project's identifiers look like ones that do not exist.
        if in_project and request.path_params["project_id"] != principal.project_id:
            raise NotFound("there is no such project")
        if principal.role not in roles:
            raise Forbidden(f"the role {principal.role} may not do this; it takes {' or '.join(roles)}")
        return principal

    return caller


READERS: tuple[Role, ...] = ("admin", "approver", "viewer")
Admin = Annotated[Principal, Depends(allowed("admin"))]
Reader = Annotated[Principal, Depends(allowed(*READERS))]
ReaderOrAgent = Annotated[Principal, Depends(allowed(*READERS, "agent"))]
Approver = Annotated[Principal, Depends(allowed("admin", "approver"))]
AgentOnly = Annotated[Principal, Depends(allowed("agent"))]
AgentOrAdmin = Annotated[Principal, Depends(allowed("agent", "admin"))]
#: For the routes that have no project in their paths; they take X-API-Key too.
AnyAdmin = Annotated[Principal, Depends(allowed("admin", in_project=False))]
Anybody = Annotated[Principal, Depends(allowed(*READERS, "agent", in_project=False))]
