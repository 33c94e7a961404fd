"""Bytes and bytes to a delta, and back: the container of swupd's bsdiff (stream format, section 4).

The matching is PyPI bsdiff4's; only the container differs from classic bsdiff. Compressed blocks are written
with xz and bzip2 alone, whose output does not depend on the build of the library as zlib's does.
"""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import bsdiff4.core

from swupd.errors import ArchiveError
from swupd.stream import MAX_DELTA_RESULT, MIB

_LARGE = struct.Struct("<8sBIQQQQQIIIH")
_SMALL = struct.Struct("<8sBBHHHHIIIH")
_NAME = re.compile(r"(?:[0-9]+-[0-9]+-)?([0-9a-f]{64})-([0-9a-f]{64})", re.ASCII)
_TRIPLE = struct.Struct("<qqq")
_ENCODINGS = {"none": 0, "bzip2": 1, "gzip": 2, "xz": 3, "zeros": 4}
_SHIFTS = (0, 5, 10)
_SIGN = 1 << 63
MIN_SIZE = 200
_CONTROL_SLACK = 4096
"""Writers give up where the control block is larger than the new file and a few bytes (4.3)."""


@dataclass(frozen=True, slots=True)
class Patched:
    """What a delta makes: the new content and the metadata it carries (mode with type bits)."""

    content: bytes
    mode: int
    uid: int
    gid: int


def name(from_version: int, to_version: int, from_digest: str, to_digest: str) -> str:
    """A file delta's name in a pack; all client generations can read this form (4.1)."""
    return f"{from_version}-{to_version}-{from_digest}-{to_digest}"


def parse_name(text: str) -> tuple[str, str] | None:
    """(from digest, to digest) of a delta's name, with or without its version prefix; else None."""
    found = _NAME.fullmatch(text)
    return (found[1], found[2]) if found else None


def make(old: bytes, new: bytes, mode: int, uid: int, gid: int, checked: bool = True) -> bytes | None:
    """A delta that turns old into new, or None where none pays (4.3: empty old, small or unlike new).

    mode: st_mode of the new file with type bits.
    checked: apply the delta once and give None where it does not give new back.
    """
    if not old or len(new) < MIN_SIZE or len(new) > MAX_DELTA_RESULT:
        return None
    if old == new:
        control, diff, extra = struct.pack("<qqq", len(new), 0, 0), bytes(len(new)), b""
    else:
        packed, diff, extra = bsdiff4.core.diff(old, new)
        control = _twos_complement(packed)
    if len(control) > len(new):
        return None
    stored = (_pack_block(control, False), _pack_block(diff, True), _pack_block(extra, True))
    delta = _header(old, new, mode, uid, gid, stored) + b"".join(block for _, block in stored)
    if len(delta) > 0.9 * len(new):
        return None
    if checked and apply(delta, old).content != new:
        return None
    return delta


def apply(delta: bytes, old: bytes, limit: int = MAX_DELTA_RESULT) -> Patched:
    """The new file, of at most limit bytes.

    Raises ArchiveError for anything malformed, and for the "use the fullfile" marker.
    """
    header, encodings, blocks = _split(delta)
    old_size, new_size, mode, uid, gid = header
    if old_size != len(old):
        raise ArchiveError(f"the delta is for an old file of {old_size} bytes, not {len(old)}")
    if new_size > min(limit, MAX_DELTA_RESULT):
        raise ArchiveError("the delta makes a file that is too large")
    most = (new_size + _CONTROL_SLACK, new_size, new_size)
    control, diff, extra = (
        _unpack_block(block, encoding, size) for block, encoding, size in zip(blocks, encodings, most, strict=True)
    )
    triples, diff_size, extra_size = _checked_triples(control, old_size, new_size)
    diff = _exactly(diff, encodings[1], diff_size)
    extra = _exactly(extra, encodings[2], extra_size)
    try:
        content = bsdiff4.core.patch(old, new_size, triples, diff, extra)
    except ValueError as e:
        raise ArchiveError(f"the delta does not fit: {e}") from e
    return Patched(content, mode, uid, gid)


def _header(old: bytes, new: bytes, mode: int, uid: int, gid: int, stored: tuple[tuple[str, bytes], ...]) -> bytes:
    bits = sum(1 << (shift + _ENCODINGS[how]) for shift, (how, _) in zip(_SHIFTS, stored, strict=True))
    sizes = [len(block) for _, block in stored]
    if max(len(old), len(new), sizes[1], sizes[2]) < 65536 and sizes[0] < 256:
        return _SMALL.pack(b"BSDIFF4V", _SMALL.size, *sizes, len(old), len(new), mode, uid, gid, bits)
    return _LARGE.pack(b"BSDIFF4U", _LARGE.size, *sizes, len(old), len(new), 0, mode, uid, gid, bits)


