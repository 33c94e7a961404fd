"""Deltas and old files to new files (stream format, section 4), whoever made the delta.

They are applied piece by piece, so that memory does not grow with the files.
"""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate, repeat
from operator import add
from typing import BinaryIO, NamedTuple

import bsdiff4.core

from swupd import runs
from swupd.delta import HEADER_SIZE, Form, Header, parse_header
from swupd.errors import ArchiveError
from swupd.stream import MAX_DELTA_RESULT, MIB

_TRIPLE = struct.Struct("<qqq")
_SIGN = 1 << 63
_BATCH = MIB
"""Bytes of the new file that are made at a time."""
_TRIPLES = 4096
_FEED = 64 * 1024
_PAIRS = 16 * 1024
"""Bytes of pairs that are expanded at a time."""
_CONTROL_SLACK = 4096
"""Writers give up where the control block is larger than the new file and a few bytes (4.3)."""


class Patched(NamedTuple):
    """What a delta makes: the new content and the metadata it carries (mode with type bits)."""

    content: bytes
    mode: int
    uid: int
    gid: int


class Patch(NamedTuple):
    """A delta that is opened: what it makes of an old file. chunks: the new content, to be read once."""

    size: int
    mode: int
    uid: int
    gid: int
    chunks: Iterator[bytes]


def apply(delta: bytes, old: bytes, limit: int = MAX_DELTA_RESULT) -> Patched:
    """The new file, of at most limit bytes.

    Raises ArchiveError for anything malformed, and for the "use the fullfile" marker.
    """
    found = opened(io.BytesIO(delta), len(delta), io.BytesIO(old), len(old), limit)
    return Patched(b"".join(found.chunks), found.mode, found.uid, found.gid)


def makes(delta: bytes, old: bytes, new: bytes) -> bool:
    """Whether a delta makes the new file of the old one; neither is held once more."""
    at = 0
    try:
        for chunk in opened(io.BytesIO(delta), len(delta), io.BytesIO(old), len(old)).chunks:
            if not new.startswith(chunk, at):
                return False
            at += len(chunk)
    except ArchiveError:
        return False
    return at == len(new)


def opened(
    delta: BinaryIO, size: int, old: BinaryIO, old_size: int, limit: int = MAX_DELTA_RESULT, start: int = 0
) -> Patch:
    """Opens a delta in a file of so many bytes, to be applied to an old file of so many; both are read until the end.

    start: where in its file the delta begins.
    Raises ArchiveError as apply does; reading the chunks may raise it, too.
    """
    delta.seek(start)
    header, at = parse_header(delta.read(HEADER_SIZE), size - start)
    if header.old != old_size:
        raise ArchiveError(f"the delta is for an old file of {header.old} bytes, not {old_size}")
    if header.new > min(limit, MAX_DELTA_RESULT):
        raise ArchiveError("the delta makes a file that is too large")
    in_runs = header.form is Form.RUNS
    most = (header.new + _CONTROL_SLACK, header.new * (runs.PAIR if in_runs else 1), header.new)
    begins = accumulate(header.sizes, initial=start + at)
    control, diff, extra = (
        _Block(_Section(delta, begin, stored), how, limit)
        for begin, stored, how, limit in zip(begins, header.sizes, header.encodings, most, strict=False)
    )
    added = _Runs(diff, header.new) if in_runs and not diff.zeros else diff
    return Patch(header.new, header.mode, header.uid, header.gid, _patched(header, control, added, extra, old))


class _Section:
    """A part of a file, read from its start to its end, whoever else reads the file."""

    def __init__(self, file: BinaryIO, at: int, left: int) -> None:
        self.left = left
        self._file, self._at = file, at

    def read(self, size: int) -> bytes:
        """At most so many bytes; none at the end. Raises ArchiveError where the file ends before."""
        wanted = min(size, self.left)
        if not wanted:
            return b""
        self._file.seek(self._at)
        data = self._file.read(wanted)
        if len(data) != wanted:
            raise ArchiveError("the delta is cut off")
        self._at += wanted
        self.left -= wanted
        return data


