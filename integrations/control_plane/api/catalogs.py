"""Catalog snapshots: what the project's database holds, so that evaluations judge as its live sessions do."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from fastapi.responses import JSONResponse

from guarddb import Catalog

from ..errors import InvalidRequest, NotFound
from ..store.columns import now, rfc3339
from ..store.journal import record
from ..store.tables import CatalogSnapshot
from .access import Admin, Reader, ServerDep
from .shapes import CatalogState, failures

router = APIRouter(tags=["catalog"])


def _wire(snapshot: CatalogSnapshot) -> dict[str, Any]:
    return {
        "digest": snapshot.digest,
        "pushed_at": rfc3339(snapshot.pushed_at),
        "pushed_by": snapshot.pushed_by,
    }


@router.put(
    "/v1/projects/{project_id}/catalog",
    operation_id="putCatalog",
    responses={200: {"model": CatalogState}, **failures(400, 404, 413)},
)
def push(
    project_id: str, caller: Admin, server: ServerDep, body: Annotated[dict[str, Any], Body()]
) -> Response:
    """Replace the project's snapshot by one that `guarddb snapshot` wrote."""
    document = json.dumps(body, separators=(",", ":"))
    try:
        Catalog.from_json(document)
    except Exception as ex:  # whatever a document that is no snapshot makes the reader trip over
        raise InvalidRequest(
            f"the body is not a catalog that `guarddb snapshot` wrote ({type(ex).__name__})"
        ) from None
    digest = hashlib.sha256(document.encode()).hexdigest()
    with server.database.write() as session:
        snapshot = session.get(CatalogSnapshot, project_id) or CatalogSnapshot(project_id=project_id)
        snapshot.document, snapshot.digest = document, digest
        snapshot.pushed_at, snapshot.pushed_by = now(), caller.actor
        session.add(snapshot)
        session.flush()
        record(session, project_id, caller.actor, "catalog.push", project_id, {"digest": digest})
    return JSONResponse(_wire(snapshot))


@router.get(
    "/v1/projects/{project_id}/catalog",
    operation_id="getCatalogState",
    responses={200: {"model": CatalogState}, **failures(404)},
)
def state(project_id: str, _: Reader, server: ServerDep) -> Response:
    """When the snapshot was taken over, and by whom."""
    with server.database.read() as session:
        snapshot = session.get(CatalogSnapshot, project_id)
    if snapshot is None:
        raise NotFound("no catalog was pushed to this project")
    return JSONResponse(_wire(snapshot))


@router.delete(
    "/v1/projects/{project_id}/catalog",
    status_code=204,
    operation_id="deleteCatalog",
    responses=failures(404),
)
def delete(project_id: str, caller: Admin, server: ServerDep) -> Response:
    """Judge without a catalog again."""
    with server.database.write() as session:
        snapshot = session.get(CatalogSnapshot, project_id)
        if snapshot is None:
            raise NotFound("no catalog was pushed to this project")
        session.delete(snapshot)
        record(session, project_id, caller.actor, "catalog.delete", project_id)
    return Response(status_code=204)
