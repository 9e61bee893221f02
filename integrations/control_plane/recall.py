"""What this server has read of keys, profiles and catalogs, and answers from as long as nothing of it was changed.

A poller asks every few seconds whether there is news, and hardly ever there is: that must not cost a transaction. Every value
is kept with the state of the database that it was read in, and used in that state only. So a withdrawn key does not work
any more from the answer to its withdrawal on, at every server of the database.
"""

from __future__ import annotations

import asyncio
import hmac
import threading
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from cachetools import LRUCache, TTLCache
from sqlalchemy import select
from starlette.responses import JSONResponse

from guarddb import Catalog, PolicyProfile

from .store import policies
from .store.columns import now
from .store.database import Database
from .store.keys import Principal, authenticate, key_id_of, keyed_digest
from .store.tables import CatalogSnapshot, Policy

Value = TypeVar("Value")

#: Seconds that anything is kept: what somebody writes into the database past its servers is noticed too.
_SECONDS = 15.0
#: Seconds that a key is remembered as one that was right.
_WAS_RIGHT = 3600.0


class _Kept(Generic[Value]):
    """Values, each with the state that it was read in."""

    def __init__(self, size: int) -> None:
        self._lock = threading.Lock()
        self._values: TTLCache[Hashable, tuple[int, Value]] = TTLCache(size, _SECONDS)

    def any(self, key: Hashable) -> Value | None:
        """The value as it was read, whatever happened since."""
        with self._lock:
            found = self._values.get(key)
        return found[1] if found is not None else None

    def of(self, key: Hashable, state: int) -> tuple[Value] | None:
        """The value, in a tuple of one, if the state is still the one that it was read in."""
        with self._lock:
            found = self._values.get(key)
        return found[1:] if found is not None and found[0] == state else None

    def keep(self, key: Hashable, state: int, value: Value) -> None:
        """`state`: as it was before the value was read."""
        with self._lock:
            self._values[key] = (state, value)


@dataclass(frozen=True)
class KnownKey:
    """A key that was shown and found right."""

    digest: str
    expires_at: datetime | None
    last_used_at: datetime | None
    principal: Principal

    @property
    def works(self) -> bool:
        """Whether its time is not over."""
        return self.expires_at is None or self.expires_at > now()


@dataclass(frozen=True)
class KnownPolicy:
    """A stored profile, ready to be answered with."""

    row: Policy
    document: dict[str, Any]
    body: bytes


class Recall:
    """The memory of one server. What is missing is read in a thread."""

    def __init__(self, database: Database, secret: str) -> None:
        self._database = database
        self._secret = secret
        self._keys: _Kept[KnownKey] = _Kept(10_000)
        self._right: TTLCache[str, None] = TTLCache(10_000, _WAS_RIGHT)
        self._policies: _Kept[KnownPolicy] = _Kept(1_000)
        self._digests: _Kept[str | None] = _Kept(1_000)
        # These follow from what they are kept by, in any state. Both take longer to read than a statement to judge.
        self._lock = threading.Lock()
        self._profiles: LRUCache[tuple[str, int], PolicyProfile] = LRUCache(256)
        self._catalogs: LRUCache[str, Catalog] = LRUCache(16)

    def shown(self, text: str) -> KnownKey | None:
        """The key that `text` is, if it was shown lately. It may have been withdrawn since."""
        key_id = key_id_of(text)
        known = self._keys.any(key_id) if key_id is not None else None
        if known is None or not hmac.compare_digest(keyed_digest(self._secret, text), known.digest):
            return None
        return known

    def was_right(self, text: str) -> bool:
        """Whether this is a key that was right lately: withdrawn since then, and nobody's guess."""
        with self._lock:
            return keyed_digest(self._secret, text) in self._right

    def still(self, known: KnownKey, state: int) -> bool:
        """Whether nothing has changed since the key was read."""
        return self._keys.of(known.principal.key_id, state) == (known,)

    async def read_key(self, text: str) -> KnownKey | None:
        """The key that `text` is, as the database has it now; None: it is none."""
        return await asyncio.to_thread(self._read_key, text)

    def _read_key(self, text: str) -> KnownKey | None:
        state = self._database.state()
        with self._database.read() as session:
            found = authenticate(session, self._secret, text, state)
        if found is None:
            return None
        key, principal = found
        known = KnownKey(key.digest, key.expires_at, key.last_used_at, principal)
        self._keys.keep(key.id, state, known)
        with self._lock:
            self._right[key.digest] = None
        return known

    async def policy(self, project_id: str, policy_id: str, state: int) -> KnownPolicy:
        """The project's profile with that identifier. Raises NotFound."""
        found = self._policies.of((project_id, policy_id), state)
        return found[0] if found else await asyncio.to_thread(self._read_policy, project_id, policy_id)

    def _read_policy(self, project_id: str, policy_id: str) -> KnownPolicy:
        state = self._database.state()
        with self._database.read() as session:
            policy = policies.find(session, project_id, policy_id)
        document = policies.wire(policy)
        known = KnownPolicy(policy, document, bytes(JSONResponse(document).body))
        self._policies.keep((project_id, policy_id), state, known)
        return known

    def profile(self, policy: Policy) -> PolicyProfile:
        """The profile in a row, as guarddb's own model."""
        key = (policy.id, policy.version)
        with self._lock:
            profile = self._profiles.get(key)
        if profile is None:
            profile = PolicyProfile.model_validate(policies.wire(policy))
            with self._lock:
                self._profiles[key] = profile
        return profile

    async def catalog(self, project_id: str, state: int) -> Catalog | None:
        """The catalog snapshot of a project, if one was pushed."""
        if found := self._digests.of(project_id, state):
            with self._lock:
                catalog = self._catalogs.get(found[0]) if found[0] is not None else None
            if catalog is not None or found[0] is None:
                return catalog
        return await asyncio.to_thread(self.read_catalog, project_id)

    def read_catalog(self, project_id: str) -> Catalog | None:
        """The same, as the database has it now."""
        state = self._database.state()
        digest_of = select(CatalogSnapshot.digest).where(CatalogSnapshot.project_id == project_id)
        with self._database.read() as session:
            digest = session.scalar(digest_of)
            with self._lock:
                catalog = self._catalogs.get(digest) if digest is not None else None
            if digest is not None and catalog is None:
                snapshot = session.get_one(CatalogSnapshot, project_id)
                digest, catalog = snapshot.digest, Catalog.from_json(snapshot.document)
                with self._lock:
                    self._catalogs[digest] = catalog
        self._digests.keep(project_id, state, digest)
        return catalog