class _Gzip:
    """zlib's decompressor with the face of the other two."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inner.eof


_Decompressor = bz2.BZ2Decompressor | lzma.LZMADecompressor | _Gzip
_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=80 * MIB),
    "gzip": _Gzip,
}


class _Block:
    """A block of a delta while it is unpacked, of at most limit bytes."""

    def __init__(self, section: _Section, encoding: str, limit: int) -> None:
        self._section, self._limit = section, limit
        self._zeros = -1
        if encoding == "zeros":
            if section.left != 8:
                raise ArchiveError("a block of the delta is malformed")
            self._zeros = int.from_bytes(section.read(8), "little")
        made = _DECOMPRESSORS.get(encoding)
        self._decompressor = made() if made is not None else None

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end. Raises ArchiveError."""
        if self._zeros >= 0:
            count = min(size, self._zeros)
            self._zeros -= count
            return bytes(count)
        parts: list[bytes] = []
        while size and (data := self._piece(size)):
            parts.append(data)
            size -= len(data)
            self._limit -= len(data)
            if self._limit < 0:
                raise ArchiveError("a block of the delta is larger than the file it makes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _piece(self, size: int) -> bytes:
        if self._decompressor is None:
            return self._section.read(size)
        inner = self._decompressor
        try:
            while not inner.eof:
                given = self._section.read(_FEED) if inner.needs_input else b""
                ended = inner.needs_input and not given
                data = inner.decompress(given, size)
                if data:
                    return data
                if ended and not inner.eof:
                    raise ArchiveError("a block of the delta is cut off")
        except (lzma.LZMAError, OSError, EOFError, zlib.error) as e:
            raise ArchiveError(f"a block of the delta is damaged: {e}") from e
        return b""

    @property
    def zeros(self) -> bool:
        """Whether it is nothing else, and may have been promised more of them than are wanted."""
        return self._zeros >= 0


class _Runs:
    """A diff block in runs while it is unpacked, of at most limit bytes as a diff."""

    zeros = False

    def __init__(self, pairs: _Block, limit: int) -> None:
        self._pairs, self._limit = pairs, limit
        self._waiting = b""

    def read(self, size: int) -> bytes:
        """So many bytes of the diff, fewer only at the end. Raises ArchiveError."""
        parts, have = [self._waiting], len(self._waiting)
        while have < size and (pairs := self._pairs.read(_PAIRS)):
            if len(pairs) % runs.PAIR:
                raise ArchiveError("a block of the delta is cut off")
            diff = runs.expand(pairs)
            self._limit -= len(diff)
            if self._limit < 0:
                raise ArchiveError("a block of the delta is larger than the file it makes")
            parts.append(diff)
            have += len(diff)
        data = b"".join(parts)
        self._waiting = data[size:]
        return data[:size]


def _exactly(block: _Block | _Runs, size: int) -> bytes:
    """So many bytes of a block. Raises ArchiveError where there are fewer."""
    data = block.read(size)
    if len(data) != size:
        raise ArchiveError("a block of the delta is too short")
    return data


def _end(block: _Block | _Runs) -> None:
    """Raises ArchiveError where there is more in a block."""
    if not block.zeros and block.read(1):
        raise ArchiveError("a block of the delta has a length that its control block contradicts")


class _Steps(NamedTuple):
    """Steps of a control block, one after another: each adds bytes to those of the old file, then copies some.

    places: where in the old file each begins, and where the next one does. adds: how many bytes each adds.
    ends: how many bytes of the new file there are before each, and after the last. triples: what bsdiff4 is told.
    """

    places: list[int]
    adds: array[int]
    ends: list[int]
    triples: bytes


def _patched(header: Header, control: _Block, diff: _Block | _Runs, extra: _Block, old: BinaryIO) -> Iterator[bytes]:
    for steps in _steps(header, control):
        at, last = 0, len(steps.places) - 1
        while at < last:
            # As many as make about so many bytes; one that makes more, in parts.
            until = bisect_right(steps.ends, steps.ends[at] + _BATCH, at + 1, last + 1) - 1
            if until > at:
                yield _batch(steps, at, until, old, diff, extra)
            else:
                until = at + 1
                yield from _parts(steps, at, old, diff, extra)
            at = until
    _end(diff)
    _end(extra)


def _steps(header: Header, control: _Block) -> Iterator[_Steps]:
    """What the control block says, checked (4.2). Raises ArchiveError."""
    at_old = at_new = 0
    while at_new != header.new:
        block = control.read(_TRIPLE.size * _TRIPLES)
        if not block:
            raise ArchiveError("the delta makes less than the new file")
        if len(block) % _TRIPLE.size:
            raise ArchiveError("the delta's control block is cut off")
        words = _words(array("Q", block))
        # What is negative is far too large here.
        adds, copies = words[0::3], words[1::3]
        ends = list(accumulate(map(add, adds, copies), initial=at_new))
        count = min(bisect_left(ends, header.new), len(adds))
        if ends[count] > header.new:
            raise ArchiveError("the delta writes outside the new file")
        seeks = array("q", words[2 : 3 * count : 3].tobytes())
        places = list(accumulate(map(add, adds, seeks), initial=at_old))
        if min(places) < 0 or max(places) > header.old:
            raise ArchiveError("the delta reads outside the old file")
        # bsdiff4 has the sign in a bit of its own.
        words[2 : 3 * count : 3] = array("Q", [seek if seek >= 0 else _SIGN - seek for seek in seeks])
        yield _Steps(places, adds, ends, _words(words).tobytes())
        at_old, at_new = places[-1], ends[count]
    while control.read(_FEED):
        continue


def _words(words: array[int]) -> array[int]:
    """Words of a delta as numbers, or back."""
    if sys.byteorder == "big":
        words.byteswap()
    return words


def _batch(steps: _Steps, at: int, until: int, old: BinaryIO, diff: _Block | _Runs, extra: _Block) -> bytes:
    """What some steps make."""
    places, adds = steps.places[at:until], steps.adds[at:until]
    added, made = sum(adds), steps.ends[until] - steps.ends[at]
    triples = steps.triples[_TRIPLE.size * at : _TRIPLE.size * until]
    low, high = min(places), max(map(add, places, adds))
    if high - low <= 4 * _BATCH:
        before = _read(old, low, high - low)
        triples = _TRIPLE.pack(0, 0, places[0] - low) + triples
    else:
        # Piece by piece, each next to the one before it.
        before = b"".join(map(_read, repeat(old), places, adds))
        words = array("Q", triples)
        words[2::3] = array("Q", bytes(8 * len(places)))
        triples = words.tobytes()
    return _bytes(before, made, triples, _exactly(diff, added), _exactly(extra, made - added))


def _parts(steps: _Steps, at: int, old: BinaryIO, diff: _Block | _Runs, extra: _Block) -> Iterator[bytes]:
    """What one large step makes, as many bytes at a time as are held."""
    place, adds = steps.places[at], steps.adds[at]
    copies = steps.ends[at + 1] - steps.ends[at] - adds
    while adds or copies:
        added = min(adds, _BATCH)
        copied = min(copies, _BATCH - added)
        triple = _TRIPLE.pack(added, copied, 0)
        yield _bytes(_read(old, place, added), added + copied, triple, _exactly(diff, added), _exactly(extra, copied))
        place, adds, copies = place + added, adds - added, copies - copied


def _read(old: BinaryIO, place: int, size: int) -> bytes:
    """So many bytes of the old file; where it ends too early, nothing is added to."""
    old.seek(place)
    return old.read(size).ljust(size, b"\0")


def _bytes(before: bytes, size: int, triples: bytes, diff: bytes, extra: bytes) -> bytes:
    try:
        made: bytes = bsdiff4.core.patch(before, size, triples, diff, extra)
    except ValueError as e:
        raise ArchiveError(f"the delta does not fit: {e}") from e
    return made
