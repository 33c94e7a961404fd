"""Large files of which most stayed in order: long stretches are looked for where they should be.

A stretch is like one of the old file that lies a certain distance away; from one stretch to the next that distance
changes by what came or went between them, which is little. Following it takes a tenth of the time of sorting all
suffixes of the old file. What lies between stretches is left to `matching`, with the part of the old file around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from swupd.server import matching
from swupd.server.matching import Match, difference
from swupd.stream import KIB, MIB

LEAST = 4 * MIB
"""Smaller files are matched as a whole in a moment."""
_CHUNK = KIB
_LIKE = 0.75
"""Part of a chunk's bytes that are the same where it belongs to a stretch."""
_SEARCHED = 64 * KIB
_PROBE = 32
_KINDS = 8
"""A probe with fewer different bytes is found everywhere."""


class _Search(NamedTuple):
    """reach: how much the distance may have changed. step: between probes. chunks: how many must be alike there."""

    reach: int
    step: int
    chunks: int


_SEARCHES = (_Search(2 * KIB, 512, 1), _Search(256 * KIB, 8 * KIB, 16))
"""What is further away is more often like it by chance, and takes longer to look for (docs/adr/0012)."""
_MARGIN = 16 * KIB
"""How much of the old file around a place is looked through at most."""
_APART, _APART_IN_LARGE = 5, 2
"""Of files of which more than one byte in so many lies outside of stretches, nothing is gained."""
_LARGE = 16 * MIB
"""From here on sorting suffixes takes longer than what is between stretches does, be it half of a file."""
_PATIENCE = 256 * KIB


def matches(old: bytes, new: bytes) -> list[Match]:
    """Matches in the order of the new file, which do not overlap in it."""
    found = stretches(old, new) if len(new) >= LEAST else None
    return matching.matches(old, new) if found is None else list(matching.joined(_filled(old, new, found)))


def stretches(old: bytes, new: bytes) -> list[Match] | None:
    """Long stretches in the order of the new file, in whole chunks; None where there is too much beside them."""
    found: list[Match] = []
    one_in = _APART_IN_LARGE if len(new) >= _LARGE else _APART
    at = distance = apart = 0
    while at + _CHUNK <= len(new):
        begin = at
        while _like(old, new, at, distance):
            at += _CHUNK
        if at > begin:
            found.append(Match(begin + distance, begin, at - begin))
            continue
        following = _following(old, new, at, distance)
        until = min(at + _SEARCHED, len(new)) if following is None else following[0]
        apart += until - at
        if apart > _PATIENCE + until // one_in:
            return None
        at, distance = (until, distance) if following is None else following
    return found


def _following(old: bytes, new: bytes, at: int, distance: int) -> tuple[int, int] | None:
    """(where the next stretch begins, its distance) if it begins soon."""
    until = min(at + _SEARCHED, len(new) - _CHUNK)
    for search in _SEARCHES:
        for probed in range(at, until, search.step):
            probe = new[probed : probed + _PROBE]
            if len(set(probe)) < _KINDS:
                continue
            expected = probed + distance
            there = old.find(probe, max(0, expected - search.reach), max(0, expected + search.reach))
            chunks = range(probed, probed + search.chunks * _CHUNK, _CHUNK)
            if there >= 0 and all(_like(old, new, chunk, there - probed) for chunk in chunks):
                return probed, there - probed
    return None


def _like(old: bytes, new: bytes, at: int, distance: int) -> bool:
    """Whether a chunk of the new file is much like what is so far away in the old one."""
    there = at + distance
    if at + _CHUNK > len(new) or there < 0 or there + _CHUNK > len(old):
        return False
    return difference(new[at : at + _CHUNK], old[there : there + _CHUNK]).count(0) >= _LIKE * _CHUNK


def _filled(old: bytes, new: bytes, found: list[Match]) -> Iterator[Match]:
    """Stretches, and what matches between them; where exactly one ends and the next begins is found there."""
    at = there = 0
    for stretch in (*filter(None, map(_inner, found)), Match(len(old), len(new), 0)):
        first, last = sorted((there, stretch.old))
        margin = min(_MARGIN, max(0, stretch.new - at))
        first, last = max(0, first - margin), min(len(old), last + margin)
        if at < stretch.new and first < last:
            between = matching.matches(old[first:last], new[at : stretch.new])
            yield from (Match(m.old + first, m.new + at, m.length) for m in between)
        yield stretch
        at, there = stretch.new + stretch.length, stretch.old + stretch.length


def _inner(stretch: Match) -> Match | None:
    """A stretch less a chunk at either end, None for a short one."""
    length = stretch.length - 2 * _CHUNK
    return Match(stretch.old + _CHUNK, stretch.new + _CHUNK, length) if length > 0 else None
