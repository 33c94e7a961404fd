from __future__ import annotations

import errno
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swupd import hashing, tree
from swupd.agent import state, survey
from swupd.agent.objects import XattrRule, digests
from swupd.agent.state import Layout, State
from swupd.errors import DiskSpace, FolderError, HashMismatch, LockError, WriteError
from swupd.tree import Node, Root

NODE = tree.file_node("/x", 0o4755, 5, 7, 8)
DIGEST = hashing.digest(NODE, [b"hello"])
MARKED = Node("/x", "F", stat.S_IFREG | 0o644, size=5, xattrs=(("user.a", b"\0\xff"),))
RULES = list(XattrRule)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "data", tmp_path / "cache", "https://host:8/x")


@pytest.fixture
def kept(layout: Layout) -> Iterator[State]:
    made = State(layout)
    yield made
    made.close()


def staged(layout: Layout) -> list[str]:
    return sorted(os.listdir(layout.here / "staged"))


def test_the_cache_has_the_folders_of_the_old_client(layout: Layout, kept: State) -> None:
    assert layout.here == layout.cache / "cache/https___host_8_x"
    assert stat.S_IMODE((layout.here / "staged").stat().st_mode) == 0o700
    assert layout.manifest(10, "os-core") == layout.here / "manifest/10/Manifest.os-core"
    assert kept.part("20/pack-os-core-from-10.tar").parent == layout.here / "download"


def test_a_staged_object_has_all_that_its_digest_covers(layout: Layout, kept: State) -> None:
    kept.staged.put(DIGEST, NODE, [b"he", b"llo"], XattrRule.HASHED)
    found = (layout.here / "staged" / DIGEST).stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o4755, 7, 8)
    node = kept.staged.find(DIGEST, XattrRule.HASHED)
    assert node is not None and node.permissions == 0o4755
    assert b"".join(kept.staged.content(DIGEST)) == b"hello"


@pytest.mark.parametrize(
    "node",
    [
        tree.folder_node("/x", 0o1777, 3, 4),
        Node("/x", "L", stat.S_IFLNK | 0o777, 1, 2, target="/somewhere"),
        Node("/x", "L", stat.S_IFLNK | 0o777, target="\udcff"),
        Node("/x", "D", stat.S_IFDIR | 0o755, xattrs=(("user.a", b"1"),)),
    ],
)
def test_folders_and_links_are_staged_too(kept: State, node: Node) -> None:
    digest = hashing.digest(node)
    kept.staged.put(digest, node, (), XattrRule.HASHED)
    found = kept.staged.find(digest, XattrRule.HASHED)
    assert found is not None and (found.kind, found.target, found.uid) == (node.kind, node.target, node.uid)


@pytest.mark.parametrize("content", [b"hellO", b"hell", b"hello!", b""])
def test_another_content_is_not_staged_and_leaves_nothing(layout: Layout, kept: State, content: bytes) -> None:
    with pytest.raises(HashMismatch, match=DIGEST):
        kept.staged.put(DIGEST, NODE, [content], XattrRule.HASHED)
    assert staged(layout) == []


def test_a_source_that_breaks_off_leaves_nothing(layout: Layout, kept: State) -> None:
    def broken() -> Iterator[bytes]:
        yield b"he"
        raise HashMismatch("broken")

    with pytest.raises(HashMismatch, match="broken"):
        kept.staged.put(DIGEST, NODE, broken(), XattrRule.HASHED)
    assert staged(layout) == []


@pytest.mark.parametrize(
    ("rule", "with_xattrs", "without"),
    [(XattrRule.HASHED, True, False), (XattrRule.IGNORED, False, True), (XattrRule.UNKNOWN, True, True)],
)
def test_which_digests_count_is_the_streams_rule(
    kept: State, rule: XattrRule, with_xattrs: bool, without: bool
) -> None:
    names = [name for _, name in digests(MARKED, [b"hello"], rule)]
    assert (hashing.digest(MARKED, [b"hello"]) in names) is with_xattrs
    assert (hashing.digest(MARKED.without_xattrs(), [b"hello"]) in names) is without


