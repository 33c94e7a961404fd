from __future__ import annotations

import errno
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swupd import hashing, tree
from swupd.agent import apply as engine
from swupd.agent import preparation, space, transaction
from swupd.agent.objects import XattrRule
from swupd.agent.plan import Plan
from swupd.agent.preparation import How
from swupd.agent.shadow import Shadow
from swupd.agent.state import Layout, State
from swupd.errors import ApplyError, DiskSpace, HashMismatch, SwupdError, WriteError
from swupd.manifest import Entry
from swupd.tree import Root
from tests import trees
from tests.agent.objects import Objects, put_in_place, settled
from tests.builders import File, Folder, Link, Spec, digest_at, make_tree

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


WAYS = {"exchange": How(), "journal": How(exchange=False)}


def carry_out(
    device: Path,
    objects: Objects,
    put: dict[str, Entry],
    drop: set[str],
    rule: XattrRule = XattrRule.HASHED,
    how: How = WAYS["exchange"],
) -> engine.Outcome:
    """Settles, applies and ends the change."""
    outcome = put_in_place(device, objects, put, drop, how, rule)
    transaction.acted(device)
    return outcome


def turn(tmp_path: Path, before: dict[str, Spec], after: dict[str, Spec], how: How = WAYS["exchange"]) -> Path:
    """A device with one tree becomes another."""
    device = make_tree(tmp_path / "device", before)
    objects = Objects()
    wanted = objects.add(make_tree(tmp_path / "wanted", after))
    with Root(make_tree(tmp_path / "owned", before)) as owned:
        gone = {n.path for n in tree.scan(owned)} - wanted.keys()
    carry_out(device, objects, wanted, gone, how=how)
    return device


KINDS: dict[str, dict[str, Spec]] = {
    "file": {"/x": File("one", 0o644)},
    "other file": {"/x": File("two", 0o4755, 7, 8)},
    "folder": {"/x": Folder(0o755)},
    "other folder": {"/x": Folder(0o1770, 7, 8)},
    "full folder": {"/x/a": "a", "/x/b/c": "c", "/x/b/d": Link("c"), "/x/e": None},
    "other full folder": {"/x/a/now": "folder", "/x/b": "now file", "/x/z": Link("a")},
    "link": {"/x": Link("somewhere")},
    "other link": {"/x": Link("else", 7, 8)},
    "link to a folder": {"/x": Link("/etc")},
    "nothing": {},
}


@pytest.mark.parametrize("before", KINDS)
@pytest.mark.parametrize("after", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_everything_can_become_everything(tmp_path: Path, before: str, after: str, way: str) -> None:
    around: dict[str, Spec] = {"/a": "a", "/xa/b": "sibling", "/z": "z"}
    first, second = ({f"/usr{path}": spec for path, spec in {**KINDS[k], **around}.items()} for k in (before, after))
    device = turn(tmp_path, first, second, WAYS[way])
    assert trees.listing(device) == trees.listing(tmp_path / "wanted")
    assert os.listdir(device) == ["usr"]


def test_os_release_comes_last(tmp_path: Path) -> None:
    told: list[str] = []
    device = make_tree(tmp_path / "device", {"/usr/lib/os-release": "old"})
    objects = Objects()
    wanted = objects.add(make_tree(tmp_path / "wanted", {"/usr/lib/os-release": "new", "/z": "z"}))

    def progress(done: int, total: int, unit: str) -> None:
        told.append((device / "usr/lib/os-release").read_text())

    with Root(device) as root:
        made = settled(root, wanted, set())
        engine.apply(made, objects, root, XattrRule.HASHED, progress)
    assert told[:-1] == ["old"] * (len(told) - 1) and told[-1] == "new"


@pytest.mark.parametrize("fails", range(1, 6))
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EIO, "Input/output error"), WriteError),
        (OSError(errno.ENOSPC, "No space left"), DiskSpace),
        (HashMismatch("swapped"), HashMismatch),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failure_before_the_commit_leaves_the_tree_as_it_was(
    tmp_path: Path, fails: int, error: Exception, expected: type[BaseException]
) -> None:
    device = make_tree(tmp_path / "device", {f"/usr/{n}": f"old {n}" for n in "abcde"} | {"/usr/gone": "gone"})
    before = trees.listing(device)
    objects = Objects(fails, error)
    wanted = objects.add(make_tree(tmp_path / "wanted", {f"/usr/{n}": f"new {n}" for n in "abcde"}))
    with pytest.raises(expected):
        carry_out(device, objects, wanted, {"/usr/gone"})
    assert trees.listing(device) == before
    objects.error = None
    carry_out(device, objects, wanted, {"/usr/gone"})
    assert trees.listing(device) == trees.listing(tmp_path / "wanted")


