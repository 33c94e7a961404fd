"""Measures a release that is being written, and says which releases were before: what a device holds sizes against."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from swupd import archive, lengths, stream
from swupd.errors import DocumentError, MomError
from swupd.lengths import Length, Lengths, Named
from swupd.manifest import MOM
from swupd.server import history
from swupd.server.history import Trusted
from swupd.server.writer import Staging

_FILES = "files/"


def write(staging: Staging, past: Trusted, previous: int, unpacked: Mapping[str, int]) -> Named:
    """Writes the lists of lengths; gives what the MoM has to name.

    previous: the release before, 0 for none. unpacked: what objects unpack to, by name, where that is another size.
    """
    objects = {
        name: Length(size, unpacked.get(f"{staging.version}/{name}", size)) for name, size in staging.sizes().items()
    }
    tars = {name: length for name, length in objects.items() if name.startswith("Manifest.") and name.endswith(".tar")}
    for name, length in tars.items():
        plain = name.removesuffix(".tar")
        objects[name] = Length(length.stored, archive.manifest_tar_size(plain, objects[plain].stored))
    files = {name.removeprefix(_FILES): length for name, length in objects.items() if name.startswith(_FILES)}
    rest = {name: length for name, length in objects.items() if not name.startswith(_FILES)}
    listed = lengths.serialize_files(files)
    staging.write(stream.file_lengths(staging.version), [listed])
    data = lengths.serialize(Lengths(_named(listed), _before(past, previous), rest))
    staging.write(stream.lengths(staging.version), [data])
    return _named(data)


def _named(data: bytes) -> Named:
    return Named(hashlib.sha256(data).hexdigest(), len(data))


def _before(past: Trusted, version: int) -> dict[int, Named]:
    """The MoMs of the releases before, as far back as the stream has them."""
    found: dict[int, Named] = {}
    while version:
        data = history.manifest_bytes(past.store, version, MOM)
        if data is None:
            break
        mom = past.mom(version)
        found[version] = _named(data)
        said = mom.header(stream.LENGTHS_KEY)
        listed = past.store.read(stream.lengths(version), stream.MAX_LENGTHS) if said is not None else None
        if listed is not None:
            if said != "{0.digest} {0.length}".format(_named(listed)):
                raise MomError(f"{stream.lengths(version)} is not the list that the release names", "Restore it.")
            try:
                return {**lengths.parse(listed).releases, **found}
            except DocumentError as e:
                raise MomError(f"{stream.lengths(version)} cannot be read: {e.problem}", "Restore it.") from e
        version = mom.previous
    return found
