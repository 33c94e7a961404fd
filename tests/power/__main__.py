"""Cuts the power of the agent at every point, in every way: `python -m tests.power`, or scripts/powercut."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from tests.power import bench, cases, corpus, crew, disks, fulldisks, peers, selfupdate, tiers, tracer
from tests.power.bench import PLACES, Bench, Helper
from tests.power.cases import Case
from tests.power.crew import Tally
from tests.power.tiers import Point
from tests.power.tracer import Call

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """What was asked for. quick: points of each kind, 0 for all."""

    base: Path
    stream: corpus.Stream
    places: tuple[str, ...]
    commands: tuple[str, ...]
    quick: int
    seed: int
    jobs: int
    cold: bool
    systems: tuple[str, ...]

    def bench(self, place: str) -> Bench:
        return Bench(self.base / place, self.stream, place, self.cold)

    def pick(self, points: Sequence[T], what: str) -> list[T]:
        """All points, or as many as were asked for, by chance."""
        if not self.quick or len(points) <= self.quick:
            return list(points)
        chosen = random.Random(f"{self.seed} {what}").sample(range(len(points)), self.quick)
        return [points[n] for n in sorted(chosen)]


def prepared(run: Run) -> Iterator[tuple[Bench, Case, list[Call]]]:
    """Each command in each place, with the calls that it makes."""
    for place in run.places:
        at = run.bench(place)
        for name in run.commands:
            try:
                case = cases.prepare(at, name)
            except cases.CannotPrepare as e:
                print(f"{place} {name} cannot be tried: {e}", file=sys.stderr, flush=True)
                continue
            calls = tiers.count(at, case)
            at.release()
            yield at, case, calls


def cuts(run: Run) -> Iterator[Tally]:
    """Tier 1: killed at every call."""
    for at, case, calls in prepared(run):
        points = [Point(case, n, by_helper=n % 2 == 0) for n in range(1, len(calls) + 1)]
        title = f"1 cut at each call: {case.place} {case.name}"
        yield crew.each(title, at, run.pick(points, title), tiers.try_point, run.jobs)


def recovery_cuts(run: Run) -> Iterator[Tally]:
    """Tier 1: the recovery killed at every call, too, for chosen first cuts."""
    for at, case, calls in prepared(run):
        chosen = first_cuts(calls, random.Random(f"{run.seed} {case.name}"), 2)
        for place, first in enumerate(chosen):
            # To run the command again is mostly what tier 1 cuts; so that is cut for fewer first cuts.
            for action in (Helper(), case.again) if place in {1, 3} else (Helper(),):
                inner = cases.nested(case, first, action)
                number = len(tiers.count(at, inner))
                at.release()
                points = [Point(inner, n, by_helper=n % 2 == 0) for n in range(1, number + 1)]
                title = f"1 recovery cut: {case.place} {inner.name}"
                yield crew.each(title, at, run.pick(points, title), tiers.try_point, run.jobs)


def first_cuts(calls: Sequence[Call], chance: random.Random, more: int) -> list[int]:
    """Calls directly around the commit and the end of a command, and some between them."""
    begin = next((n for n, c in enumerate(calls, 1) if any("commit.1" in p for p in c.paths[1:])), None)
    end = next((n for n, c in enumerate(calls, 1) if any(p.endswith(("/done", "/undone")) for p in c.paths[1:])), None)
    if end is None:
        return sorted(chance.sample(range(1, len(calls) + 1), min(more, len(calls))))
    first = begin if begin is not None else 1
    between = chance.sample(range(first + 1, end), min(more, max(0, end - first - 1)))
    return sorted({first, first + 1, end, min(end + 1, len(calls)), *between})


def errors(run: Run) -> Iterator[Tally]:
    """Tier 2: each call fails."""
    for at, case, calls in prepared(run):
        points = tiers.errors(case, range(1, len(calls) + 1), run.seed)
        title = f"2 error at each call: {case.place} {case.name}"
        yield crew.each(title, at, run.pick(points, title), tiers.try_point, run.jobs)


def disk_cuts(run: Run) -> Iterator[Tally]:
    """Tiers 3 and 5: what is on a disk at each call, and what may be on one that writes in an order of its own."""
    for at, case, calls in prepared(run):
        for system in run.systems:
            for eager in (0, max(7, len(calls) // 40)):
                how = f"{case.place} {case.name} on {system}{', written back often' if eager else ''}"
                try:
                    recording = disks.record(at, case, system, eager)
                except (OSError, subprocess.CalledProcessError) as e:
                    print(f"{how} cannot be tried: {e}", file=sys.stderr, flush=True)
                    continue
                held = disks.at_calls(recording)
                title = f"3 image at each call: {how}"
                tally = crew.each(title, at, run.pick(held, title), disks.try_cut, run.jobs)
                yield replace(tally, note=f"{len(calls)} calls, {len(held)} images")
                lost = disks.between_flushes(recording, run.seed, 4 if run.quick else 16)
                title = f"5 writes reordered: {how}"
                yield crew.each(title, at, run.pick(lost, title), disks.try_cut, run.jobs)


def full_disks(run: Run) -> Iterator[Tally]:
    """Tier 4: disks with too little room."""
    for at, case, _ in prepared(run):
        for system in fulldisks.SYSTEMS:
            needs = {staged: fulldisks.measure(at, case, system, staged) for staged in (True, False)}
            points = fulldisks.rooms(case, system, needs)
            title = f"4 full disk: {case.place} {case.name} on {system}"
            tally = crew.each(title, at, run.pick(points, title), fulldisks.try_room, run.jobs)
            yield replace(tally, note=f"needs {needs[True].blocks} blocks, {needs[True].files} files")


def peers_compared(run: Run) -> Iterator[Tally]:
    """swupd-client 7.0.0 beside this agent; its violations are not ours."""
    program = os.environ.get("SWUPD_CLIENT", "")
    if not program:
        print("peers: skipped: SWUPD_CLIENT does not name swupd-client 7.0.0", flush=True)
        return
    www = peers.unpack(run.base / "golden")
    for name, which in (("swupd-client 7.0.0", program), ("this agent", "")):
        trial = peers.prepare(name, which, www, run.base / f"peer-{len(which)}")
        title = f"peers: {name}, killed at each rename, link, unlink"
        items = run.pick([(trial, n) for n in range(1, trial.calls + 1)], title)
        at = Bench(run.base / f"peer-{len(which)}-bench", run.stream)
        tally = crew.each(title, at, items, peers.try_kill, run.jobs)
        yield replace(tally, ours=not which)


def self_update(run: Run) -> Iterator[Tally]:
    """C library, dynamic linker, Python and agent are replaced; killed at each rename, recovered by the helper."""
    renewal = selfupdate.prepare(run.base / "self")
    title = "self-update by journal, killed at each rename"
    items = run.pick([(renewal, n) for n in range(1, renewal.calls + 1)], title)
    at = Bench(run.base / "self-bench", run.stream)
    tally = crew.each(title, at, items, selfupdate.try_kill, run.jobs)
    yield tally


TIERS = {
    "1": (cuts,),
    "1r": (recovery_cuts,),
    "2": (errors,),
    "3": (disk_cuts,),
    "4": (full_disks,),
    "self": (self_update,),
    "peers": (peers_compared,),
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="powercut", description=__doc__)
    parser.add_argument("--tiers", default=",".join(TIERS), help=f"which (all: {','.join(TIERS)})")
    parser.add_argument("--places", default=",".join(PLACES), help=f"back ends (all: {','.join(PLACES)})")
    parser.add_argument("--commands", default=",".join(cases.COMMANDS), help="commands that are cut short")
    parser.add_argument("--systems", default=",".join(disks.FILE_SYSTEMS), help="file systems of tiers 3 and 5")
    parser.add_argument("--quick", type=int, default=0, metavar="N", help="N points of each kind by chance, not all")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the chance")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--cold", action="store_true", help="start Python anew for each command: slower")
    parser.add_argument("--work", default="/dev/shm", help="folder for trees, which should be in memory")
    return parser.parse_args()


def main() -> int:
    """Runs the tiers; 1 where any point shows a violation."""
    options = arguments()
    if not tracer.SUPPORTED or os.geteuid() != 0:
        print("powercut is skipped: it needs Linux on x86-64, and root.", file=sys.stderr)
        return 0
    bench.own_mounts()
    os.nice(10)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    base = Path(tempfile.mkdtemp(prefix="powercut-", dir=options.work))
    try:
        return _run(options, base)
    finally:
        shutil.rmtree(os.fsencode(base), ignore_errors=True)


def _run(options: argparse.Namespace, base: Path) -> int:
    bench.make_tools(base / "tools")
    stream = corpus.publish(base / "stream")
    run = Run(
        base, stream, tuple(options.places.split(",")), tuple(options.commands.split(",")), options.quick,
        options.seed, options.jobs, options.cold, tuple(options.systems.split(",")),
    )  # fmt: skip
    print(f"The agent in {bench.LIBRARY}; seed {options.seed}.", flush=True)
    bad = 0
    for name in options.tiers.split(","):
        for tier in TIERS[name]:
            for tally in tier(run):
                print(tally, *tally.explain(), sep="\n", flush=True)
                bad += len(tally.bad) if tally.ours else 0
    print(f"{bad} violations." if bad else "No violations.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
