"""The agent follows the streams of the old servers and leaves the trees that the old client leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.devices import Device, clone, forget
from tests.conftest import GOLDEN, Golden
from tests.trees import listing


@pytest.fixture(scope="session")
def on_ten(golden_streams: dict[str, Golden], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Device]:
    """Devices on version 10 of each stream, with os-core and editors. Not to be changed."""
    found = {}
    for name, stream in golden_streams.items():
        device = Device(tmp_path_factory.mktemp("on-ten"), f"file://{stream.www}", stream.certificate, stream.format)
        device.ok("os-install", "--version", "10", "-B", "os-core,editors")
        found[name] = device
    return found


@pytest.fixture
def device(golden: Golden, on_ten: dict[str, Device], tmp_path: Path) -> Device:
    return on_ten[golden.name].copy(tmp_path / "mine")


@pytest.fixture
def www(golden: Golden, tmp_path: Path) -> Path:
    """A copy of the stream that may be changed."""
    return clone(golden.www, tmp_path / "www")


def test_an_installation_is_the_tree_of_the_old_client(golden: Golden, device: Device) -> None:
    assert listing(device.root) == golden.expected(10)


def test_an_update_gives_the_tree_of_the_old_client(golden: Golden, device: Device) -> None:
    device.ok("update")
    assert listing(device.root) == golden.expected(20)
    assert "as it was published" in device.ok("diagnose", "--picky").out
    assert "up to date" in device.ok("update").out


def test_a_fresh_installation_is_clean(device: Device) -> None:
    assert device.run("diagnose", "--picky").code == 0


def test_damage_is_found_and_repaired(golden: Golden, device: Device) -> None:
    files = [f for f in (device.root / "usr/bin").iterdir() if f.is_file() and not f.is_symlink()]
    assert len(files) >= 3
    files[0].write_bytes(b"damaged")
    files[1].unlink()
    files[2].chmod(0o600)
    (device.root / "usr/bin/added").write_text("added")
    link = next(f for f in (device.root / "usr").rglob("*") if f.is_symlink())
    link.unlink()
    link.symlink_to("elsewhere")
    found = device.run("diagnose", "--picky")
    assert found.code == 1
    names = [f"/{f.relative_to(device.root)}" for f in (*files[:3], link)]
    for kind, name in zip(("Modified", "Missing", "Modified", "Modified"), names, strict=True):
        assert f"{kind}: {name}\n" in found.out
    assert "Extra: /usr/bin/added\n" in found.out
    assert "5 problems found" in found.out
    device.ok("repair", "--picky")
    assert listing(device.root) == golden.expected(10)
    assert device.run("diagnose", "--picky").code == 0


def test_a_bundle_comes_and_goes(golden: Golden, device: Device) -> None:
    if "docs" in device.ok("bundle-list").out:
        # mixer's editors recommends docs.
        device.ok("bundle-remove", "docs")
    before = listing(device.root)
    device.ok("bundle-add", "docs")
    assert len(listing(device.root)) > len(before)
    assert "docs" in device.ok("bundle-list").out
    assert device.run("diagnose", "--picky").code == 0
    device.ok("bundle-remove", "docs")
    assert listing(device.root) == before


def test_a_bundle_that_another_needs_stays(device: Device) -> None:
    before = device.tree()
    done = device.run("bundle-remove", "libs")
    assert done.code == 2 and "editors" in done.err
    assert device.tree() == before
    device.ok("bundle-remove", "--recursive", "editors")
    assert "libs" not in device.ok("bundle-list").out


def test_an_update_needs_no_packs(golden: Golden, device: Device, www: Path) -> None:
    forget(www, "*/pack-*", "*/Manifest-*-delta-from-*") if list(www.glob("*/Manifest-*-delta-*")) else forget(
        www, "*/pack-*"
    )
    device.follow(www).ok("update")
    assert listing(device.root) == golden.expected(20)


def test_an_update_needs_no_fullfiles(golden: Golden, device: Device, www: Path) -> None:
    forget(www, "*/files")
    device.follow(www).ok("update")
    assert listing(device.root) == golden.expected(20)


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.95])
def test_a_damaged_pack_is_replaced_by_single_files(golden: Golden, device: Device, www: Path, at: float) -> None:
    for pack in www.glob("20/pack-*-from-10.tar"):
        data = bytearray(pack.read_bytes())
        data[int(at * len(data))] ^= 0x20
        pack.write_bytes(data)
    device.follow(www).ok("update")
    assert listing(device.root) == golden.expected(20)


def test_a_truncated_pack_is_replaced_by_single_files(golden: Golden, device: Device, www: Path) -> None:
    for pack in www.glob("20/pack-*-from-10.tar"):
        pack.write_bytes(pack.read_bytes()[: pack.stat().st_size * 2 // 3])
    device.follow(www).ok("update")
    assert listing(device.root) == golden.expected(20)


def test_a_damaged_manifest_delta_is_replaced_by_the_manifest(golden: Golden, device: Device, www: Path) -> None:
    deltas = list(www.glob("20/Manifest-*-delta-from-10"))
    for file in deltas:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0xFF
        file.write_bytes(data)
    device.follow(www).ok("update")
    assert listing(device.root) == golden.expected(20)


def test_the_installed_releases_manifests_come_from_the_cache(golden: Golden, device: Device, tmp_path: Path) -> None:
    hidden = golden.www / "10/Manifest.MoM.tar"
    assert (device.cache / "manifest/10/Manifest.MoM").is_file()
    hidden.rename(tmp_path / "hidden")
    try:
        done = device.ok("update")
    finally:
        (tmp_path / "hidden").rename(hidden)
    assert "cannot be had" not in done.err
    assert listing(device.root) == golden.expected(20)


def test_an_update_works_where_the_installed_release_is_gone(golden: Golden, device: Device, www: Path) -> None:
    forget(www, "10/Manifest.MoM*")
    done = device.follow(www).ok("update")
    assert "every file is compared" in done.err
    lines = listing(device.root)
    assert {line for line in golden.expected(20) if " ./boot" not in line} <= set(lines)


@pytest.mark.parametrize(
    "words",
    [
        ("update",),
        ("bundle-add", "docs"),
        ("bundle-remove", "editors"),
        ("repair", "--picky"),
        ("clean", "--all"),
        ("mirror", "--set", "https://mirror.example"),
    ],
    ids=lambda words: words[0],
)
def test_a_dry_run_writes_nothing(device: Device, words: tuple[str, ...]) -> None:
    (device.root / "usr/bin/added").write_text("added")
    before = device.all()
    times = {f: f.lstat().st_mtime_ns for f in device.base.rglob("*")}
    done = device.ok(*words, "--dry-run")
    assert done.out
    assert device.all() == before
    assert {f: f.lstat().st_mtime_ns for f in device.base.rglob("*")} == times


@pytest.mark.parametrize("words", [("update",), ("bundle-add", "docs"), ("clean", "--all")], ids=lambda w: w[0])
def test_a_dry_run_makes_no_state_folder(device: Device, tmp_path: Path, words: tuple[str, ...]) -> None:
    device.ok(*words, "--dry-run", "--statedir", str(tmp_path / "fresh"))
    assert not (tmp_path / "fresh").exists()


def test_a_dry_run_of_an_installation_makes_no_folder(golden: Golden, tmp_path: Path) -> None:
    device = Device(tmp_path / "none", f"file://{golden.www}", golden.certificate, golden.format)
    done = device.ok("os-install", "--version", "10", "-B", "editors", "--dry-run")
    assert "Files to write: " in done.out
    assert not device.base.exists()


def test_downloads_first_and_changes_later(golden: Golden, device: Device, www: Path) -> None:
    before = device.tree()
    there = device.follow(www)
    there.ok("update", "--download")
    assert device.tree() == before
    forget(www, "20/files", "20/pack-*")
    there.ok("update")
    assert listing(device.root) == golden.expected(20)


def test_a_version_may_be_named(golden: Golden, device: Device) -> None:
    assert device.run("update", "--version", "5").code == 15
    assert "up to date" in device.ok("update", "--version", "10").out
    device.ok("update", "--version", "20")
    assert listing(device.root) == golden.expected(20)


def test_what_there_is_can_be_asked(golden: Golden, device: Device) -> None:
    assert device.run("check-update").code == 0
    listed = device.ok("bundle-list", "--all").out.split()
    assert {"os-core", "editors", "libs", "docs"} <= set(listed)
    assert "libs" in device.ok("bundle-list", "--deps", "editors").out
    assert "editors" in device.ok("bundle-list", "--has-dep", "libs").out
    assert "Bundle docs of version 20" in device.ok("bundle-info", "docs", "--version", "latest", "--files").out
    assert "os-core: /usr/lib/os-release" in device.ok("search-file", "os-release").out
    assert device.run("search-file", "no such file anywhere").code == 1
    assert "Installed version: 10" in device.ok("info").out


def test_hashes_are_those_of_the_manifests(golden: Golden, device: Device) -> None:
    for line in (golden.www / "10/Manifest.os-core").read_text().splitlines():
        fields = line.split("\t")
        if len(fields) == 4 and fields[3] in {"/usr/lib/os-release", "/usr", "/usr/bin"} and fields[0][1] == ".":
            assert device.ok("hashdump", fields[3]).out.strip() == fields[1]


def test_every_golden_stream_was_tried() -> None:
    assert len(GOLDEN) == 3
