"""What holds in every release (stream format, 2.9 and 10), as far as manifests alone can tell. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from swupd import paths, stream
from swupd.manifest import MOM, OS_CORE, ZERO, Entry, Manifest
from swupd.server import changes
from swupd.server.changes import Release

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True, order=True)
class Finding:
    """Something that is wrong (error) or may become so (warning) at a place in the stream."""

    severity: str
    place: str
    message: str


def of_manifest(found: Manifest) -> Iterator[Finding]:
    """Order, doubles, versions of entries."""
    place = stream.manifest(found.version, found.name)
    keys = [(e.version, paths.encode(e.name)) for e in found.entries]
    if any(a > b for a, b in pairwise(keys)):
        yield Finding(WARNING, place, "its entries are not ordered by version, then name: manifest deltas get large")
    seen: set[tuple[str, str]] = set()
    for entry in found.entries:
        if (entry.name, entry.modifier) in seen:
            yield Finding(ERROR, place, f"lists {entry.name} twice")
        seen.add((entry.name, entry.modifier))
        if entry.version > found.version:
            yield Finding(ERROR, place, f"lists {entry.name} with the version {entry.version}, which is yet to come")
        if entry.present and entry.digest == ZERO:
            yield Finding(ERROR, place, f"lists {entry.name} without a hash")


def of_release(release: Release) -> Iterator[Finding]:
    """What bundles owe each other: os-core, includes, the same object at the same path, minversion."""
    place = stream.manifest(release.version, MOM)
    if OS_CORE not in release.manifests:
        yield Finding(ERROR, place, "has no bundle os-core")
    at: dict[tuple[str, str], tuple[str, Entry]] = {}
    for name, bundle in sorted(release.manifests.items()):
        where = stream.manifest(bundle.version, name)
        for other in (*bundle.includes, *bundle.also_add):
            if other not in release.manifests:
                yield Finding(ERROR, where, f"wants the bundle {other}, which release {release.version} does not have")
        for entry in (e for e in bundle.entries if e.present):
            first, same = at.setdefault((entry.name, entry.modifier), (name, entry))
            if (same.digest, same.kind) != (entry.digest, entry.kind):
                yield Finding(
                    ERROR, where, f"{entry.name} differs from that in {first}: devices with both never get it"
                )
            if entry.version < release.mom.minversion:
                yield Finding(
                    ERROR, where, f"{entry.name} is older than the minversion {release.mom.minversion} of the release"
                )


def of_change(new: Release, old: Release) -> Iterator[Finding]:
    """From one release to the next: versions grow with changes, folders stay folders."""
    place = stream.manifest(new.version, MOM)
    if not old.version < new.version:
        yield Finding(ERROR, place, f"names {old.version} as the release before")
    for name, bundle in sorted(new.manifests.items()):
        if name in old.manifests:
            yield from _of_bundle_change(bundle, old.manifests[name])
    kinds = {e.name: e.kind for m in new.manifests.values() for e in m.entries if e.present}
    for path in changes.folder_replacements(old, kinds):
        yield Finding(WARNING, place, f"the folder {path} is no folder any more: old clients fail at that")
    closure = {name: _closure(new, name) for name in new.manifests}
    shipped = {name: frozenset(e.name for e in m.entries if e.present) for name, m in new.manifests.items()}
    for name, path in changes.foreign_folders_dropped(old, closure, shipped):
        yield Finding(
            WARNING, place, f"{name} drops the folder {path}: old clients move it away with all that is in it"
        )


def _of_bundle_change(new: Manifest, old: Manifest) -> Iterator[Finding]:
    place = stream.manifest(new.version, new.name)
    if new.version < old.version:
        yield Finding(ERROR, place, f"is older than the release before had it ({old.version})")
    before = {(e.name, e.modifier): e for e in old.entries if e.present}
    for entry in (e for e in new.entries if e.present):
        was = before.get((entry.name, entry.modifier))
        if was is not None and (was.digest, was.kind) != (entry.digest, entry.kind) and entry.version <= was.version:
            yield Finding(ERROR, place, f"{entry.name} changed, but its version did not grow: devices never get it")


def _closure(release: Release, name: str) -> frozenset[str]:
    found: set[str] = {OS_CORE}
    waiting = [name]
    while waiting:
        at = waiting.pop()
        for other in release.manifests[at].includes if at in release.manifests else ():
            if other not in found:
                found.add(other)
                waiting.append(other)
    return frozenset(found)
