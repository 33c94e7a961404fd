"""xz as this project writes it: settings for what is compressed, the same bytes wherever liblzma is."""

from __future__ import annotations

import enum
import lzma
from collections.abc import Mapping

from swupd.stream import MIB

LARGEST_DICTIONARY = 8 * MIB
"""What preset 6 takes, and what a reader needs in memory."""


class Effort(enum.Enum):
    """How hard to try.

    BEST is for plain deltas, which are mostly runs of zeros: those want long matches. LOOSE is for small ones together.
    RUNS is for diffs in runs: every other byte is of the same kind. LISTS is for manifests: most of them is
    digests, in which there is nothing to find. PACKED is for what is compressed already.
    """

    NORMAL = "normal"
    BEST = "best"
    LOOSE = "loose"
    RUNS = "runs"
    FAST = "fast"
    PACKED = "packed"
    LISTS = "lists"

    @property
    def plain(self) -> Effort:
        """The same for what is no delta."""
        return self if self is Effort.FAST else Effort.NORMAL


_SETTINGS: Mapping[Effort, Mapping[str, int]] = {
    Effort.NORMAL: {"mf": lzma.MF_HC4, "nice_len": 24, "depth": 6},
    Effort.BEST: {"pb": 0, "lc": 4, "nice_len": 64, "depth": 16},
    Effort.LOOSE: {"pb": 0, "lc": 4, "mf": lzma.MF_HC4, "nice_len": 64, "depth": 8},
    Effort.RUNS: {"pb": 1, "lp": 1, "lc": 3},
    Effort.LISTS: {"pb": 0, "lc": 4, "nice_len": 128, "mf": lzma.MF_HC3, "depth": 8},
    Effort.PACKED: {"mode": lzma.MODE_FAST, "mf": lzma.MF_HC3, "nice_len": 8, "depth": 1},
    Effort.FAST: {"pb": 0, "nice_len": 273, "mf": lzma.MF_HC4, "depth": 24, "mode": lzma.MODE_FAST},
}


def compress(data: bytes, effort: Effort = Effort.NORMAL, largest: int = LARGEST_DICTIONARY) -> bytes:
    """One .xz stream, with a dictionary of at most so many bytes."""
    dictionary = min(largest, fitted_dictionary(len(data)))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": dictionary, **_SETTINGS[effort]}]
    return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)


def fitted_dictionary(size: int) -> int:
    """An LZMA dictionary no larger than the data needs, in bytes: half the time of preset 6's, same size."""
    return min(LARGEST_DICTIONARY, max(4096, 1 << max(0, size - 1).bit_length()))
