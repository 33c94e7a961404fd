"""Files whose payload is compressed: unfolded before they are compared, and folded to the same bytes again.

Where a few instructions changed, most bytes of a compressed kernel or module did; those of its payload did not. A
folded delta is the delta between two unfolded files with a header that says how to unfold the old one and how to fold
the new one. What a device must have for that is part of a pack's name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from typing import BinaryIO, NamedTuple

from swupd import payloads
from swupd.errors import ArchiveError
from swupd.payloads import Codec, Lz4, Packer
from swupd.stream import MAX_DELTA_RESULT, MIB

RUNS = "runs"
"""What the names of packs say whose deltas are in runs; what folding some of them needs follows."""
_HEAD = struct.Struct("<8sQHH")
_SPAN = struct.Struct("<QQ")
MOST_SPANS = 64
HEAD_SIZE = _HEAD.size + 2 * MOST_SPANS * _SPAN.size
"""Bytes of the longest header."""


class Span(NamedTuple):
    """Where a payload begins and ends in a file."""

    start: int
    end: int


class Fold(NamedTuple):
    """The header of a folded delta: payloads in the old file, and in the new one when unfolded; the new one's size.

    codec: how all of them are compressed.
    """

    old: tuple[Span, ...]
    new: tuple[Span, ...]
    size: int
    codec: Codec = Lz4()

    def pack(self) -> bytes:
        """The header's bytes; a delta in runs follows."""
        head = _HEAD.pack(self.codec.mark, self.size, len(self.old), len(self.new))
        return head + b"".join(_SPAN.pack(*span) for span in (*self.old, *self.new))

    @property
    def length(self) -> int:
        """How many bytes the header has."""
        return _HEAD.size + (len(self.old) + len(self.new)) * _SPAN.size


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
    """The header, None for a delta of another kind. Raises ArchiveError.

    head: what the delta begins with, HEAD_SIZE bytes if it has so many.
    """
    codec = payloads.of_mark(head[: payloads.MARK_SIZE])
    if codec is None:
        return None
    try:
        _, size, old, new = _HEAD.unpack_from(head)
        spans = tuple(Span(*_SPAN.unpack_from(head, _HEAD.size + n * _SPAN.size)) for n in range(old + new))
    except struct.error as e:
        raise ArchiveError("the delta is cut off") from e
    fold = Fold(spans[:old], spans[old:], size, codec)
    if max(old, new) > MOST_SPANS or size > MAX_DELTA_RESULT or not (_in_order(fold.old) and _in_order(fold.new)):
        raise ArchiveError("the delta says nonsense about how to unfold")
    return fold


def _in_order(spans: tuple[Span, ...]) -> bool:
    places = (0, *chain.from_iterable(spans), MAX_DELTA_RESULT)
    return all(before <= after for before, after in pairwise(places))


def unfolded(old: BinaryIO, fold: Fold) -> Iterator[bytes]:
    """The old file with its payloads decompressed. Raises ArchiveError where it is not as the delta says."""
    old.seek(0)
    at = 0
    for span in fold.old:
        yield payloads.exactly(old, span.start - at)
        yield from fold.codec.unpacked(old, span.end - span.start)
        at = span.end
    while data := old.read(MIB):
        yield data


def folded(chunks: Iterable[bytes], fold: Fold) -> Iterator[bytes]:
    """The new file, out of its unfolded form."""
    waiting = iter(span for span in fold.new if span.start < span.end)
    span = next(waiting, _BEYOND)
    packer: Packer | None = None
    at = 0
    for chunk in chunks:
        begin, end = at, at + len(chunk)
        while at < end:
            inside = at >= span.start
            until = min(end, span.end if inside else span.start)
            piece = memoryview(chunk)[at - begin : until - begin]
            at = until
            if not inside:
                yield bytes(piece)
                continue
            packer = packer or fold.codec.packer(span.end - span.start)
            yield from packer.add(piece)
            if at == span.end:
                yield from packer.end()
                span, packer = next(waiting, _BEYOND), None


_BEYOND = Span(MAX_DELTA_RESULT + 1, MAX_DELTA_RESULT + 1)
