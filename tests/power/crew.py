"""Spreads points over a few processes, each with a bench of its own, and adds up what they show."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.power.bench import Bench, own_mounts
from tests.power.oracle import LEFTOVERS
from tests.power.tiers import Verdict

_SHOWN = 2
_work: Callable[[Bench, Any], Verdict]
_items: Sequence[Any]
_bench: Bench


@dataclass
class Tally:
    """What some points showed. ours: whether it is this project's agent that was tried."""

    title: str
    tried: int = 0
    bad: list[Verdict] = field(default_factory=list)
    seconds: float = 0.0
    note: str = ""
    ours: bool = True
    notes: dict[str, int] = field(default_factory=dict)

    def add(self, verdict: Verdict) -> None:
        """Counts a verdict."""
        self.tried += verdict.reached
        if verdict.note:
            self.notes[verdict.note] = self.notes.get(verdict.note, 0) + 1
        if verdict.violations:
            self.bad.append(verdict)

    def __str__(self) -> str:
        words = [f"{self.title:60} {self.tried:6} points  {len(self.bad):5} violations"]
        light = sum(all(LEFTOVERS in v for v in found.violations) for found in self.bad)
        words += [f"({light} of them leftovers only)"] if light else []
        words += [f"{self.tried / self.seconds:.1f}/s"] if self.seconds else []
        words += [self.note] if self.note else []
        return "  ".join([*words, *(f"{text} at {number}" for text, number in self.notes.items())])

    def explain(self) -> list[str]:
        """The first violations of each sort."""
        told: dict[str, int] = {}
        lines = []
        for found in self.bad:
            sort = re.sub(r"\(.*?\)|[0-9]+", "", " ".join(v[:200] for v in found.violations))[:60]
            told[sort] = told.get(sort, 0) + 1
            if told[sort] <= _SHOWN:
                lines += [f"    {found.point}:", *(f"        {v[:600]}" for v in found.violations)]
        return lines


def each(title: str, bench: Bench, items: Iterable[Any], work: Callable[[Bench, Any], Verdict], jobs: int) -> Tally:
    """Tries items, which workers find in the memory they inherit."""
    global _work, _items
    _work, _items = work, tuple(items)
    tally = Tally(title)
    begin = time.monotonic()
    context = multiprocessing.get_context("fork")
    with context.Pool(jobs, _begin, (bench,)) as pool:
        for verdict in pool.imap_unordered(_try, range(len(_items)), chunksize=4):
            tally.add(verdict)
            _progress(title, tally, len(_items))
        # Not terminated: a worker that has only begun to start would take that for the signal to its parent.
        pool.close()
        pool.join()
    tally.seconds = time.monotonic() - begin
    return tally


def _progress(title: str, tally: Tally, whole: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{title}: {tally.tried}/{whole}, {len(tally.bad)} violations ", end="", file=sys.stderr, flush=True)


def _begin(bench: Bench) -> None:
    global _bench  # noqa: PLW0603 - a worker's own
    own_mounts()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _stay_on_one_processor()
    base = Path(f"{bench.base}-{os.getpid()}")
    _bench = Bench(base, bench.stream, bench.place, bench.cold)


def _stay_on_one_processor() -> None:
    """A tracer and what it traces take turns; each turn is dearer where it wakes another processor."""
    allowed = sorted(os.sched_getaffinity(0))
    number = multiprocessing.current_process()._identity[0]
    os.sched_setaffinity(0, {allowed[number % len(allowed)]})


def _try(number: int) -> Verdict:
    return _work(_bench, _items[number])
