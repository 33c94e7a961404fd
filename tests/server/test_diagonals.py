"""Large files of which most stayed in order: what is found without sorting makes the same file, in no more bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swupd import patches
from swupd.server import comparison, diagonals, matching
from swupd.server.matching import Match
from swupd.stream import KIB, MIB

pytest.importorskip("hdiffpatch", reason="what lies between stretches is matched by hdiffpatch")

CHANCE = random.Random(11)
OLD = CHANCE.randbytes(5 * MIB)
MODE = 0o100644


def relocated(data: bytes, every: int = 61) -> bytes:
    """The same, but for a byte now and then, as of addresses that moved."""
    made = bytearray(data)
    for at in range(7, len(made), every):
        made[at] = made[at] + 16 & 255
    return bytes(made)


def moved(*edits: tuple[int, int, int]) -> bytes:
    """The old file with bytes taken out and put in: (where, how many go, how many come)."""
    made = bytearray(OLD)
    for at, gone, come in sorted(edits, reverse=True):
        made[at : at + gone] = CHANCE.randbytes(come)
    return bytes(made)


def check(old: bytes, new: bytes, found: Sequence[Match]) -> int:
    """Whether matches do as they should, and make the new file; gives how many bytes they leave out."""
    for match, following in pairwise((Match(0, 0, 0), *found, Match(0, len(new), 0))):
        assert match.new + match.length <= following.new
    assert all(m.old >= 0 and m.old + m.length <= len(old) for m in found)
    return len(new) - sum(m.length for m in found)


EDITS = {
    "nothing": (),
    "something at the start": ((0, 0, 5000),),
    "something at the end": ((len(OLD), 0, 3000),),
    "the start gone": ((0, 70_000, 0),),
    "here and there": ((100_000, 0, 8), (1_000_000, 4096, 0), (1_500_000, 1, 1), (3_000_000, 10_000, 90_000)),
    "many": tuple((at, at % 13, at % 17 * 8) for at in range(60_000, len(OLD), 90_000)),
    "close together": ((2_000_000, 0, 8), (2_000_700, 0, 8), (2_001_400, 30, 0)),
}


@pytest.mark.parametrize("edits", EDITS.values(), ids=EDITS)
def test_what_stayed_in_order_is_found(edits: tuple[tuple[int, int, int], ...]) -> None:
    new = relocated(moved(*edits))
    assert diagonals.stretches(OLD, new) is not None
    found = diagonals.matches(OLD, new)
    assert check(OLD, new, found) <= sum(come for _, _, come in edits) + 64 * (len(edits) + 1)
    made = comparison.make(OLD, new, MODE, 0, 0)
    assert made is not None and patches.apply(made, OLD).content == new


def test_it_takes_no_more_bytes_than_matching_the_whole() -> None:
    new = relocated(moved(*EDITS["many"]))
    whole = matching.blocks(OLD, new, matching.matches(OLD, new))
    found = matching.blocks(OLD, new, diagonals.matches(OLD, new))
    assert len(found.extra) <= len(whole.extra) + 64
    assert len(found.control) <= 1.1 * len(whole.control)


@pytest.mark.parametrize(
    "new",
    [
        CHANCE.randbytes(5 * MIB),
        OLD[2 * MIB :] + OLD[: 2 * MIB],
        b"".join(OLD[at : at + 3 * KIB] + CHANCE.randbytes(KIB) for at in range(0, len(OLD), 3 * KIB)),
    ],
    ids=["another file", "halves in the other order", "too much between"],
)
def test_others_are_matched_as_a_whole(new: bytes) -> None:
    assert diagonals.stretches(OLD, new) is None
    assert diagonals.matches(OLD, new) == matching.matches(OLD, new)


def test_small_files_are_matched_as_a_whole() -> None:
    old = OLD[: diagonals.LEAST - 1]
    new = relocated(old)
    assert diagonals.matches(old, new) == matching.matches(old, new)


@pytest.mark.parametrize("zeros", [MIB, 5 * MIB])
def test_what_is_the_same_everywhere_misleads_nobody(zeros: int) -> None:
    old = OLD[: 2 * MIB] + bytes(zeros) + OLD[2 * MIB :]
    new = OLD[: 2 * MIB] + bytes(zeros + 30_000) + relocated(OLD[2 * MIB :])
    found = diagonals.matches(old, new)
    assert check(old, new, found) < 40_000
    made = comparison.make(old, new, MODE, 0, 0)
    assert made is not None and patches.apply(made, old).content == new


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(OLD)), st.integers(0, 40_000), st.integers(0, 40_000)), max_size=12),
    st.integers(3, 500),
)
def test_whatever_came_and_went_the_new_file_is_made(edits: list[tuple[int, int, int]], every: int) -> None:
    new = relocated(moved(*edits), every)
    found = diagonals.matches(OLD, new)
    check(OLD, new, found)
    blocks = matching.blocks(OLD, new, found)
    assert len(blocks.diff) + len(blocks.extra) == len(new)
    made = comparison.make(OLD, new, MODE, 0, 0)
    assert made is None or patches.apply(made, OLD).content == new


@pytest.mark.parametrize("size", [0, 10, 2 * KIB, MIB])
def test_an_old_file_that_is_much_smaller(size: int) -> None:
    old, new = OLD[:size], relocated(OLD)
    found = diagonals.matches(old, new) if old else []
    check(old, new, found)
    made = comparison.make(old, new, MODE, 0, 0)
    assert made is None or patches.apply(made, old).content == new
