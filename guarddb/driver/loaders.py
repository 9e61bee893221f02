"""Loaders of masked columns, under type OIDs that no server gives out: a masked value is hashed or dropped, never decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import pq
from psycopg.adapt import Loader

if TYPE_CHECKING:
    from psycopg.abc import AdaptContext, Buffer

    from guarddb.runtime.keyed_hash import KeyedHash

#: The last of the 2^32 type OIDs.
HASH_OID = 0xFFFFFF01
NULL_OID = 0xFFFFFF02


class HashLoader(Loader):
    """Loads a masked column that arrives as text: hashed, never decoded. NULL never gets here."""

    format = pq.Format.TEXT

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        conn: Any = self.connection
        self._hash: KeyedHash | None = conn._guard.keyed_hash
        self._encoding: str = conn._guard.encoding
        if self._hash is not None and self._encoding == "utf-8":
            self.load = self._hash  # type: ignore[method-assign]

    def load(self, data: Buffer) -> str | None:
        # Another encoding: the hash must not depend on it.
        return self._hash(bytes(data).decode(self._encoding).encode()) if self._hash is not None else None


class HashBinaryLoader(HashLoader):
    # The binary form of a text is its bytes, so that a hash is the same in both formats.
    format = pq.Format.BINARY


class NullLoader(Loader):
    """Loads nothing, whatever is there."""

    format = pq.Format.TEXT

    def load(self, data: Buffer) -> None:
        return None


class NullBinaryLoader(NullLoader):
    format = pq.Format.BINARY


def register_loaders(adapters: Any) -> None:
    """Make the reserved OIDs known; cursors made from now on have them too."""
    adapters.register_loader(HASH_OID, HashLoader)
    adapters.register_loader(HASH_OID, HashBinaryLoader)
    adapters.register_loader(NULL_OID, NullLoader)
    adapters.register_loader(NULL_OID, NullBinaryLoader)


def has_loaders(adapters: Any, format: pq.Format) -> bool:
    """Whether these loaders are the ones that are registered."""
    hashes, nulls = (
        (HashLoader, NullLoader) if format == pq.Format.TEXT else (HashBinaryLoader, NullBinaryLoader)
    )
    return adapters.get_loader(HASH_OID, format) is hashes and adapters.get_loader(NULL_OID, format) is nulls