def test_only_xattrs_that_the_digest_covers_are_put_on_an_object(layout: Layout, kept: State) -> None:
    bare = hashing.digest(MARKED.without_xattrs(), [b"hello"])
    kept.staged.put(bare, MARKED, [b"hello"], XattrRule.UNKNOWN)
    assert os.listxattr(layout.here / "staged" / bare) == []
    full = hashing.digest(MARKED, [b"hello"])
    kept.staged.put(full, MARKED, [b"hello"], XattrRule.UNKNOWN)
    assert os.getxattr(layout.here / "staged" / full, "user.a") == b"\0\xff"


def test_capabilities_and_setuid_survive_staging(layout: Layout, kept: State) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    node = Node("/x", "F", stat.S_IFREG | 0o6755, 5, 6, 1, xattrs=(("security.capability", capability),))
    digest = hashing.digest(node, [b"x"])
    kept.staged.put(digest, node, [b"x"], XattrRule.HASHED)
    place = layout.here / "staged" / digest
    assert os.getxattr(place, "security.capability") == capability
    assert stat.S_IMODE(place.stat().st_mode) == 0o6755


DAMAGE = {
    "content": lambda f: f.write_bytes(b"hellO"),
    "mode": lambda f: f.chmod(0o755),
    "owner": lambda f: os.chown(f, 0, 0),
    "link": lambda f: (f.unlink(), f.symlink_to("/etc/passwd")),
    "folder": lambda f: (f.unlink(), f.mkdir()),
    "full folder": lambda f: (f.unlink(), f.mkdir(), (f / "child").touch()),
    "pipe": lambda f: (f.unlink(), os.mkfifo(f)),
    "gone": lambda f: f.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_staged_object_that_was_changed_is_none_and_can_be_staged_again(
    layout: Layout, kept: State, damage: str
) -> None:
    kept.staged.put(DIGEST, NODE, [b"hello"], XattrRule.HASHED)
    DAMAGE[damage](layout.here / "staged" / DIGEST)
    assert kept.staged.find(DIGEST, XattrRule.HASHED) is None
    kept.staged.put(DIGEST, NODE, [b"hello"], XattrRule.HASHED)
    assert kept.staged.find(DIGEST, XattrRule.HASHED) is not None
    assert staged(layout) == [DIGEST]


def test_staging_twice_is_no_error(kept: State) -> None:
    for _ in range(2):
        kept.staged.put(DIGEST, NODE, [b"hello"], XattrRule.HASHED)


def test_a_full_disk_is_said_so(kept: State, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskSpace, match="is full"):
        kept.staged.put(DIGEST, NODE, [b"hello"], XattrRule.HASHED)


def test_cached_bytes_come_back_within_their_limit(layout: Layout, kept: State) -> None:
    place = layout.manifest(10, "os-core")
    assert kept.read_cached(place, 10) is None
    kept.write_cached(place, b"0123456789")
    assert kept.read_cached(place, 10) == b"0123456789"
    assert kept.read_cached(place, 9) is None
    assert os.listdir(place.parent) == [place.name]


def test_a_folder_in_a_cached_files_place_is_none_and_said_when_written(layout: Layout, kept: State) -> None:
    place = layout.manifest(10, "os-core")
    place.mkdir(parents=True)
    assert kept.read_cached(place, 10) is None
    with pytest.raises(WriteError, match=r"Manifest.os-core"):
        kept.write_cached(place, b"x")


def test_a_file_in_a_folders_place_is_said_so(layout: Layout) -> None:
    layout.cache.mkdir()
    (layout.cache / "cache").touch()
    with pytest.raises(FolderError):
        State(layout)


def test_what_a_killed_run_left_half_written_goes(layout: Layout) -> None:
    State(layout).close()
    (layout.here / f"staged/.{DIGEST}.4711").touch()
    (layout.here / f"staged/.{'0' * 64}.4711").mkdir()
    (layout.here / f"staged/{DIGEST}").touch()
    State(layout).close()
    assert staged(layout) == [DIGEST]


def test_a_folder_with_another_mode_is_corrected_with_what_is_in_it(layout: Layout) -> None:
    (layout.here / "staged").mkdir(parents=True)
    (layout.here / "staged").chmod(0o777)
    (layout.here / "staged/old").touch()
    State(layout).close()
    assert stat.S_IMODE((layout.here / "staged").stat().st_mode) == 0o700
    assert staged(layout) == ["old"]


def test_one_at_a_time(layout: Layout) -> None:
    with state.locked(layout):
        if (child := os.fork()) == 0:
            try:
                with state.locked(layout):
                    os._exit(1)
            except LockError:
                os._exit(9)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert stat.S_IMODE(layout.lock.stat().st_mode) == 0o600
        # Last, since closing any descriptor of it gives a POSIX lock up.
        assert layout.lock.read_bytes() == struct.pack("=i", os.getpid())
    with state.locked(layout):
        assert layout.lock.exists()


def test_a_link_in_the_locks_place_is_not_followed(layout: Layout, tmp_path: Path) -> None:
    layout.data.mkdir()
    layout.lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WriteError), state.locked(layout):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_tracking_begins_with_what_was_there(layout: Layout, kept: State) -> None:
    assert state.tracked(layout) == frozenset()
    kept.track(["a"], ["os-core", "b"])
    assert state.tracked(layout) == {"a", "b", "os-core"}
    kept.track(["c"], ["os-core", "b", "x"])
    assert state.tracked(layout) == {"a", "b", "c", "os-core"}
    kept.untrack(["a", "never"])
    assert state.tracked(layout) == {"b", "c", "os-core"}


