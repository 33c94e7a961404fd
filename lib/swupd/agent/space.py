"""Whether there is room for a change, on each file system that it touches, before anything is changed."""

from __future__ import annotations

import os
import stat

from swupd import paths
from swupd.agent.plan import Plan
from swupd.agent.report import size
from swupd.agent.staging import Staged
from swupd.errors import DiskSpace, write_error
from swupd.stream import KIB
from swupd.tree import Root

_OVERHEAD = 64 * KIB
_JOURNAL = 256
"""About what one path takes in the journal."""
_BLOCK = 4096
_FAT = frozenset({b"vfat", b"msdos", b"exfat"})


def check(staged: Staged, plan: Plan, root: Root, shadow: tuple[int, int] = (0, 0)) -> int:
    """Bytes that the new objects of a staged plan take. Raises DiskSpace where a file system lacks room.

    A staged file that becomes the new one by a link needs no room a second time.
    New objects are there before any old one goes, so old ones do not count as free; nor do those whose copies allow
    to go back where a file system has no links. shadow: (number, bytes) of folders that are made a second time.
    """
    bytes_needed = {os.fstat(root.fd).st_dev: shadow[1] + _OVERHEAD + _JOURNAL * (len(plan.write) + len(plan.remove))}
    inodes_needed = {os.fstat(root.fd).st_dev: shadow[0]}
    places = {os.fstat(root.fd).st_dev: os.fspath(root.path)}
    unlinked = _without_links()
    total = 0
    folders: dict[str, tuple[str, int]] = {}
    moved: set[str] = set()
    for entry in plan.write:
        above = entry.name.rpartition("/")[0]
        if above not in folders:
            place = _existing(root, entry.name)
            folders[above] = place, os.stat(place).st_dev
        place, device = folders[above]
        length, links = staged.room(entry.digest, device)
        size_of_new = _BLOCK if entry.kind == "D" else -(-length // _BLOCK) * _BLOCK
        total += size_of_new
        places.setdefault(device, place)
        linked = links and entry.digest not in moved
        if linked:
            moved.add(entry.digest)
        bytes_needed[device] = bytes_needed.get(device, 0) + (0 if linked else size_of_new)
        if device in unlinked and (old := root.node(entry.name, xattrs=False)) is not None:
            bytes_needed[device] += old.size
        inodes_needed[device] = inodes_needed.get(device, 0) + (0 if linked else 1)
    for device, place in places.items():
        _enough(place, bytes_needed[device], inodes_needed[device])
    return total


def folders_at_most(root: Root) -> tuple[int, int]:
    """(number, bytes) that folders of a tree have at most, by all that is on its file system: nothing is walked."""
    found = os.fstatvfs(root.fd)
    used = found.f_files - found.f_ffree
    return used, used * 2 * _BLOCK


def _enough(place: str, needed: int, files: int) -> None:
    free = os.statvfs(place)
    if needed > free.f_bavail * free.f_frsize:
        raise DiskSpace(
            f"{place} needs {size(needed)} of room and has {size(free.f_bavail * free.f_frsize)}",
            "Free some space, then run the command again; nothing was changed.",
        )
    if free.f_files and files > free.f_favail:
        raise DiskSpace(
            f"{place} needs room for {files} files and has it for {free.f_favail}",
            "Delete files that are not needed, then run the command again; nothing was changed.",
        )


def _without_links() -> frozenset[int]:
    """The devices of mounted file systems that have no hard links."""
    with open("/proc/self/mountinfo", "rb") as mounts:
        found = [line.split(b" ") for line in mounts]
    fat = [words[2].split(b":") for words in found if words[words.index(b"-") + 1] in _FAT]
    return frozenset(os.makedev(int(major), int(minor)) for major, minor in fat)


def check_download(folder: os.PathLike[str], needed: int) -> None:
    """Raises DiskSpace where the cache has no room for what will be fetched."""
    try:
        free = os.statvfs(folder)
    except OSError as e:
        raise write_error(str(folder), e) from e
    if needed > free.f_bavail * free.f_frsize:
        raise DiskSpace(
            f"the cache in {folder} needs about {size(needed)} and has {size(free.f_bavail * free.f_frsize)}",
            "Free some space, or name another place with --cachedir; nothing was changed.",
        )


def _existing(root: Root, path: str) -> str:
    """The nearest folder above a path that is there."""
    base = os.fspath(root.path)
    at = base
    for parent in paths.parents(path):
        following = f"{base}{parent}"
        try:
            if not stat.S_ISDIR(os.lstat(following).st_mode):
                break
        except OSError:
            break
        at = following
    return at
