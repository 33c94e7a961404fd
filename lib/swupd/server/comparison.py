"""Two files to a delta (stream format, section 4), in the forms that are wanted.

Blocks are compressed with xz alone: zlib's output depends on the build of the library, and bzip2 takes a device twice
the time for no gain.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from swupd import patches, runs, xz
from swupd.delta import Form, Header
from swupd.server import matching
from swupd.stream import KIB, MAX_DELTA_RESULT
from swupd.xz import Effort

MIN_SIZE = 200
_DIFF_DICTIONARY = 256 * KIB
"""What repeats in a diff is near: a larger dictionary takes longer, and finds nothing (docs/adr/0014)."""
_DICTIONARY = 512 * KIB


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
    control = _pack_block(blocks.control, loose, effort, _DICTIONARY)
    extra = _zeros(blocks.extra) or _pack_block(blocks.extra, loose, effort, _DICTIONARY)
    made = {}
    for form in forms:
        diff = _zeros(blocks.diff) or _pack_diff(blocks.diff, form, loose, effort)
        sizes = (len(control.data), len(diff.data), len(extra.data))
        encodings = (control.encoding, diff.encoding, extra.encoding)
        header = Header(form, sizes, encodings, len(old), len(new), mode, uid, gid)
        delta = b"".join((header.pack(), control.data, diff.data, extra.data))
        if (loose or len(delta) <= 0.9 * len(new)) and patches.apply(delta, old).content == new:
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


class _Stored(NamedTuple):
    """A block as a delta holds it."""

    encoding: str
    data: bytes


def _zeros(block: bytes) -> _Stored | None:
    """A block that is nothing else, None where it is not."""
    return _Stored("zeros", struct.pack("<Q", len(block))) if block and not block.strip(b"\0") else None


def _pack_diff(diff: bytes, form: Form, loose: int, effort: Effort) -> _Stored:
    if form is Form.RUNS:
        return _pack_block(runs.pack(diff), loose, Effort.RUNS, _DIFF_DICTIONARY)
    return _pack_block(diff, loose, effort, _DIFF_DICTIONARY)


def _pack_block(block: bytes, loose: int, effort: Effort, dictionary: int) -> _Stored:
    if len(block) <= loose:
        return _Stored("none", block)
    packed = xz.compress(block, effort, dictionary)
    return _Stored("xz", packed) if len(packed) < len(block) else _Stored("none", block)
