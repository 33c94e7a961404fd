"""The work: two or three releases of one system, made of Debian packages, or any trees that are there."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Release:
    """A tree, prepared as an image: number, folder, and the list of its paths."""

    version: int
    root: Path
    content: Path


def make(folder: Path, scripts: Path) -> Path:
    """The small corpus (4,400 files in two patch levels), made once by scripts/make-corpus."""
    subprocess.run([scripts / "make-corpus", folder], check=True)
    return folder


def prepare(source: Path, version: int, work: Path) -> Release:
    """A copy of a tree (hard links) that says its version."""
    root = work / f"image-{version}"
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "-al", source, root], check=True)
    release = root / "usr/lib/os-release"
    lines = release.read_text().splitlines() if release.exists() else ["NAME=corpus"]
    if release.exists():
        release.unlink()
    release.write_text("\n".join([*(line for line in lines if "VERSION_ID" not in line), f"VERSION_ID={version}", ""]))
    os.utime(release, (1_700_000_000, 1_700_000_000))
    content = work / f"content-{version}"
    content.write_text("".join(f"{path}\n" for path in paths(root)), errors="surrogateescape")
    return Release(version, root, content)


def paths(root: Path) -> Iterator[str]:
    """All paths below a folder, each from it on."""
    for place, folders, files in os.walk(root):
        folders.sort()
        for name in sorted((*folders, *files)):
            yield os.path.join(place, name)[len(os.fspath(root)) :]


def changed(old: Path, new: Path) -> list[tuple[str, str]]:
    """(path in the old tree or "", path in the new one) of each content that the old tree does not have."""
    have = {_digest(old, path): path for path in _files(old)}
    found: dict[bytes, tuple[str, str]] = {}
    for path in _files(new):
        digest = _digest(new, path)
        if digest not in have:
            found.setdefault(digest, (path if (old / path[1:]).is_file() else "", path))
    return list(found.values())


def _files(root: Path) -> list[str]:
    return [p for p in paths(root) if (root / p[1:]).is_file() and not (root / p[1:]).is_symlink()]


def _digest(root: Path, path: str) -> bytes:
    with open(root / path[1:], "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def only(root: Path, names: list[str], to: Path) -> Path:
    """A tar of some files of a tree, always the same bytes."""
    listed = to.with_suffix(".names")
    listed.write_bytes(b"".join(os.fsencode("." + name) + b"\0" for name in sorted(names)))
    subprocess.run(
        ["tar", "--format=gnu", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--no-recursion", "--null",
         "-C", root,
         "-cf", to, "-T", listed], check=True,
    )  # fmt: skip
    return to
