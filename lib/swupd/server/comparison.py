"""Two files to a delta (stream format, section 4), in the forms that are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial

from swupd import patches
from swupd.delta import Form, Header
from swupd.server import blocks, diagonals, matching
from swupd.server.archiver import SOLID_LIMIT
from swupd.server.blocks import Stored
from swupd.server.matching import Match
from swupd.server.xz import Effort
from swupd.stream import MAX_DELTA_RESULT

MIN_SIZE = 200
Matcher = Callable[[bytes, bytes], list[Match]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two files, and how the one is made out of the other, whatever the form of the delta."""

    old: bytes
    new: bytes
    blocks: matching.Blocks


def compare(old: bytes, new: bytes, find: Matcher = diagonals.matches) -> Comparison | None:
    """How to make new out of old, None where no delta pays (4.3: empty old, small or unlike new).

    find: matches of the two in the order of the new file, which do not overlap in it.
    """
    if not old or len(new) < MIN_SIZE or len(new) > MAX_DELTA_RESULT:
        return None
    found = matching.blocks(old, new, [Match(0, 0, len(new))] if old == new else find(old, new))
    if len(found.control) > len(new):
        return None
    compared = Comparison(old, new, found)
    return compared if _holds(compared) else None


def _holds(compared: Comparison) -> bool:
    """Whether the new file is made, before anything is compressed: once, whatever forms it will have."""
    found = compared.blocks
    as_it_is = [Stored("none", block) for block in (found.control, found.diff, found.extra)]
    return patches.makes(_delta(compared, Form.PLAIN, 0, 0, 0, as_it_is), compared.old, compared.new)


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
    found = compared.blocks
    control = cache(partial(blocks.control, found.control, effort))
    extra = cache(partial(blocks.extra, found.extra, effort))
    made = {}
    for form in forms:
        parts = (control, cache(partial(blocks.diff, found.diff, form, effort)), extra)
        packed = [part(loose) for part in parts]
        delta = _delta(compared, form, mode, uid, gid, packed)
        if len(delta) >= SOLID_LIMIT:
            # Nothing is compressed together with it.
            packed = [part(0) if block.encoding == "none" else block for part, block in zip(parts, packed, strict=True)]
            delta = _delta(compared, form, mode, uid, gid, packed)
        if loose or len(delta) <= 0.9 * len(compared.new):
            made[form] = delta
    return made


def _delta(compared: Comparison, form: Form, mode: int, uid: int, gid: int, packed: Sequence[Stored]) -> bytes:
    control, diff, extra = packed
    sizes = (len(control.data), len(diff.data), len(extra.data))
    encodings = (control.encoding, diff.encoding, extra.encoding)
    header = Header(form, sizes, encodings, len(compared.old), len(compared.new), mode, uid, gid)
    return b"".join((header.pack(), control.data, diff.data, extra.data))


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
