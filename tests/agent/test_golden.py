"""The agent follows streams of the old servers, and leaves the very trees that swupd-client 7.0.0 leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from swupd.agent import cli
from tests import trees
from tests.conftest import Golden

Agent = Callable[..., int]


@pytest.fixture
def stream(golden: Golden, tmp_path: Path) -> Golden:
    """A stream of this test's own."""
    www = tmp_path / "copy/www"
    shutil.copytree(golden.www, www, symlinks=True)
    for version in (10, 20):
        shutil.copy(golden.www.with_name(f"expected-device-v{version}.txt"), www.parent)
    return Golden(golden.name, www, golden.format, golden.certificate)


@pytest.fixture
def agent(stream: Golden, tmp_path: Path) -> Agent:
    """Runs a command on tmp_path/device."""

    def run(command: str, *words: str) -> int:
        device = str(tmp_path / "device")
        place = [device] if command == "os-install" else ["--path", device]
        trust = ["-C", str(stream.certificate)] if stream.certificate else ["--nosigcheck"]
        where = ["--url", f"file://{stream.www}", "--format", stream.format, "--statedir", str(tmp_path / "state")]
        return cli.main([command, *place, *words, *trust, *where, "--no-scripts", "--no-progress"])

    return run


def listing(tree: Path) -> list[str]:
    """A tree in the form of the golden listings: links as `-> target`, files by SHA-256."""
    return trees.listing(tree)


def expected(stream: Golden, version: int) -> list[str]:
    return sorted(line.rstrip() for line in stream.expected(version))


@pytest.fixture
def installed(agent: Agent, stream: Golden, tmp_path: Path) -> Path:
    """A device at version 10 with the bundle editors."""
    assert agent("os-install", "--version", "10", "--bundles", "os-core,editors") == 0
    return tmp_path / "device"


def test_install_and_update_leave_the_trees_of_the_old_client(agent: Agent, stream: Golden, installed: Path) -> None:
    assert listing(installed) == expected(stream, 10)
    assert agent("diagnose", "--picky") == 0
    assert agent("update") == 0
    assert listing(installed) == expected(stream, 20)
    assert agent("diagnose", "--picky") == 0
    assert agent("update") == 0


def test_damaged_deleted_and_added_files_are_found_and_repaired(
    agent: Agent, stream: Golden, installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (installed / "usr/bin/bigtool").write_bytes(b"damaged")
    (installed / "usr/lib/libcore.so").unlink()
    (installed / "usr/share/extra/deep").mkdir(parents=True)
    (installed / "usr/share/extra/deep/file").write_text("extra")
    capsys.readouterr()
    assert agent("diagnose", "--picky") == 1
    found = capsys.readouterr().out
    assert "Missing: /usr/lib/libcore.so" in found
    assert "Modified: /usr/bin/bigtool" in found
    assert "Extra: /usr/share/extra/deep/file" in found
    assert agent("repair", "--picky") == 0
    assert listing(installed) == expected(stream, 10)


@pytest.mark.parametrize("gone", ["pack-*-from-*.tar", "files", "Manifest-*-delta-*"])
def test_an_update_does_without_packs_fullfiles_or_manifest_deltas(
    agent: Agent, stream: Golden, installed: Path, gone: str
) -> None:
    for path in (stream.www / "20").glob(gone):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    assert agent("update") == 0
    assert listing(installed) == expected(stream, 20)


def test_a_damaged_pack_is_made_up_for_by_single_files(agent: Agent, stream: Golden, installed: Path) -> None:
    for pack in (stream.www / "20").glob("pack-*-from-10.tar"):
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 0x55
        pack.write_bytes(data)
    assert agent("update") == 0
    assert listing(installed) == expected(stream, 20)


def test_a_bundle_is_added_and_removed(agent: Agent, stream: Golden, installed: Path) -> None:
    assert agent("bundle-remove", "editors") == 0
    assert not (installed / "usr/bin/edtool").exists()
    assert agent("diagnose", "--picky") == 0
    assert agent("bundle-add", "editors") == 0
    assert listing(installed) == expected(stream, 10)


def test_a_bundle_that_another_needs_is_not_removed(agent: Agent, installed: Path) -> None:
    assert agent("bundle-remove", "libs") == 2
    assert agent("bundle-remove", "libs", "--force") == 0
    assert not (installed / "usr/bin/edtool").exists()


@pytest.mark.parametrize("command", ["update", "bundle-add docs", "bundle-remove editors", "repair --picky"])
def test_a_dry_run_writes_nothing(agent: Agent, installed: Path, tmp_path: Path, command: str) -> None:
    (installed / "usr/bin/bigtool").write_bytes(b"damaged")
    before = everything(tmp_path)
    assert agent(*command.split(), "--dry-run") == 0
    assert everything(tmp_path) == before


def everything(folder: Path) -> list[tuple[str, int, int]]:
    """All paths with size and time of change, the state folder included."""
    return sorted((str(p), p.lstat().st_size, p.lstat().st_mtime_ns) for p in folder.rglob("*"))


def test_an_update_works_when_the_installed_release_is_gone_from_the_server(
    agent: Agent, stream: Golden, installed: Path, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "state/cache")
    (stream.www / "10/Manifest.MoM.tar").unlink()
    assert agent("update") == 0
    # Files that version 20 deleted are known from its manifests alone.
    assert listing(installed) == expected(stream, 20)


def test_what_was_downloaded_is_not_fetched_again(
    agent: Agent, stream: Golden, installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert agent("update", "--download") == 0
    assert listing(installed) == expected(stream, 10)
    for place in ("20/files", "10/files"):
        shutil.rmtree(stream.www / place)
    for pack in stream.www.glob("20/pack-*"):
        pack.unlink()
    assert agent("update") == 0
    assert listing(installed) == expected(stream, 20)
