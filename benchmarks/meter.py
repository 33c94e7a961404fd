"""What a program costs: processor time, wall time, memory, disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_LAUNCHER = (sys.executable, "-I", "-S", os.fspath(Path(__file__).with_name("launcher.py")))


class Failed(Exception):
    """A program that could not be measured, and why."""


@dataclass(frozen=True)
class Cost:
    """cpu, wall: seconds, children included. memory: bytes that the largest process had at most."""

    cpu: float
    wall: float
    memory: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.cpu + other.cpu, self.wall + other.wall, max(self.memory, other.memory))


NOTHING = Cost(0.0, 0.0, 0)


def run(
    words: Sequence[object],
    accepted: Sequence[int] = (0,),
    limit: float = 3600.0,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Cost:
    """Runs a program with its children to its end. limit: seconds. folder: where it runs. Raises Failed."""
    line = [os.fspath(w) if isinstance(w, Path) else str(w) for w in words]
    with tempfile.TemporaryDirectory() as place:
        report, output = Path(place, "report"), Path(place, "output")
        with output.open("wb") as said:
            _wait(
                subprocess.Popen(
                    [*_LAUNCHER, str(limit), report, *line],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    env={**os.environ, **(env or {})},
                    cwd=folder,
                )
            )
        found = report.read_text().split()
        name = Path(line[0]).name
        if found == ["late"]:
            raise Failed(f"{name} took more than {limit:.0f} s")
        code = os.waitstatus_to_exitcode(int(found[0]))
        if code not in accepted:
            raise Failed(f"{name} ended with {code}: {_last(output)}")
    return Cost(float(found[1]), float(found[2]), int(found[3]))


def _wait(launcher: subprocess.Popen[bytes]) -> None:
    """Waits; whoever is interrupted leaves no program behind."""
    try:
        launcher.wait()
    finally:
        launcher.terminate()
        launcher.wait()


def _last(output: Path) -> str:
    return output.read_bytes()[-400:].decode("utf-8", "replace").strip()


def forget_pages() -> None:
    """Empties the kernel's caches, as after a start of the device. Needs root."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def size(place: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if place.is_file():
        return place.stat().st_size
    return sum(p.stat().st_size for p in place.rglob("*") if p.is_file() and not p.is_symlink())


def blocks(*places: Path) -> int:
    """Bytes that files take on the disk, each once whatever its number of names."""
    done = subprocess.run(["du", "-sxcB1", *places], check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.splitlines()[-1].split()[0])
