"""Differences file by file, and the changed files as they are."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from benchmarks import meter, trees
from benchmarks.meter import NOTHING, Failed
from benchmarks.peers.work import Outcome, Work, names


def bsdiff(work: Work) -> Outcome:
    """bsdiff for each changed file that was there under the same name, one .xz of the others."""
    place = work.fresh("bsdiff")
    total, size, rest = NOTHING, 0, []
    until = time.monotonic() + work.limit
    for number, (old, new) in enumerate(trees.changed(work.old.root, work.new.root)):
        if not old or not (work.old.root / old[1:]).stat().st_size:
            rest.append(new)
            continue
        if time.monotonic() > until:
            raise Failed(f"bsdiff took more than {work.limit:.0f} s")
        patch = place / str(number)
        total += work.run(["bsdiff", work.old.root / old[1:], work.new.root / new[1:], patch])
        size += meter.size(patch)
        patch.unlink()
    packed = trees.only(work.new.root, rest, place / "rest.tar")
    total += work.run(["xz", "-6", "-k", packed])
    return Outcome(size + meter.size(packed.with_suffix(".tar.xz")), total)


def hdiffpatch(work: Work) -> Outcome:
    """hdiffpatch for each changed file, those in renamed folders too, one .xz of the others. It unfolds no kernels."""
    place = work.fresh("hdiffpatch")
    pairs = trees.paired(work.old.root, work.new.root)
    lines = [
        f"{work.old.root / old[1:]}\t{work.new.root / new[1:]}\t{place / str(number)}.patch"
        for number, (old, new) in enumerate(pairs)
        if old
    ]
    (place / "list").write_bytes(os.fsencode("\n".join(lines)))
    engine = (sys.executable, Path(__file__).with_name("engine.py"))
    make = work.run([*engine, "make", place / "list"])
    apply = work.run([*engine, "apply", place / "list"])
    packed = trees.only(work.new.root, [new for old, new in pairs if not old], place / "rest.tar")
    make += work.run(["xz", "-6", "-k", packed])
    size = sum(names(place, "*.patch").values())
    return Outcome(size + meter.size(packed.with_suffix(".tar.xz")), make, apply)


def new_contents(work: Work) -> Outcome:
    """All changed contents in one .tar.xz."""
    place = work.fresh("xz")
    names = [new for _, new in trees.changed(work.old.root, work.new.root)]
    packed = trees.only(work.new.root, names, place / "changed.tar")
    make = work.run(["xz", "-6", "-k", packed])
    apply = work.run(["xz", "-t", packed.with_suffix(".tar.xz")])
    return Outcome(meter.size(packed.with_suffix(".tar.xz")), make, apply, remark="only unpacked")
