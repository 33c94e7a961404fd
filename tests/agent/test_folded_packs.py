"""Packs in which a kernel or modules are folded deltas: taken where they can be applied, and done without elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from swupd import folding, payloads
from swupd.agent import confinement
from swupd.agent.arriving import Arrival
from swupd.agent.progress import Unpacking
from swupd.agent.report import Report, Steps
from swupd.folding import Fold
from swupd.payloads import Lz4
from swupd.server import deltas
from swupd.server.xz import Effort
from tests import builders, trees
from tests.agent.devices import Device
from tests.agent.misbehaving import folder, server
from tests.builders import File
from tests.test_folding import MIB, kernel, module, payload

OLD, NEW = 10, 20
MODULES = 40
HTTP = "--allow-insecure-http"


def image(version: int) -> bytes:
    """A kernel; in the new one each address is one higher, so to speak, which changes all of its compressed form."""
    inside = bytearray(payload(5, 5 * MIB))
    inside[::40] = bytes(byte + version & 255 for byte in inside[::40])
    return kernel(bytes(inside))


@pytest.fixture(scope="module")
def www(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("kernels")
    for version in (OLD, NEW):
        files = {"/usr/lib/kernel/image": File(image(version), 0o600), "/usr/bin/tool": f"tool {version}\n" * 100}
        builders.release(base, version, files, {"os-core": builders.REST}, previous_versions=1)
    return base / "www"


@pytest.fixture(scope="module")
def with_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Modules as Linux packs them, in a folder that is named by the release."""
    base = tmp_path_factory.mktemp("modules")
    for version in (OLD, NEW):
        files = {f"/usr/lib/drivers/6.{version}/m{n}.ko.xz": File(driver(version, n)) for n in range(MODULES)}
        builders.release(base, version, files, {"os-core": builders.REST}, previous_versions=1)
    return base / "www"


def driver(version: int, number: int) -> bytes:
    """A module that differs from release to release by its beginning, and so in all of its compressed form."""
    return module(f"vermagic=6.{version} ".encode() + payload(100 + number, 40_000) + b"signature %d" % version)


def update(www: Path, base: Path, *options: str) -> set[str]:
    """Installs the old version and updates; what was asked for by GET since."""
    with server(folder(www)) as told:
        device = Device(base, told.url, None)
        device.ok("os-install", "--version", str(OLD), HTTP)
        told.requests.clear()
        device.ok("update", HTTP, "--verbose", *options)
        asked = {path.lstrip("/") for method, path, _ in told.requests if method == "GET"}
        device.ok("diagnose", HTTP)
        fresh = Device(base / "fresh", told.url, None)
        fresh.base.mkdir()
        fresh.ok("os-install", HTTP)
        assert trees.listing(fresh.root) == device.tree()
    return asked


def packs(asked: set[str]) -> set[str]:
    return {name for name in asked if "/pack-" in name}


def test_the_pack_with_the_folded_delta_is_a_fraction_and_is_taken(www: Path, tmp_path: Path) -> None:
    name = f"20/pack-os-core-from-10.{folding.variant([Lz4().needs])}.tar"
    asked = update(www, tmp_path)
    assert packs(asked) == {name}
    assert not {path for path in asked if "/files/" in path}
    assert (www / name).stat().st_size < (www / "20/pack-os-core-from-10.tar").stat().st_size / 10


def test_a_device_without_the_library_takes_the_plain_pack(
    www: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lz4, "needs", "")
    assert packs(update(www, tmp_path)) == {"20/pack-os-core-from-10.tar"}


def test_a_device_with_another_release_of_the_library_takes_the_plain_pack(
    www: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lz4, "needs", "lz4-0.0.1")
    assert packs(update(www, tmp_path)) == {"20/pack-os-core-from-10.tar"}


def test_a_library_that_folds_to_other_bytes_costs_a_download_and_nothing_else(
    www: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payloads, "_LEVEL", 3)
    asked = update(www, tmp_path)
    assert len([path for path in asked if "/files/" in path]) == 1


def test_modules_are_fetched_unfolded(with_modules: Path, tmp_path: Path) -> None:
    name = "20/pack-os-core-from-10.runs.xz.tar"
    asked = update(with_modules, tmp_path)
    assert packs(asked) == {name}
    assert not {path for path in asked if "/files/" in path}
    plain = with_modules / "20/pack-os-core-from-10.tar"
    assert (with_modules / name).stat().st_size < plain.stat().st_size / 10


