"""Signed profiles: Ed25519 over the canonical JSON of the body, in a header beside it.

A client that has the public key (`GUARDDB_POLICY_KEY`) takes no profile that somebody between it and the server,
or somebody who can write to the server's database only, has made up.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

#: The header that carries the signature, in base64.
HEADER = "Guarddb-Signature"


def canonical(document: Any) -> bytes:
    """The bytes that are signed: keys sorted, no blanks, UTF-8.

    >>> canonical({"b": 1, "a": ["é"]}).decode()
    '{"a":["é"],"b":1}'
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Signer:
    """Signs with one private key (32 bytes). Raises ValueError when it has another length."""

    def __init__(self, private_key: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        #: the public key in base64, as clients take it
        self.public_key = base64.b64encode(public).decode()

    def sign(self, document: Any) -> str:
        """The signature in base64."""
        return base64.b64encode(self._key.sign(canonical(document))).decode()
