"""Why is an update as large as it is? What changed between two releases, what it costs, and what differs."""

from __future__ import annotations

import glob
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from swupd import archive, delta, stream
from swupd.errors import InvalidBundle, InvalidOption
from swupd.manifest import Entry, Manifest
from swupd.server import history
from swupd.server.changes import Release
from swupd.server.history import FolderStore, Trusted
from swupd.server.xz import Effort, compress
from swupd.tree import Node

_BUILD_MARKS = (".note.gnu.build-id", ".gnu_debuglink")
_TIMES = re.compile(
    rb"(?:19|20)\d\d[-/.]?[01]\d[-/.]?[0-3]\d"  # 2026-06-01
    rb"|(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ 0-3]\d(?: (?:19|20)\d\d)?"  # __DATE__
    rb"|[0-2]\d:[0-5]\d(?::[0-6]\d)?"  # __TIME__
    rb"|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)(?=[ ,])"
    rb"|(?<!\d)1\d{9}(?!\d)"  # seconds since 1970
)
_AR_MEMBER = re.compile(rb"(?<=.{16})\d[\d ]{11}(?=[\d ]{6}[\d ]{6}[0-7 ]{8}[\d ]{10}`\n)", re.DOTALL)


@dataclass(frozen=True)
class Cause:
    """A path that changed.

    change: new, changed or deleted. cost: bytes that a device fetches for it. by: delta, fullfile or nothing.
    differs: what is not the same, in words.
    """

    bundle: str
    path: str
    change: str
    cost: int
    by: str
    differs: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """Everything that changed, the most expensive first."""

    causes: tuple[Cause, ...]

    @property
    def total(self) -> int:
        """All costs together, in bytes."""
        return sum(cause.cost for cause in self.causes)


def why(www: Path, old: int, new: int, bundle: str | None = None) -> Answer:
    """What a device fetches to go from one release to another. Raises InvalidBundle, and what reading raises."""
    if not 0 < old < new:
        raise InvalidOption(f"{new} is not after {old}", "Give the older version first.")
    store = FolderStore(www)
    past = Trusted(store)
    before, after = past.release(old), past.release(new)
    names = sorted({*before.manifests, *after.manifests}) if bundle is None else [bundle]
    if bundle is not None and bundle not in before.manifests and bundle not in after.manifests:
        raise InvalidBundle(
            f"neither release has a bundle {bundle[:80]!r}", f"There are: {', '.join(sorted(after.manifests))}."
        )
    causes = [cause for name in names for cause in _causes(store, name, before, after)]
    return Answer(tuple(sorted(causes, key=lambda c: (-c.cost, c.path, c.bundle))))


def _causes(store: FolderStore, name: str, before: Release, after: Release) -> Iterator[Cause]:
    old, new = before.manifests.get(name), after.manifests.get(name)
    if old is not None and new is not None and old.version == new.version:
        return
    have = {e.name: e for e in old.entries if e.present} if old is not None else {}
    if new is not None:
        yield from _changed(store, name, have, old, new)
    still = {e.name for e in new.entries if e.present} if new is not None else set()
    for path in sorted(set(have) - still):
        yield Cause(name, path, "deleted", 0, "nothing", ())


def _changed(
    store: FolderStore, name: str, have: Mapping[str, Entry], old: Manifest | None, new: Manifest
) -> Iterator[Cause]:
    costs = _delta_sizes(store, _smallest_pack(store, name, new.version, old.version)) if old is not None else {}
    paid: set[str] = set()
    for entry in sorted((e for e in new.entries if e.present), key=lambda e: e.name):
        was = have.get(entry.name)
        if was is not None and (was.digest, was.kind) == (entry.digest, entry.kind):
            continue
        cost, by = _cost(store, entry, costs) if entry.digest not in paid else (0, "nothing")
        paid.add(entry.digest)
        differs = _differences(store, was, entry) if was is not None else ()
        yield Cause(name, entry.name, "new" if was is None else "changed", cost, by, differs)


def _cost(store: FolderStore, entry: Entry, costs: Mapping[str, int]) -> tuple[int, str]:
    if entry.digest in costs:
        return costs[entry.digest], "delta"
    return store.size(stream.fullfile(entry.version, entry.digest)) or 0, "fullfile"


def _smallest_pack(store: FolderStore, bundle: str, version: int, before: int) -> str:
    """The pack that a device with all libraries takes (docs/adr/0014)."""
    plain = stream.pack(bundle, version, before)
    beside = (store.www / plain).parent.glob(f"{glob.escape(plain.rpartition('/')[2].removesuffix('.tar'))}.*.tar")
    return min((f"{version}/{pack.name}" for pack in beside), default=plain)


