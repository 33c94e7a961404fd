"""A change in which everything happens that can happen to a path, and what one does to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from swupd import tree
from swupd.agent import helper, transaction
from swupd.agent.objects import XattrRule
from swupd.agent.preparation import How
from swupd.manifest import Entry
from swupd.tree import Root
from tests import trees
from tests.agent.devices import clone
from tests.agent.objects import Objects, put_in_place
from tests.builders import File, Folder, Link, Spec, make_tree

HELPER = Path(helper.__file__).parent / "recovery/swupd-recover"
SHELLS = {
    name: command for name, command in {"sh": ("sh",), "busybox": ("busybox", "sh")}.items() if shutil.which(command[0])
}
_ODD = "/odd name \udcff\\0101'\"$x"
_BEFORE: dict[str, Spec] = {
    "/same": "same",
    "/lib/libc.so.6": File("old c", 0o755),
    "/bin/python3": File("old python", 0o755),
    "/bin/ping": File("ping", 0o4755, 7, 8),
    "/file-folder": "file",
    "/folder-file/a": "a",
    "/folder-file/b/c": "c",
    "/folder-link/a": "a",
    "/link-folder": Link("same"),
    "/link-file": Link("folder-file"),
    "/file-link": "f",
    "/meta": Folder(0o755, xattrs=(("user.both", b"1"), ("user.old", b"1"))),
    "/meta/x": "x",
    "/gone/deep/file": "gone",
    "/gone/other": Link("x"),
    "/kept/ours": "ours",
    "/link": Link("bin"),
    _ODD: "odd",
    "/changed": File("one", xattrs=(("user.a", b"1"),)),
}
_AFTER: dict[str, Spec] = {
    "/same": "same",
    "/lib/libc.so.6": File("new c", 0o755),
    "/bin/python3": File("new python", 0o755),
    "/bin/ping": File("pong", 0o4755, 7, 9),
    "/file-folder/n/m": "file",
    "/file-folder/k": Link("n"),
    "/folder-file": "now",
    "/folder-link": Link("bin"),
    "/link-folder/x": "y",
    "/link-file": File("f", 0o600),
    "/file-link": Link("zz", 1, 2),
    "/meta": Folder(0o2750, 5, 6, (("user.both", b"2"), ("user.new", b""))),
    "/meta/x": "x",
    "/new/sub/file": "new",
    "/new/empty": Folder(0o700),
    "/link": Link("lib"),
    _ODD: "odder",
    "/changed": File("two", xattrs=(("user.a", b"2"),)),
}
_VERSION = "/usr/lib/os-release"


@dataclass(frozen=True)
class Case:
    """A change. old, new: listings of the tree before and after."""

    base: Path
    objects: Objects
    put: dict[str, Entry]
    drop: set[str]
    how: How

    @property
    def old(self) -> list[str]:
        return trees.listing(self.base / "before")

    @property
    def new(self) -> list[str]:
        return trees.listing(self.base / "after")

    def device(self, name: str = "device") -> Path:
        """A fresh tree before the change."""
        place = self.base / name
        shutil.rmtree(place, ignore_errors=True)
        return clone(self.base / "before", place)

    def apply(self, device: Path) -> None:
        """Carries the change out, without ending it."""
        put_in_place(device, self.objects, self.put, self.drop, self.how, XattrRule.HASHED)


def everything(base: Path, how: How, top: str = "/usr") -> Case:
    """The change in which everything happens, below a folder of the tree."""
    before, after = (
        {_VERSION: f"VERSION_ID={version}\n", **{top + path: spec for path, spec in specs.items()}}
        for version, specs in ((10, _BEFORE), (20, _AFTER))
    )
    return case(base, before, after, {top + "/kept/mine": "mine"}, how)


def case(base: Path, before: dict[str, Spec], after: dict[str, Spec], foreign: dict[str, Spec], how: How) -> Case:
    """The change from one tree to another, with files in it that are nobody's."""
    make_tree(base / "before", {**before, **foreign})
    make_tree(base / "after", {**after, **foreign})
    objects = Objects()
    put = objects.add(make_tree(base / "release", after))
    with Root(make_tree(base / "owned", before)) as owned:
        drop = {node.path for node in tree.scan(owned)} - put.keys()
    return Case(base, objects, put, drop, how)


@contextmanager
def memory() -> Iterator[Path]:
    """A folder where making things durable costs nothing, if there is one."""
    fast = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=fast if os.access(fast, os.W_OK) else None) as name:
        yield Path(name)


def recover(device: Path) -> str:
    """What the next run of the agent does first; gives the state."""
    with Root(device) as root:
        return transaction.recover(root)


def by_shell(device: Path, shell: str, path: str = os.environ["PATH"]) -> int:
    """What the initramfs does; gives the exit code."""
    done = subprocess.run([*SHELLS[shell], HELPER, device], check=False, capture_output=True, env={"PATH": path})
    return done.returncode


def states(device: Path) -> list[str]:
    """The journals that are there."""
    place = device / ".swupd"
    names = ("commit.1", "commit.2", "commit.3", "back", "done", "undone")
    return [name for name in names if (place / name).exists()]