def test_the_applied_version_is_written_down(layout: Layout, kept: State) -> None:
    layout.data.mkdir()
    kept.applied(20)
    assert layout.version.read_bytes() == b"20\n"


def _rewritten(place: Path) -> None:
    with place.open("r+b") as file:
        file.write(b"jello")


def _replaced(place: Path) -> None:
    place.rename(place.with_name("old"))
    place.write_bytes(b"hello")


TOUCHES: dict[str, Callable[[Path], None]] = {
    "rewritten": _rewritten,
    "rewritten, with its time put back": lambda p: (_rewritten(p), os.utime(p, ns=(0, 0)))[0],
    "made another's": lambda p: os.chown(p, 1, 1),
    "given another mode": lambda p: p.chmod(0o777),
    "given an attribute": lambda p: os.setxattr(p, "user.a", b"x"),
    "replaced": _replaced,
    "linked": lambda p: os.link(p, p.with_name("second")),
}


@pytest.mark.parametrize("touch", TOUCHES)
def test_a_staged_file_that_anybody_touched_is_not_taken_for_one_that_was_hashed(
    layout: Layout, kept: State, touch: str
) -> None:
    kept.staged.put(DIGEST, NODE, [b"hello"], XattrRule.HASHED)
    assert kept.staged.untouched(DIGEST)
    kept.staged.find(DIGEST, XattrRule.HASHED)
    assert kept.staged.untouched(DIGEST), "who only reads does not touch"
    # A file system's clock may tick no more often than that.
    time.sleep(0.02)
    TOUCHES[touch](layout.here / "staged" / DIGEST)
    assert not kept.staged.untouched(DIGEST)


def test_what_an_earlier_run_staged_is_to_be_hashed(layout: Layout) -> None:
    first = State(layout)
    first.staged.put(DIGEST, NODE, [b"hello"], XattrRule.HASHED)
    first.close()
    second = State(layout)
    assert second.staged.node(DIGEST) is not None and not second.staged.untouched(DIGEST)
    second.close()


