"""Two files to a delta (stream format, section 4), in the forms that are wanted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from swupd import patches
from swupd.delta import Form, Header
from swupd.server import blocks, diagonals, matching
from swupd.server.matching import Match
from swupd.stream import MAX_DELTA_RESULT
from swupd.xz import Effort

MIN_SIZE = 200


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
    found = matching.blocks(old, new, [Match(0, 0, len(new))] if old == new else diagonals.matches(old, new))
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
    old, new, found = compared.old, compared.new, compared.blocks
    control = blocks.control(found.control, loose, effort)
    extra = blocks.extra(found.extra, loose, effort)
    made = {}
    for form in forms:
        diff = blocks.diff(found.diff, form, loose, effort)
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
