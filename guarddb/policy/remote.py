"""A profile on a control plane: which URLs are taken, what a request says, what an answer means.

Sending is not done here but by `load_policy`, once, and by `guarddb.runtime.http_policy`, for as long as a connection
lives.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import random
import re
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from guarddb.policy.errors import PolicyError, quoted
from guarddb.policy.profile import PolicyProfile

#: The environment variable with the API key.
KEY_VARIABLE: Final = "GUARDDB_API_KEY"
#: The environment variable with the public key (Ed25519, base64) that profiles must be signed with.
SIGNING_VARIABLE: Final = "GUARDDB_POLICY_KEY"
#: The environment variable with the names of hosts that may be asked over plain http, separated by commas.
PLAIN_HTTP_VARIABLE: Final = "GUARDDB_HTTP_HOSTS"
SIGNATURE_HEADER: Final = "Guarddb-Signature"

#: A larger answer is not read.
MAX_BYTES: Final = 1 << 20
#: Seconds for a connection, and between two pieces of an answer.
TIMEOUT: Final = 5.0
#: Seconds for a whole answer: a server that sends it in drops is one that does not answer.
WHOLE_TIMEOUT: Final = 10.0
#: Statuses after which the same request may succeed.
TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Seconds that a single wait between two attempts lasts at the most, unless the server asks for more.
LONGEST_BACKOFF: Final = 10.0

#: Not the module's own generator: forked processes would all wait for the same time, and an application may have seeded it.
_random = random.SystemRandom()
_PROJECT = re.compile(r".*/projects/(?P<project_id>[^/]+)\Z")
_POLICY = re.compile(r".*/projects/(?P<project_id>[^/]+)/policies/(?P<id>[^/]+)\Z")


TOO_LARGE: Final = f"the answer has more than {MAX_BYTES} bytes"
TOO_SLOW: Final = f"the answer is not there after {WHOLE_TIMEOUT:.0f} s"


class FetchError(RuntimeError):
    """The profile could not be fetched. The text holds no key.

    Attributes:
        transient: the same request may succeed later.
        denied: the server's answer is that this key may not (a disabled agent, a withdrawn key): nothing that was
            fetched before holds any longer.
        retry_after: seconds that the server asks to wait, or None.
    """

    def __init__(
        self, message: str, *, transient: bool = False, denied: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.transient = transient
        self.denied = denied
        self.retry_after = retry_after


@dataclass(frozen=True)
class Remote:
    """Where a profile is, and how to ask for it.

    Attributes:
        url: as it was given; it names the profile in messages.
        profile_url: what GET is sent to.
        events_url: the event stream beside it, or None for a URL that is no control plane's.
        names: what a control plane's URL says of the profile behind it: `project_id`, and `id` where it names one.
    """

    url: str
    profile_url: str
    events_url: str | None
    loopback: bool
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str) -> Remote:
        """Check a URL.

        Raises:
            PolicyError: it is not a URL that a profile may be fetched from.
        """
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            parts.port  # noqa: B018  (out of range: ValueError)
        except ValueError:
            raise PolicyError("the policy's URL cannot be read") from None
        if parts.username is not None or parts.password is not None:
            raise PolicyError(f"the policy's URL must not hold a password; the key goes into {KEY_VARIABLE}")
        if not host:
            raise PolicyError(f"the policy's URL {quoted(url, 200)} names no host")
        loopback = _is_loopback(host)
        if parts.scheme == "http" and not loopback and host not in _plain_hosts():
            raise PolicyError(
                f"plain http to {host} would show the key and the policy to the network; use https, "
                f"or name the host in {PLAIN_HTTP_VARIABLE}"
            )
        bare = _without_slash(parts)
        if found := _POLICY.match(parts.path.rstrip("/")) or _PROJECT.match(parts.path.rstrip("/")):
            names = {name: unquote(part) for name, part in found.groupdict().items()}
            profile = bare if "id" in names else f"{bare}/policy"
            return cls(url, profile, f"{bare}/events", loopback, names)
        return cls(url, url, None, loopback)


@dataclass(frozen=True)
class Fetched:
    """A profile as it came, and the tag to ask for news with. `profile` is None: nothing has changed."""

    profile: PolicyProfile | None
    etag: str | None


def _without_slash(parts: SplitResult) -> str:
    return parts._replace(path=parts.path.rstrip("/"), query="", fragment="").geturl()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _plain_hosts() -> set[str]:
    return {name.strip().lower() for name in os.environ.get(PLAIN_HTTP_VARIABLE, "").split(",")}


def read_key(key: str | None = None) -> str | None:
    """The API key: the argument, else GUARDDB_API_KEY. Raises PolicyError when it cannot be one; never shows it."""
    key = key if key is not None else os.environ.get(KEY_VARIABLE) or None
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key.strip()):
        raise PolicyError(f"the API key ({KEY_VARIABLE}) holds characters that no key has")
    return key.strip() if key is not None else None


def headers(key: str | None, etag: str | None = None) -> dict[str, str]:
    """The headers of a request."""
    # (Uncompressed: how large an answer is is then known before it is unpacked.)
    told = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "guarddb"}
    if key is not None:
        told["Authorization"] = f"Bearer {key}"
    if etag is not None:
        told["If-None-Match"] = etag
    return told


def read_answer(status: int, answered: Mapping[str, str], body: bytes, remote: Remote) -> Fetched:
    """What an answer of `remote` means.

    Raises:
        FetchError: it is a failure.
        PolicyError: it is no valid profile, or not signed as GUARDDB_POLICY_KEY demands.
    """
    if status == 304:
        return Fetched(None, answered.get("etag"))
    if status != 200:
        raise _failure(status, answered, body)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise PolicyError("the answer is not JSON") from None
    if not isinstance(document, dict):
        raise PolicyError("the answer is not a policy profile")
    if public_key := os.environ.get(SIGNING_VARIABLE):
        check_signature(public_key, answered.get(SIGNATURE_HEADER), document)
        # Somebody in between has signed profiles of other names at hand, too: each that the server has ever sent.
        for name, expected in remote.names.items():
            if document.get(name) != expected:
                raise PolicyError(
                    f"the signed profile is another one: its {name} is not {quoted(expected, 100)}"
                )
    return Fetched(PolicyProfile.model_validate(document), answered.get("etag"))


def _failure(status: int, answered: Mapping[str, str], body: bytes) -> FetchError:
    code = message = ""
    try:
        error = json.loads(body)["error"]
        code, message = str(error["code"]), quoted(str(error["message"]), 200)[1:-1]
    except (ValueError, RecursionError, LookupError, TypeError):
        pass  # not a control plane's error: a proxy's, perhaps
    told = f"the server answers {status}" + (f": {message}" if message else "")
    if status == 401 and not os.environ.get(KEY_VARIABLE):
        told += f" ({KEY_VARIABLE} is not set)"
    return FetchError(
        told,
        transient=status in TRANSIENT,
        denied=status == 401 or (status == 403 and code == "agent_disabled"),
        retry_after=retry_after(answered.get("retry-after")),
    )


def retry_after(header: str | None) -> float | None:
    """The seconds that a Retry-After header asks for: a number, or a date.

    >>> retry_after("120")
    120.0
    """
    if header is None:
        return None
    if header.strip().isdigit() and len(header.strip()) < 9:
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def backoff(attempt: int, asked: float | None = None) -> float:
    """Seconds to wait before attempt `attempt` + 1: doubling, with jitter, never less than the server asks for."""
    own = _random.uniform(0.5, 1.0) * min(LONGEST_BACKOFF, 0.2 * 2.0 ** min(attempt, 10))
    return own if asked is None else asked + own


def check_signature(public_key: str, signature: str | None, document: Any) -> None:
    """Check that `document` is signed (Ed25519 over its canonical JSON: keys sorted, no blanks, UTF-8).

    Raises:
        PolicyError: it is not, or the key cannot be used.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise PolicyError(
            f'{SIGNING_VARIABLE} is set; checking it needs pip install "guarddb[http]"'
        ) from None
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
    except ValueError:
        raise PolicyError(f"{SIGNING_VARIABLE} is not an Ed25519 public key in base64") from None
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    try:
        key.verify(base64.b64decode(signature or "", validate=True), canonical)
    except (InvalidSignature, ValueError):
        missing = "is not signed" if not signature else "is not signed with this key"
        raise PolicyError(f"the profile {missing} ({SIGNING_VARIABLE})") from None