def _split(delta: bytes) -> tuple[tuple[int, int, int, int, int], tuple[str, ...], tuple[bytes, ...]]:
    magic = delta[:8]
    try:
        if magic == b"BSDIFF4U":
            _, at, control, diff, extra, old, new, _, mode, uid, gid, bits = _LARGE.unpack_from(delta)
        elif magic == b"BSDIFF4V":
            _, at, control, diff, extra, old, new, mode, uid, gid, bits = _SMALL.unpack_from(delta)
        else:
            raise ArchiveError("not a delta that can be applied")
    except struct.error as e:
        raise ArchiveError("the delta is cut off") from e
    if len(delta) != at + control + diff + extra:
        raise ArchiveError("the delta's length differs from what its header says")
    encodings = tuple(_encoding(bits >> shift & 31, shift != 0) for shift in _SHIFTS)
    first, second = at + control, at + control + diff
    return (old, new, mode, uid, gid), encodings, (delta[at:first], delta[first:second], delta[second:])


def _encoding(bits: int, may_be_zeros: bool) -> str:
    for how, bit in _ENCODINGS.items():
        if bits == 1 << bit and (how != "zeros" or may_be_zeros):
            return how
    raise ArchiveError("the delta does not say how its blocks are stored")


def _pack_block(block: bytes, may_be_zeros: bool) -> tuple[str, bytes]:
    if not block:
        return "none", b""
    if may_be_zeros and not block.strip(b"\0"):
        return "zeros", struct.pack("<Q", len(block))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": fitted_dictionary(len(block))}]
    candidates = (
        ("none", block),
        ("xz", lzma.compress(block, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)),
        ("bzip2", bz2.compress(block)),
    )
    return min(candidates, key=lambda c: len(c[1]))


def fitted_dictionary(size: int) -> int:
    """An LZMA dictionary no larger than the data needs, at most preset 6's 8 MiB: half the time, same size."""
    return min(8 * MIB, max(4096, 1 << max(0, size - 1).bit_length()))


def _unpack_block(block: bytes, encoding: str, limit: int) -> bytes:
    if encoding == "none":
        if len(block) > limit:
            raise ArchiveError("a block of the delta is larger than the file it makes")
        return block
    if encoding == "zeros":
        if len(block) != 8:
            raise ArchiveError("a block of the delta is malformed")
        return block
    makers: dict[str, Callable[[], _Decompressor]] = {
        "bzip2": bz2.BZ2Decompressor,
        "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=80 * MIB),
        "gzip": _Gzip,
    }
    decompressor = makers[encoding]()
    try:
        data = decompressor.decompress(block, limit + 1)
        if len(data) > limit:
            raise ArchiveError("a block of the delta is larger than the file it makes")
        if not decompressor.eof and not decompressor.decompress(b"", 1) and not decompressor.eof:
            raise ArchiveError("a block of the delta is cut off")
    except (lzma.LZMAError, OSError, EOFError, zlib.error) as e:
        raise ArchiveError(f"a block of the delta is damaged: {e}") from e
    return data


class _Gzip:
    """zlib's decompressor with the face of the other two."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(data or self._inner.unconsumed_tail, max_length)

    @property
    def eof(self) -> bool:
        return self._inner.eof


_Decompressor = bz2.BZ2Decompressor | lzma.LZMADecompressor | _Gzip


def _exactly(block: bytes, encoding: str, size: int) -> bytes:
    """A block of the size that the control block asks for; zeros are made, and may have been promised more."""
    if encoding == "zeros":
        if int.from_bytes(block, "little") < size:
            raise ArchiveError("a block of the delta is too short")
        return bytes(size)
    if len(block) != size:
        raise ArchiveError("a block of the delta has a length that its control block contradicts")
    return block


def _checked_triples(control: bytes, old_size: int, new_size: int) -> tuple[bytes, int, int]:
    """(control in bsdiff4's sign-magnitude form, bytes of diff, bytes of extra); bounds as in 4.2."""
    if len(control) % 24:
        raise ArchiveError("the delta's control block is cut off")
    packed = bytearray()
    at_old = at_new = diff = extra = 0
    for x, y, z in _TRIPLE.iter_unpack(control):
        if x < 0 or y < 0 or at_new + x + y > new_size:
            raise ArchiveError("the delta writes outside the new file")
        at_new += x + y
        diff += x
        extra += y
        at_old += x + z
        if not 0 <= at_old <= old_size:
            raise ArchiveError("the delta reads outside the old file")
        packed += struct.pack("<QQQ", x, y, z if z >= 0 else _SIGN - z)
        if at_new == new_size:
            break
    if at_new != new_size:
        raise ArchiveError("the delta makes less than the new file")
    return bytes(packed), diff, extra


def _twos_complement(packed: bytes) -> bytes:
    values = (v if v < _SIGN else _SIGN - v for (v,) in struct.iter_unpack("<Q", packed))
    return b"".join(struct.pack("<q", v) for v in values)
