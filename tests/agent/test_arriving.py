"""Downloads are read while they arrive."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swupd.agent.arriving import Arrival
from swupd.errors import DownloadError

FIRST, SECOND = b"first" * 100_000, b"second" * 100_000
Download = Callable[[Callable[[int], None]], bool]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


def _nobody(count: int) -> None:
    """Not told anything."""


def _append(place: Path, data: bytes, advance: Callable[[int], None]) -> None:
    with place.open("ab") as file:
        file.write(data)
    advance(len(data))


def test_what_has_come_is_read_before_the_rest_comes(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    place, go_on, told = tmp_path / "pack", threading.Event(), list[int]()

    def download(advance: Callable[[int], None]) -> bool:
        _append(place, FIRST, advance)
        assert go_on.wait(60)
        _append(place, SECOND, advance)
        return True

    arrival = Arrival(pool, place, download, told.append)
    with arrival.reading() as file:
        assert file.read(len(FIRST)) == FIRST and not arrival.ended
        go_on.set()
        assert file.read() == SECOND
    assert arrival.result() and told == [len(FIRST), len(SECOND)]


def test_a_download_that_is_resumed_is_read_from_its_beginning(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    place = tmp_path / "pack"
    place.write_bytes(FIRST)
    go_on = threading.Event()

    def download(advance: Callable[[int], None]) -> bool:
        assert go_on.wait(60)
        _append(place, SECOND, advance)
        return True

    with Arrival(pool, place, download, _nobody).reading() as file:
        assert file.read(len(FIRST)) == FIRST
        go_on.set()
        assert file.read() == SECOND


def _fails(place: Path, begun: threading.Event) -> Download:
    def download(advance: Callable[[int], None]) -> bool:
        _append(place, FIRST, advance)
        assert begun.wait(60)
        raise DownloadError("the line is cut", "")

    return download


def _removes(place: Path, begun: threading.Event) -> Download:
    def download(advance: Callable[[int], None]) -> bool:
        _append(place, FIRST, advance)
        assert begun.wait(60)
        place.unlink()
        return True

    return download


def _begins_anew(place: Path, begun: threading.Event) -> Download:
    def download(advance: Callable[[int], None]) -> bool:
        _append(place, FIRST, advance)
        assert begun.wait(60)
        place.write_bytes(b"other")
        return True

    return download


@pytest.mark.parametrize("going_wrong", [_fails, _removes, _begins_anew])
def test_a_download_that_goes_wrong_is_cut_off(
    tmp_path: Path, pool: ThreadPoolExecutor, going_wrong: Callable[[Path, threading.Event], Download]
) -> None:
    place, begun = tmp_path / "pack", threading.Event()
    arrival = Arrival(pool, place, going_wrong(place, begun), _nobody)
    with arrival.reading() as file:
        assert file.read(len(FIRST)) == FIRST
        begun.set()
        assert file.read() == b""
    if going_wrong is _fails:
        with pytest.raises(DownloadError):
            arrival.result()


def test_whoever_has_read_enough_does_not_wait_for_the_rest(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    place, go_on = tmp_path / "pack", threading.Event()

    def download(advance: Callable[[int], None]) -> bool:
        _append(place, FIRST, advance)
        assert go_on.wait(60)
        return True

    arrival = Arrival(pool, place, download, _nobody)
    with arrival.reading() as file:
        assert file.read(5) == FIRST[:5]
    assert not arrival.ended
    go_on.set()
    assert arrival.result()


def test_nothing_is_read_of_what_does_not_come(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with Arrival(pool, tmp_path / "pack", lambda _: False, _nobody).reading() as file:
        assert file.read() == b""
