"""What makes an update large, in words."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile
from pathlib import Path

import pytest

from swupd import stream
from swupd.errors import InvalidBundle, InvalidOption
from swupd.server import why
from swupd.tree import Node, file_node, folder_node
from tests import builders
from tests.builders import REST, File, Link


def elf(build_id: bytes, code: bytes) -> bytes:
    """A 64-bit ELF file with two sections that matter."""
    names = b"\0.shstrtab\0.note.gnu.build-id\0.text\0"
    note = struct.pack("<III4s", 4, len(build_id), 3, b"GNU\0") + build_id
    parts, sections, at = b"", [struct.pack("<IIQQQQIIQQ", *[0] * 10)], 64
    for name, kind, data in ((".shstrtab", 3, names), (".note.gnu.build-id", 7, note), (".text", 1, code)):
        where = names.index(name.encode())
        sections.append(struct.pack("<IIQQQQIIQQ", where, kind, 0, 0, at + len(parts), len(data), 0, 0, 1, 0))
        parts += data
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, at + len(parts), 0, 64, 0, 0, 64, len(sections), 1)
    return head + parts + b"".join(sections)


def zipped(year: int) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.txt", (year, 1, 1, 0, 0, 0)), "text")
    return packed.getvalue()


CODE = bytes(range(256)) * 4


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (elf(b"1" * 20, CODE), elf(b"2" * 20, CODE), "build id only"),
        (elf(b"1" * 20, CODE), elf(b"2" * 20, CODE[::-1]), f"{20 + 1024} bytes differ"),
        (elf(b"1" * 20, CODE + b"Jun 01 2026"), elf(b"2" * 20, CODE + b"Jul 11 2026"), "build id and timestamps only"),
        (b"built 2026-06-01 10:11:12", b"built 2026-07-11 23:59:00", "timestamps only"),
        (b"built Mon, 1 at 1780000000", b"built Tue, 1 at 1790000001", "timestamps only"),
        (gzip.compress(b"x" * 99, mtime=1), gzip.compress(b"x" * 99, mtime=2), "timestamps only"),
        (zipped(2020), zipped(2024), "timestamps only"),
        (b"\xa7\x0d\r\n\0\0\0\0\1\2\3\4code", b"\xa7\x0d\r\n\0\0\0\0\4\3\2\1code", "timestamps only"),
        (b"version 1.0", b"version 2.0", "1 bytes differ"),
        (b"\x7fELF broken", b"\x7fELF bricks", "4 bytes differ"),
        (b"same start, same end", b"same start, NEW same end", "up to 4 bytes differ"),
        (b"", b"abc", "up to 3 bytes differ"),
    ],
)
def test_what_differs_in_the_content(old: bytes, new: bytes, expected: str) -> None:
    assert why.content_difference(old, new) == expected


FILE = file_node("/x", 0o644, 3)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (FILE, folder_node("/x"), ["type: file -> folder"]),
        (FILE, file_node("/x", 0o4755, 3), ["mode: 0644 -> 4755"]),
        (FILE, file_node("/x", 0o644, 3, 1, 2), ["owner: 0:0 -> 1:2"]),
        (FILE, FILE._replace(xattrs=(("user.a", b"1"),)), ["xattrs: user.a"]),
        (FILE, file_node("/x", 0o600, 4), ["mode: 0644 -> 0600", "size: 3 -> 4"]),
        (Node("/l", "L", 0o120777, target="a"), Node("/l", "L", 0o120777, target="b"), ["target: a -> b"]),
        (FILE, FILE, []),
    ],
)
def test_what_differs_besides_the_content(old: Node, new: Node, expected: list[str]) -> None:
    assert list(why.differences(old, b"abc", new, b"abc")) == expected


@pytest.fixture(scope="module")
def www(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two releases with a delta pack."""
    base = tmp_path_factory.mktemp("why")
    text = "".join(f"line {i}\n" for i in range(3000))
    content = {"os-core": REST, "a": ["/opt/a"]}
    files = {"/opt": None, "/opt/a": text, "/link": Link("x"), "/gone": "x", "/same": "s"}
    builders.release(base, 10, files, content)
    files = {"/opt": None, "/opt/a": File(text + "more", 0o600), "/link": Link("y"), "/new": "n", "/same": "s"}
    builders.release(base, 20, files, content, previous_versions=1)
    return base / "www"


def test_each_path_that_changed_is_there_with_its_cost(www: Path) -> None:
    answer = why.why(www, 10, 20)
    causes = {cause.path: cause for cause in answer.causes}
    assert set(causes) == {
        "/opt/a", "/link", "/gone", "/new", "/usr/lib/os-release", "/usr/share/clear/versionstamp"
    }  # fmt: skip
    assert (causes["/opt/a"].by, causes["/opt/a"].differs[0]) == ("delta", "mode: 0644 -> 0600")
    assert causes["/opt/a"].cost < 200
    assert (causes["/gone"].change, causes["/gone"].cost) == ("deleted", 0)
    assert causes["/new"].change == "new"
    assert causes["/link"].differs == ("target: x -> y",)
    assert causes["/link"].cost == next(
        p.stat().st_size
        for p in (www / "20/files").iterdir()
        if stream.is_digest(p.stem) and p.stat().st_size == causes["/link"].cost
    )
    assert answer.total == sum(c.cost for c in answer.causes)
    assert [c.cost for c in answer.causes] == sorted((c.cost for c in answer.causes), reverse=True)


def test_one_bundle_can_be_asked_for(www: Path) -> None:
    assert [c.path for c in why.why(www, 10, 20, "a").causes] == ["/opt/a"]
    with pytest.raises(InvalidBundle, match="neither release has a bundle 'b'"):
        why.why(www, 10, 20, "b")


def test_versions_must_be_in_order(www: Path) -> None:
    with pytest.raises(InvalidOption, match="10 is not after 20"):
        why.why(www, 20, 10)


def test_a_delta_costs_what_it_takes_of_the_smallest_pack(tmp_path: Path) -> None:
    old = bytearray(random.Random(7).randbytes(400_000))
    new = bytearray(old)
    for at in range(0, len(new), 41):
        new[at] = new[at] + at // 4000 & 255
    for version, content in ((10, old), (20, new)):
        files = {"/lib.so": File(bytes(content), 0o644)}
        builders.release(tmp_path, version, files, {"os-core": REST}, previous_versions=1)
    www = tmp_path / "www"
    (own,) = (www / "20").glob("pack-os-core-from-10.runs.tar")
    cost = next(c.cost for c in why.why(www, 10, 20).causes if c.path == "/lib.so")
    assert 0 < cost < own.stat().st_size
    own.unlink()
    assert next(c.cost for c in why.why(www, 10, 20).causes if c.path == "/lib.so") > cost
