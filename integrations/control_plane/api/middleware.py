"""What happens to every request before a route sees it: its size, its JSON, the access log, the headers."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

access_log = logging.getLogger("guarddb.control_plane.access")
logger = logging.getLogger("guarddb.control_plane")


#: Levels that a body may nest.
MAX_DEPTH = 100
#: Bytes of a body that is looked at where it came in.
_LONG = 64 * 1024
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def error_body(code: str, message: str) -> bytes:
    """`{"error": {"code", "message"}}`."""
    return orjson.dumps({"error": {"code": code, "message": message}})


async def _answer(send: Send, status: int, code: str, message: str) -> None:
    body = error_body(code, message)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 413:
        # What is left of the body will not be read, so the connection cannot be used again.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Unacceptable(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = (status, code, message)


class BodyLimit:
    """Refuses a body that is too large before it is read, and JSON that is not clean before it is used.

    Clean: UTF-8, no half surrogates, no NaN, nesting that everything behind it survives, and no key twice in one object: of
    two `table_denylist` one would be lost without a word.
    """

    def __init__(self, app: ASGIApp, max_body: int) -> None:
        self.app = app
        self.max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        status = 400 if scope["path"].startswith("/v1/") else 422
        try:
            # Of two, one would be looked at here and the other by the route.
            if sum(name == b"content-type" for name, _ in scope["headers"]) > 1:
                raise _Unacceptable(status, _code(status), "the header Content-Type stands there twice")
            body = await self._read(headers, receive)
            if body and b"json" in headers.get(b"content-type", b"").lower():
                if len(body) > _LONG:
                    await asyncio.to_thread(_check_json, body, status)  # others are answered meanwhile
                else:
                    _check_json(body, status)
        except _Unacceptable as ex:
            await _answer(send, *ex.answer)
            return
        except ConnectionError:
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        too_large = _Unacceptable(413, "too_large", f"a body may have at most {self.max_body} bytes")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self.max_body:
            raise too_large
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self.max_body:
                raise too_large
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)


def _code(status: int) -> str:
    return "invalid_request" if status == 400 else "unprocessable"


def _is_deep(document: Any) -> bool:
    """Whether it nests deeper than what is behind goes: pydantic reads to about 250 levels, Python's json to about 900."""
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _check_json(body: bytes, status: int) -> None:
    def pairs(items: list[tuple[str, Any]]) -> None:
        seen = set()
        for key, _ in items:
            if key in seen:
                raise _Unacceptable(
                    status, _code(status), f"the key {json.dumps(key[:60])} stands twice in one object"
                )
            seen.add(key)

    code = _code(status)
    try:
        document = orjson.loads(body)
        if isinstance(document, dict | list) and _is_deep(document):
            raise _Unacceptable(status, code, f"the body nests more than {MAX_DEPTH} levels deep")
        json.loads(body, object_pairs_hook=pairs)
    except orjson.JSONDecodeError as ex:
        raise _Unacceptable(status, code, f"the body is not JSON: {ex}") from None
    except (ValueError, RecursionError):  # a number of more digits than Python is willing to read
        raise _Unacceptable(status, code, "the body is not JSON that this server reads") from None


class AccessLog:
    """One line of JSON for each request, without its query, its key or its body; and the headers of every answer."""

    def __init__(self, app: ASGIApp, secure: bool) -> None:
        self.app = app
        self.headers = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]
        if secure:
            self.headers.append((b"strict-transport-security", b"max-age=31536000"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *self.headers]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception:
            logger.exception("unexpected error in %s %r", scope["method"], scope["path"])
            if status == 0:
                await _answer(watch, 500, "internal_error", "the server failed; its log says why")
        finally:
            seconds = time.perf_counter() - started
            server = scope["app"].state.server if "app" in scope else None
            route = scope.get("route")
            if server is not None:
                # Any word can be a method; what somebody makes up must not become a time series.
                method = scope["method"] if scope["method"] in _METHODS else "other"
                server.metrics.request(method, getattr(route, "path", "other"), status, seconds)
            entry = {
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": round(seconds * 1000, 1),
                "client": scope["client"][0] if scope.get("client") else None,
                "key": scope.get("state", {}).get("key_id"),
            }
            access_log.info("%s", json.dumps(entry))
