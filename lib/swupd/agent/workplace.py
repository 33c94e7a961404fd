"""The folders in which a change is prepared, on each file system that it touches."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from swupd.agent import helper, journal, syscalls
from swupd.agent.journal import Journal
from swupd.agent.pending import folder
from swupd.agent.transaction import STAGED, clear, discard
from swupd.tree import Root

_SPARE = 64 * 1024
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Workplace:
    """The folders of a change that is being prepared. new: for each file system the folder of new objects, opened."""

    def __init__(self, root: Root, areas: Iterable[str]) -> None:
        self.root = root
        self.id = os.urandom(8).hex()
        self.areas = tuple(sorted({"", *areas}))
        self.new: dict[str, Root] = {}
        discard(root.path)
        make = folder(root.path)
        make.mkdir(0o700)
        (make / "areas").write_text("".join(f"{journal.escape(area)}\n" for area in self.areas))
        for area in self.areas:
            here = folder(root.path, area)
            if area:
                # What was left there by a run that nobody remembers is in the way.
                clear(here)
                here.mkdir(0o700)
            for name in ("new", "old"):
                (here / name).mkdir(0o700)
            (here / "id").write_text(self.id + "\n")
            self.new[area] = Root(here / "new")

    def close(self) -> None:
        """Closes the folders."""
        while self.new:
            self.new.popitem()[1].close()

    def prepare(self, made: Journal, changed: Iterable[str], trial: int) -> None:
        """Writes the journal and all that recovery needs; makes everything durable. Raises OSError."""
        here = folder(self.root.path)
        (here / STAGED).write_bytes(journal.serialize(made))
        (here / "changed").write_text("".join(f"{journal.escape(path)}\n" for path in changed))
        helper.install(self.root.path, here)
        for area in self.areas:
            # Renames may need a block for a longer folder, and the disk may be full by then.
            with (folder(self.root.path, area) / "spare").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, _SPARE)
        if made.actions:
            (here / "pending").touch()
        if trial:
            (here / f"trial.{trial}.{_boot()}").touch()
        for new in self.new.values():
            syscalls.syncfs(new.fd)


def _boot() -> str:
    """Which boot this is."""
    try:
        return _BOOT_ID.read_bytes().decode("ascii").strip()
    except OSError:
        return ""
