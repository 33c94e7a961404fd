"""What was published before, read from the stream itself: a folder or a URL, and nothing else at hand.

Nothing that is read here is believed before its digest (or, with a trust certificate, the MoM's signature) is right.
"""

from __future__ import annotations

import datetime
import functools
import io
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol
from urllib.parse import quote, unquote, urlsplit

from swupd import archive, hashing, manifest, signatures, stream
from swupd.errors import (
    ArchiveError,
    DownloadError,
    HashMismatch,
    InvalidFile,
    InvalidOption,
    ManifestError,
    MomError,
    ServerUnreachable,
    SignatureError,
    SwupdError,
)
from swupd.manifest import MOM, Entry, Manifest
from swupd.server.changes import Release
from swupd.tree import Node

if TYPE_CHECKING:
    import requests

_FORMATS_BACK = 10
_TIMEOUT = 60
_FIRST_LINE = re.compile(rb"\s*\+?([0-9]{1,10})(?:\s|$)")
_RESTORE = "Restore it in the stream, or start a new stream in an empty folder."


class Store(Protocol):
    """A published stream."""

    def read(self, name: str, limit: int) -> bytes | None:
        """An object's bytes, None where there is none. Raises DownloadError, also for more than limit bytes."""

    def size(self, name: str) -> int | None:
        """An object's size in bytes, None where there is none. Raises DownloadError."""

    def formats(self, highest: int) -> Iterable[int]:
        """Formats that may have releases, newest first; a folder also gives those above highest."""


@dataclass(frozen=True)
class FolderStore:
    """A stream in a folder."""

    www: Path

    def read(self, name: str, limit: int) -> bytes | None:
        """As Store says."""
        try:
            with open(self.www / name, "rb") as file:
                # A read of up to limit bytes would reserve them all.
                data = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            raise DownloadError(f"cannot read {self.www / name}: {e.strerror}", "Check the permissions.") from e
        return _bounded(data, name, limit)

    def open(self, name: str) -> BinaryIO:
        """An object that is there, to be read in pieces. Raises DownloadError."""
        try:
            return open(self.www / name, "rb")
        except OSError as e:
            raise DownloadError(f"cannot read {self.www / name}: {e.strerror}", "Check the permissions.") from e

    def size(self, name: str) -> int | None:
        """As Store says."""
        place = self.www / name
        return place.stat().st_size if place.is_file() else None

    def formats(self, highest: int) -> Iterable[int]:
        """As Store says."""
        try:
            names = [p.name.removeprefix("format") for p in (self.www / "version").glob("format*")]
        except OSError as e:
            raise DownloadError(f"cannot read {self.www}: {e.strerror}", "Check the permissions.") from e
        return sorted((int(n) for n in names if n.isascii() and n.isdigit()), reverse=True)


@dataclass(frozen=True)
class UrlStore:
    """A stream at an http or https URL."""

    url: str

    def read(self, name: str, limit: int) -> bytes | None:
        """As Store says. Raises ServerUnreachable where nobody answers."""
        import requests  # noqa: PLC0415  slow to load, and seldom needed

        place = f"{self.url.rstrip('/')}/{quote(name)}"
        try:
            with _session().get(place, stream=True, timeout=_TIMEOUT) as answer:
                if answer.status_code in {404, 410}:
                    return None
                if answer.status_code != 200:
                    raise DownloadError(f"{place} answers {answer.status_code}", "Check the URL and the server.")
                data = b"".join(_pieces(answer, limit))
        except requests.RequestException as e:
            raise ServerUnreachable(f"cannot read {place}: {_cause(e)}", "Check the URL and the network.") from e
        return _bounded(data, name, limit)

    def size(self, name: str) -> int | None:
        """As Store says."""
        data = self.read(name, stream.MAX_FILE)
        return None if data is None else len(data)

    def formats(self, highest: int) -> Iterable[int]:
        """As Store says; a URL cannot be listed, so that only a few formats are tried."""
        return range(highest, max(0, highest - _FORMATS_BACK - 1), -1)


@functools.cache
def _session() -> requests.Session:
    import requests  # noqa: PLC0415

    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"
    return session


def _pieces(answer: requests.Response, limit: int) -> Iterable[bytes]:
    size = 0
    for piece in answer.iter_content(1 << 16):
        size += len(piece)
        yield piece
        if size > limit:
            return