@pytest.mark.parametrize("damage", ["content", "missing", "kind"])
def test_a_staged_object_that_was_swapped_after_its_check_is_not_installed(tmp_path: Path, damage: str) -> None:
    device = make_tree(tmp_path / "device", {"/a": "old", "/b": "old"})
    before = trees.listing(device)
    objects = Objects()
    wanted = objects.add(make_tree(tmp_path / "wanted", {"/a": "new a", "/b": "new b"}))
    digest = wanted["/b"].digest
    if damage == "content":
        objects.contents[digest] = b"evil!"
    elif damage == "missing":
        del objects.nodes[digest]
    else:
        objects.nodes[digest] = tree.folder_node("/b")
    with pytest.raises(HashMismatch, match="/b"):
        carry_out(device, objects, wanted, set())
    assert trees.listing(device) == before


def test_a_digest_of_another_kind_of_object_is_not_installed(tmp_path: Path) -> None:
    device = make_tree(tmp_path / "device", {"/a": "old"})
    before = trees.listing(device)
    objects = Objects()
    wanted = objects.add(make_tree(tmp_path / "wanted", {"/a": Link("x")}))
    lying = {"/a": Entry("F", wanted["/a"].digest, 20, "/a")}
    with pytest.raises(HashMismatch):
        carry_out(device, objects, lying, set())
    assert trees.listing(device) == before


def test_nothing_is_written_through_a_symlink(tmp_path: Path) -> None:
    outside = make_tree(tmp_path / "outside", {"/lib/a": "precious", "/lib/gone": "precious"})
    device = make_tree(tmp_path / "device", {"/usr/lib": Link(str(outside / "lib"))})
    before = trees.listing(device)
    objects = Objects()
    wanted = objects.add(make_tree(tmp_path / "wanted", {"/usr/lib/a": "new"}))
    del wanted["/usr/lib"]
    with pytest.raises(ApplyError):
        carry_out(device, objects, wanted, {"/usr/lib/gone"})
    assert trees.listing(device) == before
    made = Plan((wanted["/usr/lib/a"],), ("/usr/lib/gone",))
    with Root(device) as root, pytest.raises(SwupdError):
        engine.apply(made, objects, root, XattrRule.HASHED, lambda *_: None)
    assert trees.listing(outside) == trees.listing(
        make_tree(tmp_path / "same", {"/lib/a": "precious", "/lib/gone": "precious"})
    )
    assert trees.listing(device) == before


def test_a_folder_with_foreign_files_is_kept_and_named(tmp_path: Path) -> None:
    device = make_tree(tmp_path / "device", {"/opt/x/ours": "ours", "/opt/x/mine/deep": "mine"})
    outcome = carry_out(device, Objects(), {}, {"/opt/x", "/opt/x/ours"})
    assert outcome.kept == ("/opt/x",)
    assert (outcome.removed, outcome.written) == (1, 0)
    assert (device / "opt/x/mine/deep").read_text() == "mine"
    assert not (device / "opt/x/ours").exists()


