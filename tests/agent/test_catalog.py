"""Manifests that are read all at a time."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from swupd.agent import survey
from tests.agent.devices import Device
from tests.agent.misbehaving import Answer, Handler, folder, server

INSTALL = ("--version", "10", "--bundles", "os-core,editors", "--allow-insecure-http")


def together(www: Path, *names: str) -> Answer:
    """The files of a folder; some of them only once all of those are asked for."""
    all_there = threading.Barrier(len(names))
    plain = folder(www)

    def answer(request: Handler) -> None:
        if request.path in names:
            try:
                all_there.wait(20)
            except threading.BrokenBarrierError:
                request.send(500)
                return
        plain(request)

    return answer


def fresh(device: Device, url: str, base: Path) -> Device:
    """A device that has nothing yet."""
    return Device(base, url, device.certificate)


def asked(requests: Iterable[tuple[str, str, str | None]]) -> list[str]:
    return [path for _, path, _ in requests if "Manifest" in path and "MoM" not in path]


def test_the_manifests_of_several_bundles_are_read_at_a_time(device: Device, www: Path, tmp_path: Path) -> None:
    names = ("/10/Manifest.os-core.tar", "/10/Manifest.editors.tar")
    with server(together(www, *names)) as told:
        installed = fresh(device, told.url, tmp_path / "fresh")
        installed.ok("os-install", *INSTALL)
    assert sorted(asked(told.requests)) == sorted((*names, "/10/Manifest.libs.tar"))
    assert installed.tree() == device.tree()


def test_an_update_reads_both_releases_at_a_time_and_takes_the_delta(device: Device, www: Path) -> None:
    old = ("/10/Manifest.os-core.tar", "/10/Manifest.editors.tar", "/10/Manifest.libs.tar")
    with server(together(www, *old[:2])) as told:
        device.url = told.url
        device.ok("update", "--allow-insecure-http")
    found = asked(told.requests)
    assert sorted(path for path in found if path.startswith("/10/")) == sorted(old)
    # What is not kept yet serves all the same.
    assert "/20/Manifest-os-core-delta-from-10" in found and "/20/Manifest.os-core.tar" not in found


@pytest.mark.parametrize("kept", [True, False])
def test_a_manifest_delta_that_makes_something_else_is_made_up_for(device: Device, www: Path, kept: bool) -> None:
    cache = device.cache
    other = next(www.glob("20/Manifest-editors-delta-from-*"))
    shutil.copyfile(other, www / "20/Manifest-os-core-delta-from-10")
    with server(folder(www)) as told:
        device.url = told.url
        if kept:
            cache.rename(device.cache)
        device.ok("update", "--allow-insecure-http")
    found = asked(told.requests)
    assert found.count("/20/Manifest-os-core-delta-from-10") == found.count("/20/Manifest.os-core.tar") == 1


def test_one_that_is_damaged_is_told_as_ever(device: Device, www: Path) -> None:
    before = device.tree()
    (www / "20/Manifest-os-core-delta-from-10").unlink()
    (www / "20/Manifest.os-core.tar").write_bytes(b"nonsense")
    done = device.follow(www).run("update")
    assert done.code != 0 and "the manifest of bundle os-core is damaged" in done.err
    assert device.tree() == before


def test_no_thread_is_left_when_the_tree_is_looked_at(
    device: Device, www: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(device.cache)
    threads: list[list[str]] = []
    plain = survey.observe

    def observe(*words: object) -> object:
        threads.append([thread.name for thread in threading.enumerate() if "ThreadPool" in thread.name])
        return plain(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(survey, "observe", observe)
    device.follow(www).ok("update")
    assert threads == [[]]
