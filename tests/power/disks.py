"""Power cuts as a disk sees them: what was written when, what of it may be lost, and what is on the disk then."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.power import oracle, tiers
from tests.power.bench import Bench, mount, unmount
from tests.power.blocklog import PIECE, Disk, Entry
from tests.power.cases import Case
from tests.power.tiers import Verdict
from tests.power.tracer import Stopped

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class FileSystem:
    """A file system to try. kind: as mount has it; make: what makes it; options: of mount."""

    kind: str
    size: int
    make: tuple[str, ...]
    options: str = ""


FILE_SYSTEMS = {
    "ext4": FileSystem("ext4", 48 << 20, ("mkfs.ext4", "-q", "-F", "-m0")),
    "ext4-lazy": FileSystem(
        "ext4", 48 << 20, ("mkfs.ext4", "-q", "-F", "-m0"), "noauto_da_alloc,data=writeback,commit=1000"
    ),
    "xfs": FileSystem("xfs", 320 << 20, ("mkfs.xfs", "-q", "-f"), "nouuid"),
    "btrfs": FileSystem("btrfs", 256 << 20, ("mkfs.btrfs", "-q", "-f"), "nodiscard"),
}


@dataclass(frozen=True)
class Recording:
    """A command on a disk. image: the disk before; entries: what was written; stops: the number at each call."""

    case: Case
    system: str
    image: Path
    entries: tuple[Entry, ...]
    stops: tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """What is on the disk: all before `durable`, and of what follows up to `end` as much as chance lets through.

    share: of the pieces after `durable` that reach the disk; 1 for all.
    """

    recording: Recording
    durable: int
    end: int
    share: float = 1.0
    seed: int = 0

    def __str__(self) -> str:
        what = f"writes up to {self.durable} and {self.share:.0%} of those up to {self.end} (seed {self.seed})"
        recording = self.recording
        return f"{recording.system}, {recording.case.place}: {recording.case.name}: {what}"


@contextmanager
def mounted(system: FileSystem, image: Path, place: Path) -> Iterator[None]:
    """Mounts an image. Raises OSError where that cannot be done."""
    device = _loop(image)
    place.mkdir(parents=True, exist_ok=True)
    try:
        mount(device, place, system.kind, system.options)
        try:
            yield
        finally:
            unmount(place)
    finally:
        _detach(device)


def _loop(file: Path) -> str:
    found = subprocess.run(["losetup", "--find", "--show", file], capture_output=True, text=True, check=False)
    if found.returncode:
        raise OSError(found.returncode, f"no loop device: {found.stderr.strip()}")
    return found.stdout.strip()


def _detach(device: str) -> None:
    subprocess.run(["losetup", "--detach", device], check=False, capture_output=True)


def make_image(bench: Bench, case: Case, name: str, image: Path) -> None:
    """Makes a disk with the device of a case on it, ready for its command. Raises OSError, CalledProcessError."""
    system = FILE_SYSTEMS[name]
    with image.open("wb") as file:
        file.truncate(system.size)
    subprocess.run([*system.make, image], check=True, capture_output=True)
    clear(bench)
    with mounted(system, image, bench.root):
        fill(bench, case)
        bench.release_inner()


def fill(bench: Bench, case: Case) -> None:
    """Puts the device of a case on a disk that is mounted at the bench's root."""
    subprocess.run(["cp", "-a", f"{case.start}/.", bench.root], check=True)
    bench.hold()
    for action, _ in case.before:
        bench.run(action)


def record(bench: Bench, case: Case, name: str, eager: int) -> Recording:
    """Runs a case on a disk. eager: after how many calls all is written back, as if time had passed; 0 for never."""
    image = bench.base / f"{name}.image"
    make_image(bench, case, name, image)
    system = FILE_SYSTEMS[name]
    stops: list[int] = []
    disk = Disk(image, bench.base / "disk")
    try:
        with mounted(system, disk.file, bench.root):
            bench.hold()
            top = os.open(bench.root, os.O_RDONLY)

            def visit(stopped: Stopped) -> None:
                if eager and stopped.number % eager == 0:
                    _libc.syncfs(top)
                stops.append(disk.position())

            try:
                bench.run(case.action, visit)
                stops.append(disk.position())
            finally:
                os.close(top)
                bench.release_inner()
    finally:
        entries = disk.close()
    return Recording(case, name, image, entries[: stops[-1]], tuple(stops))


def clear(bench: Bench) -> None:
    """Takes away what the bench's root is."""
    bench.release()
    unmount(bench.root)
    with suppress(FileNotFoundError):
        shutil.rmtree(os.fsencode(bench.root))


def at_calls(recording: Recording) -> list[Cut]:
    """What is on the disk at each call, where the disk forgets nothing; each state once."""
    return [Cut(recording, n, n) for n in sorted(set(recording.stops))]


def between_flushes(recording: Recording, seed: int, many: int) -> list[Cut]:
    """What may be on a disk that has a cache: between two flushes anything of what was written, or nothing."""
    first = recording.stops[0]
    flushes = [n + 1 for n, e in enumerate(recording.entries) if e.data is None and n + 1 >= first]
    cuts = []
    for durable, end in zip([first, *flushes], [*flushes, len(recording.entries)], strict=True):
        writes = sum(e.data is not None for e in recording.entries[durable:end])
        if writes:
            cuts.append(Cut(recording, durable, end, 0.0))
            cuts += [Cut(recording, durable, end, (0.5, 0.1, 0.9)[k % 3], seed + k) for k in range(many)]
            cuts += [Cut(recording, n, n) for n in range(durable + 1, end)][:: max(1, writes // max(1, many))]
    return cuts


def surviving(cut: Cut) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of what reached the disk, in order."""
    chance = random.Random(f"{cut.seed} {cut.durable}")
    for number, entry in enumerate(cut.recording.entries[: cut.end]):
        if entry.data is None:
            continue
        if number < cut.durable:
            yield entry.offset, entry.data
            continue
        for at in range(0, len(entry.data), PIECE):
            if chance.random() < cut.share:
                yield entry.offset + at, entry.data[at : at + PIECE]


def try_cut(bench: Bench, cut: Cut) -> Verdict:
    """Tries one state of the disk."""
    case = cut.recording.case
    image = bench.base / "cut.image"
    subprocess.run(["cp", "--sparse=always", cut.recording.image, image], check=True)
    with image.open("r+b") as file:
        for offset, data in surviving(cut):
            file.seek(offset)
            file.write(data)
    clear(bench)
    try:
        with mounted(FILE_SYSTEMS[cut.recording.system], image, bench.root):
            bench.hold()
            try:
                wrong = [f"after the cut: {v}" for v in oracle.after_cut(bench.look(), case.promise)]
                wrong += tiers.recovery(bench, case, cut.end, by_helper=(cut.end + cut.seed) % 2 == 0)
            finally:
                bench.release_inner()
    except OSError as e:
        return Verdict(str(cut), (f"it cannot be used: {e}",))
    return Verdict(str(cut), tuple(wrong))
