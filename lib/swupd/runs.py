"""A diff as runs: pairs of bytes, how many zeros there are and which byte follows them.

Most of a diff is zeros, which tell LZMA nothing and cost it time; of pairs it makes fewer bytes in a tenth of the
time (docs/adr/0014). 256 zeros are the pair (255, 0), so that longer runs need no other form.
"""

from __future__ import annotations

import re
from operator import itemgetter

import bsdiff4.core

PAIR = 2
LONGEST = 256
"""Bytes that a pair stands for at most."""
_RUN = re.compile(rb"(?s)\0{0,255}.")
_LAST = itemgetter(-1)
_WINDOW = 1 << 20
"""Bytes of a diff that are looked at together: each run is an object meanwhile."""
_TRIPLE_SIZE = 24


def pack(diff: bytes) -> bytes:
    """The pairs of a diff."""
    return b"".join(_pairs(_RUN.findall(diff, at, at + _WINDOW)) for at in range(0, len(diff), _WINDOW))


def _pairs(pieces: list[bytes]) -> bytearray:
    made = bytearray(PAIR * len(pieces))
    made[0::2] = bytes(map((-1).__add__, map(len, pieces)))
    made[1::2] = bytes(map(_LAST, pieces))
    return made


def expand(pairs: bytes) -> bytes:
    """The diff of an even number of bytes, which is at most LONGEST times as many as there are pairs.

    bsdiff's own loop does it, for it is C: nothing is added to so many zeros, then a byte is copied.
    """
    counts = pairs[0::2]
    zeros = bytes(sum(counts))
    # Each triple says: add so many zeros, copy one byte, go on. The numbers are of eight bytes, the least first.
    triples = bytearray(_TRIPLE_SIZE * len(counts))
    triples[0::_TRIPLE_SIZE] = counts
    triples[8::_TRIPLE_SIZE] = b"\1" * len(counts)
    made: bytes = bsdiff4.core.patch(zeros, len(zeros) + len(counts), bytes(triples), zeros, pairs[1::2])
    return made
