from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path

import pytest

from swupd import hashing, tree
from swupd.errors import FolderError
from swupd.tree import Node, Root
from tests.builders import File, Folder, Link, digest_at, make_tree

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
XATTRS = (("security.capability", CAPABILITY), ("user.a", b"x"))


def link(target: str) -> Node:
    return Node("/x", "L", stat.S_IFLNK | 0o777, target=target)


VECTORS = [
    (tree.folder_node("/x"), b"", "6c27df6efcd6fc401ff1bc67c970b83eef115f6473db4fb9d57e5de317eba96e"),
    (tree.folder_node("/x", 0o1777), b"", "d93a5e9129361e28b9e244fe422234e3a1794b001a082aeb78e16fd881673a2b"),
    (tree.file_node("/x", 0o644, 0), b"", "28cb7c6cad23920f344157f48ae353caca34e9a2f5cff934a4fdaaf7509f2062"),
    (tree.file_node("/x", 0o644, 0, 1000, 1000), b"",
     "b85f1dc2c2317a20f47a36d3257313b131124ffa6d4f19bb060d43014fd386b0"),
    (tree.file_node("/x", 0o644, 0, 1000, 201), b"",
     "0a3978d8b6ea47b779a2dfb5d6a7f57c93d28e131870bcd187470da3678d1298"),
    (tree.file_node("/x", 0o644, 6, 1000, 201), b"hello\n",
     "53b40563c1162a14d9ce0233a6b346cd0a4cbce54c40affbdf0fc286fd3bfe7b"),
    (tree.file_node("/x", 0o644, 6), b"hello\n", "f716c6cb18be9041e1748d52be544645cfc98d2c99dd7e72bdd6f702aa1ee744"),
    (tree.file_node("/x", 0o4755, 3), b"hi\n", "5cf4ad5056fa396e002e0a63f340565673c446d28f8267c3652ef7ad3a51b180"),
    (link("foo"), b"", "00cae10212ab938555da7199578a1967194026f8510762afcc441a30a1807604"),
    (link("big"), b"", "e4e88483899a4d9179ae00167ecd7e24fe290258df2d0d061a51990c45cc8ec4"),
    (
        Node("/x", "F", stat.S_IFREG | 0o644, xattrs=XATTRS),
        b"",
        "3201d18b110cd7ae3b67404f8fe999dd7753169a0d37bce67411a53e679f10d3",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("node", "content", "expected"), VECTORS)
def test_digests_are_those_of_the_old_programs(node: Node, content: bytes, expected: str) -> None:
    assert hashing.digest(node, [content]) == expected
    assert hashing.digest(node, [content[:2], content[2:], b""]) == expected


@pytest.mark.parametrize(("node", "content", "expected"), VECTORS)
def test_the_same_objects_on_disk_have_the_same_digests(
    tmp_path: Path, node: Node, content: bytes, expected: str
) -> None:
    spec = {
        "F": File(content, node.permissions, node.uid, node.gid, node.xattrs),
        "D": Folder(node.permissions, node.uid, node.gid),
        "L": Link(node.target or "-"),
    }[node.kind]
    with Root(make_tree(tmp_path / "root", {"/x": spec})) as root:
        assert digest_at(root, "/x") == expected
        assert root.node("/x") == node
        assert (digest_at(root, "/x", xattrs=False) == expected) is not node.xattrs or not node.xattrs


def test_a_manifest_is_hashed_as_a_file_of_root_with_mode_0644() -> None:
    assert hashing.digest_manifest(b"hello\n") == VECTORS[6][2]


def test_the_name_of_an_object_is_no_part_of_its_digest() -> None:
    assert hashing.digest(tree.folder_node("/a")) == hashing.digest(tree.folder_node("/b"))


def test_a_value_that_ends_with_nul_gets_no_second_one() -> None:
    values = (b"", b"a", b"a\0")
    nodes = [Node("/x", "F", stat.S_IFREG | 0o644, xattrs=(("user.a", value),)) for value in values]
    assert hashing.digest(nodes[1]) == hashing.digest(nodes[2])
    assert hashing.digest(nodes[0]) != hashing.digest(nodes[1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "M"},
        {"kind": ""},
        {"kind": "FD"},
        {"size": -1},
        {"uid": -1},
        {"gid": -1},
        {"uid": 2**32},
        {"gid": 2**70},
        {"size": 2**64},
        {"target": "x"},
        {"kind": "L"},
        {"xattrs": (("b", b""), ("a", b""))},
        {"xattrs": (("a", b""), ("a", b"x"))},
    ],
)
def test_a_node_cannot_be_made_wrong(wrong: dict[str, object]) -> None:
    values: dict[str, object] = {"path": "/x", "kind": "F", "mode": 0o100644} | wrong
    with pytest.raises(ValueError, match="/x"):
        Node(**values)  # type: ignore[arg-type]


def test_capabilities_and_user_attributes_are_read_sorted(tmp_path: Path) -> None:
    spec = File("x", 0o755, xattrs=(("user.z", b"\0\xff"), ("user.a", b""), ("security.capability", CAPABILITY)))
    with Root(make_tree(tmp_path / "root", {"/ping": spec})) as root:
        node = root.node("/ping")
        assert node is not None
        assert node.xattrs == (("security.capability", CAPABILITY), ("user.a", b""), ("user.z", b"\0\xff"))
        assert node.without_xattrs().xattrs == ()
        bare = root.node("/ping", xattrs=False)
        assert bare is not None and bare == node.without_xattrs()


