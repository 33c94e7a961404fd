"""This project on the work: server, agent; and swupd-client 7.0.0 on the same stream where SWUPD_CLIENT names it."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import meter, trees
from benchmarks.meter import Cost
from benchmarks.trees import Release
from benchmarks.web import Web, serving

_START = "import sys; sys.path.insert(0, {!r}); from {} import run; run()"
LIBRARY = os.fspath(Path(__file__).parents[1] / "lib")
SERVER = (sys.executable, "-I", "-c", _START.format(LIBRARY, "swupd.server.cli"))
AGENT = (sys.executable, "-I", "-c", _START.format(LIBRARY, "swupd.agent.start"))
CLIENT = os.environ.get("SWUPD_CLIENT", "")
"""The program swupd of swupd-client 7.0.0."""
OURS, THEIRS = "this agent", "swupd-client 7.0.0"
_QUICK = 60.0
"""Seconds within which a release must be published to be measured more than once."""


@dataclass(frozen=True)
class Stream:
    """A stream that is being made in a folder."""

    base: Path

    @property
    def www(self) -> Path:
        return self.base / "www"

    def keys(self, like: Path | None = None) -> None:
        """Begins anew. like: the stream whose keys it has, None for new ones."""
        shutil.rmtree(self.base, ignore_errors=True)
        self.base.mkdir(parents=True)
        if like is None:
            meter.run([*SERVER, "keygen", self.base / "keys"])
        else:
            shutil.copytree(like / "keys", self.base / "keys")

    def line(self, release: Release) -> list[object]:
        """The words that publish a release as one bundle."""
        keys = ("--signing-key", self.base / "keys/release.key", "--certificate", self.base / "keys/release.pem")
        what = ("--rootfs", release.root, "--content", f"os-core={release.content}")
        # Debian 13 drops folders of Debian 12, which old clients move away with what is in them: measured all the same.
        allowed = ("--allow-folder-replacement",)
        return ["publish", "--www", self.www, "--version", release.version, *what, *keys, *allowed]

    def publish(self, release: Release, *words: str) -> Cost:
        """Publishes a release as one bundle."""
        return meter.run([*SERVER, *self.line(release), *words], env={"SOURCE_DATE_EPOCH": str(trees.STAMP)})

    def publish_again(self, release: Release, rounds: int, *words: str) -> Cost:
        """The same so many times, where that is quick, from the same stream each time; what is in the middle."""
        before = self.base / "before"
        shutil.rmtree(before, ignore_errors=True)
        if self.www.exists():
            shutil.copytree(self.www, before)
        costs = [self.publish(release, *words)]
        while len(costs) < rounds and costs[0].wall < _QUICK:
            shutil.rmtree(self.www)
            if before.exists():
                shutil.copytree(before, self.www)
            costs.append(self.publish(release, *words))
        shutil.rmtree(before, ignore_errors=True)
        return middle(costs)

    def trial(self, release: Release, *words: str) -> Cost:
        """What publishing a release would cost, if nothing were taken over from packs before; the stream stays.

        Two trials differ by what their words say only: a publish without deltas takes nothing over either.
        """
        before = self.base / "before-trial"
        shutil.copytree(self.www, before)
        for index in self.www.glob("*/pack-*.index"):
            index.unlink()
        try:
            return self.publish(release, *words)
        finally:
            shutil.rmtree(self.www)
            before.rename(self.www)

    def disk(self, version: int) -> int:
        """Bytes that a release takes on the server."""
        return meter.blocks(self.www / str(version))

    def packs(self, new: int, old: int) -> dict[str, int]:
        """Bytes of the packs that lead from one release to another, by variant."""
        return {
            p.name.removeprefix(f"pack-os-core-from-{old}").removesuffix(".tar").removeprefix("."): p.stat().st_size
            for p in (self.www / str(new)).glob(f"pack-os-core-from-{old}.*tar")
        }


@dataclass(frozen=True)
class Device:
    """A device in a folder: its tree, its state, and which program works on it."""

    base: Path
    program: tuple[str, ...]
    stream: Stream

    @property
    def ours(self) -> bool:
        return self.program == AGENT

    def run(self, url: str, command: str, *words: str, accepted: tuple[int, ...] = (0,)) -> Cost:
        """Runs a command."""
        tree = self.base / "tree"
        place: list[object] = [tree] if command == "os-install" else ["-p", tree]
        line = [*self.program, command, *place, "-u", url, "-F", "30", "-C", self.stream.base / "keys/release.pem"]
        line += ["-S", self.base / "state", "--no-scripts", "--no-progress", "--allow-insecure-http"]
        line += [] if self.ours else ["--ignore-time", "--no-boot-update"]
        return meter.run([*line, *words], accepted)

    def install(self, url: str, version: int) -> Cost:
        """A fresh installation."""
        shutil.rmtree(self.base, ignore_errors=True)
        self.base.mkdir(parents=True)
        (self.base / "tree").mkdir()
        return self.run(url, "os-install", "-V", str(version))

    def again(self, kept: Path) -> None:
        """The device as it was when it was kept, with nothing that waits to be written."""
        shutil.rmtree(self.base, ignore_errors=True)
        subprocess.run(["cp", "-a", kept, self.base], check=True)
        os.sync()


@dataclass(frozen=True)
class Applied:
    """What an update cost a device. sent: bytes that the server sent. disk: bytes more on the device than before."""

    name: str
    sent: int
    disk: int
    warm: Cost
    cold: Cost | None


def programs() -> dict[str, tuple[str, ...]]:
    """The agents that there are, by name."""
    return {OURS: AGENT, THEIRS: (CLIENT,)} if CLIENT else {OURS: AGENT}


def updates(stream: Stream, work: Path, old: int, new: int, rounds: int, cold: bool) -> Iterator[Applied]:
    """Each agent from one release to another, in turns: what else the machine does meets all of them."""
    with serving(stream.www, work / "nginx") as web:
        devices = {name: Device(work / f"device-{n}", p, stream) for n, (name, p) in enumerate(programs().items())}
        kept = {name: work / f"kept-{n}" for n, name in enumerate(devices)}
        for name, device in devices.items():
            device.install(web.url, old)
            shutil.rmtree(kept[name], ignore_errors=True)
            device.base.rename(kept[name])
        warm: dict[str, list[Cost]] = {name: [] for name in devices}
        sent = {}
        for _ in range(rounds):
            for name, device in devices.items():
                device.again(kept[name])
                web.sent()
                warm[name].append(device.run(web.url, "update", "-V", str(new)))
                sent[name] = web.sent()
        disk = {name: meter.blocks(device.base) - meter.blocks(kept[name]) for name, device in devices.items()}
        last: dict[str, list[Cost]] = {name: [] for name in devices}
        for _ in range(rounds if cold else 0):
            for name, device in devices.items():
                last[name].append(_cold(device, kept[name], web, new))
        for name in devices:
            yield Applied(name, sent[name], disk[name], middle(warm[name]), middle(last[name]) if cold else None)


def _cold(device: Device, kept: Path, web: Web, new: int) -> Cost:
    device.again(kept)
    meter.forget_pages()
    return device.run(web.url, "update", "-V", str(new))


def checks(stream: Stream, work: Path, version: int, rounds: int, cold: bool) -> Iterator[tuple[str, dict[str, Cost]]]:
    """Each agent's os-install, diagnose (warm, cold) and info; in turns, too."""
    with serving(stream.www, work / "nginx") as web:
        devices = {name: Device(work / f"device-{n}", p, stream) for n, (name, p) in enumerate(programs().items())}
        costs = {name: {"os-install": device.install(web.url, version)} for name, device in devices.items()}
        for command, count in (("diagnose", rounds), ("info", 2 * rounds + 1)):
            found: dict[str, list[Cost]] = {name: [] for name in devices}
            for _ in range(count):
                for name, device in devices.items():
                    found[name].append(device.run(web.url, command))
            for name, some in found.items():
                costs[name][command] = middle(some)
        last: dict[str, list[Cost]] = {name: [] for name in devices}
        for _ in range(rounds if cold else 0):
            for name, device in devices.items():
                meter.forget_pages()
                last[name].append(device.run(web.url, "diagnose"))
        for name in devices:
            if cold:
                costs[name]["diagnose, cold"] = middle(last[name])
            yield name, costs[name]


def middle(costs: list[Cost]) -> Cost:
    """The medians."""
    return Cost(
        statistics.median(c.cpu for c in costs),
        statistics.median(c.wall for c in costs),
        int(statistics.median(c.memory for c in costs)),
    )
