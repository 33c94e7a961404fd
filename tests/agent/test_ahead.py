"""Folders that are linked before the change is planned: the same tree, whatever became of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swupd.agent import ahead, aside, space
from swupd.agent.ahead import Ahead
from swupd.agent.shadow import Linked, Shadow
from swupd.manifest import Entry
from swupd.tree import Node, Root
from tests.agent.devices import Device
from tests.builders import File, Folder, Link, make_tree

TREE = {
    "/usr/bin/tool": File(b"old", 0o4755),
    "/usr/lib/a/deep/one": "1",
    "/usr/lib/a/deep/\udcff": "2",
    "/usr/lib/a/link": Link("deep/one"),
    "/usr/lib/b": Folder(0o1770, 3, 4, (("user.label", b"x"),)),
    "/usr/lib/b/two": "3",
    "/usr/share/doc/x": "x",
    "/etc/x": "x",
}
CHANGED = "/usr/bin/tool"


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(threading, "active_count", lambda: 1)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    device = make_tree(tmp_path / "device", TREE)
    for folder in device.rglob("*"):
        if folder.is_dir():
            os.utime(folder, ns=(10**18, 10**18))
    with Root(device) as opened:
        yield opened


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "ahead"
    made.mkdir()
    return made


WANTED = {path: Entry("F", "0" * 64, 10, path) for path, spec in TREE.items() if isinstance(spec, str)}
WANTED |= {path: Entry("D", "0" * 64, 10, path) for path in ("/usr/lib", "/usr/lib/a", "/usr/lib/b", "/usr/share")}


def linking(root: Root, place: Path, *changed: str) -> contextlib.AbstractContextManager[Ahead]:
    return ahead.linking(root, place, changed or (CHANGED,), WANTED, keep_xattrs=True)


def make(entry: Entry, fd: int, name: bytes) -> Node:
    opened = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o755, dir_fd=fd)
    os.write(opened, b"new")
    os.close(opened)
    return Node(entry.name, "F", 0o100755, 0, 0, 3)


def build(root: Root, to: Path, linked: Ahead | None, *changed: str) -> Shadow:
    """Makes a shadow in a new folder."""
    to.mkdir()
    write = [Entry("F", "0" * 64, 20, path) for path in changed or (CHANGED,)]
    take = ahead.nothing().take if linked is None else linked.take
    shadow = Shadow(root, "/usr", write, frozenset(), make, keep_xattrs=True, wanted=WANTED, take=take)
    fd = os.open(to, os.O_RDONLY)
    shadow.build(fd, b"usr")
    os.close(fd)
    return shadow


def listing(place: Path) -> list[tuple[object, ...]]:
    """All there is below a folder: of files the inodes, of folders what they are like and when they changed."""
    lines: list[tuple[object, ...]] = []
    for path in sorted(place.rglob("*")):
        found = path.lstat()
        xattrs = [(name, os.getxattr(path, name)) for name in ([] if path.is_symlink() else os.listxattr(path))]
        own = (found.st_mtime_ns,) if stat.S_ISDIR(found.st_mode) else (found.st_ino,)
        new = path.name == "tool"
        times = () if new or path.name in {"bin", "usr"} else own
        lines.append((os.fsencode(path.relative_to(place)), found.st_mode, found.st_uid, found.st_gid, xattrs, times))
    return lines


def test_the_shadow_is_the_same_with_and_without(root: Root, place: Path, tmp_path: Path) -> None:
    plain = build(root, tmp_path / "plain", None)
    with linking(root, place) as linked:
        made = build(root, tmp_path / "made", linked)
    assert listing(tmp_path / "made") == listing(tmp_path / "plain")
    assert (made.right, made.seen) == (plain.right, plain.seen) and made.unchanged()
    assert not list(place.iterdir())


def test_topmost_folders_without_changes_are_linked(root: Root, place: Path) -> None:
    with linking(root, place, "/usr/bin/tool", "/usr/lib/a/deep/one") as linked:
        found = linked.answer()
    assert found is not None
    assert sorted(each.path for each in found) == ["/usr/lib/b", "/usr/share"]


def counted(linked: Ahead) -> list[str]:
    """Paths that are taken, from now on."""
    taken: list[str] = []
    plain = linked.take

    def take(path: str, folder: int, name: bytes) -> Linked | None:
        found = plain(path, folder, name)
        taken.extend([path] if found else [])
        return found

    linked.take = take  # type: ignore[method-assign]
    return taken


@pytest.mark.parametrize(
    "change",
    [
        lambda usr: (usr / "lib/a/deep/three").write_text("3"),
        lambda usr: (usr / "lib/a/deep/one").unlink(),
        lambda usr: (usr / "lib/a/deep").rename(usr / "lib/a/deeper"),
        lambda usr: (usr / "lib/a").chmod(0o700),
        lambda usr: shutil.rmtree(usr / "lib/a"),
        lambda usr: (usr / "lib/a/deep/one").rename(usr / "lib/a/deep/two"),
    ],
)
def test_what_changed_since_is_linked_again(
    root: Root, place: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    with linking(root, place, CHANGED, "/usr/lib/x") as linked:
        taken = counted(linked)
        linked.take("/nothing", -1, b"")
        change(Path(root.path, "usr"))
        made = build(root, tmp_path / "made", linked)
    build(root, tmp_path / "plain", None)
    assert listing(tmp_path / "made") == listing(tmp_path / "plain") and made.unchanged()
    assert "/usr/share" in taken


def test_what_the_change_touches_after_all_is_not_taken(root: Root, place: Path, tmp_path: Path) -> None:
    changed = (CHANGED, "/usr/share/doc/new")
    with linking(root, place) as linked:
        taken = counted(linked)
        build(root, tmp_path / "made", linked, *changed)
    assert taken == ["/usr/lib"]
    assert (tmp_path / "made/usr/share/doc/new").read_text() == "new"


def test_a_shadow_that_is_made_once_more_links_by_itself(root: Root, place: Path, tmp_path: Path) -> None:
    with linking(root, place) as linked:
        build(root, tmp_path / "first", linked)
        shutil.rmtree(tmp_path / "first")
        build(root, tmp_path / "second", linked)
    build(root, tmp_path / "plain", None)
    assert listing(tmp_path / "second") == listing(tmp_path / "plain")


def test_a_process_that_is_killed_has_linked_nothing(
    root: Root, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        shutil.copytree(Path(root.path, "usr/lib"), place / "0", symlinks=True)
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(ahead, "_linked", killed)
    with linking(root, place) as linked:
        taken = counted(linked)
        build(root, tmp_path / "made", linked)
    build(root, tmp_path / "plain", None)
    assert not taken and listing(tmp_path / "made") == listing(tmp_path / "plain")
    assert not list(place.iterdir())


def test_what_cannot_be_linked_is_left(root: Root, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link
    left = iter(range(2))

    def full(*words: object, **more: object) -> None:
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        link(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", full)
    with linking(root, place) as linked:
        found = linked.answer()
    assert found is not None and len(found) < 2
    assert not list(place.iterdir())


@pytest.mark.parametrize("why", ["no processor", "threads", "pretending", "no room", "no process", "elsewhere"])
def test_where_it_is_not_worth_while_nothing_is_linked(
    root: Root, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    changed = ["/etc/x"] if why == "elsewhere" else [CHANGED]
    if why == "no processor":
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    elif why == "threads":
        monkeypatch.setattr(threading, "active_count", lambda: 2)
    elif why == "pretending":
        monkeypatch.setenv("FAKEROOTKEY", "1")
    elif why == "no room":
        monkeypatch.setattr(ahead, "_ROOM", 1 << 60)
    elif why == "no process":
        monkeypatch.setattr(aside, "_forked", lambda *_: (_ for _ in ()).throw(OSError(11, "no more")))
    with linking(root, place, *changed) as linked:
        assert linked.answer() is None
        assert build(root, tmp_path / "made", linked).unchanged()


def test_nothing_is_removed_where_nothing_was_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").mkdir()
    monkeypatch.chdir(tmp_path)
    ahead.nothing().discard()
    assert (tmp_path / "kept").is_dir()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[list[Linked] | None]:
    """What the processes told that linked for agents."""
    told: list[list[Linked] | None] = []
    plain = aside.aside

    @contextlib.contextmanager
    def noted(work: Callable[[], list[Linked]]) -> Iterator[Callable[[], list[Linked] | None]]:
        with plain(work) as answer:

            def tell() -> list[Linked] | None:
                told.append(answer())
                return told[-1]

            yield tell

    monkeypatch.setattr(ahead, "aside", noted)
    return told


def test_an_update_uses_it_and_can_be_taken_back(device: Device, answers: list[list[Linked] | None]) -> None:
    before = device.tree()
    for path in ("share/kept/a", "share/kept/b/c"):
        place = device.root / "usr" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(path)
    mine = device.tree()
    device.ok("update")
    assert answers and answers[0] and "/usr/share/kept" in {each.path for each in answers[0]}
    assert (device.root / "usr/share/kept/b/c").read_text() == "share/kept/b/c"
    assert (device.root / "usr/share/kept/a").stat().st_nlink == 2
    assert not list((device.cache / "ahead").iterdir())
    device.ok("rollback")
    assert device.tree() == mine != before


def test_what_a_killed_run_left_is_removed(device: Device) -> None:
    left = device.cache / "ahead/0/x"
    left.mkdir(parents=True)
    (left / "y").write_text("y")
    device.ok("update")
    assert not list((device.cache / "ahead").iterdir())


def test_where_room_is_short_it_is_given_back_before_folders_are_counted(
    device: Device, answers: list[list[Linked] | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    free: list[int] = []
    plain = space.check

    def check(*words: object) -> int:
        free.append(len(list((device.cache / "ahead").iterdir())))
        return plain(*words)  # type: ignore[arg-type]

    (device.root / "usr/share/kept").mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(space, "check", check)
    monkeypatch.setattr(space, "folders_at_most", lambda root: (1, 1 << 60))
    device.ok("update")
    assert answers[0] and free[-1] == 0


@pytest.mark.parametrize("option", ["--dry-run", "--download"])
def test_what_changes_nothing_links_nothing(device: Device, answers: list[list[Linked] | None], option: str) -> None:
    device.ok("update", option)
    assert not answers