def test_the_xattrs_of_a_symlink_are_not_those_of_its_target(tmp_path: Path) -> None:
    made = make_tree(tmp_path / "root", {"/file": File("x", xattrs=(("user.a", b"1"),)), "/link": Link("file")})
    os.setxattr(made / "link", "trusted.swupd", b"2", follow_symlinks=False)
    with Root(made) as root:
        node = root.node("/link")
        assert node is not None and node.xattrs == (("trusted.swupd", b"2"),)


@pytest.fixture
def trapped(tmp_path: Path) -> Root:
    """A root in which a folder was replaced by a symlink to a place outside."""
    outside = make_tree(tmp_path / "outside", {"/file": "secret", "/folder/deep": "secret"})
    return Root(make_tree(tmp_path / "root", {"/usr/lib": Link(str(outside)), "/self": Link("."), "/a/file": "x"}))


@pytest.mark.parametrize("path", ["/usr/lib/file", "/usr/lib/folder/deep", "/self/a/file", "/self/self/self"])
def test_a_symlink_on_the_way_is_never_followed(trapped: Root, path: str) -> None:
    with trapped as root:
        assert root.node(path) is None
        assert digest_at(root, path) is None
        assert not root.exists(path)
        with pytest.raises(OSError, match=r"."):
            root.parent(path)


def test_a_symlink_to_a_folder_has_no_names_in_it(trapped: Root) -> None:
    with trapped as root:
        assert root.names("/usr/lib") == ()
        assert root.names("/usr/lib/folder") == ()
        assert root.names("/a") == ("file",)


def test_a_symlink_is_scanned_as_one(trapped: Root) -> None:
    with trapped as root:
        assert [(n.path, n.kind) for n in tree.scan(root)] == [
            ("/a", "D"),
            ("/self", "L"),
            ("/usr", "D"),
            ("/a/file", "F"),
            ("/usr/lib", "L"),
        ]


def test_a_scan_gives_parents_before_children_and_names_in_byte_order(tmp_path: Path) -> None:
    made = make_tree(
        tmp_path / "root", {"/b/z": "", "/b/a/deep": "", "/b.x": "", "/B": "", "/ü": "", "/a": None, "/z\udcff": ""}
    )
    with Root(made) as root:
        found = [n.path for n in tree.scan(root)]
    assert found == ["/B", "/a", "/b", "/b.x", "/z\udcff", "/ü", "/b/a", "/b/z", "/b/a/deep"]
    for path in found:
        parent = path.rpartition("/")[0]
        assert not parent or found.index(parent) < found.index(path)
    tops = [p for p in found if p.count("/") == 1]
    assert tops == sorted(tops, key=os.fsencode)


def test_a_scan_can_begin_at_a_folder(tmp_path: Path) -> None:
    with Root(make_tree(tmp_path / "root", {"/usr/lib/x": "", "/usr2": ""})) as root:
        assert [n.path for n in tree.scan(root, "/usr")] == ["/usr/lib", "/usr/lib/x"]


def test_devices_pipes_and_sockets_are_told_and_left_out(tmp_path: Path) -> None:
    made = make_tree(tmp_path / "root", {"/file": "x"})
    os.mkfifo(made / "pipe")
    os.mknod(made / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(made / "socket"))
        told: list[str] = []
        with Root(made) as root:
            assert [n.path for n in tree.scan(root, special=told.append)] == ["/file"]
            assert root.node("/pipe") is None
            assert root.exists("/pipe")
    assert told == ["/device", "/pipe", "/socket"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with Root(tmp_path) as root:
        assert digest_at(root, "/pipe") is None


def test_looking_around_while_scanning_changes_nothing(tmp_path: Path) -> None:
    made = make_tree(tmp_path / "root", {"/a/1": "", "/a/2": "", "/b/1": "", "/c/d/1": ""})
    with Root(made) as root:
        seen = []
        for node in tree.scan(root):
            assert root.exists("/c/d/1") and root.exists("/a/1")
            seen.append(node.path)
    assert len(seen) == 8


def test_folders_kept_open_can_be_dropped_after_one_was_replaced(tmp_path: Path) -> None:
    made = make_tree(tmp_path / "root", {"/a/x": "old"})
    with Root(made) as root:
        assert root.exists("/a/x")
        (made / "a").rename(made / "b")
        (made / "a").mkdir()
        root.forget()
        assert not root.exists("/a/x")


def test_a_root_that_is_no_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in ("file", "none"):
        with pytest.raises(FolderError, match="cannot open"):
            Root(tmp_path / wrong)


def test_no_descriptors_are_left_open(tmp_path: Path) -> None:
    made = make_tree(tmp_path / "root", {"/a/b/c/d": "x", "/e/f": "y"})
    before = len(os.listdir("/proc/self/fd"))
    with Root(made) as root:
        for node in tree.scan(root):
            digest_at(root, node.path)
            root.names(node.path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_key_is_made_of_little_endian_numbers() -> None:
    node = tree.file_node("/x", 0o644, 1, 2, 3)
    assert struct.pack("<5Q", node.mode, 2, 3, 0, 1)[0] == 0o644 & 0xFF
    assert hashing.digest(node, [b"a"]) != hashing.digest(tree.file_node("/x", 0o644, 1, 3, 2), [b"a"])
