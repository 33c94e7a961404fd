"""Everything that a change needs, made beside the tree and made durable, before anything of the tree is touched.

New objects, second names of what will be replaced, the shadow of a folder where there is one, and the journal.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

from swupd import paths
from swupd.agent import journal, plan, syscalls
from swupd.agent.journal import Journal, Op
from swupd.agent.objects import XattrRule, create, digests, finish
from swupd.agent.plan import Plan
from swupd.agent.shadow import Shadow, Take
from swupd.agent.survey import kind_at
from swupd.agent.workplace import Workplace
from swupd.errors import HashMismatch
from swupd.manifest import Entry
from swupd.tree import Node, Root, read_chunks

_UNABLE = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP}
"""What a link of a file fails with that can only be replaced: foreign mount, immutable, too many names, no links."""
Progress = Callable[[int, int, str], None]


class Staging(Protocol):
    """Where the objects of a plan lie."""

    def node(self, digest: str) -> Node | None: ...
    def content(self, digest: str) -> Iterator[bytes]: ...
    def link(self, digest: str, folder: int, name: bytes) -> bool: ...
    def untouched(self, digest: str) -> bool: ...
    def settle(self) -> None: ...


class How(NamedTuple):
    """keep: undo stays after the change. trial: boots within which it must be confirmed, 0 for none.

    actions: words for what has to run afterwards. exchange: whether the folder /usr may be exchanged as a whole.
    wanted: what the release has, to be compared with the folder before it is put in place. take: as in Shadow.
    """

    keep: bool = False
    trial: int = 0
    actions: tuple[str, ...] = ()
    exchange: bool = True
    wanted: Mapping[str, Entry] = MappingProxyType({})
    take: Take = lambda *_: None


PLAIN = How()
"""Nothing is kept, nothing runs afterwards."""


class Unable(Exception):
    """The file system cannot exchange folders, or not link every file."""


class Moved(Exception):
    """The folder changed while its shadow was made."""


class Areas:
    """Finds the file system on which each path of a tree lies."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._mounts = root.mount_points()
        self._known = {"": ("", os.fstat(root.fd).st_dev)}

    def of(self, path: str) -> str:
        """The top of the file system that holds a path's name: "" for the root's, else the path of a folder."""
        return self._folder(path.rpartition("/")[0])[0]

    def _folder(self, path: str) -> tuple[str, int]:
        if path not in self._known:
            area, device = self._folder(path.rpartition("/")[0])
            with contextlib.suppress(OSError):
                fd, name = self._root.parent(path)
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode) and (path in self._mounts or found.st_dev != device):
                    area, device = path, found.st_dev
            self._known[path] = area, device
        return self._known[path]


