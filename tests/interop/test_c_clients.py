"""The old C clients follow our streams: they are the judges of every byte on the wire.

SWUPD_CLIENT names swupd-client 7.0.0, SWUPD_CLIENT_XATTR the same built with xattrs, SWUPD_CLIENT_OSTRO the 3.7.2
that Ostro OS shipped.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from swupd.agent import start
from swupd.server import cli as server
from swupd.server import deltas, signing
from tests import builders, trees

CLIENT = os.environ.get("SWUPD_CLIENT")
XATTR = os.environ.get("SWUPD_CLIENT_XATTR")
OSTRO = os.environ.get("SWUPD_CLIENT_OSTRO")
needs_client = pytest.mark.skipif(not CLIENT, reason="SWUPD_CLIENT does not name swupd-client 7.0.0")
needs_xattr = pytest.mark.skipif(not XATTR, reason="SWUPD_CLIENT_XATTR does not name a swupd-client built with xattrs")
needs_ostro = pytest.mark.skipif(not OSTRO, reason="SWUPD_CLIENT_OSTRO does not name swupd-client 3.7.2")


@needs_client
def test_the_c_client_takes_our_stream_and_leaves_the_same_tree_as_our_agent(tmp_path: Path) -> None:
    www, certificate = trees.two_versions(tmp_path, signed=True)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    options = ["-u", f"file://{www}", "-F", "30", "-C", str(certificate), "--no-scripts", "--no-progress"]
    c_options = [*options, "--ignore-time", "--no-boot-update", "-S", str(tmp_path / "c-state")]
    our_options = [*options, "-S", str(tmp_path / "our-state")]

    def both(command: str, *words: str, tree: bool = True) -> None:
        for program, target, extra in ((CLIENT, theirs, c_options), (None, ours, our_options)):
            place = ["-p", str(target)] if tree else [str(target)]
            line = [command, *words, *place, *extra]
            code = c_client(program, line) if program else start.main(line)
            assert code == 0, (command, program)
        assert trees.listing(theirs) == trees.listing(ours), command

    both("os-install", "-V", "10", "-B", "os-core,editors", tree=False)
    both("diagnose", "--picky")
    # Without fullfiles of version 20 only the packs can bring it there.
    files = www / "20/files"
    files.rename(www / "20/elsewhere")
    both("update", "-V", "20")
    (www / "20/elsewhere").rename(files)
    both("diagnose", "--picky")
    both("bundle-add", "docs")
    both("diagnose", "--picky")
    both("bundle-remove", "docs")
    for target in (theirs, ours):
        (target / "usr/bin/tool").write_bytes(b"damaged")
        (target / "usr/share/demo/same.txt").unlink()
        (target / "usr/share/extra").write_text("extra")
    both("repair", "--picky")
    both("diagnose", "--picky")


@needs_client
def test_the_c_client_crosses_a_format_bump(tmp_path: Path) -> None:
    www, certificate = trees.format_bump(tmp_path)
    tree = tmp_path / "device"
    options = [
        "-u",
        f"file://{www}",
        "-C",
        str(certificate),
        "--no-scripts",
        "--ignore-time",
        "-S",
        str(tmp_path / "s"),
    ]
    assert c_client(CLIENT, ["os-install", str(tree), "-V", "10", "-F", "30", *options]) == 0
    assert c_client(CLIENT, ["update", "-p", str(tree), *options]) == 0
    assert "VERSION_ID=30" in (tree / "usr/lib/os-release").read_text()
    assert (tree / "usr/share/defaults/swupd/format").read_text().strip() == "31"
    assert c_client(CLIENT, ["diagnose", "--picky", "-p", str(tree), *options]) == 0


@needs_client
def test_the_c_client_refuses_a_stream_that_was_signed_by_another(tmp_path: Path) -> None:
    www, _ = trees.two_versions(tmp_path, signed=True)
    _, other = signing.generate("other", builders.BEGINS, 20000)
    (tmp_path / "other.pem").write_bytes(other)
    line = ["os-install", str(tmp_path / "d"), "-u", f"file://{www}", "-F", "30", "-C", str(tmp_path / "other.pem")]
    assert c_client(CLIENT, [*line, "--ignore-time", "-S", str(tmp_path / "s"), "--no-scripts"]) != 0


@needs_client
def test_the_c_client_follows_a_stream_with_roots_and_heads(tmp_path: Path) -> None:
    keys = tmp_path / "keys"

    def serve(*words: object) -> None:
        assert server.main([str(w) for w in words]) == 0

    def publish(version: int, *more: object) -> None:
        tree = builders.os_tree(version, {"/usr/bin/tool": f"{version}" * 999, "/usr/share/clear/bundles/os-core": ""})
        rootfs = builders.make_tree(tmp_path / f"root-{version}", tree)
        (tmp_path / "content").write_text("".join(f"{path}\n" for path in sorted(tree)))
        serve(
            "publish", "--www", www, "--version", version, "--rootfs", rootfs, "--content",
            f"os-core={tmp_path / 'content'}", "--product", "board/image", "--root", keys / "1.root", *build, *more,
        )  # fmt: skip

    www = tmp_path / "www"
    serve("keygen", keys)
    build = ("--manifest-key", keys / "manifest.key", "--manifest-certificate", keys / "manifest.pem")
    signed = ("--signing-key", keys / "release.key", "--certificate", keys / "release.pem")
    head = ("--head-key", keys / "head.key")
    publish(10, *signed, *head)
    device, options = tmp_path / "device", ["-u", f"file://{www}", "-F", "30", "-C", str(keys / "Swupd_Root.pem")]
    options += ["--ignore-time", "--no-scripts", "--no-boot-update", "-S", str(tmp_path / "state")]
    assert c_client(CLIENT, ["os-install", str(device), *options]) == 0
    # Held, countersigned with an Ed25519 key, released: nothing of it is in the way of the old client.
    publish(20, "--hold")
    (tmp_path / "more").mkdir()
    serve("countersign", www / "20/Manifest.MoM", "--output", tmp_path / "more/signed", "--key", keys / "head.key")
    assert c_client(CLIENT, ["update", "-p", str(device), *options]) == 0
    assert "VERSION_ID=10" in (device / "usr/lib/os-release").read_text()
    serve("release", "--www", www, "--version", 20, *signed, *head, "--also", tmp_path / "more/signed")
    serve("renew", "--www", www, *head)
    assert c_client(CLIENT, ["update", "-p", str(device), *options]) == 0
    assert "VERSION_ID=20" in (device / "usr/lib/os-release").read_text()
    assert c_client(CLIENT, ["diagnose", "--picky", "-p", str(device), *options]) == 0


CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def _publish_with_xattrs(base: Path, xattrs: bool) -> Path:
    files: builders.Tree = {
        "/var/lib": None,
        "/usr/bin/ping": builders.File(
            "ping", 0o755, xattrs=(("security.capability", CAPABILITY), ("user.a", b"\xff\0"))
        ),
        "/usr/share/labelled": builders.Folder(xattrs=(("user.label", b"folder"),)),
        "/usr/share/labelled/file": builders.File(b"x" * 200_000, xattrs=(("user.label", b"x"),)),
    }
    builders.release(base, 10, files, {"os-core": builders.REST}, xattrs=xattrs)
    return base / "www"


@needs_client
def test_the_c_client_takes_single_files_where_packs_are_for_our_agent(tmp_path: Path) -> None:
    for version in (10, 20):
        files = {f"/usr/share/file-{n}": f"{version} {n}\n" * 999 for n in range(9)}
        builders.release(
            tmp_path, version, files, {"os-core": builders.REST}, previous_versions=1, forms=deltas.OWN_AGENT
        )
    assert [p.name for p in (tmp_path / "www/20").glob("pack-os-core-from-10*")] == ["pack-os-core-from-10.runs.tar"]
    options = ["-u", f"file://{tmp_path}/www", "-F", "30", "-n", "--ignore-time", "--no-scripts"]
    options += ["-S", str(tmp_path / "s")]
    tree = str(tmp_path / "d")
    assert c_client(CLIENT, ["os-install", tree, "-V", "10", *options]) == 0
    assert c_client(CLIENT, ["update", "-p", tree, "--no-boot-update", *options]) == 0
    assert c_client(CLIENT, ["diagnose", "--picky", "-p", tree, *options]) == 0
    assert (tmp_path / "d/usr/share/file-3").read_text().startswith("20 3")


@needs_xattr
def test_a_c_client_built_with_xattrs_gets_capabilities_and_labels(tmp_path: Path) -> None:
    www = _publish_with_xattrs(tmp_path, xattrs=True)
    options = ["-u", f"file://{www}", "-F", "30", "-n", "--ignore-time", "--no-scripts", "-S", str(tmp_path / "s")]
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    assert c_client(XATTR, ["os-install", str(theirs), *options]) == 0
    assert c_client(XATTR, ["diagnose", "--picky", "-p", str(theirs), *options]) == 0
    assert start.main(["os-install", str(ours), *options[:-1], str(tmp_path / "our-state")]) == 0
    assert os.getxattr(theirs / "usr/bin/ping", "security.capability") == CAPABILITY
    assert trees.listing(theirs) == trees.listing(ours)


@needs_client
def test_a_c_client_without_xattrs_follows_a_stream_without_xattrs(tmp_path: Path) -> None:
    www = _publish_with_xattrs(tmp_path, xattrs=False)
    options = ["-u", f"file://{www}", "-F", "30", "-n", "--ignore-time", "--no-scripts", "-S", str(tmp_path / "s")]
    assert c_client(CLIENT, ["os-install", str(tmp_path / "d"), *options]) == 0
    assert c_client(CLIENT, ["diagnose", "--picky", "-p", str(tmp_path / "d"), *options]) == 0


@needs_ostro
def test_ostros_client_takes_our_format_4_stream(tmp_path: Path) -> None:
    www, _ = trees.two_versions(tmp_path, signed=False, stream_format=4)
    tree = tmp_path / "device"
    bundles = tree / "usr/share/clear/bundles"
    bundles.mkdir(parents=True)
    for name in ("os-core", "editors", "libs"):
        (bundles / name).touch()
    options = ["-p", str(tree), "-u", f"file://{www}", "-F", "4", "-S", str(tmp_path / "state")]
    assert c_client(OSTRO, ["verify", "--install", "-m", "10", *options]) == 0
    ours = tmp_path / "ours"
    common = ["-u", f"file://{www}", "-F", "4", "-n", "--no-scripts", "-S", str(tmp_path / "our-state")]
    assert start.main(["os-install", str(ours), "-V", "10", "-B", "editors", *common]) == 0
    assert trees.listing(tree) == trees.listing(ours)
    assert c_client(OSTRO, ["update", *options]) == 0
    assert start.main(["update", "-p", str(ours), *common]) == 0
    assert trees.listing(tree) == trees.listing(ours)
    assert "did not match" not in c_client_says(OSTRO, ["verify", *options])


def c_client(program: str | None, line: list[str]) -> int:
    """The exit code of an old client."""
    assert program is not None
    return subprocess.run([program, *line], check=False, stdout=subprocess.DEVNULL).returncode


def c_client_says(program: str | None, line: list[str]) -> str:
    """What an old client prints."""
    assert program is not None
    return subprocess.run([program, *line], check=False, capture_output=True, text=True).stdout