@pytest.mark.parametrize("stream", ["www", "with_modules"])
def test_a_device_that_shall_not_compress_takes_the_plain_pack(
    stream: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    asked = update(request.getfixturevalue(stream), tmp_path, "--repack", "no")
    assert packs(asked) == {"20/pack-os-core-from-10.tar"}


def test_an_xz_that_packs_to_other_bytes_costs_downloads_and_is_not_tried_for_each(
    with_modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    folded = folding.folded

    def counted(chunks: Iterable[bytes], fold: Fold) -> Iterator[bytes]:
        tried.append(fold)
        return folded(chunks, fold)

    monkeypatch.setattr(folding, "folded", counted)
    monkeypatch.setattr(payloads, "_PRESET", 1)
    monkeypatch.setattr(confinement, "pretending", lambda: True)
    asked = update(with_modules, tmp_path)
    assert len([path for path in asked if "/files/" in path]) == MODULES
    assert 16 <= len(tried) < MODULES


def test_in_a_hurry_no_modules_are_unfolded(tmp_path: Path) -> None:
    for version in (OLD, NEW):
        files = {"/usr/lib/modules/m.ko.xz": File(driver(version, 1))}
        release = builders.release(
            tmp_path, version, files, {"os-core": builders.REST}, previous_versions=1, effort=Effort.FAST
        )
    assert not [name for name in release.packs if "xz" in name]


@pytest.fixture(scope="module", params=[image, driver], ids=["kernel", "module"])
def for_this_agent(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A stream whose delta packs are for this project's agent alone."""
    base = tmp_path_factory.mktemp("own")
    for version in (OLD, NEW):
        content = request.param(version) if request.param is image else request.param(version, 1)
        files = {"/usr/lib/packed": File(content), "/usr/bin/tool": f"tool {version}\n" * 100}
        builders.release(base, version, files, {"os-core": builders.REST}, previous_versions=1, forms=deltas.OWN_AGENT)
    return base / "www"


def test_packs_for_this_agent_alone_are_taken(for_this_agent: Path, tmp_path: Path) -> None:
    (pack,) = for_this_agent.glob("20/pack-os-core-from-10*.tar")
    assert pack.name.startswith("pack-os-core-from-10.runs.")
    asked = update(for_this_agent, tmp_path)
    assert packs(asked) == {f"20/{pack.name}"}
    assert not {path for path in asked if "/files/" in path}


def test_a_device_that_shall_not_compress_takes_the_rest_of_such_a_pack(for_this_agent: Path, tmp_path: Path) -> None:
    asked = update(for_this_agent, tmp_path, "--repack", "no")
    assert len(packs(asked)) == 1
    assert len([path for path in asked if "/files/" in path]) == 1


def test_a_device_without_the_library_takes_single_files_then(
    for_this_agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if any("lz4" in pack.name for pack in for_this_agent.glob("20/pack-*")):
        monkeypatch.setattr(Lz4, "needs", "lz4-0.0.1")
        assert len([path for path in update(for_this_agent, tmp_path) if "/files/" in path]) == 4


class Telling(Report):
    """Notes steps, and what is told of them."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []
        self.name = ""

    def step(self, number: int, total: int, description: str) -> None:
        self.name = description

    def progress(self, done: int, total: int, unit: str) -> None:
        self.told.append((self.name, done, total))


def test_how_far_the_unpacking_is_once_all_has_arrived() -> None:
    report, missing = Telling(), {"a", "b", "c", "d"}
    coming = [cast(Arrival, SimpleNamespace(ended=ended)) for ended in (False, True)]
    unpacking = Unpacking(Steps(report, ("extract_packs",)), missing, coming)
    missing.discard("a")
    unpacking.tell()
    assert report.told == []
    coming[0] = coming[1]
    for name in "bcd":
        missing.discard(name)
        unpacking.tell()
    assert report.told == [("extract_packs", done, 2) for done in range(3)]


def test_a_person_is_told_that_it_is_unpacked(with_modules: Path, tmp_path: Path) -> None:
    with server(folder(with_modules)) as told:
        device = Device(tmp_path, told.url, None)
        device.ok("os-install", "--version", str(OLD), HTTP)
        done = device.ok("update", HTTP, "--json-output")
    steps = [m["stepCompletion"] for m in json.loads(done.out) if m.get("stepDescription") == "extract_packs"]
    assert steps and steps == sorted(steps)
