"""Objects to tars and back: fullfiles, packs, manifest tars (stream format, 1.4 and 1.5).

What is written is the same on every machine: PAX where USTAR is too small, mtime 0, no names of users, xz. A large
content is a .xz stream of its own, and packs carry that very stream: nothing is compressed twice.
What is read is hostile: sizes are bounded, and nothing here writes to a disk.
"""

from __future__ import annotations

import base64
import bz2
import importlib
import io
import lzma
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any, BinaryIO, NamedTuple, Protocol

from swupd import paths
from swupd.errors import ArchiveError
from swupd.stream import MIB
from swupd.tree import Node
from swupd.xz import Effort, compress, stored

SOLID_LIMIT = 128 * 1024
"""Contents of at least so many bytes are compressed on their own."""
GROUP_LIMIT = 2 * MIB
_CHUNK = 1 << 20
"""Smaller ones share a .xz stream of up to so many bytes."""
_BLOCK = 512
_END = bytes(2 * _BLOCK)
_TYPES = {"F": tarfile.REGTYPE, "D": tarfile.DIRTYPE, "L": tarfile.SYMTYPE}
_MEMORY_LIMIT = 160 * MIB
_MAX_RECORDS = MIB
_MAX_READS_BEHIND = 4
_MAX_TARGET = 4095
_RECORD_TYPES = frozenset(
    {
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.GNUTYPE_SPARSE,
    }
)


_MOST_ID = 0o7777777
_MOST_SIZE = 0o77777777777
"""What the numbers of a ustar header can say."""
_MOST_NAME, _MOST_PREFIX = 100, 155
"""Bytes of the two parts of a name there."""


def header(name: str, node: Node) -> bytes:
    """The tar header of an object under a name, PAX records included."""
    encoded, link = name.encode(), paths.encode(node.target)
    info = tarfile.TarInfo(name if _has_room(encoded) else name[:100])
    info.type = _TYPES[node.kind]
    info.mode = node.permissions
    info.uid = node.uid if node.uid <= _MOST_ID else 0
    info.gid = node.gid if node.gid <= _MOST_ID else 0
    info.size = node.size if node.kind == "F" and node.size <= _MOST_SIZE else 0
    info.mtime = 0
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape"))
    if link:
        block[157 : 157 + len(link[:100])] = link[:100]
        _write_checksum(block)
    return _pax(_records(encoded, link, node)) + bytes(block)


def _records(name: bytes, link: bytes, node: Node) -> list[tuple[bytes, bytes]]:
    """What has no room in a ustar header."""
    records: list[tuple[bytes, bytes]] = []
    if not _has_room(name):
        records.append((b"path", name))
    if len(link) > 100:
        records.append((b"linkpath", link))
    for field, number in ((b"uid", node.uid), (b"gid", node.gid)):
        if number > _MOST_ID:
            records.append((field, b"%d" % number))
    if node.kind == "F" and node.size > _MOST_SIZE:
        records.append((b"size", b"%d" % node.size))
    for key, value in node.xattrs:
        raw = os.fsencode(key)
        text = base64.b64encode(value).rstrip(b"=")
        records += [(b"LIBARCHIVE.xattr." + raw, text), (b"SCHILY.xattr." + raw, value)]
    return records


def _has_room(name: bytes) -> bool:
    """Whether a ustar header can say a name, in two parts where it is long."""
    # The first part as short as can be.
    folder = name.find(b"/", max(0, len(name) - _MOST_NAME - 1))
    return len(name) <= _MOST_NAME or (0 < folder <= _MOST_PREFIX and folder + 1 < len(name))


def _pax(records: list[tuple[bytes, bytes]]) -> bytes:
    if not records:
        return b""
    body = b"".join(_record(key, value) for key, value in records)
    info = tarfile.TarInfo("PaxHeader")
    info.type = tarfile.XHDTYPE
    info.size = len(body)
    return info.tobuf(tarfile.USTAR_FORMAT) + _padded(body)


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" %s=%s\n" % (key, value)
    size = len(rest)
    while len(str(size)) + len(rest) != size:
        size = len(str(size)) + len(rest)
    return str(size).encode() + rest


def _write_checksum(block: bytearray) -> None:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _BLOCK)


def fullfile(digest: str, node: Node, content: bytes, effort: Effort = Effort.NORMAL) -> bytes:
    """The bytes of files/<digest>.tar.

    A small one is fetched where no pack serves, and few of those at a time: little is gained by compressing it hard.
    """
    head = header(digest, node)
    if len(content) < SOLID_LIMIT:
        return compress(head + _padded(content) + _END, Effort.FAST)
    return compress(head) + content_block(content, effort) + compress(_END)


def content_block(content: bytes, effort: Effort = Effort.NORMAL) -> bytes:
    """The .xz stream that holds a large content on its own."""
    return compress(_padded(content), effort)


def stored_block(content: bytes) -> bytes:
    """The same for a content that is compressed already."""
    return stored(_padded(content))


