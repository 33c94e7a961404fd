"""Files whose payload is compressed: unfolded before they are compared, and folded to the same bytes again.

Where a few instructions changed, most bytes of a compressed kernel or module did; those of its payload did not. A
folded delta is the delta between two unfolded files with a header that says how to unfold the old one and how to fold
the new one. What a device must have for that is part of a pack's name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from swupd import payloads
from swupd.errors import ArchiveError
from swupd.payloads import Codec, Lz4
from swupd.stream import MAX_DELTA_RESULT, MIB

RUNS = "runs"
"""What the names of packs say whose deltas are in runs; what folding some of them needs follows."""
_HEAD = struct.Struct("<8sQQQQQ")
HEAD_SIZE = _HEAD.size


class Fold(NamedTuple):
    """The header of a folded delta: bytes of the payload in the old file, in the new one when unfolded; its size.

    codec: how the payload of both is compressed.
    """

    old_start: int
    old_end: int
    new_start: int
    new_end: int
    size: int
    codec: Codec = Lz4()

    def pack(self) -> bytes:
        """The header's bytes; a delta in runs follows."""
        return _HEAD.pack(self.codec.mark, self.old_start, self.old_end, self.new_start, self.new_end, self.size)


def variant(needs: Iterable[str]) -> str:
    """What the name of a pack in runs says; needs: of all folded deltas in it."""
    return ".".join((RUNS, *sorted(set(needs))))


def variants(repack: bool = True) -> tuple[str, ...]:
    """What the names of packs in runs say that can be used here, the smallest pack first.

    repack: whether payloads may be compressed here.
    """
    lz4 = Lz4().needs if repack else ""
    together = [(lz4, payloads.XZ)] if lz4 else []
    alone = [(needs,) for needs in (payloads.XZ, lz4) if repack and needs]
    return tuple(variant(needs) for needs in (*together, *alone, ()))


def parse(head: bytes) -> Fold | None:
    """The header, None for a delta of another kind. Raises ArchiveError."""
    codec = payloads.of_mark(head[: payloads.MARK_SIZE])
    if codec is None:
        return None
    if len(head) < _HEAD.size:
        raise ArchiveError("the delta is cut off")
    _, old_start, old_end, new_start, new_end, size = _HEAD.unpack_from(head)
    fold = Fold(old_start, old_end, new_start, new_end, size, codec)
    ends = (fold.old_end, fold.new_end, fold.size)
    if not (fold.old_start <= fold.old_end and fold.new_start <= fold.new_end and max(ends) <= MAX_DELTA_RESULT):
        raise ArchiveError("the delta says nonsense about how to unfold")
    return fold


def unfolded(old: BinaryIO, fold: Fold) -> Iterator[bytes]:
    """The old file with its payload decompressed. Raises ArchiveError where it is not as the delta says."""
    old.seek(0)
    yield payloads.exactly(old, fold.old_start)
    yield from fold.codec.unpacked(old, fold.old_end - fold.old_start)
    while data := old.read(MIB):
        yield data


def folded(chunks: Iterable[bytes], fold: Fold) -> Iterator[bytes]:
    """The new file, out of its unfolded form."""
    start, end = fold.new_start, fold.new_end
    at, packer = 0, fold.codec.packer(end - start)
    for chunk in chunks:
        first, last = (max(0, min(edge - at, len(chunk))) for edge in (start, end))
        if first:
            yield chunk[:first]
        if first < last:
            yield from packer.add(memoryview(chunk)[first:last])
            if at + last == end:
                yield from packer.end()
        if last < len(chunk):
            yield chunk[last:]
        at += len(chunk)