@pytest.mark.parametrize("kind", ["file", "pipe", "socketless device"])
def test_a_folder_with_foreign_files_does_not_become_a_file(tmp_path: Path, kind: str) -> None:
    device = make_tree(tmp_path / "device", {"/x/ours": "ours", "/y": "old"})
    if kind == "file":
        (device / "x/mine").write_text("mine")
    elif kind == "pipe":
        os.mkfifo(device / "x/mine")
    else:
        os.mknod(device / "x/mine", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    before = {p.relative_to(device) for p in device.rglob("*")}
    objects = Objects()
    wanted = objects.add(make_tree(tmp_path / "wanted", {"/x": "a file now", "/y": "new"}))
    with pytest.raises(ApplyError, match="/x/mine"):
        carry_out(device, objects, wanted, {"/x/ours"})
    assert {p.relative_to(device) for p in device.rglob("*")} == before
    assert (device / "y").read_text() == "old"


def test_xattrs_capabilities_and_setuid_survive(tmp_path: Path) -> None:
    after: dict[str, Spec] = {
        "/ping": File("ping", 0o755, xattrs=(("security.capability", CAPABILITY),)),
        "/sudo": File("sudo", 0o6755, 5, 6, (("user.a", b"\0\xff"), ("user.b", b""))),
        "/folder": Folder(0o2775, 5, 6, (("user.f", b"1"),)),
    }
    device = turn(tmp_path, {"/ping": "old", "/folder": Folder(xattrs=(("user.old", b"1"),))}, after)
    assert trees.listing(device) == trees.listing(tmp_path / "wanted")
    assert os.getxattr(device / "ping", "security.capability") == CAPABILITY
    assert os.listxattr(device / "folder") == ["user.f"]


@pytest.mark.parametrize("rule", [XattrRule.IGNORED, XattrRule.UNKNOWN])
def test_labels_of_the_device_stay_on_folders_where_digests_do_not_cover_xattrs(
    tmp_path: Path, rule: XattrRule
) -> None:
    device = make_tree(tmp_path / "device", {"/folder": Folder(0o755, xattrs=(("user.label", b"device"),))})
    objects = Objects()
    wanted = objects.add(make_tree(tmp_path / "wanted", {"/folder": Folder(0o700)}))
    carry_out(device, objects, wanted, set(), rule)
    assert stat.S_IMODE((device / "folder").stat().st_mode) == 0o700
    assert os.getxattr(device / "folder", "user.label") == b"device"


def test_a_files_old_content_stays_open_for_those_who_read_it(tmp_path: Path) -> None:
    device = make_tree(tmp_path / "device", {"/a": "old"})
    objects = Objects()
    wanted = objects.add(make_tree(tmp_path / "wanted", {"/a": "new"}))
    with (device / "a").open() as reading:
        carry_out(device, objects, wanted, set())
        assert reading.read() == "old"
    assert (device / "a").read_text() == "new"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=60", "none", place], check=False)
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_leaves_the_tree_as_it_was(tmp_path: Path, small: Path) -> None:
    device = make_tree(small / "device", {"/a": "old", "/gone": "gone"})
    before = trees.listing(device)
    objects = Objects()
    wanted = objects.add(make_tree(tmp_path / "wanted", {"/a": "new", "/b": bytes(700_000), "/c": bytes(700_000)}))
    with pytest.raises(DiskSpace, match="is full"):
        carry_out(device, objects, wanted, {"/gone"})
    assert trees.listing(device) == before


def test_too_little_room_is_seen_before_anything_is_written(tmp_path: Path, small: Path) -> None:
    device = make_tree(small / "device", {"/a": "old"})
    state = State(Layout(tmp_path / "data", tmp_path / "cache", "x"))
    contents = {f"/{n}": bytes([n]) * 300_000 for n in range(4)}
    entries = []
    for path, content in contents.items():
        node = tree.file_node(path, 0o644, len(content))
        entries.append(Entry("F", hashing.digest(node, [content]), 20, path))
        state.staged.put(entries[-1].digest, node, [content], XattrRule.HASHED)
    with Root(device) as root:
        assert space.check(state.staged, Plan(tuple(entries[:2])), root) == 2 * 303_104
        with pytest.raises(DiskSpace, match="nothing was changed"):
            space.check(state.staged, Plan(tuple(entries)), root)
        empty = tree.file_node("/", 0o644, 0)
        state.staged.put(hashing.digest(empty), empty, (), XattrRule.HASHED)
        many = tuple(Entry("F", hashing.digest(empty), 20, f"/many{n}") for n in range(100))
        with pytest.raises(DiskSpace, match="room for 100 files"):
            space.check(state.staged, Plan(many), root)
    state.close()


def test_what_is_staged_beside_the_tree_needs_no_room_twice(small: Path) -> None:
    device = make_tree(small / "device", {"/a": "old"})
    state = State(Layout(small / "data", small / "cache", "x"))
    content = bytes(700_000)
    node = tree.file_node("/x", 0o644, len(content))
    digest = hashing.digest(node, [content])
    state.staged.put(digest, node, [content], XattrRule.HASHED)
    first, second = (Entry("F", digest, 20, path) for path in ("/x", "/y"))
    with Root(device) as root:
        assert space.check(state.staged, Plan((first,)), root) == 700_416
        with pytest.raises(DiskSpace, match="nothing was changed"):
            space.check(state.staged, Plan((first, second)), root)
        engine.apply(Plan((first,)), state.staged, root, XattrRule.HASHED, lambda *_: None)
    assert (device / "x").read_bytes() == content
    state.close()


@pytest.mark.parametrize("damaged", [False, True])
def test_staged_files_are_read_again_only_where_somebody_touched_them(
    tmp_path: Path, damaged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = make_tree(tmp_path / "wanted", {"/usr/a": "one", "/usr/b": "two"})
    device = make_tree(tmp_path / "device", {"/usr/a": "old"})
    state = State(Layout(tmp_path / "data", tmp_path / "cache", "file:///x"))
    entries = {}
    with Root(wanted) as root:
        for node in tree.scan(root):
            entries[node.path] = Entry(node.kind, digest_at(root, node.path) or "", 20, node.path)
            state.staged.put(
                entries[node.path].digest, node, root.chunks(node) if node.kind == "F" else (), XattrRule.HASHED
            )
    read: list[bytes] = []
    original = preparation.read_chunks
    monkeypatch.setattr(preparation, "read_chunks", lambda fd, name: read.append(name) or original(fd, name))
    if damaged:
        place = state.layout.here / "staged" / entries["/usr/b"].digest
        time.sleep(0.02)
        place.write_bytes(b"owt")
    with Root(device) as root:
        made = Plan(tuple(sorted(entries.values(), key=lambda e: e.name)))
        if damaged:
            with pytest.raises(HashMismatch):
                engine.apply(made, state.staged, root, XattrRule.HASHED, lambda *_: None)
        else:
            engine.apply(made, state.staged, root, XattrRule.HASHED, lambda *_: None)
    assert len(read) == damaged
    assert (device / "usr/a").read_text() == ("old" if damaged else "one")
    state.close()


def test_no_room_in_the_cache_is_seen_before_anything_is_fetched(small: Path) -> None:
    space.check_download(small, 500_000)
    with pytest.raises(DiskSpace, match="--cachedir"):
        space.check_download(small, 5_000_000)


SPOILED = {
    "mode": lambda place: place.chmod(0o600),
    "owner": lambda place: os.chown(place, 5, 0),
    "group": lambda place: os.chown(place, 0, 5),
    "size": lambda place: os.truncate(place, 2),
    "kind": lambda place: (place.unlink(), place.symlink_to("else")),
    "a folder's mode": lambda place: place.parent.chmod(0o700),
}


@pytest.mark.parametrize("how", SPOILED)
def test_what_is_not_on_the_disk_as_it_was_written_is_not_put_in_place(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = make_tree(tmp_path / "device", {"/usr/keep": "keep"})
    objects = Objects()
    wanted = objects.add(make_tree(tmp_path / "wanted", {"/usr/keep": "keep", "/usr/d/new": "new"}))
    verify = preparation.Preparation._verify

    def spoiled(self: preparation.Preparation, shadow: Shadow, opened: Root, place: str) -> None:
        SPOILED[how](Path(opened.path) / place[1:] / "d/new")
        verify(self, shadow, opened, place)

    monkeypatch.setattr(preparation.Preparation, "_verify", spoiled)
    with Root(device) as root, pytest.raises(HashMismatch, match="not on the disk as it was written"):
        engine.apply(settled(root, wanted, set()), objects, root, XattrRule.HASHED, lambda *_: None)
    assert sorted(os.listdir(device / "usr")) == ["keep"]
