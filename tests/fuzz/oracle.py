"""Runs inputs in a process of their own, with bounds for memory and time, and judges what comes of them.

Right is: the input is taken, or a SwupdError says why not; nothing is written outside the target's own folder.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from swupd.errors import SwupdError
from tests.fuzz import corpus
from tests.fuzz.corpus import Corpus
from tests.fuzz.mutation import mutate
from tests.fuzz.targets import Parse, Place, Target

MEMORY = 768 << 20
"""Bytes of address space that a worker may add to what it has when it begins."""
SECONDS = 5.0
"""Of processor time for one input, and ten times as much of waiting."""
_COUNTS = struct.Struct("<QQQ")


@dataclass(frozen=True)
class Failure:
    """An input that did what none may. number: of the input in the run."""

    target: str
    number: int
    why: str
    data: bytes

    @property
    def kind(self) -> str:
        """The same for failures that are likely one fault."""
        return f"{self.target} {self.why.splitlines()[0]}"


@dataclass(frozen=True)
class Bounds:
    """When a target has been tried enough: whichever is first. seconds: of wall time; count: inputs."""

    seconds: float = 1e9
    count: int = 2**62


@dataclass
class Tally:
    """What came of a target."""

    target: str
    accepted: int = 0
    refused: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def tried(self) -> int:
        return self.accepted + self.refused + len(self.failures)

    @property
    def distinct(self) -> list[Failure]:
        """One failure for each fault, the smallest input."""
        ordered = sorted(self.failures, key=lambda f: len(f.data), reverse=True)
        return list({f.kind: f for f in ordered}.values())

    def sentence(self) -> str:
        found = f", {len(self.failures)} FAILED" if self.failures else ""
        return f"{self.target}: {self.tried} tried, {self.accepted} accepted, {self.refused} refused{found}"


class Inputs:
    """The inputs of a target by number, the same for the same seed; the first are right."""

    def __init__(self, target: Target, found: Corpus, seed: int, built: int = 200) -> None:
        self._target, self._seed = target, seed
        self.seeds: Sequence[bytes] = list(target.seeds(found))
        made = corpus.built(target.built, built, seed) if target.built is not None else []
        self._bases = [*self.seeds, *made]
        if not self.seeds:
            raise ValueError(f"{target.name} has no seeds")

    def __getitem__(self, number: int) -> bytes:
        if number < len(self._bases):
            return self._bases[number]
        chance = Random(f"{self._seed} {self._target.name} {number}")
        bases = self.seeds if chance.random() < 0.8 else self._bases
        return mutate(chance.choice(bases), chance, self._bases, self._target.text)


def run(target: Target, found: Corpus, scratch: Path, seed: int, bounds: Bounds, built: int = 200) -> Tally:
    """Tries a target; built: how many of the inputs hypothesis builds."""
    tally = Tally(target.name)
    inputs = Inputs(target, found, seed, built)
    shared = mmap.mmap(-1, _COUNTS.size)
    before = _print(found.base)
    end = time.monotonic() + bounds.seconds
    at = 0
    while at < bounds.count and time.monotonic() < end:
        reader, writer = os.pipe()
        shared[:] = _COUNTS.pack(at, 0, 0)
        child = os.fork()
        if child == 0:
            os.close(reader)
            _work(target, found, scratch, inputs, (at, bounds.count, end), shared, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as told:
            lines = told.read().splitlines()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        number, accepted, refused = _COUNTS.unpack(shared[:])
        tally.accepted += accepted
        tally.refused += refused
        for line in lines:
            number_of, why = json.loads(line)
            tally.failures.append(Failure(target.name, number_of, why, inputs[number_of]))
        if status != 0:
            tally.failures.append(Failure(target.name, number, _death(status), inputs[number]))
        at = number + 1
    if _print(found.base) != before:
        tally.failures.append(Failure(target.name, at, "the files that inputs are made of changed", b""))
    return tally


def _death(status: int) -> str:
    if status in {-signal.SIGPROF, -signal.SIGALRM}:
        return "it takes too long"
    return f"the process died: {signal.Signals(-status).name if status < 0 else status}"


def _work(
    target: Target,
    found: Corpus,
    scratch: Path,
    inputs: Inputs,
    span: tuple[int, int, float],
    shared: mmap.mmap,
    writer: int,
) -> None:
    """The worker: never returns."""
    status = 70
    try:
        faulthandler.disable()
        with _place(found, scratch) as place:
            _try_all(target, place, inputs, span, shared, writer)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


@contextlib.contextmanager
def _place(found: Corpus, scratch: Path) -> Iterator[Place]:
    shutil.rmtree(scratch, ignore_errors=True)
    own = scratch / "own"
    own.mkdir(parents=True)
    (scratch / "outside").mkdir()
    (scratch / "outside/precious").write_text("precious")
    os.chdir(own)
    yield Place(found, own)


def _try_all(
    target: Target,
    place: Place,
    inputs: Inputs,
    span: tuple[int, int, float],
    shared: mmap.mmap,
    writer: int,
) -> None:
    begin, stop, end = span
    parse = target.open(place)
    accepted = refused = 0
    scratch = place.own.parent
    outside = _print(scratch, place.own)
    resource.setrlimit(resource.RLIMIT_AS, (_size() + MEMORY, resource.RLIM_INFINITY))
    for action in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(action, signal.SIG_DFL)
    for number in range(begin, stop):
        shared[:] = _COUNTS.pack(number, accepted, refused)
        if time.monotonic() > end:
            break
        data = inputs[number]
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, 10 * SECONDS)
        taken, why = _judge(parse, data)
        now = _print(scratch, place.own)
        if now != outside:
            why, outside = why or "something outside the target's own folder changed", now
        if why:
            os.write(writer, json.dumps([number, why]).encode() + b"\n")
        elif taken:
            accepted += 1
        else:
            refused += 1
    shared[:] = _COUNTS.pack(stop - 1 if time.monotonic() <= end else number, accepted, refused)


def _judge(parse: Parse, data: bytes) -> tuple[bool, str]:
    """Whether an input was taken, and why that is a failure, if it is one."""
    try:
        parse(data)
    except SwupdError as e:
        return False, _silent(e)
    except BaseException as e:
        return False, _where(e)
    return True, ""


def _silent(error: SwupdError) -> str:
    """What is wrong with an error, if anything: it must say something."""
    return "" if str(error).strip() else f"an error that says nothing: {type(error).__name__}"


def _where(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/swupd/" in f.filename]
    at = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {at}\n{''.join(traceback.format_exception(error))}"


def _size() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()


def _print(folder: Path, without: Path | None = None) -> list[tuple[str, int, int, int]]:
    """All that is in a folder, with what a write would change."""
    found = []
    for place, folders, files in os.walk(folder):
        if without is not None and Path(place) == without.parent:
            folders.remove(without.name)
        for name in (*folders, *files):
            path = os.path.join(place, name)
            at = os.lstat(path)
            found.append((path, at.st_ino, at.st_mtime_ns, at.st_size))
    return found