class Preparation:
    """The work before a change."""

    def __init__(
        self,
        plan: Plan,
        staging: Staging,
        root: Root,
        rule: XattrRule,
        progress: Progress,
        how: How,
        kept: tuple[str, ...],
        top: str = "",
    ) -> None:
        """top: the folder that gets a shadow, "" for none."""
        self.plan, self.staging, self.root, self.rule = plan, staging, root, rule
        self.progress, self.how, self.kept, self.top = progress, how, kept, top

    def run(self) -> Journal:
        """Makes everything; gives the journal. Raises Unable, Moved, OSError, HashMismatch, ApplyError."""
        self._ops: list[Op] = []
        self._numbers = iter(range(2**31))
        self._told = 0
        self._looks: dict[str, tuple[_Look, int]] = {}
        self._known: dict[_Look, _Look] = {}
        self.damaged: tuple[str, ...] = ()
        self._areas = Areas(self.root)
        self._inside: dict[str, tuple[str, str]] = {}
        self._folders: list[tuple[Root, str, Node]] = []
        self._gone = frozenset(self.plan.remove)
        self._base = os.fsencode(self.root.path)
        write = [e for e in self.plan.write if not paths.inside(e.name, self.top)]
        drop = [p for p in self.plan.remove if not paths.inside(p, self.top) and p not in self.kept]
        self._work = Workplace(self.root, {self._areas.of(p) for p in (*(e.name for e in write), *drop)})
        try:
            shadow = self._shadow() if self.top else None
            for entry in write:
                self._entry(entry)
            for opened, place, node in reversed(self._folders):
                finish(*opened.parent(place), node)
            swapped = {op.path for op in self._ops if op.kind == "swap"}
            for path in drop:
                if swapped.isdisjoint(paths.parents(path)):
                    self._op("drop", path)
            ops = journal.order(self._ops)
            change = Journal(self._work.id, self._work.areas, ops, self.how.keep, self.how.actions)
            # Data that was lost on its way to the disk in the background is told here, or never.
            self.staging.settle()
            self._work.prepare(change, (e.name for e in self.plan.write), self.how.trial)
            if shadow is not None and not shadow.unchanged():
                raise Moved
        finally:
            self._work.close()
        return change

    def _op(self, kind: str, path: str, *words: str) -> Op:
        op = Op(kind, self._areas.of(path), next(self._numbers), path, words)
        self._ops.append(op)
        return op

    def _shadow(self) -> Shadow:
        """Makes the shadow and the operation that puts it in place."""
        opened = self._work.new[""]
        _probe(opened.fd)
        shadow = Shadow(
            self.root,
            self.top,
            [e for e in self.plan.write if paths.inside(e.name, self.top)],
            self._gone.difference(self.kept),
            self._make,
            keep_xattrs=self.rule is not XattrRule.HASHED,
            wanted=self.how.wanted,
            take=self.how.take,
        )
        number = next(self._numbers)
        try:
            inode = shadow.build(opened.fd, b"%d" % number)
        except OSError as e:
            if e.errno in _UNABLE:
                raise Unable from e
            raise
        for entry in shadow.replaced:
            self._refuse_foreign(entry)
        self._ops.append(Op("swap", "", number, self.top, ("D", str(inode))))
        self._verify(shadow, opened, f"/{number}")
        return shadow

    def _verify(self, shadow: Shadow, opened: Root, place: str) -> None:
        """Compares the shadow with what it shall be: the kinds of all its paths, metadata of all that is new.

        Contents were hashed while they were written. Raises HashMismatch.
        """
        for entry in shadow.write:
            fd, name = opened.parent(place + entry.name[len(self.top) :])
            if _seen(os.stat(name, dir_fd=fd, follow_symlinks=False)) != self._looks[entry.name]:
                raise HashMismatch(
                    f"{entry.name} is not on the disk as it was written",
                    "Check disk and file system; nothing was changed.",
                )
        below = [entry for path, entry in self.how.wanted.items() if path.startswith(self.top + "/")]
        if shadow.right < len(below):
            places = ((entry, place + entry.name[len(self.top) :]) for entry in below)
            self.damaged = tuple(entry.name for entry, at in places if kind_at(opened, at) != entry.kind)

    def _entry(self, entry: Entry) -> None:
        """Makes what puts one entry in place, outside of the shadow."""
        folder, _, base = entry.name.rpartition("/")
        if folder in self._inside:
            area, place = self._inside[folder]
            self._object(entry, area, f"{place}/{base}")
            return
        found = self._found(entry.name)
        if found is None:
            self._place("add", entry)
        elif stat.S_ISDIR(found.st_mode) and entry.kind == "D":
            self._describe(entry, found)
        elif stat.S_ISDIR(found.st_mode) or entry.kind == "D":
            self._refuse_foreign(entry)
            self._place("swap", entry)
        else:
            self._keep(self._place("put", entry))

    def _found(self, path: str) -> os.stat_result | None:
        fd, name = self.root.parent(path)
        try:
            return os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _place(self, kind: str, entry: Entry) -> Op:
        """Makes a new object, and the operation that puts it in place."""
        area, number = self._areas.of(entry.name), next(self._numbers)
        fd, name = self._object(entry, area, f"/{number}")
        inode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino if kind == "swap" else 0
        words = (entry.kind, str(inode)) if kind == "swap" else ()
        self._ops.append(Op(kind, area, number, entry.name, words))
        return self._ops[-1]

    def _object(self, entry: Entry, area: str, place: str) -> tuple[int, bytes]:
        """Makes a new object at a place of the agent's folder; gives the folder it is in, opened, and its name."""
        opened = self._work.new[area]
        fd, name = opened.parent(place)
        node = self._make(entry, fd, name)
        if entry.kind == "D":
            self._inside[entry.name] = area, place
            self._folders.append((opened, place, node))
        return fd, name

    def _make(self, entry: Entry, fd: int, name: bytes) -> Node:
        """Makes an object, complete but for a folder's metadata; gives what its digest covers."""
        node = self._node(entry)
        covered = self._linked(entry, node, fd, name)
        if covered is None:
            content = self.staging.content(entry.digest) if node.kind == "F" else ()
            covered = self._covered(entry, node, create(fd, name, node, content))
            if node.kind != "D":
                finish(fd, name, covered)
        self._told += 1
        if paths.inside(entry.name, self.top):
            look, size = _wanted(covered)
            self._looks[entry.name] = self._known.setdefault(look, look), size
        self.progress(self._told, 2 * len(self.plan.write), "files")
        return covered

    def _linked(self, entry: Entry, node: Node, fd: int, name: bytes) -> Node | None:
        """Gives a staged file its name in the tree to be, where it is as it shall be there; None where it has none."""
        if node.kind != "F":
            return None
        known = self.staging.untouched(entry.digest) and not (self.rule is XattrRule.UNKNOWN and node.xattrs)
        if not self.staging.link(entry.digest, fd, name):
            return None
        if known:
            covered = node if self.rule is XattrRule.HASHED else node.without_xattrs()
        else:
            covered = self._covered(entry, node, read_chunks(fd, name))
        if covered == node:
            return covered
        os.unlink(name, dir_fd=fd)
        return None

    def _node(self, entry: Entry) -> Node:
        node = self.staging.node(entry.digest)
        if node is None:
            raise HashMismatch(f"the staged object of {entry.name} is gone or damaged", "Run the command again.")
        return node

    def _covered(self, entry: Entry, node: Node, content: Iterable[bytes]) -> Node:
        """What an entry's digest covers of a staged object. Raises HashMismatch where it is another."""
        found = digests(node, content, self.rule)
        covered = next((view for view, digest in found if digest == entry.digest), None)
        if covered is None or covered.kind != entry.kind:
            raise HashMismatch(f"the staged object of {entry.name} is damaged", "Run the command again.")
        return covered

    def _keep(self, op: Op) -> None:
        """Gives what will be replaced a second name; where the file system has no links, a copy."""
        copy = self._base + paths.encode(op.old)
        fd, name = self.root.parent(op.path)
        try:
            os.link(name, copy, src_dir_fd=fd, follow_symlinks=False)
        except OSError as e:
            if e.errno not in _UNABLE:
                raise
            shutil.copy2(self._base + paths.encode(op.path), copy, follow_symlinks=False)

    def _describe(self, entry: Entry, found: os.stat_result) -> None:
        """The operations that give a folder, which stays, its new metadata."""
        node = self._covered(entry, self._node(entry), ())
        old, new = (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid), (node.permissions, node.uid, node.gid)
        if old != new:
            words = (word for mode, uid, gid in (new, old) for word in (f"{mode:05o}", f"{uid}:{gid}"))
            self._op("meta", entry.name, *words)
        there = self.root.node(entry.name)
        have, want = dict(there.xattrs) if there is not None else {}, dict(node.xattrs)
        # Where digests do not cover xattrs, those that the folder has are the device's own (labels).
        for key in sorted(want if self.rule is not XattrRule.HASHED else {*have, *want}):
            if have.get(key) != want.get(key):
                self._op("xattr", entry.name, key, _hex(want.get(key)), _hex(have.get(key)))

    def _refuse_foreign(self, entry: Entry) -> None:
        """Raises ApplyError where a folder that gives way to a file or link holds what nobody is to remove."""
        todo = [entry.name]
        foreign: set[str] = set()
        while todo:
            at = todo.pop()
            inside = [f"{at}/{name}" for name in self.root.names(at)]
            foreign.update(path for path in inside if path not in self._gone)
            todo += inside
        plan.check_foreign(entry, frozenset(foreign))


