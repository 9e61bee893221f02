"""Reading what a server answers, which may be slow, endless or no answer at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from guarddb.policy.remote import (
    MAX_BYTES,
    TOO_LARGE,
    TOO_SLOW,
    WHOLE_TIMEOUT,
    FetchError,
    describe,
    require_httpx,
)

#: Bytes of one line of an event stream.
_LONGEST_LINE: Final = 1 << 16


async def get(client: Any, url: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and body of an answer.

    Raises:
        FetchError: nothing came, or too much of it, or too slowly.
    """
    httpx = require_httpx()
    body = bytearray()
    try:
        async with (
            asyncio.timeout(WHOLE_TIMEOUT),
            client.stream("GET", url, headers=headers) as answer,
        ):
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > MAX_BYTES:
                    raise FetchError(TOO_LARGE)
    except httpx.HTTPError as ex:
        raise FetchError(describe(ex), transient=True) from None
    except TimeoutError:
        raise FetchError(TOO_SLOW, transient=True) from None
    return answer.status_code, answer.headers, bytes(body)


async def events(answer: Any) -> AsyncIterator[tuple[str, str]]:
    """The fields of an event stream. It ends at a line that is longer than any of a control plane's."""
    line = b""
    async for piece in answer.aiter_bytes():
        *whole, line = (line + piece).split(b"\n")
        for each in whole:
            field, _, value = each.decode("utf-8", "replace").partition(":")
            yield field, value.strip()
        if len(line) > _LONGEST_LINE:
            return
