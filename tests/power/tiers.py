"""What is done at one point of a command: cut or fail it there, judge, recover, judge again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.power import oracle, tracer
from tests.power.bench import Agent, Bench, Helper
from tests.power.cases import Case
from tests.power.tracer import ERRORS, Call, Stopped

_DELETING = frozenset({"unlink", "unlinkat", "rmdir"})
_EVERY = 16
"""At which share of the points the dear questions are asked, too: diagnose, confirm."""


@dataclass(frozen=True)
class Verdict:
    """What one point showed. reached: whether the command made as many calls; note: something to be counted."""

    point: str
    violations: tuple[str, ...] = ()
    reached: bool = True
    note: str = ""


@dataclass(frozen=True)
class Point:
    """A call of a case. error: what the call fails with, "" for a cut; sticky: and all calls after it, too."""

    case: Case
    number: int
    error: str = ""
    sticky: bool = False
    by_helper: bool = False

    def __str__(self) -> str:
        what = f"{self.error}{' from then on' if self.sticky else ''}" if self.error else "cut"
        return f"{self.case.place}: {self.case.name}: {what} at call {self.number}"


def count(bench: Bench, case: Case) -> list[Call]:
    """The calls of a case's action, undisturbed."""
    calls: list[Call] = []
    case.set_up(bench)
    bench.run(case.action, tracer.record(calls))
    return calls


def try_point(bench: Bench, point: Point) -> Verdict:
    """Tries one point."""
    case = point.case
    case.set_up(bench)
    hit: list[Call] = []
    ended = bench.run(case.action, _visitor(point, hit))
    if not hit:
        return Verdict(str(point), reached=False)
    seen = bench.look() if not point.error else None
    said = bench.said
    if seen is not None:
        wrong = [f"after the cut: {v}" for v in oracle.after_cut(seen, case.promise)]
    else:
        seen = bench.look()
        wrong = [f"after the error: {v}" for v in oracle.after_error(seen, case.promise, ended.code, said)]
    wrong += recovery(bench, case, point.number, point.by_helper)
    return Verdict(f"{point}, {hit[0]}", tuple(wrong))


def _visitor(point: Point, hit: list[Call]) -> Callable[[Stopped], None]:
    def visit(stopped: Stopped) -> None:
        if stopped.number == point.number:
            hit.append(stopped.call())
        if stopped.number == point.number or (point.sticky and stopped.number > point.number):
            if not point.error:
                raise tracer.Killed
            # A disk that is full lets one delete; one that fails, or is read-only, lets nobody do anything.
            spared = point.sticky and point.error in {"ENOSPC", "EDQUOT"} and stopped.call().name in _DELETING
            if not spared:
                stopped.fail(ERRORS[point.error])

    return visit


def recovery(bench: Bench, case: Case, number: int, by_helper: bool) -> list[str]:
    """Brings a device to an end that was cut short; gives the violations."""
    wrong: list[str] = []
    promise = replace(case.promise, atomic=False)
    if by_helper:
        ended = bench.run(Helper())
        said = bench.said
        found = oracle.after_helper(bench.look(), promise, ended.code)
        wrong += [f"after the helper ({said.strip()[-150:]!r}): {v}" for v in found]
    ended = bench.run(case.again)
    said = bench.said
    found = oracle.after_recovery(bench.look(), promise, ended.code, case.accepted, case.undisturbed)
    wrong += [f"after running it again ({said.strip()[-150:]!r}): {v}" for v in found]
    ended = bench.run(case.again)
    if ended.code not in case.accepted:
        wrong.append(f"the second run ended with {ended.code}: {bench.said.strip()[-200:]!r}")
    if number % _EVERY == 0:
        wrong += _dear_questions(bench, case)
    return wrong


def _dear_questions(bench: Bench, case: Case) -> list[str]:
    wrong = []
    seen = bench.look()
    if dict(seen.tree) != dict(case.promise.new):
        wrong.append(f"the second run changed the tree: {oracle.difference(seen.tree, case.promise.new)}")
    bench.run(Agent(("diagnose", "--picky")))
    if bench.said != case.diagnosis:
        wrong.append(f"diagnose: {bench.said.strip()[-300:]!r}")
    if bench.run(Agent(("confirm",))).code:
        wrong.append(f"confirm: {bench.said.strip()[-200:]!r}")
    after = bench.look()
    if dict(after.tree) != dict(case.promise.new) or after.reserved:
        wrong.append(f"after confirm there are left {sorted(after.reserved)[:5]}")
    return wrong


def errors(case: Case, numbers: range, seed: int) -> list[Point]:
    """For each call one error once, and another from then on."""
    names = sorted(ERRORS)
    shift = random.Random(seed).randrange(len(names))
    points = []
    for n in numbers:
        points.append(Point(case, n, names[(n + shift) % len(names)], False, n % 2 == 0))
        points.append(Point(case, n, names[(n + shift + 1 + n // 4) % len(names)], True, n % 2 == 1))
    return points
