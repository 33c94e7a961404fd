from __future__ import annotations

import hashlib
import io
import lzma
import random
import stat
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swupd import archive, hashing, paths, tree
from swupd.server import archiver, xz
from swupd.server.xz import Effort
from swupd.tree import Node

DIGEST = "ab" * 32
LIMIT = 2**24


def read(tar: bytes, limit: int = LIMIT) -> list[tuple[str, Node, bytes]]:
    return [(m.name, m.node, b"".join(m.content)) for m in archive.members(io.BytesIO(tar), limit)]


def link(target: str) -> Node:
    return Node("/x", "L", stat.S_IFLNK | 0o777, target=target)


def file(content: bytes, **fields: object) -> Node:
    return Node("/x", "F", stat.S_IFREG | 0o644, size=len(content), **fields)  # type: ignore[arg-type]


OBJECTS = {
    "empty file": (file(b""), b""),
    "file": (file(b"hello"), b"hello"),
    "large file": (file(bytes(300_000)), bytes(300_000)),
    "setuid, setgid, sticky": (Node("/x", "F", stat.S_IFREG | 0o7755, size=1), b"x"),
    "folder": (tree.folder_node("/x", 0o1777, 5, 6), b""),
    "owner": (file(b"x", uid=1000, gid=201), b"x"),
    "huge owner": (file(b"x", uid=2**32 - 2, gid=0o10000000), b"x"),
    "link": (link("foo"), b""),
    "link of 100 bytes": (link("a" * 100), b""),
    "link of 101 bytes": (link("a" * 101), b""),
    "link of 4000 bytes": (link("ü" * 2000), b""),
    "link of bytes that are no text": (link(paths.decode(b"\xff\xfe/\x80")), b""),
    "long link of bytes that are no text": (link(paths.decode(b"\xff\xfe/\x80" * 60)), b""),
    "link with owner": (Node("/x", "L", stat.S_IFLNK | 0o777, 7, 8, target="t"), b""),
    "xattr": (file(b"x", xattrs=(("user.a", b"1"),)), b"x"),
    "xattrs of bytes": (
        file(b"x", xattrs=(("security.capability", bytes(range(20))), ("user.z", b""), ("user.\udcff", b"\xff\0\n="))),
        b"x",
    ),
    "xattrs of a folder": (Node("/x", "D", stat.S_IFDIR | 0o755, xattrs=(("user.a", b"\0"),)), b""),
}


@pytest.mark.parametrize("effort", Effort)
@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_survives_its_fullfile(name: str, effort: Effort) -> None:
    node, content = OBJECTS[name]
    ((member, found, data),) = read(archiver.fullfile(DIGEST, node, content, effort))
    assert member == DIGEST
    assert data == content
    assert hashing.digest(found, [data]) == hashing.digest(node, [content])
    assert (found.permissions if node.kind != "L" else 0o777) == node.permissions


@pytest.mark.parametrize("name", OBJECTS)
def test_other_programs_read_our_fullfiles(name: str) -> None:
    node, content = OBJECTS[name]
    tar = lzma.decompress(archiver.fullfile(DIGEST, node, content))
    with tarfile.open(fileobj=io.BytesIO(tar), encoding="utf-8", errors="surrogateescape") as opened:
        (found,) = opened.getmembers()
    assert (found.uid, found.gid, found.size, found.mtime) == (node.uid, node.gid, node.size, 0)
    assert (found.uname, found.gname) == ("", "")
    assert found.linkname == node.target


xattr_names = st.binary(min_size=1, max_size=30).filter(lambda b: not set(b"=\0") & set(b)).map(paths.decode)


@given(
    st.lists(st.tuples(xattr_names, st.binary(max_size=300)), unique_by=lambda e: e[0]),
    st.binary(min_size=1, max_size=300).filter(lambda b: b"\0" not in b),
)
@settings(deadline=None)
def test_any_xattrs_and_targets_survive(xattrs: list[tuple[str, bytes]], target: bytes) -> None:
    named = tuple(sorted(((f"user.{k}", v) for k, v in xattrs), key=lambda e: paths.encode(e[0])))
    node = Node("/x", "L", stat.S_IFLNK | 0o777, target=paths.decode(target), xattrs=named)
    ((_, found, _),) = read(archiver.fullfile(DIGEST, node, b""))
    assert (found.target, found.xattrs) == (node.target, node.xattrs)


