"""What a device with a root of trust believes: bytes, time and floors in, believed values out. No I/O (docs/trust.md).

The order is always: bytes, length, hash or signatures, and only then what they say.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from swupd import heads, jsontext, roots
from swupd.agent.trust import HERE, Checks, parse_mom
from swupd.envelope import Envelope
from swupd.errors import (
    BundleTrustError,
    DocumentError,
    HashMismatch,
    HeadError,
    OlderThanSeen,
    Revoked,
    RootError,
    SignatureError,
    Stale,
    WrongProduct,
)
from swupd.heads import Head
from swupd.lengths import Named
from swupd.manifest import Entry, Manifest
from swupd.roots import Role, Root
from swupd.stream import PRODUCT_KEY, is_digest

_TAMPERED = "The server may have been tampered with; nothing was changed. Try another mirror, or tell the publisher."
_KEPT_MOMS = 8
_EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)


class Floors(NamedTuple):
    """What a device has seen and does not go back behind.

    version: the highest that a head and its MoM named, 0 for none; digest: SHA-256 of that MoM.
    signed: when the newest believed head was issued, Unix seconds; by: ids of the keys that signed it.
    moms: SHA-256 and bytes of MoMs that were believed, by version; the last few.
    ticked: the time that had passed at least when this was written, without any clock's word: since the newest signed
    time, as long as this device has run. boot, uptime: in which boot that was, and how many seconds after its start.
    """

    version: int = 0
    digest: str = ""
    signed: int = 0
    by: tuple[str, ...] = ()
    moms: Mapping[int, Named] = MappingProxyType({})
    ticked: int = 0
    boot: str = ""
    uptime: int = 0

    def at(self, boot: str, uptime: int) -> int:
        """The least that the time can be, in Unix seconds, so long after the start of a boot."""
        return self.ticked + (max(0, uptime - self.uptime) if boot == self.boot else uptime) if self.ticked else 0

    def ticking(self, boot: str, uptime: int) -> Floors:
        """These floors as they are to be kept at that moment."""
        return self._replace(ticked=max(self.signed, self.at(boot, uptime)), boot=boot, uptime=uptime)


def dump_floors(floors: Floors) -> bytes:
    """The bytes that a device keeps."""
    moms = {str(v): {"sha256": n.digest, "length": n.length} for v, n in floors.moms.items()}
    return jsontext.dump(
        {
            "version": floors.version,
            "digest": floors.digest,
            "signed": floors.signed,
            "by": list(floors.by),
            "moms": moms,
            "ticked": floors.ticked,
            "boot": floors.boot,
            "uptime": floors.uptime,
        }
    )


def load_floors(data: bytes) -> Floors:
    """Reads them back. Raises DocumentError."""
    top = jsontext.Fields(jsontext.load(data))
    moms = {int(v): _named(value) for v, value in top.table("moms").items() if v.isascii() and v.isdigit()}
    return Floors(
        top.number("version", 0),
        top.text("digest"),
        top.number("signed", 0),
        top.texts("by"),
        moms,
        top.number("ticked", 0),
        top.text("boot"),
        top.number("uptime", 0),
    )


def _named(value: Any) -> Named:
    fields = jsontext.Fields(value)
    found = Named(fields.text("sha256"), fields.number("length", 0))
    if not is_digest(found.digest):
        raise DocumentError("a MoM is named by what is no hash")
    return found


class Anchor(NamedTuple):
    """What is believed at a moment.

    clock: what the device's own clock shows, or the time stamp of its image, if that is later.
    passed: how far time has come at least, by what was signed. product: what the device is, "" where it does not know.
    checks: who says whether signatures are right.
    """

    root: Root
    floors: Floors
    clock: datetime.datetime
    passed: datetime.datetime = _EPOCH
    product: str = ""
    checks: Checks = HERE

    @property
    def now(self) -> datetime.datetime:
        """The time to believe."""
        return max(self.clock, self.passed)

    def follow(self, data: bytes) -> Anchor:
        """What is believed once the next root is. Raises RootError.

        The floors that keys have raised fall with them: whoever stole a key cannot have spoilt a device for good.
        """
        root = roots.next_after(self.root, data, self.checks.key)
        if not set(self.floors.by) - set(root.roles[roots.HEAD].keys):
            return self._replace(root=root)
        floors = self.floors._replace(version=0, digest="", signed=0, by=(), ticked=0)
        return self._replace(root=root, floors=floors, passed=_EPOCH)

    def check_root(self) -> None:
        """Raises RootError where the root has expired and no newer one is to be had."""
        if self.now >= self.root.expires:
            raise RootError(
                f"root {self.root.number} has expired on {self.root.expires:%Y-%m-%d}, and there is no newer one",
                "Check the clock. If it is right, the publisher must publish a new root, or somebody holds it back.",
            )

    def head(self, data: bytes, stream_format: int | None) -> tuple[Head, frozenset[str]]:
        """The head, and the ids of those who signed it. stream_format: None for any.

        Raises HeadError, WrongProduct, OlderThanSeen.
        """
        role = self.root.roles[roots.HEAD]
        try:
            signed = heads.parse(data)
        except DocumentError as e:
            raise HeadError(
                f"the server's head cannot be read: {e.problem}", "Check the URL; try another mirror."
            ) from e
        by = signed.signers(self.root.role_keys(role))
        if len(by) < role.threshold:
            raise HeadError(f"the head is not signed by {role.threshold} of the keys that may", _TAMPERED)
        try:
            head = heads.read(signed)
        except DocumentError as e:
            raise HeadError(f"the head cannot be believed: {e.problem}", "Tell the publisher.") from e
        if stream_format is not None and head.format != stream_format:
            raise HeadError(f"the head is of format {head.format}, not {stream_format}", _TAMPERED)
        self._check_product(head.product, "the head")
        floor = self.floors
        if head.version < floor.version or (head.version == floor.version and _seconds(head.issued) < floor.signed):
            raise OlderThanSeen(
                f"the server offers version {head.version} of {head.issued:%Y-%m-%d %H:%M}, but this device has seen"
                f" version {floor.version} of {_moment(floor.signed):%Y-%m-%d %H:%M}",
                "The mirror is out of date, or somebody replays old files. Try another mirror, or again later.",
            )
        if head.version == floor.version and floor.digest and head.digest != floor.digest:
            raise HashMismatch(f"there is a second version {head.version} beside the one seen before", _TAMPERED)
        return head, by

    def check_fresh(self, head: Head) -> None:
        """Raises Stale where the head has expired."""
        if self.now >= head.expires:
            raise Stale(
                f"nobody has vouched for this stream since {head.issued:%Y-%m-%d}, and the word given then ended on"
                f" {head.expires:%Y-%m-%d}",
                "Check the clock and try another mirror. If both are right, the publisher is silent or is kept so.",
            )

    def check_allowed(self, version: int, head: Head) -> None:
        """Raises Revoked for a release that the publisher does not want to be installed any more."""
        if version < head.minimum:
            raise Revoked(
                f"version {version} is too old: the publisher allows {head.minimum} and newer", "Run: swupd update"
            )

    def mom(self, data: bytes, named: Named, version: int) -> Manifest:
        """A MoM by its hash. Raises HashMismatch, MomError, WrongProduct."""
        if not is_named(data, named):
            raise HashMismatch(f"the manifest of version {version} is not the one that was vouched for", _TAMPERED)
        found = parse_mom(data, version)
        self._check_product(found.header(PRODUCT_KEY) or "", f"version {version}")
        return found

    def release_signers(self, data: bytes, signature: bytes | None) -> frozenset[str]:
        """The ids of the release keys that have signed a MoM by PKCS#7. Raises SignatureError for what is none."""
        return self._signers(data, signature, self.root.roles[roots.RELEASE])

    def release_countersigners(self, signed: Envelope, named: Named) -> frozenset[str]:
        """The ids of the release keys that have signed a MoM by its hash."""
        by = signed.signers(self.root.role_keys(self.root.roles[roots.RELEASE]))
        return by if heads.read_release(signed) == named else frozenset()

    def check_release(self, version: int, by: frozenset[str]) -> None:
        """Raises SignatureError unless enough release keys have signed."""
        threshold = self.root.roles[roots.RELEASE].threshold
        if len(by) < threshold:
            raise SignatureError(
                f"version {version} is signed by {len(by)} of the keys that may release, and needs {threshold}",
                _TAMPERED,
            )

    def needs_signature(self, bundle: str) -> bool:
        """Whether a bundle's manifest must be signed by itself."""
        return self.root.bundle_rule(bundle)[0] is not None

    def bundle(self, found: Manifest, entry: Entry, data: bytes, signature: bytes | None) -> Manifest:
        """A bundle's manifest, whose hash is right, held against who may ship it. Raises BundleTrustError."""
        role, delegation = self.root.bundle_rule(entry.name)
        if role is not None:
            try:
                by = self._signers(data, signature, role)
            except SignatureError as e:
                raise BundleTrustError(
                    f"the signature of bundle {entry.name} is unreadable: {e.problem}", _TAMPERED
                ) from e
            if len(by) < role.threshold:
                raise BundleTrustError(
                    f"bundle {entry.name} is signed by {len(by)} of the keys that may ship it, needs {role.threshold}",
                    _TAMPERED,
                )
        outside = delegation.outside(found) if delegation is not None else ""
        if outside:
            raise BundleTrustError(
                f"bundle {entry.name} ships {outside[:200]}, which its signer may not", "Tell the publisher."
            )
        return found

    def seen(self, head: Head, by: frozenset[str]) -> Anchor:
        """What is believed once the head and the MoM that it names agree: the floors are raised."""
        floors = self.floors._replace(
            version=head.version, digest=head.digest, signed=_seconds(head.issued), by=tuple(sorted(by))
        )
        return self._replace(floors=floors, passed=max(self.passed, min(head.issued, head.expires)))

    def knows(self, version: int) -> Named | None:
        """The hash of a MoM that was believed before."""
        return self.floors.moms.get(version)

    def remembering(self, version: int, named: Named) -> Anchor:
        """What is believed once a MoM was."""
        moms = {v: n for v, n in self.floors.moms.items() if v != version}
        kept = dict(list(moms.items())[-(_KEPT_MOMS - 1) :])
        return self._replace(floors=self.floors._replace(moms={**kept, version: named}))

    def _signers(self, data: bytes, signature: bytes | None, role: Role) -> frozenset[str]:
        if not signature:
            return frozenset()
        return self.checks.signers(data, signature, self.root.role_keys(role))

    def _check_product(self, product: str, what: str) -> None:
        if self.product and product != self.product:
            raise WrongProduct(
                f"{what} is for {product[:80] or 'no product in particular'}, and this device is {self.product}",
                "Check the URL (swupd info shows it).",
            )


def is_named(data: bytes, named: Named) -> bool:
    """Whether some bytes are those that a hash and a length name."""
    return len(data) == named.length and hashlib.sha256(data).hexdigest() == named.digest


def _seconds(when: datetime.datetime) -> int:
    return int(when.timestamp())


def _moment(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
