"""Diffs in runs, and deltas in that form."""

from __future__ import annotations

import contextlib
import io
import lzma
import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swupd import patches, runs
from swupd.delta import Form
from swupd.errors import ArchiveError
from swupd.server import comparison, xz
from swupd.server.xz import Effort
from swupd.stream import MIB
from tests.test_delta import MODE, NEW, OLD, PACK, triples

ENCODINGS = {"none": 0, "bzip2": 1, "gzip": 2, "xz": 3, "zeros": 4}


def container(control: bytes, pairs: bytes, extra: bytes = b"", size: int = 10, how: str = "none") -> bytes:
    """A delta in runs of any shape, between files of so many bytes."""
    blocks = (control, PACK[how](pairs), extra)
    bits = 1 | 1 << 5 + ENCODINGS[how] | 1 << 10
    head = struct.pack("<8sBIQQQQQIIIHx", b"SWUPDRNS", 68, *map(len, blocks), size, size, 0, MODE, 1, 2, bits)
    return head + b"".join(blocks)


diffs = st.lists(st.tuples(st.integers(0, 700), st.binary(max_size=3)), max_size=20).map(
    lambda found: b"".join(bytes(zeros) + more for zeros, more in found)
)


@given(diffs, st.integers(1, 40).map(lambda n: 2 * n))
def test_what_is_packed_expands_to_the_same_in_parts_of_any_size(diff: bytes, part: int) -> None:
    pairs = runs.pack(diff)
    assert len(pairs) <= runs.PAIR * max(1, len(diff))
    assert b"".join(runs.expand(pairs[at : at + part]) for at in range(0, len(pairs), part)) == diff


