"""Looks at a tree: every path with all that an update may change, in one line each."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator

RESERVED = b".swupd"
STATE = b"/var/lib/swupd"
_LEFT_OUT = frozenset({STATE, b"/lost+found"})
_KEEP_TIMES = (b"/usr/local/", b"/home/", b"/root/", b"/srv/")


def tree(root: bytes, without: frozenset[bytes] = _LEFT_OUT) -> dict[str, str]:
    """All paths below a root but for some; the agent's own folders are left out, too."""
    return {os.fsdecode(path): line for path, line in _walk(root, b"", without)}


def _walk(root: bytes, at: bytes, without: frozenset[bytes]) -> Iterator[tuple[bytes, str]]:
    with os.scandir(root + at) as items:
        found = sorted(items, key=lambda item: item.name)
    for item in found:
        path = at + b"/" + item.name
        if item.name == RESERVED or path in without:
            continue
        yield path, _line(root + path, path, item.stat(follow_symlinks=False))
        if item.is_dir(follow_symlinks=False):
            yield from _walk(root, path, without)


def _line(place: bytes, path: bytes, found: os.stat_result) -> str:
    words = [f"{found.st_mode:o}", f"{found.st_uid}:{found.st_gid}"]
    if stat.S_ISLNK(found.st_mode):
        words.append(f"-> {os.fsdecode(os.readlink(place))}")
    elif stat.S_ISREG(found.st_mode):
        with open(place, "rb") as file:
            words.append(hashlib.sha256(file.read()).hexdigest()[:16])
        if path.startswith(_KEEP_TIMES):
            words.append(f"at {found.st_mtime_ns}")
    for name in sorted(os.listxattr(place, follow_symlinks=False)):
        words.append(f"{name}={os.getxattr(place, name, follow_symlinks=False).hex()}")
    return " ".join(words)


def names(folder: bytes) -> frozenset[str]:
    """All paths below a folder, relative to it; empty where there is none."""
    found: set[str] = set()
    for place, folders, files in os.walk(folder):
        found.update(os.fsdecode(os.path.relpath(os.path.join(place, name), folder)) for name in (*folders, *files))
    return frozenset(found)


def reserved(root: bytes) -> frozenset[str]:
    """The agent's folders at the tops of file systems, and the names in them."""
    tops = [root, *(os.path.join(root, name) for name in (b"usr", b"boot", b"opt", b"usr/local"))]
    found: set[str] = set()
    for folder in (os.path.join(top, RESERVED) for top in tops):
        if os.path.isdir(folder):
            place = os.fsdecode(os.path.relpath(folder, root))
            found |= {f"{place}/{os.fsdecode(name)}" for name in (b"", *os.listdir(folder))}
    return frozenset(found)
