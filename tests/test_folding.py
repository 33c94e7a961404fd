from __future__ import annotations

import io
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swupd import folding, patches
from swupd.errors import ArchiveError
from swupd.folding import Fold
from swupd.server import comparison, kernels

block = pytest.importorskip("lz4.block")
MIB = 2**20


def kernel(payload: bytes, head: bytes = b"MZ" + bytes(500), tail: bytes = b"tail" * 20) -> bytes:
    """A file as Linux packs it with LZ4."""
    packed = b"\x02\x21\x4c\x18"
    for at in range(0, len(payload), 8 * MIB):
        piece = payload[at : at + 8 * MIB]
        data = block.compress(piece, mode="high_compression", compression=9, store_size=False)
        packed += struct.pack("<I", len(data)) + data
    return head + packed + struct.pack("<I", len(payload)) + tail


def payload(seed: int, size: int) -> bytes:
    chance = random.Random(seed)
    words = [chance.randbytes(chance.randrange(3, 12)) for _ in range(500)]
    made = bytearray()
    while len(made) < size:
        made += chance.choice(words)
    return bytes(made[:size])


def apply(made: bytes, old: bytes) -> bytes:
    fold = folding.parse(made)
    assert fold is not None
    plain = b"".join(folding.unfolded(io.BytesIO(old), fold))
    opened = patches.opened(io.BytesIO(made), len(made), io.BytesIO(plain), len(plain), start=folding.HEAD_SIZE)
    return b"".join(folding.folded(opened.chunks, fold.new_start, fold.new_end))


@pytest.mark.parametrize("size", [3 * MIB, 8 * MIB, 9 * MIB])
def test_a_folded_delta_makes_the_new_kernel_and_is_smaller(size: int) -> None:
    inside = payload(1, size)
    after = inside[:70_000] + b"patched" + inside[70_000 : size // 2] + inside[size // 2 + 3 :]
    old, new = kernel(inside), kernel(after, head=b"MZ" + bytes(480) + b"new header")
    made = kernels.make(old, new, 0o100600, 0, 0)
    assert made is not None
    assert apply(made, old) == new
    plain = comparison.make(old, new, 0o100600, 0, 0)
    assert plain is None or len(made) < len(plain)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"x" * 3000, kernel(b"y" * 3000)),
        (kernel(b"y" * 3000), b"x" * 3000),
        (kernel(b"y" * 3000), b"\x02\x21\x4c\x18"),
        (kernel(b"y" * 3000), b"\x02\x21\x4c\x18\xff\xff\xff\xff" + b"z" * 3000),
        (kernel(b"y" * 3000), b"\x02\x21\x4c\x18\x04\0\0\0abcd" + b"z" * 3000),
    ],
    ids=["old is none", "new is none", "only the magic", "length too large", "no block"],
)
def test_no_folded_delta_where_one_of_the_files_is_no_such_kernel(old: bytes, new: bytes) -> None:
    assert kernels.make(old, new, 0o100600, 0, 0) is None


def test_no_folded_delta_where_folding_would_give_other_bytes() -> None:
    inside = payload(2, 100_000)
    packed = block.compress(inside, store_size=False)
    new = b"head\x02\x21\x4c\x18" + struct.pack("<I", len(packed)) + packed
    assert kernels.make(kernel(inside), new, 0o100600, 0, 0) is None


@given(st.lists(st.integers(1, 700), max_size=20), st.integers(0, 1500), st.integers(0, 1500))
@settings(deadline=None)
def test_folding_does_not_depend_on_how_the_bytes_come(sizes: list[int], start: int, length: int) -> None:
    data = payload(3, sum(sizes))
    start = min(start, len(data))
    end = min(start + length, len(data))
    chunks, at = [], 0
    for size in sizes:
        chunks.append(data[at : at + size])
        at += size
    whole = b"".join(folding.folded([data], start, end))
    assert b"".join(folding.folded(chunks, start, end)) == whole
    assert whole.startswith(data[:start]) and whole.endswith(data[end:])


@pytest.mark.parametrize(
    "fold",
    [
        Fold(0, 10_000, 0, 0, 100),
        Fold(510, 600, 0, 0, 100),
        Fold(0, 3000, 0, 0, 100),
        Fold(10_000_000, 10_000_001, 0, 0, 100),
    ],
)
def test_an_old_file_that_is_not_as_was_said_is_refused(fold: Fold) -> None:
    with pytest.raises(ArchiveError, match="old file"):
        list(folding.unfolded(io.BytesIO(kernel(payload(4, 20_000))), fold))


@pytest.mark.parametrize(
    "numbers",
    [
        (5, 4, 0, 0, 1),
        (0, 1, 5, 4, 1),
        (0, 1, 0, 1, 2**40),
        (2**63, 2**63, 0, 0, 1),
        (0, 2**62, 0, 0, 1),
        (0, 1, 0, 2**62, 1),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ArchiveError, match="nonsense"):
        folding.parse(struct.pack("<8sQQQQQ", b"SWUPDLZ4", *numbers))


def test_other_deltas_have_no_such_header() -> None:
    assert folding.parse(b"BSDIFF4U" + bytes(100)) is None
    with pytest.raises(ArchiveError, match="cut off"):
        folding.parse(b"SWUPDLZ4")
