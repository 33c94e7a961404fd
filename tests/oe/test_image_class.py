"""The image class on BitBake's own library: parse-time errors, the order of tasks, and the stream that comes out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from swupd.agent import cli
from swupd.server import keys
from tests import builders

pytest.importorskip("bb", reason="BitBake's library (bitbake-setup) is not installed")

HERE = Path(__file__).parent
LAYER = HERE.parents[1]
BASE: builders.Tree = {
    "/usr/bin/sh": "sh",
    "/usr/lib/os-release": "NAME=Test\n",
    "/etc/passwd": "root:x:0:0::/root:/bin/sh\n",
}
PACKAGES: dict[str, tuple[builders.Tree, str]] = {
    "base": (BASE, ""),
    "tool": ({"/usr/bin/tool": "tool 1", "/usr/bin/tool-link": builders.Link("tool")}, "base library"),
    "editor": ({"/usr/bin/editor": "editor", "/usr/share/editor/rc": "rc"}, "base library (>= 1)"),
    "library": ({"/usr/lib/libshared.so.1": "shared"}, ""),
}
Bitbake = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build folder whose local.conf has what must be set."""
    folder = tmp_path / "build"
    (folder / "conf").mkdir(parents=True)
    # Its layer.conf has another name at rest, so that nobody who looks for layers takes it for one.
    stub = shutil.copytree(HERE / "stub", tmp_path / "stub")
    (stub / "conf/layer.conf.in").rename(stub / "conf/layer.conf")
    (folder / "conf/bblayers.conf").write_text(f'BBPATH = "${{TOPDIR}}"\nBBFILES ?= ""\nBBLAYERS = "{stub} {LAYER}"\n')
    for name, (files, needs) in PACKAGES.items():
        builders.make_tree(folder / "packages" / name, files)
        data = folder / "pkgdata/runtime-reverse" / name
        data.parent.mkdir(parents=True, exist_ok=True)
        sizes = json.dumps(dict.fromkeys(files, 1))
        data.write_text(f"PN: {name}\nFILES_INFO:{name}: {sizes}\nRDEPENDS:{name}: {needs}\n")
    configure(folder)
    return folder


def configure(folder: Path, **settings: str) -> None:
    values = {"OS_VERSION": "10", "SWUPD_VERSION_URL": "http://127.0.0.1", "SWUPD_CONTENT_URL": "http://127.0.0.1"}
    values |= settings
    lines = [
        f'{name.replace("__", "[", 1)}{"]" if "__" in name else ""} = "{value}"\n' for name, value in values.items()
    ]
    (folder / "conf/local.conf").write_text("".join(lines))


