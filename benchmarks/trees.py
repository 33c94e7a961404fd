"""The work: two or three releases of one system, made of Debian packages, or any trees that are there."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_DIGITS = re.compile(r"[0-9.]")
STAMP = 1_700_000_000
"""The time of all files that are made here, in Unix seconds."""


@dataclass(frozen=True)
class Release:
    """A tree, prepared as an image: number, folder, and the list of its paths."""

    version: int
    root: Path
    content: Path


@dataclass(frozen=True)
class Facts:
    """Two releases in numbers: files and bytes of the new one, and what of it the old one does not hold.

    identity: the same for the same contents under the same names.
    """

    files: int
    bytes: int
    changed_files: int
    changed_bytes: int
    identity: str


def make(folder: Path, size: str, scripts: Path) -> Path:
    """The corpus of a size ("small": two releases of 4,400 files, "full": three of 24,000), made once."""
    subprocess.run([scripts / "make-corpus", folder / size, size], check=True)
    return folder / size


def prepare(source: Path, version: int, work: Path) -> Release:
    """A copy of a tree (hard links) that says its version."""
    root = work / f"image-{version}"
    shutil.rmtree(root, ignore_errors=True)
    # Names of the same files where the file system allows that: nothing is ever written to a file in place.
    if subprocess.run(["cp", "-al", source, root], check=False, stderr=subprocess.DEVNULL).returncode:
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["cp", "-a", source, root], check=True)
    release = root / "usr/lib/os-release"
    lines = release.read_text().splitlines() if release.exists() else ["NAME=corpus"]
    if release.exists():
        release.unlink()
    release.write_text("\n".join([*(line for line in lines if "VERSION_ID" not in line), f"VERSION_ID={version}", ""]))
    os.utime(release, (STAMP, STAMP))
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
    have = set(_digests(old).values())
    found: dict[bytes, tuple[str, str]] = {}
    for path, digest in _digests(new).items():
        if digest not in have:
            found.setdefault(digest, (path if _is_file(old, path) else "", path))
    return list(found.values())


def paired(old: Path, new: Path) -> list[tuple[str, str]]:
    """The same, where a file that is not in the old tree is paired with one that is gone and differs in digits only."""
    gone: dict[str, list[str]] = {}
    for path in _digests(old).keys() - _digests(new).keys():
        gone.setdefault(_DIGITS.sub("", path), []).append(path)
    for names in gone.values():
        names.sort(reverse=True)
    found = []
    for before, path in sorted(changed(old, new), key=lambda pair: pair[1]):
        alike = gone.get(_DIGITS.sub("", path))
        found.append((before or (alike.pop() if alike else ""), path))
    return found


def facts(old: Release, new: Release) -> Facts:
    """What there is to do."""
    have, wanted = _digests(old.root), _digests(new.root)
    contents = set(have.values())
    lacking = [path for path, digest in wanted.items() if digest not in contents]
    sizes = {path: (new.root / path[1:]).stat().st_size for path in wanted}
    identity = hashlib.sha256(repr((sorted(have.items()), sorted(wanted.items()))).encode()).hexdigest()[:16]
    return Facts(len(wanted), sum(sizes.values()), len(lacking), sum(sizes[p] for p in lacking), identity)


def edit(place: Path, number: int) -> None:
    """Overwrites 16 bytes in the middle of a file; the file's other names keep what they hold."""
    data = bytearray(place.read_bytes())
    middle = max(0, len(data) // 2 - 8)
    data[middle : middle + 16] = b"%016d" % number
    beside = place.with_name(place.name + ".edited")
    shutil.copy2(place, beside)
    owner = place.stat()
    beside.write_bytes(data)
    os.chown(beside, owner.st_uid, owner.st_gid)
    os.chmod(beside, owner.st_mode)
    os.utime(beside, (STAMP + number, STAMP + number))
    os.replace(beside, place)


def files_between(root: Path, least: int, most: int) -> list[Path]:
    """Files below /usr/lib and /usr/share of so many bytes, those next to each other in the tree far apart."""
    there = [root / path[1:] for path in paths(root) if path.startswith(("/usr/lib/", "/usr/share/"))]
    plain = [p for p in there if not p.is_symlink() and p.is_file() and least <= p.stat().st_size <= most]
    return sorted(
        (p for p in plain if p.name != "os-release" and not os.listxattr(p)),
        key=lambda p: hashlib.sha256(os.fsencode(p.relative_to(root))).digest(),
    )


def _digests(root: Path) -> Mapping[str, bytes]:
    return {path: _digest(root, path) for path in paths(root) if _is_file(root, path)}


def _is_file(root: Path, path: str) -> bool:
    return (root / path[1:]).is_file() and not (root / path[1:]).is_symlink()


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