def _cause(error: BaseException) -> str:
    while error.__context__ is not None:
        error = error.__context__
    return str(error)[:200] or type(error).__name__


def _bounded(data: bytes, name: str, limit: int) -> bytes:
    if len(data) > limit:
        raise DownloadError(f"{name} is larger than {limit} bytes", "Is this an update stream?")
    return data


def open_store(url: str) -> Store:
    """The stream at a URL: http, https or file. Raises InvalidOption."""
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc:
        folder = Path(unquote(parts.path))
        if not folder.is_dir():
            raise InvalidOption(f"{folder} is not a folder", "Give the URL of the stream's www folder.")
        return FolderStore(folder)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise InvalidOption(f"{url[:200]!r} is not the URL of a stream", "Begin it with https://, http:// or file:///.")
    return UrlStore(url)


def parse_latest(data: bytes) -> int:
    """The version in a `latest` file: its first line (stream format, 1.3). Raises InvalidFile."""
    found = _FIRST_LINE.match(data.split(b"\n", 1)[0])
    if found is None or not 0 < int(found[1]) <= stream.MAX_VERSION:
        raise InvalidFile(f"the stream's latest file does not hold a version but {data[:40]!r}", _RESTORE)
    return int(found[1])


@dataclass(frozen=True)
class Head:
    """What a stream says about itself.

    newest: (format, version) of the newest release in a format that is not above the one asked for; None if none.
    above: the same of the newest of the higher formats, if it is known.
    """

    newest: tuple[int, int] | None = None
    above: tuple[int, int] | None = None


def head(store: Store, stream_format: int) -> Head:
    """Reads the `latest` files. Raises DownloadError, InvalidFile."""
    found = []
    for number in store.formats(stream_format):
        data = store.read(stream.latest(number), stream.MAX_LATEST)
        if data is not None:
            found.append((number, parse_latest(data)))
            if number <= stream_format:
                break
    newest = next((f for f in found if f[0] <= stream_format), None)
    above = next((f for f in found if f[0] > stream_format), None) or _announced_above(store, stream_format)
    return Head(newest, above)


def _announced_above(store: Store, stream_format: int) -> tuple[int, int] | None:
    """A release of a higher format that latest_version names: a URL cannot be listed.

    The file alone does not make a release: a publish that is killed may have got as far as writing it.
    """
    data = store.read(stream.LATEST_VERSION, stream.MAX_LATEST)
    if data is None:
        return None
    version = parse_latest(data)
    said = (store.read(stream.format_file(version), stream.MAX_LATEST) or b"").strip()
    if not said.isdigit() or int(said) <= stream_format or store.size(stream.latest(int(said))) is None:
        return None
    return int(said), version


@dataclass(frozen=True)
class Trusted:
    """A store whose objects are checked.

    signers: who must have signed the MoMs, and when their certificates must be valid; None if nobody must.
    """

    store: Store
    signers: tuple[signatures.Trust, datetime.datetime] | None = None

    def release(self, version: int) -> Release:
        """A whole release. Raises MomError, ManifestError, HashMismatch, SignatureError, DownloadError."""
        mom = self.mom(version)
        lines = [entry for entry in mom.entries if entry.kind == "M" and entry.present]
        return Release(mom, {line.name: self.manifest(line) for line in lines})

    def mom(self, version: int) -> Manifest:
        """A release's MoM, its signature checked where there is a trust certificate."""
        data = manifest_bytes(self.store, version, MOM)
        if data is None:
            raise MomError(f"the stream has no {stream.manifest(version, MOM)}", _RESTORE)
        if self.signers is not None:
            self._check_signature(data, version, *self.signers)
        try:
            return manifest.parse(data, MOM, version)
        except ManifestError as e:
            raise MomError(f"{stream.manifest(version, MOM)} cannot be read: {e.problem}", _RESTORE) from e

    def _check_signature(self, data: bytes, version: int, trust: signatures.Trust, now: datetime.datetime) -> None:
        signature = self.store.read(stream.signature(stream.manifest(version, MOM)), stream.MAX_SIGNATURE)
        if signature is None:
            raise SignatureError(f"release {version} is not signed", "Give the URL of a signed stream.")
        signatures.verify(data, signature, trust, now)

    def manifest(self, line: Entry) -> Manifest:
        """A bundle's manifest, checked against its line in the MoM."""
        return manifest.parse(self.manifest_data(line), line.name, line.version)

    def manifest_data(self, line: Entry) -> bytes:
        """The bytes of a bundle's manifest, checked against its line in the MoM."""
        data = manifest_bytes(self.store, line.version, line.name)
        if data is None:
            raise ManifestError(f"the stream has no {stream.manifest(line.version, line.name)}", _RESTORE)
        if hashing.digest_manifest(data) != line.digest:
            raise HashMismatch(f"{stream.manifest(line.version, line.name)} is not what its MoM promises", _RESTORE)
        return data

    def before(self, base: Release, count: int) -> tuple[Earlier, ...]:
        """Up to so many releases, newest first: base and those that `previous:` leads to in the same format."""
        found: list[Earlier] = []
        at = Earlier(self, base.mom, base.manifests)
        while len(found) < count:
            found.append(at)
            if len(found) == count or not 0 < at.mom.previous < at.version:
                break
            try:
                at = Earlier(self, self.mom(at.mom.previous))
            except MomError:
                break  # an old release that was pruned costs deltas, nothing else
            if at.mom.format != base.mom.format:
                break
        return tuple(found)


