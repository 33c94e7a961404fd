"""New keys for a stream."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from swupd import signing
from swupd.errors import InvalidOption
from swupd.server.writer import writing

RELEASE_KEY, RELEASE_CERTIFICATE = "release.key", "release.pem"
MANIFEST_KEY, MANIFEST_CERTIFICATE = "manifest.key", "manifest.pem"
ROOT = "Swupd_Root.pem"


def generate(folder: Path, name: str, days: int, now: datetime.datetime) -> tuple[Path, ...]:
    """Makes two keys with self-signed certificates: release.* for MoM and latest, manifest.* for the build.

    Swupd_Root.pem, a copy of the release certificate, belongs on devices. Keys are 0600; nothing is overwritten.
    Gives the files. Raises InvalidOption, WriteError.
    """
    if not name or len(name) > 64 - len(" manifests") or not name.isprintable():
        raise InvalidOption(f"{name[:80]!r} cannot name a certificate", "Give 1 to 54 printable characters.")
    if not 0 < days <= 36500:
        raise InvalidOption(f"a certificate cannot be valid for {days} days", "Give 1 to 36500.")
    names = (RELEASE_KEY, RELEASE_CERTIFICATE, MANIFEST_KEY, MANIFEST_CERTIFICATE, ROOT)
    places = tuple(folder / n for n in names)
    for place in places:
        if os.path.lexists(place):
            raise InvalidOption(f"{place} exists already", "Give another folder: keys are never overwritten.")
    release = signing.generate(f"{name} release", now, days)
    manifests = signing.generate(f"{name} manifests", now, days)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for place, data in zip(places, (*release, *manifests, release[1]), strict=True):
        _create(place, data, 0o600 if place.suffix == ".key" else 0o644)
    return places


def _create(place: Path, data: bytes, mode: int) -> None:
    with writing(place):
        fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(fd, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
