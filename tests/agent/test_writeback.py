"""What is staged is written to the disk in the background, and no error of that is lost."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from swupd.agent import syscalls
from swupd.agent.writeback import EACH, Writeback
from tests.agent.devices import Device


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that made a file system durable."""
    seen: list[str] = []

    def syncfs(fd: int) -> None:
        os.fstat(fd)
        seen.append(threading.current_thread().name)

    monkeypatch.setattr(syscalls, "syncfs", syncfs)
    return seen


def test_it_begins_once_much_is_waiting_and_where_it_is_told_to(tmp_path: Path, calls: list[str]) -> None:
    made = Writeback(tmp_path)
    made.wrote(EACH - 1)
    made.settle()
    assert calls == []
    made.wrote(1)
    made.settle()
    assert calls == ["writeback"]
    made.wrote(1)
    made.begin()
    made.settle()
    made.close()
    assert calls == ["writeback", "writeback"]


def test_nobody_waits_before_it_is_to_settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(syscalls, "syncfs", lambda fd: over.wait(60) and None)
    made = Writeback(tmp_path)
    for _ in range(5):
        made.wrote(EACH)
    over.set()
    made.settle()
    made.close()


def test_lost_data_is_told_whoever_asks_and_whenever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [OSError(errno.EIO, "Input/output error")]

    def syncfs(_: int) -> None:
        if failing:
            raise failing.pop()

    monkeypatch.setattr(syscalls, "syncfs", syncfs)
    made = Writeback(tmp_path)
    made.begin()
    with pytest.raises(OSError, match="Input/output"):
        made.settle()
    made.begin()
    with pytest.raises(OSError, match="Input/output"):
        made.settle()
    made.close()


def test_an_update_whose_data_was_lost_in_the_background_changes_nothing(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def syncfs(fd: int) -> None:
        if threading.current_thread().name == "writeback":
            raise OSError(errno.EIO, "Input/output error")

    before = device.tree()
    with monkeypatch.context() as patched:
        patched.setattr(syscalls, "syncfs", syncfs)
        done = device.run("update")
    assert done.code != 0 and "Input/output error" in done.err
    assert device.tree() == before
    device.ok("update")
    device.ok("diagnose")
