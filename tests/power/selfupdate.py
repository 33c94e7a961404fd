"""An update that replaces the ground it stands on: C library, dynamic linker, Python and the agent itself.

The tree is a small system of its own, made of this machine's Python and what it loads. The agent runs inside it, by
chroot. In the second release C library and dynamic linker have another private interface, as two releases of glibc
have, so that no program starts between the two; what brings such a tree to an end is the helper and a static busybox.
"""

from __future__ import annotations

import os
import pkgutil
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from swupd import agent
from swupd.agent import cli
from swupd.server.work import Silent
from swupd.server.xz import Effort
from tests import builders
from tests.power import look, oracle, tracer
from tests.power.bench import LIBRARY, Bench, Helper, copy, mount, unmount
from tests.power.corpus import NEW, OLD
from tests.power.oracle import Tree
from tests.power.tiers import Verdict
from tests.power.tracer import RENAMING, Ended, Killed, Stopped, Visitor

PYTHON = "/usr/bin/python3"
_ENCODINGS = ("ascii", "idna", "latin_1", "unicode_escape")
_AGENT = tuple(found.name for found in pkgutil.walk_packages(agent.__path__, f"{agent.__name__}."))
_NEEDED = ("json", "sys", "locale", "runpy", "pkgutil", *_AGENT, *(f"encodings.{name}" for name in _ENCODINGS))
_PRIVATE, _OTHER = b"GLIBC_PRIVATE", b"GLIBC_PRIVATF"
_ENVIRONMENT = {"PATH": "/usr/bin", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}


def _elf_hash(name: bytes) -> int:
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high
    return value


def _libraries(programs: Iterable[Path]) -> set[Path]:
    """Shared libraries that some programs and modules load, dynamic linker included, by the names they ask for."""
    words = ["ldd", *map(str, programs)]
    text = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    return {Path(p) for p in re.findall(r"(?:=> |^\s)(/\S+) \(0x", text, re.MULTILINE)}


