"""What a program costs: processor time, wall time, memory."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


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


def run(
    words: Sequence[object], accepted: Sequence[int] = (0,), limit: float = 3600.0, env: Mapping[str, str] | None = None
) -> Cost:
    """Runs a program with its children to its end. limit: seconds. Raises Failed."""
    line = [os.fspath(w) if isinstance(w, Path) else str(w) for w in words]
    with tempfile.TemporaryFile() as said:
        begin = time.monotonic()
        pid = os.fork()
        if pid == 0:
            try:
                os.setpgid(0, 0)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                os.execvpe(line[0], line, {**os.environ, **(env or {})})
            finally:
                os._exit(127)
        try:
            status, usage = _waited(pid, begin + limit)
        except TimeoutError as e:
            raise Failed(f"{line[0]} took more than {limit:.0f} s") from e
        wall = time.monotonic() - begin
        code = os.waitstatus_to_exitcode(status)
        if code not in accepted:
            said.seek(0)
            words_said = said.read()[-400:].decode("utf-8", "replace").strip()
            raise Failed(f"{line[0]} ended with {code}: {words_said}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024)


def _waited(pid: int, until: float) -> tuple[int, object]:
    while time.monotonic() < until:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    os.wait4(pid, 0)
    raise TimeoutError


def forget_pages() -> None:
    """Empties the kernel's caches, as after a start of the device. Needs root."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def size(place: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if place.is_file():
        return place.stat().st_size
    return sum(p.stat().st_size for p in place.rglob("*") if p.is_file() and not p.is_symlink())
