"""Where webhooks may go: a server that fetches what it is told to is a way into its own network.

The name is resolved here, every address of it has to be a public one, and the connection is made to the address that
was looked at, so that a second look-up cannot give another.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx


class ForbiddenDestination(ValueError):
    """A URL that nothing is sent to; its text says why."""


def check_url(url: str, *, private: bool) -> None:
    """Check the URL of a webhook as far as that goes without sending anything. Raises ForbiddenDestination."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ForbiddenDestination("is not a URL") from None
    if parts.scheme not in ({"https", "http"} if private else {"https"}):
        raise ForbiddenDestination("must be an https URL")
    if not host:
        raise ForbiddenDestination("names no host")
    if parts.username is not None or parts.password is not None:
        raise ForbiddenDestination("must not hold a password")
    if not private:
        addresses_of(host, parts.port or 443)


def addresses_of(host: str, port: int) -> list[str]:
    """The addresses of a host, all of them public. Raises ForbiddenDestination."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ForbiddenDestination("names a host that cannot be found") from None
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    for address in addresses:
        if not _is_public(address):
            raise ForbiddenDestination(
                "leads to an address that is not public (--private-webhooks allows it)"
            )
    return addresses


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    for inner in (getattr(ip, "ipv4_mapped", None), getattr(ip, "sixtofour", None)):
        if inner is not None:
            ip = inner
    if (teredo := getattr(ip, "teredo", None)) is not None:
        ip = teredo[1]
    local = ip.is_multicast or ip.is_reserved or getattr(ip, "is_site_local", False)
    return ip.is_global and not local


class _Hurried(httpcore.NetworkStream):
    """A connection that ends at a moment, however steadily the other side sends drops."""

    def __init__(self, inner: httpcore.NetworkStream, ends: float) -> None:
        self._inner, self._ends = inner, ends

    def _left(self, timeout: float | None) -> float:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the time for the whole of it is over")
        return left if timeout is None else min(left, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Hurried(self._inner.start_tls(ssl_context, server_hostname, self._left(timeout)), self._ends)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Checked(httpcore.SyncBackend):
    """Connects to addresses that were looked at (`private`: to any), and only until a moment."""

    def __init__(self, private: bool, ends: float) -> None:
        self._private, self._ends = private, ends

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        problem: Exception = httpcore.ConnectError("no address")
        for address in [host] if self._private else addresses_of(host, port):
            try:
                stream = super().connect_tcp(address, port, timeout, local_address, socket_options)
                return _Hurried(stream, self._ends)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as ex:
                problem = ex
        raise problem


@cache
def _certificates() -> ssl.SSLContext:
    """Read once: that takes longer than most requests do."""
    return httpx.create_ssl_context(trust_env=False)


def client(*, private: bool, timeout: float) -> httpx.Client:
    """A client that follows no redirects, knows no proxies, and unless `private` reaches public addresses only.

    It is for one request: `timeout` is in seconds, and for all that it does.
    """
    certificates = _certificates()
    transport = httpx.HTTPTransport(trust_env=False, verify=certificates)
    # TLS still asks for the certificate of the name: only the address was chosen here.
    transport._pool = httpcore.ConnectionPool(
        ssl_context=certificates,
        network_backend=_Checked(private, time.monotonic() + timeout),
    )
    return httpx.Client(transport=transport, timeout=timeout, trust_env=False, follow_redirects=False)
