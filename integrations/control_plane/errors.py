"""What a request can fail with. Each becomes `{"error": {"code", "message"}}` with its status."""

from __future__ import annotations

from typing import ClassVar


class ApiError(Exception):
    """A request that cannot be carried out.

    Attributes:
        status: the HTTP status.
        code: one word for programs.
        headers: headers that the answer gets.
    """

    status: ClassVar[int] = 400
    default_code: ClassVar[str] = "invalid_request"

    def __init__(
        self, message: str, code: str | None = None, *, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.headers = headers or {}


class InvalidRequest(ApiError):
    """400: the message names the field and what is allowed there."""


class Unauthenticated(ApiError):
    """401: no key, or one that is not (or no longer) valid."""

    status = 401
    default_code = "unauthenticated"


class Forbidden(ApiError):
    """403: the key's role does not reach that far, or a limit of the server is used up."""

    status = 403
    default_code = "forbidden"


class NotFound(ApiError):
    """404: there is no such thing in this project."""

    status = 404
    default_code = "not_found"


class Conflict(ApiError):
    """409: it would contradict what is there."""

    status = 409
    default_code = "conflict"


class PreconditionFailed(ApiError):
    """412: somebody else changed it in the meantime."""

    status = 412
    default_code = "precondition_failed"


class Unprocessable(ApiError):
    """422: what 400 is elsewhere, on the routes of action policies and events."""

    status = 422
    default_code = "unprocessable"


class TooManyRequests(ApiError):
    """429, with Retry-After."""

    status = 429
    default_code = "rate_limited"


class Unavailable(ApiError):
    """503: the server cannot do it now."""

    status = 503
    default_code = "unavailable"
