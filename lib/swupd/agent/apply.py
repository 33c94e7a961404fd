"""Puts a plan in place: the one function that changes a device's tree.

First every new object is written beside its place and made durable; until then any failure leaves the tree as
it was. Then renames and removals follow in order, os-release last. Work is done below folder descriptors: no
symlink is followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from swupd import paths
from swupd.agent.plan import Plan
from swupd.agent.state import XattrRule, create, digests, finish, remove
from swupd.errors import ApplyError, HashMismatch, write_error
from swupd.manifest import Entry
from swupd.tree import Node, Root


class Staging(Protocol):
    """Where the objects of a plan lie."""

    def staged_node(self, digest: str) -> Node | None: ...
    def staged_content(self, digest: str) -> Iterator[bytes]: ...


@dataclass(frozen=True)
class Outcome:
    """What was done. written, removed: numbers of paths; kept: folders that stay because foreign files are in them."""

    written: int
    removed: int
    kept: tuple[str, ...]


@dataclass(frozen=True)
class _New:
    """A new object that waits at a path beside its place."""

    entry: Entry
    node: Node
    beside: str


def places(plan: Plan, root: Root) -> tuple[str, ...]:
    """Where each new object of a plan waits: a path in the nearest folder that is there already.

    Whoever calls `apply` writes them down first, so that after a power cut `sweep` can take away what was left.
    """
    return tuple(f"{_nearest_folder(root, e.name)}/{paths.RESERVED}{number}" for number, e in enumerate(plan.write))


def sweep(root: Root, beside: Iterable[str]) -> None:
    """Removes new objects that never came to their places."""
    root.forget()
    for path in beside:
        with contextlib.suppress(OSError):
            fd, name = root.parent(path)
            remove(fd, name)


def apply(
    plan: Plan,
    beside: Sequence[str],
    staging: Staging,
    root: Root,
    rule: XattrRule,
    progress: Callable[[int, int, str], None],
) -> Outcome:
    """Makes a tree what a plan says. Raises ApplyError, HashMismatch, DiskSpace, WriteError.

    beside: what `places` gave.
    """
    waiting: list[_New] = []
    try:
        for entry, path in zip(plan.write, beside, strict=True):
            waiting.append(_stage(entry, path, staging, root, rule))
            progress(len(waiting), 2 * len(plan.write), "files")
        os.sync()
    except OSError as e:
        sweep(root, beside)
        raise write_error(root.path, e) from e
    except BaseException:
        sweep(root, beside)
        raise
    try:
        kept = _commit(plan, waiting, root, rule, progress)
    except OSError as e:
        sweep(root, beside)
        raise ApplyError(
            f"the tree could not be changed completely: {e}", "Mend the cause, then run: swupd repair"
        ) from e
    os.sync()
    return Outcome(len(plan.write), len(plan.remove) - len(kept), kept)


def _stage(entry: Entry, beside: str, staging: Staging, root: Root, rule: XattrRule) -> _New:
    node = staging.staged_node(entry.digest)
    if node is None:
        raise HashMismatch(f"the staged object of {entry.name} is gone or damaged", "Run the command again.")
    fd, name = root.parent(beside)
    remove(fd, name)
    content = staging.staged_content(entry.digest) if node.kind == "F" else ()
    found = digests(node, create(fd, name, node, content) if node.kind != "D" else (), rule)
    covered = next((view for view, digest in found if digest == entry.digest), None)
    if covered is None or covered.kind != entry.kind:
        remove(fd, name)
        raise HashMismatch(f"the staged object of {entry.name} is damaged", "Run the command again.")
    if node.kind != "D":
        finish(fd, name, covered)
    return _New(entry, covered, beside)


def _nearest_folder(root: Root, path: str) -> str:
    """The lowest folder above a path that is there already, "" for the root."""
    for parent in reversed(["", *paths.parents(path)]):
        with contextlib.suppress(OSError):
            root.parent(f"{parent}/x")
            return parent
    return ""


def _commit(
    plan: Plan, waiting: list[_New], root: Root, rule: XattrRule, progress: Callable[[int, int, str], None]
) -> tuple[str, ...]:
    rest = list(plan.remove)
    for done, new in enumerate(waiting, 1):
        if new.entry.kind == "D":
            _make_folder(root, new, rule)
        else:
            rest = _make_way(root, new.entry.name, rest)
            fd, name = root.parent(new.beside)
            # The source's folder stays open while the target's is looked up.
            held = os.dup(fd)
            try:
                target, base = root.parent(new.entry.name)
                os.rename(name, base, src_dir_fd=held, dst_dir_fd=target)
            finally:
                os.close(held)
        progress(len(waiting) + done, 2 * len(waiting), "files")
    return tuple(path for path in rest if not _remove(root, path))


def _make_folder(root: Root, new: _New, rule: XattrRule) -> None:
    fd, name = root.parent(new.entry.name)
    try:
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            os.unlink(name, dir_fd=fd)
            raise FileNotFoundError
    except FileNotFoundError:
        os.mkdir(name, 0o700, dir_fd=fd)
    place = b"/proc/self/fd/%d/%s" % (fd, name)
    # Where digests do not cover xattrs, those that the folder has are the device's own (labels).
    with contextlib.suppress(OSError):
        for key in set(os.listxattr(place, follow_symlinks=False)) - {k for k, _ in new.node.xattrs}:
            if rule is XattrRule.HASHED:
                os.removexattr(place, key, follow_symlinks=False)
    finish(fd, name, new.node)


def _make_way(root: Root, path: str, rest: list[str]) -> list[str]:
    """Empties a folder that gives way to a file or link; gives what is left to remove."""
    try:
        fd, name = root.parent(path)
        if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            return rest
    except FileNotFoundError:
        return rest
    inside = path + "/"
    for child in rest:
        if child.startswith(inside):
            _remove(root, child)
    fd, name = root.parent(path)
    os.rmdir(name, dir_fd=fd)
    return [child for child in rest if not child.startswith(inside)]


def _remove(root: Root, path: str) -> bool:
    """Removes a path; False for a folder that holds something."""
    try:
        fd, name = root.parent(path)
        remove(fd, name)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError as e:
        if e.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY}:
            raise
        return False
    return True
