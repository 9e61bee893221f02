"""What a control plane is started with."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

from limits import RateLimitItem, parse

#: The project that a new database holds.
FIRST_PROJECT = "prj_default"


def rate(text: str) -> RateLimitItem:
    """A rate: `600/minute`, `10 per second`, or a number, which is a rate per minute.

    Raises:
        ValueError: it is neither.

    >>> str(rate("600"))
    '600 per 1 minute'
    """
    text = text.strip()
    if re.fullmatch(r"\d{1,9}", text):
        text += "/minute"
    try:
        item = parse(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a rate; write a number (per minute), or for instance 10/second"
        ) from None
    if item.amount < 1:
        raise ValueError("a rate is at least 1")
    return item


@dataclass(frozen=True)
class Settings:
    """How a control plane runs.

    Attributes:
        database: the path of a SQLite file, or the URL of a PostgreSQL database.
        project: the identifier of the project that a new database gets.
        rate_limit: requests that one key may send; see `rate`.
        max_body: bytes that the body of a request may have.
        max_policies, max_agents: how many of them a project may hold; 0: any number.
        session_seconds: how long a browser stays signed in.
        secure_cookies: cookies only over TLS. Off where the server listens on loopback only.
        private_webhooks: webhooks may go to loopback and private addresses, and over plain http.
        signing_key: an Ed25519 private key (32 bytes) that profiles are signed with, or None.
        secret: the key of the hashes that API keys are kept as; None: one that is kept in the database.
    """

    database: str = "guarddb.sqlite3"
    project: str = FIRST_PROJECT
    rate_limit: str = "6000/minute"
    max_body: int = 4 * 1024 * 1024
    max_policies: int = 0
    max_agents: int = 0
    session_seconds: int = 8 * 3600
    secure_cookies: bool = False
    private_webhooks: bool = False
    signing_key: bytes | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        rate(self.rate_limit)
        if self.max_body < 1024:
            raise ValueError("max_body is a number of bytes, at least 1024")


def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host` is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
