"""Streams of two versions in which everything happens that can happen between releases, and listings of trees."""

from __future__ import annotations

import hashlib
import os
import random
import stat
from pathlib import Path

from tests import builders
from tests.builders import File, Folder, Link, Spec

NOT_COMPARED = ("./.swupd", "./var/lib/swupd", "./var/tmp", "./var/lib/swupd-test")


def listing(root: Path) -> list[str]:
    """One line for each path: mode in hex, uid, gid, path, target or SHA-256, xattrs; agents' own state left out."""
    lines = []
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            place = Path(folder, name)
            path = f"./{place.relative_to(root)}"
            if path.startswith(NOT_COMPARED):
                continue
            found = place.lstat()
            rest = ""
            if stat.S_ISLNK(found.st_mode):
                rest = f"-> {os.readlink(place)}"
            elif stat.S_ISREG(found.st_mode):
                rest = hashlib.sha256(place.read_bytes()).hexdigest()
            xattrs = [
                (n, os.getxattr(place, n, follow_symlinks=False)) for n in os.listxattr(place, follow_symlinks=False)
            ]
            lines.append(
                f"{found.st_mode:x} {found.st_uid} {found.st_gid} {path} {rest} {sorted(xattrs) or ''}".rstrip()
            )
    return sorted(lines)


def _noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _version(version: int, stream_format: int) -> dict[str, Spec]:
    new = version > 10
    big = _noise(1, 300_000)
    moved = _noise(2, 40_000)
    tree: dict[str, Spec] = {
        "/usr/bin/tool": File(big if not new else big[:1000] + b"changed" + big[1020:], 0o755),
        "/usr/bin/suid": File("suid", 0o4755),
        "/usr/bin/owned": File("owned", 0o644, 0 if not new else 1000, 0 if not new else 100),
        "/usr/bin/edtool": File(f"edtool {version}" * 100, 0o755),
        "/usr/lib/libcore.so": Link(f"libcore.so.{version}"),
        f"/usr/lib/libcore.so.{version}": _noise(3, 3000) + str(version).encode(),
        f"/usr/lib/librenamed-1.{version}.so": _noise(4, 200_000) + str(version).encode(),
        f"/usr/lib/exact-{version}.bin": moved,
        "/usr/lib/libbig.so": _noise(5, 150_000),
        "/usr/share/demo/same.txt": "the same\n",
        "/usr/share/demo/empty": "",
        "/usr/share/demo/name with spaces.txt": "spaces",
        "/usr/share/demo/ünïcode.txt": "unicode",
        "/usr/share/demo/back\\slash": "slash",
        "/usr/share/demo/mode": File("mode", 0o644 if not new else 0o600),
        "/usr/share/demo/folder-mode": Folder(0o755 if not new else 0o750),
        "/usr/share/demo/folder-mode/file": "in it",
        "/usr/share/demo/file-to-link": "file" if not new else Link("same.txt"),
        "/usr/share/demo/link-to-file": Link("same.txt") if not new else "file now",
        "/usr/share/doc/readme": "read me",
        "/usr/share/libs/data": f"libs {version}" * 50,
        "/etc/demo.conf": f"version={version}\n",
        "/var/lib/demo/state": "state",
    }
    if new:
        tree |= {"/usr/share/demo/morph/child": "folder now", "/usr/share/demo/new/deep/file": "new"}
    else:
        tree |= {"/usr/share/demo/morph": "file", "/usr/share/demo/old/file": "old", "/usr/bin/gone": "gone"}
    return builders.os_tree(version, tree, stream_format)


CONTENT: dict[str, tuple[str, ...] | str] = {
    "os-core": builders.REST,
    "libs": ("/usr/lib/libbig.so", "/usr/share/libs/data"),
    "editors": ("/usr/bin/edtool", "/usr/share/demo/same.txt"),
    "docs": ("/usr/share/doc/readme", "/usr/share/libs/data"),
}


def two_versions(base: Path, signed: bool, stream_format: int = 30) -> tuple[Path, Path]:
    """Publishes versions 10 and 20 with deltas; gives the stream and the certificate that devices trust."""
    signer = builders.keys(base / "keys")
    options = {"signer": signer} if signed else {}
    for version in (10, 20):
        builders.release(
            base,
            version,
            _version(version, stream_format),
            CONTENT,
            stream_format,
            includes={"editors": ("libs",)},
            previous_versions=1,
            **options,
        )
    return base / "www", base / "keys/release.pem"


def format_bump(base: Path) -> tuple[Path, Path]:
    """Version 10 in format 30 and 30 in format 31, with the release between them that format bumps need."""
    signer = builders.keys(base / "keys")
    content = {"os-core": builders.REST, "editors": ("/usr/bin/edtool",)}
    for version, stream_format in ((10, 30), (30, 31)):
        builders.release(base, version, _version(version, stream_format), content, stream_format, signer=signer)
    return base / "www", base / "keys/release.pem"
