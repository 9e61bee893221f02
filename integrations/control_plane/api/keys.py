"""Keys and projects."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from sqlalchemy import select

from ..errors import Forbidden, InvalidRequest
from ..identifiers import new_id
from ..store import keys
from ..store.columns import now, rfc3339
from ..store.tables import Key, Project
from .access import Admin, AnyAdmin, ReaderOrAgent, ServerDep
from .shapes import (
    KeyInput,
    KeyList,
    KeyWithText,
    ProjectBody,
    ProjectInput,
    ProjectWithKey,
    RotateRequest,
    failures,
)

router = APIRouter(tags=["keys"])


def wire(key: Key) -> dict[str, Any]:
    """The key as the API shows it: everything but the key."""
    return {
        "id": key.id,
        "project_id": key.project_id,
        "name": key.name,
        "role": key.role,
        "agent_id": key.agent_id,
        "created_at": rfc3339(key.created_at),
        "expires_at": rfc3339(key.expires_at) if key.expires_at else None,
        "last_used_at": rfc3339(key.last_used_at) if key.last_used_at else None,
    }


@router.post(
    "/v1/projects/{project_id}/keys",
    status_code=201,
    operation_id="createKey",
    responses={201: {"model": KeyWithText}, **failures(400, 404, 413)},
)
def create(project_id: str, caller: Admin, server: ServerDep, body: KeyInput) -> Response:
    """A new key. It is shown in this answer and never again."""
    if body.expires_at is not None and body.expires_at <= now():
        raise InvalidRequest("expires_at: must be in the future")
    with server.database.write() as session:
        key, text = keys.create_key(
            session,
            server.secret,
            project_id,
            body.name,
            body.role,
            actor=caller.actor,
            expires_at=body.expires_at,
        )
    return JSONResponse({**wire(key), "key": text}, 201)


@router.get(
    "/v1/projects/{project_id}/keys",
    operation_id="listKeys",
    responses={200: {"model": KeyList}, **failures(404)},
)
def index(project_id: str, _: Admin, server: ServerDep) -> Response:
    """The project's keys, without the keys themselves."""
    with server.database.read() as session:
        found = session.scalars(select(Key).where(Key.project_id == project_id).order_by(Key.id)).all()
    return JSONResponse({"keys": [wire(key) for key in found]})


@router.post(
    "/v1/projects/{project_id}/keys/{key_id}/rotate",
    operation_id="rotateKey",
    responses={200: {"model": KeyWithText}, **failures(400, 404, 409, 413)},
)
def rotate(
    project_id: str, key_id: str, caller: Admin, server: ServerDep, body: RotateRequest | None = None
) -> Response:
    """A new key in the place of this one, which stays valid for `overlap_seconds`."""
    overlap = timedelta(seconds=body.overlap_seconds if body else 0)
    with server.database.write() as session:
        old = keys.find_key(session, project_id, key_id)
        if old.owner and not caller.owner:
            raise Forbidden(
                "only the key that was made with the server is rotated with its right to make projects"
            )
        key, text = keys.rotate(session, server.secret, old, overlap=overlap, actor=caller.actor)
    return JSONResponse({**wire(key), "key": text})


@router.delete(
    "/v1/projects/{project_id}/keys/{key_id}",
    status_code=204,
    operation_id="deleteKey",
    responses=failures(404, 409),
)
def delete(project_id: str, key_id: str, caller: Admin, server: ServerDep) -> Response:
    """Withdraw a key at once."""
    with server.database.write() as session:
        key = keys.find_key(session, project_id, key_id)
        if key.owner and not caller.owner:
            raise Forbidden("the key that was made with the server is withdrawn with itself, or rotated")
        keys.delete_key(session, key, actor=caller.actor)
    return Response(status_code=204)


@router.get(
    "/v1/projects/{project_id}",
    operation_id="getProject",
    responses={200: {"model": ProjectBody}, **failures(404)},
)
def project(project_id: str, _: ReaderOrAgent, server: ServerDep) -> Response:
    """The project of this key."""
    with server.database.read() as session:
        found = session.get_one(Project, project_id)
    return JSONResponse({"id": found.id, "name": found.name, "created_at": rfc3339(found.created_at)})


@router.post(
    "/v1/projects",
    status_code=201,
    operation_id="createProject",
    responses={201: {"model": ProjectWithKey}, **failures(400, 409, 413)},
)
def create_project(caller: AnyAdmin, server: ServerDep, body: ProjectInput) -> Response:
    """A further project with its first admin key. Takes the key that the server printed when it was set up."""
    if not caller.owner:
        raise Forbidden("only the key that was made with the server makes projects")
    with server.database.write() as session:
        made = keys.create_project(session, body.id or new_id("prj"), body.name, actor=caller.actor)
        key, text = keys.create_key(
            session, server.secret, made.id, "first admin key", "admin", actor=caller.actor
        )
    answer = {"id": made.id, "name": made.name, "created_at": rfc3339(made.created_at)}
    return JSONResponse({**answer, "key_id": key.id, "key": text}, 201)
