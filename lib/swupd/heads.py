"""The head of a stream: the one small signed document that says which release is the newest. Values, no I/O."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from swupd import envelope, jsontext
from swupd.envelope import Envelope
from swupd.errors import DocumentError
from swupd.lengths import Named
from swupd.stream import MAX_MANIFEST, MAX_VERSION, is_digest

ROLE = "head"
UNDERSTOOD = frozenset[str]()
"""Names in `requires` that this code knows the meaning of."""


class Head(NamedTuple):
    """What is the newest release, said by whom is online.

    product: which devices it is for, "" for all. digest, length: SHA-256 and bytes of its MoM.
    issued, expires: when it was signed, and from when on its silence tells.
    minimum: no release before this one may be installed any more.
    rollout: kept for devices that know phased rollouts. requires: what a reader must understand.
    """

    format: int
    version: int
    digest: str
    length: int
    issued: datetime.datetime
    expires: datetime.datetime
    product: str = ""
    minimum: int = 1
    rollout: Mapping[str, Any] = MappingProxyType({})
    requires: tuple[str, ...] = ()


def payload(head: Head) -> bytes:
    """The bytes that are signed."""
    return jsontext.dump(
        {
            "format": head.format,
            "product": head.product,
            "version": head.version,
            "mom": {"sha256": head.digest, "length": head.length},
            "issued": jsontext.moment(head.issued),
            "expires": jsontext.moment(head.expires),
            "minimum": head.minimum,
            "rollout": dict(head.rollout),
            "requires": list(head.requires),
        }
    )


def read(signed: Envelope) -> Head:
    """What a head says, once its signatures were found right. Raises DocumentError."""
    top = jsontext.Fields(jsontext.load(signed.payload))
    mom = jsontext.Fields(top.table("mom"))
    head = Head(
        format=top.number("format", 1),
        version=top.number("version", 1),
        digest=mom.text("sha256"),
        length=mom.number("length", 1),
        issued=top.moment("issued"),
        expires=top.moment("expires"),
        product=top.text("product", ""),
        minimum=top.number("minimum", 1, 1),
        rollout=top.table("rollout") if "rollout" in top else {},
        requires=top.texts("requires"),
    )
    if not is_digest(head.digest) or head.length > MAX_MANIFEST or head.version > MAX_VERSION:
        raise DocumentError("its MoM is named by what is no hash, length or version")
    if head.minimum > head.version:
        raise DocumentError("it declares its own release to be too old")
    unknown = set(head.requires) - UNDERSTOOD
    if unknown:
        raise DocumentError(f"it needs a newer agent, one that knows {min(unknown)[:40]!r}")
    return head


def parse(data: bytes) -> Envelope:
    """The envelope alone. Raises DocumentError."""
    return envelope.parse(data, ROLE)


def release_payload(version: int, mom: Named) -> bytes:
    """What a further release key signs of a MoM: the document `<v>/Manifest.MoM.signed`."""
    return jsontext.dump({"version": version, "sha256": mom.digest, "length": mom.length})


def read_release(signed: Envelope) -> Named:
    """Which MoM such a document is about. Raises DocumentError."""
    top = jsontext.Fields(jsontext.load(signed.payload))
    return Named(top.text("sha256"), top.number("length", 1))
