#!/usr/bin/env python3
"""What a change costs that cannot be interrupted, against the same files put in place one by one.

    PYTHONPATH=lib benchmarks/apply.py [FOLDER] [ROUNDS]

Replaces 2,000 of 20,000 files of 8 KiB in a tree below FOLDER, in turn by each back end and in place (write beside,
sync, rename, sync), and prints seconds and ratios, of the best runs, too: the machine may be busy. Run it on the file
system that matters.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from swupd import hashing, tree
from swupd.agent import apply, plan, preparation, transaction
from swupd.agent.objects import XattrRule, create, digests, finish
from swupd.agent.state import Layout, State
from swupd.manifest import Entry
from swupd.tree import Root

FILES, CHANGED, SIZE, FOLDERS = 20_000, 2_000, 8192, 1_000


class Objects:
    """New files of which only the first bytes differ, staged as a download stages them."""

    def __init__(self, place: Path) -> None:
        self.state = State(Layout(place / "data", place / "cache", "x"))

    def entry(self, path: str, content: bytes) -> Entry:
        node = tree.file_node(path, 0o644, len(content))
        digest = hashing.digest(node, [content])
        self.state.staged.put(digest, node, [content], XattrRule.HASHED)
        return Entry("F", digest, 20, path)


def name(number: int) -> str:
    return f"/usr/share/d{number % FOLDERS}/f{number}"


def make(root: Path) -> None:
    for number in range(FOLDERS):
        (root / f"usr/share/d{number}").mkdir(parents=True)
    for number in range(FILES):
        (root / name(number)[1:]).write_bytes(b"old %d" % number + bytes(SIZE - 16))


def in_place(made: plan.Plan, objects: Objects, root: Root) -> None:
    """As updaters do it that cannot go back."""
    for entry in made.write:
        fd, base = root.parent(entry.name)
        node = objects.state.staged.node(entry.digest)
        assert node is not None
        digests(node, create(fd, b".new." + base, node, objects.state.staged.content(entry.digest)), XattrRule.HASHED)
        finish(fd, b".new." + base, node)
    os.sync()
    for entry in made.write:
        fd, base = root.parent(entry.name)
        os.rename(b".new." + base, base, src_dir_fd=fd, dst_dir_fd=fd)
    os.sync()


def by(exchange: bool) -> Callable[[plan.Plan, Objects, Root], None]:
    def run(made: plan.Plan, objects: Objects, root: Root) -> None:
        how = preparation.How(keep=True, exchange=exchange)
        apply.apply(made, objects.state.staged, root, XattrRule.HASHED, lambda *_: None, how)

    return run


def blocks(root: Path) -> int:
    """Bytes that a tree takes on the disk."""
    return int(subprocess.run(["du", "-s", "-B1", root], capture_output=True, check=True).stdout.split()[0])


def main() -> None:
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    base = Path(tempfile.mkdtemp(dir=place))
    ways = {"in place": in_place, "journal": by(False), "exchange": by(True)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    disk: dict[str, int] = {}
    undo: list[float] = []
    try:
        make(base / "tree")
        objects = Objects(base)
        changed = range(0, FILES, FILES // CHANGED)
        made = plan.Plan(
            tuple(objects.entry(name(n), b"new %d" % n + bytes(SIZE - 16)) for n in sorted(changed, key=name))
        )
        for turn in range(rounds):
            for way, run in ways.items() if turn % 2 else reversed(ways.items()):
                copy = base / "copy"
                subprocess.run(["cp", "-a", base / "tree", copy], check=True)
                os.sync()
                before = blocks(copy)
                with Root(copy) as root:
                    begin = time.perf_counter()
                    run(made, objects, root)
                    seconds[way].append(time.perf_counter() - begin)
                    disk[way] = blocks(copy) - before
                    if way == "exchange":
                        begin = time.perf_counter()
                        transaction.rollback(root)
                        undo.append(time.perf_counter() - begin)
                shutil.rmtree(copy)
    finally:
        shutil.rmtree(base)
    plain = seconds["in place"]
    for way, times in seconds.items():
        middle, best = statistics.median(times), min(times)
        print(
            f"{way:9} median {middle:5.2f} s {middle / statistics.median(plain):5.2f}x   "
            f"best {best:5.2f} s {best / min(plain):5.2f}x   +{disk[way] / 2**20:4.1f} MiB until undo is given up"
        )
    print(f"going back by exchange: {statistics.median(undo):.2f} s")


if __name__ == "__main__":
    main()
