"""The root file system that is to be published: what is in it, what it says about itself, and its contents."""

from __future__ import annotations

import fnmatch
import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from swupd import hashing, paths, tree
from swupd.errors import FolderError, InvalidFile
from swupd.server.work import Report
from swupd.tree import Node, Root

_OS_RELEASES = (paths.OS_RELEASE, "/etc/os-release")
_FORMAT = f"{paths.DEFAULTS}/format"
_VERSION_ID = re.compile(r"^VERSION_ID=[\"']?([^\"'\n]*)", re.MULTILINE)
_SMALL = 65536
_ACCESS_LIST = "system.posix_acl_"
_CHECK_DISK = "Check the disk and the permissions."


@dataclass(frozen=True)
class Tree:
    """A scanned root file system.

    nodes: what can be shipped, by path, parents before children.
    left_out: what is in the folder but not shipped (excluded, special files, impossible names).
    """

    root: Path
    nodes: Mapping[str, Node]
    left_out: frozenset[str]


def scan(rootfs: Path, exclude: Iterable[str], xattrs: bool, report: Report) -> Tree:
    """Looks at everything once. exclude: paths or fnmatch patterns; a folder excludes what is below it.

    Raises FolderError.
    """
    nodes: dict[str, Node] = {}
    left_out: set[str] = set()
    patterns = tuple(exclude)
    # One pattern that matches nothing stands for none.
    unwanted = re.compile("|".join(fnmatch.translate(p) for p in patterns) or r"(?!)").fullmatch

    def special(path: str) -> None:
        left_out.add(path)
        if not unwanted(path):
            report.warn(f"{path!r} is left out: it is a device, a socket or a pipe")

    with Root(rootfs) as root:
        for node in tree.scan(root, "", xattrs, special):
            if posixpath.dirname(node.path) in left_out or unwanted(node.path):
                left_out.add(node.path)
            elif (why := paths.problem(node.path)) is not None:
                left_out.add(node.path)
                report.warn(f"{node.path!r} is left out: {why}")
            else:
                nodes[node.path] = node
                if len(nodes) % 1000 == 0:
                    report.phase("scan", len(nodes), 0)
    _warn_of_access_lists(nodes.values(), report)
    return Tree(rootfs, nodes, frozenset(left_out))


def _warn_of_access_lists(nodes: Iterable[Node], report: Report) -> None:
    found = [node.path for node in nodes if any(name.startswith(_ACCESS_LIST) for name, _ in node.xattrs)]
    if found:
        report.warn(
            f"{len(found)} paths have access lists, the first {found[0]!r}: swupd-client does not restore them, and so"
            " refuses what has one. Remove them (setfacl -b), unless all devices have this project's agent"
        )


def parse_excludes(data: bytes, source: str) -> tuple[str, ...]:
    """Reads a file of paths and patterns, one a line, empty lines skipped. Raises InvalidFile."""
    found = []
    for number, line in enumerate(paths.decode(data).split("\n"), 1):
        if not line:
            continue
        if not line.startswith(("/", "*")):
            raise InvalidFile(
                f"{source}, line {number}: {line[:200]!r} matches nothing", "Begin each line with / or with *."
            )
        found.append(line.rstrip("/"))
    return tuple(found)


def check_identity(source: Tree, version: int, stream_format: int, report: Report) -> None:
    """Raises InvalidFile where the tree says that it is another version, or of another format."""
    texts = [text for path in _OS_RELEASES if (text := _text(source, path)) is not None]
    found = _VERSION_ID.search(texts[0]) if texts else None
    said = found[1].strip() if found else ""
    if not (said.isascii() and said.isdigit()):
        report.warn(f"{paths.OS_RELEASE} has no VERSION_ID={version}: devices cannot tell which version they have")
    elif int(said) != version:
        raise InvalidFile(
            f"the root file system says VERSION_ID={said[:40]}, but the release is {version}",
            f"Build it with VERSION_ID={version} in {paths.OS_RELEASE}, or publish it as version {said[:40]}.",
        )
    text = _text(source, _FORMAT)
    if text is not None and text.strip() != str(stream_format):
        raise InvalidFile(
            f"{_FORMAT} of the root file system says {text.strip()[:40]!r}, but the stream's format is {stream_format}",
            "Build it with the stream's format, or give the other --format.",
        )


def timestamp(source: Tree) -> int:
    """Unix seconds that belong to the tree: its versionstamp, else its newest file's modification time."""
    stamp = (_text(source, paths.VERSIONSTAMP) or "").strip()
    if stamp.isascii() and stamp.isdigit() and 0 < len(stamp) < 13:
        return int(stamp)
    files = (node for node in source.nodes.values() if node.kind == "F")
    try:
        newest = max((os.lstat(_place(source.root, node)).st_mtime_ns for node in files), default=0)
    except OSError as e:
        raise FolderError(f"cannot read below {source.root}: {e.strerror}", _CHECK_DISK) from e
    return max(0, newest // 1_000_000_000)


def _text(source: Tree, path: str) -> str | None:
    node = source.nodes.get(path)
    if node is None or node.kind != "F" or node.size > _SMALL:
        return None
    return content(source.root, node).decode("utf-8", "replace")


def _place(root: Path, node: Node) -> bytes:
    return os.fsencode(root) + paths.encode(node.path)


def content(root: Path, node: Node) -> bytes:
    """A file's content; nothing for other kinds. Raises FolderError, InvalidFile where it has changed meanwhile."""
    if node.kind != "F" or not node.size:
        return b""
    try:
        fd = os.open(_place(root, node), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # One byte more than there should be. At most 2 GiB come at a time.
            data = os.read(fd, node.size + 1)
            while len(data) < node.size and (more := os.read(fd, node.size + 1 - len(data))):
                data += more
        finally:
            os.close(fd)
    except OSError as e:
        raise FolderError(f"cannot read {node.path} of {root}: {e.strerror}", _CHECK_DISK) from e
    if len(data) != node.size:
        raise _changed(node)
    return data


def beginning(root: Path, node: Node, size: int) -> bytes:
    """The first bytes of a file. Raises FolderError."""
    try:
        fd = os.open(_place(root, node), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            return file.read(size)
    except OSError as e:
        raise FolderError(f"cannot read {node.path} of {root}: {e.strerror}", _CHECK_DISK) from e


def checked_content(root: Path, node: Node, digest: str) -> bytes:
    """A file's content, which must still have a digest. Raises as `content`."""
    data = content(root, node)
    if hashing.digest(node, [data]) != digest:
        raise _changed(node)
    return data


def _changed(node: Node) -> InvalidFile:
    return InvalidFile(f"{node.path} changed while it was being published", "Publish a tree that nobody writes to.")
