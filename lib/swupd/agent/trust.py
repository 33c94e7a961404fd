"""What a device may believe: bytes in, trusted values out. No I/O.

Signatures and digests are checked over the bytes as received, and only then are those parsed.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from swupd import hashing, manifest, stream
from swupd.errors import HashMismatch, InvalidOption, ManifestError, MomError, ServerUnreachable, SignatureError
from swupd.manifest import Entry, Manifest

if TYPE_CHECKING:
    from swupd.publickey import PublicKey


class Checks(Protocol):
    """Whoever says whether keys and signatures are right."""

    def trust_file(self, pem: bytes, now: datetime.datetime) -> None: ...
    def signed(self, data: bytes, signature: bytes, pem: bytes, now: datetime.datetime) -> None: ...
    def key(self, der: bytes) -> PublicKey: ...
    def signers(self, data: bytes, signature: bytes, keys: Mapping[str, PublicKey]) -> frozenset[str]: ...


class Here:
    """Checks in this process. What that takes is loaded when it is needed: 0.1 s, which few commands need."""

    def trust_file(self, pem: bytes, now: datetime.datetime) -> None:
        """Raises SignatureError where a trust file cannot be trusted, as signatures.load_trust does."""
        from swupd import signatures  # noqa: PLC0415

        signatures.load_trust(pem, now)

    def signed(self, data: bytes, signature: bytes, pem: bytes, now: datetime.datetime) -> None:
        """Raises SignatureError unless a signature is right by a trust file, as signatures.verify does."""
        from swupd import signatures  # noqa: PLC0415

        signatures.verify(data, signature, signatures.load_trust(pem, now), now)

    def key(self, der: bytes) -> PublicKey:
        """As crypto.from_der."""
        from swupd import crypto  # noqa: PLC0415

        return crypto.from_der(der)

    def signers(self, data: bytes, signature: bytes, keys: Mapping[str, PublicKey]) -> frozenset[str]:
        """As signatures.signers."""
        from swupd import signatures  # noqa: PLC0415

        return signatures.signers(data, signature, keys)


HERE = Here()


class Verifier(NamedTuple):
    """Checks what a stream sends.

    trust_pem: the trust file's bytes; None where the user switched signatures off.
    now: the time that certificates are held against, with time zone.
    """

    trust_pem: bytes | None
    now: datetime.datetime
    checks: Checks = HERE

    def check_trust_file(self) -> None:
        """Raises SignatureError where the trust file itself cannot be trusted."""
        if self.trust_pem is not None:
            self.checks.trust_file(self.trust_pem, self.now)

    def signed(self, what: str, data: bytes, signature: bytes | None) -> bytes:
        """The same bytes, once their signature was found right. Raises SignatureError."""
        if self.trust_pem is None:
            return data
        if not signature:
            raise SignatureError(
                f"{what} is not signed", "The publisher must sign it; do not trust this server as it is."
            )
        try:
            self.checks.signed(data, signature, self.trust_pem, self.now)
        except SignatureError as e:
            raise SignatureError(
                f"{what} does not verify: {e.problem}",
                e.hint or "The server may have been tampered with, or the trust file is for another stream.",
            ) from e
        return data

    def latest(self, data: bytes, signature: bytes | None, check: bool = True) -> tuple[int, ...]:
        """The versions that a `latest` file lists, newest first. Raises SignatureError, ServerUnreachable."""
        if check:
            self.signed("the file that names the latest version", data, signature)
        try:
            return tuple(stream.version(line.strip()) for line in data.decode("ascii").splitlines() if line.strip())
        except (UnicodeDecodeError, InvalidOption) as e:
            raise ServerUnreachable(
                "the server's answer names no version", "Check that the URL is that of an update stream."
            ) from e

    def mom(self, data: bytes, signature: bytes | None, version: int) -> Manifest:
        """The manifest of manifests of a release. Raises SignatureError, MomError."""
        self.signed(f"the manifest of version {version}", data, signature)
        return parse_mom(data, version)


def parse_mom(data: bytes, version: int) -> Manifest:
    """The manifest of manifests in bytes that are believed. Raises MomError."""
    try:
        found = manifest.parse(data, manifest.MOM, version)
        if found.entry(manifest.OS_CORE) is None:
            raise ManifestError("the release has no bundle os-core")
        names = [e.name for e in found.entries if e.kind == "M"]
        if len(set(names)) != len(names) or not all(map(stream.is_bundle_name, names)):
            raise ManifestError("the manifest of manifests names a bundle twice or oddly")
    except ManifestError as e:
        raise MomError(f"version {version} cannot be read: {e.problem}", "Tell the publisher.") from e
    return found


def bundle(data: bytes, entry: Entry, like: Iterable[Entry] = ()) -> Manifest:
    """A bundle's manifest, checked against its line in the MoM; like: as in manifest.parse.

    Raises HashMismatch, ManifestError.
    """
    if hashing.digest_manifest(data) != entry.digest:
        raise HashMismatch(
            f"the manifest of bundle {entry.name} (version {entry.version}) is not the one that the release names",
            "The server or its mirror is inconsistent; try again later or use another mirror.",
        )
    return manifest.parse(data, entry.name, entry.version, like)
