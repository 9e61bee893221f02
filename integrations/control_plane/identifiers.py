"""Identifiers: a prefix that says what it is of, and 26 characters that sort by the time they were made."""

from __future__ import annotations

import re
import secrets
import threading
import time
from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread

#: What may stand in a path as an identifier. Anything else is an identifier that nothing has.
PATTERN = re.compile(r"[a-z]{3}_[A-Za-z0-9_-]{1,64}")


_lock = threading.Lock()
_last = 0


def new_id(prefix: str) -> str:
    """A new identifier: 48 bits of milliseconds, then 80 random bits; of two that a process makes the later one is larger.

    >>> new_id("pol").startswith("pol_"), len(new_id("pol"))
    (True, 30)
    """
    global _last
    with _lock:
        value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
        if value <= _last:
            value = _last + 1 + secrets.randbits(64)
        _last = value
    return _written(prefix, value)


def first_id(prefix: str, moment: datetime) -> str:
    """The smallest identifier that can have been made at that moment.

    >>> first_id("dlv", datetime.now(UTC)) < new_id("dlv") < first_id("dlv", datetime(2500, 1, 1, tzinfo=UTC))
    True
    """
    return _written(prefix, int(moment.timestamp() * 1000) << 80)


def _written(prefix: str, value: int) -> str:
    return f"{prefix}_" + "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` can be an identifier with that prefix."""
    return text.startswith(f"{prefix}_") and PATTERN.fullmatch(text) is not None
