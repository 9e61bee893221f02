"""The pages: rendered here, usable without scripts and with the keyboard alone; scripts only spare reloading."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.staticfiles import StaticFiles

from ..api.access import ServerDep
from ..errors import ApiError
from . import agents, approvals, policies, risk
from .rendering import HEADERS, HERE, page
from .session import AnyForm, Form, SignInFirst, same_origin, sign_in, sign_out

router = APIRouter(include_in_schema=False)


@router.get("/")
def root() -> Response:
    """People who type the server's address want its pages."""
    return RedirectResponse("/ui/policies", 303)


@router.get("/ui")
@router.get("/ui/")
def start() -> Response:
    """The first page."""
    return RedirectResponse("/ui/policies", 303)


@router.get("/ui/login")
def login(to: Annotated[str, Query(max_length=300)] = "") -> Response:
    """Where one signs in."""
    return page("login.html", None, problem="", to=to)


@router.post("/ui/login")
def check(request: Request, server: ServerDep, form: Form) -> Response:
    """Sign in with a key."""
    to = str(form.get("to", ""))
    response = RedirectResponse(to if _is_ours(to) else "/ui/policies", 303, HEADERS)
    try:
        same_origin(request)
        sign_in(server, request, response, str(form.get("key", "")))
    except ApiError as ex:
        return page("login.html", None, ex.status, ex.headers, problem=ex.message, to=to)
    return response


def _is_ours(path: str) -> bool:
    return path.startswith("/ui/") and "//" not in path and "\\" not in path and path.isprintable()


@router.post("/ui/logout")
def logout(request: Request, who: AnyForm, server: ServerDep) -> Response:
    """Sign out."""
    response = RedirectResponse("/ui/login", 303, HEADERS)
    sign_out(server, request, response)
    return response


async def _lead_to_login(request: Request, _: Exception) -> Response:
    to = request.url.path if request.method == "GET" and request.url.path != "/ui/events" else ""
    return RedirectResponse(f"/ui/login?to={to}" if to else "/ui/login", 303, HEADERS)


async def problem_page(request: Request, status: int, message: str, headers: dict[str, str]) -> Response:
    """An error as a page, for those who look at pages."""
    return page("problem.html", None, status, headers, message=message)


def install(app: FastAPI) -> None:
    """Add the pages to an application."""
    for each in (router, policies.router, approvals.router, agents.router, risk.router):
        app.include_router(each)
    app.mount("/ui/static", StaticFiles(directory=HERE / "static"))
    app.add_exception_handler(SignInFirst, _lead_to_login)
