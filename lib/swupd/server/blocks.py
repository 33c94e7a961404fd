"""How the blocks of a delta are stored: as they are, as a number of zeros, by xz or by bzip2 (stream format, 4.2).

zlib is left out: what it writes depends on the build of the library.
"""

from __future__ import annotations

import bz2
import struct
from typing import NamedTuple

from swupd import runs
from swupd.delta import Form
from swupd.server import xz
from swupd.server.xz import Effort
from swupd.stream import KIB, MIB

_DIFF_DICTIONARY = 64 * KIB
"""What repeats in a diff is near: a larger dictionary takes longer, and finds nothing (docs/adr/0014)."""
_DICTIONARY = 512 * KIB
_SPARSE = 20
"""Where at most one byte in so many differs, bzip2 is about as small as xz, in a tenth of the time (docs/adr/0012)."""
_SMALL = 64 * KIB
"""Up to here both are tried."""
_SAMPLED = MIB
_SAMPLES, _SAMPLE = 8, 64 * KIB


class Stored(NamedTuple):
    """A block as a delta holds it."""

    encoding: str
    data: bytes


def control(block: bytes, effort: Effort, loose: int) -> Stored:
    """Triples of numbers. Blocks of at most loose bytes stay as they are, for what is compressed with others."""
    if len(block) <= loose:
        return Stored("none", block)
    if len(block) <= _SMALL:
        return _smallest(block, _xz(block, effort, _DICTIONARY), _bzip2(block))
    return _smallest(block, _bzip2(block))


def extra(block: bytes, effort: Effort, loose: int) -> Stored:
    """Bytes that the old file does not have."""
    if (zeros := _zeros(block)) is not None:
        return zeros
    return _smallest(block, _xz(block, effort, _DICTIONARY)) if len(block) > loose else Stored("none", block)


def diff(block: bytes, form: Form, effort: Effort, loose: int) -> Stored:
    """What is added to the old file's bytes: mostly zeros."""
    if (zeros := _zeros(block)) is not None:
        return zeros
    written = runs.pack(block) if form is Form.RUNS else block
    if len(written) <= loose:
        return Stored("none", written)
    if form is Form.RUNS:
        return _smallest(written, _xz(written, Effort.RUNS, _DIFF_DICTIONARY))
    if len(block) <= _SMALL:
        return _smallest(block, _xz(block, effort, _DIFF_DICTIONARY), _bzip2(block))
    return _smallest(block, _bzip2(block) if _suits_bzip2(block, effort) else _xz(block, effort, _DIFF_DICTIONARY))


def _suits_bzip2(block: bytes, effort: Effort) -> bool:
    """Whether bzip2 makes about as little of a diff as xz, as far as can be told in a moment."""
    if effort is Effort.FAST or len(block) >= _SPARSE * (len(block) - block.count(0)):
        return True
    if len(block) < _SAMPLED:
        return False
    step = len(block) // _SAMPLES
    sample = b"".join(block[at : at + _SAMPLE] for at in range((step - _SAMPLE) // 2, len(block) - _SAMPLE, step))
    return len(_bzip2(sample).data) <= len(_xz(sample, effort, _DIFF_DICTIONARY).data)


def _zeros(block: bytes) -> Stored | None:
    """A block that is nothing else, None where it is not."""
    return Stored("zeros", struct.pack("<Q", len(block))) if block and not block.strip(b"\0") else None


def _xz(block: bytes, effort: Effort, dictionary: int) -> Stored:
    return Stored("xz", xz.compress(block, effort, dictionary))


def _bzip2(block: bytes) -> Stored:
    return Stored("bzip2", bz2.compress(block))


def _smallest(block: bytes, *packed: Stored) -> Stored:
    return min((Stored("none", block), *packed), key=lambda stored: len(stored.data))