_TYPES = {"F": stat.S_IFREG, "D": stat.S_IFDIR, "L": stat.S_IFLNK}


class _Look(NamedTuple):
    """What is compared of an object on disk with what a digest covers, beside its size. Most have one of a few.

    permissions: None for a link, which has none.
    """

    kind: int
    permissions: int | None
    uid: int
    gid: int


def _wanted(covered: Node) -> tuple[_Look, int]:
    """How an object shall look, and its size, which is 0 for a folder."""
    size = {"F": covered.size, "L": len(paths.encode(covered.target)), "D": 0}[covered.kind]
    permissions = covered.permissions if covered.kind != "L" else None
    return _Look(_TYPES[covered.kind], permissions, covered.uid, covered.gid), size


def _seen(there: os.stat_result) -> tuple[_Look, int]:
    """How one looks."""
    kind = stat.S_IFMT(there.st_mode)
    permissions = stat.S_IMODE(there.st_mode) if kind != stat.S_IFLNK else None
    return _Look(kind, permissions, there.st_uid, there.st_gid), there.st_size if kind != stat.S_IFDIR else 0


def _hex(value: bytes | None) -> str:
    return "-" if value is None else "0x" + value.hex()


def _probe(fd: int) -> None:
    """Raises Unable where the file system of a folder has no hard links, or cannot exchange folders."""
    first, second = b"probe-1", b"probe-2"
    try:
        for name in (first, second):
            os.mkdir(name, 0o700, dir_fd=fd)
        syscalls.exchange(fd, first, fd, second)
        os.symlink("x", b"probe-1/a", dir_fd=fd)
        os.link(b"probe-1/a", b"probe-1/b", src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
        shutil.rmtree(first, dir_fd=fd)
        os.rmdir(second, dir_fd=fd)
    except OSError as e:
        if e.errno in {*_UNABLE, errno.ENOSYS, errno.EINVAL}:
            raise Unable from e
        raise
