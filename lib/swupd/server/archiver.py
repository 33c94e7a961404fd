"""Objects to tars: fullfiles, packs, manifest tars (stream format, 1.4 and 1.5).

What is written is the same on every machine: PAX where USTAR is too small, mtime 0, no names of users, xz. A large
content is a .xz stream of its own, and packs carry that very stream: nothing is compressed twice.
"""

from __future__ import annotations

import base64
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from swupd import paths
from swupd.server.xz import Effort, compress, stored
from swupd.stream import MIB
from swupd.tree import Node

SOLID_LIMIT = 128 * 1024
"""Contents of at least so many bytes are compressed on their own."""
GROUP_LIMIT = 2 * MIB
"""Smaller ones share a .xz stream of up to so many bytes."""
_BLOCK = 512
_END = bytes(2 * _BLOCK)
_TYPES = {"F": tarfile.REGTYPE, "D": tarfile.DIRTYPE, "L": tarfile.SYMTYPE}
_MOST_ID = 0o7777777
_MOST_SIZE = 0o77777777777
"""What the numbers of a ustar header can say."""
_MOST_NAME, _MOST_PREFIX = 100, 155
"""Bytes of the two parts of a name there."""
_ELSEWHERE = "path"
"""A name whose place is a PAX record: of deltas' names, which are digests, a part would be bytes that tell nothing."""


def header(name: str, node: Node) -> bytes:
    """The tar header of an object under a name, PAX records included."""
    encoded, link = name.encode(), paths.encode(node.target)
    info = tarfile.TarInfo(name if _has_room(encoded) else _ELSEWHERE)
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