def content_stream(digest: str, node: Node, tar: bytes) -> bytes | None:
    """The .xz stream that holds a large content, out of a fullfile that `fullfile` made; else None."""
    head, end = compress(header(digest, node)), compress(_END)
    if node.size < SOLID_LIMIT or not tar.startswith(head) or not tar.endswith(end):
        return None
    return tar[len(head) : len(tar) - len(end)]


def member_size(name: str, node: Node) -> int:
    """How many bytes of a tar an object takes."""
    head = len(_pax(_records(name.encode(), paths.encode(node.target), node))) + _BLOCK
    return head + (node.size + -node.size % _BLOCK if node.kind == "F" else 0)


def fullfile_size(digest: str, node: Node) -> int:
    """How many bytes a fullfile unpacks to."""
    return member_size(digest, node) + len(_END)


def manifest_tar_size(name: str, size: int) -> int:
    """How many bytes the archive of one manifest of so many bytes unpacks to."""
    return member_size(name, Node("/" + name, "F", stat.S_IFREG | 0o644, size=size)) + len(_END)


def manifest_tar(
    name: str, data: bytes, others: Iterable[tuple[str, bytes]] = (), effort: Effort = Effort.LISTS
) -> bytes:
    """A manifest as devices fetch it, all of them: member of mode 0644, owner 0:0; others follow it (a signature)."""
    members = [(name, data), *others]
    return compress(b"".join(_plain(member, content) for member, content in members) + _END, effort)


def _plain(name: str, content: bytes) -> bytes:
    return header(name, Node("/" + name, "F", stat.S_IFREG | 0o644, size=len(content))) + _padded(content)


class Group(NamedTuple):
    """A run of pack members that are compressed together: (name, node, how to get the content)."""

    members: tuple[tuple[str, Node, Callable[[], bytes]], ...]

    @property
    def size(self) -> int:
        """How many bytes of the pack's tar it takes."""
        return sum(member_size(name, node) for name, node, _ in self.members)

    def tar(self) -> bytes:
        """The group's part of the pack's tar."""
        return b"".join(
            header(name, node) + (_padded(content()) if node.kind == "F" else b"")
            for name, node, content in self.members
        )


