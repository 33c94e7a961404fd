"""Small releases after a large one: what the smallest change costs, and what it costs to be some releases behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ours, trees
from benchmarks.meter import Cost
from benchmarks.ours import Applied, Stream
from benchmarks.trees import Release

STEP = 10
BEHIND = 3
"""How many releases a device is behind."""
_EDITS = 20
"""Files that a release of the chain changes; every fourth of them is one that the release before changed, too."""


@dataclass(frozen=True)
class Smallest:
    """One file of 1 KB changed. publish: the server's cost. disk: bytes of the release. agents: what each fetched."""

    publish: Cost
    disk: int
    agents: tuple[Applied, ...]


@dataclass(frozen=True)
class Behind:
    """Some releases at once. name: whether there is a pack from what the device has."""

    name: str
    agents: tuple[Applied, ...]


def smallest(stream: Stream, work: Path, base: Release, rounds: int) -> tuple[Release, Smallest]:
    """A release after `base` with one changed file of about 1 KB."""
    release = _next(base, work)
    trees.edit(min(trees.files_between(release.root, 512, 2048), key=_from_a_kilobyte), release.version)
    cost = stream.publish_again(release, rounds, "--previous-versions", "1")
    agents = tuple(ours.updates(stream, work, base.version, release.version, rounds, cold=False))
    return release, Smallest(cost, stream.disk(release.version), agents)


def behind(stream: Stream, work: Path, base: Release, rounds: int) -> Iterator[Behind]:
    """Devices three releases behind, without and with a pack that begins at theirs."""
    versions = [base.version]
    release = base
    for number in range(BEHIND + 1):
        release = _next(release, work)
        for place in _edited(release.root, number):
            trees.edit(place, release.version)
        window = BEHIND if number == BEHIND else 1
        stream.publish(release, "--previous-versions", str(window))
        versions.append(release.version)
    for name, old, new in (
        ("no pack from that release", versions[0], versions[BEHIND]),
        ("a pack from that release", versions[1], versions[BEHIND + 1]),
    ):
        yield Behind(name, tuple(ours.updates(stream, work, old, new, rounds, cold=False)))


def _next(release: Release, work: Path) -> Release:
    return trees.prepare(release.root, release.version + STEP, work)


def _edited(root: Path, number: int) -> list[Path]:
    files = trees.files_between(root, 10_000, 1_000_000)
    own = files[_EDITS * (number + 1) : _EDITS * (number + 2)]
    return [*files[: _EDITS // 4], *own[_EDITS // 4 :]]


def _from_a_kilobyte(place: Path) -> int:
    return abs(place.stat().st_size - 1024)
