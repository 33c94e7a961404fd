"""Downloads are read while they arrive."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swupd.agent.arriving import Arrival
from swupd.errors import DownloadError
from tests import builders
from tests.agent.devices import Device
from tests.agent.misbehaving import Answer, Handler, folder, server

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


PAUSE = 30.0


def _published(base: Path) -> tuple[Path, dict[str, bytes]]:
    """A stream whose zero pack holds four large files behind some small ones; its folder, and the files."""
    chance = random.Random(8)
    files = {f"/usr/lib/large{n}": chance.randbytes(1_500_000) for n in range(4)}
    files |= {f"/usr/lib/small{n}": chance.randbytes(100) for n in range(20)}
    builders.release(base, 10, files, {"os-core": builders.REST})
    return base / "www", files


def _halves(www: Path, waiting: Callable[[], bool], waited: list[bool]) -> Answer:
    """A server that sends the second half of a pack when something has happened, or after a while."""

    def answer(request: Handler) -> None:
        if "/pack-" not in request.path or request.command == "HEAD":
            folder(www)(request)
            return
        body = (www / request.path.lstrip("/")).read_bytes()
        half = len(body) // 2
        request.send(200, body[:half], len(body))
        end = time.monotonic() + PAUSE
        while not (happened := waiting()) and time.monotonic() < end:
            time.sleep(0.01)
        waited.append(happened)
        request.wfile.write(body[half:])

    return answer


def test_an_update_stages_what_the_first_half_of_a_pack_holds_before_the_second_half_comes(tmp_path: Path) -> None:
    www, _ = _published(tmp_path / "stream")
    staged, waited = tmp_path / "state", list[bool]()

    def some_staged() -> bool:
        # No deeper: folders below it are renamed while this looks.
        return any(p.stat().st_size == 1_500_000 for p in staged.glob("cache/*/staged/*") if len(p.name) == 64)

    with server(_halves(www, some_staged, waited)) as told:
        device = Device(tmp_path, told.url, None)
        device.ok("os-install", "--allow-insecure-http")
        assert waited == [True]
        device.ok("diagnose", "--allow-insecure-http")
        gets = [
            path for method, path, _ in told.requests if method == "GET" and ("/pack-" in path or "/files/" in path)
        ]
    assert len(gets) == 1 and "/pack-os-core-from-0" in gets[0]


def test_a_pack_that_goes_bad_halfway_costs_no_more_than_what_was_not_staged(tmp_path: Path) -> None:
    www, files = _published(tmp_path / "stream")
    pack = www / "10/pack-os-core-from-0.tar"
    whole = pack.read_bytes()
    pack.write_bytes(whole[: len(whole) * 3 // 4] + bytes(len(whole) - len(whole) * 3 // 4))
    with server(folder(www)) as told:
        device = Device(tmp_path, told.url, None)
        done = device.ok("os-install", "--allow-insecure-http")
        fetched = [path for method, path, _ in told.requests if method == "GET" and "/files/" in path]
    assert "cannot be used" in done.out + done.err
    large = [path for path in fetched if (www / path.lstrip("/")).stat().st_size > 1_000_000]
    assert 1 <= len(large) <= 2
    assert all((device.root / path[1:]).read_bytes() == content for path, content in files.items())
