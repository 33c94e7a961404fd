"""Turns plain Debian trees into images with bundles: what a build system would do before it calls swupd-server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

BUNDLES: Mapping[str, tuple[str, ...]] = {
    "python": ("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libpython3.11"),
    "sync": ("rsync", "libpopt0", "libxxhash0", "liblz4-1"),
}
"""Bundles and the Debian packages that they are made of; all else is os-core."""


def prepare(tree: Path, image: Path, version: int, url: str, certificate: Path) -> dict[str, Path]:
    """Copies a tree to an image that knows its version, format, URL and certificate; gives the content lists."""
    if image.exists():
        shutil.rmtree(image)
    # cp keeps owners, capabilities and hard links, which shutil does not.
    subprocess.run(["cp", "-a", tree, image], check=True)
    os_release = image / "usr/lib/os-release"
    lines = [line for line in os_release.read_text().splitlines() if not line.startswith("VERSION_ID=")]
    os_release.write_text("\n".join([*lines, f"VERSION_ID={version}"]) + "\n")
    defaults = image / "usr/share/defaults/swupd"
    defaults.mkdir(parents=True)
    for name, text in (("format", "30"), ("versionurl", url), ("contenturl", url)):
        (defaults / name).write_text(text + "\n")
    trust = image / "usr/share/clear/update-ca"
    trust.mkdir(parents=True)
    shutil.copy(certificate, trust / "Swupd_Root.pem")
    (image / "usr/share/clear/versionstamp").write_text(f"{1_760_000_000 + version}\n")
    return _content_lists(image)


def _content_lists(image: Path) -> dict[str, Path]:
    owned = {bundle: set(_owned(image, packages)) for bundle, packages in BUNDLES.items()}
    everything = {"/" + str(p.relative_to(image)) for p in image.rglob("*")}
    optional = set().union(*owned.values())
    lists = {"os-core": everything - {p for p in optional if not (image / p[1:]).is_dir()}, **owned}
    folder = image.with_suffix(".content")
    folder.mkdir(exist_ok=True)
    for bundle, paths in lists.items():
        (folder / bundle).write_text("".join(f"{p}\n" for p in sorted(paths & everything)))
    return {bundle: folder / bundle for bundle in lists}


def _owned(image: Path, packages: Iterable[str]) -> Iterable[str]:
    """What packages own, by their real paths: Debian's lists still speak of /lib where /lib is a link."""
    info = image / "var/lib/dpkg/info"
    for package in packages:
        for file in (*info.glob(f"{package}.list"), *info.glob(f"{package}:*.list")):
            for line in file.read_text().splitlines():
                place = image / line.lstrip("/")
                if line != "/." and (place.is_symlink() or place.exists()):
                    yield "/" + str(place.parent.resolve().relative_to(image.resolve()) / place.name)
