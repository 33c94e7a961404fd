"""Bytes and bytes to a delta, and back: the container of swupd's bsdiff (stream format, section 4), in two forms.

The plain form is what all clients read. In the form of runs the diff block is in pairs (see runs), which is smaller and
made sooner; only this project's agent reads it (docs/adr/0014).

Deltas are applied piece by piece, so that memory does not grow with the files. Compressed blocks are written with xz
alone: zlib's output depends on the build of the library, and bzip2 takes a device twice the time for no gain.
"""

from __future__ import annotations

import bz2
import enum
import io
import lzma
import re
import struct
import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, repeat
from operator import add
from typing import BinaryIO

import bsdiff4.core

from swupd import matching, runs, xz
from swupd.errors import ArchiveError
from swupd.stream import MAX_DELTA_RESULT, MIB
from swupd.xz import Effort

_LARGE = struct.Struct("<8sBIQQQQQIIIH")
_RUNS = struct.Struct("<8sBIQQQQQIIIHx")
"""The same, and a byte that makes it even: pairs begin where the compressor knows them for such."""
_SMALL = struct.Struct("<8sBBHHHHIIIH")
_NAME = re.compile(r"(?:(?:[0-9]+-[0-9]+-)?([0-9a-f]{64})-|([0-9a-f]{64})/)([0-9a-f]{64})", re.ASCII)
_TRIPLE = struct.Struct("<qqq")
_ENCODINGS = {"none": 0, "bzip2": 1, "gzip": 2, "xz": 3, "zeros": 4}
_SHIFTS = (0, 5, 10)
_SIGN = 1 << 63
MIN_SIZE = 200
_BATCH = MIB
"""Bytes of the new file that are made at a time."""
_TRIPLES = 4096
_FEED = 64 * 1024
_PAIRS = 16 * 1024
"""Bytes of pairs that are expanded at a time."""
_CONTROL_SLACK = 4096
"""Writers give up where the control block is larger than the new file and a few bytes (4.3)."""


class Form(enum.Enum):
    """How the diff block is written: as it is, or in runs."""

    PLAIN = "plain"
    RUNS = "runs"


@dataclass(frozen=True, slots=True)
class Patched:
    """What a delta makes: the new content and the metadata it carries (mode with type bits)."""

    content: bytes
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Patch:
    """A delta that is opened: what it makes of an old file. chunks: the new content, to be read once."""

    size: int
    mode: int
    uid: int
    gid: int
    chunks: Iterator[bytes]


def name(from_version: int, to_version: int, from_digest: str, to_digest: str, form: Form = Form.PLAIN) -> str:
    """A file delta's name in a pack: of the plain form one that all client generations can read (4.1).

    In runs it is in two parts, which a tar's header has room for: that is read in half of the time of a PAX record.
    """
    if form is Form.RUNS:
        return f"{from_digest}/{to_digest}"
    return f"{from_version}-{to_version}-{from_digest}-{to_digest}"


