"""A small document and the signatures over it, in one file (docs/trust.md): bytes <-> value. No I/O.

    swupd-signed 1
    role: head
    signature: <key id> <base64>

    <payload>

A signature covers the first two lines, an empty line and the payload, so that it is good for one role only. Nothing of
the payload is looked at before enough signatures are right.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from swupd.errors import DocumentError
from swupd.stream import is_digest

if TYPE_CHECKING:
    from swupd.publickey import KeyHolder, PublicKey

_MAGIC = "swupd-signed 1"
_MAX_SIGNATURES = 64
_MAX_SIGNATURE_TEXT = 4096


class Envelope(NamedTuple):
    """A document as it travels. signatures: (key id, signature), each key at most once."""

    role: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...] = ()

    @property
    def signed(self) -> bytes:
        """The bytes that signatures cover."""
        return f"{_MAGIC}\nrole: {self.role}\n\n".encode("ascii") + self.payload

    def signers(self, keys: Mapping[str, PublicKey]) -> frozenset[str]:
        """The ids of those keys whose signature is right; what other keys signed counts for nothing."""
        signed = self.signed
        return frozenset(name for name, value in self.signatures if name in keys and keys[name].verifies(value, signed))

    def signed_by(self, holder: KeyHolder) -> Envelope:
        """The document with one signature more, or with that key's renewed."""
        others = tuple(pair for pair in self.signatures if pair[0] != holder.public.id)
        return self._replace(signatures=(*others, (holder.public.id, holder.sign(self.signed))))


def serialize(envelope: Envelope) -> bytes:
    """The bytes of a document."""
    lines = [_MAGIC, f"role: {envelope.role}"]
    lines += [f"signature: {name} {base64.b64encode(value).decode()}" for name, value in envelope.signatures]
    return ("\n".join(lines) + "\n\n").encode("ascii") + envelope.payload


def parse(data: bytes, role: str) -> Envelope:
    """Reads the envelope, and nothing in it. Raises DocumentError."""
    head, blank, payload = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as e:
        raise DocumentError(f"it is no signed {role} document") from e
    if not blank or lines[0] != _MAGIC or lines[1:2] != [f"role: {role}"]:
        raise DocumentError(f"it is no signed {role} document")
    if len(lines) - 2 > _MAX_SIGNATURES:
        raise DocumentError("it has too many signatures")
    signatures = tuple(map(_signature, lines[2:]))
    if len({name for name, _ in signatures}) != len(signatures):
        raise DocumentError("a key signs it twice")
    return Envelope(role, payload, signatures)


def _signature(line: str) -> tuple[str, bytes]:
    words = line.split(" ")
    if len(words) != 3 or words[0] != "signature:" or not is_digest(words[1]) or len(line) > _MAX_SIGNATURE_TEXT:
        raise DocumentError("a signature line is malformed")
    try:
        value = base64.b64decode(words[2], validate=True)
    except (binascii.Error, ValueError) as e:
        raise DocumentError("a signature is no base64") from e
    return words[1], value
