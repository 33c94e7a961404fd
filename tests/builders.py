"""Trees and streams for tests: say what a root file system holds, publish it, get a stream."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swupd import hashing
from swupd.server import bundles, publish, signing
from swupd.server.work import Crew, Report, Silent
from swupd.tree import Root

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
BEGINS = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
STAMP = 1_700_000_000
REST = "*"
"""As the content of a bundle: every path of the tree that no other bundle lists."""


@dataclass(frozen=True)
class File:
    """A regular file; plain str or bytes mean File(content)."""

    content: bytes | str = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Folder:
    """A folder; None means Folder()."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Link:
    """A symlink."""

    target: str
    uid: int = 0
    gid: int = 0


Spec = File | Folder | Link | str | bytes | None
Tree = Mapping[str, Spec]


def make_tree(root: Path, tree: Tree) -> Path:
    """Makes a tree below a new folder; folders that are not named are 0755 root:root."""
    root.mkdir(parents=True)
    root.chmod(0o755)
    for path, spec in sorted(tree.items()):
        put(root, path, spec)
    return root


def put(root: Path, path: str, spec: Spec) -> None:
    """Adds one object to a tree."""
    place = root / path.lstrip("/")
    _make_folders(root, place.parent)
    _make(place, spec)


def _make_folders(root: Path, folder: Path) -> None:
    for part in reversed([folder, *folder.parents]):
        if part.is_relative_to(root) and not part.exists():
            part.mkdir()
            part.chmod(0o755)


def _make(place: Path, spec: Spec) -> None:
    spec = Folder() if spec is None else File(spec) if isinstance(spec, str | bytes) else spec
    if isinstance(spec, Link):
        place.symlink_to(spec.target)
        os.chown(place, spec.uid, spec.gid, follow_symlinks=False)
        return
    if isinstance(spec, File):
        place.write_bytes(spec.content.encode() if isinstance(spec.content, str) else spec.content)
    else:
        place.mkdir()
    os.chown(place, spec.uid, spec.gid)
    place.chmod(spec.mode)
    for name, value in spec.xattrs:
        os.setxattr(place, name, value)


def digest_at(root: Root, path: str, xattrs: bool = True) -> str | None:
    """The digest of what is at a path, or None where there is nothing that a stream can carry."""
    node = root.node(path, xattrs)
    return None if node is None else hashing.digest(node, root.chunks(node))


def os_tree(version: int, files: Tree, stream_format: int = 30) -> dict[str, Spec]:
    """Files plus those that make a tree a swupd system of a version."""
    return {
        "/usr/lib/os-release": f'NAME="Test OS"\nID=test\nVERSION_ID={version}\n',
        "/usr/share/clear/versionstamp": f"{STAMP + version}",
        "/usr/share/defaults/swupd/format": f"{stream_format}\n",
        **files,
    }


def specs(
    tree: Tree,
    content: Mapping[str, Iterable[str]],
    includes: Mapping[str, tuple[str, ...]] | None = None,
    also_add: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[bundles.BundleSpec, ...]:
    """Bundle definitions; a content may be REST."""
    named = {path for paths in content.values() if paths != REST for path in paths}
    return tuple(
        bundles.BundleSpec(
            name,
            tuple(sorted(set(tree) - named if paths == REST else paths)),
            (includes or {}).get(name, ()),
            (also_add or {}).get(name, ()),
        )
        for name, paths in content.items()
    )


def job(
    www: Path, version: int, rootfs: Path, tree: Tree, content: Mapping[str, Iterable[str]], **options: Any
) -> publish.Job:
    """What to publish; options are fields of publish.Job, includes and also_add."""
    defined = specs(tree, content, options.pop("includes", None), options.pop("also_add", None))
    return publish.Job(www=www, version=version, rootfs=rootfs, specs=defined, **options)


def run(todo: publish.Job, jobs: int = 2, report: Report | None = None) -> publish.Published:
    """Publishes in this process."""
    with ThreadPoolExecutor(jobs) as executor:
        return publish.publish(todo, Crew(executor), NOW, report or Silent())


def release(
    base: Path,
    version: int,
    files: Tree,
    content: Mapping[str, Iterable[str]],
    stream_format: int = 30,
    **options: Any,
) -> publish.Published:
    """Makes base/root-<version> and publishes it to base/www."""
    tree = os_tree(version, files, stream_format)
    rootfs = make_tree(base / f"root-{version}", tree)
    return run(job(base / "www", version, rootfs, tree, content, format=stream_format, **options))


def keys(folder: Path, name: str = "release", begins: datetime.datetime = BEGINS, days: int = 5000) -> signing.Signer:
    """A new signer, also written as <name>.key and <name>.pem."""
    folder.mkdir(parents=True, exist_ok=True)
    key, certificate = signing.generate(f"Test {name}", begins, days)
    (folder / f"{name}.key").write_bytes(key)
    (folder / f"{name}.pem").write_bytes(certificate)
    return signing.load_signer(key, certificate)
