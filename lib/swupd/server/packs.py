"""What a pack holds, and its bytes, piece by piece (stream format, 1.5 and 5)."""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swupd import archive, paths
from swupd.archive import Group
from swupd.manifest import Entry
from swupd.stream import MIB
from swupd.tree import Node, file_node
from swupd.xz import Effort, compress

DELTA_GROUP = 32 * MIB
"""Deltas hold their blocks as they are, where these are small; so they are many bytes of which few are left."""


@dataclass(frozen=True, slots=True)
class Staged:
    """An object to put into a pack.

    read: gives a file's content. stream: gives the .xz stream of a large file's content if there is one already.
    """

    digest: str
    node: Node
    read: Callable[[], bytes]
    stream: Callable[[], bytes | None]


@dataclass(frozen=True, slots=True)
class Solid:
    """A large object, compressed on its own so that fullfile and packs share the work."""

    staged: Staged

    @property
    def unpacked(self) -> int:
        """Bytes of the pack's tar."""
        return archive.member_size(f"staged/{self.staged.digest}", self.staged.node)

    def compressed(self) -> bytes:
        """The object as .xz streams: header, content."""
        head = compress(archive.header(f"staged/{self.staged.digest}", self.staged.node))
        ready = self.staged.stream()
        return head + (archive.content_block(self.staged.read()) if ready is None else ready)


@dataclass(frozen=True, slots=True)
class Ready:
    """Bytes of a pack that are the same in each."""

    data: bytes
    unpacked: int

    def compressed(self) -> bytes:
        """The bytes."""
        return self.data


@dataclass(frozen=True, slots=True)
class Before:
    """A pack that was published before, whose .xz streams may serve again.

    streams: where each begins and its size, by the SHA-256 of what it holds.
    """

    place: Path
    streams: Mapping[bytes, tuple[int, int]]

    def find(self, data: bytes) -> bytes | None:
        """The .xz stream that holds data, None if there is none."""
        found = self.streams.get(hashlib.sha256(data).digest())
        if found is None:
            return None
        try:
            with open(self.place, "rb") as file:
                file.seek(found[0])
                return file.read(found[1])
        except OSError:
            return None


NOTHING_BEFORE = Before(Path(), {})


def before(place: Path) -> Before:
    """What a pack holds; as much as can be read of one that is damaged or missing."""
    found = {}
    with contextlib.suppress(OSError), open(place, "rb") as file:
        for start, size, digest in archive.streams(file):
            found[digest] = (start, size)
    return Before(place, found)


@dataclass(frozen=True, slots=True)
class Small:
    """Small objects that are compressed together, or taken over from the pack before."""

    group: Group
    before: Before
    effort: Effort = Effort.NORMAL

    @property
    def unpacked(self) -> int:
        """Bytes of the pack's tar."""
        return self.group.size

    def compressed(self) -> bytes:
        """The objects as one .xz stream."""
        data = self.group.tar()
        return self.before.find(data) or compress(data, self.effort)


@dataclass(frozen=True, slots=True)
class Copied:
    """A piece of a pack that is written already."""

    place: Path
    start: int
    size: int
    unpacked: int

    def compressed(self) -> bytes:
        """The bytes."""
        with open(self.place, "rb") as file:
            file.seek(self.start)
            return file.read(self.size)


Piece = Small | Solid | Ready | Copied
Written = tuple[Piece, int, int]
"""A piece of a pack, where it begins in it, and its bytes."""


def distinct(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Present entries, each digest once (the first by name), in the order in which a pack compresses well."""
    found: dict[str, Entry] = {}
    for entry in sorted((e for e in entries if e.present), key=lambda e: paths.encode(e.name)):
        found.setdefault(entry.digest, entry)
    return dict(sorted(found.items(), key=lambda item: likeness(item[1].name)))


def likeness(path: str) -> tuple[str, str, str]:
    """What a pack's members are ordered by: extension, name, path."""
    base = posixpath.basename(path)
    return posixpath.splitext(base)[1], base, path


def pieces(
    staged: Iterable[Staged],
    deltas: Mapping[str, Callable[[], bytes]],
    sizes: Mapping[str, int],
    earlier: Before = NOTHING_BEFORE,
    effort: Effort = Effort.BEST,
    apart: Collection[str] = (),
) -> Iterator[Piece]:
    """A pack's pieces in order.

    deltas: what gives each delta's bytes, by name; sizes: how many bytes those are. apart: those that are to be pieces
    of their own; large ones are, too.
    """
    objects = list(staged)
    small = [(_member_name(o), o.node, o.read) for o in objects if o.node.size < archive.SOLID_LIMIT]
    changed = [(f"delta/{name}", file_node(f"/{name}", 0o644, sizes[name]), read) for name, read in deltas.items()]
    alone = {f"delta/{name}" for name in deltas if name in apart or sizes[name] >= archive.SOLID_LIMIT}
    loose = [d for d in changed if d[0] not in alone]
    yield Ready(archive.pack_head(), archive.PACK_FRAME // 2)
    if deltas:
        groups = archive.grouped((*loose, *small), DELTA_GROUP)
        yield from (Small(group, NOTHING_BEFORE, effort) for group in groups)
    else:
        yield from (Small(group, earlier) for group in archive.grouped(small))
    # These were compressed already; what can still be saved on them is little.
    yield from (Small(Group((d,)), NOTHING_BEFORE, Effort.FAST) for d in changed if d[0] in alone)
    yield from (Solid(o) for o in objects if o.node.size >= archive.SOLID_LIMIT)
    yield Ready(archive.pack_end(), archive.PACK_FRAME // 2)


@dataclass(frozen=True, slots=True)
class Instead:
    """A delta, by its name and by the digest of what it makes, for a pack that has the same object in another form."""

    name: str
    digest: str
    read: Callable[[], bytes]
    size: int


def replaced(pack: Path, written: Sequence[Written], instead: Sequence[Instead]) -> list[Piece]:
    """A pack that was written, with some of its objects replaced by other deltas."""
    names = {name for i in instead for name in (f"delta/{i.name}", f"staged/{i.digest}")}
    kept: list[Piece] = [
        Copied(pack, start, size, piece.unpacked) for piece, start, size in written if not _holds_one_of(piece, names)
    ]
    members = [(f"delta/{i.name}", file_node(f"/{i.name}", 0o644, i.size), i.read) for i in instead]
    put = [Small(Group((member,)), NOTHING_BEFORE, Effort.FAST) for member in members]
    return [*kept[:-1], *put, kept[-1]]


def _holds_one_of(piece: Piece, names: Collection[str]) -> bool:
    """Whether a piece is a single object of one of those names."""
    if isinstance(piece, Solid):
        return f"staged/{piece.staged.digest}" in names
    return isinstance(piece, Small) and len(piece.group.members) == 1 and piece.group.members[0][0] in names


def _member_name(staged: Staged) -> str:
    return f"staged/{staged.digest}" + ("/" if staged.node.kind == "D" else "")


def compressed(piece: Piece) -> bytes:
    """A piece's bytes: a function of its own, for executors that send functions elsewhere."""
    return piece.compressed()