@pytest.fixture
def bitbake(build: Path) -> Bitbake:
    """Runs tasks in the build folder."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(
            [sys.executable, str(HERE / "bitbake.py"), str(build), *words],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"},
        )

    return run


def test_each_image_has_its_variants(bitbake: Bitbake) -> None:
    done = bitbake()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recipes"] == ["test-image", "test-image-full", "test-image-mega"]


def test_a_recipe_without_settings_is_skipped_and_no_error(bitbake: Bitbake, build: Path) -> None:
    configure(build, OS_VERSION="")
    done = bitbake()
    assert done.returncode == 0, done.stderr
    assert "set OS_VERSION to build it" in json.loads(done.stdout)["skipped"]["test-image"]


WRONG: list[tuple[str, str, str]] = [
    ("OS_VERSION", "ten", "OS_VERSION is 'ten'"),
    ("OS_VERSION", "2147483648", "from 1 to 2147483647"),
    ("SWUPD_FORMAT", "0", "SWUPD_FORMAT is '0'"),
    ("SWUPD_BUNDLES", "tools ../x", "cannot be a name"),
    ("SWUPD_BUNDLES", "tools tools", "names tools twice"),
    ("SWUPD_BUNDLES", "nothing", "Bundle nothing is empty"),
    ("SWUPD_BUNDLES", "os-core", "os-core"),
    ("SWUPD_EMPTY_BUNDLES", "tools", "is in SWUPD_BUNDLES and in SWUPD_EMPTY_BUNDLES"),
    ("SWUPD_IMAGES", "mega", "cannot be called mega"),
    ("SWUPD_IMAGES__full", "nonsense", "SWUPD_IMAGES[full] names nonsense"),
    ("BUNDLE_INCLUDES__tools", "nonsense", "BUNDLE_INCLUDES[tools] names nonsense"),
    ("SWUPD_VERSION_URL", "gopher://x", "SWUPD_VERSION_URL is 'gopher://x'"),
    ("SWUPD_SIGNING_KEY", "/nonexistent", "Set both SWUPD_SIGNING_KEY and SWUPD_SIGNING_CERTIFICATE"),
    ("SWUPD_TRUST_FILE", "relative.pem", "give an absolute path"),
    ("SWUPD_TRUST_FILE", "/nonexistent.pem", "there is no file /nonexistent.pem"),
    ("SWUPD_DELTAPACK_VERSIONS", "10 x", "which is no number"),
]


@pytest.mark.parametrize(("name", "value", "said"), WRONG, ids=[f"{n}={v}" for n, v, _ in WRONG])
def test_a_wrong_setting_is_named_when_parsing(bitbake: Bitbake, build: Path, name: str, value: str, said: str) -> None:
    configure(build, **{name: value})
    done = bitbake()
    assert done.returncode != 0
    assert said in done.stderr


def test_a_build_publishes_and_its_images_come_from_the_stream(bitbake: Bitbake, build: Path, tmp_path: Path) -> None:
    keys.generate(tmp_path / "keys", "test", 3000, builders.NOW)
    signed = {
        "SWUPD_SIGNING_KEY": str(tmp_path / "keys/release.key"),
        "SWUPD_SIGNING_CERTIFICATE": str(tmp_path / "keys/release.pem"),
    }
    configure(build, **signed)
    done = bitbake("test-image", "do_build")
    assert done.returncode == 0, done.stderr
    order = json.loads(done.stdout)["order"]
    steps = ["test-image:do_swupd_list", "test-image-mega:do_swupd_publish", "test-image-full:do_rootfs"]
    assert [step for step in order if step in steps] == steps
    www = build / "tmp/deploy/swupd/qemux86-64/test-image/www"
    tools = (www / "10/Manifest.tools").read_text()
    assert "/usr/bin/tool-link" in tools and "/usr/lib/libshared.so.1" in tools and "/usr/bin/sh\n" not in tools
    assert "/usr/lib/libshared.so.1" in (www / "10/Manifest.edit").read_text()
    assert "/usr/bin/tool" not in (www / "10/Manifest.os-core").read_text()
    full = build / "tmp/work/test-image-full/1.0/rootfs"
    assert (full / "usr/share/editor/rc").read_text() == "rc"
    assert "VERSION_ID=10" in (full / "usr/lib/os-release").read_text()

    core = build / "tmp/work/test-image/1.0/rootfs"
    (build / "packages/tool/usr/bin/tool").write_text("tool 2")
    configure(build, OS_VERSION="20", **signed)
    assert bitbake("test-image", "do_build").returncode == 0
    assert (www / "20/pack-tools-from-10.tar").is_file()
    assert not (www / "20/Manifest.edit").exists()
    words = [
        "-u",
        f"file://{www}",
        "-S",
        str(tmp_path / "state"),
        "--no-scripts",
        "-C",
        str(tmp_path / "keys/release.pem"),
    ]
    device = tmp_path / "device"
    assert cli.main(["os-install", str(device), "-V", "10", "-B", "tools", "-F", "30", *words]) == 0
    assert cli.main(["update", "-p", str(device), *words]) == 0
    assert (device / "usr/bin/tool").read_text() == "tool 2"
    assert cli.main(["diagnose", "--picky", "--picky-tree", "/", "-p", str(device), *words]) == 0
    assert (core / "usr/share/clear/bundles/os-core").is_file()


def test_the_same_version_can_be_built_again(bitbake: Bitbake, build: Path) -> None:
    assert bitbake("test-image", "do_build").returncode == 0
    (build / "packages/tool/usr/bin/tool").write_text("tool again")
    done = bitbake("test-image", "do_build")
    assert done.returncode == 0, done.stderr
    www = build / "tmp/deploy/swupd/qemux86-64/test-image/www"
    assert (www / "version/format30/latest").read_text().strip() == "10"


def test_a_bundle_that_lacks_something_fails_the_build_where_that_is_an_error(bitbake: Bitbake, build: Path) -> None:
    script = build / "packages/tool/usr/bin/tool"
    script.write_text("#!/usr/bin/perl\n")
    script.chmod(0o755)
    assert bitbake("test-image-mega", "do_swupd_publish").returncode == 0
    log = build / "tmp/work/test-image-mega/1.0/temp/log.do_swupd_publish"
    assert "bundle tools: /usr/bin/tool needs the interpreter /usr/bin/perl" in log.read_text()
    configure(build, ERROR_QA="swupd-closure", WARN_QA="")
    assert bitbake("test-image-mega", "do_swupd_publish").returncode != 0


def test_a_package_without_data_has_no_files(bitbake: Bitbake, build: Path) -> None:
    (build / "pkgdata/runtime-reverse/tool").unlink()
    assert bitbake("test-image-mega", "do_swupd_publish").returncode == 0
    www = build / "tmp/deploy/swupd/qemux86-64/test-image/www"
    assert "/usr/bin/tool\n" in (www / "10/Manifest.os-core").read_text()
