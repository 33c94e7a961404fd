"""A real system of some five thousand files in two patch levels: published, served, installed, updated, the same again.

The trees come from Debian's mirrors; where those cannot be reached, the tests say so and are skipped.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from swupd.agent import start
from swupd.server import cli as server
from tests import servers, trees

SCRIPTS = Path(__file__).parents[1] / "scripts"
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Published:
    """Two releases of a real system, served over HTTP by nginx."""

    def __init__(self, base: Path, url: str) -> None:
        self.base, self.url = base, url

    def agent(self, *words: str, tree: str = "device") -> int:
        """Runs the agent on a tree."""
        place = [str(self.base / tree)] if words[0] == "os-install" else ["--path", str(self.base / tree)]
        trust = ["--certpath", str(self.base / "keys/Swupd_Root.pem"), "--url", self.url, "--format", "30"]
        state = ["--statedir", str(self.base / f"state-{tree}")]
        return start.main([words[0], *place, *words[1:], *trust, *state, "--allow-insecure-http", "--no-scripts"])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    corpus = Path(os.environ.get("SWUPD_CORPUS") or tmp_path_factory.mktemp("corpus"))
    if not (corpus / "v20/usr").is_dir():
        made = subprocess.run([SCRIPTS / "make-corpus", corpus], check=False, capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"no trees from Debian's mirrors: {made.stderr.strip()[-300:]}")
    base = tmp_path_factory.mktemp("real")
    images = _load("images")
    assert server.main(["keygen", str(base / "keys")]) == 0
    keys = ["--signing-key", str(base / "keys/release.key"), "--certificate", str(base / "keys/release.pem")]
    with servers.nginx(base / "www") as url:
        for version in (10, 20):
            image = base / f"image{version}"
            lists = images.prepare(corpus / f"v{version}", image, version, url, base / "keys")
            os.setxattr(image / "usr/bin/rsync", "security.capability", CAPABILITY)
            os.setxattr(image / "usr/bin/perl", "user.version", b"%d\0\xff" % version)
            content = [word for name, path in lists.items() for word in ("--content", f"{name}={path}")]
            publish = ["publish", "--www", str(base / "www"), "--version", str(version), "--rootfs", str(image)]
            assert server.main([*publish, *content, *keys, "--previous-versions", "1", "--quiet"]) == 0
        yield Published(base, url)


def _difference(tree: Path, image: Path) -> set[str]:
    """Paths that differ, without the tracking files that publish adds."""
    lines = set(trees.listing(tree)) ^ set(trees.listing(image))
    paths = {line.split(" ")[3] for line in lines}
    return {path for path in paths if not path.startswith("./usr/share/clear/bundles")}


def test_an_installed_tree_is_the_published_one_bit_for_bit(published: Published) -> None:
    assert published.agent("os-install", "--version", "10", "--bundles", "python,sync") == 0
    assert _difference(published.base / "device", published.base / "image10") == set()
    assert published.agent("diagnose", "--picky", "--picky-tree", "/") == 0


def test_an_updated_tree_is_the_new_one_but_for_configuration(published: Published) -> None:
    packs_only = published.base / "www/20/files"
    packs_only.rename(packs_only.with_name("hidden"))
    try:
        assert published.agent("update") == 0
    finally:
        packs_only.with_name("hidden").rename(packs_only)
    different = _difference(published.base / "device", published.base / "image20")
    assert all(path.startswith("./etc/") for path in different), different
    assert os.getxattr(published.base / "device/usr/bin/rsync", "security.capability") == CAPABILITY
    assert published.agent("diagnose", "--picky", "--picky-tree", "/usr") == 0


def test_an_update_by_single_files_gives_the_same_tree(published: Published) -> None:
    assert published.agent("os-install", "--version", "10", "--bundles", "python,sync", tree="second") == 0
    hidden = [
        pack.rename(pack.with_suffix(".hidden")) for pack in (published.base / "www/20").glob("pack-*-from-10.*tar")
    ]
    try:
        assert hidden
        assert published.agent("update", tree="second") == 0
    finally:
        for pack in hidden:
            pack.rename(pack.with_suffix(".tar"))
    assert trees.listing(published.base / "second") == trees.listing(published.base / "device")


def test_lint_finds_nothing_wrong_with_the_stream(published: Published) -> None:
    certificate = str(published.base / "keys/release.pem")
    assert server.main(["lint", "--www", str(published.base / "www"), "--certificate", certificate]) == 0


def test_why_names_the_changed_files(published: Published, capsys: pytest.CaptureFixture[str]) -> None:
    assert server.main(["why", "--www", str(published.base / "www"), "10", "20", "python"]) == 0
    assert "/usr/bin/python3.11" in capsys.readouterr().out
