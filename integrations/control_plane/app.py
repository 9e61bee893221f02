"""The application: routes, what surrounds them, and what runs beside them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException

from . import pages
from .api import (
    action_policies,
    agents,
    approvals,
    audit,
    catalogs,
    decisions,
    evaluations,
    health,
    keys,
    openapi,
    policies,
    streams,
    webhooks,
)
from .api.metrics import Metrics
from .api.middleware import AccessLog, BodyLimit
from .api.rates import Rates
from .broker import Broker
from .errors import ApiError, Unavailable
from .last_used import LastUsed
from .recall import Recall
from .settings import Settings
from .signing import Signer
from .state import Server
from .store.approvals import expire_all
from .store.columns import now
from .store.database import AWAY, Database, DatabaseError
from .store.keys import create_key, create_project, server_secret
from .store.retention import prune
from .store.tables import Approval, Key, Project
from .store.upgrade import upgrade
from .webhooks import Courier

logger = logging.getLogger("guarddb.control_plane")

#: Seconds between two looks for approvals whose time is over, and between two prunings of old events.
_EXPIRY_SECONDS = 1.0
_PRUNE_SECONDS = 3600.0
_ROUTERS = (
    policies.router,
    evaluations.router,
    streams.router,
    agents.router,
    approvals.router,
    keys.router,
    catalogs.router,
    decisions.router,
    audit.router,
    webhooks.router,
    action_policies.router,
    health.router,
)


class FirstKey:
    """What a new database was given: its project and the text of the first admin key, which is kept nowhere."""

    def __init__(self, project_id: str, key: str) -> None:
        self.project_id = project_id
        self.key = key


def _first_start(database: Database, settings: Settings) -> tuple[str, FirstKey | None]:
    """The secret of the servers of this database; and the first key, if it had none."""
    first = None
    with database.write() as session:
        secret = settings.secret or server_secret(session)
        if session.scalar(select(Key.id).limit(1)) is None:
            if session.get(Project, settings.project) is None:
                create_project(session, settings.project, "default", actor="guarddb serve")
            _, text = create_key(
                session,
                secret,
                settings.project,
                "first admin key",
                "admin",
                actor="guarddb serve",
                owner=True,
            )
            first = FirstKey(settings.project, text)
    return secret, first


def open_server(settings: Settings) -> tuple[Server, FirstKey | None]:
    """Bring the database up to date; and give a new one its project and its first key.

    Raises:
        DatabaseError: it cannot be used.
    """
    database = Database(settings.database)
    try:
        upgrade(database)
        secret, first = _first_start(database, settings)
    except DatabaseError:
        database.close()
        raise
    except DBAPIError as ex:
        database.close()
        said = " ".join(str(ex.orig).split("\n")[0].split())
        raise DatabaseError(f"the database cannot be used: {said}") from None
    broker = Broker(database)

    def pending() -> int:
        query = select(func.count()).where(Approval.status == "pending")
        with database.read() as session:
            return session.scalar(query) or 0

    server = Server(
        settings=settings,
        database=database,
        secret=secret,
        recall=Recall(database, secret),
        last_used=LastUsed(database),
        rates=Rates(database, settings.rate_limit),
        broker=broker,
        courier=Courier(database, private=settings.private_webhooks),
        metrics=Metrics(lambda: broker.streams, pending),
        signer=Signer(settings.signing_key) if settings.signing_key else None,
    )
    return server, first


def create_app(server: Server) -> FastAPI:
    """The ASGI application of a server that `open_server` gave."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await server.broker.start()
        await server.courier.start()
        chores = asyncio.create_task(_chores(server))
        try:
            yield
        finally:
            chores.cancel()
            with suppress(asyncio.CancelledError):
                await chores
            await server.courier.stop()
            await server.broker.stop()
            # A thread that was at it goes on when its task is cancelled; its connection has to come back first.
            await asyncio.get_running_loop().shutdown_default_executor()
            server.database.close()

    app = FastAPI(
        title="guarddb control plane",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.server = server
    for router in _ROUTERS:
        app.include_router(router)
    pages.install(app)
    openapi.install(app)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    for kind in AWAY:
        app.add_exception_handler(kind, _database_error)
    app.add_middleware(BodyLimit, max_body=server.settings.max_body)
    app.add_middleware(AccessLog, secure=server.settings.secure_cookies)
    return app


async def _chores(server: Server) -> None:
    """What has to happen though nobody asks: approvals expire, uses of keys are written down, old events go."""
    pruned = -_PRUNE_SECONDS  # a server that is started anew every day prunes as well
    while True:
        await asyncio.sleep(_EXPIRY_SECONDS)
        try:
            await asyncio.to_thread(server.last_used.write)
            if await asyncio.to_thread(_anything_late, server):
                await asyncio.to_thread(_expire, server)
            if asyncio.get_running_loop().time() - pruned > _PRUNE_SECONDS:
                pruned = asyncio.get_running_loop().time()
                await asyncio.to_thread(_prune, server)
        except AWAY as ex:  # for as long as it is away, every second
            logger.warning("a chore waits: the database does not answer (%s)", type(ex).__name__)
        except Exception:
            logger.exception("a chore failed; it is tried again")


def _expire(server: Server) -> None:
    with server.database.write() as session:
        expire_all(session)


def _prune(server: Server) -> None:
    with server.database.write() as session:
        prune(session)


def _anything_late(server: Server) -> bool:
    late = select(Approval.id).where(Approval.status == "pending", Approval.expires_at <= now())
    with server.database.read() as session:
        return session.scalar(late.limit(1)) is not None


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


async def _api_error(request: Request, ex: Exception) -> Response:
    assert isinstance(ex, ApiError)
    if request.url.path.startswith("/ui/"):
        return await pages.problem_page(request, ex.status, ex.message, ex.headers)
    return _error(ex.status, ex.code, ex.message, ex.headers)


#: What pydantic says where a body is a list, a number, or bytes that nobody has called JSON.
_NO_MAPPING = ("model_attributes_type", "model_type", "dict_type")


async def _invalid(request: Request, ex: Exception) -> Response:
    assert isinstance(ex, RequestValidationError)
    problems = []
    for each in ex.errors()[:20]:
        place = ""
        for step in each["loc"]:
            if step in {"body", "query", "path", "header"} and not place:
                continue
            place += f"[{step}]" if isinstance(step, int) else f".{step}" if place else str(step)
        message = each["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        if each["type"] == "extra_forbidden":
            message = "is not a field here"
        elif each["type"] == "missing":
            message = "is required and missing"
        elif not place and each["type"] in _NO_MAPPING:
            message = "must be a mapping of fields, sent as application/json"
        problems.append(f"{place or 'the body'}: {message}")
    if request.url.path.startswith("/ui/"):
        return await pages.problem_page(request, 400, ". ".join(problems) + ".", {})
    v1 = request.url.path.startswith("/v1/")
    return _error(400 if v1 else 422, "invalid_request" if v1 else "unprocessable", ". ".join(problems) + ".")


_CODES = {404: "not_found", 405: "method_not_allowed", 400: "invalid_request"}


async def _http_error(request: Request, ex: Exception) -> Response:
    assert isinstance(ex, HTTPException)
    headers = dict(ex.headers or {})
    if ex.status_code == 405:
        # What knows one route of a path only tells that one's method.
        headers["Allow"] = ", ".join(openapi.methods_of(request.app, request.url.path)) or "GET"
    message = str(ex.detail).lower()
    if request.url.path.startswith("/ui/"):
        return await pages.problem_page(request, ex.status_code, f"{message.capitalize()}.", headers)
    return _error(ex.status_code, _CODES.get(ex.status_code, "error"), message, headers)


async def _database_error(request: Request, ex: Exception) -> Response:
    logger.error(
        "%s %r: the database does not answer (%s)", request.method, request.url.path, type(ex).__name__
    )
    return await _api_error(
        request, Unavailable("the database does not answer", headers={"Retry-After": "5"})
    )
