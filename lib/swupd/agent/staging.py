"""Objects that wait for a change, each verified when it came: a folder of files named by their digests."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from swupd import tree
from swupd.agent.folders import remove_folder, writing
from swupd.agent.objects import XattrRule, create, digests, finish, named, remove
from swupd.agent.writeback import Writeback
from swupd.errors import HashMismatch
from swupd.tree import Node, Root

_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP}
"""What a link fails with to another file system, or on one that has none."""
_IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST}
"""What renaming fails with where an object of another kind has the name."""


class Staged:
    """The objects in a folder, which is root's alone. Some may be of an earlier run."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._root = Root(place)
        self._writeback = Writeback(place)
        self._written: dict[int, int] = {}
        # Of a run that was killed.
        for part in place.glob(".*"):
            remove(self._root.fd, os.fsencode(part.name))

    def close(self) -> None:
        """Closes the folder."""
        self._writeback.close()
        self._root.close()

    def put(self, digest: str, node: Node, content: Iterable[bytes], rule: XattrRule) -> None:
        """Stages an object under its digest. Raises HashMismatch where it is another, DiskSpace, WriteError."""
        part = b".%s.%d" % (digest.encode(), os.getpid())
        folder = os.dup(self._root.fd)
        try:
            with writing(self._place):
                found = digests(node, create(folder, part, node, content), rule)
                covered = named(found, digest)
                finish(folder, part, covered)
                _put(folder, part, digest.encode())
                there = os.stat(digest, dir_fd=folder, follow_symlinks=False)
                self._written[there.st_ino] = there.st_ctime_ns
                self._writeback.wrote(there.st_size)
        except BaseException:
            with contextlib.suppress(OSError):
                remove(folder, part)
            raise
        finally:
            os.close(folder)

    def write_back(self) -> None:
        """Begins to write what is staged to the disk."""
        self._writeback.begin()

    def settle(self) -> None:
        """Waits for that. Raises OSError where data was lost."""
        self._writeback.settle()

    def find(self, digest: str, rule: XattrRule) -> Node | None:
        """The object staged under a digest, hashed anew; None where it is missing or damaged."""
        node = self._root.node("/" + digest, xattrs=rule is not XattrRule.IGNORED)
        if node is None:
            return None
        try:
            return named(digests(node, self._root.chunks(node), rule), digest)
        except HashMismatch:
            return None

    def node(self, digest: str) -> Node | None:
        """The object staged under a digest, not hashed yet."""
        return self._root.node("/" + digest)

    def file(self, node: Node) -> BinaryIO:
        """A staged file, opened."""
        return self._root.file(node)

    def content(self, digest: str) -> Iterator[bytes]:
        """The content of a staged file, which the reader hashes again."""
        return tree.read_chunks(self._root.fd, digest.encode())

    def untouched(self, digest: str) -> bool:
        """Whether what is staged is as this run wrote and hashed it: its inode did not change since.

        So that nothing is read a second time. What an earlier run left has to be.
        """
        there = os.stat(digest, dir_fd=self._root.fd, follow_symlinks=False)
        return self._written.get(there.st_ino) == there.st_ctime_ns

    def link(self, digest: str, folder: int, name: bytes) -> bool:
        """Gives a staged file a name in an open folder, too. False where that cannot be, or where it has a second one.

        Two paths of a tree must not be names of one file: whoever wrote to the one would change the other.
        """
        staged = digest.encode()
        try:
            if os.stat(staged, dir_fd=self._root.fd, follow_symlinks=False).st_nlink != 1:
                return False
            os.link(staged, name, src_dir_fd=self._root.fd, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as e:
            if e.errno not in _NO_LINK:
                raise
            return False
        return True

    def room(self, digest: str, device: int) -> tuple[int, bool]:
        """(bytes of a file that is staged, whether it can get a name on a file system, by all that looking tells)."""
        try:
            found = os.stat(digest, dir_fd=self._root.fd, follow_symlinks=False)
        except FileNotFoundError:
            return 0, False
        if not stat.S_ISREG(found.st_mode):
            return 0, False
        return found.st_size, found.st_nlink == 1 and found.st_dev == device


def _put(folder: int, name: bytes, to: bytes) -> None:
    """Renames something to what may be taken, in a folder that is the agent's alone."""
    try:
        os.rename(name, to, src_dir_fd=folder, dst_dir_fd=folder)
        return
    except OSError as e:
        if e.errno not in _IN_THE_WAY:
            raise
    try:
        remove(folder, to)
    except OSError as e:
        if e.errno != errno.ENOTEMPTY:
            raise
        remove_folder(to, folder)
    os.rename(name, to, src_dir_fd=folder, dst_dir_fd=folder)
