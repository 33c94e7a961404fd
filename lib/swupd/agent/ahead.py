"""Folders of the second /usr in which nothing changes: linked while all the rest is looked at and fetched.

Nothing is taken for granted by whoever uses them: that no change touches a folder, and that its names are those that
were linked, is looked at once more when it gets its place.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from swupd import paths
from swupd.agent import confinement
from swupd.agent.aside import aside
from swupd.agent.backend import TOP, obstacle
from swupd.agent.folders import empty
from swupd.agent.shadow import Linked, Shadow
from swupd.manifest import Entry
from swupd.tree import Node, Root

_ROOM = 8
"""As many times the room of all folders has to be free: nothing else may lack what is taken here."""
_FOLDER_SIZE = 8192


class Ahead:
    """What was linked, to be taken folder by folder."""

    def __init__(self, place: Path | None, answer: Callable[[], list[Linked] | None]) -> None:
        """place: where it is, None where nothing is linked. answer: waits for the folders that were."""
        self.place = place
        self.answer = answer
        self._found: dict[str, Linked] | None = None

    def take(self, path: str, folder: int, name: bytes) -> Linked | None:
        """Gives a folder that was linked a name in an open folder; None where there is none."""
        if self._found is None:
            self._found = {each.path: each for each in self.answer() or ()}
        found = self._found.pop(path, None)
        if found is None or self.place is None:
            return None
        try:
            os.rename(f"{self.place}/{found.name}", name, dst_dir_fd=folder)
        except OSError:
            return None
        return found

    def discard(self) -> None:
        """Gives the room back that it takes."""
        if self._found is None:
            self.answer()
        self._found = {}
        if self.place is not None:
            empty(self.place)


def nothing() -> Ahead:
    """Where nothing is linked ahead."""
    return Ahead(None, lambda: None)


@contextlib.contextmanager
def linking(
    root: Root, place: Path, changed: Iterable[str], wanted: Mapping[str, Entry], keep_xattrs: bool
) -> Iterator[Ahead]:
    """Links what lies below /usr where no path is changed, in a process of its own, as long as the context lasts.

    place: an empty folder, nobody else's. wanted, keep_xattrs: as in Shadow.
    """
    changed = tuple(changed)
    if not any(paths.inside(path, TOP) for path in changed) or not _worth_while(root, place, wanted):
        yield nothing()
        return
    try:
        with aside(lambda: _linked(root, place, changed, wanted, keep_xattrs)) as answer:
            yield Ahead(place, answer)
    finally:
        with contextlib.suppress(OSError):
            empty(place)


def _worth_while(root: Root, place: Path, wanted: Mapping[str, Entry]) -> bool:
    """Whether there is a processor for it, and plenty of room; a process with threads cannot be forked."""
    if len(os.sched_getaffinity(0)) < 2 or threading.active_count() > 1 or confinement.pretending() or obstacle(root):
        return False
    free = os.statvfs(place)
    needed = _FOLDER_SIZE * sum(entry.kind == "D" for entry in wanted.values())
    return free.f_bavail * free.f_frsize > _ROOM * needed


def _linked(
    root: Root, place: Path, changed: Sequence[str], wanted: Mapping[str, Entry], keep_xattrs: bool
) -> list[Linked]:
    """Links the topmost folders in which nothing is changed, as many as can be."""
    touched = paths.above(changed).union(changed)
    found: list[Linked] = []
    folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    waiting = [TOP]
    with contextlib.suppress(OSError):
        while waiting:
            at = waiting.pop()
            if at in touched:
                waiting += _folders(root, at)
                continue
            shadow = Shadow(root, at, (), frozenset(), _refuse, keep_xattrs, wanted)
            name = str(len(found))
            shadow.build(folder, name.encode())
            found.append(Linked(at, name, shadow.right, shadow.seen))
    return found


def _folders(root: Root, path: str) -> list[str]:
    fd = root.parent(path + "/.")[0]
    with os.scandir(b"/proc/self/fd/%d" % fd) as items:
        return [f"{path}/{paths.decode(item.name)}" for item in items if item.is_dir(follow_symlinks=False)]


def _refuse(entry: Entry, fd: int, name: bytes) -> Node:
    raise AssertionError(f"{entry.name} is not to be made here")
