"""Files whose payload is compressed, kernels by LZ4 and modules by xz: found, and compared unfolded (see folding)."""

from __future__ import annotations

import lzma
from typing import NamedTuple

from swupd import folding, payloads
from swupd.delta import Form
from swupd.errors import ArchiveError
from swupd.folding import Fold
from swupd.payloads import BLOCK_SIZE, LENGTH, Codec, Lz4, Lzma2
from swupd.server import comparison
from swupd.server.xz import Effort
from swupd.stream import MAX_DELTA_RESULT, MIB

LEAST_KERNEL = MIB
"""A smaller file with the four bytes that begin LZ4's frame is none."""
_LEGACY = b"\x02\x21\x4c\x18"
"""Begins LZ4's legacy frame: blocks follow, each with its length before it."""
_XZ = b"\xfd7zXZ\0"
_XZ_HEAD = 12
_SIZES = (0x40, 0x80)
"""Flags of a block header of .xz: a number follows, how long its data is, and how long unpacked."""
_LZMA2_FILTER = b"\x21\x01"


class _Unfolded(NamedTuple):
    """A file unfolded: where its payload begins and ends in the file, and where it ends in the content."""

    start: int
    end: int
    content: bytes
    content_end: int
    codec: Codec


class Candidate(NamedTuple):
    """Two files whose payloads are compressed in the same way."""

    old: _Unfolded
    new: _Unfolded
    packed: bytes

    @property
    def codec(self) -> Codec:
        return self.new.codec

    @property
    def payload(self) -> int:
        """Bytes that a device has to compress."""
        return self.new.content_end - self.new.start

    def delta(self, mode: int, uid: int, gid: int, loose: int) -> bytes | None:
        """A folded delta; None where none pays."""
        old, new = self.old, self.new
        made = comparison.make(old.content, new.content, mode, uid, gid, loose, Effort.BEST, Form.RUNS)
        return None if made is None else self._fold.pack() + made

    def folds_again(self) -> bool:
        """Whether the new file comes out again: its builder asked for what Linux does."""
        at = 0
        for piece in folding.folded([self.new.content], self._fold):
            if not self.packed.startswith(piece, at):
                return False
            at += len(piece)
        return at == len(self.packed)

    @property
    def _fold(self) -> Fold:
        return Fold(
            self.old.start, self.old.end, self.new.start, self.new.content_end, len(self.packed), self.new.codec
        )


def find(old: bytes, new: bytes, least: int = LEAST_KERNEL) -> Candidate | None:
    """Two files unfolded, None where they are not alike in that. least: bytes of a kernel."""
    after = _unfolded(new, least)
    before = _unfolded(old, least) if after is not None else None
    if after is None or before is None or before.codec != after.codec:
        return None
    return Candidate(before, after, new)


def _unfolded(data: bytes, least: int) -> _Unfolded | None:
    if data.startswith(_XZ):
        return _module(data)
    return _kernel(data) if len(data) >= least else None


def _kernel(data: bytes) -> _Unfolded | None:
    """A file whose first legacy frame of LZ4 holds blocks."""
    start = data.find(_LEGACY) + len(_LEGACY)
    if start < len(_LEGACY):
        return None
    at, size = start, 0
    parts = [data[:start]]
    # What is behind the last block is read as a length, too: one that does not fit, or a block that is none.
    while at + LENGTH.size < len(data) and (len(parts) == 1 or len(parts[-1]) == BLOCK_SIZE):
        (packed,) = LENGTH.unpack_from(data, at)
        if not 0 < packed <= len(data) - at - LENGTH.size:
            break
        try:
            parts.append(payloads.decompress(data[at + LENGTH.size : at + LENGTH.size + packed]))
        except ArchiveError:
            break
        at += LENGTH.size + packed
        size += len(parts[-1])
        if size > MAX_DELTA_RESULT:
            return None
    return _Unfolded(start, at, b"".join((*parts, data[at:])), start + size, Lz4()) if size else None


def _module(data: bytes) -> _Unfolded | None:
    """A .xz file whose first block is LZMA2 alone (The .xz File Format, 1.1.0, 3.1)."""
    start = _XZ_HEAD + 4 * (data[_XZ_HEAD] + 1) if len(data) > _XZ_HEAD and data[_XZ_HEAD] else len(data)
    if start >= len(data):
        return None
    at, flags = _XZ_HEAD + 2, data[_XZ_HEAD + 1]
    if flags & ~sum(_SIZES):
        return None
    for flag in _SIZES:
        while flags & flag and data[at] & 0x80 and at < start:
            at += 1
        at += 1 if flags & flag else 0
    bits, odd = divmod(data[at + 2], 2)
    codec = Lzma2(bits + payloads.LEAST_BITS)
    if data[at : at + 2] != _LZMA2_FILTER or odd or codec.bits > payloads.MOST_BITS:
        return None
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=codec.filters)
    try:
        payload = decompressor.decompress(data[start:], MAX_DELTA_RESULT)
    except lzma.LZMAError:
        return None
    if not decompressor.eof:
        return None
    end = len(data) - len(decompressor.unused_data)
    return _Unfolded(start, end, b"".join((data[:start], payload, data[end:])), start + len(payload), codec)
