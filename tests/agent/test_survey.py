"""Comparing a tree with many entries by several processes: the same answers, whatever becomes of those."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from swupd import tree
from swupd.agent import survey
from swupd.agent.objects import XattrRule
from swupd.agent.plan import Changes
from swupd.errors import FolderError
from swupd.manifest import Entry
from swupd.tree import Root
from tests.agent.objects import quiet
from tests.builders import digest_at

MANY = 1000
COUNT = MANY + 200
"""Files of the tree: enough for a second process."""


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(survey, "MANY", MANY)


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes that were made."""
    made: list[int] = []
    fork = os.fork

    def noted() -> int:
        child = fork()
        made.append(child)
        return child

    monkeypatch.setattr(os, "fork", noted)
    return made


@pytest.fixture
def entries(tmp_path: Path) -> tuple[Entry, ...]:
    """What the tree of tmp_path ships, after which one file in a hundred is changed, and as many are lost."""
    for number in range(COUNT):
        folder = tmp_path / f"{number % 7}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}").write_text(f"content {number}")
    with Root(tmp_path) as root:
        made = tuple(Entry(n.kind, digest_at(root, n.path) or "", 10, n.path) for n in tree.scan(root))
    for number in range(0, COUNT, 100):
        (tmp_path / f"{number % 7}/{number}").write_text("changed")
        (tmp_path / f"{(number + 1) % 7}/{number + 1}").unlink()
    return made


def found(place: Path, entries: tuple[Entry, ...]) -> dict[str, str | None]:
    """What differs, and how."""
    with Root(place) as root:
        return {path: kind for path, kind, _ in survey.differing(root, entries, XattrRule.HASHED, lambda *_: None)}


def expected() -> dict[str, str | None]:
    changed = {f"/{n % 7}/{n}": "F" for n in range(0, COUNT, 100)}
    return {**changed, **{f"/{(n + 1) % 7}/{n + 1}": None for n in range(0, COUNT, 100)}}


def test_two_processes_find_what_one_finds(tmp_path: Path, entries: tuple[Entry, ...], forks: list[int]) -> None:
    assert found(tmp_path, entries) == expected()
    assert forks
    forks.clear()
    few = entries[: MANY - 1]
    assert found(tmp_path, few) == {p: k for p, k in expected().items() if p in {e.name for e in few}}
    assert not forks


def in_the_helper(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """Has the other process do something at its first path; this one waits until it is over."""
    this, look = os.getpid(), survey.look
    over = threading.Event()

    def other(root: Root, path: str, rule: XattrRule) -> object:
        if os.getpid() != this:
            action()
        elif not over.is_set():
            # Leaves it the time to take a turn.
            over.wait(0.3)
            over.set()
        return look(root, path, rule)

    monkeypatch.setattr(survey, "look", other)


def test_what_a_killed_process_leaves_is_done_by_the_other(
    tmp_path: Path, entries: tuple[Entry, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_helper(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert found(tmp_path, entries) == expected()


def test_an_error_in_the_other_process_is_met_by_this_one(
    tmp_path: Path, entries: tuple[Entry, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    this = os.getpid()

    def fails() -> None:
        raise FolderError(f"cannot read in {'this' if os.getpid() == this else 'the other'}")

    in_the_helper(monkeypatch, fails)
    assert found(tmp_path, entries) == expected()


def test_without_a_second_process_it_goes_on_alone(
    tmp_path: Path, entries: tuple[Entry, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_fork() -> int:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(os, "fork", no_fork)
    assert found(tmp_path, entries) == expected()


def test_a_process_with_threads_is_not_forked(
    tmp_path: Path, entries: tuple[Entry, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    assert found(tmp_path, entries) == expected()


def test_nobody_and_nothing_is_left_where_it_is_given_up(
    tmp_path: Path, entries: tuple[Entry, ...], forks: list[int]
) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with Root(tmp_path) as root:
        going = survey.differing(root, entries, XattrRule.HASHED, lambda *_: None)
        next(iter(going))
        going.close()  # type: ignore[attr-defined]
    assert set(os.listdir("/proc/self/fd")) == before
    assert forks
    for child in forks:
        with pytest.raises(ChildProcessError):
            os.waitpid(child, os.WNOHANG)


def test_a_file_that_is_to_be_replaced_is_not_read_but_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("changed", "repaired", "kind"):
        (tmp_path / name).write_text(name)
    there = {f"/{name}": Entry("F", letter * 64, 10, f"/{name}") for name, letter in (("changed", "a"), ("gone", "b"))}
    owned = {**there, "/repaired": Entry("F", "c" * 64, 20, "/repaired"), "/kind": Entry("L", "d" * 64, 10, "/kind")}
    put = tuple(Entry("F", "c" * 64, 20, path) for path in owned)
    read: list[str] = []

    def look(root: Root, path: str, rule: XattrRule) -> object:
        read.append(path)
        return plain(root, path, rule)

    plain = survey.look
    monkeypatch.setattr(survey, "look", look)
    with Root(tmp_path) as root:
        facts, seen = survey.observe(root, Changes(put), XattrRule.HASHED, quiet(), owned)
    assert sorted(read) == ["/kind", "/repaired"]
    assert (facts.right, facts.kinds) == (set(), {"/changed": "F", "/repaired": "F", "/kind": "F"})
    assert {node.path for node in seen.values()} == {"/repaired", "/kind"}
