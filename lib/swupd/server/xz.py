"""xz as this project writes it: settings for what is compressed, the same bytes wherever liblzma is."""

from __future__ import annotations

import enum
import lzma
import struct
import zlib
from collections.abc import Iterator, Mapping

from swupd.stream import KIB, MIB

LARGEST_DICTIONARY = 8 * MIB
"""What preset 6 takes, and what a reader needs in memory."""


class Effort(enum.Enum):
    """How hard to try.

    BEST is for plain deltas, which are mostly runs of zeros: those want long matches. RUNS is for diffs in runs:
    every other byte is of the same kind. LOOSE and LOOSE_RUNS are for small deltas together. LISTS is for manifests:
    most of them is digests, in which there is nothing to find.
    """

    NORMAL = "normal"
    BEST = "best"
    RUNS = "runs"
    LOOSE = "loose"
    LOOSE_RUNS = "loose runs"
    FAST = "fast"
    LISTS = "lists"

    @property
    def plain(self) -> Effort:
        """The same for what is no delta."""
        return self if self is Effort.FAST else Effort.NORMAL


_SETTINGS: Mapping[Effort, Mapping[str, int]] = {
    Effort.NORMAL: {"mf": lzma.MF_HC4, "nice_len": 24, "depth": 6},
    Effort.BEST: {"pb": 0, "lc": 4, "nice_len": 64, "depth": 16},
    Effort.RUNS: {"pb": 1, "lp": 1, "lc": 3, "nice_len": 32, "depth": 12},
    Effort.LOOSE: {"pb": 0, "lc": 4, "nice_len": 64, "depth": 16},
    Effort.LOOSE_RUNS: {"pb": 1, "lp": 1, "lc": 3, "nice_len": 64, "depth": 16},
    Effort.LISTS: {"pb": 0, "lc": 4, "nice_len": 128, "mf": lzma.MF_HC3, "depth": 8},
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


_MAGIC, _END_MAGIC = b"\xfd7zXZ\0", b"YZ"
_FLAGS = b"\0\1"
"""CRC32 is the check."""
_LZMA2 = b"\2\0\x21\1\x0c\0\0\0"
"""A block header without its CRC32: 12 bytes, one filter, LZMA2, its dictionary 256 KiB."""
_MOST_STORED = 64 * KIB
_FIRST_CHUNK, _NEXT_CHUNK, _LAST_CHUNK = b"\1", b"\2", b"\0"


def stored(data: bytes) -> bytes:
    """One .xz stream that holds bytes as they are, for what is compressed already. (The .xz File Format, 1.1.0.)"""
    if not data:
        return compress(data)
    body = b"".join(_chunks(data)) + _LAST_CHUNK
    unpadded = len(_LZMA2) + 4 + len(body) + 4
    block = _with_crc32(_LZMA2) + body + bytes(-len(body) % 4) + struct.pack("<I", zlib.crc32(data))
    index = b"\0\1" + _number(unpadded) + _number(len(data))
    index = _with_crc32(index + bytes(-len(index) % 4))
    tail = struct.pack("<I", len(index) // 4 - 1) + _FLAGS
    return b"".join((_MAGIC, _with_crc32(_FLAGS), block, index, struct.pack("<I", zlib.crc32(tail)), tail, _END_MAGIC))


def _chunks(data: bytes) -> Iterator[bytes]:
    """LZMA2 chunks that are not compressed; the first one resets the dictionary."""
    for at in range(0, len(data), _MOST_STORED):
        chunk = data[at : at + _MOST_STORED]
        yield (_NEXT_CHUNK if at else _FIRST_CHUNK) + struct.pack(">H", len(chunk) - 1) + chunk


def _with_crc32(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def _number(value: int) -> bytes:
    """7 bits a byte, the lowest first."""
    made = bytearray()
    while value >= 128:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes((*made, value))
