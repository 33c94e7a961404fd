"""Streams spoiled byte by byte, as an attacker with the server does it, or a publisher with the key who errs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swupd import hashing, manifest
from swupd.manifest import MOM
from swupd.server import archiver, signing

NEW = 20
Change = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Bench:
    """A copy of the stream. signer: the publisher's, for what comes after the signature. outside: not to be reached."""

    www: Path
    signer: signing.Signer
    outside: Path

    @property
    def release(self) -> Path:
        """The folder of the release that is spoiled."""
        return self.www / str(NEW)

    def digest(self, path: str, version: int = NEW) -> str:
        """The hash of one of os-core's paths."""
        data = (self.www / str(version) / "Manifest.os-core").read_bytes()
        return next(e.digest for e in manifest.parse(data, "os-core").entries if e.name == path)

    def mom(self, change: Change) -> None:
        """Changes the MoM's bytes and signs them."""
        data = self._changed(MOM, change)
        (self.release / "Manifest.MoM.sig").write_bytes(signing.sign(data, self.signer))

    def bundle(self, change: Change, name: str = "os-core") -> None:
        """Changes the bytes of a bundle's manifest, of which the signed MoM then has the hash."""
        before = hashing.digest_manifest((self.release / f"Manifest.{name}").read_bytes())
        after = hashing.digest_manifest(self._changed(name, change))
        self.mom(lambda data: data.replace(before.encode(), after.encode()))

    def latest(self, data: bytes) -> None:
        """Another content of the signed `latest`."""
        file = self.www / "version/format30/latest"
        file.write_bytes(data)
        file.with_name("latest.sig").write_bytes(signing.sign(data, self.signer))

    def packs(self, change: Change) -> None:
        """Changes the packs from the version before; nobody signs them."""
        self._each("pack-*-from-10.*tar", change)

    def fullfiles(self, change: Change) -> None:
        """Changes every single file, and takes the packs away."""
        self.packs(lambda data: b"")
        self._each("files/*.tar", change)

    def deltas(self, change: Change) -> None:
        """Changes the manifests' deltas."""
        self._each("Manifest-*-delta-from-10", change)

    def tar(self, bundle: str, change: Change) -> None:
        """Changes the archive of a manifest, but not what is signed."""
        self._without_deltas(bundle)
        self._each(f"Manifest.{bundle}.tar", change)

    def _changed(self, name: str, change: Change) -> bytes:
        file = self.release / f"Manifest.{name}"
        data = change(file.read_bytes())
        assert data != file.read_bytes()
        file.write_bytes(data)
        file.with_name(f"{file.name}.tar").write_bytes(archiver.manifest_tar(file.name, data))
        self._without_deltas(name)
        return data

    def _without_deltas(self, name: str) -> None:
        for delta in self.release.glob(f"Manifest-{name}-delta-from-*"):
            delta.unlink()

    def _each(self, pattern: str, change: Change) -> None:
        files = list(self.release.glob(pattern))
        assert files, pattern
        for file in files:
            file.write_bytes(change(file.read_bytes()))


def replaced(old: bytes, new: bytes) -> Change:
    """The first occurrence, which must be there."""

    def change(data: bytes) -> bytes:
        assert old in data, old
        return data.replace(old, new, 1)

    return change


def header(key: str, value: bytes) -> Change:
    """Another value of a manifest's header line."""

    def change(data: bytes) -> bytes:
        lines = data.split(b"\n")
        at = next(n for n, line in enumerate(lines) if line.startswith(key.encode() + b"\t"))
        lines[at] = key.encode() + b"\t" + value
        return b"\n".join(lines)

    return change


def field(path: str, number: int, value: bytes) -> Change:
    """Another field of an entry: 0 flags, 1 hash, 2 version, 3 name."""

    def change(data: bytes) -> bytes:
        lines = data.split(b"\n")
        at = next(n for n, line in enumerate(lines) if line.endswith(b"\t" + path.encode()))
        fields = lines[at].split(b"\t", 3)
        fields[number] = value
        lines[at] = b"\t".join(fields)
        return b"\n".join(lines)

    return change
