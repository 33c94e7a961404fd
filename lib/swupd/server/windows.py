"""Files that are alike nowhere for long, but whose parts are where they were: looked through in windows.

The packed payload of a kernel is one. Each block of it is packed by itself, and so about as long as it was. To sort
the suffixes of a window takes less than its part of the time that all take, and hardly anything is found further away
(docs/adr/0012). Other programs lose by it: what moved within them is not found.
"""

from __future__ import annotations

from swupd.server import matching
from swupd.server.matching import Match
from swupd.stream import KIB, MIB

WINDOW = 2 * MIB
MARGIN = 128 * KIB


def matches(old: bytes, new: bytes, window: int = WINDOW, margin: int = MARGIN) -> list[Match]:
    """Matches in the order of the new file, which do not overlap in it.

    window: bytes of the new file that are looked for at a time. margin: around where they should be in the old one.
    """
    found: list[Match] = []
    for at in range(0, len(new), window):
        until = min(at + window, len(new))
        first = max(0, at * len(old) // len(new) - margin)
        last = min(len(old), until * len(old) // len(new) + margin)
        there = matching.matches(old[first:last], new[at:until])
        found += [Match(m.old + first, m.new + at, m.length) for m in there]
    return list(matching.joined(found))
