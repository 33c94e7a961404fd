from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import random
import resource
import struct
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swupd import archive, delta, hashing, manifest, patches, tree
from swupd.delta import Form
from swupd.errors import ArchiveError
from swupd.server import comparison
from tests.conftest import Golden

MODE = 0o100755
BSPATCH = os.environ.get("SWUPD_BSPATCH")
OLD = random.Random(1).randbytes(5000)
NEW = OLD[:1000] + b"inserted" + OLD[1200:4000] + bytes(b ^ 1 for b in OLD[4000:]) + b"appended"
ENCODINGS = {"none": 0, "bzip2": 1, "gzip": 2, "xz": 3, "zeros": 4}
PACK = {
    "none": bytes,
    "bzip2": bz2.compress,
    "gzip": gzip.compress,
    "xz": lambda b: lzma.compress(b, lzma.FORMAT_XZ, lzma.CHECK_CRC32),
    "zeros": lambda b: struct.pack("<Q", len(b)),
}


def triples(*values: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<qqq", *v) for v in values)


def container(
    control: bytes,
    diff: bytes = b"",
    extra: bytes = b"",
    old: int = 10,
    new: int = 10,
    how: tuple[str, str, str] = ("none", "none", "none"),
    magic: bytes = b"BSDIFF4U",
    offset: int = 67,
) -> bytes:
    """A delta of any shape; blocks are given as they are to be unpacked."""
    blocks = [PACK[h](b) if b or h == "zeros" else b"" for h, b in zip(how, (control, diff, extra), strict=True)]
    bits = sum(1 << (5 * i + ENCODINGS[h]) for i, h in enumerate(how))
    head = struct.pack("<8sBIQQQQQIIIH", magic, offset, *map(len, blocks), old, new, 0, MODE, 1, 2, bits)
    return head.ljust(offset, b"\0") + b"".join(blocks)


texts = st.binary(max_size=600)


@given(texts, st.lists(st.tuples(st.integers(0, 600), st.binary(max_size=20)), max_size=4), st.integers(200, 3000))
@settings(deadline=None)
def test_what_make_makes_apply_turns_into_the_new_file(seed: bytes, edits: list[tuple[int, bytes]], size: int) -> None:
    old = (seed + b"x") * (size // (len(seed) + 1) + 1)
    new = old
    for at, piece in edits:
        new = new[:at] + piece + new[at + len(piece) // 2 :]
    made = comparison.make(old, new, MODE, 1, 2)
    if made is not None:
        assert patches.apply(made, old) == patches.Patched(new, MODE, 1, 2)
        assert len(made) <= 0.9 * len(new)


def reference(control: bytes, diff: bytes, extra: bytes, old: bytes) -> bytes:
    """What bsdiff's blocks mean, said as simply as can be."""
    new, at, added, copied = bytearray(), 0, 0, 0
    for add, copy, seek in struct.iter_unpack("<qqq", control):
        before = (*old[at : at + add], *bytes(add))
        new += bytes(x + y & 255 for x, y in zip(diff[added : added + add], before, strict=False))
        new += extra[copied : copied + copy]
        added, copied, at = added + add, copied + copy, at + add + seek
    return bytes(new)


steps = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 100))


@given(st.lists(steps, max_size=12), st.binary(min_size=1, max_size=100), st.integers(1, 60), st.randoms())
@settings(deadline=None)
def test_a_delta_means_the_same_in_pieces_of_any_size(
    found: list[tuple[int, int, int]], old: bytes, piece: int, chance: random.Random
) -> None:
    control, at = [], 0
    for add, copy, wish in found:
        place = wish % (len(old) + 1)
        control.append((add, copy, place - at - add))
        at = place
    sizes = [sum(step[n] for step in found) for n in (0, 1)]
    diff, extra = (chance.randbytes(size) for size in sizes)
    packed = ("xz" if control else "none", "bzip2" if diff else "none", "gzip" if extra else "none")
    made = container(triples(*control), diff, extra, len(old), sum(sizes), packed)
    wanted = reference(triples(*control), diff, extra, old)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(patches, "_BATCH", piece)
        opened = patches.opened(io.BytesIO(made), len(made), io.BytesIO(old), len(old))
        chunks = list(opened.chunks)
    assert b"".join(chunks) == wanted
    assert all(len(chunk) <= piece for chunk in chunks)


def test_large_files_are_patched_in_little_memory(tmp_path: Path) -> None:
    old, place = tmp_path / "old", tmp_path / "delta"
    size = 48 * 2**20
    block = random.Random(3).randbytes(2**20)
    with old.open("wb") as file:
        file.writelines(block for _ in range(48))
    blocks = [lzma.compress(b) for b in (triples((size, 0, 0)), bytes(size), b"")]
    bits = 1 << 3 | 1 << 5 + 3 | 1 << 10 + 3
    head = struct.pack("<8sBIQQQQQIIIH", b"BSDIFF4U", 67, *map(len, blocks), size, size, 0, MODE, 1, 2, bits)
    place.write_bytes(head.ljust(67, b"\0") + b"".join(blocks))
    tracemalloc.start()
    with place.open("rb") as patch, old.open("rb") as before:
        made = patches.opened(patch, place.stat().st_size, before, size)
        assert all(chunk == block for chunk in made.chunks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size * 2 // 3  # most of it dictionaries of xz


@pytest.mark.parametrize(
    ("delta", "new", "expected"),
    [
        (lambda d: d, NEW, True),
        (lambda d: d, NEW[:-1] + b"x", False),
        (lambda d: d, b"x" + NEW[1:], False),
        (lambda d: d, NEW + b"x", False),
        (lambda d: d, NEW[:-1], False),
        (lambda d: d[:-1], NEW, False),
        (lambda d: b"", NEW, False),
    ],
    ids=["as it is", "another end", "another start", "longer", "shorter", "cut off", "no delta"],
)
def test_whether_a_delta_makes_a_file(delta: Callable[[bytes], bytes], new: bytes, expected: bool) -> None:
    made = comparison.make(OLD, NEW, MODE, 0, 0)
    assert made is not None
    assert patches.makes(delta(made), OLD, new) is expected


def test_a_small_edit_makes_a_small_delta() -> None:
    made = comparison.make(OLD, NEW, MODE, 1, 2)
    assert made is not None and len(made) < len(NEW) / 4
    assert made[:8] == b"BSDIFF4V"


def test_large_files_have_the_large_header() -> None:
    old = OLD * 20
    made = comparison.make(old, old[:50_000] + b"x" + old[50_000:], MODE, 1, 2)
    assert made is not None and made[:8] == b"BSDIFF4U" and made[8] == 67
    assert patches.apply(made, old).content == old[:50_000] + b"x" + old[50_000:]


def test_equal_contents_make_a_delta_of_64_bytes() -> None:
    # The example of the stream format, 4.2.
    content = bytes(range(250)) * 4
    made = comparison.make(content, content, 0o100755, 0, 0)
    assert made is not None
    assert made.hex() == (
        "4253444946463456" "20" "18" "0800" "0000" "e803" "e803" "ed810000" "00000000" "00000000" "0106"
        "e803000000000000" "0000000000000000" "0000000000000000" "e803000000000000"
    )  # fmt: skip
    assert patches.apply(made, content).content == content


@pytest.mark.parametrize(
    ("old", "new"), [(b"", NEW), (OLD, b"x" * 199), (b"a" * 5000, random.Random(2).randbytes(5000)), (OLD, b"")]
)
def test_no_delta_is_made_where_none_pays(old: bytes, new: bytes) -> None:
    assert comparison.make(old, new, MODE, 1, 2) is None


def test_the_same_input_makes_the_same_delta() -> None:
    assert comparison.make(OLD, NEW, MODE, 1, 2) == comparison.make(OLD, NEW, MODE, 1, 2)


@pytest.mark.parametrize("control", ["none", "bzip2", "gzip", "xz"])
@pytest.mark.parametrize("diff", ["none", "bzip2", "gzip", "xz", "zeros"])
@pytest.mark.parametrize("extra", ["none", "bzip2", "gzip", "xz", "zeros"])
def test_every_encoding_of_each_block_is_read(control: str, diff: str, extra: str) -> None:
    old = b"0123456789"
    made = container(triples((6, 3, -4), (4, 0, 0)), bytes(10), bytes(3), 10, 13, (control, diff, extra))
    assert patches.apply(made, old).content == b"012345" + bytes(3) + b"2345"


def test_a_block_may_begin_behind_the_header() -> None:
    made = container(triples((10, 0, 0)), b"\1" * 10, offset=200)
    assert patches.apply(made, bytes(10)).content == b"\1" * 10


def test_zeros_may_be_promised_more_than_are_needed() -> None:
    made = bytearray(container(triples((10, 0, 0)), bytes(10), how=("none", "zeros", "none")))
    made[-8:] = struct.pack("<Q", 2**63)
    assert patches.apply(bytes(made), b"0123456789").content == b"0123456789"


def test_bytes_beyond_the_old_file_count_as_zero() -> None:
    made = container(triples((8, 0, -8), (4, 0, 0)), bytes(12), old=4, new=12)
    assert patches.apply(made, b"abcd").content == b"abcd" + bytes(4) + b"abcd"


BAD = {
    "empty": b"",
    "cut off in the magic": b"BSDI",
    "cut off in the header": container(triples((10, 0, 0)), bytes(10))[:30],
    "fullfile marker": b"FULLV20U",
    "fullfile marker with more": b"FULLV20U" + bytes(100),
    "folder": b"DIR_V20U" + bytes(100),
    "classic bsdiff": b"BSDIFF40" + bytes(100),
    "trailing byte": container(triples((10, 0, 0)), bytes(10)) + b"x",
    "trailing byte behind a compressed block": container(
        triples((5, 5, 0)), bytes(5), bytes(5), how=("none", "none", "xz")
    )
    + b"x",
    "negative diff length made up for": container(triples((-5, 0, 5), (15, 0, -5)), bytes(10)),
    "negative extra length made up for": container(triples((0, -5, 0), (10, 5, 0)), bytes(10)),
    "missing byte": container(triples((10, 0, 0)), bytes(10))[:-1],
    "another old size": container(triples((10, 0, 0)), bytes(10), old=11),
    "no triples": container(b"", bytes(10)),
    "half a triple": container(triples((10, 0, 0))[:-1], bytes(10)),
    "negative diff length": container(triples((-1, 11, 0)), b"", bytes(11)),
    "negative extra length": container(triples((11, -1, 0)), bytes(11)),
    "least diff length": container(triples((-(2**63), 0, 0))),
    "beyond the new file by diff": container(triples((11, 0, 0)), bytes(11)),
    "beyond the new file by extra": container(triples((5, 6, 0)), bytes(5), bytes(6)),
    "beyond the new file by sum": container(triples((2**62, 2**62, 0))),
    "before the old file": container(triples((5, 0, -6), (5, 0, 0)), bytes(10)),
    "behind the old file": container(triples((5, 0, 6), (5, 0, 0)), bytes(10)),
    "far before the old file": container(triples((5, 0, -(2**63)), (5, 0, 0)), bytes(10)),
    "far behind the old file": container(triples((5, 0, 2**63 - 1), (5, 0, 0)), bytes(10)),
    "behind the old file at the end": container(triples((10, 0, 1)), bytes(10)),
    "less than the new file": container(triples((5, 0, 0)), bytes(5)),
    "diff too short": container(triples((10, 0, 0)), bytes(9)),
    "diff too long": container(triples((10, 0, 0)), bytes(11)),
    "extra too short": container(triples((5, 5, 0)), bytes(5), bytes(4)),
    "extra too long": container(triples((5, 5, 0)), bytes(5), bytes(6)),
    "zeros too few": container(triples((10, 0, 0)), bytes(9), how=("none", "zeros", "none")),
    "new file of 4 GiB": container(triples((2**32, 0, 0)), b"", new=2**32, how=("none", "zeros", "none")),
    "new file of 2**63": container(triples((10, 0, 0)), bytes(10), new=2**63),
    "no encodings": container(triples((10, 0, 0)), bytes(10))[:65] + b"\0\0" + triples((10, 0, 0)) + bytes(10),
    "all encodings": container(triples((10, 0, 0)), bytes(10))[:65] + b"\xff\xff" + triples((10, 0, 0)) + bytes(10),
    "zeros as control": container(triples((10, 0, 0)), bytes(10), how=("zeros", "none", "none")),
    "block that is no bzip2": container(triples((10, 0, 0)), bytes(10)).replace(b"\x21\x04", b"\x22\x04"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_delta_is_refused(name: str) -> None:
    with pytest.raises(ArchiveError):
        patches.apply(BAD[name], b"0123456789")


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_a_damaged_delta_gives_an_error_or_a_file_of_the_promised_size(data: st.DataObject) -> None:
    how = tuple(data.draw(st.sampled_from([*ENCODINGS])) for _ in range(2))
    control = data.draw(st.sampled_from(["none", "bzip2", "gzip", "xz"]))
    made = bytearray(
        container(triples((60, 20, -10), (20, 0, 0)), bytes(80), bytes(20), 100, 100, (control, how[0], how[1]))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del made[data.draw(st.integers(0, len(made))) :]
    with contextlib.suppress(ArchiveError):
        patches.apply(bytes(made), bytes(100))


def test_a_tiny_delta_cannot_ask_for_a_file_larger_than_the_release_allows() -> None:
    huge = container(triples((2**29, 0, 0)), b"", new=2**29, how=("none", "zeros", "none"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ArchiveError, match="too large"):
        patches.apply(huge, b"0123456789", limit=2**20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize("how", ["bzip2", "xz", "gzip"])
@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_block_that_unpacks_to_more_than_the_file_needs_is_given_up_early(how: str, block: int) -> None:
    blocks = [b"", b"", b""]
    blocks[block] = bytes(24 * 2**20)
    hows = ["none", "none", "none"]
    hows[block] = how
    bomb = container(*blocks, how=(hows[0], hows[1], hows[2]), old=10, new=10)
    assert len(bomb) < 2**20
    del blocks
    with pytest.raises(ArchiveError, match=r"larger|makes less"):
        patches.apply(bomb, b"0123456789")


def test_a_control_block_has_a_bound_near_the_new_file() -> None:
    control = triples(*[(0, 0, 0)] * 300, (1000, 0, 0))
    with pytest.raises(ArchiveError, match=r"larger|makes less"):
        patches.apply(container(control, bytes(1000), old=10, new=1000, how=("xz", "xz", "none")), bytes(10))


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("a" * 64 + "-" + "b" * 64, ("a" * 64, "b" * 64)),
        ("10-20-" + "a" * 64 + "-" + "b" * 64, ("a" * 64, "b" * 64)),
        ("a" * 64 + "/" + "b" * 64, ("a" * 64, "b" * 64)),
        ("10-20-" + "a" * 64 + "/" + "b" * 64, None),
        ("-" + "a" * 64 + "-" + "b" * 64, None),
        ("10-" + "a" * 64 + "-" + "b" * 64, None),
        ("a" * 64, None),
        ("A" * 64 + "-" + "b" * 64, None),
        ("../" + "a" * 64 + "-" + "b" * 64, None),
        ("a" * 64 + "-" + "b" * 64 + "\n", None),
        ("", None),
    ],
)
def test_names_of_deltas(text: str, pair: tuple[str, str] | None) -> None:
    assert delta.parse_name(text) == pair


@pytest.mark.parametrize("form", Form)
def test_a_name_is_read_as_it_was_written(form: Form) -> None:
    assert delta.parse_name(delta.name(10, 20, "a" * 64, "b" * 64, form)) == ("a" * 64, "b" * 64)


def _objects(www: Path) -> dict[str, bytes]:
    """Contents of all files in fullfiles, by digest."""
    found = {}
    for file in www.glob("*/files/*.tar"):
        for member in archive.members(io.BytesIO(file.read_bytes()), 2**30):
            content = b"".join(member.content)
            assert hashing.digest(member.node, [content]) == file.stem, "a fullfile is what its name says"
            found[file.stem] = content
    return found


def test_golden_packs_hold_deltas_that_give_what_their_names_promise(golden: Golden) -> None:
    objects = _objects(golden.www)
    magics = set()
    count = 0
    for pack in golden.www.glob("20/pack-*-from-10.tar"):
        for member in archive.members(io.BytesIO(pack.read_bytes()), 2**30):
            content = b"".join(member.content)
            folder, _, name = member.name.rstrip("/").partition("/")
            if folder == "staged" and name:
                assert hashing.digest(member.node, [content]) == name
            elif folder == "delta" and name:
                pair = delta.parse_name(name)
                assert pair is not None
                made = patches.apply(content, objects[pair[0]])
                node = tree.file_node("/x", made.mode & 0o7777, len(made.content), made.uid, made.gid)
                assert hashing.digest(node, [made.content]) == pair[1]
                magics.add(content[:8])
                count += 1
    assert count
    assert magics == ({b"BSDIFF4U"} if golden.name.startswith("ostro") else {b"BSDIFF4U", b"BSDIFF4V"})


def test_golden_manifest_deltas_give_the_new_manifest(golden: Golden) -> None:
    applied = 0
    for file in golden.www.glob("20/Manifest-*-delta-from-10"):
        name = file.name.removeprefix("Manifest-").removesuffix("-delta-from-10")
        old = (golden.www / "10" / f"Manifest.{name}").read_bytes()
        data = file.read_bytes()
        if data[:8] == b"FULLV20U":
            continue
        made = patches.apply(data, old)
        assert made.content == (golden.www / "20" / f"Manifest.{name}").read_bytes()
        assert manifest.parse(made.content, name, 20)
        applied += 1
    assert applied or golden.name.startswith("mixer")


@pytest.mark.skipif(not BSPATCH, reason="SWUPD_BSPATCH does not name the bspatch of swupd's bsdiff")
@pytest.mark.parametrize("seed", range(12))
def test_the_c_bspatch_takes_our_deltas(tmp_path: Path, seed: int) -> None:
    rand = random.Random(seed)
    old = rand.randbytes(rand.choice([300, 5000, 100_000]))
    new = bytearray(old)
    for _ in range(rand.randrange(8)):
        at = rand.randrange(len(new))
        new[at : at + rand.randrange(50)] = rand.choice([rand.randbytes(40), bytes(30), b""])
    made = comparison.make(old, bytes(new), 0o100640, 0, 0)
    assert made is not None
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "delta").write_bytes(made)
    assert BSPATCH
    done = subprocess.run([BSPATCH, "old", "new", "delta"], cwd=tmp_path, check=False, capture_output=True)
    assert done.returncode == 0, done
    assert (tmp_path / "new").read_bytes() == bytes(new)
    assert (tmp_path / "new").stat().st_mode == 0o100640
