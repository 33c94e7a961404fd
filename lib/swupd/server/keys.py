"""New keys for a stream."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from swupd import crypto, roots
from swupd.errors import InvalidOption
from swupd.server import rootfile, signing
from swupd.server.writer import writing

RELEASE_KEY, RELEASE_CERTIFICATE = "release.key", "release.pem"
MANIFEST_KEY, MANIFEST_CERTIFICATE = "manifest.key", "manifest.pem"
ROOT = "Swupd_Root.pem"
ROOT_KEY, HEAD_KEY, FIRST_ROOT = "root.key", "head.key", "1.root"
ROOT_PUBLIC, HEAD_PUBLIC = "root.pub.pem", "head.pub.pem"


def generate(folder: Path, name: str, days: int, now: datetime.datetime) -> tuple[Path, ...]:
    """Makes a key for each role: release.*, for MoM and latest, and manifest.*, for the build, have certificates.

    root.* and head.* sign the root of trust and the head. 1.root, which names them all and is signed by root.key,
    belongs on devices; Swupd_Root.pem, a copy of the release certificate, on those of C clients.
    Keys are 0600; nothing is overwritten. Gives the files. Raises InvalidOption, WriteError.
    """
    if not name or len(name) > 64 - len(" manifests") or not name.isprintable():
        raise InvalidOption(f"{name[:80]!r} cannot name a certificate", "Give 1 to 54 printable characters.")
    if not 0 < days <= 36500:
        raise InvalidOption(f"a certificate cannot be valid for {days} days", "Give 1 to 36500.")
    names = (
        RELEASE_KEY, RELEASE_CERTIFICATE, MANIFEST_KEY, MANIFEST_CERTIFICATE, ROOT, ROOT_KEY, ROOT_PUBLIC, HEAD_KEY,
        HEAD_PUBLIC,
    )  # fmt: skip
    places = tuple(folder / n for n in names)
    first = folder / FIRST_ROOT
    for place in (*places, first):
        if os.path.lexists(place):
            raise InvalidOption(f"{place} exists already", "Give another folder: keys are never overwritten.")
    release = signing.generate(f"{name} release", now, days)
    manifests = signing.generate(f"{name} manifests", now, days)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    (root, root_public), (head, head_public) = _pair(), _pair()
    written = (*release, *manifests, release[1], root, root_public, head, head_public)
    for place, data in zip(places, written, strict=True):
        _create(place, data, 0o600 if place.suffix == ".key" else 0o644)
    owners = {roots.ROOT: root, roots.HEAD: head, roots.RELEASE: release[1], roots.BUILD: manifests[1]}
    groups = {role: [crypto.from_pem(pem, role)] for role, pem in owners.items()}
    made = rootfile.make(1, groups, {}, (now + datetime.timedelta(days=days)).replace(microsecond=0))
    rootfile.write(first, made)
    rootfile.sign(first, crypto.holder(root, ROOT_KEY))
    return (*places, first)


def _pair() -> tuple[bytes, bytes]:
    """A new Ed25519 key and its public half in PEM."""
    key = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    return (
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


def _create(place: Path, data: bytes, mode: int) -> None:
    with writing(place):
        fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(fd, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
