"""Signing in: a cookie for a key, and a token that every form carries back."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request, Response
from sqlalchemy import delete
from starlette.datastructures import FormData

from ..api.access import ServerDep, address_of
from ..errors import Forbidden, Unauthenticated
from ..state import Server
from ..store.columns import now
from ..store.keys import Principal, Role, authenticate, keyed_digest, principal
from ..store.tables import Key, Session

COOKIE = "guarddb_session"


class SignInFirst(Exception):
    """Nobody is signed in; the visitor is led to the page where one can."""


@dataclass(frozen=True)
class Visitor:
    """Who looks at a page."""

    principal: Principal
    csrf: str

    @property
    def may_change(self) -> bool:
        """Whether they may change profiles and agents."""
        return self.principal.role == "admin"

    @property
    def may_decide(self) -> bool:
        """Whether they may approve and reject."""
        return self.principal.role in ("admin", "approver")


def sign_in(server: Server, request: Request, response: Response, text: str) -> None:
    """Give the browser a session for a key.

    Raises:
        Unauthenticated: the key is not valid, or an agent's.
        TooManyRequests: too many wrong keys from this address.
    """
    with server.database.read() as session:
        found = authenticate(session, server.secret, text.strip())
    if found is None:
        server.rates.wrong_key(address_of(request))
        raise Unauthenticated("This key is not valid; it may have expired or been withdrawn.")
    key, who = found
    if who.role == "agent":
        raise Unauthenticated("This is an agent's key. Pages are for people; sign in with another key.")
    token = secrets.token_urlsafe(32)
    with server.database.write() as session:
        session.execute(delete(Session).where(Session.expires_at < now()))
        session.add(
            Session(
                digest=keyed_digest(server.secret, token),
                key_id=key.id,
                csrf=secrets.token_urlsafe(32),
                expires_at=now() + timedelta(seconds=server.settings.session_seconds),
            )
        )
    response.set_cookie(
        COOKIE,
        token,
        max_age=server.settings.session_seconds,
        httponly=True,
        samesite="strict",
        secure=server.settings.secure_cookies,
        path="/ui",
    )


def sign_out(server: Server, request: Request, response: Response) -> None:
    """End the browser's session."""
    digest = keyed_digest(server.secret, request.cookies.get(COOKIE, ""))
    with server.database.write() as session:
        session.execute(delete(Session).where(Session.digest == digest))
    response.delete_cookie(COOKIE, path="/ui")


def visitor(request: Request, server: ServerDep) -> Visitor:
    """Who is signed in. Raises SignInFirst."""
    token = request.cookies.get(COOKIE)
    if not token:
        raise SignInFirst
    with server.database.read() as session:
        found = session.get(Session, keyed_digest(server.secret, token))
        if found is None or found.expires_at <= now():
            raise SignInFirst
        key = session.get(Key, found.key_id)
        if key is None or (key.expires_at is not None and key.expires_at <= now()):
            raise SignInFirst  # the key was withdrawn: what it opened closes
        who = principal(session, key)
    request.state.key_id = key.id
    server.rates.request(key.id)
    return Visitor(who, found.csrf)


def same_origin(request: Request) -> None:
    """Refuse a form that another site has sent. Raises Forbidden."""
    # Browsers say where a request comes from in a header that no page can forge; older ones have Origin only.
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        ours = site in ("same-origin", "none")
    else:
        ours = origin is None or urlsplit(origin).netloc == request.headers.get("host", "")
    if not ours:
        raise Forbidden("The form comes from another site.")


async def form_of(request: Request) -> FormData:
    """The fields of a form."""
    return await request.form(max_files=0, max_fields=5_000)


Form = Annotated[FormData, Depends(form_of)]
AnyVisitor = Annotated[Visitor, Depends(visitor)]


def sender(*roles: Role) -> Callable[..., Visitor]:
    """A dependency: who sent this form, from a page of ours, with one of `roles`."""

    def check(request: Request, who: AnyVisitor, form: Form) -> Visitor:
        same_origin(request)
        if not hmac.compare_digest(str(form.get("csrf", "")).encode(), who.csrf.encode()):
            raise Forbidden(
                "The form is too old or was not sent from a page of this server. Reload the page."
            )
        if who.principal.role not in roles:
            raise Forbidden(f"The role {who.principal.role} may not do this.")
        return who

    return check


AdminForm = Annotated[Visitor, Depends(sender("admin"))]
ApproverForm = Annotated[Visitor, Depends(sender("admin", "approver"))]
AnyForm = Annotated[Visitor, Depends(sender("admin", "approver", "viewer"))]
Context = dict[str, Any]
