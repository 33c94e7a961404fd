"""How cost grows with the size of a system, the number of its bundles and of its versions: made-up trees."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import meter
from benchmarks.meter import Cost
from benchmarks.ours import AGENT, SERVER, Device, Stream
from benchmarks.web import serving

COMMANDS = ("first", "next", "install", "update", "diagnose")
"""Of which processor seconds are taken: the first and the last publish, and what a device does."""


@dataclass(frozen=True)
class Point:
    """Processor seconds and peak memory at one size: of the first release, of the last one, and of a device."""

    files: int
    bundles: int
    versions: int
    first: float
    next: float
    install: float
    update: float
    diagnose: float
    memory: int
    server_memory: int


def by_size(work: Path, sizes: list[int], bundles: int) -> Iterator[Point]:
    """Two versions each."""
    for files in sizes:
        yield from _measured(work, files, bundles, [2])


def by_versions(work: Path, files: int, bundles: int, counts: list[int]) -> Iterator[Point]:
    """The same tree after more and more versions, with deltas from all of them."""
    yield from _measured(work, files, bundles, counts)


def exponent(sizes: list[int], costs: list[float]) -> float:
    """The slope of cost over size, both as logarithms: 1 for a cost that grows as size does."""
    x, y = [math.log(s) for s in sizes], [math.log(max(c, 1e-3)) for c in costs]
    middle, mean = sum(x) / len(x), sum(y) / len(y)
    below = sum((a - middle) ** 2 for a in x)
    return sum((a - middle) * (b - mean) for a, b in zip(x, y, strict=True)) / below if below else 0.0


def points(found: list[Point]) -> list[dict[str, object]]:
    """As JSON."""
    return [asdict(point) for point in found]


def _measured(work: Path, files: int, bundles: int, counts: list[int]) -> Iterator[Point]:
    """A stream that grows to the largest of these numbers of versions, measured at each."""
    stream = Stream(work / "stream")
    stream.keys()
    root = work / "tree"
    shutil.rmtree(root, ignore_errors=True)
    lists = _make(work, root, files, bundles)
    keys = ("--signing-key", stream.base / "keys/release.key", "--certificate", stream.base / "keys/release.pem")
    content = [word for name, place in lists.items() for word in ("--content", f"{name}={place}")]
    costs: list[Cost] = []
    for number in range(1, max(counts) + 1):
        version = number * 10
        _change(root, files, version)
        line = [*SERVER, "publish", "--www", stream.www, "--version", version, "--rootfs", root, *content, *keys]
        costs.append(meter.run([*line, "--previous-versions", str(number - 1), "--effort", "fast"]))
        if number in counts:
            device = _on_device(work, stream, tuple(lists))
            yield Point(
                files,
                bundles,
                number,
                first=costs[0].cpu,
                next=costs[-1].cpu,
                install=device["install"].cpu,
                update=device["update"].cpu,
                diagnose=device["diagnose"].cpu,
                memory=max(c.memory for c in device.values()),
                server_memory=max(c.memory for c in costs),
            )


def _on_device(work: Path, stream: Stream, bundles: tuple[str, ...]) -> dict[str, Cost]:
    """What a device does that has the first release and all bundles, and one that gets the last release at once."""
    found = {}
    with serving(stream.www, work / "nginx") as web:
        device = Device(work / "device", AGENT, stream)
        device.install(web.url, 10)
        found["add"] = device.run(web.url, "bundle-add", *(name for name in bundles if name != "os-core"))
        found["update"] = device.run(web.url, "update")
        found["diagnose"] = device.run(web.url, "diagnose")
        shutil.rmtree(device.base)
        (device.base / "tree").mkdir(parents=True)
        found["install"] = device.run(web.url, "os-install", "-B", ",".join(bundles))
    return found


def _make(work: Path, root: Path, files: int, bundles: int) -> dict[str, Path]:
    """Small files in folders of a hundred, by bundle."""
    chance = random.Random(files)
    lists: dict[str, list[str]] = {"os-core": ["/usr/lib/os-release"]}
    (root / "usr/lib").mkdir(parents=True)
    for number in range(files):
        bundle = number * bundles // files
        path = f"/usr/share/b{bundle}/d{number // 100}/f{number}"
        place = root / path[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"%d\n" % number + chance.randbytes(chance.randrange(20, 400)))
        lists.setdefault("os-core" if bundle == 0 else f"b{bundle}", []).append(path)
    made = {}
    for name, found in lists.items():
        made[name] = work / f"list-{name}"
        made[name].write_text("".join(f"{path}\n" for path in found))
    return made


def _change(root: Path, files: int, version: int) -> None:
    """One file in a hundred."""
    (root / "usr/lib/os-release").write_text(f"ID=scale\nVERSION_ID={version}\n")
    for number, place in enumerate(sorted((root / "usr/share").glob("*/*/*"))):
        if number % 100 == version // 10 % 100:
            place.write_bytes(place.read_bytes() + b"%d" % version)
