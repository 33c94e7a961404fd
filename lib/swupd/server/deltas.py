"""What a changed file can be made from: pure choice of sources, and the delta itself (stream format, 4 and 7.5)."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial

from swupd import delta, paths
from swupd.delta import Form
from swupd.manifest import Entry, Manifest
from swupd.server import comparison, diagonals, folds, windows
from swupd.server.changes import OLD_CLIENTS
from swupd.server.xz import Effort, compress
from swupd.stream import KIB, MIB
from swupd.tree import Node

LARGEST = 128 * MIB
"""Larger files get no deltas: the matching needs several times a file's size in memory."""
LOOSE = 128 * KIB
"""Blocks up to this size are left as they are: packs compress them better, together with those of similar files."""
ALL_CLIENTS = (Form.PLAIN, Form.RUNS)
"""The forms of deltas: what all clients read, and what this project's agent asks for first."""
OWN_AGENT = (Form.RUNS,)
_DIGITS = re.compile(r"[0-9.]")
_HEX = re.compile(r"[0-9a-f.]")
_BESIDE_WORDS = re.compile(r"[0-9._+~-]")


@dataclass(frozen=True, slots=True)
class Pair:
    """A file that a device has, and the one that it shall have."""

    old: Entry
    new: Entry

    @property
    def key(self) -> tuple[str, str]:
        """What the delta's bytes depend on."""
        return self.old.digest, self.new.digest

    def name(self, form: Form) -> str:
        """The delta's name in a pack."""
        return delta.name(self.old.version, self.new.version, *self.key, form)


def changed(old: Manifest, new: Manifest) -> tuple[Entry, ...]:
    """Present entries that a device with the old manifest must get: newer, and not the same object (section 5)."""
    newer = [e for e in new.entries if e.version > old.version and e.present]
    names = {e.name for e in newer}
    have = {(e.name, e.digest, e.kind) for e in old.entries if e.name in names and e.present}
    return tuple(e for e in newer if (e.name, e.digest, e.kind) not in have)


def pairs(old: Manifest, new: Manifest, lacked: Iterable[Entry]) -> tuple[Pair, ...]:
    """Sources for what changed, at most one for each new content; old clients get none across names.

    lacked: as changed gives it.
    """
    have = {e.name: e for e in old.entries if e.present and e.kind == "F"}
    wanted = [e for e in lacked if e.kind == "F"]
    found = [Pair(have[e.name], e) for e in wanted if e.name in have]
    if new.format > OLD_CLIENTS:
        shipped = {e.name for e in new.entries if e.present}
        vanished = [e for name, e in have.items() if name not in shipped]
        found += _renames(vanished, [e for e in wanted if e.name not in have])
    return tuple({pair.new.digest: pair for pair in reversed(found)}.values())[::-1]


def _renames(vanished: Iterable[Entry], appeared: Iterable[Entry]) -> Iterator[Pair]:
    """One to one: equal content, then names that differ in digits only, in hex digits only, then in the folder, too.

    A library's file name is its SONAME with digits behind it, so names find what SONAMEs would.
    """
    old, new = sorted(vanished, key=_place), sorted(appeared, key=_place)
    likenesses: tuple[Callable[[Entry], str], ...] = (
        lambda e: e.digest,
        lambda e: _DIGITS.sub("", e.name),
        lambda e: _HEX.sub("", e.name),
        lambda e: _BESIDE_WORDS.sub("", posixpath.basename(e.name)),
    )
    for likeness in likenesses:
        waiting: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in reversed(old):
            waiting[likeness(entry)].append(entry)
        rest = []
        for entry in new:
            if alike := waiting[likeness(entry)]:
                yield Pair(alike.pop(), entry)
            else:
                rest.append(entry)
        old, new = sorted((e for left in waiting.values() for e in left), key=_place), rest


def _place(entry: Entry) -> bytes:
    return paths.encode(entry.name)


@dataclass(frozen=True, slots=True)
class Made:
    """The delta between two files in each form that pays. needs: what a device must have for a folded one, else ""."""

    plain: bytes | None = None
    runs: bytes | None = None
    needs: str = ""


def make(
    old: tuple[Node, bytes],
    new: tuple[Node, bytes],
    fullfile_size: int,
    effort: Effort,
    forms: Collection[Form] = ALL_CLIENTS,
) -> Made:
    """The deltas between two files that serve better than the fullfile, of so many bytes.

    Clients copy the old file's xattrs to what they make, so that both must have the same.
    """
    (old_node, old_content), (node, content) = old, new
    if old_node.xattrs != node.xattrs or old_node.kind != "F":
        return Made()
    candidate = folds.find(old_content, content, effort is not Effort.FAST)
    find = diagonals.matches if candidate is None else windows.matches
    compared = cache(partial(comparison.compare, old_content, content, find))

    def packed(wanted: Collection[Form]) -> dict[Form, bytes]:
        if not wanted or (found := compared()) is None:
            return {}
        made = comparison.pack(found, node.mode, node.uid, node.gid, LOOSE, effort, wanted)
        return {form: data for form, data in made.items() if _cost(data, fullfile_size) < fullfile_size}

    if candidate is None:
        made = packed(forms)
        return Made(made.get(Form.PLAIN), made.get(Form.RUNS))
    plain = packed({Form.PLAIN}.intersection(forms)).get(Form.PLAIN)
    otherwise = fullfile_size if plain is None else min(len(plain), fullfile_size)
    folded = candidate.delta(node.mode, node.uid, node.gid, LOOSE)
    # Compressing again costs the device time.
    enough = otherwise - candidate.payload // candidate.codec.price
    if folded is not None and _cost(folded, enough) < enough and candidate.folds_again():
        return Made(plain, folded, candidate.codec.needs)
    return Made(plain, packed([Form.RUNS]).get(Form.RUNS))


def _cost(made: bytes, enough: int) -> int:
    """About how many bytes of a pack a delta takes, or at most so many as are enough to know."""
    return len(made) if len(made) < enough else len(compress(made, Effort.FAST))
