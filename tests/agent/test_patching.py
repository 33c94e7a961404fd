"""Deltas that are applied while their pack is read."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest

from swupd.agent.patching import AHEAD, GROUP, Job, Patching
from swupd.errors import DiskSpace
from swupd.stream import MIB
from swupd.tree import Node


def job(digest: str, size: int = 1) -> Job:
    source = Node("/old", "F", 0o100644, 0, 0, size)
    return Job(digest, b"", BytesIO(), source, contextlib.nullcontext())


class Told:
    """Writes down what is asked for and what is taken. then: by digest, what happens when that is taken."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.taken: list[str] = []
        self.then: dict[str, Callable[[], object]] = {}

    def apply(self, jobs: Sequence[Job]) -> Iterator[None]:
        self.asked.append(tuple(job.digest for job in jobs))
        yield
        for each in jobs:
            self.then.get(each.digest, lambda: None)()
            self.taken.append(each.digest)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def patching(told: Told) -> Iterator[Patching]:
    with ThreadPoolExecutor(2) as pool:
        yield Patching(pool, told.apply)


def test_small_ones_are_asked_for_in_groups_ahead_and_taken_in_order(patching: Patching, told: Told) -> None:
    names = [f"{number:03}" for number in range(5 * GROUP + 1)]
    for name in names:
        patching.begin(job(name), slow=False)
        assert sum(map(len, told.asked)) - len(told.taken) <= AHEAD * GROUP
    assert told.asked == [tuple(names[at : at + GROUP]) for at in range(0, 5 * GROUP, GROUP)]
    patching.finish()
    assert told.asked[-1] == (names[-1],) and told.taken == names


def test_a_group_has_few_files_where_they_are_large(patching: Patching, told: Told) -> None:
    for name in "abcd":
        patching.begin(job(name, 3 * MIB // 2), slow=False)
    assert told.asked == [("a", "b"), ("c", "d")]


def test_a_large_one_holds_nobody_up(patching: Patching, told: Told) -> None:
    free = threading.Event()
    told.then["large"] = lambda: free.wait(60)
    patching.begin(job("large"), slow=True)
    for number in range(4 * GROUP):
        patching.begin(job(str(number)), slow=False)
    assert "10" in told.taken and "large" not in told.taken
    free.set()
    patching.finish()
    assert "large" in told.taken


@pytest.mark.parametrize("slow", [True, False])
@pytest.mark.parametrize("behind", [0, 1, GROUP, 2 * GROUP])
def test_what_is_begun_can_be_waited_for(patching: Patching, told: Told, slow: bool, behind: int) -> None:
    patching.begin(job("a"), slow)
    for number in range(behind):
        patching.begin(job(str(number)), slow=False)
    patching.settle("a")
    assert "a" in told.taken
    patching.settle("a")
    patching.settle("never begun")
    assert told.taken.count("a") == 1


@pytest.mark.parametrize("slow", [True, False])
def test_a_full_disk_stops_it(patching: Patching, told: Told, slow: bool) -> None:
    def full() -> None:
        raise DiskSpace("the disk is full", "Free some space.")

    with pytest.raises(DiskSpace):
        for number in range(100):
            told.then[str(number)] = full
            patching.begin(job(str(number)), slow)
        patching.finish()


@pytest.mark.parametrize("slow", [True, False])
def test_what_cannot_even_be_asked_for_is_over(slow: bool) -> None:
    with ThreadPoolExecutor(2) as pool:
        patching = Patching(pool, lambda _: iter(()))
        patching.begin(job("a"), slow)
        patching.finish()
