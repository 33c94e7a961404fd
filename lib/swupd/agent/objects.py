"""Objects of a tree: the digests that they may go by, and how they are made on the disk."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from enum import Enum

from swupd import hashing, paths
from swupd.errors import HashMismatch
from swupd.tree import Node


class XattrRule(Enum):
    """Whether a stream's digests cover extended attributes.

    UNKNOWN is for streams of old servers, of which some hash them and some do not: either digest is right.
    """

    HASHED = "hashed"
    IGNORED = "ignored"
    UNKNOWN = "unknown"


def digests(node: Node, content: Iterable[bytes], rule: XattrRule) -> tuple[tuple[Node, str], ...]:
    """The names that an object may go by, each with what it covers; the content is read once."""
    views: tuple[Node, ...] = (node,) if rule is not XattrRule.IGNORED else (node.without_xattrs(),)
    if rule is XattrRule.UNKNOWN and node.xattrs:
        views = (node, node.without_xattrs())
    chunks = iter(content if node.kind == "F" else ())
    first, second = next(chunks, b""), next(chunks, None)
    if second is None:
        # Most files are one piece, whose digest is made in one call.
        return tuple((view, hashing.digest(view, (first,))) for view in views)
    macs = [hashing.hasher(view) for view in views]
    for chunk in itertools.chain((first, second), chunks):
        for mac in macs:
            mac.update(chunk)
    return tuple((view, mac.hexdigest()) for view, mac in zip(views, macs, strict=True))


def named(found: tuple[tuple[Node, str], ...], digest: str) -> Node:
    """What a digest covers, of what digests gave. Raises HashMismatch where it is none of those."""
    for view, name in found:
        if name == digest:
            return view
    raise HashMismatch(
        f"an object of the stream does not have the hash {digest}",
        "The server or a mirror is damaged or was tampered with; nothing was changed.",
    )


def create(folder: int, name: bytes, node: Node, content: Iterable[bytes]) -> Iterator[bytes]:
    """Makes an object without its metadata, passing a file's content on as it is written."""
    if node.kind == "D":
        os.mkdir(name, 0o700, dir_fd=folder)
    elif node.kind == "L":
        os.symlink(paths.encode(node.target), name, dir_fd=folder)
    if node.kind != "F":
        return iter(())
    return _copying(folder, name, content)


def _copying(folder: int, name: bytes, content: Iterable[bytes]) -> Iterator[bytes]:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        for chunk in content:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(fd, rest) :]
            yield chunk
    finally:
        os.close(fd)


def finish(folder: int, name: bytes, node: Node) -> None:
    """Gives an object its owner, xattrs and mode: in this order, since chown drops setuid and capabilities."""
    os.chown(name, node.uid, node.gid, dir_fd=folder, follow_symlinks=False)
    place = b"/proc/self/fd/%d/%s" % (folder, name)
    for key, value in node.xattrs:
        os.setxattr(place, key, value, follow_symlinks=False)
    if node.kind != "L":
        os.chmod(name, node.permissions, dir_fd=folder)


def remove(folder: int, name: bytes) -> None:
    """Removes a file, link or empty folder if it is there."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        os.rmdir(name, dir_fd=folder)
