"""What is on disk: nodes, and folders opened so that no symlink can lead astray."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from swupd import paths
from swupd.errors import FolderError
from swupd.values import Checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import BinaryIO

CHUNK = 1 << 20
_MAX_ID = 2**32 - 1
"""What chown takes for "leave it": no owner."""
_KINDS = {stat.S_IFREG: "F", stat.S_IFDIR: "D", stat.S_IFLNK: "L"}


class _Node(NamedTuple):
    path: str
    kind: str
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    target: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()


class Node(Checked, _Node):
    """An object of a tree, with all that its digest covers except a file's content.

    path: absolute, below the tree's root. kind: F, D or L.
    mode: st_mode with type bits. size: bytes of a file, else 0.
    target: what a symlink points to, else "".
    xattrs: (name, value) sorted by the name's bytes.
    """

    __slots__ = ()

    def check(self) -> None:
        if self.kind not in {"F", "D", "L"}:
            raise ValueError(f"{self.path}: kind {self.kind!r}")
        if not 0 <= self.size < 2**63 or not (0 <= self.uid < _MAX_ID and 0 <= self.gid < _MAX_ID):
            raise ValueError(f"{self.path}: size or owner is out of range")
        if bool(self.target) != (self.kind == "L"):
            raise ValueError(f"{self.path}: a {self.kind} cannot have these values")
        names = [os.fsencode(name) for name, _ in self.xattrs]
        if names != sorted(set(names)):
            raise ValueError(f"{self.path}: xattrs are unsorted or twice")

    @property
    def permissions(self) -> int:
        """The mode without type bits, setuid, setgid and sticky included."""
        return stat.S_IMODE(self.mode)

    def without_xattrs(self) -> Node:
        """The same object as a client without xattrs sees it."""
        return self._replace(xattrs=()) if self.xattrs else self


def file_node(path: str, permissions: int, size: int, uid: int = 0, gid: int = 0) -> Node:
    """A regular file's node."""
    return Node(path, "F", stat.S_IFREG | permissions, uid, gid, size)


def folder_node(path: str, permissions: int = 0o755, uid: int = 0, gid: int = 0) -> Node:
    """A folder's node."""
    return Node(path, "D", stat.S_IFDIR | permissions, uid, gid)


