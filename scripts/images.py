"""Turns plain Debian trees into images with bundles: what a build system would do before it calls swupd-server."""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

BUNDLES: Mapping[str, tuple[str, ...]] = {
    "python": ("/usr/bin/python3*", "/usr/lib/python3*", "/usr/lib/*/libpython3*"),
    "sync": ("/usr/bin/rsync*", "/usr/lib/*/libpopt.so*", "/usr/lib/*/libxxhash.so*", "/usr/lib/*/liblz4.so*"),
}
"""Bundles and the patterns of their paths; all else is os-core."""


PRODUCT = "demonstration/debian"


def prepare(tree: Path, image: Path, version: int, url: str, keys: Path) -> dict[str, Path]:
    """Copies a tree to an image that knows its version, format, URL and whom to believe; gives the content lists.

    keys: the folder that swupd-server keygen made.
    """
    if image.exists():
        shutil.rmtree(image)
    # cp keeps owners, capabilities and hard links, which shutil does not.
    subprocess.run(["cp", "-a", tree, image], check=True)
    shutil.rmtree(image / "dev", ignore_errors=True)
    (image / "dev").mkdir()
    os_release = image / "usr/lib/os-release"
    os_release.unlink(missing_ok=True)
    os_release.write_text(f'NAME="Demonstration"\nPRETTY_NAME="Demonstration {version}"\nVERSION_ID={version}\n')
    defaults = image / "usr/share/defaults/swupd"
    defaults.mkdir(parents=True)
    for name, text in (("format", "30"), ("versionurl", url), ("contenturl", url), ("product", PRODUCT)):
        (defaults / name).write_text(text + "\n")
    trust = image / "usr/share/clear/update-ca"
    trust.mkdir(parents=True)
    shutil.copy(keys / "Swupd_Root.pem", trust)
    shutil.copy(keys / "1.root", defaults / "root")
    (image / "usr/share/clear/versionstamp").write_text(f"{1_760_000_000 + version}\n")
    return _content_lists(image)


def _content_lists(image: Path) -> dict[str, Path]:
    everything = {"/" + str(p.relative_to(image)) for p in image.rglob("*")}
    lists = {
        bundle: {path for path in everything if any(fnmatch.fnmatch(path, p) for p in patterns)}
        for bundle, patterns in BUNDLES.items()
    }
    lists["os-core"] = everything.difference(*lists.values())
    folder = image.with_suffix(".content")
    folder.mkdir(exist_ok=True)
    for bundle, paths in lists.items():
        (folder / bundle).write_text("".join(f"{p}\n" for p in sorted(paths)))
    return {bundle: folder / bundle for bundle in lists}
