"""What a delta is: its names and its header (stream format, section 4), in two forms.

The plain form is what all clients read. In the form of runs the diff block is in pairs (see runs), which is smaller and
made sooner; only this project's agent reads it (docs/adr/0014).
"""

from __future__ import annotations

import enum
import re
import struct
from typing import NamedTuple

from swupd.errors import ArchiveError

_LARGE = struct.Struct("<8sBIQQQQQIIIH")
_RUNS = struct.Struct("<8sBIQQQQQIIIHx")
"""The same, and a byte that makes it even: pairs begin where the compressor knows them for such."""
_SMALL = struct.Struct("<8sBBHHHHIIIH")
_LARGE_MAGIC, _RUNS_MAGIC, _SMALL_MAGIC = b"BSDIFF4U", b"SWUPDRNS", b"BSDIFF4V"
HEADER_SIZE = _RUNS.size
"""Bytes of the longest header."""
_NAME = re.compile(r"(?:(?:[0-9]+-[0-9]+-)?([0-9a-f]{64})-|([0-9a-f]{64})/)([0-9a-f]{64})", re.ASCII)
_ENCODINGS = {"none": 0, "bzip2": 1, "gzip": 2, "xz": 3, "zeros": 4}
_SHIFTS = (0, 5, 10)


class Form(enum.Enum):
    """How the diff block is written: as it is, or in runs."""

    PLAIN = "plain"
    RUNS = "runs"


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


class Header(NamedTuple):
    """sizes, encodings: of the blocks as they are stored: control, diff, extra. old, new: bytes of the two files.

    mode: st_mode of the new file with type bits.
    """

    form: Form
    sizes: tuple[int, int, int]
    encodings: tuple[str, str, str]
    old: int
    new: int
    mode: int
    uid: int
    gid: int

    def pack(self) -> bytes:
        """The bytes that a delta begins with; the blocks follow, one after another."""
        bits = sum(1 << (shift + _ENCODINGS[how]) for shift, how in zip(_SHIFTS, self.encodings, strict=True))
        control, diff, extra = self.sizes
        tail = (self.mode, self.uid, self.gid, bits)
        if self.form is Form.PLAIN and max(self.old, self.new, diff, extra) < 65536 and control < 256:
            return _SMALL.pack(_SMALL_MAGIC, _SMALL.size, *self.sizes, self.old, self.new, *tail)
        magic, layout = (_RUNS_MAGIC, _RUNS) if self.form is Form.RUNS else (_LARGE_MAGIC, _LARGE)
        return layout.pack(magic, layout.size, *self.sizes, self.old, self.new, 0, *tail)


def parse_header(data: bytes, size: int) -> tuple[Header, int]:
    """The header of a delta of so many bytes, and where its blocks begin.

    data: what the delta begins with, HEADER_SIZE bytes if it has so many.
    Raises ArchiveError for anything malformed, and for the "use the fullfile" marker.
    """
    magic = data[:8]
    form = Form.RUNS if magic == _RUNS_MAGIC else Form.PLAIN
    try:
        if magic == _SMALL_MAGIC:
            _, start, *sizes, old, new, mode, uid, gid, bits = _SMALL.unpack_from(data)
        elif magic in (_LARGE_MAGIC, _RUNS_MAGIC):
            layout = _RUNS if form is Form.RUNS else _LARGE
            _, start, *sizes, old, new, _, mode, uid, gid, bits = layout.unpack_from(data)
        else:
            raise ArchiveError("not a delta that can be applied")
    except struct.error as e:
        raise ArchiveError("the delta is cut off") from e
    control, diff, extra = sizes
    if size != start + control + diff + extra:
        raise ArchiveError("the delta's length differs from what its header says")
    first, second, third = (_encoding(bits >> shift & 31, shift != 0) for shift in _SHIFTS)
    return Header(form, (control, diff, extra), (first, second, third), old, new, mode, uid, gid), start


def _encoding(bits: int, may_be_zeros: bool) -> str:
    for how, bit in _ENCODINGS.items():
        if bits == 1 << bit and (how != "zeros" or may_be_zeros):
            return how
    raise ArchiveError("the delta does not say how its blocks are stored")
