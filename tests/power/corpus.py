"""Two releases between which every kind of change happens, hundreds of times; and the devices that follow them."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import builders
from tests.builders import File, Folder, Link, Spec

OLD, NEW = 10, 20
KINDS = ("none", "file", "empty", "full", "link")
"""What can be at a path: nothing, a file, an empty folder, a folder with files, a symlink."""
CAPABILITY = ("security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
ODD = (
    "name with spaces", "back\\slash", "dollar $HOME `id`", "quo'te\"s", "-rf", "*?[a]", "ünïcode", "\udcff\udcfe raw",
    "a" * 255, "#hash;semi&amp|pipe", "~tilde", "percent%20", "{brace}", ".hidden", "end ", " begin",
)  # fmt: skip
"""Names that a shell, a journal or a codec could take amiss."""
TOPS = ("/usr/share/kinds", "/opt/kinds", "/boot/kinds")


def _noise(seed: str, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _thing(path: str, kind: str, version: int) -> dict[str, Spec]:
    """One object of a kind at a path."""
    if kind == "file":
        return {path: File(f"{path} {version}\n".encode("utf-8", "surrogateescape"), 0o644)}
    if kind == "empty":
        return {path: Folder(0o755 if version == OLD else 0o750)}
    if kind == "full":
        inside: dict[str, Spec] = {f"{path}/{n}": f"{n} {version}\n" for n in (f"v{version}", "both", "deep/er/file")}
        return {path: Folder(), f"{path}/deep": Folder(), f"{path}/deep/er": Folder(), **inside}
    return {path: Link(f"target-{version}")} if kind == "link" else {}


def _changes_of_kind(top: str, version: int) -> dict[str, Spec]:
    tree: dict[str, Spec] = {top: Folder()}
    for before, after in itertools.product(KINDS, KINDS):
        if top.startswith("/boot") and before == "full" != after:
            continue  # files in /boot are left to the boot manager, and so is their folder
        tree |= _thing(f"{top}/{before}-{after}", before if version == OLD else after, version)
    return tree


def _metadata(top: str, version: int) -> dict[str, Spec]:
    new = version == NEW
    xattr = (("user.version", b"%d\0\xff" % version), *((("user.only", b"new"),) if new else ()))
    return {
        f"{top}/mode": File("mode", 0o600 if new else 0o644),
        f"{top}/owner": File("owner", 0o644, 1000 if new else 0, 100 if new else 0),
        f"{top}/setuid": File(f"setuid {version}", 0o4755),
        f"{top}/setuid-gone": File("setuid gone", 0o755 if new else 0o4755),
        f"{top}/setgid-come": File("setgid come", 0o2755 if new else 0o755),
        f"{top}/capable": File(f"capable {version}", 0o755, xattrs=(CAPABILITY,)),
        f"{top}/capable-come": File("come", 0o755, xattrs=(CAPABILITY,) if new else ()),
        f"{top}/xattr": File("xattr", 0o644, xattrs=xattr),
        f"{top}/folder-mode": Folder(0o711 if new else 0o755),
        f"{top}/folder-mode/inside": "the same",
        f"{top}/folder-owner": Folder(0o2775, 0, 100 if new else 0),
        f"{top}/folder-owner/inside": f"changed {version}",
        f"{top}/folder-xattr": Folder(0o755, xattrs=xattr),
        f"{top}/folder-xattr/inside": "the same",
        f"{top}/folder-sticky": Folder(0o1777 if new else 0o755),
    }


def _odd(top: str, version: int) -> dict[str, Spec]:
    tree: dict[str, Spec] = {}
    for number, name in enumerate(ODD):
        tree |= _thing(f"{top}/changed/{name}", "file", version)
        tree |= _thing(f"{top}/link/{name}", "link", version)
        if (number % 2 == 0) == (version == NEW):
            tree |= _thing(f"{top}/come and go/{name}", "full" if number % 4 < 2 else "file", version)
    return tree


def _bulk(version: int) -> dict[str, Spec]:
    tree: dict[str, Spec] = {}
    for n in range(60):
        folder = f"/usr/share/bulk/{n % 6}/{n % 4}"
        tree[f"{folder}/changed-{n}"] = f"changed {n} {version}\n" * (1 + n % 50)
        tree[f"{folder}/same-{n}"] = f"same {n}\n"
        tree[f"{folder}/v{version}-{n}"] = f"of {version} only\n"
    return tree


def _system(version: int) -> dict[str, Spec]:
    """What a running system hangs on: programs, libraries, interpreter, boot files."""
    mark = str(version).encode()
    return {
        "/usr/bin/tool": File(_noise("tool", 70_000) + mark, 0o755),
        "/usr/bin/python3": File(_noise("python", 50_000) + mark, 0o755),
        "/usr/bin/gone" if version == OLD else "/usr/bin/came": File(b"x" + mark, 0o755),
        "/usr/lib/libc.so.6": File(_noise("libc", 30_000) + mark, 0o755),
        "/usr/lib/ld-linux.so.2": File(_noise("ld", 20_000) + mark, 0o755),
        f"/usr/lib/libfoo.so.1.{version}": File(b"foo" + mark, 0o755),
        "/usr/lib/libfoo.so.1": Link(f"libfoo.so.1.{version}"),
        "/usr/lib/twin-a": "twins\n",
        "/usr/lib/twin-b": "twins\n" if version == OLD else "no twin any more\n",
        "/usr/lib/twin-c": "twins\n",
        "/boot/vmlinuz": File(_noise("kernel", 90_000) + mark, 0o600),
        "/boot/loader/entries/one.conf": f"version {version}\n",
        f"/boot/initrd-{version}": "initrd",
        "/opt/app/run": File(b"run" + mark, 0o755),
        "/opt/app/data/same": "same",
        "/etc/shipped.conf": f"shipped {version}\n",
        "/bin": Link("usr/bin"),
        "/srv": Folder(0o755),
        "/version-file": f"{version}\n",
    }


def _addon() -> dict[str, Spec]:
    """A bundle that is added and removed: something of everything."""
    tree: dict[str, Spec] = {"/opt/addon": Folder(0o750), "/usr/share/addon/empty": Folder()}
    for number, name in enumerate(ODD):
        for top in ("/usr/share/addon", "/opt/addon"):
            tree |= _thing(f"{top}/{number}/{name}", ("file", "link", "full")[number % 3], NEW)
    for n in range(60):
        tree[f"/usr/lib/addon/{n % 5}/file-{n}"] = f"addon {n}\n"
    tree["/usr/bin/addon"] = File("addon", 0o4755)
    tree["/usr/bin/addon-capable"] = File("addon capable", 0o755, xattrs=(CAPABILITY,))
    tree["/boot/addon"] = "boot"
    return tree


def release_tree(version: int) -> dict[str, Spec]:
    """All that a release ships."""
    tree: dict[str, Spec] = {}
    for top in TOPS:
        tree |= _changes_of_kind(top, version)
    for top in ("/usr/share/meta", "/opt/meta"):
        tree |= _metadata(top, version)
    for top in ("/usr/share/odd", "/opt/odd"):
        tree |= _odd(top, version)
    return builders.os_tree(version, {**tree, **_bulk(version), **_system(version), **_addon()})


@dataclass(frozen=True)
class Stream:
    """The published releases: www, and the certificate that devices trust."""

    base: Path

    @property
    def www(self) -> Path:
        return self.base / "www"

    @property
    def certificate(self) -> Path:
        return self.base / "keys/release.pem"

    def image(self, version: int) -> Path:
        """The tree that was published."""
        return self.base / f"root-{version}"


def publish(base: Path) -> Stream:
    """Publishes both releases below a folder, unless they are there."""
    stream = Stream(base)
    if not (base / "complete").exists():
        shutil.rmtree(base, ignore_errors=True)
        signer = builders.keys(base / "keys")
        for version in (OLD, NEW):
            tree = release_tree(version)
            addon = tuple(path for path in _addon() if path in tree)
            content: dict[str, tuple[str, ...] | str] = {"os-core": builders.REST, "addon": addon}
            how: dict[str, Any] = {"previous_versions": 1, "signer": signer, "allow_folder_replacement": True}
            builders.release(base, version, tree, content, **how)
        (base / "complete").touch()
    return stream


USER_FILES: dict[str, Spec] = {
    "/usr/local/bin/mine": File("my program", 0o755, 1000, 1000),
    "/usr/local/share/my notes \udcff.txt": "notes",
    "/usr/local/link": Link("../bin/tool"),
    "/usr/share/bulk/0/mine": "a file of mine among the managed",
    "/usr/share/mine/deep/file": "a folder of mine",
    "/opt/mine/file": File("opt", 0o640, 1000, 100, (("user.mine", b"1"),)),
    "/home/user/photo": File(b"\0\1\2", 0o600, 1000, 1000),
    "/root/.profile": "profile",
    "/etc/mine.conf": "mine",
    "/boot/mine": "boot",
    "/var/log/messages": "log",
    "/srv/data/file": "data",
    "/topfile": "at the top",
}
"""What belongs to the device's user, and must stay as it is."""