@pytest.mark.parametrize("zeros", [0, 1, 254, 255, 256, 257, 511, 512, 513, MIB - 1, MIB, MIB + 1])
@pytest.mark.parametrize("behind", [b"", b"x"])
def test_runs_of_any_length(zeros: int, behind: bytes) -> None:
    diff = bytes(zeros) + behind
    assert runs.expand(runs.pack(diff)) == diff
    assert len(runs.pack(diff)) <= 2 * (zeros // 256 + 2)


def test_a_pair_is_so_many_zeros_and_a_byte() -> None:
    assert runs.pack(b"\0\0\0abc" + bytes(300) + b"d") == b"\x03a\x00b\x00c" + b"\xff\x00" + b"\x2cd"


@given(st.binary(max_size=600), st.lists(st.tuples(st.integers(0, 600), st.binary(max_size=20)), max_size=4))
@settings(deadline=None)
def test_what_make_makes_apply_turns_into_the_new_file(seed: bytes, edits: list[tuple[int, bytes]]) -> None:
    old = (seed + b"x") * (3000 // (len(seed) + 1) + 1)
    new = old
    for at, piece in edits:
        new = new[:at] + piece + new[at + len(piece) // 2 :]
    made = comparison.make(old, new, MODE, 1, 2, form=Form.RUNS)
    if made is not None:
        assert patches.apply(made, old) == patches.Patched(new, MODE, 1, 2)


def test_both_forms_make_the_same_of_one_comparison() -> None:
    compared = comparison.compare(OLD, NEW)
    assert compared is not None
    made = comparison.pack(compared, MODE, 1, 2, forms=Form)
    assert set(made) == set(Form) and made[Form.RUNS] != made[Form.PLAIN]
    assert all(patches.apply(one, OLD) == patches.Patched(NEW, MODE, 1, 2) for one in made.values())


def test_addresses_that_moved_take_fewer_bytes_in_runs() -> None:
    chance = random.Random(5)
    diff = bytearray(2 * MIB)
    for at in range(0, len(diff) - 90, 37):
        diff[at + chance.randrange(3)] = 16
    pairs, plain = xz.compress(runs.pack(bytes(diff)), Effort.RUNS), xz.compress(bytes(diff), Effort.BEST)
    assert len(pairs) < len(plain)


def test_equal_contents_are_zeros() -> None:
    made = comparison.make(OLD, OLD, MODE, 1, 2, form=Form.RUNS)
    assert made is not None
    assert len(made) < 120
    assert patches.apply(made, OLD).content == OLD


def test_pairs_begin_at_an_even_byte() -> None:
    made = comparison.make(OLD, NEW, MODE, 1, 2, loose=MIB, form=Form.RUNS)
    assert made is not None
    control = int.from_bytes(made[13:21], "little")
    assert (made[8] + control) % 2 == 0


TEN = triples((10, 0, 0))
BAD = {
    "cut off in the header": container(TEN, b"\x09x")[:60],
    "half a pair": container(TEN, b"\x08x\x00"),
    "a diff that is too short": container(TEN, b"\x08x"),
    "a diff that is too long": container(TEN, b"\x0ax"),
    "a diff that is far too long": container(TEN, b"\xff\x00" * 10),
    "one pair too many": container(TEN, b"\x09x\x00y"),
    "no pairs": container(TEN, b""),
    "a trailing byte": container(TEN, b"\x09x") + b"x",
    "zeros too few": container(TEN, bytes(9), how="zeros"),
    "pairs that are no xz": container(TEN, b"\x09x", how="xz").replace(b"\xfd7z", b"\xfd8z"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_delta_is_refused(name: str) -> None:
    with pytest.raises(ArchiveError):
        patches.apply(BAD[name], b"0123456789")


def test_a_diff_is_added_to_the_old_file() -> None:
    made = container(TEN, b"\x03\x01\x00\x02\x04\xff")
    assert patches.apply(made, b"0123456789").content == b"0124656788"


@pytest.mark.parametrize("how", ["none", "xz", "bzip2", "gzip"])
def test_a_bomb_of_runs_is_given_up_early(how: str) -> None:
    bomb = container(TEN, b"\xff\x00" * 2**20, how=how)
    tracemalloc.start()
    with pytest.raises(ArchiveError, match="larger"):
        patches.apply(bomb, b"0123456789")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * MIB


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_delta_gives_an_error_or_a_file_of_the_promised_size(data: st.DataObject) -> None:
    how = data.draw(st.sampled_from(["none", "xz", "zeros"]))
    made = bytearray(container(triples((60, 20, -10), (20, 0, 0)), runs.pack(bytes(78) + b"xy"), bytes(20), 100, how))
    for _ in range(data.draw(st.integers(1, 3))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ArchiveError):
        assert len(patches.apply(bytes(made), bytes(100)).content) <= patches.MAX_DELTA_RESULT


def test_large_files_are_patched_in_little_memory(tmp_path: Path) -> None:
    old, place = tmp_path / "old", tmp_path / "delta"
    size = 32 * MIB
    block = random.Random(3).randbytes(MIB)
    with old.open("wb") as file:
        file.writelines(block for _ in range(32))
    pairs = lzma.compress(b"\xff\x00" * (size // 256))
    blocks = [triples((size, 0, 0)), pairs, b""]
    bits = 1 | 1 << 5 + 3 | 1 << 10
    head = struct.pack("<8sBIQQQQQIIIHx", b"SWUPDRNS", 68, *map(len, blocks), size, size, 0, MODE, 1, 2, bits)
    data = head + b"".join(blocks)
    place.write_bytes(data)
    tracemalloc.start()
    with place.open("rb") as patch, old.open("rb") as before:
        made = patches.opened(patch, len(data), before, size)
        assert all(chunk == block for chunk in made.chunks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * MIB


def test_a_delta_behind_something_else_is_read_from_there() -> None:
    made = comparison.make(OLD, NEW, MODE, 1, 2, form=Form.RUNS) or b""
    data = b"before" + made
    opened = patches.opened(io.BytesIO(data), len(data), io.BytesIO(OLD), len(OLD), start=6)
    assert b"".join(opened.chunks) == NEW
