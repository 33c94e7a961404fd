"""The manifests of a stream: from the cache or the source, always verified, never believed because they were before.

Bundles' manifests can be expected: then threads read them, all at a time, and only the verification waits its turn.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from swupd import hashing, manifest, stream
from swupd.agent import trust
from swupd.agent.objects import XattrRule
from swupd.agent.origin import Origin, verified
from swupd.agent.source import Source
from swupd.agent.state import Cache
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

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from swupd.agent.chain import Chain
    from swupd.agent.unpacker import Unpacks
    from swupd.lengths import Length

_READERS = 8
"""Manifests that are read at a time."""
_PAST = 20
"""How many versions of a bundle are looked at."""


class _Warns(Protocol):
    def warn(self, text: str) -> None: ...


class Catalog:
    """Looks manifests up."""

    def __init__(
        self,
        versions: Origin,
        content: Origin,
        verifier: trust.Verifier,
        cache: Cache,
        report: _Warns,
        opener: Callable[[], Unpacks],
        check_latest: bool = True,
        chain: Chain | None = None,
    ) -> None:
        """cache: a plain Cache keeps nothing on disk (for --dry-run and commands that may run without root).

        opener: gives what unpacks, the same each time.
        chain: the way from the device's root of trust; None where certificates alone are believed.
        """
        self.versions, self.content, self.verifier = versions, content, verifier
        self.cache, self.report, self.opener = cache, report, opener
        self.check_latest, self.chain = check_latest, chain
        # What each bundle's manifest that was read last holds.
        self._like: dict[str, tuple[Entry, ...]] = {}
        self._threads: Callable[[], Executor] | None = None
        # Texts of manifests, by bundle and version, that are being read.
        self._coming: dict[tuple[str, int], Future[bytes]] = {}

    @property
    def unpacker(self) -> Unpacks:
        """What opens archives and applies deltas."""
        return self.opener()

    def latest(self, stream_format: str) -> tuple[int, ...]:
        """The versions that a format's `latest` lists, newest first. Raises ServerUnreachable, SignatureError."""
        if self.chain is not None:
            return (self.chain.head().version,)
        return self._listed(stream.latest(stream_format))

    def latest_version(self) -> int:
        """The newest version in any format."""
        if self.chain is not None:
            return self.chain.head().version
        return self._listed(stream.LATEST_VERSION)[0]

    def check_allowed(self, version: int) -> None:
        """Raises Revoked where the publisher does not want a release to be installed any more."""
        if self.chain is not None:
            self.chain.check_allowed(version)

    def check_fresh(self) -> None:
        """Raises Stale where nobody vouches for what is the newest release."""
        if self.chain is not None and self.chain.stale is not None:
            raise self.chain.stale

    def _listed(self, name: str) -> tuple[int, ...]:
        """The newest answer of all mirrors: one that replays an old answer, signed as it is, is seen by that."""
        answers = self.versions.survey(lambda source: self._listed_by(source, name))
        if not self.check_latest or self.verifier.trust_pem is None:
            return answers[0][1]
        url, newest = max(answers, key=lambda answer: max(answer[1]))
        for other, found in answers:
            if max(found) < max(newest):
                self.versions.skip(other, f"it lists version {max(found)} as the latest, {url} has {max(newest)}")
        return newest

    def _listed_by(self, source: Source, name: str) -> tuple[int, ...]:
        data = source.read(name, stream.MAX_LATEST)
        if data is None:
            raise ServerUnreachable(
                f"{source.url} has no {name}", "Check the URL and the format (swupd info shows both)."
            )
        signature = None
        if self.check_latest and self.verifier.trust_pem is not None:
            signature = source.read(stream.signature(name), stream.MAX_SIGNATURE)
        found = self.verifier.latest(data, signature, self.check_latest)
        if not found:
            raise ServerUnreachable("the server's answer names no version", "Check the URL.")
        return found

    def mom(self, version: int) -> Manifest:
        """The manifest of manifests of a release. Raises MomError, SignatureError."""
        if self.chain is not None:
            return self.chain.mom(version)
        cached = self._cached(version, manifest.MOM)
        if cached is not None:
            signature = self._cached(version, manifest.MOM + ".sig")
            try:
                return self.verifier.mom(cached, signature, version)
            except (SignatureError, MomError):
                self.report.warn(f"The cached manifest of version {version} does not verify; it is fetched again.")
        name = stream.manifest_tar(version, manifest.MOM)
        found, data, signature = verified(self.content, name, lambda: self._fetched_mom(version, name))
        self._keep(version, manifest.MOM, data)
        if signature is not None:
            self._keep(version, manifest.MOM + ".sig", signature)
        return found

    def _fetched_mom(self, version: int, name: str) -> tuple[Manifest, bytes, bytes | None]:
        tar = self.content.read(name, stream.MAX_MANIFEST_TAR)
        if tar is None:
            raise MomError(f"{self.content.url} does not have version {version}", "Check the URL, or try again later.")
        data, inside = self._mom_members(version, tar)
        found, signature = self._signed_mom(version, data, inside)
        return found, data, signature

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
            found = _members(self.unpacker, tar, names, stream.MAX_MANIFEST)
        except ArchiveError as e:
            raise MomError(f"the manifest of version {version} is damaged: {e.problem}", "Try again later.") from e
        if names[0] not in found:
            raise MomError(f"the manifest of version {version} is not in its archive", "Tell the publisher.")
        return found[names[0]], found.get(names[1])

    @contextlib.contextmanager
    def reading_ahead(self) -> Iterator[None]:
        """As long as the context lasts, what is expected is read by threads. It may be within another one."""
        if self._threads is not None:
            yield
            return
        with contextlib.ExitStack() as stack:

            @functools.cache
            def threads() -> Executor:
                from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  mostly all is in the cache

                return stack.enter_context(ThreadPoolExecutor(_READERS))

            self._threads = threads
            try:
                yield
            finally:
                self._threads = None
                for future in self._coming.values():
                    future.cancel()
                self._coming.clear()

    def expect(self, mom: Manifest, names: Iterable[str], base: Manifest | None = None) -> None:
        """Begins to read the manifests of bundles, where there are threads for that; base: as in bundle."""
        if self._threads is None:
            return
        for entry in filter(None, map(mom.entry, names)):
            key = entry.name, entry.version
            if key in self._coming or self.cache.layout.manifest(entry.version, entry.name).exists():
                continue
            old = base.entry(entry.name) if base is not None else None
            before = self._coming.get((old.name, old.version)) if old is not None else None
            with contextlib.suppress(SwupdError):
                length = self._length(mom, entry)
                # Made here: it cannot be while there are threads.
                _ = self.unpacker
                self._coming[key] = self._threads().submit(self._text, entry, old, length, before)

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
                found = trust.bundle(cached, entry, self._like.get(entry.name, ()))
                self._like[name] = found.entries
                if self.chain is not None and self.chain.asked:
                    self.chain.check_bundle(found, entry, cached)
                return found
            except (HashMismatch, ManifestError):
                self.report.warn(f"The cached manifest of {name} does not verify; it is fetched again.")
        old = base.entry(name) if base is not None else None
        tar = stream.manifest_tar(entry.version, name)
        try:
            data, found = verified(self.content, tar, lambda: self._read(mom, entry, old))
        except (HashMismatch, ManifestError):
            # The release may have been mended and signed anew since its MoM was kept.
            self._forget(mom.version, manifest.MOM)
            raise
        if self.chain is not None:
            self.chain.check_bundle(found, entry, data)
        self._like[name] = found.entries
        self._keep(entry.version, name, data)
        return found

    def _read(self, mom: Manifest, entry: Entry, old: Entry | None) -> tuple[bytes, Manifest]:
        coming = self._coming.pop((entry.name, entry.version), None)
        text = self._text(entry, old, self._length(mom, entry)) if coming is None else coming.result()
        return text, trust.bundle(text, entry, self._like.get(entry.name, ()))

    def _length(self, mom: Manifest, entry: Entry) -> Length | None:
        return self.measure(mom, stream.manifest_tar(entry.version, entry.name))

    def measure(self, mom: Manifest, name: str) -> Length | None:
        """How long an object of a release is, None where nobody has signed that. Raises DownloadError, MomError."""
        return self.chain.measure(mom, name) if self.chain is not None else None

    def _text(
        self, entry: Entry, old: Entry | None, length: Length | None, before: Future[bytes] | None = None
    ) -> bytes:
        """The bytes of a manifest, not verified yet: by a delta from the old one, or else whole.

        before: the old one, where that is being read.
        """
        made = self._by_delta(entry, old, before)
        return self._whole(entry, length) if made is None else made

    def _whole(self, entry: Entry, length: Length | None) -> bytes:
        tar_name = stream.manifest_tar(entry.version, entry.name)
        tar = self.content.read(tar_name, length.stored if length is not None else stream.MAX_MANIFEST_TAR)
        if tar is None:
            raise ManifestError(
                f"the server lacks the manifest of bundle {entry.name} (version {entry.version})",
                "Try again later or use another mirror.",
            )
        if length is not None and len(tar) != length.stored:
            raise ManifestError(
                f"{tar_name} has {len(tar)} bytes where the release says {length.stored}",
                "The mirror is inconsistent: try another one.",
            )
        name = f"Manifest.{entry.name}"
        try:
            limit = length.unpacked if length is not None else stream.MAX_MANIFEST
            found = _members(self.unpacker, tar, (name,), limit)
        except ArchiveError as e:
            raise ManifestError(f"the manifest of bundle {entry.name} is damaged: {e.problem}", "Try again.") from e
        if name not in found:
            raise ManifestError(f"the manifest of bundle {entry.name} is not in its archive", "Tell the publisher.")
        return found[name]

    def _by_delta(self, entry: Entry, old: Entry | None, before: Future[bytes] | None) -> bytes | None:
        """The manifest made out of the old one, if that is at hand and the server has a delta that fits."""
        if old is None or old.version >= entry.version:
            return None
        name = stream.manifest_delta(entry.version, entry.name, old.version)
        try:
            base = before.result() if before is not None else self._cached(old.version, old.name)
            if base is None or hashing.digest_manifest(base) != old.digest:
                return None
            patch = self.content.read(name, stream.MAX_MANIFEST_TAR)
        except SwupdError:
            return None
        try:
            made = None if patch is None else self.unpacker.apply(patch, base).content
            if made is None or hashing.digest_manifest(made) == entry.digest:
                return made
            problem = "it makes another manifest"
        except SwupdError as e:
            problem = e.problem
        self.content.blame(name, problem)
        return None

    def _cached(self, version: int, name: str) -> bytes | None:
        return self.cache.read_cached(self.cache.layout.manifest(version, name), stream.MAX_MANIFEST)

    def _forget(self, version: int, name: str) -> None:
        self.cache.forget_cached(self.cache.layout.manifest(version, name))

    def _keep(self, version: int, name: str, data: bytes) -> None:
        self.cache.write_cached(self.cache.layout.manifest(version, name), data)


