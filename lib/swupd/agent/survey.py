"""What is on disk at many paths: read and hashed by as many processes as there are processors.

Threads would not do: most files are small, and what Python does for each takes longer than its hash.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from swupd import hashing, paths, tree
from swupd.agent import plan
from swupd.agent.objects import XattrRule, digests
from swupd.agent.plan import Changes, Facts
from swupd.agent.report import Steps
from swupd.manifest import Entry
from swupd.tree import Node, Root

MANY = 1000
"""As many paths are worth a process."""
_PROCESSES = 4
_BLOCKS = 1000

_NOTHING: dict[str, Node] = {}
"""One for all paths at which nothing is: in an installation those are many."""

Found = tuple[str, str | None, dict[str, Node]]
"""(path, kind, what it may go by) as look gives them."""


def look(root: Root, path: str, rule: XattrRule) -> tuple[str | None, dict[str, Node]]:
    """(kind, what it may go by) of what is at a path: digests, each with what it covers.

    "?" and none for what streams cannot carry, None and none for nothing.
    """
    node = root.node(path, xattrs=rule is not XattrRule.IGNORED)
    if node is None:
        return ("?" if root.exists(path) else None), _NOTHING
    if rule is XattrRule.UNKNOWN and node.xattrs:
        return node.kind, {name: view for view, name in digests(node, root.chunks(node), rule)}
    return node.kind, {hashing.digest(node, root.chunks(node)): node}


def differing(
    root: Root, wanted: Iterable[Entry], rule: XattrRule, progress: Callable[[int, int, str], None]
) -> Iterator[Found]:
    """What is there instead, in no order, where that is not what entries say. Raises FolderError."""
    ordered = sorted(wanted, key=lambda entry: paths.encode(entry.name))
    size = max(64, len(ordered) // _BLOCKS + 1)
    blocks = [ordered[at : at + size] for at in range(0, len(ordered), size)]

    def compare(number: int) -> list[Found]:
        found = ((entry, *look(root, entry.name, rule)) for entry in blocks[number])
        return [(e.name, kind, views) for e, kind, views in found if e.digest not in views or e.kind != kind]

    for number, found in _by_all(compare, len(blocks), _wanted(len(ordered))):
        yield from found
        if number is not None:
            # They are taken in order: about as many are done by all together.
            progress(min((number + 1) * size, len(ordered)), len(ordered), "files")
    progress(len(ordered), len(ordered), "files")


def _by_all(
    compare: Callable[[int], list[Found]], count: int, helpers: int
) -> Iterator[tuple[int | None, list[Found]]]:
    """What compare gives for each number, with the number where that was its turn here."""
    if not helpers:
        yield from ((number, compare(number)) for number in range(count))
        return
    from swupd.agent import turns  # noqa: PLC0415  few trees are so large

    yield from turns.shared(compare, count, helpers)


def observe(
    root: Root, changes: Changes, rule: XattrRule, steps: Steps, owned: Mapping[str, Entry] = MappingProxyType({})
) -> tuple[Facts, dict[str, Node]]:
    """Looks at the disk where a plan needs it. Gives the files that have to change, too, by their digests.

    owned: what should be there now, by path. A file that should have another content than it has to get is not read:
    that is expected, and whoever makes the new one out of it sees whether it was so.
    """
    progress = steps.begin("check_files_hash")
    kinds: dict[str, str] = {}
    replaced = {e.name for e in changes.put if _replaces(e, owned.get(e.name))}
    wrong: set[str] = set()
    seen: dict[str, Node] = {}
    for path, kind, found in differing(root, (e for e in changes.put if e.name not in replaced), rule, progress):
        wrong.add(path)
        if kind is not None:
            kinds[path] = kind
        if kind == "F":
            seen.update(found)
    right = {e.name: e.kind for e in changes.put if e.name not in wrong and e.name not in replaced}
    kinds.update(right)
    for path in plan.look_at(changes):
        if path not in right and path not in wrong and (other := kind_at(root, path)) is not None:
            kinds[path] = other
    below = {e.name: _below(root, e.name) for e in changes.put if e.kind != "D" and kinds.get(e.name) == "D"}
    return Facts(frozenset(right), kinds, below), seen


def _replaces(new: Entry, old: Entry | None) -> bool:
    return old is not None and old.kind == new.kind == "F" and old.digest != new.digest


def _below(root: Root, folder: str) -> frozenset[str]:
    """All paths below a folder, those of devices, sockets and pipes too."""
    special: list[str] = []
    found = frozenset(n.path for n in tree.scan(root, folder, xattrs=False, special=special.append))
    return found.union(special)


def kind_at(root: Root, path: str) -> str | None:
    """F, D, L, "?" for anything else, None for nothing."""
    node = root.node(path, xattrs=False)
    if node is not None:
        return node.kind
    return "?" if root.exists(path) else None


def _wanted(count: int) -> int:
    """How many processes beside this one are worth while. None in a process with threads: a fork has but one."""
    if count < MANY or threading.active_count() > 1:
        return 0
    return min(_PROCESSES, len(os.sched_getaffinity(0))) - 1
