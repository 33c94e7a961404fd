"""Disks that fill up: with room for all but the last blocks or files that a command needs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.power import disks, oracle, tiers
from tests.power.bench import Agent, Bench, mount
from tests.power.cases import Case
from tests.power.disks import FILE_SYSTEMS
from tests.power.tiers import Verdict
from tests.power.tracer import Stopped

_LARGE = 512 << 20
SYSTEMS = ("tmpfs", "ext4")
BLOCK = 4096


@dataclass(frozen=True)
class Need:
    """What a command takes at most, while it runs: blocks of 4 KiB, and files."""

    blocks: int
    files: int


@dataclass(frozen=True)
class Room:
    """A disk with little room. what: "blocks" or "files", of which there are `left`, and plenty of the other.

    checked: whether the agent may look for room beforehand; staged: whether all is downloaded already.
    """

    case: Case
    system: str
    what: str
    left: int
    checked: bool
    staged: bool

    def __str__(self) -> str:
        how = "" if self.checked else ", space not checked"
        how += "" if self.staged else ", nothing downloaded yet"
        return f"{self.system}, {self.case.place}: {self.case.name}: {self.left} {self.what} left{how}"

    @property
    def action(self) -> Agent:
        words = self.case.again.words
        return Agent(words if self.checked else (*words, "--skip-diskspace-check"))


@contextmanager
def device(bench: Bench, case: Case, system: str) -> Iterator[None]:
    """The device of a case on a disk of its own."""
    disks.clear(bench)
    if system == "tmpfs":
        bench.root.mkdir(parents=True)
        mount("tmpfs", bench.root, "tmpfs", f"size={_LARGE},nr_inodes=100000,mode=755")
        try:
            disks.fill(bench, case)
            yield
        finally:
            bench.release()
        return
    image = bench.base / "full.image"
    disks.make_image(bench, case, system, image)
    with disks.mounted(FILE_SYSTEMS[system], image, bench.root):
        bench.hold()
        try:
            yield
        finally:
            bench.release_inner()


def measure(bench: Bench, case: Case, system: str, staged: bool) -> Need:
    """What the command takes where there is plenty."""
    with device(bench, case, system):
        if not staged:
            _forget_downloads(bench)
        before = os.statvfs(bench.root)
        least = [before.f_bavail, before.f_ffree]

        def visit(_: Stopped) -> None:
            now = os.statvfs(bench.root)
            least[:] = min(least[0], now.f_bavail), min(least[1], now.f_ffree)

        bench.run(case.action, visit)
    return Need((before.f_bavail - least[0]) * before.f_bsize // BLOCK, before.f_ffree - least[1])


def rooms(case: Case, system: str, needs: dict[bool, Need]) -> list[Room]:
    """Nothing, ever more, and every number next to what is needed."""
    found = []
    for staged, need in needs.items():
        for what, most in (("blocks", need.blocks), ("files", need.files)):
            steps = {*range(0, most, max(1, most // 24)), *range(max(0, most - 24), most + 5)}
            for left in sorted(steps):
                found += [Room(case, system, what, left, checked, staged) for checked in (True, False)]
    return found


def try_room(bench: Bench, room: Room) -> Verdict:
    """Runs the command in too little room, then, with room made, again."""
    case = room.case
    with device(bench, case, room.system):
        if not room.staged:
            _forget_downloads(bench)
        _take_room(bench.root, room)
        ended = bench.run(room.action)
        said = bench.said
        _give_room(bench.root, room)
        seen = bench.look()
        wrong = oracle.after_error(seen, case.promise, ended.code, said)
        if ended.code != 0 and oracle.which(seen.tree, case.promise) != "old":
            wrong.append(f"it failed, and the tree is not the old one: {said.strip()[-200:]!r}")
        wrong = [f"in too little room: {v}" for v in wrong]
        wrong += tiers.recovery(bench, case, room.left, by_helper=room.left % 2 == 0)
    return Verdict(str(room), tuple(wrong))


def _forget_downloads(bench: Bench) -> None:
    for place in bench.state.glob("cache/*/staged/*"):
        subprocess.run(["rm", "-rf", place], check=True)


def _take_room(root: Path, room: Room) -> None:
    free = os.statvfs(root)
    if room.system == "tmpfs":
        used = ((free.f_blocks - free.f_bfree) * free.f_bsize, free.f_files - free.f_ffree)
        size = used[0] + room.left * BLOCK if room.what == "blocks" else _LARGE
        files = used[1] + room.left if room.what == "files" else 100_000
        _remount(root, size, files)
        return
    _ballast(root).mkdir()
    if room.what == "blocks":
        wanted = free.f_bavail * free.f_bsize - (room.left + 1) * BLOCK
        _eat(_ballast(root) / "file", wanted)
        for n in range(10_000):
            if os.statvfs(root).f_bavail * free.f_bsize <= room.left * BLOCK:
                break
            _eat(_ballast(root) / f"{n}", free.f_bsize)
    else:
        for n in range(free.f_ffree - room.left - 1):
            (_ballast(root) / f"{n}").touch()


def _eat(file: Path, size: int) -> None:
    with file.open("wb") as opened:
        if size > 0:
            os.posix_fallocate(opened.fileno(), 0, size)


def _ballast(root: Path) -> Path:
    return root / "lost+found/ballast"


def _give_room(root: Path, room: Room) -> None:
    if room.system == "tmpfs":
        _remount(root, _LARGE, 100_000)
    else:
        subprocess.run(["rm", "-rf", _ballast(root)], check=True)


def _remount(root: Path, size: int, files: int) -> None:
    options = f"remount,size={size},nr_inodes={files}"
    subprocess.run(["mount", "-o", options, root], check=True)
