"""Copies of a stream what the next publish reads of it: for builds that may use the network only at their start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swupd import stream
from swupd.errors import InvalidOption, ManifestError
from swupd.server import fullfiles, history, writer
from swupd.server.changes import Release
from swupd.server.history import Earlier, FolderStore, Store, Trusted
from swupd.server.work import Crew, Report


@dataclass(frozen=True)
class CopyingStore:
    """A store whose objects stay in a folder once they were read; what points to releases is read anew each time."""

    origin: Store
    folder: Path

    def read(self, name: str, limit: int) -> bytes | None:
        """As Store says. Raises WriteError, DiskSpace too."""
        changing = name.startswith("version/")
        kept = None if changing else FolderStore(self.folder).read(name, limit)
        if kept is not None:
            return kept
        data = self.origin.read(name, limit)
        place = self.folder / name
        with writer.writing(place):
            if data is None:
                place.unlink(missing_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                writer.put(place, [data])
        return data

    def size(self, name: str) -> int | None:
        """As Store says."""
        data = self.read(name, stream.MAX_FILE)
        return None if data is None else len(data)

    def formats(self, highest: int) -> Iterable[int]:
        """As Store says."""
        return self.origin.formats(highest)


def fetch(
    past: Trusted, stream_format: int, count: int, versions: Iterable[int], crew: Crew, report: Report
) -> tuple[int, ...]:
    """Reads the newest release, up to count of the last ones, and the versions named, so that past's store keeps them.

    Gives their versions, newest first; none where the stream has no release. Raises what Trusted raises.
    """
    newest = history.head(past.store, stream_format).newest
    if newest is None:
        return ()
    base = past.release(newest[1])
    _fetch_trust(past.store, newest[0], base)
    if base.mom.header(stream.LENGTHS_KEY) is not None:
        past.store.read(stream.lengths(base.version), stream.MAX_LENGTHS)
    releases = {r.version: r for r in past.before(base, max(count, 1))}
    for version in versions:
        if version > base.version:
            raise InvalidOption(f"there is no release {version}", f"The last one is {base.version}.")
        if version not in releases:
            releases[version] = Earlier(past, past.mom(version))
            releases[version].check()
    _fetch_contents(past.store, releases.values(), crew, report)
    return tuple(sorted(releases, reverse=True))


def _fetch_trust(store: Store, stream_format: int, base: Release) -> None:
    """What devices with a root of trust ask for, and a publish has to hold the new release against."""
    store.read(stream.head(stream_format), stream.MAX_HEAD)
    for found in base.manifests.values():
        store.read(stream.signature(stream.manifest(found.version, found.name)), stream.MAX_SIGNATURE)
    number = 1
    while store.read(stream.root(number), stream.MAX_ROOT) is not None:
        number += 1


def _fetch_contents(store: Store, releases: Iterable[Earlier], crew: Crew, report: Report) -> None:
    # A bundle is in many releases as it was.
    bundles = {(line.name, line.version): (earlier, line) for earlier in releases for line in earlier.lines.values()}
    wanted: set[tuple[int, str]] = set()
    for earlier, line in bundles.values():
        # One that was pruned costs deltas, nothing else.
        with contextlib.suppress(ManifestError):
            entries = earlier.manifest(line).entries
            wanted.update((e.version, e.digest) for e in entries if e.present and e.kind == "F")
    tasks = (fullfiles.Fullfile(Path(), store, *item) for item in sorted(wanted))
    for number, _ in enumerate(crew.map(_read, tasks), 1):
        report.phase("fetch", number, len(wanted))


def _read(task: fullfiles.Fullfile) -> None:
    # One that is missing is no source for a delta: that is found out when the release is made.
    task.store.read(stream.fullfile(task.version, task.digest), stream.MAX_FILE)
