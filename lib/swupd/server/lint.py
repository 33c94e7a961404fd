"""Is a stream what devices need it to be? Looks at its files; what manifests owe each other is in `rules`."""

from __future__ import annotations

import datetime
import io
from collections.abc import Iterable
from pathlib import Path

from swupd import archive, delta, hashing, manifest, signatures, stream
from swupd.errors import FolderError, SwupdError
from swupd.manifest import FULL, MOM, Entry, Manifest
from swupd.server import held, history, rules, trustlint
from swupd.server.changes import Release
from swupd.server.history import FolderStore
from swupd.server.rules import ERROR, WARNING, Finding

_EXPIRES_SOON = datetime.timedelta(days=60)


def lint(
    www: Path, now: datetime.datetime, trust: signatures.Trust | None = None, deep: bool = False
) -> tuple[Finding, ...]:
    """Looks at all releases in a folder; errors come first. Raises FolderError where there is no stream.

    trust: who must have signed it; without, signatures are not verified.
    deep: unpacks and hashes every fullfile and pack.
    """
    if not www.is_dir():
        raise FolderError(f"{www} is not a folder", "Give the www folder of a stream.")
    linter = _Linter(FolderStore(www), now, trust, deep)
    linter.stream()
    return tuple(sorted(linter.found))


