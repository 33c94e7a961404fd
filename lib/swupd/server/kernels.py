"""Kernels whose payload is compressed by LZ4: found, and compared unfolded (see folding)."""

from __future__ import annotations

from swupd import folding
from swupd.delta import Form
from swupd.errors import ArchiveError
from swupd.folding import BLOCK_SIZE, LENGTH, Fold
from swupd.server import comparison
from swupd.stream import MAX_DELTA_RESULT
from swupd.xz import Effort

_LEGACY = b"\x02\x21\x4c\x18"
"""Begins LZ4's legacy frame: blocks follow, each with its length before it."""


def make(old: bytes, new: bytes, mode: int, uid: int, gid: int) -> bytes | None:
    """A folded delta, None where the files are no such kernels, or cannot be folded to the same bytes."""
    before, after = _payload(old), _payload(new)
    if before is None or after is None:
        return None
    (old_start, old_end, old_plain), (new_start, new_end, new_plain) = before, after
    plain = new[:new_start] + new_plain + new[new_end:]
    if b"".join(folding.folded([plain], new_start, new_start + len(new_plain))) != new:
        return None
    before_plain = old[:old_start] + old_plain + old[old_end:]
    inner = comparison.make(before_plain, plain, mode, uid, gid, effort=Effort.BEST, form=Form.RUNS)
    if inner is None:
        return None
    return Fold(old_start, old_end, new_start, new_start + len(new_plain), len(new)).pack() + inner


def _payload(data: bytes) -> tuple[int, int, bytes] | None:
    """(where the blocks begin and end, what they hold) of the first legacy frame in a file."""
    start = data.find(_LEGACY) + len(_LEGACY)
    if start < len(_LEGACY):
        return None
    at = start
    blocks: list[bytes] = []
    # What is behind the last block is read as a length, too: one that does not fit, or a block that is none.
    while at + LENGTH.size < len(data) and (not blocks or len(blocks[-1]) == BLOCK_SIZE):
        (size,) = LENGTH.unpack_from(data, at)
        if not 0 < size <= len(data) - at - LENGTH.size:
            break
        try:
            blocks.append(folding.decompress(data[at + LENGTH.size : at + LENGTH.size + size]))
        except ArchiveError:
            break
        at += LENGTH.size + size
        if sum(map(len, blocks)) > MAX_DELTA_RESULT:
            return None
    return (start, at, b"".join(blocks)) if blocks else None