def test_a_staged_file_gets_one_more_name_and_no_third(kept: State, tmp_path: Path) -> None:
    kept.staged.put(DIGEST, NODE, [b"hello"], XattrRule.HASHED)
    with Root(tmp_path) as root:
        assert kept.staged.link(DIGEST, root.fd, b"a") and not kept.staged.link(DIGEST, root.fd, b"b")
    assert (tmp_path / "a").read_bytes() == b"hello" and not (tmp_path / "b").exists()
    assert (tmp_path / "a").stat().st_nlink == 2


def test_a_staged_file_is_not_linked_to_another_file_system(kept: State) -> None:
    kept.staged.put(DIGEST, NODE, [b"hello"], XattrRule.HASHED)
    with Root(Path("/dev/shm")) as root:
        assert not kept.staged.link(DIGEST, root.fd, b"swupd-test-link")


def test_cleaning_keeps_manifests_unless_told_otherwise(layout: Layout, kept: State) -> None:
    kept.staged.put(DIGEST, NODE, [b"hello"], XattrRule.HASHED)
    kept.part("x.tar").write_bytes(bytes(10))
    (layout.here / "staged/folder").mkdir()
    (layout.here / "staged/folder/x").write_bytes(bytes(3))
    kept.write_cached(layout.manifest(10, "os-core"), b"1234")
    assert state.cached_bytes(layout) == 18
    assert state.cached_bytes(layout, True) == 22
    kept.clean()
    assert (staged(layout), os.listdir(layout.here / "download")) == ([], [])
    assert layout.manifest(10, "os-core").exists()
    assert state.cached_bytes(layout, True) == 4
    kept.clean(manifests=True)
    assert not layout.manifest(10, "os-core").exists()


def test_cleaning_does_not_follow_links(layout: Layout, kept: State, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("x")
    (layout.here / "staged/link").symlink_to(tmp_path / "precious")
    kept.clean(manifests=True)
    assert (tmp_path / "precious/file").exists()


def test_digests_of_what_is_on_disk(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    (tmp_path / "x").chmod(0o644)
    os.setxattr(tmp_path / "x", "user.a", b"\0\xff")
    both = {hashing.digest(MARKED, [b"hello"]), hashing.digest(MARKED.without_xattrs(), [b"hello"])}
    with Root(tmp_path) as root:
        kind, found = survey.look(root, "/x", XattrRule.UNKNOWN)
        assert (kind, set(found)) == ("F", both)
        assert survey.look(root, "/none", XattrRule.UNKNOWN) == (None, {})


def test_no_descriptors_are_left_open(layout: Layout) -> None:
    before = len(os.listdir("/proc/self/fd"))
    made = State(layout)
    made.staged.put(DIGEST, NODE, [b"hello"], XattrRule.HASHED)
    with pytest.raises(HashMismatch):
        made.staged.put("0" * 64, NODE, [b"hello"], XattrRule.HASHED)
    made.staged.find(DIGEST, XattrRule.HASHED)
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_caches_of_other_urls_are_cleaned_when_asked_for(layout: Layout, kept: State) -> None:
    other = layout.here.parent / "https___elsewhere/manifest/10"
    other.mkdir(parents=True)
    (other / "Manifest.MoM").write_text("old")
    kept.clean()
    assert (other / "Manifest.MoM").is_file()
    assert state.cached_bytes(layout, others=True) == 3
    kept.clean(others=True)
    assert not other.exists()


def test_room_is_held_back_for_what_is_written_after_a_change(layout: Layout, kept: State, tmp_path: Path) -> None:
    layout.data.mkdir(exist_ok=True)
    with kept.reserved(5):
        assert len(list(layout.data.glob(".room.*"))) == 5
        kept.applied(20)
    assert not list(layout.data.glob(".room.*"))
    (layout.data / ".room.3").write_bytes(b"left by a power cut")
    State(layout).close()
    assert not list(layout.data.glob(".room.*"))