class _Linter:
    """One look at a stream; remembers what was looked at already, since releases share most of it."""

    def __init__(self, store: FolderStore, now: datetime.datetime, trust: signatures.Trust | None, deep: bool) -> None:
        self._store, self._now, self._trust, self._deep = store, now, trust, deep
        self._manifests: dict[tuple[int, str, str], Manifest | None] = {}
        self._fullfiles: set[tuple[int, str]] = set()
        self.found: dict[Finding, None] = {}

    def _say(self, severity: str, place: str, message: str) -> None:
        self.found[Finding(severity, place, message)] = None

    def _take(self, findings: Iterable[Finding]) -> None:
        self.found.update(dict.fromkeys(findings))

    def stream(self) -> None:
        """Every release, each with the one before, and what points to them."""
        try:
            names = sorted(p.name for p in self._store.www.iterdir())
        except OSError as e:
            raise FolderError(f"cannot read {self._store.www}: {e.strerror}", "Check the permissions.") from e
        versions = sorted(int(n) for n in names if n.isascii() and n.isdigit())
        if not versions:
            self._say(ERROR, ".", "there is no release")
        for name in names:
            if name.startswith(".new-"):
                self._say(WARNING, name, "is left from a publish that was killed; the next one removes it")
        read = {version: self._release(version) for version in versions}
        releases = {version: release for version, release in read.items() if release is not None}
        for release in releases.values():
            if release.mom.previous in releases:
                self._take(rules.of_change(release, releases[release.mom.previous]))
            elif release.mom.previous:
                self._say(WARNING, f"{release.version}", f"devices at {release.mom.previous} cannot update: it is gone")
        waiting = (held.versions(self._store.www) & releases.keys()) - trustlint.announced(self._store)
        for version in waiting:
            self._say(WARNING, f"{version}", "is held: swupd-server release announces it, withdraw takes it away")
        self._heads({version: release for version, release in releases.items() if version not in waiting})
        self._take(trustlint.findings(self._store, releases, self._now))

    def _release(self, version: int) -> Release | None:
        place = stream.manifest(version, MOM)
        try:
            data = history.manifest_bytes(self._store, version, MOM)
            if data is None:
                self._say(ERROR, place, "is missing")
                return None
            mom = manifest.parse(data, MOM, version)
        except SwupdError as e:
            self._say(ERROR, place, e.problem)
            return None
        self._tar(version, MOM, data)
        self._signature(place, data)
        self._take(rules.of_manifest(mom))
        said = self._read(stream.format_file(version), stream.MAX_LATEST)
        if said is not None and said.strip() != str(mom.format).encode():
            self._say(ERROR, stream.format_file(version), f"says {said[:20]!r}, the MoM is of format {mom.format}")
        lines = [e for e in mom.entries if e.present and e.kind == "M"]
        bundles = {line.name: self._bundle(line) for line in lines}
        release = Release(mom, {name: bundle for name, bundle in bundles.items() if bundle is not None})
        self._take(rules.of_release(release))
        self._full(version)
        return release

    def _read(self, name: str, limit: int) -> bytes | None:
        try:
            return self._store.read(name, limit)
        except SwupdError as e:
            self._say(ERROR, name, e.problem)
            return None

    def _bundle(self, line: Entry) -> Manifest | None:
        key = (line.version, line.name, line.digest)
        if key not in self._manifests:
            self._manifests[key] = self._new_bundle(line)
        return self._manifests[key]

    def _new_bundle(self, line: Entry) -> Manifest | None:
        place = stream.manifest(line.version, line.name)
        try:
            data = history.manifest_bytes(self._store, line.version, line.name)
            if data is None:
                self._say(ERROR, place, "is missing")
                return None
            if hashing.digest_manifest(data) != line.digest:
                self._say(ERROR, place, "is not what the MoM promises: devices refuse it")
            found = manifest.parse(data, line.name, line.version)
        except SwupdError as e:
            self._say(ERROR, place, e.problem)
            return None
        self._tar(line.version, line.name, data)
        self._take(rules.of_manifest(found))
        for entry in found.entries:
            if entry.present:
                self._fullfile(entry, place)
        self._packs(found)
        return found

    def _tar(self, version: int, bundle: str, data: bytes) -> None:
        place = stream.manifest_tar(version, bundle)
        packed = self._read(place, stream.MAX_MANIFEST_TAR)
        if packed is None:
            self._say(ERROR, place, "is missing")
            return
        try:
            _drain(packed, stream.MAX_MANIFEST)
            if history.unpacked_manifest(packed, bundle) != data:
                self._say(ERROR, place, f"holds something else than Manifest.{bundle}")
        except SwupdError as e:
            self._say(ERROR, place, e.problem)

    def _full(self, version: int) -> None:
        place = stream.manifest(version, FULL)
        try:
            data = history.manifest_bytes(self._store, version, FULL)
            if data is not None:
                manifest.parse(data, FULL, version)
        except SwupdError as e:
            self._say(WARNING, place, e.problem)

    def _fullfile(self, entry: Entry, needed_by: str) -> None:
        key = (entry.version, entry.digest)
        if key in self._fullfiles:
            return
        self._fullfiles.add(key)
        place = stream.fullfile(*key)
        if not self._store.size(place):
            self._say(ERROR, place, f"is missing or empty, but {needed_by} lists it for {entry.name}")
        elif self._deep:
            try:
                packed = self._read(place, stream.MAX_FILE) or b""
                _drain(packed, stream.MAX_FILE)
                history.unpacked_object(packed, entry.digest)
            except SwupdError as e:
                self._say(ERROR, place, e.problem)

    def _packs(self, found: Manifest) -> None:
        zero = stream.pack(found.name, found.version, 0)
        if self._store.size(zero) is None and any(e.present for e in found.entries):
            self._say(WARNING, zero, "is missing: devices fetch every file of the bundle on its own")
        if self._deep:
            folder = self._store.www / str(found.version)
            for pack in sorted(folder.glob(f"pack-{found.name}-from-*.tar")):
                self._pack(f"{found.version}/{pack.name}", found, complete=f"{found.version}/{pack.name}" == zero)

    def _pack(self, place: str, found: Manifest, complete: bool) -> None:
        listed = {e.digest for e in found.entries if e.present}
        held: set[str] = set()
        try:
            with self._store.open(place) as source:
                for member in archive.members(source, stream.MAX_PACK):
                    held.add(_checked_digest(member, place))
        except SwupdError as e:
            self._say(ERROR, place, e.problem)
            return
        if unlisted := held - listed - {""}:
            self._say(ERROR, place, f"holds {min(unlisted)}, which Manifest.{found.name} does not list")
        if complete and (missing := listed - held):
            self._say(ERROR, place, f"lacks {len(missing)} of the bundle's objects, such as {min(missing)}")

    def _signature(self, name: str, data: bytes, wanted: bool = False) -> None:
        place = stream.signature(name)
        signature = self._read(place, stream.MAX_SIGNATURE)
        if signature is None:
            if wanted or self._trust is not None:
                self._say(ERROR, place, "is missing")
            return
        try:
            for certificate in signatures.embedded(signature):
                self._expiry(place, signatures.expires(certificate), certificate.subject.rfc4514_string())
            if self._trust is not None:
                signatures.verify(data, signature, self._trust, self._now)
        except SwupdError as e:
            self._say(ERROR, place, e.problem)

    def _expiry(self, place: str, ends: datetime.datetime, name: str) -> None:
        if ends <= self._now:
            self._say(ERROR, place, f"the certificate {name} expired on {ends:%Y-%m-%d}: sign again with a new one")
        elif ends - self._now < _EXPIRES_SOON:
            self._say(WARNING, place, f"the certificate {name} expires on {ends:%Y-%m-%d}")

    def _heads(self, releases: dict[int, Release]) -> None:
        newest: dict[int, int] = {}
        for release in releases.values():
            newest[release.mom.format] = max(newest.get(release.mom.format, 0), release.version)
        for number in sorted({*newest, *self._store.formats(stream.DEFAULT_FORMAT)}):
            version = self._head(stream.latest(number), releases, newest.get(number, 0))
            if version in releases and releases[version].mom.format != number:
                self._say(ERROR, stream.latest(number), f"names {version}, which has another format")
        if newest:
            self._head(stream.LATEST_VERSION, releases, max(newest.values()))

    def _head(self, name: str, releases: dict[int, Release], newest: int) -> int:
        """The version that a pointing file names, 0 if none. Only check-update needs latest_version."""
        data = self._read(name, stream.MAX_LATEST)
        if data is None:
            self._say(WARNING if name == stream.LATEST_VERSION else ERROR, name, "is missing")
            return 0
        try:
            version = history.parse_latest(data)
        except SwupdError as e:
            self._say(ERROR, name, e.problem)
            return 0
        if version not in releases:
            self._say(ERROR, name, f"names {version}, which is not there or cannot be read")
        elif version < newest:
            self._say(ERROR, name, f"goes back: it names {version}, but release {newest} is there")
        signed = self._store.size(stream.signature(stream.manifest(version, MOM))) is not None
        self._signature(name, data, wanted=signed)
        return version


def _drain(packed: bytes, limit: int) -> None:
    """Unpacks to the very end, which readers of tars do not reach. Raises ArchiveError."""
    whole = archive.Decompressed(io.BytesIO(packed), limit)
    while whole.read(stream.MIB):
        pass


def _checked_digest(member: archive.Member, place: str) -> str:
    """Which object a pack's member is or makes; "" for the two folders and manifest deltas. Raises SwupdError."""
    folder, _, name = member.name.rstrip("/").partition("/")
    content = b"".join(member.content)
    if folder == "staged" and name:
        history.check_object(member.node, content, name)
        return name
    if folder == "delta" and name:
        names = delta.parse_name(name)
        if names is None:
            raise FolderError(f"holds the delta {name[:200]!r}, whose name no client can read")
        return names[1]
    return ""
