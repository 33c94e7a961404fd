"""The manifests of a stream: from the cache or the source, always verified, never believed because they were before."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Protocol

from swupd import archive, delta, manifest, stream
from swupd.agent import trust
from swupd.agent.source import Source
from swupd.agent.state import State, XattrRule
from swupd.errors import (
    ArchiveError,
    HashMismatch,
    InvalidBundle,
    ManifestError,
    MomError,
    ServerUnreachable,
    SignatureError,
    SwupdError,
)
from swupd.manifest import Entry, Manifest


class _Warns(Protocol):
    def warn(self, text: str) -> None: ...


@dataclass
class Catalog:
    """Looks manifests up.

    state: None keeps nothing on disk (for --dry-run and commands that may run without root).
    """

    versions: Source
    content: Source
    verifier: trust.Verifier
    state: State | None
    report: _Warns
    check_latest: bool = True

    def latest(self, stream_format: str) -> tuple[int, ...]:
        """The versions that a format's `latest` lists, newest first. Raises ServerUnreachable, SignatureError."""
        return self._listed(stream.latest(stream_format))

    def latest_version(self) -> int:
        """The newest version in any format."""
        return self._listed(stream.LATEST_VERSION)[0]

    def _listed(self, name: str) -> tuple[int, ...]:
        data = self.versions.read(name, stream.MAX_LATEST)
        if data is None:
            raise ServerUnreachable(
                f"{self.versions.url} has no {name}", "Check the URL and the format (swupd info shows both)."
            )
        signature = None
        if self.check_latest and self.verifier.trust_pem is not None:
            signature = self.versions.read(stream.signature(name), stream.MAX_SIGNATURE)
        found = self.verifier.latest(data, signature, self.check_latest)
        if not found:
            raise ServerUnreachable("the server's answer names no version", "Check the URL.")
        return found

    def mom(self, version: int) -> Manifest:
        """The manifest of manifests of a release. Raises MomError, SignatureError."""
        cached = self._cached(version, manifest.MOM)
        if cached is not None:
            signature = self._cached(version, manifest.MOM + ".sig")
            try:
                return self.verifier.mom(cached, signature, version)
            except (SignatureError, MomError):
                self.report.warn(f"The cached manifest of version {version} does not verify; it is fetched again.")
        name = stream.manifest_tar(version, manifest.MOM)
        tar = self.content.read(name, stream.MAX_MANIFEST_TAR)
        if tar is None:
            raise MomError(f"{self.content.url} does not have version {version}", "Check the URL, or try again later.")
        data, signature = self._mom_members(version, tar)
        found, signature = self._signed_mom(version, data, signature)
        self._keep(version, manifest.MOM, data)
        if signature is not None:
            self._keep(version, manifest.MOM + ".sig", signature)
        return found

    def _signed_mom(self, version: int, data: bytes, inside: bytes | None) -> tuple[Manifest, bytes | None]:
        """The MoM, by the signature in its archive or else by the one beside it, which publishers can renew."""
        if inside is not None or self.verifier.trust_pem is None:
            try:
                return self.verifier.mom(data, inside, version), inside
            except SignatureError:
                if inside is None:
                    raise
        name = stream.signature(stream.manifest(version, manifest.MOM))
        beside = self.content.read(name, stream.MAX_SIGNATURE)
        return self.verifier.mom(data, beside or inside, version), beside or inside

    def _mom_members(self, version: int, tar: bytes) -> tuple[bytes, bytes | None]:
        names = ("Manifest.MoM", "Manifest.MoM.sig")
        try:
            found = _members(tar, names)
        except ArchiveError as e:
            raise MomError(f"the manifest of version {version} is damaged: {e.problem}", "Try again later.") from e
        if names[0] not in found:
            raise MomError(f"the manifest of version {version} is not in its archive", "Tell the publisher.")
        return found[names[0]], found.get(names[1])

    def bundle(self, mom: Manifest, name: str, base: Manifest | None = None) -> Manifest:
        """A bundle's manifest in a release; base: an older MoM whose manifest may serve a delta.

        Raises InvalidBundle, ManifestError, HashMismatch.
        """
        entry = mom.entry(name)
        if entry is None:
            raise InvalidBundle(
                f"version {mom.version} has no bundle {name!r}", "See the names with: swupd bundle-list --all"
            )
        cached = self._cached(entry.version, name)
        if cached is not None:
            try:
                return trust.bundle(cached, entry)
            except (HashMismatch, ManifestError):
                self.report.warn(f"The cached manifest of {name} does not verify; it is fetched again.")
        data = self._by_delta(entry, base.entry(name) if base is not None else None) or self._whole(entry)
        try:
            found = trust.bundle(data, entry)
        except (HashMismatch, ManifestError):
            # The release may have been mended and signed anew since its MoM was kept.
            self._forget(mom.version, manifest.MOM)
            raise
        self._keep(entry.version, name, data)
        return found

    def _whole(self, entry: Entry) -> bytes:
        tar = self.content.read(stream.manifest_tar(entry.version, entry.name), stream.MAX_MANIFEST_TAR)
        if tar is None:
            raise ManifestError(
                f"the server lacks the manifest of bundle {entry.name} (version {entry.version})",
                "Try again later or use another mirror.",
            )
        name = f"Manifest.{entry.name}"
        try:
            found = _members(tar, (name,))
        except ArchiveError as e:
            raise ManifestError(f"the manifest of bundle {entry.name} is damaged: {e.problem}", "Try again.") from e
        if name not in found:
            raise ManifestError(f"the manifest of bundle {entry.name} is not in its archive", "Tell the publisher.")
        return found[name]

    def _by_delta(self, entry: Entry, old: Entry | None) -> bytes | None:
        """The manifest made out of the old one, if that is at hand and the server has a delta that fits."""
        if old is None or old.version >= entry.version:
            return None
        base = self._cached(old.version, old.name)
        if base is None:
            return None
        try:
            trust.bundle(base, old)
            name = stream.manifest_delta(entry.version, entry.name, old.version)
            patch = self.content.read(name, stream.MAX_MANIFEST_TAR)
            made = None if patch is None else delta.apply(patch, base).content
            if made is not None:
                trust.bundle(made, entry)
        except SwupdError:
            return None
        return made

    def _cached(self, version: int, name: str) -> bytes | None:
        if self.state is None:
            return None
        return self.state.read_cached(self.state.layout.manifest(version, name), stream.MAX_MANIFEST)

    def _forget(self, version: int, name: str) -> None:
        if self.state is not None:
            self.state.layout.manifest(version, name).unlink(missing_ok=True)

    def _keep(self, version: int, name: str, data: bytes) -> None:
        if self.state is not None:
            self.state.write_cached(self.state.layout.manifest(version, name), data)


def _members(tar: bytes, names: tuple[str, ...]) -> dict[str, bytes]:
    """The wanted plain files of a small tar."""
    found: dict[str, bytes] = {}
    for member in archive.members(io.BytesIO(tar), stream.MAX_MANIFEST):
        name = member.name.removeprefix("./")
        if name in names and name not in found and member.node.kind == "F":
            found[name] = b"".join(member.content)
    return found


def xattr_rule(mom: Manifest) -> XattrRule:
    """What a release says of xattrs; servers other than ours say nothing."""
    return {"hashed": XattrRule.HASHED, "ignored": XattrRule.IGNORED}.get(mom.header("xattrs") or "", XattrRule.UNKNOWN)


def closure(
    catalog: Catalog, mom: Manifest, wanted: frozenset[str], optional: bool, base: Manifest | None = None
) -> dict[str, Manifest]:
    """The manifests of bundles and of all that they include, by name; optional: follow also-add too.

    Bundles that the release does not have raise InvalidBundle.
    """
    found: dict[str, Manifest] = {}
    todo = sorted(wanted, reverse=True)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found[name] = catalog.bundle(mom, name, base)
        todo += [n for n in (*found[name].includes, *(found[name].also_add if optional else ())) if n not in found]
    return found
