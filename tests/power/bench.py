"""A place where a device is set up, a command is run on it and cut short, and what is left is looked at."""

from __future__ import annotations

import ctypes
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path

from swupd import agent
from swupd.agent import start
from tests.power import look, tracer
from tests.power.corpus import Stream
from tests.power.oracle import Seen
from tests.power.tracer import Ended, Visitor

_BIND, _PRIVATE, _REC, _DETACH = 0x1000, 0x40000, 0x4000, 2
_NEWNS = 0x20000
_libc = ctypes.CDLL(None, use_errno=True)
PLACES = {"exchange": "", "journal": "usr/local", "split": "usr"}
"""Back ends, and what is mounted on itself below the root to have them: nothing; something below /usr; /usr."""
LIBRARY = Path(start.__file__ or "").parents[2]
"""Where the agent under test lies; PYTHONPATH chooses."""
_OWN = LIBRARY / "swupd/agent/recovery/swupd-recover"


def own_mounts() -> None:
    """From here on, what this process mounts is seen by it and its children alone."""
    if _libc.unshare(_NEWNS):
        raise OSError(ctypes.get_errno(), "no mount namespace of its own")
    if _libc.mount(b"none", b"/", None, _REC | _PRIVATE, None):
        # In a chroot / is no mount point: then each that can be seen.
        for line in Path("/proc/self/mounts").read_bytes().splitlines():
            _libc.mount(b"none", line.split()[1], None, _PRIVATE, None)


def mount(source: str, target: Path, kind: str = "", options: str = "", bind: bool = False) -> None:
    """Mounts a file system, or a folder on another. Raises OSError."""
    words = [os.fsencode(w) for w in (source, target, kind or "none", options)]
    if _libc.mount(words[0], words[1], words[2], _BIND if bind else 0, words[3] or None):
        raise OSError(ctypes.get_errno(), f"cannot mount {source}: {os.strerror(ctypes.get_errno())}")


def unmount(target: Path) -> None:
    """Unmounts all that is mounted there."""
    while _libc.umount2(os.fsencode(target), _DETACH) == 0:
        pass


@dataclass(frozen=True)
class Agent:
    """A command of the agent: words after `swupd`."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Helper:
    """The recovery script alone."""


Action = Agent | Helper


@dataclass
class Bench:
    """A worker's place. base: a folder of its own; place: one of PLACES; cold: start Python anew for each command."""

    base: Path
    stream: Stream
    place: str = "exchange"
    cold: bool = False
    said: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if not self.cold:
            _import_all()
        self.base.mkdir(parents=True, exist_ok=True)
        self.tools = self.base.parent / "tools"
        self._output = self.base / "output"

    @property
    def root(self) -> Path:
        return self.base / "root"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/swupd"

    def reset(self, start: Path) -> None:
        """Makes the device a copy of another."""
        self.release()
        if self.root.exists():
            _remove(self.root)
        copy(start, self.root)
        self.hold()

    def hold(self) -> None:
        """Mounts what the place wants."""
        inner = PLACES[self.place]
        if inner and (self.root / inner).is_dir():
            mount(str(self.root / inner), self.root / inner, bind=True)

    def release(self) -> None:
        """Unmounts it, and what the root itself may be on."""
        self.release_inner()
        unmount(self.root)

    def release_inner(self) -> None:
        """Unmounts it."""
        for inner in filter(None, PLACES.values()):
            unmount(self.root / inner)

    def options(self) -> list[str]:
        """What every command is given."""
        return [
            *("--url", f"file://{self.stream.www}", "--format", "30", "--statedir", str(self.state)),
            *("--certpath", str(self.stream.certificate), "--no-scripts", "--no-progress", "--retry-delay", "0"),
        ]

    def words(self, words: Sequence[str]) -> list[str]:
        """A whole command line of the agent, after the program's name."""
        if words[0] == "os-install":
            return [words[0], str(self.root), *words[1:], *self.options()]
        return [words[0], "--path", str(self.root), *words[1:], *self.options()]

    def start(self, action: Action, traced: bool) -> int:
        """A process that carries an action out; one that is traced is stopped first."""
        if isinstance(action, Helper):
            found = self.root / ".swupd/recover"
            script = found if found.exists() else _OWN
            if not script.exists():
                return tracer.fork(lambda: 0, self._output, traced)
            helper = [str(self.tools / "sh"), str(script), str(self.root)]
            return tracer.spawn(helper, self._output, {"PATH": str(self.tools)}, traced=traced)
        words = self.words(action.words)
        if self.cold:
            return tracer.spawn([sys.executable, "-m", "swupd.agent.start", *words], self._output, traced=traced)
        return tracer.fork(lambda: start.main(words), self._output, traced)

    def run(self, action: Action, visit: Visitor | None = None) -> Ended:
        """Carries an action out; what it printed is in `said` then. visit: told of each call; without, none counts."""
        pid = self.start(action, traced=visit is not None)
        ended = tracer.wait(pid) if visit is None else tracer.run(pid, visit)
        self.said = self._output.read_text(errors="replace")
        return ended

    def look(self) -> Seen:
        """What is there now, and what `info` says of it."""
        self.run(Agent(("info",)))
        version = re.search(r"^Installed version: (\d+)$", self.said, re.MULTILINE)
        root = os.fsencode(self.root)
        return Seen(
            tree=look.tree(root),
            version=int(version[1]) if version else None,
            pending="transaction pending" in self.said,
            state=_settled(look.names(os.fsencode(self.state))),
            reserved=look.reserved(root),
        )


def _settled(names: frozenset[str]) -> frozenset[str]:
    """Names of the state folder but for the manifests, of which an interrupted run may have read fewer or more."""
    return frozenset(n for n in names if "/manifest/" not in n)


@cache
def _import_all() -> None:
    """What commands import when they need it is there once for all of them."""
    for found in pkgutil.walk_packages(agent.__path__, f"{agent.__name__}."):
        import_module(found.name)


def copy(source: Path, to: Path) -> None:
    """A tree with all its attributes and hard links."""
    subprocess.run(["cp", "-a", str(source), str(to)], check=True)


def _remove(place: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(os.fsencode(place))


def make_tools(folder: Path) -> None:
    """A folder of programs for the recovery script: those of a static busybox, and what sets attributes."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise FileNotFoundError("busybox")
    folder.mkdir(parents=True, exist_ok=True)
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for name in applets:
        with suppress(FileExistsError):
            (folder / name).symlink_to(busybox)
    for name in ("setfattr", "getfattr"):
        program = shutil.which(name)
        if program is not None and not (folder / name).is_symlink():
            (folder / name).symlink_to(program)