def require_httpx() -> Any:
    """The module httpx. Raises PolicyError that names the extra."""
    try:
        import httpx
    except ImportError:
        raise PolicyError('fetching a policy by its URL needs pip install "guarddb[http]"') from None
    return httpx


def trust(loopback: bool) -> dict[str, Any]:
    """Whom a client of httpx trusts: proxies and certificates of the environment, and of this machine itself no proxy.

    The certificates are read once: httpx would read all of them for each client, which takes longer than most requests do,
    and on an event loop everybody waits for it.
    """
    of_environment = tuple(os.environ.get(name, "") for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    return {"trust_env": not loopback, "verify": _certificates(not loopback, of_environment)}


@lru_cache(maxsize=4)
def _certificates(trust_env: bool, of_environment: tuple[str, ...]) -> ssl.SSLContext:
    context: ssl.SSLContext = require_httpx().create_ssl_context(trust_env=trust_env)
    return context


def fetch_once(url: str) -> PolicyProfile:
    """The profile at a URL, as it is now, with a few attempts.

    Raises:
        PolicyError: the URL may not be used, or there is no valid profile.
    """
    httpx = require_httpx()
    remote = Remote.parse(url)
    key = read_key()
    with httpx.Client(timeout=TIMEOUT, **trust(remote.loopback)) as client:
        for attempt in range(4):
            try:
                with client.stream("GET", remote.profile_url, headers=headers(key)) as answer:
                    body = _read_body(answer.iter_bytes())
                fetched = read_answer(answer.status_code, answer.headers, body, remote)
                assert fetched.profile is not None  # no If-None-Match was sent
                return fetched.profile
            except PolicyError as ex:
                raise PolicyError(f"the policy at {url} is not valid: {ex}") from None
            except FetchError as ex:
                error, transient, asked = str(ex), ex.transient, ex.retry_after
            except httpx.HTTPError as ex:
                error, transient, asked = describe(ex), True, None
            if not transient or (asked or 0) > TIMEOUT:
                break
            time.sleep(backoff(attempt, asked))
    raise PolicyError(f"the policy at {url} cannot be fetched: {error}")


def _read_body(pieces: Iterable[bytes]) -> bytes:
    """All of an answer. Raises FetchError when it is too large, or takes too long."""
    body = bytearray()
    ends = time.monotonic() + WHOLE_TIMEOUT
    for piece in pieces:
        body += piece
        if len(body) > MAX_BYTES:
            raise FetchError(TOO_LARGE)
        if time.monotonic() > ends:
            raise FetchError(TOO_SLOW, transient=True)
    return bytes(body)


def describe(error: Exception) -> str:
    """An httpx error in words. Its own text may hold the URL only, never a header."""
    kind = type(error).__name__
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", kind).lower()
    text = str(error).strip()
    return f"{words} ({quoted(text, 200)[1:-1]})" if text else words
