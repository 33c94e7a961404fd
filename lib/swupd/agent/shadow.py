"""A second tree beside a folder: hard links to all that stays, new objects for the rest.

Once it is complete and durable, the two are exchanged in one step. Folders are new, so that what happens to either
tree's names cannot be seen in the other; files are shared, so nothing may ever be changed in place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from swupd import paths
from swupd.agent.objects import finish
from swupd.errors import ApplyError
from swupd.manifest import Entry
from swupd.tree import Node, Root

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
Make = Callable[[Entry, int, bytes], Node]
"""Makes an entry's object under a name in an open folder, complete but for a folder's metadata, which it gives."""


class Linked(NamedTuple):
    """A folder that was linked beforehand. name: where. right, seen: as a shadow has them."""

    path: str
    name: str
    right: int
    seen: dict[str, tuple[int, ...]]


Take = Callable[[str, int, bytes], Linked | None]
"""Gives a folder that was linked beforehand a name in an open folder, by its path; None where there is none."""


class Shadow:
    """What becomes of a folder.

    Once it is built, right: at how many paths below the top there is what is wanted, as far as kinds tell;
    replaced: entries in the place of folders that were left out; seen: how each folder was when its names were read.
    """

    def __init__(
        self,
        root: Root,
        top: str,
        write: Iterable[Entry],
        gone: frozenset[str],
        make: Make,
        keep_xattrs: bool,
        wanted: Mapping[str, Entry],
        take: Take = lambda *_: None,
    ) -> None:
        """top: the folder's path. write: entries at or below it. gone: paths left out, with all that is in them.

        keep_xattrs: folders keep the attributes that the release does not mention.
        wanted: what the release has, by path, to be compared with what is there.
        take: folders in which nothing changes, as far as they were linked beforehand.
        """
        self.root, self.top, self.write, self.gone = root, top, write, gone
        self.make, self.keep_xattrs, self.wanted, self.take = make, keep_xattrs, wanted, take
        self.right = 0
        self.replaced: list[Entry] = []
        self.seen: dict[str, tuple[int, ...]] = {}
        self._below: dict[str, dict[str, Entry]] = {}
        self._touched: set[str] = set()

    def build(self, fd: int, name: bytes) -> int:
        """Makes the shadow under a name in an open folder; gives its inode number. Raises OSError, ApplyError."""
        for entry in self.write:
            self._below.setdefault(entry.name.rpartition("/")[0], {})[entry.name] = entry
        self._touched = paths.above((*(entry.name for entry in self.write), *self.gone))
        own = self._below.pop(self.top.rpartition("/")[0], {}).get(self.top)
        self._folder(self.top, own, *self.root.parent(self.top), fd, name)
        if self._below:
            raise ApplyError(
                f"{min(self._below)} is no folder here, but files have to go into it",
                "Run: swupd repair, or make it a folder again. Nothing was changed.",
            )
        return os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino

    def unchanged(self) -> bool:
        """Whether no name of the folder has come, gone or changed since the shadow was begun."""
        return self._same(self.seen)

    def _same(self, seen: Mapping[str, tuple[int, ...]]) -> bool:
        try:
            return all(_stamp(os.lstat(os.path.join(self.root.path, p[1:]))) == s for p, s in seen.items())
        except OSError:
            return False

    def _folder(self, path: str, entry: Entry | None, live: int | None, name: bytes, fd: int, made: bytes) -> None:
        """Makes one folder, complete: live and name say where the old one is, fd and made where the new one goes."""
        if entry is None:
            os.mkdir(made, 0o700, dir_fd=fd)
            node = None
        else:
            node = self.make(entry, fd, made)
        old = None if live is None else os.open(name, _FOLDER, dir_fd=live)
        try:
            new = os.open(made, _FOLDER, dir_fd=fd)
            try:
                changed = self._fill(path, old, new)
                if old is not None and (node is None or self.keep_xattrs):
                    _copy_xattrs(old, new)
                if node is not None:
                    finish(fd, made, node)
                elif old is not None:
                    _copy_metadata(old, new, times=not changed)
            finally:
                os.close(new)
        finally:
            if old is not None:
                os.close(old)

    def _fill(self, path: str, old: int | None, new: int) -> bool:
        """Fills a folder with links and new objects; gives whether its names are others than before."""
        write = self._below.pop(path, {})
        changed = bool(write)
        folders = set()
        for name, kind in self._names(path, old):
            child = f"{path}/{paths.decode(name)}"
            if write and child in write:
                if kind == "D":
                    folders.add(child)
                continue
            if child in self.gone:
                changed = True
                continue
            expected = self.wanted.get(child)
            if expected is not None and expected.kind == kind:
                self.right += 1
            if kind == "D":
                if not self._taken(child, new, name):
                    self._folder(child, None, old, name, new, name)
            else:
                os.link(name, name, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)
        for child, entry in write.items():
            self.right += child in self.wanted
            name = paths.encode(child.rpartition("/")[2])
            if entry.kind == "D":
                self._folder(child, entry, old if child in folders else None, name, new, name)
            else:
                self.make(entry, new, name)
                if child in folders:
                    self.replaced.append(entry)
        return changed

    def _taken(self, path: str, new: int, name: bytes) -> bool:
        """Whether a folder is there by what was linked beforehand."""
        if path in self._touched:
            return False
        found = self.take(path, new, name)
        if found is None:
            return False
        if not self._same(found.seen):
            shutil.rmtree(name, dir_fd=new)
            return False
        self.right += found.right
        self.seen.update(found.seen)
        return True

    def _names(self, path: str, old: int | None) -> list[tuple[bytes, str]]:
        if old is None:
            return []
        self.seen[path] = _stamp(os.fstat(old))
        with os.scandir(b"/proc/self/fd/%d" % old) as items:
            return [(item.name, _kind(item)) for item in items]


def _kind(item: os.DirEntry[bytes]) -> str:
    if item.is_file(follow_symlinks=False):
        return "F"
    if item.is_dir(follow_symlinks=False):
        return "D"
    return "L" if item.is_symlink() else "?"


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _copy_xattrs(old: int, new: int) -> None:
    try:
        for key in os.listxattr(old):
            os.setxattr(new, key, os.getxattr(old, key))
    except OSError as e:
        if e.errno != errno.ENOTSUP:
            raise


def _copy_metadata(old: int, new: int, times: bool) -> None:
    """Owner, mode and, where the names are the same, times: programs see by them whether to look again."""
    found = os.fstat(old)
    os.fchown(new, found.st_uid, found.st_gid)
    os.fchmod(new, stat.S_IMODE(found.st_mode))
    if times:
        os.utime(new, ns=(found.st_atime_ns, found.st_mtime_ns))


def folders(root: Root, top: str) -> tuple[int, int]:
    """(number of folders at and below a folder, bytes they take): what a shadow costs beside new objects."""
    count = size = 0
    base = os.path.join(root.path, top[1:])
    waiting = [base]
    while waiting:
        place = waiting.pop()
        count += 1
        size += max(4096, os.lstat(place).st_blocks * 512)
        with contextlib.suppress(FileNotFoundError), os.scandir(place) as found:
            waiting += [item.path for item in found if item.is_dir(follow_symlinks=False)]
    return count, size
