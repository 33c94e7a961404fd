"""Follows the chain of trust from the device's root to a release: fetches what `anchor` judges, and keeps the floors.

Whatever comes out of here was believed by the anchor first; what is read from the cache is judged again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from swupd import envelope, lengths, roots, stream
from swupd.agent.anchor import Anchor, dump_floors, is_named
from swupd.agent.origin import Origin, verified
from swupd.agent.source import Source
from swupd.agent.state import Cache
from swupd.agent.trust import HERE, Checks
from swupd.errors import (
    BundleTrustError,
    DocumentError,
    DownloadError,
    HashMismatch,
    HeadError,
    ManifestError,
    MomError,
    RootError,
    SignatureError,
    Stale,
)
from swupd.heads import Head
from swupd.lengths import Length, Lengths, Named
from swupd.manifest import MOM, Entry, Manifest

_MAX_ROOTS = 1024


class _Warns(Protocol):
    def warn(self, text: str) -> None: ...


class Chain:
    """One command's way from the root of trust to what it works with.

    path: the format, as the server names it. uptime: (id of the boot, seconds since it began).
    cache: a plain Cache keeps nothing.
    """

    def __init__(
        self,
        anchor: Anchor,
        versions: Origin,
        content: Origin,
        cache: Cache,
        report: _Warns,
        path: str,
        uptime: Callable[[], tuple[str, int]],
    ) -> None:
        self.anchor = anchor
        self._versions, self._content = versions, content
        self._cache, self._report = cache, report
        self._path, self._uptime = path, uptime
        self._head: Head | None = None
        self._by: frozenset[str] = frozenset()
        self._newest_mom: Manifest | None = None
        self._lock = threading.Lock()
        self._lists: dict[int, Lengths] = {}
        self._files: dict[int, Mapping[str, Length]] = {}
        self.asked = False
        """Whether the newest release was asked for: what is cached is then held against the newest root, too."""
        self.stale: Stale | None = None
        """Why nobody can tell whether the newest release is the newest, None where somebody vouches for it."""

    def head(self) -> Head:
        """The newest release. Raises RootError, HeadError, OlderThanSeen, WrongProduct and what reading raises."""
        if self._head is None:
            self._follow_roots()
            self.asked = True
            self._head, self._by = self._newest_head()
            try:
                self.anchor.check_fresh(self._head)
            except Stale as e:
                self.stale = e
                self._report.warn(str(e))
            if self._head.digest == self.anchor.floors.digest:
                self._raise(self._head)
        return self._head

    def _newest_head(self) -> tuple[Head, frozenset[str]]:
        """The newest head of all mirrors: one that replays an old one, signed as it is, is seen by that."""
        answers = self._versions.survey(self._ask_head)
        url, (newest, by) = max(answers, key=lambda answer: (answer[1][0].version, answer[1][0].issued))
        for other, (head, _) in answers:
            if head.version < newest.version:
                self._versions.skip(other, f"its newest version is {head.version}, {url} has {newest.version}")
        return newest, by

    def _ask_head(self, source: Source) -> tuple[Head, frozenset[str]]:
        name = stream.head(self._path)
        data = source.read(name, stream.MAX_HEAD)
        if data is None:
            raise HeadError(
                f"{source.url} has no signed head ({name}), which this device needs",
                "Check URL and format (swupd info shows both); for a stream without one give --certpath.",
            )
        return self.anchor.head(data, int(self._path) if self._path.isdigit() else None)

    def _follow_roots(self) -> None:
        for _ in range(_MAX_ROOTS):
            name = stream.root(self.anchor.root.number + 1)
            found = verified(self._content, name, partial(self._next_root, name))
            if found is None:
                break
            data, self.anchor = found
            # Floors first: should only they be written, they are merely lower.
            self._cache.keep(self._cache.layout.floors, dump_floors(self.anchor.floors))
            self._cache.keep(self._cache.layout.root, data)
        self.anchor.check_root()

    def _next_root(self, name: str) -> tuple[bytes, Anchor] | None:
        data = self._content.read(name, stream.MAX_ROOT)
        return None if data is None else (data, self.anchor.follow(data))

    def _raise(self, head: Head) -> None:
        """Raises the floors to a head whose MoM was believed."""
        self.anchor = self.anchor.seen(head, self._by)
        self._keep()

    def _keep(self) -> None:
        floors = self.anchor.floors.ticking(*self._uptime())
        self._cache.keep(self._cache.layout.floors, dump_floors(floors))

    def check_allowed(self, version: int) -> None:
        """Raises Revoked for a release that must not be installed any more."""
        self.anchor.check_allowed(version, self.head())

    def mom(self, version: int) -> Manifest:
        """The MoM of a release. Raises MomError, SignatureError, HashMismatch and what `head` raises."""
        known = self.anchor.knows(version)
        if known is not None:
            return self._mom(version, known, signed=False)
        head = self.head()
        if version == head.version:
            return self._newest(head)
        named = self._lengths_of(self._newest(head)).releases.get(version)
        if named is None:
            raise MomError(
                f"version {version} is none of the releases that version {head.version} knows", "Check the number."
            )
        found = self._mom(version, named, signed=True)
        self._remember(version, named)
        return found

    def _newest(self, head: Head) -> Manifest:
        if self._newest_mom is None:
            named = Named(head.digest, head.length)
            self._newest_mom = self._mom(head.version, named, signed=True)
            self._raise(head)
            self._remember(head.version, named)
        return self._newest_mom

    def _remember(self, version: int, named: Named) -> None:
        if self.anchor.knows(version) != named:
            self.anchor = self.anchor.remembering(version, named)
            self._keep()

    def _mom(self, version: int, named: Named, signed: bool) -> Manifest:
        """A MoM by its hash, from the cache or the source. signed: whether the signatures are to be checked."""
        place = self._cache.layout.manifest(version, MOM)
        data = self._cache.read_cached(place, named.length)
        kept = data is not None and is_named(data, named)
        if data is not None and kept:
            found = self.anchor.mom(data, named, version)
        else:
            name = stream.manifest(version, MOM)
            data, found = verified(self._content, name, lambda: self._fetched(name, version, named))
        if signed:
            self._check_release(version, data, named)
        if not kept:
            self._cache.write_cached(place, data)
        return found

    def _fetched(self, name: str, version: int, named: Named) -> tuple[bytes, Manifest]:
        data = self._content.read(name, named.length)
        if data is None:
            raise MomError(f"{self._content.url} does not have version {version}", "Check the URL, or try again later.")
        return data, self.anchor.mom(data, named, version)

    def _check_release(self, version: int, data: bytes, named: Named) -> None:
        name = stream.signature(stream.manifest(version, MOM))
        verified(self._content, name, lambda: self._check_signatures(name, version, data, named))

    def _check_signatures(self, name: str, version: int, data: bytes, named: Named) -> None:
        by = self.anchor.release_signers(data, self._content.read(name, stream.MAX_SIGNATURE))
        if len(by) < self.anchor.root.roles[roots.RELEASE].threshold:
            more = self._content.read(stream.signatures(version), stream.MAX_SIGNATURE)
            if more is not None:
                by |= self._countersigners(version, more, named)
        self.anchor.check_release(version, by)

    def _countersigners(self, version: int, data: bytes, named: Named) -> frozenset[str]:
        try:
            return self.anchor.release_countersigners(envelope.parse(data, roots.RELEASE), named)
        except DocumentError as e:
            raise SignatureError(f"the further signatures of version {version} are unreadable: {e.problem}") from e

    def _lengths_of(self, mom: Manifest) -> Lengths:
        """A release's list of lengths. An empty one where it has none, as that of an old server."""
        said = mom.header(stream.LENGTHS_KEY)
        if said is None:
            return Lengths()
        try:
            named = lengths.parse_named(said)
            data = self._read_named(stream.lengths(mom.version), named, stream.MAX_LENGTHS)
            return lengths.parse(data)
        except DocumentError as e:
            raise MomError(f"version {mom.version} cannot be read: {e.problem}", "Tell the publisher.") from e

    def measure(self, mom: Manifest, name: str) -> Length | None:
        """How long an object of a release is, None where its list does not say. Raises DownloadError, MomError."""
        with self._lock:
            return self._measure(mom, name)

    def _measure(self, mom: Manifest, name: str) -> Length | None:
        found = self._lists.get(mom.version)
        if found is None:
            found = self._lists[mom.version] = self._lengths_of(mom)
        if name in found.objects:
            return found.objects[name]
        folder, files, file = name.partition("/files/")
        if not files or not folder.isdigit() or int(folder) not in found.files:
            return None
        version = int(folder)
        if version not in self._files:
            data = self._read_named(stream.file_lengths(version), found.files[version], stream.MAX_LENGTHS)
            try:
                self._files[version] = lengths.parse_files(data)
            except DocumentError as e:
                raise ManifestError(f"version {version} cannot be read: {e.problem}", "Tell the publisher.") from e
        return self._files[version].get(file)

    def check_bundle(self, found: Manifest, entry: Entry, data: bytes) -> None:
        """Raises BundleTrustError where a bundle's manifest is not signed as the root demands, or ships too much."""
        if not self.anchor.needs_signature(entry.name):
            self.anchor.bundle(found, entry, data, None)
            return
        name = f"{entry.name}.sig"
        place = self._cache.layout.manifest(entry.version, name)
        with contextlib.suppress(BundleTrustError):
            cached = self._cache.read_cached(place, stream.MAX_SIGNATURE)
            self.anchor.bundle(found, entry, data, cached)
            return
        asked = stream.signature(stream.manifest(entry.version, entry.name))
        signature = verified(self._content, asked, lambda: self._bundle_signature(asked, found, entry, data))
        if signature is not None:
            self._cache.write_cached(place, signature)

    def _bundle_signature(self, name: str, found: Manifest, entry: Entry, data: bytes) -> bytes | None:
        signature = self._content.read(name, stream.MAX_SIGNATURE)
        self.anchor.bundle(found, entry, data, signature)
        return signature

    def _read_named(self, name: str, named: Named, most: int) -> bytes:
        if named.length > most:
            raise DownloadError(f"{name} is said to have {named.length} bytes, more than any", "Tell the publisher.")
        cached = self._cache.layout.here / "manifest" / name
        data = self._cache.read_cached(cached, named.length)
        if data is None or not is_named(data, named):
            data = verified(self._content, name, lambda: self._read_list(name, named))
            self._cache.write_cached(cached, data)
        return data

    def _read_list(self, name: str, named: Named) -> bytes:
        data = self._content.read(name, named.length)
        if data is None:
            raise DownloadError(f"{self._content.url} lacks {name}", "Try again later or use another mirror.")
        if not is_named(data, named):
            raise HashMismatch(
                f"{name} is not the one that the release names", "The mirror is inconsistent: try another one."
            )
        return data


def first_anchor(image: bytes, kept: bytes | None, checks: Checks = HERE) -> roots.Root:
    """The root to begin with: the image's, or a newer one that was believed since. Raises RootError."""
    born = roots.first(image, checks.key)
    if kept is None:
        return born
    try:
        since = roots.first(kept, checks.key)
    except RootError:
        return born
    return since if since.number > born.number else born
