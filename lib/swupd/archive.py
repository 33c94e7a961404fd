"""Tars as devices and the server read them: fullfiles, packs, manifest tars (stream format, 1.4 and 1.5).

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

_CHUNK = 1 << 20
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
        return file.read(_CHUNK)
    except tarfile.TarError as e:
        raise ArchiveError(f"the archive is damaged: {e}") from e


class _BoundedInfo(tarfile.TarInfo):
    """Refuses records (long names, PAX) that are larger than any that a stream has: they are read into memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in _RECORD_TYPES and not 0 <= self.size <= _MAX_RECORDS:
            raise tarfile.ReadError("a header is too large")
        return super()._proc_member(tar)  # type: ignore[misc]
