"""Devices that are further behind than the packs that are published for the newest release."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from swupd.agent import routes
from swupd.agent.plan import Pack
from swupd.agent.report import size
from swupd.agent.routes import Hop
from swupd.tree import Root
from tests import builders, trees
from tests.agent.devices import Device
from tests.agent.misbehaving import folder, server

HTTP = "--allow-insecure-http"
VERSIONS = (10, 20, 30, 40)


def ways(sizes: Mapping[tuple[int, int], int], affordable: int = 10**6, stops: tuple[int, ...] = (20, 30)) -> list[int]:
    """The versions that a device at 10 passes on its way to 40; sizes: of packs, by (to, from)."""

    def look(pack: Pack) -> Hop:
        return Hop(pack, "", sizes.get((pack.to_version, pack.from_version)))

    (route,) = routes.found([Pack("a", 40, 10)], lambda *_: stops, look, affordable)
    return [hop.pack.to_version for hop in route]


def test_a_pack_that_is_there_is_the_way() -> None:
    assert ways({(40, 10): 1, (20, 10): 1, (40, 20): 1}) == [40]


def test_otherwise_the_longest_packs_are() -> None:
    assert ways({(20, 10): 1, (30, 20): 1, (40, 30): 1}) == [20, 30, 40]
    assert ways({(20, 10): 1, (30, 10): 1, (40, 30): 1}) == [30, 40]
    assert ways({(20, 10): 1, (40, 20): 1, (30, 20): 1}) == [20, 40]


def test_a_way_that_ends_before_is_none() -> None:
    assert ways({(20, 10): 1, (30, 20): 1}) == [40]
    assert ways({(30, 20): 1, (40, 30): 1}) == [40]


def test_a_way_that_takes_more_bytes_than_single_files_is_none() -> None:
    assert ways({(20, 10): 60, (40, 20): 40}, affordable=100) == [20, 40]
    assert ways({(20, 10): 60, (40, 20): 40}, affordable=99) == [40]


def test_a_way_has_an_end() -> None:
    stops = tuple(range(11, 40))
    assert ways({(n + 1, n): 1 for n in range(10, 40)}, stops=stops) == [40]


def test_a_whole_bundle_needs_no_way() -> None:
    pack = Pack("a", 40, 0)
    (route,) = routes.found([pack], lambda *_: pytest.fail("asked"), lambda p: Hop(p, "", None), 100)
    assert [hop.pack for hop in route] == [pack]


@pytest.fixture(scope="module")
def www(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four releases, each with packs from the one before only."""
    base = tmp_path_factory.mktemp("far")
    noise = random.Random(1).randbytes(40_000)
    for version in VERSIONS:
        files: dict[str, builders.Spec] = {
            "/usr/bin/always": noise + b"changed in %d" % version,
            "/usr/bin/once": noise[::-1] + (b"changed" if version >= 20 else b""),
            "/usr/bin/twice": noise[7:] + (b"a" if version >= 20 else b"") + (b"b" if version >= 40 else b""),
            f"/usr/share/of-{version}": "x" * version,
            "/usr/share/kind": builders.Link("a") if version == 20 else builders.Folder() if version == 30 else "file",
        }
        content = {"os-core": builders.REST, "more": ("/usr/bin/twice",)}
        builders.release(base, version, files, content, previous_versions=1, allow_folder_replacement=True)
    return base / "www"


def _pack(www: Path, bundle: str, version: int, before: int) -> str:
    """The name of the pack that devices take."""
    in_runs = f"{version}/pack-{bundle}-from-{before}.runs.tar"
    return in_runs if (www / in_runs).exists() else f"{version}/pack-{bundle}-from-{before}.tar"


def test_a_device_that_is_far_behind_goes_there_pack_by_pack(www: Path, tmp_path: Path) -> None:
    with server(folder(www)) as told:
        device = Device(tmp_path, told.url, None)
        device.ok("os-install", "--version", "10", "--bundles", "os-core,more", HTTP)
        told.requests.clear()
        device.ok("update", HTTP)
        asked = [path.lstrip("/") for method, path, _ in told.requests if method == "GET"]
        fresh = Device(tmp_path / "fresh", told.url, None)
        fresh.base.mkdir()
        fresh.ok("os-install", "--bundles", "os-core,more", HTTP)
        assert trees.listing(fresh.root) == device.tree()
    packs = [path for path in asked if "/pack-os-core" in path]
    assert packs == [_pack(www, "os-core", version, version - 10) for version in (20, 30, 40)]
    assert [path for path in asked if "/pack-more" in path] == [
        _pack(www, "more", 20, 10),
        _pack(www, "more", 40, 20),
    ]
    assert not [path for path in asked if "/files/" in path]
    assert sum((www / path).stat().st_size for path in asked if (www / path).exists()) < 40_000


def test_a_pack_on_the_way_that_is_damaged_costs_single_files(www: Path, tmp_path: Path) -> None:
    copy = tmp_path / "www"
    shutil.copytree(www, copy)
    broken = copy / _pack(www, "os-core", 30, 20)
    broken.write_bytes(broken.read_bytes()[:100])
    with server(folder(copy)) as told:
        device = Device(tmp_path, told.url, None)
        device.ok("os-install", "--version", "10", HTTP)
        device.ok("update", HTTP)
        device.ok("diagnose", "--picky", HTTP)
        assert [path for _, path, _ in told.requests if "/40/files/" in path]


def test_a_dry_run_counts_all_packs_of_the_way(www: Path, tmp_path: Path) -> None:
    with server(folder(www)) as told:
        device = Device(tmp_path, told.url, None)
        device.ok("os-install", "--version", "10", HTTP)
        done = device.ok("update", "--dry-run", HTTP)
    hops = [_pack(www, "os-core", version, version - 10) for version in (20, 30, 40)]
    assert f"To download: {size(sum((www / hop).stat().st_size for hop in hops))}" in done.out


@pytest.mark.parametrize("delta", [True, False])
def test_a_file_that_is_there_already_though_another_should_be_is_not_fetched(tmp_path: Path, delta: bool) -> None:
    noise = random.Random(2).randbytes(40_000)
    for version, end in ((10, b""), (20, b"new")):
        tree: builders.Tree = {"/usr/bin/tool": noise + end, "/usr/bin/other": noise[::-1] + end}
        builders.release(tmp_path, version, tree, {"os-core": builders.REST}, previous_versions=1)
    if not delta:
        for pack in (tmp_path / "www/20").glob("pack-*"):
            pack.unlink()
    with server(folder(tmp_path / "www")) as told:
        device = Device(tmp_path / "device", told.url, None)
        device.base.mkdir()
        device.ok("os-install", "--version", "10", HTTP)
        tool = device.root / "usr/bin/tool"
        tool.write_bytes(noise + b"new")
        with Root(device.root) as root:
            name = f"/20/files/{builders.digest_at(root, '/usr/bin/tool')}.tar"
        told.requests.clear()
        device.ok("update", HTTP)
        asked = [path for method, path, _ in told.requests if method == "GET"]
        device.ok("diagnose", HTTP)
    assert name not in asked
    assert bool([path for path in asked if "/files/" in path]) is not delta