def add_user_files(root: Path) -> None:
    """Puts the user's files into a tree; one is a second name of a managed file."""
    for path, spec in USER_FILES.items():
        builders.put(root, path, spec)
    os.link(root / "usr/bin/tool", root / "usr/local/tool-as-it-was")


def link_twins(root: Path) -> None:
    """Makes equal managed files names of one object, as a tree is that was unpacked by a saving hand."""
    for name in ("twin-b", "twin-c"):
        place = root / "usr/lib" / name
        place.unlink()
        os.link(root / "usr/lib/twin-a", place)


def damage(root: Path) -> None:
    """Does to a tree what repair is there for."""
    shutil.rmtree(root / "usr/share/bulk/1")
    shutil.rmtree(root / "opt/odd/changed")
    (root / "usr/share/bulk/2").rename(root / "usr/share/bulk/2-moved")
    for place in sorted((root / "usr/share/bulk/3").rglob("*-*")):
        if place.is_file():
            place.write_bytes(b"damaged")
    for place in (root / "usr/bin/tool", root / "boot/vmlinuz", root / "opt/app/run"):
        place.unlink()
        place.write_bytes(b"replaced")
    (root / "usr/share/meta/folder-mode").chmod(0o700)
    (root / "opt/meta/folder-mode").chmod(0o700)
    os.removexattr(root / "opt/meta/folder-xattr", "user.only")
    os.setxattr(root / "opt/meta/folder-xattr", "user.more", b"more")
    (root / "usr/share/meta/setuid").chmod(0o755)
    shutil.rmtree(root / "usr/share/odd/link")
    (root / "usr/share/odd/link").write_text("a file where a folder was")
    target = root / "usr/lib/libfoo.so.1"
    target.unlink()
    target.mkdir()
    (root / "usr/share/extra").mkdir()
    for n in range(10):
        (root / f"usr/share/extra/{n}").write_text("nobody ships this")
