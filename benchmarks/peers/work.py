"""What every peer is given, and what it comes to."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import meter, trees
from benchmarks.meter import Cost
from benchmarks.trees import Release


@dataclass(frozen=True)
class Work:
    """Two releases, a folder to work in, and for how many seconds a program may run."""

    old: Release
    new: Release
    folder: Path
    limit: float

    def fresh(self, name: str) -> Path:
        """An empty folder."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return place

    def run(self, words: Sequence[object]) -> Cost:
        """Runs a program that is measured. Raises Failed."""
        return meter.run(words, limit=self.limit)

    def tars(self) -> tuple[Path, Path]:
        """Both trees as tars, made once."""
        made = []
        for release in (self.old, self.new):
            place = self.folder / f"{release.version}.tar"
            if not place.exists():
                trees.only(release.root, list(trees.paths(release.root)), place)
            made.append(place)
        return made[0], made[1]


@dataclass(frozen=True)
class Outcome:
    """size: bytes that a device fetches. make, apply: of the server for the new release, of the device.

    apply is None where nothing was applied. disk: bytes that the release takes on the server, None where not
    measured. remark: what else the reader has to know. first: of the server for the old release, where it makes all of
    that, too.
    """

    size: int
    make: Cost
    apply: Cost | None = None
    disk: int | None = None
    remark: str = ""
    first: Cost | None = None


def names(place: Path, pattern: str) -> dict[str, int]:
    """Sizes of the files below a folder, by name."""
    return {p.name: p.stat().st_size for p in place.rglob(pattern) if p.is_file()}