class Root:
    """A tree opened by its root folder; every look below it refuses to follow a symlink.

    Keeps the last parent folder open, so that walking paths in order is cheap. Not for several threads.
    """

    def __init__(self, root: Path) -> None:
        self.path = root
        try:
            self._fds = [os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        except OSError as e:
            raise FolderError(f"cannot open {root}: {e.strerror}", "Check the path and its permissions.") from e
        self._names: list[str] = []
        self._above: str | None = ""

    def __enter__(self) -> Root:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes all folders."""
        self.forget()
        os.close(self._fds.pop())

    @property
    def fd(self) -> int:
        """The root folder's descriptor."""
        return self._fds[0]

    def forget(self) -> None:
        """Drops the folders kept open: needed after folders were replaced."""
        while len(self._fds) > 1:
            os.close(self._fds.pop())
        self._names.clear()
        self._above = ""

    def parent(self, path: str) -> tuple[int, bytes]:
        """(descriptor of the parent folder, base name). The descriptor is this object's.

        Raises OSError: ENOENT, or ENOTDIR or ELOOP where a part of the way is no real folder.
        """
        above, _, name = path.rpartition("/")
        if above == self._above:
            return self._fds[-1], paths.encode(name)
        self._above = None
        folders = above[1:].split("/") if above else []
        keep = 0
        while keep < min(len(folders), len(self._names)) and folders[keep] == self._names[keep]:
            keep += 1
        while len(self._names) > keep:
            self._names.pop()
            os.close(self._fds.pop())
        for part in folders[keep:]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fds.append(os.open(paths.encode(part), flags, dir_fd=self._fds[-1]))
            self._names.append(part)
        self._above = above
        return self._fds[-1], paths.encode(name)

    def node(self, path: str, xattrs: bool = True) -> Node | None:
        """What is at a path, or None: nothing, or nothing that a stream can carry."""
        try:
            fd, name = self.parent(path)
            return node_at(fd, name, path, xattrs)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            if e.errno in {errno.ELOOP, errno.ENAMETOOLONG}:
                return None
            raise FolderError(f"cannot read {path}: {e.strerror}", "Check the disk and the permissions.") from e

    def chunks(self, node: Node) -> Iterator[bytes]:
        """The content of a file, in pieces. Raises FolderError."""
        try:
            fd, name = self.parent(node.path)
            yield from read_chunks(fd, name)
        except OSError as e:
            raise FolderError(f"cannot read {node.path}: {e.strerror}", "Check the disk and the permissions.") from e

    def file(self, node: Node) -> BinaryIO:
        """A regular file, opened for reading. Raises FolderError."""
        try:
            fd, name = self.parent(node.path)
            return os.fdopen(_open_file(fd, name), "rb")
        except OSError as e:
            raise FolderError(f"cannot read {node.path}: {e.strerror}", "Check the disk and the permissions.") from e

    def exists(self, path: str) -> bool:
        """Whether anything at all is at a path."""
        try:
            fd, name = self.parent(path)
            os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError:
            return False
        return True

    def names(self, path: str) -> tuple[str, ...]:
        """The base names in a folder, sorted; empty where there is no folder."""
        try:
            fd, name = self.parent(path)
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        except OSError:
            return ()
        try:
            return tuple(sorted(os.listdir(folder)))
        finally:
            os.close(folder)

    def mount_points(self) -> frozenset[str]:
        """Paths below the root at which another file system is mounted."""
        root = os.path.realpath(self.path).rstrip("/")
        found = set()
        with open("/proc/self/mounts", "rb") as mounts:
            for line in mounts:
                at = paths.decode(line.split(b" ")[1].decode("unicode_escape").encode("latin-1"))
                if at.startswith(root + "/"):
                    found.add(at[len(root) :])
        return frozenset(found - {"/"})


def node_at(dir_fd: int, name: bytes, path: str, xattrs: bool = True) -> Node | None:
    """The node for a name in an open folder; None for devices, sockets and pipes. Raises OSError."""
    found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None
    target = paths.decode(os.readlink(name, dir_fd=dir_fd)) if kind == "L" else ""
    return Node(
        path=path,
        kind=kind,
        mode=found.st_mode,
        uid=found.st_uid,
        gid=found.st_gid,
        size=found.st_size if kind == "F" else 0,
        target=target,
        xattrs=_xattrs(dir_fd, name) if xattrs else (),
    )


def _xattrs(dir_fd: int, name: bytes) -> tuple[tuple[str, bytes], ...]:
    place = b"/proc/self/fd/%d/%s" % (dir_fd, name)
    try:
        names = sorted(os.fsencode(n) for n in os.listxattr(place, follow_symlinks=False))
        return tuple((os.fsdecode(n), os.getxattr(place, n, follow_symlinks=False)) for n in names)
    except OSError as e:
        if e.errno in {errno.ENOTSUP, errno.ENODATA}:
            return ()
        raise


def _open_file(dir_fd: int, name: bytes) -> int:
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)


def read_chunks(dir_fd: int, name: bytes) -> Iterator[bytes]:
    """The content of a regular file in an open folder, in pieces. Raises OSError."""
    fd = _open_file(dir_fd, name)
    try:
        while chunk := os.read(fd, CHUNK):
            yield chunk
            # A regular file gives less only where it ends.
            if len(chunk) < CHUNK:
                break
    finally:
        os.close(fd)


def scan(
    root: Root, top: str = "", xattrs: bool = True, special: Callable[[str], None] | None = None
) -> Iterator[Node]:
    """All nodes below a folder, parents before children, names in byte order; the folder itself is left out.

    top: "" for the whole tree, or a path. Stays on one file system; the agent's own folder is passed over.
    special: told the path of each object that a stream cannot carry (devices, sockets, pipes).
    """
    try:
        device = os.stat(os.path.join(root.path, top[1:])).st_dev
        stack = [top]
        while stack:
            at = stack.pop()
            folders = []
            for base in sorted(os.listdir(b"/proc/self/fd/%d" % root.parent(at + "/.")[0])):
                path = f"{at}/{paths.decode(base)}"
                if at == top and paths.is_reserved(path):
                    continue
                # Asked for anew each time: whoever consumes the nodes may use the same root.
                fd = root.parent(path)[0]
                node = node_at(fd, base, path, xattrs)
                if node is None:
                    if special is not None:
                        special(path)
                    continue
                if node.kind == "D" and os.stat(base, dir_fd=fd, follow_symlinks=False).st_dev == device:
                    folders.append(path)
                yield node
            stack += reversed(folders)
    except OSError as e:
        raise FolderError(f"cannot read below {root.path}: {e}", "Check the disk and the permissions.") from e