def make_system(root: Path) -> None:
    """A tree in which Python and the agent run, and nothing else."""
    real = Path(sys.executable).resolve()
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    home = root / "usr/lib" / version
    for folder in ("usr/bin", "usr/lib64", "proc", "mnt", "tmp", "var/lib", "etc"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    code = (
        f"import importlib, json, sys\nfor name in {_NEEDED!r}: importlib.import_module(name)\n"
        "print(json.dumps([m.__file__ for m in list(sys.modules.values()) if getattr(m, '__file__', 0)]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    files = {Path(f) for f in re.findall(r'"(/[^"]+)"', found)}
    bases = sorted(map(Path, {*sys.path, sys.base_prefix + f"/lib/{version}"} - {""}), key=lambda p: -len(str(p)))
    for file in files:
        base = next((b for b in bases if file.is_relative_to(b)), None)
        if base is not None:
            at = file.relative_to(base)
            # Modules of C are found beside those of Python.
            at = Path("lib-dynload") / at if base.name == "lib-dynload" else at
            _take(file, home / at)
    recovery = LIBRARY / "swupd/agent/recovery"
    shutil.copytree(recovery, home / "swupd/agent/recovery")
    shutil.copy(real, root / "usr/bin" / version)
    (root / PYTHON[1:]).symlink_to(version)
    for library in _libraries([real, *(f for f in files if f.suffix == ".so" or ".so." in f.name)]):
        place = root / ("usr/lib64" if "ld-linux" in library.name else "usr/lib/x86_64-linux-gnu")
        _take(library.resolve(), place / library.name)
    for file in (root / "usr").rglob("*.so*") if shutil.which("strip") else ():
        subprocess.run(["strip", "--strip-unneeded", file], check=False, capture_output=True)


def _take(source: Path, to: Path) -> None:
    if not to.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, to)
        to.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def renew(root: Path) -> None:
    """Makes the second release of the first: every ELF file and all of the agent is another."""
    hashes = struct.pack("<I", _elf_hash(_PRIVATE)), struct.pack("<I", _elf_hash(_OTHER))
    for file in sorted(root.rglob("*")):
        if file.is_symlink() or not file.is_file():
            continue
        data = file.read_bytes()
        if data.startswith(b"\x7fELF"):
            file.write_bytes(data.replace(_PRIVATE, _OTHER).replace(*hashes) + b"of the second release")
        elif "/swupd/" in str(file) and file.suffix == ".py":
            file.write_bytes(data + b"\n# of the second release\n")


def _compile(root: Path) -> None:
    """Byte code that is believed without a look at the source's time, so that Python starts fast."""
    code = "import compileall, py_compile, sys; compileall.compile_dir(sys.argv[1], quiet=2, stripdir=sys.argv[2], "
    code += "invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"
    subprocess.run([sys.executable, "-c", code, root / "usr/lib", root], check=True)


def publish(base: Path) -> None:
    """Publishes two releases of such a system; images are in base/root-10 and base/root-20."""
    for version in (OLD, NEW):
        root = base / f"root-{version}"
        make_system(root)
        if version == NEW:
            renew(root)
        _compile(root)
        for path, spec in builders.os_tree(version, {}).items():
            builders.put(root, path, spec)
        tree = {"/" + str(p.relative_to(root)): None for p in root.rglob("*")}
        tree = {p: s for p, s in tree.items() if not p.startswith(("/proc", "/mnt", "/tmp", "/var"))}
        job = builders.job(base / "www", version, root, tree, {"os-core": builders.REST}, effort=Effort.FAST)
        builders.run(job, report=Silent())


@dataclass
class Machine:
    """Such a system, in which the agent can be run. base: a folder; published: what `publish` made."""

    base: Path
    published: Path
    said: str = field(default="", init=False)

    @property
    def root(self) -> Path:
        return self.base / "root"

    @contextmanager
    def running(self, start: Path, apart: bool = True) -> Iterator[None]:
        """A copy of a system with what it needs from outside. apart: with /usr as a mount of its own."""
        shutil.rmtree(os.fsencode(self.root), ignore_errors=True)
        self.base.mkdir(parents=True, exist_ok=True)
        copy(start, self.root)
        if apart:
            mount(str(self.root / "usr"), self.root / "usr", bind=True)
        mount(str(self.published), self.root / "mnt", bind=True)
        mount("proc", self.root / "proc", "proc")
        try:
            yield
        finally:
            for name in ("usr", "mnt", "proc"):
                unmount(self.root / name)

    def run(self, *words: str, visit: Visitor = lambda _: None) -> Ended:
        """Runs the system's own Python on its own agent."""
        options = ["--url", "file:///mnt/www", "--format", "30", "--nosigcheck"]
        options += ["--statedir", "/var/lib/swupd", "--no-scripts", "--no-progress"]  # no cryptography in the tree
        return self.python("-c", "from swupd.agent.start import run; run()", *words, *options, visit=visit)

    def python(self, *words: str, visit: Visitor = lambda _: None) -> Ended:
        """Runs the system's own Python."""
        output = self.base / "output"
        ended = tracer.run(tracer.spawn([PYTHON, *words], output, _ENVIRONMENT, str(self.root)), visit)
        self.said = output.read_text(errors="replace")
        return ended

    def tree(self) -> Tree:
        """All but what is mounted."""
        return look.tree(os.fsencode(self.root), frozenset({b"/proc", b"/mnt", b"/tmp", b"/var", b"/etc"}))


@dataclass(frozen=True)
class Renewal:
    """The update of such a system. start: the system before, all downloaded; calls: how many renames it makes."""

    published: Path
    start: Path
    old: Tree
    new: Tree
    calls: int


def prepare(base: Path) -> Renewal:
    """Makes both releases, and updates one to the other undisturbed. Raises RuntimeError where that fails."""
    published = base / "published"
    publish(published)
    machine = Machine(base / "machine", published)
    installed = base / "installed"
    words = ["os-install", str(installed), "--version", str(OLD), "--url", f"file://{published}/www", "--format", "30"]
    words += ["--nosigcheck", "--statedir", str(base / "state"), "--no-scripts", "--no-progress"]
    ended = tracer.run(tracer.fork(lambda: cli.main(words), base / "output"))
    if ended.code:
        raise RuntimeError(f"the small system cannot be installed: {(base / 'output').read_text()[-1000:]}")
    for name in ("proc", "mnt", "tmp"):
        (installed / name).mkdir(exist_ok=True)
    with machine.running(installed):
        old = machine.tree()
        if machine.run("update", "--download").code:
            raise RuntimeError(f"the small system cannot update: {machine.said[-1000:]}")
        unmount(machine.root / "mnt")
        for name in ("usr", "proc"):
            unmount(machine.root / name)
        copy(machine.root, base / "start")
    calls: list[int] = []
    with machine.running(base / "start"):
        if machine.run("update", visit=_renames(calls, 0)).code or machine.run("diagnose").code:
            raise RuntimeError(f"the small system cannot update: {machine.said[-1000:]}")
        return Renewal(published, base / "start", old, machine.tree(), len(calls))


def _renames(calls: list[int], kill: int) -> Visitor:
    def visit(stopped: Stopped) -> None:
        call = stopped.call()
        if call.name in RENAMING and any(".swupd" in p for p in call.paths):
            calls.append(stopped.number)
            if len(calls) == kill:
                raise Killed

    return visit


def try_kill(bench: Bench, item: tuple[Renewal, int]) -> Verdict:
    """Kills the update at a rename; lets the helper recover with tools from outside; looks whether all works."""
    renewal, number = item
    machine = Machine(bench.base, renewal.published)
    calls: list[int] = []
    with machine.running(renewal.start):
        machine.run("update", visit=_renames(calls, number))
        if len(calls) < number:
            return Verdict(f"self-update: kill {number}", reached=False)
        usable = machine.python("-c", "import swupd.agent.cli").code == 0
        point = f"self-update killed at rename {number} of {renewal.calls}, Python {'usable' if usable else 'UNUSABLE'}"
        ended = bench.run(Helper())
        wrong = [] if ended.code == 0 else [f"the helper ended with {ended.code}: {bench.said[-200:]!r}"]
        found = machine.tree()
        if found not in (renewal.old, renewal.new):
            wrong.append(f"the helper left a mixed tree: {oracle.difference(found, renewal.new)}")
        if machine.run("update").code:
            wrong.append(f"the update cannot be finished: {machine.said[-300:]!r}")
        if machine.tree() != renewal.new:
            wrong.append(f"the tree is not the new one: {oracle.difference(machine.tree(), renewal.new)}")
        if machine.run("diagnose").code:
            wrong.append(f"diagnose: {machine.said[-300:]!r}")
    return Verdict(point, tuple(wrong), note="" if usable else "Python could not start")
