"""Kernels whose payload is compressed by LZ4: unfolded before they are compared, and folded to the same bytes again.

Where a few instructions changed, most bytes of a compressed kernel did; those of its payload did not. A folded delta is
the delta between two unfolded files with a header that says how to unfold the old one and how to fold the new one.
Folding gives the same bytes with the same release of the LZ4 library only, so its number is part of a pack's name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

from swupd.errors import ArchiveError
from swupd.stream import MAX_DELTA_RESULT, MIB

RUNS = "runs"
"""What the names of packs say whose deltas are in runs; the LZ4 library follows where some of them are folded."""
_MAGIC = b"SWUPDLZ4"
_HEAD = struct.Struct("<8sQQQQQ")
BLOCK_SIZE = 8 * MIB
"""Bytes in each block of LZ4's legacy frame but the last, uncompressed."""
LENGTH = struct.Struct("<I")
"""What is before each block: how many bytes it takes."""
_LEVEL = 9
"""What `lz4 -l -9` takes, which builds of Linux call."""


class Fold(NamedTuple):
    """The header of a folded delta: bytes of the payload in the old file, in the new one when unfolded; its size."""

    old_start: int
    old_end: int
    new_start: int
    new_end: int
    size: int

    def pack(self) -> bytes:
        """The header's bytes; a delta in runs follows."""
        return _HEAD.pack(_MAGIC, self.old_start, self.old_end, self.new_start, self.new_end, self.size)


HEAD_SIZE = _HEAD.size


def library() -> str:
    """The LZ4 library's name and release, "" where there is none."""
    try:
        import lz4  # noqa: PLC0415 - not every device has it, and few commands need it
    except ImportError:
        return ""
    return f"lz4-{lz4.library_version_string()}"


def variants() -> tuple[str, ...]:
    """What the names of packs in runs say that can be used here, the smallest pack first."""
    with_library = (f"{RUNS}.{library()}",) if library() else ()
    return (*with_library, RUNS)


def parse(head: bytes) -> Fold | None:
    """The header, None for a delta of another kind. Raises ArchiveError."""
    if head[: len(_MAGIC)] != _MAGIC:
        return None
    if len(head) < _HEAD.size:
        raise ArchiveError("the delta is cut off")
    fold = Fold(*_HEAD.unpack_from(head)[1:])
    ends = (fold.old_end, fold.new_end, fold.size)
    if not (fold.old_start <= fold.old_end and fold.new_start <= fold.new_end and max(ends) <= MAX_DELTA_RESULT):
        raise ArchiveError("the delta says nonsense about how to unfold")
    return fold


def unfolded(old: BinaryIO, fold: Fold) -> Iterator[bytes]:
    """The old file with its payload decompressed. Raises ArchiveError where it is not as the delta says."""
    old.seek(0)
    yield _exactly(old, fold.old_start)
    left = fold.old_end - fold.old_start
    total = 0
    while left > 0:
        (size,) = LENGTH.unpack(_exactly(old, LENGTH.size))
        if size > left - LENGTH.size:
            break
        block = decompress(_exactly(old, size))
        total += len(block)
        if total > MAX_DELTA_RESULT:
            raise ArchiveError("the old file unfolds to something that is too large")
        yield block
        # Not held while the next one is made: they are large.
        del block
        left -= size + LENGTH.size
    if left:
        raise ArchiveError("the old file is not folded as the delta says")
    while data := old.read(MIB):
        yield data


def folded(chunks: Iterable[bytes], start: int, end: int) -> Iterator[bytes]:
    """A file again, out of its unfolded form in which bytes start to end are the payload."""
    at, block, filled = 0, bytearray(min(BLOCK_SIZE, end - start)), 0
    for chunk in chunks:
        before, middle = max(0, min(start - at, len(chunk))), max(0, min(end - at, len(chunk)))
        if before:
            yield chunk[:before]
        taken = before
        while taken < middle:
            piece = min(middle - taken, len(block) - filled)
            block[filled : filled + piece] = memoryview(chunk)[taken : taken + piece]
            taken, filled = taken + piece, filled + piece
            if filled == len(block) or at + taken == end:
                yield from _compressed(memoryview(block)[:filled])
                filled = 0
        at += len(chunk)
        if middle < len(chunk) and at > end:
            yield chunk[middle:]


def _compressed(block: memoryview) -> Iterator[bytes]:
    data: bytes = _lz4().compress(block, mode="high_compression", compression=_LEVEL, store_size=False)
    yield LENGTH.pack(len(data))
    yield data


def decompress(block: bytes) -> bytes:
    """What a block of the payload holds. Raises ArchiveError where it is damaged, or the library is not there."""
    module = _lz4()
    try:
        data: bytes = module.decompress(block, uncompressed_size=BLOCK_SIZE)
    except module.LZ4BlockError as e:
        raise ArchiveError("a block of the old file is damaged") from e
    return data


def _lz4() -> Any:
    try:
        import lz4.block  # noqa: PLC0415 - as above
    except ImportError as e:
        raise ArchiveError("the delta needs the LZ4 library, which is not installed") from e
    return lz4.block


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ArchiveError("the old file is not folded as the delta says")
    return data
