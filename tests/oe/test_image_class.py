"""The image class on BitBake's own library: parse-time errors, the order of tasks, and the stream that comes out."""

from __future__ import annotations

import datetime
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
from tests import builders, servers

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
    use_layer(folder, LAYER)
    for name, (files, needs) in PACKAGES.items():
        builders.make_tree(folder / "packages" / name, files)
        data = folder / "pkgdata/runtime-reverse" / name
        data.parent.mkdir(parents=True, exist_ok=True)
        sizes = json.dumps(dict.fromkeys(files, 1))
        data.write_text(f"PN: {name}\nFILES_INFO:{name}: {sizes}\nRDEPENDS:{name}: {needs}\n")
    configure(folder)
    return folder


def use_layer(folder: Path, layer: Path) -> None:
    layers = f"{folder.parent}/stub {layer}"
    (folder / "conf/bblayers.conf").write_text(f'BBPATH = "${{TOPDIR}}"\nBBFILES ?= ""\nBBLAYERS = "{layers}"\n')


def configure(folder: Path, **settings: str) -> None:
    values = {"OS_VERSION": "10", "SWUPD_VERSION_URL": "http://127.0.0.1", "SWUPD_CONTENT_URL": "http://127.0.0.1"}
    values |= {"SWUPD_FETCH_PREVIOUS": "0"} | settings
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
    images = ["test-image", "test-image-full", "test-image-mega"]
    assert [name for name in json.loads(done.stdout)["recipes"] if "image" in name] == images


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
    ("SWUPD_HEAD_DAYS", "soon", "SWUPD_HEAD_DAYS is 'soon'"),
    ("SWUPD_HEAD_KEY", "/dev/null", "SWUPD_ROOT is not"),
    ("SWUPD_ROOT", "/dev/null", "set SWUPD_HEAD_KEY as well"),
    ("SWUPD_PRODUCT", "x" * 201, "SWUPD_PRODUCT is"),
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


