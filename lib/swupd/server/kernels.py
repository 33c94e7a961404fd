"""Kernels whose payload is compressed by LZ4: found, and compared unfolded (see folding)."""

from __future__ import annotations

from typing import NamedTuple

from swupd import folding
from swupd.delta import Form
from swupd.errors import ArchiveError
from swupd.folding import BLOCK_SIZE, LENGTH, Fold
from swupd.server import comparison
from swupd.server.xz import Effort
from swupd.stream import MAX_DELTA_RESULT

_LEGACY = b"\x02\x21\x4c\x18"
"""Begins LZ4's legacy frame: blocks follow, each with its length before it."""


class _Kernel(NamedTuple):
    """Where the payload's blocks begin and end in a file; the file unfolded, and where the payload ends in that."""

    start: int
    end: int
    content: bytes
    content_end: int


def make(old: bytes, new: bytes, mode: int, uid: int, gid: int) -> bytes | None:
    """A folded delta, None where the files are no such kernels, or cannot be folded to the same bytes."""
    before, after = _unfolded(old), _unfolded(new)
    if before is None or after is None:
        return None
    if b"".join(folding.folded([after.content], after.start, after.content_end)) != new:
        return None
    inner = comparison.make(before.content, after.content, mode, uid, gid, effort=Effort.BEST, form=Form.RUNS)
    if inner is None:
        return None
    return Fold(before.start, before.end, after.start, after.content_end, len(new)).pack() + inner


def _unfolded(data: bytes) -> _Kernel | None:
    """A file whose first legacy frame holds blocks, unfolded."""
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
            parts.append(folding.decompress(data[at + LENGTH.size : at + LENGTH.size + packed]))
        except ArchiveError:
            break
        at += LENGTH.size + packed
        size += len(parts[-1])
        if size > MAX_DELTA_RESULT:
            return None
    return _Kernel(start, at, b"".join((*parts, data[at:])), start + size) if size else None
