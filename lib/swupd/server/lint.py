"""Is a stream what devices need it to be? Every rule of the stream format, sections 2.9 and 10, and its files."""

from __future__ import annotations

import datetime
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from cryptography import x509

from swupd import archive, delta, manifest, paths, signing, stream, tree
from swupd.errors import FolderError, SwupdError
from swupd.manifest import FULL, MOM, OS_CORE, Entry, Manifest
from swupd.server import changes, history
from swupd.server.changes import Release
from swupd.server.history import FolderStore

ERROR, WARNING = "error", "warning"
_EXPIRES_SOON = datetime.timedelta(days=60)


@dataclass(frozen=True, order=True)
class Finding:
    """Something that is wrong (error) or may become so (warning) at a place in the stream."""

    severity: str
    place: str
    message: str


def lint(
    www: Path, now: datetime.datetime, trust: signing.Trust | None = None, deep: bool = False
) -> tuple[Finding, ...]:
    """Looks at all releases in a folder. Raises FolderError where there is no stream.

    trust: who must have signed it; without, signatures are looked at but not verified.
    deep: unpacks and hashes every fullfile and pack.
    """
    if not www.is_dir():
        raise FolderError(f"{www} is not a folder", "Give the www folder of a stream.")
    linter = _Linter(FolderStore(www), now, trust, deep)
    found = tuple(dict.fromkeys(linter.findings()))
    return tuple(sorted(found))


@dataclass
class _Linter:
    """One look at a stream; remembers what was looked at already, since releases share most of it."""

    store: FolderStore
    now: datetime.datetime
    trust: signing.Trust | None
    deep: bool
    manifests: dict[tuple[int, str, str], Manifest | None] = field(default_factory=dict)
    fullfiles: dict[tuple[int, str], bool] = field(default_factory=dict)

    def findings(self) -> Iterator[Finding]:
        """All findings, some of them more than once."""
        names = sorted(p.name for p in self.store.www.iterdir())
        versions = sorted(int(n) for n in names if n.isascii() and n.isdigit())
        if not versions:
            yield Finding(ERROR, ".", "there is no release")
        for name in names:
            if name.startswith(".new-"):
                yield Finding(WARNING, name, "is left from a publish that was killed; it can be removed")
        releases: dict[int, Release] = {}
        for version in versions:
            release = yield from self._release(version)
            if release is not None:
                releases[version] = release
        for release in releases.values():
            yield from _compared(release, releases.get(release.mom.previous))
        yield from self._heads(releases)

    def _release(self, version: int) -> Iterator[Finding] | Release | None:  # type: ignore[misc]
        """Findings about one release; returns it if it can be read."""
        place = stream.manifest(version, MOM)
        try:
            data = history.manifest_bytes(self.store, version, MOM)
            if data is None:
                yield Finding(ERROR, place, "is missing")
                return None
            mom = manifest.parse(data, MOM, version)
        except SwupdError as e:
            yield Finding(ERROR, place, e.problem)
            return None
        yield from self._files_of(version, MOM, data)
        yield from self._signature(place, data)
        yield from _order(place, mom)
        yield from self._format(mom)
        found = {}
        for line in (e for e in mom.entries if e.present and e.kind == "M"):
            bundle = yield from self._bundle(line, version)
            if bundle is not None:
                found[line.name] = bundle
        release = Release(mom, found)
        yield from _closed(release)
        yield from _agreeing(release)
        return release