def test_a_build_with_a_root_of_trust_makes_a_stream_that_its_devices_follow(
    bitbake: Bitbake, build: Path, tmp_path: Path
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    keys.generate(tmp_path / "keys", "test", 3000, now)
    names = {"SIGNING_KEY": "release.key", "SIGNING_CERTIFICATE": "release.pem", "MANIFEST_KEY": "manifest.key"}
    names |= {"MANIFEST_CERTIFICATE": "manifest.pem", "ROOT": "1.root", "HEAD_KEY": "head.key"}
    settings = {f"SWUPD_{name}": str(tmp_path / "keys" / file) for name, file in names.items()}
    configure(build, **settings, SWUPD_PRODUCT="board/image")
    done = bitbake("test-image", "do_build")
    assert done.returncode == 0, done.stderr
    www = build / "tmp/deploy/swupd/qemux86-64/test-image/www"
    assert (www / "root/1.root").read_bytes() == (tmp_path / "keys/1.root").read_bytes()
    assert b'"product": "board/image"' in (www / "version/format30/head").read_bytes()
    usual = ["-u", f"file://{www}", "-S", str(tmp_path / "state"), "--no-scripts", "--no-progress"]
    words = ["--root-file", str(www / "root/1.root"), "--product", "board/image", "-F", "30"]
    assert cli.main(["os-install", str(tmp_path / "device"), *usual, *words]) == 0
    defaults = tmp_path / "device/usr/share/defaults/swupd"
    assert (defaults / "root").read_bytes() == (www / "root/1.root").read_bytes()
    assert (defaults / "product").read_text() == "board/image\n"
    configure(build, **settings, SWUPD_PRODUCT="board/image", OS_VERSION="20")
    assert bitbake("test-image", "do_build").returncode == 0
    assert cli.main(["update", "-p", str(tmp_path / "device"), *usual]) == 0
    assert "VERSION_ID=20" in (tmp_path / "device/usr/lib/os-release").read_text()


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


WWW = "tmp/deploy/swupd/qemux86-64/test-image/www"


def hashes(bitbake: Bitbake) -> dict[str, str]:
    done = bitbake()
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)["hashes"]
    return found


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Which tasks would run again; those that always run aside."""
    always = ":do_swupd_ensure", ":do_build"
    return {task for task in before.keys() | after.keys() if before.get(task) != after.get(task)} - {
        f"{image}{task}" for image in ("test-image", "test-image-mega", "test-image-full") for task in always
    }


AFTER_PUBLISH = {
    "test-image-mega:do_swupd_publish",
    *(f"test-image-full:{task}" for task in ("do_rootfs", "do_image")),
}
MEGA = {f"test-image-mega:{task}" for task in ("do_rootfs", "do_image")}


@pytest.fixture
def layer(build: Path, tmp_path: Path) -> Path:
    """A copy of the layer in which files may be changed."""
    copy = tmp_path / "layer"
    for name in ("classes", "conf", "recipes-core", "lib/swupd"):
        shutil.copytree(LAYER / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(LAYER / "LICENSE", copy)
    use_layer(build, copy)
    return copy


def test_nothing_runs_again_when_nothing_changed(bitbake: Bitbake) -> None:
    assert changed(hashes(bitbake), hashes(bitbake)) == set()


def test_a_changed_key_publishes_again_and_runs_nothing_else(bitbake: Bitbake, build: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("key", "pem", "root")}
    for file in files.values():
        file.write_text("1")
    variables = ("SWUPD_SIGNING_KEY", "SWUPD_SIGNING_CERTIFICATE", "SWUPD_TRUST_FILE")
    configure(build, **dict(zip(variables, map(str, files.values()), strict=True)))
    before = hashes(bitbake)
    files["key"].write_text("2")
    assert changed(before, hashes(bitbake)) == AFTER_PUBLISH
    before = hashes(bitbake)
    files["root"].write_text("2")
    again = changed(before, hashes(bitbake))
    assert {"test-image:do_rootfs", "test-image-mega:do_rootfs"} <= again


def test_a_changed_library_file_publishes_again_but_installs_no_packages_again(bitbake: Bitbake, layer: Path) -> None:
    before = hashes(bitbake)
    with (layer / "lib/swupd/server/packs.py").open("a") as file:
        file.write("# changed\n")
    again = changed(before, hashes(bitbake))
    assert {"test-image:do_swupd_list", *AFTER_PUBLISH} <= again
    assert "test-image:do_rootfs" not in again and "test-image-mega:do_rootfs" not in again
    (layer / "lib/swupd/__pycache__").mkdir()
    (layer / "lib/swupd/__pycache__/x.pyc").write_text("x")
    assert changed(before, hashes(bitbake)) == again


@pytest.mark.parametrize(
    ("settings", "again"),
    [
        ({"BUNDLE_INCLUDES__tools": "edit"}, AFTER_PUBLISH),
        ({"SWUPD_PREVIOUS_VERSIONS": "3"}, AFTER_PUBLISH | {"test-image-mega:do_fetch"}),
        ({"SWUPD_DELTAPACK_VERSIONS": "1 2"}, AFTER_PUBLISH | {"test-image-mega:do_fetch"}),
        ({"SWUPD_SERVER_ARGS": "--no-xattrs"}, AFTER_PUBLISH),
        ({"SWUPD_IMAGES__full": "tools"}, AFTER_PUBLISH - {"test-image-mega:do_swupd_publish"}),
        ({"BUNDLE_CONTENTS__tools": "tool"}, AFTER_PUBLISH | MEGA),
        ({"BUNDLE_FEATURES__tools": "x"}, AFTER_PUBLISH | MEGA),
        ({"SWUPD_EMPTY_BUNDLES": "later much-later"}, AFTER_PUBLISH),
        ({"DEPLOY_DIR_SWUPD": "/elsewhere"}, AFTER_PUBLISH | {"test-image-mega:do_fetch"}),
        ({"SWUPD_NEVER_SHIPPED": "/usr/x"}, AFTER_PUBLISH),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else "",
)
def test_a_setting_runs_what_it_concerns(
    bitbake: Bitbake, build: Path, settings: dict[str, str], again: set[str]
) -> None:
    before = hashes(bitbake)
    configure(build, **settings)
    assert changed(before, hashes(bitbake)) == again


def test_without_generating_nothing_is_published(bitbake: Bitbake, build: Path) -> None:
    configure(build, SWUPD_GENERATE="0")
    assert bitbake("test-image", "do_build").returncode == 0
    assert not (build / WWW).exists()
    assert (build / "tmp/work/test-image/1.0/rootfs/usr/bin/sh").is_file()


def test_progress_goes_to_the_bars_of_the_build(bitbake: Bitbake, build: Path) -> None:
    assert bitbake("test-image-mega", "do_swupd_publish").returncode == 0
    lines = (build / "progress").read_text().splitlines()
    assert "test-image-mega 100 packs" in lines and "test-image-mega 100 hash and compress" in lines
    log = build / "tmp/work/test-image-mega/1.0/temp/log.do_swupd_publish"
    assert "%" not in log.read_text()


def test_a_removed_deploy_folder_comes_back(bitbake: Bitbake, build: Path) -> None:
    assert bitbake("test-image", "do_build").returncode == 0
    shutil.rmtree(build / "tmp/deploy")
    assert bitbake("test-image-mega", "!do_swupd_ensure").returncode == 0
    assert (build / WWW / "version/format30/latest").read_text().strip() == "10"
    shutil.rmtree(build / "tmp/deploy")
    shutil.rmtree(build / "tmp/work/test-image-mega/1.0/rootfs")
    done = bitbake("test-image-mega", "!do_swupd_ensure")
    assert done.returncode != 0 and "publish it again with: bitbake -C rootfs test-image-mega" in done.stderr


def publish(bitbake: Bitbake, build: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    configure(build, **settings)
    return bitbake("test-image-mega", "do_swupd_publish")


def test_earlier_releases_come_from_the_url_where_the_folder_has_none(
    bitbake: Bitbake, build: Path, tmp_path: Path
) -> None:
    assert publish(bitbake, build).returncode == 0
    (build / WWW).rename(tmp_path / "published")
    (build / "packages/tool/usr/bin/tool").write_text("tool 2")
    with servers.nginx(tmp_path / "published") as url:
        settings = {"OS_VERSION": "20", "SWUPD_CONTENT_URL": url, "SWUPD_FETCH_PREVIOUS": "1"}
        done = publish(bitbake, build, **settings)
        assert done.returncode == 0, done.stderr
    assert (build / WWW / "20/pack-tools-from-10.tar").is_file()
    assert "previous:\t10\n" in (build / WWW / "20/Manifest.MoM").read_text()
    # The same version again, when the network is gone.
    assert publish(bitbake, build, **settings | {"SWUPD_CONTENT_URL": f"file://{tmp_path}/published"}).returncode == 0
    assert (build / WWW / "20/pack-tools-from-10.tar").is_file()


def test_a_stream_that_was_never_published_is_begun(bitbake: Bitbake, build: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with servers.nginx(tmp_path / "empty") as url:
        assert publish(bitbake, build, SWUPD_CONTENT_URL=url, SWUPD_FETCH_PREVIOUS="1").returncode == 0
    assert (build / WWW / "10/Manifest.MoM").is_file()


@pytest.mark.parametrize("answer", ["500", "html", "nobody", "no network"])
def test_a_url_that_cannot_say_what_was_published_stops_the_build(
    bitbake: Bitbake, build: Path, tmp_path: Path, answer: str
) -> None:
    latest = tmp_path / "www/version/format30/latest"
    latest.parent.mkdir(parents=True)
    latest.write_text("<html>Sign in</html>")
    settings = {"SWUPD_FETCH_PREVIOUS": "1", "BB_NO_NETWORK": "1" if answer == "no network" else "0"}
    with servers.nginx(tmp_path / "www") as url:
        settings["SWUPD_CONTENT_URL"] = {"nobody": "http://127.0.0.1:9", "500": f"{url}/status/500"}.get(answer, url)
        done = publish(bitbake, build, **settings)
    assert done.returncode != 0
    said = {"500": "answers 500", "html": "does not hold a version", "nobody": "cannot read http://127.0.0.1:9"}
    assert said.get(answer, "BB_NO_NETWORK forbids") in done.stderr
    assert 'if it never had a release, set SWUPD_FETCH_PREVIOUS = "0"' in done.stderr
    assert not (build / WWW).exists()


def test_a_half_deleted_deploy_folder_is_not_built_upon(bitbake: Bitbake, build: Path) -> None:
    assert publish(bitbake, build).returncode == 0
    (build / WWW / "10/Manifest.os-core").unlink()
    (build / WWW / "10/Manifest.os-core.tar").unlink()
    left = sorted((build / WWW).rglob("*"))
    done = publish(bitbake, build, OS_VERSION="20")
    assert done.returncode != 0
    assert "the stream has no 10/Manifest.os-core" in done.stderr and "Restore it in the stream" in done.stderr
    assert sorted((build / WWW).rglob("*")) == left


def test_releases_that_vanish_while_building_are_missed(bitbake: Bitbake, build: Path, tmp_path: Path) -> None:
    assert publish(bitbake, build).returncode == 0
    configure(build, OS_VERSION="20", SWUPD_FETCH_PREVIOUS="1")
    words = ["test-image", "do_swupd_list", "test-image-mega", "do_image", "test-image-mega", "do_fetch"]
    assert bitbake(*words).returncode == 0
    (build / WWW).rename(tmp_path / "away")
    done = bitbake("test-image-mega", "!do_swupd_publish")
    assert done.returncode != 0 and "had earlier releases when this build began, but has none now" in done.stderr
    (tmp_path / "away").rename(build / WWW)
    assert bitbake("test-image-mega", "!do_swupd_publish").returncode == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"OS_VERSION": "5"},
            "version 5 is not greater than the last one, 10. Publish as version 11 or greater. (OS_VERSION is 5)",
        ),
        ({"BUNDLE_CONTENTS__tools": "tool nonsense"}, "nonsense"),
        ({"OS_VERSION": "20", "SWUPD_FORMAT": "29"}, "the stream is at format 30 already"),
    ],
    ids=str,
)
def test_a_refused_release_leaves_the_published_as_it_was(
    bitbake: Bitbake, build: Path, settings: dict[str, str], said: str
) -> None:
    assert publish(bitbake, build).returncode == 0
    (build / "packages/nonsense").mkdir()
    before = {p: p.read_bytes() for p in (build / WWW).rglob("*") if p.is_file()}
    (build / "packages/nonsense").rmdir()
    done = publish(bitbake, build, **settings)
    assert done.returncode != 0 and said in done.stderr
    assert {p: p.read_bytes() for p in (build / WWW).rglob("*") if p.is_file()} == before


def test_a_key_that_cannot_be_read_is_named(bitbake: Bitbake, build: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("nonsense")
    key = str(tmp_path / "key")
    done = publish(bitbake, build, SWUPD_SIGNING_KEY=key, SWUPD_SIGNING_CERTIFICATE=key, SWUPD_TRUST_FILE=key)
    assert done.returncode != 0 and "certificate file is not PEM" in done.stderr
    assert not (build / WWW / "10").exists()


def test_a_format_bump_publishes_an_interim_release(bitbake: Bitbake, build: Path) -> None:
    assert publish(bitbake, build).returncode == 0
    assert publish(bitbake, build, OS_VERSION="20", SWUPD_FORMAT="31").returncode == 0
    assert (build / WWW / "version/format30/latest").read_text().strip() == "19"
    assert (build / WWW / "version/format31/latest").read_text().strip() == "20"


def test_what_a_bundle_lacks_is_told_with_the_package_that_was_built_but_not_installed(
    bitbake: Bitbake, build: Path
) -> None:
    script = build / "packages/tool/usr/bin/tool"
    script.write_text("#!/usr/bin/perl\n")
    script.chmod(0o755)
    data = build / "pkgdata/runtime/perl"
    data.parent.mkdir()
    data.write_text('PN: perl\nFILES_INFO:perl: {"/usr/bin/perl": 1}\n')
    assert publish(bitbake, build).returncode == 0
    log = build / "tmp/work/test-image-mega/1.0/temp/log.do_swupd_publish"
    assert "needs the interpreter /usr/bin/perl, which is not in it (install perl)" in log.read_text()
