"""What a build fetches at its start: enough to publish with, nothing that is believed unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from swupd.server import cli
from tests import builders, servers
from tests.server.test_withdraw import snapshot


def release(base: Path, version: int) -> None:
    files: builders.Tree = {"/usr/bin/a": f"content {version} " * 2000, "/usr/bin/same": "same" * 99999}
    builders.release(base, version, files, {"os-core": builders.REST})


def publish(base: Path, www: str, *words: str) -> int:
    (base / "content").write_text("/usr/bin/a\n/usr/bin/same\n/usr/lib/os-release\n")
    files: builders.Tree = builders.os_tree(30, {"/usr/bin/a": "content 30 " * 2000, "/usr/bin/same": "same" * 99999})
    if not (base / "root").exists():
        builders.make_tree(base / "root", files)
    command = ["publish", "--www", f"{base}/{www}", "--version", "30", "--rootfs", f"{base}/root", "--quiet"]
    return cli.main([*command, "--content", f"os-core={base}/content", *words])


def test_publishing_from_what_was_fetched_is_publishing_with_everything(tmp_path: Path) -> None:
    release(tmp_path, 10)
    release(tmp_path, 20)
    with servers.nginx(tmp_path / "www") as url:
        words = ["--output", f"{tmp_path}/copy", "--previous-versions", "2"]
        assert cli.main(["fetch", "--url", url, *words]) == 0
    fetched = f"file://{tmp_path}/copy"
    assert publish(tmp_path, "elsewhere", "--previous-url", fetched, "--previous-versions", "2") == 0
    assert publish(tmp_path, "www", "--previous-versions", "2") == 0
    assert (tmp_path / "www/30/pack-os-core-from-10.tar").is_file()
    assert snapshot(tmp_path / "www/30") == snapshot(tmp_path / "elsewhere/30")


def test_a_stream_without_releases_gives_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "www").mkdir()
    with servers.nginx(tmp_path / "www") as url:
        assert cli.main(["fetch", "--url", url, "--output", f"{tmp_path}/copy"]) == 0
    assert "There is no release" in capsys.readouterr().out


def test_what_points_to_releases_is_fetched_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release(tmp_path, 10)
    words = ["fetch", "--url", f"file://{tmp_path}/www", "--output", f"{tmp_path}/copy"]
    assert cli.main(words) == 0
    release(tmp_path, 20)
    assert cli.main(words) == 0
    assert "Fetched 20" in capsys.readouterr().out


def test_a_page_instead_of_a_stream_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "www/version/format30/latest"
    page.parent.mkdir(parents=True)
    page.write_text("<html>Welcome</html>")
    assert cli.main(["fetch", "--url", f"file://{tmp_path}/www", "--output", f"{tmp_path}/copy"]) == 38
    assert "does not hold a version" in capsys.readouterr().err


def test_a_damaged_copy_is_not_believed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release(tmp_path, 10)
    assert cli.main(["fetch", "--url", f"file://{tmp_path}/www", "--output", f"{tmp_path}/copy"]) == 0
    damaged = tmp_path / "copy/10/Manifest.os-core"
    damaged.write_bytes(damaged.read_bytes().replace(b"/usr/bin/same", b"/usr/bin/other"))
    assert publish(tmp_path, "elsewhere", "--previous-url", f"file://{tmp_path}/copy") != 0
    assert "is not what its MoM promises" in capsys.readouterr().err


def test_a_release_that_was_built_on_a_fetched_one_can_be_withdrawn(tmp_path: Path) -> None:
    release(tmp_path, 10)
    release(tmp_path, 20)
    fetched = f"file://{tmp_path}/www"
    assert publish(tmp_path, "elsewhere", "--previous-url", fetched) == 0
    before = snapshot(tmp_path / "elsewhere")
    assert cli.main(["withdraw", "--www", f"{tmp_path}/elsewhere", "--version", "30"]) == 0
    assert publish(tmp_path, "elsewhere", "--previous-url", fetched) == 0
    assert snapshot(tmp_path / "elsewhere") == before


def test_what_was_pruned_of_a_release_before_is_passed_over(tmp_path: Path) -> None:
    for version in (10, 20):
        release(tmp_path, version)
    for name in ("Manifest.os-core", "Manifest.os-core.tar"):
        (tmp_path / "www/10" / name).unlink()
    words = ["fetch", "--url", f"file://{tmp_path}/www", "--output", f"{tmp_path}/copy"]
    assert cli.main([*words, "--previous-versions", "2"]) == 0
    assert publish(tmp_path, "elsewhere", "--previous-url", f"file://{tmp_path}/copy", "--previous-versions", "2") == 0
    assert [p.name for p in (tmp_path / "elsewhere/30").glob("pack-os-core-from-[12]0.tar")] == [
        "pack-os-core-from-20.tar"
    ]
    assert cli.main([*words, "--delta-from", "10"]) != 0
