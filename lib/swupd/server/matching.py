"""What of a new file stands in an old one: bsdiff's three blocks (stream format, 4.2), matched by hdiffpatch.

hdiffpatch finds as much as bsdiff in a third of the time and of the memory. Of what it writes only the list of matches
is read (HDIFF13, nothing compressed); the library is needed where deltas are made, and is loaded there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import bsdiff4.core

_MAGIC = b"HDIFF13&\0"
_HEAD_NUMBERS = 11
"""New size, old size, number of matches, then sizes of four blocks, each as it is and compressed."""
_NEAR = 32
"""Bytes between two matches that are no reason to end the first."""
_NEGATED = bytes(-byte & 255 for byte in range(256))
_TRIPLE = struct.Struct("<qqq")


@dataclass(frozen=True, slots=True)
class Match:
    """So many bytes from new on that are much like those from old on."""

    old: int
    new: int
    length: int


@dataclass(frozen=True, slots=True)
class Blocks:
    """control: triples (bytes to add, bytes to copy, seek), 64 bits each, two's complement."""

    control: bytes
    diff: bytes
    extra: bytes


def blocks(old: bytes, new: bytes, found: Iterable[Match]) -> Blocks:
    """How to make new out of old, by matches that do not overlap in the new file, in its order."""
    start, end = Match(0, 0, 0), Match(0, len(new), 0)
    control, diff, extra = [], [], []
    for match, following in pairwise((start, *found, end)):
        after = match.new + match.length
        diff.append(difference(new[match.new : after], old[match.old : match.old + match.length]))
        extra.append(new[after : following.new])
        seek = following.old - match.old - match.length if following is not end else 0
        if match is not start or seek or extra[0]:
            control.append(_TRIPLE.pack(match.length, len(extra[-1]), seek))
    return Blocks(b"".join(control), b"".join(diff), b"".join(extra))


def matches(old: bytes, new: bytes) -> list[Match]:
    """Matches in the order of the new file, which do not overlap in it."""
    import hdiffpatch  # noqa: PLC0415 - devices do not have it

    found = hdiffpatch.diff(old, new, validate=False, big_cache_match=True)
    if not found.startswith(_MAGIC):
        raise ValueError("this version of hdiffpatch writes a format that is not known")
    return list(_matches(found, len(_MAGIC)))


def _matches(data: bytes, at: int) -> Iterator[Match]:
    head = []
    for _ in range(_HEAD_NUMBERS):
        number, at = _number(data, at)
        head.append(number)
    old = new = 0
    for _ in range(head[2]):
        backwards = data[at] >> 7
        step, at = _number(data, at, 1)
        gap, at = _number(data, at)
        length, at = _number(data, at)
        old += -step if backwards else step
        new += gap
        yield Match(old, new, length)
        old += length
        new += length


def _number(data: bytes, at: int, flags: int = 0) -> tuple[int, int]:
    """(a number, where it ends): 7 bits a byte, the highest first, less so many flags in the first byte."""
    more = 1 << 7 - flags
    byte = data[at]
    value = byte & more - 1
    while byte & more:
        at += 1
        byte, more = data[at], 128
        value = value << 7 | byte & 127
    return value, at + 1


def joined(found: Iterable[Match]) -> Iterator[Match]:
    """Matches of the same distance with next to nothing between them as one."""
    last = Match(0, 0, 0)
    for match in found:
        between = match.new - last.new - last.length
        if match.old - match.new == last.old - last.new and between <= _NEAR:
            last = Match(last.old, last.new, last.length + between + match.length)
            continue
        if last.length:
            yield last
        last = match
    if last.length:
        yield last


def difference(new: bytes, old: bytes) -> bytes:
    """New minus old of the same length, byte by byte: what patching adds again, here with old negated."""
    return bsdiff4.core.patch(old.translate(_NEGATED), len(new), _TRIPLE.pack(len(new), 0, 0), new, b"")  # type: ignore[no-any-return]
