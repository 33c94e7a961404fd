"""A file system made for a run: ext4 with a journal, as devices have, whatever the machine's own is like.

ext4 without a journal, which some machines have, looks through the inodes that were deleted lately for each file that
is made: whoever makes more files pays for what the benchmark deleted before.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

_ROOM = 48 * 2**30
"""What it may grow to; it takes what is in it."""


@contextlib.contextmanager
def made(folder: Path) -> Iterator[tuple[Path, str]]:
    """(a folder on such a file system below a folder, its name); the folder itself where nothing can be mounted."""
    image, place = folder / "disk", folder / "on-disk"
    place.mkdir()
    with image.open("wb") as file:
        os.truncate(file.fileno(), _ROOM)
    if not (_done("mkfs.ext4", "-q", "-F", image) and _done("mount", "-o", "loop", image, place)):
        yield folder, "the machine's own file system"
        return
    try:
        yield place, "ext4 with a journal, made for the run"
    finally:
        subprocess.run(["umount", place], check=True)


def _done(*words: object) -> bool:
    with contextlib.suppress(OSError):
        return subprocess.run([str(w) for w in words], capture_output=True, check=False).returncode == 0
    return False