def _delta_sizes(store: FolderStore, pack: str) -> dict[str, int]:
    """About what each delta takes of a pack, by what it makes; nothing where there is no such pack."""
    found: dict[str, int] = {}
    if store.size(pack) is None:
        return found
    with store.open(pack) as packed:
        for member in archive.members(packed, stream.MAX_PACK):
            names = delta.parse_name(member.name.removeprefix("delta/"))
            if names is not None and member.name.startswith("delta/"):
                content = b"".join(member.content)
                found[names[1]] = min(len(content), len(compress(content, Effort.FAST)))
    return found


def _differences(store: FolderStore, was: Entry, now: Entry) -> tuple[str, ...]:
    old = history.old_content(store, was.version, was.digest)
    new = history.old_content(store, now.version, now.digest)
    if old is None or new is None:
        return ("unknown: a fullfile is missing",)
    return tuple(differences(*old, *new))


def differences(old: Node, old_content: bytes, new: Node, new_content: bytes) -> Iterator[str]:
    """What is not the same about two objects, in words."""
    if old.kind != new.kind:
        names = {"F": "file", "D": "folder", "L": "symlink"}
        yield f"type: {names[old.kind]} -> {names[new.kind]}"
        return
    if old.permissions != new.permissions:
        yield f"mode: {old.permissions:04o} -> {new.permissions:04o}"
    if (old.uid, old.gid) != (new.uid, new.gid):
        yield f"owner: {old.uid}:{old.gid} -> {new.uid}:{new.gid}"
    if old.xattrs != new.xattrs:
        mine, other = dict(old.xattrs), dict(new.xattrs)
        yield f"xattrs: {', '.join(sorted(n for n in {*mine, *other} if mine.get(n) != other.get(n)))}"
    if old.target != new.target:
        yield f"target: {old.target} -> {new.target}"
    if old.size != new.size:
        yield f"size: {old.size} -> {new.size}"
    if old_content != new_content:
        yield f"content: {content_difference(old_content, new_content)}"


def content_difference(old: bytes, new: bytes) -> str:
    """In one phrase: "build id only", "timestamps only", or how many bytes differ (at most, where sizes differ)."""
    if len(old) == len(new):
        mine, other = _without_build_id(old), _without_build_id(new)
        if mine is not None and mine == other:
            return "build id only"
        if _without_times(mine or old) == _without_times(other or new):
            return "timestamps only" if mine is None else "build id and timestamps only"
        return f"{sum(map(int.__ne__, old, new))} bytes differ"
    if _without_times(old) == _without_times(new):
        return "timestamps only"
    shared = _shared(old, new)
    shared += _shared(old[shared:][::-1], new[shared:][::-1])
    return f"up to {max(len(old), len(new)) - shared} bytes differ"


def _shared(one: bytes, two: bytes) -> int:
    """The length of the common beginning, found by halving."""
    low, high = 0, min(len(one), len(two))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == two[low:middle] else (low, middle - 1)
    return low


def _without_build_id(data: bytes) -> bytes | None:
    """An ELF file with what identifies its build blanked; None for other files and for those that have none."""
    if not data.startswith(b"\x7fELF"):
        return None
    blanked = bytearray(data)
    found = False
    try:
        for section in ELFFile(io.BytesIO(data)).iter_sections():
            if section.name in _BUILD_MARKS:
                at, size = section["sh_offset"], section["sh_size"]
                if at + size > len(data):
                    return None
                blanked[at : at + size] = bytes(size)
                found = True
    except (ELFError, ValueError, KeyError, UnicodeDecodeError, AttributeError):
        return None
    return bytes(blanked) if found else None


def _without_times(data: bytes) -> bytes:
    """A file with all that looks like a date, a time of day or a moment blanked."""
    blanked = bytearray(data)
    if data.startswith(b"\x1f\x8b\x08"):  # gzip: seconds since 1970
        blanked[4:8] = bytes(4)
    elif data[2:4] == b"\r\n":  # compiled Python: flags, then the source's time
        blanked[8:12] = bytes(4)
    elif data.startswith(b"PK\x03\x04"):
        _blank_zip_times(blanked)
    elif data.startswith(b"!<arch>\n"):
        blanked = bytearray(_AR_MEMBER.sub(b"T" * 12, bytes(blanked)))
    return _TIMES.sub(b"T", bytes(blanked))


def _blank_zip_times(data: bytearray) -> None:
    for magic, offset in ((b"PK\x03\x04", 10), (b"PK\x01\x02", 12)):
        at = data.find(magic)
        while at != -1 and at + offset + 4 <= len(data):
            data[at + offset : at + offset + 4] = bytes(4)
            at = data.find(magic, at + 4)
