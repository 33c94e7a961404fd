"""Kernels whose payload is compressed by LZ4: unfolded before they are compared, and folded to the same bytes again.

Where a few instructions changed, most bytes of a compressed kernel did; those of its payload did not. A folded delta is
the delta between two unfolded files with a header that says how to unfold the old one and how to fold the new one.
Folding gives the same bytes with the same release of the LZ4 library only, so its number is part of a pack's name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from swupd import delta
from swupd.delta import Form
from swupd.errors import ArchiveError
from swupd.stream import MAX_DELTA_RESULT, MIB
from swupd.xz import Effort

RUNS = "runs"
"""What the names of packs say whose deltas are in runs; the LZ4 library follows where some of them are folded."""
_MAGIC = b"SWUPDLZ4"
_HEAD = struct.Struct("<8sQQQQQ")
_LEGACY = b"\x02\x21\x4c\x18"
"""Begins LZ4's legacy frame: blocks follow, each with its length before it, each of 8 MiB but the last."""
_BLOCK = 8 * MIB
_LENGTH = struct.Struct("<I")
_LEVEL = 9
"""What `lz4 -l -9` takes, which builds of Linux call."""


@dataclass(frozen=True, slots=True)
class Fold:
    """The header of a folded delta: bytes of the payload in the old file, in the new one when unfolded; its size."""

    old_start: int
    old_end: int
    new_start: int
    new_end: int
    size: int


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


def make(old: bytes, new: bytes, mode: int, uid: int, gid: int) -> bytes | None:
    """A folded delta, None where the files are no such kernels, or cannot be folded to the same bytes."""
    before, after = _payload(old), _payload(new)
    if before is None or after is None:
        return None
    (old_start, old_end, old_plain), (new_start, new_end, new_plain) = before, after
    plain = new[:new_start] + new_plain + new[new_end:]
    if b"".join(folded([plain], new_start, new_start + len(new_plain))) != new:
        return None
    before_plain = old[:old_start] + old_plain + old[old_end:]
    inner = delta.make(before_plain, plain, mode, uid, gid, effort=Effort.BEST, form=Form.RUNS)
    if inner is None:
        return None
    fold = (old_start, old_end, new_start, new_start + len(new_plain), len(new))
    return _HEAD.pack(_MAGIC, *fold) + inner


def unfolded(old: BinaryIO, fold: Fold) -> Iterator[bytes]:
    """The old file with its payload decompressed. Raises ArchiveError where it is not as the delta says."""
    old.seek(0)
    yield _exactly(old, fold.old_start)
    left = fold.old_end - fold.old_start
    total = 0
    while left > 0:
        (size,) = _LENGTH.unpack(_exactly(old, _LENGTH.size))
        if size > left - _LENGTH.size:
            break
        block = _decompress(_exactly(old, size))
        total += len(block)
        if total > MAX_DELTA_RESULT:
            raise ArchiveError("the old file unfolds to something that is too large")
        yield block
        # Not held while the next one is made: they are large.
        del block
        left -= size + _LENGTH.size
    if left:
        raise ArchiveError("the old file is not folded as the delta says")
    while data := old.read(MIB):
        yield data


def folded(chunks: Iterable[bytes], start: int, end: int) -> Iterator[bytes]:
    """A file again, out of its unfolded form in which bytes start to end are the payload."""
    at, block, filled = 0, bytearray(min(_BLOCK, end - start)), 0
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


def _payload(data: bytes) -> tuple[int, int, bytes] | None:
    """(where the blocks begin and end, what they hold) of the first legacy frame in a file."""
    start = data.find(_LEGACY) + len(_LEGACY)
    if start < len(_LEGACY):
        return None
    at = start
    blocks: list[bytes] = []
    # What is behind the last block is read as a length, too: one that does not fit, or a block that is none.
    while at + _LENGTH.size < len(data) and (not blocks or len(blocks[-1]) == _BLOCK):
        (size,) = _LENGTH.unpack_from(data, at)
        if not 0 < size <= len(data) - at - _LENGTH.size:
            break
        try:
            blocks.append(_decompress(data[at + _LENGTH.size : at + _LENGTH.size + size]))
        except ArchiveError:
            break
        at += _LENGTH.size + size
        if sum(map(len, blocks)) > MAX_DELTA_RESULT:
            return None
    return (start, at, b"".join(blocks)) if blocks else None


def _compressed(block: memoryview) -> Iterator[bytes]:
    data: bytes = _lz4().compress(block, mode="high_compression", compression=_LEVEL, store_size=False)
    yield _LENGTH.pack(len(data))
    yield data


def _decompress(block: bytes) -> bytes:
    module = _lz4()
    try:
        data: bytes = module.decompress(block, uncompressed_size=_BLOCK)
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
