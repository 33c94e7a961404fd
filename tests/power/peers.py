"""swupd-client 7.0.0 and this agent on the same stream of an old server, killed at each rename, link and unlink.

What counts is what the device says after one more `swupd update`: a mixed tree that calls itself up to date stays so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from swupd.agent import cli
from tests.power import look, tracer
from tests.power.bench import Bench, copy
from tests.power.oracle import Tree
from tests.power.tiers import Verdict
from tests.power.tracer import RENAMING, Ended, Killed, Stopped, Visitor

DATA = Path(__file__).parents[1] / "data/golden"
_NOT_COMPARED = ("/var/lib/swupd", "/var/tmp", "/var/cache")


@dataclass
class Client:
    """A client and its device. program: of swupd-client, "" for this agent."""

    name: str
    program: str
    www: Path
    base: Path

    @property
    def root(self) -> Path:
        return self.base / "root"

    def words(self, command: str, *more: str) -> list[str]:
        """A command line after the program's name."""
        place = [str(self.root)] if command == "os-install" else ["--path", str(self.root)]
        state = ["--statedir", str(self.root / "var/lib/swupd")]
        stream = ["--url", f"file://{self.www}", "--format", "30", "--certpath", str(DATA / "Swupd_Root.pem")]
        more = (*more, "--ignore-time", "--no-scripts", "--no-progress")
        return [command, *place, *state, *stream, *more, *(["--no-boot-update"] if self.program else [])]

    def run(self, words: list[str], visit: Visitor = lambda _: None) -> tuple[Ended, str]:
        """Runs a command; gives how it ended and what it said."""
        output = self.base / "output"
        if self.program:
            child = tracer.spawn([self.program, *words], output, {**os.environ, "LC_ALL": "C.UTF-8"})
        else:
            child = tracer.fork(lambda: cli.main(words), output)
        return tracer.run(child, visit), output.read_text(errors="replace")

    def tree(self) -> Tree:
        """The device's tree."""
        return {p: line for p, line in look.tree(os.fsencode(self.root)).items() if not p.startswith(_NOT_COMPARED)}

    def reset(self, start: Path) -> None:
        """Makes the device what it was."""
        shutil.rmtree(os.fsencode(self.root), ignore_errors=True)
        copy(start, self.root)


@dataclass(frozen=True)
class Trial:
    """A device to update. start: before; old, new: the trees before and after; calls: what may be killed."""

    name: str
    program: str
    www: Path
    start: Path
    old: Tree
    new: Tree
    calls: int


def unpack(base: Path) -> Path:
    """The stream that mixer made."""
    if not (base / "mixer-f30").exists():
        base.mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "--numeric-owner", "-xJf", DATA / "mixer-f30.tar.xz", "-C", base], check=True)
    return base / "mixer-f30/www"


def prepare(name: str, program: str, www: Path, base: Path) -> Trial:
    """Installs version 10, and updates it once undisturbed."""
    base.mkdir(parents=True)
    client = Client(name, program, www, base)
    client.root.mkdir()
    _, said = client.run(client.words("os-install", "--version", "10", "--bundles", "os-core,editors"))
    start, old = base / "start", client.tree()
    copy(client.root, start)
    calls: list[int] = []
    ended, said = client.run(client.words("update"), _counting(calls, 0))
    if ended.code:
        raise RuntimeError(f"{name}: {said[-500:]}")
    return Trial(name, program, www, start, old, client.tree(), len(calls))


def _counting(calls: list[int], kill: int) -> Visitor:
    def visit(stopped: Stopped) -> None:
        if stopped.call().name in RENAMING:
            calls.append(stopped.number)
            if len(calls) == kill:
                raise Killed

    return visit


def try_kill(bench: Bench, item: tuple[Trial, int]) -> Verdict:
    """Kills an update, updates again, and looks whether what is reported is true."""
    trial, number = item
    client = Client(trial.name, trial.program, trial.www, bench.base)
    client.reset(trial.start)
    calls: list[int] = []
    client.run(client.words("update"), _counting(calls, number))
    if len(calls) < number:
        return Verdict(f"{trial.name}: kill {number}", reached=False)
    killed = dict(client.tree())
    ended, said = client.run(client.words("update"))
    after = dict(client.tree())
    state = "whole" if killed in (trial.old, trial.new) else "mixed"
    point = f"{trial.name}: killed at {number} of {trial.calls}, {state} then"
    if after == trial.new:
        return Verdict(point)
    wrong = sum(after.get(p) != trial.new.get(p) for p in {*after, *trial.new})
    if ended.code == 0:
        return Verdict(point, (f"a mixed tree is reported complete, {wrong} paths are wrong: {said.strip()[-120:]!r}",))
    return Verdict(point, (f"the update cannot be finished: {said.strip()[-200:]!r}",))
