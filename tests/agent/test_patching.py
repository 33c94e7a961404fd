"""Deltas that are applied while their pack is read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from swupd.agent.patching import AHEAD, Patching
from swupd.errors import DiskSpace


@pytest.fixture
def patching() -> Iterator[Patching]:
    with ThreadPoolExecutor(2) as pool:
        yield Patching(pool)


def steps(told: list[str], name: str, then: Callable[[], object] = lambda: None) -> Iterator[None]:
    told.append(f"ask {name}")
    yield
    then()
    told.append(f"take {name}")


def test_small_ones_are_asked_for_ahead_and_taken_in_order(patching: Patching) -> None:
    told: list[str] = []
    for name in "abcd":
        patching.begin(name, steps(told, name), large=False)
        assert len([t for t in told if t.startswith("ask")]) - len([t for t in told if t.startswith("take")]) <= AHEAD
    assert told == ["ask a", "ask b", "take a", "ask c", "take b", "ask d"]
    patching.finish()
    assert told[-2:] == ["take c", "take d"]


def test_a_large_one_holds_nobody_up(patching: Patching) -> None:
    told: list[str] = []
    free = threading.Event()
    patching.begin("large", steps(told, "large", lambda: free.wait(60)), large=True)
    for number in range(20):
        patching.begin(str(number), steps(told, str(number)), large=False)
    assert "take 10" in told and "take large" not in told
    free.set()
    patching.finish()
    assert "take large" in told


@pytest.mark.parametrize("large", [True, False])
def test_what_is_begun_can_be_waited_for(patching: Patching, large: bool) -> None:
    told: list[str] = []
    patching.begin("a", steps(told, "a"), large)
    patching.settle("a")
    assert told == ["ask a", "take a"]
    patching.settle("a")
    patching.settle("never begun")


@pytest.mark.parametrize("large", [True, False])
def test_a_full_disk_stops_it(patching: Patching, large: bool) -> None:
    def full() -> None:
        raise DiskSpace("the disk is full", "Free some space.")

    with pytest.raises(DiskSpace):
        for number in range(100):
            patching.begin(str(number), steps([], str(number), full), large)
        patching.finish()


def test_what_cannot_even_be_asked_for_is_over(patching: Patching) -> None:
    patching.begin("a", iter(()), large=False)
    patching.begin("b", iter(()), large=True)
    patching.finish()
