"""Files whose payload is compressed, kernels by LZ4 and modules by xz: found, and compared unfolded (see folding)."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from swupd import folding, payloads
from swupd.delta import Form
from swupd.errors import ArchiveError
from swupd.folding import Fold, Span
from swupd.payloads import BLOCK_SIZE, LENGTH, Codec, Lz4, Lzma2
from swupd.server import comparison
from swupd.server.xz import Effort
from swupd.stream import MIB

MOST = 128 * MIB
"""Bytes of the payloads of a file: the matching needs several times that in memory."""
LEAST_KERNEL = MIB
"""A smaller file with the four bytes that begin LZ4's frame is none."""
_LEGACY = b"\x02\x21\x4c\x18"
"""Begins LZ4's legacy frame: blocks follow, each with its length before it."""
_XZ = b"\xfd7zXZ\0"
_XZ_HEAD, _XZ_FLAGS = 12, 7
_SIZES = (0x40, 0x80)
"""Flags of a block header of .xz: a number follows, how long its data is, and how long unpacked."""
_LZMA2_FILTER = b"\x21\x01"
_CHECKS = (0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64)
"""Bytes of a block's check, by what the file's flags say."""


class _Unfolded(NamedTuple):
    """A file unfolded: where its payloads are in the file, and where in the content."""

    packed: tuple[Span, ...]
    content: bytes
    inside: tuple[Span, ...]
    codec: Codec


class Candidate(NamedTuple):
    """Two files whose payloads are compressed in the same way. packed: the new one as it is."""

    old: _Unfolded
    new: _Unfolded
    packed: bytes

    @property
    def codec(self) -> Codec:
        return self.new.codec

    @property
    def payload(self) -> int:
        """Bytes that a device has to compress."""
        return sum(span.end - span.start for span in self.new.inside)

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
        return Fold(self.old.packed, self.new.inside, len(self.packed), self.codec)


def find(old: bytes, new: bytes, modules: bool = True, least: int = LEAST_KERNEL) -> Candidate | None:
    """Two files unfolded, None where they are not alike in that.

    modules: whether files packed by xz are looked at. least: bytes of a kernel.
    """
    if new.startswith(_XZ) and not modules:
        return None
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
        if size > MOST:
            return None
    if not size:
        return None
    return _Unfolded((Span(start, at),), b"".join((*parts, data[at:])), (Span(start, start + size),), Lz4())


def _module(data: bytes) -> _Unfolded | None:
    """A .xz file that begins with blocks of LZMA2 alone, whose dictionaries have one size."""
    blocks = list(islice(_blocks(data, MOST), folding.MOST_SPANS))
    if not blocks:
        return None
    inside: list[Span] = []
    parts: list[bytes] = []
    done = size = 0
    for block in blocks:
        start = size + block.place.start - done
        size = start + len(block.content)
        inside.append(Span(start, size))
        parts += (data[done : block.place.start], block.content)
        done = block.place.end
    content = b"".join((*parts, data[done:]))
    return _Unfolded(tuple(block.place for block in blocks), content, tuple(inside), blocks[0].codec)


class _Block(NamedTuple):
    """A block of a .xz file: where its LZMA2 data is, and what that holds."""

    place: Span
    content: bytes
    codec: Lzma2


def _blocks(data: bytes, left: int) -> Iterator[_Block]:
    """Blocks as far as they can be read, and hold together so many bytes (The .xz File Format, 1.1.0, 3)."""
    at, first = _XZ_HEAD, None
    # An index begins with a zero, as no block does.
    while at < len(data) and data[at]:
        start = at + 4 * (data[at] + 1)
        codec = _codec(data[at:start])
        if codec is None or first not in {None, codec}:
            return
        first = codec
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=codec.filters)
        try:
            content = decompressor.decompress(data[start:], left)
        except lzma.LZMAError:
            return
        if not decompressor.eof:
            return
        end = len(data) - len(decompressor.unused_data)
        yield _Block(Span(start, end), content, codec)
        left -= len(content)
        at = end + -(end - at) % 4 + _CHECKS[data[_XZ_FLAGS] & 15]


def _codec(header: bytes) -> Lzma2 | None:
    """What a block's header says of its one filter."""
    if len(header) < 2 or header[1] & ~sum(_SIZES):
        return None
    at = 2
    for flag in _SIZES:
        if header[1] & flag:
            while at < len(header) and header[at] & 0x80:
                at += 1
            at += 1
    if header[at : at + 2] != _LZMA2_FILTER or len(header) < at + 3:
        return None
    bits, odd = divmod(header[at + 2], 2)
    codec = Lzma2(bits + payloads.LEAST_BITS)
    return None if odd or codec.bits > payloads.MOST_BITS else codec
