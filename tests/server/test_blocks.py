"""How the blocks of deltas are compressed: what is chosen is about the smallest, and what readers know."""

from __future__ import annotations

import bz2
import lzma
import random
import struct

import pytest

from swupd import patches, runs
from swupd.delta import Form, parse_header
from swupd.server import blocks, comparison
from swupd.server.xz import Effort
from swupd.stream import MIB

NOISE = random.Random(4)
UNPACK = {
    "none": bytes,
    "xz": lzma.decompress,
    "bzip2": bz2.decompress,
    "zeros": lambda data: bytes(struct.unpack("<Q", data)[0]),
}


def diff(size: int, every: int) -> bytes:
    """Zeros, but for one byte in so many on the average, of few kinds."""
    made = bytearray(size)
    at = 0
    while (at := at + NOISE.randrange(1, 2 * every)) < size:
        made[at] = NOISE.choice(b"\x10\x20\xf0")
    return bytes(made)


def relocated(count: int) -> bytes:
    """A diff that xz knows how to write: the same few entries again and again, at all kinds of distances."""
    entries = [NOISE.randbytes(24) + bytes(8) for _ in range(600)]
    return b"".join(NOISE.choices(entries, k=count))


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (b"", "none"),
        (b"x", "none"),
        (bytes(100_000), "zeros"),
        (diff(400_000, 100), "bzip2"),
        (relocated(12_000), "xz"),
        (NOISE.randbytes(100_000), "none"),
    ],
)
def test_a_diff_is_stored_by_what_suits_it(block: bytes, expected: str) -> None:
    stored = blocks.diff(block, Form.PLAIN, Effort.BEST, 0)
    assert stored.encoding == expected
    assert UNPACK[stored.encoding](stored.data) == block


@pytest.mark.parametrize("every", [2, 5, 15, 30])
@pytest.mark.parametrize("size", [30_000, 300_000, 3 * MIB])
def test_what_is_chosen_is_about_the_smallest(size: int, every: int) -> None:
    block = diff(size, every)
    chosen = blocks.diff(block, Form.PLAIN, Effort.BEST, 0)
    assert UNPACK[chosen.encoding](chosen.data) == block
    best = min(len(bz2.compress(block)), len(lzma.compress(block, preset=6)))
    assert len(chosen.data) <= 1.3 * best


def test_a_sample_of_a_large_diff_shows_what_is_smaller() -> None:
    for_xz, for_bzip2 = relocated(40_000), diff(2 * MIB, 15)
    assert blocks.diff(for_xz, Form.PLAIN, Effort.BEST, 0).encoding == "xz"
    assert blocks.diff(for_bzip2, Form.PLAIN, Effort.BEST, 0).encoding == "bzip2"


def test_in_a_hurry_all_diffs_are_bzip2s() -> None:
    assert blocks.diff(relocated(40_000), Form.PLAIN, Effort.FAST, 0).encoding == "bzip2"


def test_runs_are_xzs() -> None:
    block = diff(400_000, 100)
    stored = blocks.diff(block, Form.RUNS, Effort.BEST, 0)
    assert stored.encoding == "xz" and runs.expand(lzma.decompress(stored.data)) == block


@pytest.mark.parametrize("form", Form)
def test_small_blocks_are_left_to_the_pack(form: Form) -> None:
    block = diff(30_000, 10)
    plain = runs.pack(block) if form is Form.RUNS else block
    assert blocks.diff(block, form, Effort.BEST, 64_000) == ("none", plain)
    assert blocks.control(block, Effort.BEST, 64_000) == blocks.extra(block, Effort.BEST, 64_000) == ("none", block)


def test_control_blocks_are_the_smaller_of_two() -> None:
    numbers = [(NOISE.randrange(5000), NOISE.randrange(100), NOISE.randrange(-999, 999)) for _ in range(9000)]
    large = b"".join(struct.pack("<qqq", *three) for three in numbers)
    for block in (large, large[:2400], large[:24]):
        stored = blocks.control(block, Effort.BEST, 0)
        assert UNPACK[stored.encoding](stored.data) == block
        smallest = min(len(block), len(bz2.compress(block)), len(lzma.compress(block, check=lzma.CHECK_CRC32)) + 50)
        assert len(stored.data) <= smallest


def test_a_delta_with_bzip2_blocks_is_applied() -> None:
    old = NOISE.randbytes(500_000)
    changed = diff(len(old), 60)
    new = bytes((a + b) & 255 for a, b in zip(old, changed, strict=True))
    made = comparison.make(old, new, 0o100644, 0, 0, effort=Effort.BEST)
    assert made is not None
    assert "bzip2" in parse_header(made, len(made))[0].encodings
    assert patches.apply(made, old).content == new
