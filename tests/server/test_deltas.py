"""Which old file a new one is made from."""

from __future__ import annotations

import pytest

from swupd.manifest import Entry, Manifest
from swupd.server import deltas
from swupd.tree import file_node
from swupd.xz import Effort


def entry(path: str, digest: str, version: int, kind: str = "F") -> Entry:
    return Entry(kind, digest * 64, version, path)


def pairs(old: list[Entry], new: list[Entry], stream_format: int = 30) -> list[tuple[str, str]]:
    before = Manifest("a", stream_format, 10, entries=tuple(old))
    after = Manifest("a", stream_format, 20, entries=tuple(new))
    return [(pair.old.name, pair.new.name) for pair in deltas.pairs(before, after)]


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
