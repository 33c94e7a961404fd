"""Files looked through in windows: what is where it was is found, and the matches make the new file."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swupd import patches
from swupd.payloads import Lz4
from swupd.server import comparison, deltas, diagonals, folds, matching, windows
from swupd.server.matching import Match
from swupd.server.xz import Effort
from swupd.stream import KIB, MIB
from swupd.tree import file_node

pytest.importorskip("hdiffpatch", reason="each window is matched by hdiffpatch")

CHANCE = random.Random(12)
OLD = CHANCE.randbytes(3 * MIB)
MODE = 0o100644
WINDOW, MARGIN = 64 * KIB, 4 * KIB


def pieces(old: bytes, every: int, piece: int) -> bytes:
    """The same, with so many other bytes at every so many: nothing is alike for longer."""
    return b"".join(old[at : at + every - piece] + CHANCE.randbytes(piece) for at in range(0, len(old), every))


def left_out(old: bytes, new: bytes, found: Sequence[Match]) -> int:
    """Checks that matches are in order and in both files; gives how many bytes of the new one they leave out."""
    for match, following in pairwise((Match(0, 0, 0), *found, Match(0, len(new), 0))):
        assert match.new + match.length <= following.new
    assert all(m.old >= 0 and m.old + m.length <= len(old) for m in found)
    return len(new) - sum(m.length for m in found)


@pytest.mark.parametrize("size", [1, WINDOW - 1, WINDOW, WINDOW + 1, 10 * WINDOW + 7])
def test_what_is_where_it_was_is_found_over_the_ends_of_windows(size: int) -> None:
    new = OLD[:size]
    found = windows.matches(OLD[:size], new, WINDOW, MARGIN)
    assert left_out(OLD, new, found) < 32  # less than a match is long in a last window of a few bytes
    assert len(found) <= 1


def test_it_finds_what_the_whole_file_has_where_that_moved_by_less_than_the_margin() -> None:
    new = CHANCE.randbytes(3000) + pieces(OLD, 500, 60)
    found = windows.matches(OLD, new, 1 * MIB, 16 * KIB)
    whole = matching.matches(OLD, new)
    assert left_out(OLD, new, found) <= 1.01 * left_out(OLD, new, whole)


def test_what_moved_further_is_not_found() -> None:
    new = OLD[2 * MIB :] + OLD[: 2 * MIB]
    assert left_out(OLD, new, windows.matches(OLD, new, 256 * KIB, MARGIN)) > MIB
    assert left_out(OLD, new, matching.matches(OLD, new)) == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 400 * KIB), st.integers(1, 400 * KIB), st.integers(0, 40 * KIB))
def test_whatever_the_sizes_the_new_file_is_made(before: int, after: int, gone: int) -> None:
    old, new = OLD[:before], pieces(OLD[gone : gone + after], 700, 40)
    found = windows.matches(old, new, WINDOW, MARGIN)
    left_out(old, new, found)
    made = comparison.make(old, new, MODE, 0, 0)
    assert made is None or patches.apply(made, old).content == new
    compared = comparison.compare(old, new, lambda old, new: windows.matches(old, new, WINDOW, MARGIN))
    assert compared is None or len(compared.blocks.diff) + len(compared.blocks.extra) == len(new)


@pytest.mark.parametrize("unfolded", [True, False])
def test_files_are_looked_through_in_windows_where_they_are_unfolded_kernels(
    unfolded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def noted(name: str, found: list[Match]) -> list[Match]:
        used.append(name)
        return found

    whole = matching.matches
    kernel = folds._Unfolded((), b"", (), Lz4())
    monkeypatch.setattr(Lz4, "needs", "lz4-1.2")
    monkeypatch.setattr(folds, "find", lambda *_: folds.Candidate(kernel, kernel, b"") if unfolded else None)
    monkeypatch.setattr(folds.Candidate, "delta", lambda *_: bytes(100))
    monkeypatch.setattr(windows, "matches", lambda old, new: noted("windows", whole(old, new)))
    monkeypatch.setattr(diagonals, "matches", lambda old, new: noted("whole", whole(old, new)))
    new = pieces(OLD, 500, 60)
    nodes = file_node("/x", 0o644, len(OLD)), file_node("/x", 0o644, len(new))
    made = deltas.make((nodes[0], OLD), (nodes[1], new), 10 * MIB, Effort.BEST)
    assert used == ["windows" if unfolded else "whole"]
    assert made.needs == ("lz4-1.2" if unfolded else "")
    assert made.plain is not None and patches.apply(made.plain, OLD).content == new
