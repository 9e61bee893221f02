"""What machines ask: is it alive, how is it doing."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from sqlalchemy import text

from ..errors import Unavailable
from .access import ServerDep
from .shapes import ErrorBody

router = APIRouter(tags=["operations"])


@router.get(
    "/healthz",
    operation_id="health",
    responses={503: {"model": ErrorBody, "description": "The database does not answer."}},
)
def health(server: ServerDep) -> Response:
    """200 when the server and its database answer."""
    try:
        with server.database.read() as session:
            session.execute(text("SELECT 1"))
    except Exception:
        raise Unavailable("the database does not answer") from None
    return JSONResponse({"status": "ok"})


@router.get("/metrics", operation_id="metrics", response_class=Response)
def metrics(server: ServerDep) -> Response:
    """Figures of this server in Prometheus's text format. No names, no keys, no SQL."""
    return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get(
    "/v1/signing-key",
    operation_id="getSigningKey",
    responses={404: {"model": ErrorBody, "description": "This server does not sign."}},
)
def signing_key(server: ServerDep) -> Response:
    """The public key that profiles are signed with. Take it from here once, over a connection that you trust."""
    if server.signer is None:
        return JSONResponse({"error": {"code": "not_found", "message": "this server does not sign"}}, 404)
    return JSONResponse({"algorithm": "ed25519", "public_key": server.signer.public_key})