def grouped(members: Iterable[tuple[str, Node, Callable[[], bytes]]], limit: int = GROUP_LIMIT) -> Iterator[Group]:
    """Splits pack members, in order, into groups of at most limit bytes of content.

    Where a group ends depends on names in it, so that a changed member changes its own group and hardly any other.
    """
    batch: list[tuple[str, Node, Callable[[], bytes]]] = []
    size = 0
    for member in members:
        if batch and (size + member[1].size > limit or (size >= limit // 4 and _ends_group(member[0]))):
            yield Group(tuple(batch))
            batch, size = [], 0
        batch.append(member)
        size += member[1].size + _BLOCK
    if batch:
        yield Group(tuple(batch))


def _ends_group(name: str) -> bool:
    """True for one name in 64."""
    return zlib.crc32(name.encode()) % 64 == 0


PACK_FRAME = 4 * _BLOCK
"""How many bytes of a pack's tar its start and end take."""


def pack_head() -> bytes:
    """The start of every pack: the two folders, as clients expect them."""
    folders = (Node(f"/{n}", "D", stat.S_IFDIR | 0o700) for n in ("delta", "staged"))
    return compress(b"".join(header(f"{node.path[1:]}/", node) for node in folders))


def pack_end() -> bytes:
    """The end of every pack."""
    return compress(_END)


class _Inflater(Protocol):
    """What the decompressors of lzma, bz2 and zstd have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib with that face."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


class _Zstd:
    """zstd's decompressor, whose errors are those of the others."""

    def __init__(self) -> None:
        # The library is in Python from 3.14 on; loaded late, because few streams need it.
        try:
            module: Any = importlib.import_module("compression.zstd")
        except ImportError:
            module = importlib.import_module("backports.zstd")
        self._error: type[Exception] = module.ZstdError
        options = {module.DecompressionParameter.window_log_max: 27}
        self._inner: _Inflater = module.ZstdDecompressor(options=options)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return self._inner.needs_input

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            return self._inner.decompress(data, max_length)
        except self._error as e:
            raise ValueError(str(e)) from e


_MAGICS: tuple[tuple[bytes, Callable[[], _Inflater]], ...] = (
    (b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_LIMIT)),
    (b"\x1f\x8b", _Gzip),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\x28\xb5\x2f\xfd", _Zstd),
    (b"\x5d\0\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MEMORY_LIMIT)),
)
_FAILURES = (lzma.LZMAError, OSError, EOFError, ValueError, zlib.error, MemoryError)


class Decompressed(io.RawIOBase):
    """A stream unpacked by what its first bytes say: xz, gzip, bzip2, zstd, lzma or nothing.

    Several compressed streams may follow each other. Raises ArchiveError for damage and beyond limit bytes.
    """

    def __init__(self, source: BinaryIO, limit: int) -> None:
        self._source = source
        self._left = limit
        self._reads_behind = 0
        self._waiting = source.read(65536)
        self._make = next((make for magic, make in _MAGICS if self._waiting.startswith(magic)), None)
        self._inflater = self._make() if self._make is not None else None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._next(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise ArchiveError("the archive unpacks to more than is allowed")
        if not data:
            # tarfile skips a member by reading what its header promises, 2**62 bytes behind the end too.
            self._reads_behind += 1
            if self._reads_behind > _MAX_READS_BEHIND:
                raise ArchiveError("the archive is cut off")
        buffer[: len(data)] = data
        return len(data)

    def _next(self, size: int) -> bytes:
        if self._inflater is None or self._make is None:
            data, self._waiting = self._waiting[:size], self._waiting[size:]
            return data or self._source.read(size)
        while True:
            try:
                if self._inflater.eof:
                    rest = self._inflater.unused_data or self._source.read(65536)
                    if not rest.lstrip(b"\0"):
                        return b""
                    self._inflater, self._waiting = self._make(), rest
                given, self._waiting = self._waiting, b""
                data = self._inflater.decompress(given, size)
            except _FAILURES as e:
                raise ArchiveError(f"the archive is damaged: {e}") from e
            if data:
                return data
            if not self._inflater.eof and self._inflater.needs_input:
                self._waiting = self._source.read(65536)
                if not self._waiting:
                    raise ArchiveError("the archive is cut off")


class Member(NamedTuple):
    """An object in a tar. Its node's path is meaningless; content is read once, before the next member."""

    name: str
    node: Node
    content: Iterable[bytes]


def members(source: BinaryIO, limit: int) -> Iterator[Member]:
    """The objects of a tar, one after another, while it is read.

    limit: how many bytes it may unpack to.
    Raises ArchiveError for damage, and for members that are no file, folder or symlink.
    """
    stream = Decompressed(source, limit)
    try:
        # Parsing only: nothing is extracted by tarfile (CVE-2025-4517 and its siblings).
        with tarfile.open(
            fileobj=stream, mode="r|", tarinfo=_BoundedInfo, encoding="utf-8", errors="surrogateescape"
        ) as tar:
            for info in tar:
                yield Member(info.name, _node(info), _content(tar, info))
    except tarfile.TarError as e:
        raise ArchiveError(f"the archive is damaged: {e}") from e
    except (OverflowError, ValueError, UnicodeError, RecursionError) as e:
        raise ArchiveError(f"the archive is malformed: {e}") from e


def _node(info: tarfile.TarInfo) -> Node:
    kind = "F" if info.isreg() and not info.issparse() else "D" if info.isdir() else "L" if info.issym() else ""
    if not kind or (kind == "L" and not info.linkname):
        raise ArchiveError(f"the archive holds {info.name[:100]!r}, which is no file, folder or symlink")
    xattrs = _xattrs(info.pax_headers)
    if any("\0" in text for text in (info.linkname, *(key for key, _ in xattrs))):
        raise ArchiveError(f"the archive holds {info.name[:100]!r} with a NUL in a link or in the name of an attribute")
    if len(paths.encode(info.linkname)) > _MAX_TARGET:
        raise ArchiveError(f"the archive holds {info.name[:100]!r}, a link to a path that is too long")
    types = {"F": stat.S_IFREG, "D": stat.S_IFDIR, "L": stat.S_IFLNK}
    mode = 0o777 if kind == "L" else info.mode & 0o7777
    return Node(
        path="/" + info.name,
        kind=kind,
        mode=types[kind] | mode,
        uid=info.uid,
        gid=info.gid,
        size=info.size if kind == "F" else 0,
        target=info.linkname if kind == "L" else "",
        xattrs=xattrs,
    )


def _xattrs(records: Mapping[str, str]) -> tuple[tuple[str, bytes], ...]:
    found: dict[str, bytes] = {}
    for key, value in records.items():
        if key.startswith("LIBARCHIVE.xattr."):
            text = value.encode("ascii", "replace")
            found[key.removeprefix("LIBARCHIVE.xattr.")] = base64.b64decode(text + b"=" * (-len(text) % 4))
    for key, value in records.items():
        if key.startswith("SCHILY.xattr."):
            found[key.removeprefix("SCHILY.xattr.")] = value.encode("utf-8", "surrogateescape")
    return tuple(sorted(found.items(), key=lambda item: os.fsencode(item[0])))


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    file = tar.extractfile(info) if info.isreg() else None
    while file is not None and (chunk := _read(file)):
        yield chunk


def _read(file: IO[bytes]) -> bytes:
    try:
        return file.read(1 << 20)
    except tarfile.TarError as e:
        raise ArchiveError(f"the archive is damaged: {e}") from e


class _BoundedInfo(tarfile.TarInfo):
    """Refuses records (long names, PAX) that are larger than any that a stream has: they are read into memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in _RECORD_TYPES and not 0 <= self.size <= _MAX_RECORDS:
            raise tarfile.ReadError("a header is too large")
        return super()._proc_member(tar)  # type: ignore[misc]