@dataclass(frozen=True)
class Earlier:
    """A release of which a bundle's manifest is read when it is asked for: there may be many of them, and large ones.

    at_hand: manifests that were read already, by bundle.
    """

    past: Trusted
    mom: Manifest
    at_hand: Mapping[str, Manifest] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """The release's version."""
        return self.mom.version

    @cached_property
    def lines(self) -> Mapping[str, Entry]:
        """What the MoM says of each bundle."""
        return {entry.name: entry for entry in self.mom.entries if entry.kind == "M" and entry.present}

    def manifest(self, line: Entry) -> Manifest:
        """A bundle's manifest. Raises as Trusted.manifest."""
        return self.at_hand.get(line.name) or self.past.manifest(line)

    def check(self) -> None:
        """Raises as Trusted.manifest where a manifest that is not at hand is missing or not what it was."""
        for line in self.lines.values():
            if line.name not in self.at_hand:
                self.past.manifest_data(line)


def manifest_bytes(store: Store, version: int, bundle: str) -> bytes | None:
    """A manifest's bytes, unchecked: the plain file, else what its tar holds. Raises ArchiveError."""
    plain = store.read(stream.manifest(version, bundle), stream.MAX_MANIFEST)
    if plain is not None:
        return plain
    packed = store.read(stream.manifest_tar(version, bundle), stream.MAX_MANIFEST_TAR)
    return None if packed is None else unpacked_manifest(packed, bundle)


def unpacked_manifest(packed: bytes, bundle: str) -> bytes:
    """The manifest in a manifest tar. Raises ArchiveError."""
    for member in archive.members(io.BytesIO(packed), stream.MAX_MANIFEST):
        if member.name == f"Manifest.{bundle}":
            return b"".join(member.content)
    raise ArchiveError(f"the tar of Manifest.{bundle} does not hold it")


def unpacked_object(packed: bytes, digest: str) -> tuple[Node, bytes]:
    """The one object of a fullfile, its digest checked. Raises ArchiveError, HashMismatch."""
    found = None
    for member in archive.members(io.BytesIO(packed), stream.MAX_FILE):
        if found is not None or member.name.removesuffix("/") != digest:
            raise ArchiveError(f"the fullfile {digest} holds {member.name[:100]!r}")
        found = (member.node, b"".join(member.content))
    if found is None:
        raise ArchiveError(f"the fullfile {digest} is empty")
    check_object(*found, digest)
    return found


def check_object(node: Node, content: bytes, digest: str) -> None:
    """Raises HashMismatch unless an object has a digest."""
    # Servers without xattrs hash none, whatever their archives carry.
    views = (node, node.without_xattrs()) if node.xattrs else (node,)
    if all(hashing.digest(view, [content]) != digest for view in views):
        raise HashMismatch(f"what should be {digest} is another object")


def old_content(store: Store, version: int, digest: str) -> tuple[Node, bytes] | None:
    """An object that was published before, None where it cannot be had: then it is no source for a delta."""
    try:
        packed = store.read(stream.fullfile(version, digest), stream.MAX_DELTA_RESULT)
        return None if packed is None else unpacked_object(packed, digest)
    except SwupdError:
        return None
