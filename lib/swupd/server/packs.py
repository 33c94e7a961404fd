"""What a pack holds, and its bytes, piece by piece (stream format, 1.5 and 5)."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swupd import paths
from swupd.manifest import Entry
from swupd.server import archiver
from swupd.server.archiver import Group
from swupd.server.xz import Effort, compress
from swupd.stream import MIB
from swupd.tree import Node, file_node

DELTA_GROUP = 32 * MIB
"""Deltas hold their blocks as they are, where these are small; so they are many bytes of which few are left."""
_OFTEN = (paths.OS_RELEASE, paths.VERSIONSTAMP)


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

    streams: where each begins, its size and its own SHA-256, by the SHA-256 of the names of what it holds.
    """

    place: Path
    streams: Mapping[bytes, tuple[int, int, bytes]]

    def find(self, names: bytes) -> bytes | None:
        """The .xz stream of a group, None if there is none that is whole."""
        found = self.streams.get(names)
        if found is None:
            return None
        start, size, digest = found
        try:
            with open(self.place, "rb") as file:
                file.seek(start)
                stored = file.read(size)
        except OSError:
            return None
        return stored if hashlib.sha256(stored).digest() == digest else None


NOTHING_BEFORE = Before(Path(), {})


def before(place: Path, index: Path) -> Before:
    """What a pack holds, as its index says; nothing where that cannot be read."""
    found = {}
    try:
        for line in index.read_text().splitlines():
            start, size, names, own = line.split("\t")
            found[bytes.fromhex(names)] = (int(start), int(size), bytes.fromhex(own))
    except (OSError, ValueError):
        return NOTHING_BEFORE
    return Before(place, found)


def index(written: Sequence[Written]) -> bytes:
    """Where the groups of a pack lie: start, size, SHA-256 of the names of what each holds, and of its own bytes."""
    lines = [
        f"{start}\t{mark.size}\t{mark.names.hex()}\t{mark.digest.hex()}\n" for _, start, mark in written if mark.names
    ]
    return "".join(lines).encode("ascii")


@dataclass(frozen=True, slots=True)
class Solid:
    """A large object, compressed on its own so that fullfile and packs share the work."""

    staged: Staged
    before: Before
    effort: Effort = Effort.NORMAL

    @property
    def unpacked(self) -> int:
        """Bytes of the pack's tar."""
        return archiver.member_size(self.name, self.staged.node)

    @property
    def name(self) -> str:
        """The member's name."""
        return f"staged/{self.staged.digest}"

    def compressed(self) -> bytes:
        """The object as .xz streams: header, content."""
        return self.made().data

    def made(self) -> Made:
        """The same, and hashes to know it by."""
        return _made([self.name], self.before, self._compressed)

    def _compressed(self) -> bytes:
        head = compress(archiver.header(self.name, self.staged.node))
        ready = self.staged.stream()
        return head + (archiver.content_block(self.staged.read(), self.effort) if ready is None else ready)


@dataclass(frozen=True, slots=True)
class Small:
    """Small objects that are compressed together."""

    group: Group
    before: Before
    effort: Effort = Effort.NORMAL

    @property
    def unpacked(self) -> int:
        """Bytes of the pack's tar."""
        return self.group.size

    def compressed(self) -> bytes:
        """The objects as one .xz stream."""
        return self.made().data

    def made(self) -> Made:
        """The same, and hashes to know it by."""
        names = [name for name, _, _ in self.group.members]
        return _made(names, self.before, lambda: compress(self.group.tar(), self.effort))


@dataclass(frozen=True, slots=True)
class Large:
    """A large delta: its blocks are compressed already."""

    name: str
    node: Node
    read: Callable[[], bytes]

    @property
    def unpacked(self) -> int:
        """Bytes of the pack's tar."""
        return archiver.member_size(self.name, self.node)

    def compressed(self) -> bytes:
        """The delta as .xz streams: header, content."""
        return compress(archiver.header(self.name, self.node)) + archiver.stored_block(self.read())


def _made(names: Sequence[str], before: Before, pack: Callable[[], bytes]) -> Made:
    """A piece from the pack before, or made now. Names are enough to know it by: they hold the objects' digests."""
    known = hashlib.sha256("\n".join(names).encode()).digest()
    data = before.find(known) or pack()
    return Made(data, known, hashlib.sha256(data).digest())


@dataclass(frozen=True, slots=True)
class Made:
    """The bytes of a piece; with the SHA-256 of its members' names and of the bytes."""

    data: bytes
    names: bytes = b""
    digest: bytes = b""

    @property
    def size(self) -> int:
        """How many bytes."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Mark:
    """What is kept of a piece once its bytes are written."""

    size: int
    names: bytes = b""
    digest: bytes = b""


Piece = Small | Solid | Large | Ready
Written = tuple[Piece, int, Mark]
"""A piece of a pack, where it begins in it, and what is known of its bytes."""


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
) -> Iterator[Piece]:
    """A pack's pieces in order: large deltas first, the largest at the start, for they take a device longest to apply.

    deltas: what gives each delta's bytes, by name; sizes: how many bytes those are. effort: for small objects.
    """
    objects = list(staged)
    small = [(_member_name(o), o.node, o.read) for o in objects if o.node.size < archiver.SOLID_LIMIT]
    changed = [(f"delta/{name}", file_node(f"/{name}", 0o644, sizes[name]), read) for name, read in deltas.items()]
    alone = sorted((d for d in changed if d[1].size >= archiver.SOLID_LIMIT), key=lambda d: -d[1].size)
    loose = [d for d in changed if d[1].size < archiver.SOLID_LIMIT]
    yield Ready(archiver.pack_head(), archiver.PACK_FRAME // 2)
    yield from (Large(*delta) for delta in alone)
    if deltas:
        groups = archiver.grouped((*loose, *small), DELTA_GROUP)
        yield from (Small(group, NOTHING_BEFORE, effort) for group in groups)
    else:
        # What every release changes takes no others with it.
        often = [m for m in small if m[1].path in _OFTEN]
        seldom = [m for m in small if m[1].path not in _OFTEN]
        by_themselves = [Group((m,)) for m in often]
        yield from (Small(group, earlier, effort.plain) for group in (*archiver.grouped(seldom), *by_themselves))
    yield from (Solid(o, earlier, effort.plain) for o in objects if o.node.size >= archiver.SOLID_LIMIT)
    yield Ready(archiver.pack_end(), archiver.PACK_FRAME // 2)


def _member_name(staged: Staged) -> str:
    return f"staged/{staged.digest}" + ("/" if staged.node.kind == "D" else "")


def made(piece: Piece) -> Made:
    """A piece's bytes: a function of its own, for executors that send functions elsewhere."""
    return piece.made() if isinstance(piece, Small | Solid) else Made(piece.compressed())