def _members(unpacker: Unpacks, tar: bytes, names: tuple[str, ...], limit: int) -> dict[str, bytes]:
    """The wanted plain files of a small tar, which may unpack to so many bytes."""
    found: dict[str, bytes] = {}
    with unpacker.members(tar, limit) as members:
        for member in members:
            name = member.name.removeprefix("./")
            if name in names and name not in found and member.node.kind == "F":
                found[name] = b"".join(member.content)
    return found


def xattr_rule(mom: Manifest) -> XattrRule:
    """What a release says of xattrs; servers other than ours say nothing."""
    return {"hashed": XattrRule.HASHED, "ignored": XattrRule.IGNORED}.get(mom.header("xattrs") or "", XattrRule.UNKNOWN)


def between(catalog: Catalog, newest: Manifest, bundle: str, first: int, last: int) -> list[int]:
    """Versions of a bundle after one version and before another, as far back as releases can be had."""
    found: list[int] = []
    mom = newest
    while mom.previous > first and len(found) < _PAST:
        try:
            mom = catalog.mom(mom.previous)
        except SwupdError:
            break
        entry = mom.entry(bundle)
        if entry is not None and first < entry.version < last and entry.version not in found:
            found.append(entry.version)
    return found


def closure(
    catalog: Catalog, mom: Manifest, wanted: frozenset[str], optional: bool, base: Manifest | None = None
) -> dict[str, Manifest]:
    """The manifests of bundles and of all that they include, by name; optional: follow also-add too.

    Bundles that the release does not have raise InvalidBundle.
    """
    found: dict[str, Manifest] = {}
    todo = sorted(wanted, reverse=True)
    with catalog.reading_ahead():
        catalog.expect(mom, reversed(todo), base)
        while todo:
            name = todo.pop()
            if name in found:
                continue
            found[name] = catalog.bundle(mom, name, base)
            more = (*found[name].includes, *(found[name].also_add if optional else ()))
            todo += [n for n in more if n not in found]
            catalog.expect(mom, (n for n in more if n not in found), base)
    return found
