"""Which old file a new one is made from, and what becomes of the deltas."""

from __future__ import annotations

import io
import random

import pytest

from swupd import archive, patches
from swupd.delta import Form, parse_header
from swupd.manifest import Entry, Manifest
from swupd.server import archiver, comparison, deltas, packs
from swupd.server.matching import Match
from swupd.server.xz import Effort
from swupd.stream import MIB
from swupd.tree import file_node


def entry(path: str, digest: str, version: int, kind: str = "F") -> Entry:
    return Entry(kind, digest * 64, version, path)


def pairs(old: list[Entry], new: list[Entry], stream_format: int = 30) -> list[tuple[str, str]]:
    before = Manifest("a", stream_format, 10, entries=tuple(old))
    after = Manifest("a", stream_format, 20, entries=tuple(new))
    return [(pair.old.name, pair.new.name) for pair in deltas.pairs(before, after, deltas.changed(before, after))]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([entry("/x", "a", 10)], [entry("/x", "b", 20)], [("/x", "/x")]),
        ([entry("/x", "a", 10)], [entry("/x", "a", 10)], []),
        ([entry("/x", "a", 10)], [entry("/x", "a", 20)], []),
        ([entry("/x", "a", 10, "L")], [entry("/x", "b", 20)], []),
        ([entry("/x", "a", 10)], [entry("/x", "b", 20, "L")], []),
        ([entry("/x", "a", 10)], [entry("/y", "a", 20)], [("/x", "/y")]),
        ([entry("/lib.so.1", "a", 10)], [entry("/lib.so.2", "b", 20)], [("/lib.so.1", "/lib.so.2")]),
        ([entry("/img-0a1f", "a", 10)], [entry("/img-77cb", "b", 20)], [("/img-0a1f", "/img-77cb")]),
        ([entry("/x", "a", 10)], [entry("/y", "b", 20)], []),
        ([entry("/lib/a.ko", "a", 10)], [entry("/usr/lib/a.ko", "b", 20)], [("/lib/a.ko", "/usr/lib/a.ko")]),
        ([entry("/l/libc-2.36.so", "a", 10)], [entry("/l/libc.so.6", "b", 20)], [("/l/libc-2.36.so", "/l/libc.so.6")]),
        ([entry("/l1", "a", 10)], [entry("/l1", "a", 10), entry("/l2", "b", 20)], []),
    ],
)
def test_sources(old: list[Entry], new: list[Entry], expected: list[tuple[str, str]]) -> None:
    assert pairs(old, new) == expected


def test_renames_are_one_to_one_in_order_and_equal_content_comes_first() -> None:
    old = [entry("/l1", "a", 10), entry("/l2", "b", 10), entry("/other", "c", 10)]
    new = [entry("/l3", "d", 20), entry("/l4", "c", 20), entry("/l5", "e", 20), entry("/l6", "f", 20)]
    assert pairs(old, new) == [("/other", "/l4"), ("/l1", "/l3"), ("/l2", "/l5")]


def test_one_source_is_enough_for_a_content_at_two_paths() -> None:
    old = [entry("/x", "a", 10), entry("/y", "b", 10)]
    assert pairs(old, [entry("/x", "c", 20), entry("/y", "c", 20)]) == [("/x", "/x")]


def test_old_clients_know_equal_paths_only() -> None:
    assert pairs([entry("/lib.so.1", "a", 10)], [entry("/lib.so.2", "b", 20)], 25) == []


def test_a_delta_must_be_smaller_than_the_fullfile() -> None:
    old, new = bytes(range(256)) * 8, bytes(range(256)) * 8 + b"x"
    nodes = file_node("/x", 0o644, len(old)), file_node("/x", 0o644, len(new))
    made = deltas.make((nodes[0], old), (nodes[1], new), 10_000, Effort.BEST)
    assert made.plain is not None
    assert made.runs is not None
    assert deltas.make((nodes[0], old), (nodes[1], new), 60, Effort.BEST) == deltas.Made()
    own = deltas.make((nodes[0], old), (nodes[1], new), 10_000, Effort.BEST, deltas.OWN_AGENT)
    assert own == deltas.Made(None, made.runs)


def test_what_was_matched_wrongly_makes_no_delta() -> None:
    old = random.Random(1).randbytes(10_000)
    new = old[:5000] + b"more" + old[5000:]
    assert comparison.compare(old, new) is not None
    # As a fault in the matching might give them: beyond the old file; overlapping; not in order.
    for first, second in ((5000, 5001), (5010, 5000), (-1, 5000)):
        wrong = [Match(0, 0, first), Match(5000, 5004, second)]
        assert comparison.compare(old, new, lambda *_, wrong=wrong: wrong) is None


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize(("every", "encoding"), [(0, "none"), (6, "xz")], ids=["beside others", "by itself"])
def test_a_small_block_is_left_loose_for_others_only(form: Form, every: int, encoding: str) -> None:
    chance = random.Random(2)
    old = chance.randbytes(2 * MIB)
    text = b"".join(b"%d of many lines that are much alike\n" % n for n in range(1200))
    new = bytearray(old[:MIB] + text + old[MIB:])
    for at in range(0, MIB, every) if every else ():
        new[at] = chance.randrange(256)
    compared = comparison.compare(old, bytes(new))
    assert compared is not None
    delta = comparison.pack(compared, 0o100644, 0, 0, deltas.LOOSE, Effort.BEST, (form,))[form]
    assert (len(delta) >= archiver.SOLID_LIMIT) == bool(every)
    assert parse_header(delta, len(delta))[0].encodings[2] == encoding
    assert patches.apply(delta, old).content == new


def test_a_large_delta_lies_in_a_pack_as_it_is() -> None:
    large, small = random.Random(3).randbytes(archiver.SOLID_LIMIT), bytes(1000)
    contents = {"large": large, "small": small}
    sizes = {name: len(data) for name, data in contents.items()}
    made = packs.pieces([], {name: lambda name=name: contents[name] for name in contents}, sizes)
    pack = b"".join(piece.compressed() for piece in made)
    assert large[:1000] in pack
    found = {m.name: b"".join(m.content) for m in archive.members(io.BytesIO(pack), 2**20)}
    assert found == {"delta": b"", "staged": b"", "delta/large": large, "delta/small": small}