@given(st.lists(st.text("a.é", min_size=1, max_size=130), min_size=1, max_size=4).map("/".join))
def test_any_name_survives_and_takes_the_room_that_is_counted(name: str) -> None:
    node = tree.file_node("/x", 0o644, 3)
    tar = archiver.Group(((name, node, lambda: b"abc"),)).tar()
    assert len(tar) == archiver.member_size(name, node)
    ((found, _, data),) = read(tar + bytes(1024))
    assert (found, data) == (name, b"abc")
    with tarfile.open(fileobj=io.BytesIO(tar + bytes(1024)), encoding="utf-8") as opened:
        assert opened.getnames() == [name]


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("a" * 100, 1),
        ("a" * 101, 3),
        ("a" * 155 + "/" + "b" * 100, 1),
        ("a" * 156 + "/" + "b" * 100, 3),
        ("a" * 155 + "/" + "b" * 101, 3),
        ("a" * 100 + "/", 3),
        ("/" + "a" * 100, 3),
    ],
)
def test_a_long_name_needs_no_record_where_its_two_parts_have_room(name: str, blocks: int) -> None:
    assert len(archiver.header(name, tree.file_node("/x", 0o644, 0))) == blocks * 512


@pytest.mark.parametrize("name", ["delta/10-20-" + "a1" * 32 + "-" + "b2" * 32, "c3" * 80])
def test_a_name_that_needs_a_record_is_said_there_only(name: str) -> None:
    record, head = (archiver.header(name, tree.file_node("/x", 0o644, 0))[at : at + 512] for at in (512, 1024))
    assert name.encode() in record
    assert not any(name[at : at + 20].encode() in head for at in range(0, len(name) - 20))


def test_the_same_object_gives_the_same_bytes() -> None:
    for node, content in OBJECTS.values():
        assert archiver.fullfile(DIGEST, node, content) == archiver.fullfile(DIGEST, node, content)


def test_a_large_content_takes_more_bytes_where_less_effort_is_made() -> None:
    words = [random.Random(n).randbytes(6) for n in range(5_000)]
    content = b"".join(random.Random(1).choices(words, k=100_000))
    sizes = [len(archiver.fullfile(DIGEST, file(content), content, e)) for e in (Effort.NORMAL, Effort.FAST)]
    assert sizes[0] < sizes[1] < len(content)


def test_a_large_content_is_a_stream_of_its_own_that_packs_can_reuse() -> None:
    content = random.Random(6).randbytes(200_000)
    node = file(content)
    tar = archiver.fullfile(DIGEST, node, content)
    assert archiver.content_stream(DIGEST, node, tar) == archiver.content_block(content)
    assert archiver.content_stream("cd" * 32, node, tar) is None
    assert archiver.content_stream(DIGEST, file(b"x"), archiver.fullfile(DIGEST, file(b"x"), b"x")) is None


def test_a_manifest_is_shipped_as_it_is_hashed() -> None:
    found = read(archiver.manifest_tar("Manifest.MoM", b"text", [("Manifest.MoM.sig", b"signature")]))
    assert [(n, node.mode, node.uid, node.gid, data) for n, node, data in found] == [
        ("Manifest.MoM", 0o100644, 0, 0, b"text"),
        ("Manifest.MoM.sig", 0o100644, 0, 0, b"signature"),
    ]


def test_a_pack_holds_its_two_folders_and_then_its_members_in_order() -> None:
    contents = [bytes([i]) * (3 * 2**20) for i in range(5)]
    members = [(f"staged/{i}", file(c), lambda c=c: c) for i, c in enumerate(contents)]
    groups = list(archiver.grouped(members, 8 * 2**20))
    assert [len(g.members) for g in groups] == [2, 2, 1]
    parts = [archiver.pack_head(), *(xz.compress(g.tar()) for g in groups), archiver.pack_end()]
    pack = b"".join(parts)
    found = read(pack, 2**26)
    assert [(n.rstrip("/"), node.permissions) for n, node, _ in found[:2]] == [("delta", 0o700), ("staged", 0o700)]
    assert [(n, data) for n, _, data in found[2:]] == [(f"staged/{i}", c) for i, c in enumerate(contents)]


def test_a_changed_member_changes_few_groups() -> None:
    names = [hashlib.sha256(i.to_bytes(4)).hexdigest() for i in range(256 * 30)]
    members = [(f"staged/{n}", file(b"x" * 4000), lambda: b"x" * 4000) for n in names]
    before = {tuple(m[0] for m in g.members) for g in archiver.grouped(members)}
    del members[2000]
    after = {tuple(m[0] for m in g.members) for g in archiver.grouped(members)}
    assert len(before) > 6 and len(after - before) <= 2
