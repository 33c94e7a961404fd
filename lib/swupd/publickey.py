"""Public keys by the digest of what they are, as values: who checks their signatures is given with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

Verify = Callable[[bytes, bytes, bytes], bool]
"""Whether the key of a DER made a signature of some bytes: DER, signature, bytes."""


class PublicKey(NamedTuple):
    """A public key. der: its SubjectPublicKeyInfo (RFC 5280, 4.1)."""

    der: bytes
    verify: Verify

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other.der == self.der

    def __ne__(self, other: object) -> bool:
        # A tuple has one of its own, which would compare who verifies, too.
        return not self == other

    def __hash__(self) -> int:
        return hash(self.der)

    @property
    def id(self) -> str:
        """SHA-256 of the DER in hex: a key has one name only."""
        return hashlib.sha256(self.der).hexdigest()

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether a signature of some bytes is this key's."""
        return self.verify(self.der, signature, data)


class KeyHolder(NamedTuple):
    """Who can sign: a public key, and what turns bytes into its signature (a private key, an HSM, a command)."""

    public: PublicKey
    sign: Callable[[bytes], bytes]