def parse_name(text: str) -> tuple[str, str] | None:
    """(from digest, to digest) of a delta's name, with or without its version prefix; else None."""
    found = _NAME.fullmatch(text)
    return (found[1] or found[2], found[3]) if found else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two files, and how the one is made out of the other, whatever the form of the delta."""

    old: bytes
    new: bytes
    blocks: matching.Blocks


def compare(old: bytes, new: bytes) -> Comparison | None:
    """How to make new out of old, None where no delta pays (4.3: empty old, small or unlike new)."""
    if not old or len(new) < MIN_SIZE or len(new) > MAX_DELTA_RESULT:
        return None
    found = matching.blocks(old, new)
    return Comparison(old, new, found) if len(found.control) <= len(new) else None


def pack(
    compared: Comparison,
    mode: int,
    uid: int,
    gid: int,
    loose: int = 0,
    effort: Effort = Effort.NORMAL,
    forms: Iterable[Form] = (Form.PLAIN,),
) -> dict[Form, bytes]:
    """The deltas of two files in those of some forms that pay.

    mode: st_mode of the new file with type bits.
    loose: blocks of at most so many bytes stay as they are, for what is compressed together with others.
    effort: how hard to try with the rest.
    """
    old, new, blocks = compared.old, compared.new, compared.blocks
    control = _pack_block(blocks.control, False, loose, effort)
    extra = _pack_block(blocks.extra, True, loose, effort)
    made = {}
    for form in forms:
        in_runs = form is Form.RUNS
        diff = _pack_runs(blocks.diff, loose) if in_runs else _pack_block(blocks.diff, True, loose, effort)
        stored = (control, diff, extra)
        delta = _header(old, new, mode, uid, gid, stored, form) + b"".join(block for _, block in stored)
        if (loose or len(delta) <= 0.9 * len(new)) and apply(delta, old).content == new:
            made[form] = delta
    return made


def make(
    old: bytes,
    new: bytes,
    mode: int,
    uid: int,
    gid: int,
    loose: int = 0,
    effort: Effort = Effort.NORMAL,
    form: Form = Form.PLAIN,
) -> bytes | None:
    """A delta that turns old into new, as pack gives it; None where compare or pack gives none."""
    compared = compare(old, new)
    return None if compared is None else pack(compared, mode, uid, gid, loose, effort, (form,)).get(form)


def apply(delta: bytes, old: bytes, limit: int = MAX_DELTA_RESULT) -> Patched:
    """The new file, of at most limit bytes.

    Raises ArchiveError for anything malformed, and for the "use the fullfile" marker.
    """
    found = patch(io.BytesIO(delta), len(delta), io.BytesIO(old), len(old), limit)
    return Patched(b"".join(found.chunks), found.mode, found.uid, found.gid)


def patch(
    delta: BinaryIO, size: int, old: BinaryIO, old_size: int, limit: int = MAX_DELTA_RESULT, start: int = 0
) -> Patch:
    """Opens a delta in a file of so many bytes, to be applied to an old file of so many; both are read until the end.

    start: where in its file the delta begins.
    Raises ArchiveError as apply does; reading the chunks may raise it, too.
    """
    head = _read_header(delta, size, start)
    if head.old != old_size:
        raise ArchiveError(f"the delta is for an old file of {head.old} bytes, not {old_size}")
    if head.new > min(limit, MAX_DELTA_RESULT):
        raise ArchiveError("the delta makes a file that is too large")
    sections, at = [], head.offset
    for stored in head.blocks:
        sections.append(_Section(delta, at, stored))
        at += stored
    most = (head.new + _CONTROL_SLACK, head.new * (runs.PAIR if head.form is Form.RUNS else 1), head.new)
    control, diff, extra = (
        _Block(section, how, limit) for section, how, limit in zip(sections, head.encodings, most, strict=True)
    )
    added = _Runs(diff, head.new) if head.form is Form.RUNS and not diff.zeros else diff
    return Patch(head.new, head.mode, head.uid, head.gid, _patched(head, control, added, extra, old))


def _header(
    old: bytes, new: bytes, mode: int, uid: int, gid: int, stored: tuple[tuple[str, bytes], ...], form: Form
) -> bytes:
    bits = sum(1 << (shift + _ENCODINGS[how]) for shift, (how, _) in zip(_SHIFTS, stored, strict=True))
    sizes = [len(block) for _, block in stored]
    if form is Form.RUNS:
        return _RUNS.pack(b"SWUPDRNS", _RUNS.size, *sizes, len(old), len(new), 0, mode, uid, gid, bits)
    if max(len(old), len(new), sizes[1], sizes[2]) < 65536 and sizes[0] < 256:
        return _SMALL.pack(b"BSDIFF4V", _SMALL.size, *sizes, len(old), len(new), mode, uid, gid, bits)
    return _LARGE.pack(b"BSDIFF4U", _LARGE.size, *sizes, len(old), len(new), 0, mode, uid, gid, bits)


@dataclass(frozen=True, slots=True)
class _Head:
    """offset: where the blocks begin; blocks: their stored sizes."""

    offset: int
    blocks: tuple[int, int, int]
    encodings: tuple[str, ...]
    old: int
    new: int
    mode: int
    uid: int
    gid: int
    form: Form = Form.PLAIN


def _read_header(delta: BinaryIO, size: int, start: int) -> _Head:
    delta.seek(start)
    data = delta.read(_RUNS.size)
    magic = data[:8]
    form = Form.RUNS if magic == b"SWUPDRNS" else Form.PLAIN
    try:
        if magic == b"BSDIFF4U":
            _, at, control, diff, extra, old, new, _, mode, uid, gid, bits = _LARGE.unpack_from(data)
        elif form is Form.RUNS:
            _, at, control, diff, extra, old, new, _, mode, uid, gid, bits = _RUNS.unpack_from(data)
        elif magic == b"BSDIFF4V":
            _, at, control, diff, extra, old, new, mode, uid, gid, bits = _SMALL.unpack_from(data)
        else:
            raise ArchiveError("not a delta that can be applied")
    except struct.error as e:
        raise ArchiveError("the delta is cut off") from e
    at += start
    if size != at + control + diff + extra:
        raise ArchiveError("the delta's length differs from what its header says")
    encodings = tuple(_encoding(bits >> shift & 31, shift != 0) for shift in _SHIFTS)
    return _Head(at, (control, diff, extra), encodings, old, new, mode, uid, gid, form)


def _encoding(bits: int, may_be_zeros: bool) -> str:
    for how, bit in _ENCODINGS.items():
        if bits == 1 << bit and (how != "zeros" or may_be_zeros):
            return how
    raise ArchiveError("the delta does not say how its blocks are stored")


def _pack_block(block: bytes, may_be_zeros: bool, loose: int, effort: Effort) -> tuple[str, bytes]:
    if not block:
        return "none", b""
    if may_be_zeros and not block.strip(b"\0"):
        return "zeros", struct.pack("<Q", len(block))
    if len(block) <= loose:
        return "none", block
    packed = xz.compress(block, effort)
    return ("xz", packed) if len(packed) < len(block) else ("none", block)


def _pack_runs(diff: bytes, loose: int) -> tuple[str, bytes]:
    """A diff block in runs; as zeros where it is nothing else."""
    if not diff.strip(b"\0"):
        return _pack_block(diff, True, loose, Effort.RUNS)
    return _pack_block(runs.pack(diff), False, loose, Effort.RUNS)


@dataclass
class _Section:
    """A part of a file, read from its start to its end, whoever else reads the file."""

    file: BinaryIO
    at: int
    left: int

    def read(self, size: int) -> bytes:
        """At most so many bytes; none at the end. Raises ArchiveError where the file ends before."""
        wanted = min(size, self.left)
        if not wanted:
            return b""
        self.file.seek(self.at)
        data = self.file.read(wanted)
        if len(data) != wanted:
            raise ArchiveError("the delta is cut off")
        self.at += wanted
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


@dataclass(frozen=True, slots=True)
class _Steps:
    """Steps of a control block, one after another: each adds bytes to those of the old file, then copies some.

    places: where in the old file each begins, and where the next one does. adds: how many bytes each adds.
    ends: how many bytes of the new file there are before each, and after the last. triples: what bsdiff4 is told.
    """

    places: list[int]
    adds: array[int]
    ends: list[int]
    triples: bytes


def _patched(head: _Head, control: _Block, diff: _Block | _Runs, extra: _Block, old: BinaryIO) -> Iterator[bytes]:
    for steps in _steps(head, control):
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


def _steps(head: _Head, control: _Block) -> Iterator[_Steps]:
    """What the control block says, checked (4.2). Raises ArchiveError."""
    at_old = at_new = 0
    while at_new != head.new:
        block = control.read(_TRIPLE.size * _TRIPLES)
        if not block:
            raise ArchiveError("the delta makes less than the new file")
        if len(block) % _TRIPLE.size:
            raise ArchiveError("the delta's control block is cut off")
        words = _words(array("Q", block))
        # What is negative is far too large here.
        adds, copies = words[0::3], words[1::3]
        ends = list(accumulate(map(add, adds, copies), initial=at_new))
        count = min(bisect_left(ends, head.new), len(adds))
        if ends[count] > head.new:
            raise ArchiveError("the delta writes outside the new file")
        seeks = array("q", words[2 : 3 * count : 3].tobytes())
        places = list(accumulate(map(add, adds, seeks), initial=at_old))
        if min(places) < 0 or max(places) > head.old:
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
