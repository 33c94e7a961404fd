"""Measures a release that is being written, and says which releases were before: what a device holds sizes against."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from swupd import lengths, stream
from swupd.errors import DocumentError, MomError
from swupd.lengths import Length, Lengths, Named
from swupd.manifest import MOM, Manifest
from swupd.server import archiver, history
from swupd.server.history import Trusted
from swupd.server.writer import Staging

_FILES = "files/"


def write(staging: Staging, past: Trusted, mom: Manifest, unpacked: Mapping[str, int]) -> Named:
    """Writes the lists of lengths; gives what the MoM has to name.

    mom: as it will be written. unpacked: what objects unpack to, by name, where that is another size than their own.
    """
    objects = _measured(staging, unpacked)
    listed = lengths.serialize_files({n.removeprefix(_FILES): o for n, o in objects.items() if n.startswith(_FILES)})
    staging.write(stream.file_lengths(staging.version), [listed])
    before = _before(past, mom.previous)
    own = {f"{staging.version}/{name}": o for name, o in objects.items() if not name.startswith(_FILES)}
    written = Lengths(
        before.releases,
        {**before.files, staging.version: _named(listed)},
        {**_still_used(before.objects, mom), **own},
    )
    data = lengths.serialize(written)
    staging.write(stream.lengths(staging.version), [data])
    return _named(data)


def _measured(staging: Staging, unpacked: Mapping[str, int]) -> dict[str, Length]:
    """The release's objects so far, by their names in its folder."""
    sizes = staging.sizes()
    found = {name: Length(size, unpacked.get(f"{staging.version}/{name}", size)) for name, size in sizes.items()}
    for name, size in sizes.items():
        plain = name.removesuffix(".tar")
        if name.startswith("Manifest.") and plain != name:
            found[name] = Length(size, archiver.manifest_tar_size(plain, sizes[plain]))
    return found


def _named(data: bytes) -> Named:
    return Named(hashlib.sha256(data).hexdigest(), len(data))


def _still_used(objects: Mapping[str, Length], mom: Manifest) -> dict[str, Length]:
    """What was measured of bundles that are as they were."""
    folders = {f"{e.version}/" for e in mom.entries if e.present}
    used = [e for e in mom.entries if e.present]
    names = tuple(
        f"{e.version}/{kind}"
        for e in used
        for kind in (f"Manifest.{e.name}.", f"Manifest-{e.name}-", f"pack-{e.name}-")
    )
    return {n: o for n, o in objects.items() if n[: n.index("/") + 1] in folders and n.startswith(names)}


def _before(past: Trusted, version: int) -> Lengths:
    """The list of the release before, with that release added; what a stream without lists says of its releases."""
    releases: dict[int, Named] = {}
    while version:
        data = history.manifest_bytes(past.store, version, MOM)
        if data is None:
            break
        mom = past.mom(version)
        releases[version] = _named(data)
        said = mom.header(stream.LENGTHS_KEY)
        if said is not None:
            found = _list(past, version, said)
            return Lengths({**found.releases, **releases}, found.files, found.objects)
        version = mom.previous
    return Lengths(releases)


def _list(past: Trusted, version: int, named: str) -> Lengths:
    name = stream.lengths(version)
    data = past.store.read(name, stream.MAX_LENGTHS)
    if data is None or str(_named(data)) != named:
        raise MomError(f"{name} is missing or not the list that the release names", "Restore it from a backup.")
    try:
        return lengths.parse(data)
    except DocumentError as e:
        raise MomError(f"{name} cannot be read: {e.problem}", "Restore it from a backup.") from e
